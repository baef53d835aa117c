package kv

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// ErrClosed says that the DB, the snapshot or the iterator was used after its Close.
var ErrClosed = errors.New("state database is closed")

// Sizes that Config's zero values stand for. goleveldb keeps two write buffers and one block cache in memory; these
// leave a peer that idles well under its budget of 100 MB.
const (
	defaultWriteBuffer = 16 << 20
	defaultBlockCache  = 32 << 20
	defaultOpenTables  = 500
	tableSize          = 8 << 20
	tableBlock         = 16 << 10 // a page of 1,000 keys reads a few dozen blocks instead of hundreds
	bloomBits          = 10
)

// Config says where a DB lies and how much memory it takes.
type Config struct {
	// FS is the file system of Dir.
	FS vfs.FS
	// Dir is a directory of the DB's own; it is made when it is missing.
	Dir string
	// WriteBuffer is the bytes gathered in memory before a table is written. Zero means 16 MiB.
	WriteBuffer int
	// BlockCache is the bytes of table blocks kept in memory. Zero means 32 MiB.
	BlockCache int
	// Log hears why the DB broke. Nil means silence.
	Log *slog.Logger
}

// DB is an ordered map from keys to values on one directory. Its methods may be called concurrently.
//
// The first error of the file system or of a checksum breaks the DB for ever: every later call gives ErrBroken, and
// the owner throws the directory away. goleveldb itself would go on and lose the next batch.
type DB struct {
	level   *leveldb.DB
	storage *disk
	rows    *rowCache
	log     *slog.Logger
	cause   atomic.Pointer[error] // why the DB broke; nil while it is sound

	order sync.Mutex // of writes, in goleveldb and among the kept rows

	mu      sync.RWMutex   // held for reading by every call, for writing when closing is set
	closing atomic.Bool    // ends every later call and every open iterator
	views   sync.WaitGroup // open iterators and snapshots
}

// Open opens the DB of a directory, or makes an empty one. It gives ErrBroken when what lies there cannot be trusted:
// then Destroy it and fill a new one. A torn tail of the last journal, which an ordinary power loss leaves, is cut.
func Open(c Config) (*DB, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := vfs.MkdirAll(c.FS, c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state database %s: %w", c.Dir, err)
	}
	lock, err := c.FS.Lock(join(c.Dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("open state database %s: %w", c.Dir, err)
	}
	s := &disk{fs: c.FS, dir: c.Dir}
	db := &DB{storage: s, rows: newRowCache(), log: log}
	s.lock = lock
	if err := db.open(c); err != nil {
		return nil, errors.Join(fmt.Errorf("open state database %s: %w: %w", c.Dir, ErrBroken, err), lock.Close())
	}
	return db, nil
}

func (db *DB) open(c Config) error {
	if err := verify(c.FS, c.Dir); err != nil {
		return err
	}
	level, err := leveldb.Open(db.storage, options(c))
	if err != nil {
		return err
	}
	db.level = level
	if err := db.storage.failure(); err != nil {
		return errors.Join(err, level.Close())
	}
	return nil
}

// options are those of metadata measurements: strict everywhere; no seek compaction (it rewrites tables because they
// are read); no transactions for large batches (they are suspected of corrupting memory, heminetwork#1050).
func options(c Config) *opt.Options {
	write, cache := c.WriteBuffer, c.BlockCache
	if write == 0 {
		write = defaultWriteBuffer
	}
	if cache == 0 {
		cache = defaultBlockCache
	}
	return &opt.Options{
		Strict:                        opt.StrictAll,
		WriteBuffer:                   write,
		BlockCacheCapacity:            cache,
		BlockSize:                     tableBlock,
		CompactionTableSize:           tableSize,
		OpenFilesCacheCapacity:        defaultOpenTables,
		Filter:                        filter.NewBloomFilter(bloomBits),
		DisableSeeksCompaction:        true,
		DisableLargeBatchTransaction:  true,
		CompactionTableSizeMultiplier: 1,
	}
}

// Destroy removes the files of a closed DB, and its directory when nothing else is in it.
func Destroy(fs vfs.FS, dir string) error {
	if err := removeFiles(fs, dir); err != nil {
		return fmt.Errorf("destroy state database %s: %w", dir, err)
	}
	return nil
}

// Broken is the error that broke the DB, nil while it is sound.
func (db *DB) Broken() error {
	if cause := db.cause.Load(); cause != nil {
		return fmt.Errorf("%w: %w", ErrBroken, *cause)
	}
	if err := db.storage.failure(); err != nil {
		return db.fail(err)
	}
	return nil
}

// fail breaks the DB and returns the error that its callers get from now on.
func (db *DB) fail(err error) error {
	if db.cause.CompareAndSwap(nil, &err) {
		db.log.Error("state database broke", "dir", db.storage.dir, "err", err)
	}
	return fmt.Errorf("%w: %w", ErrBroken, *db.cause.Load())
}

// enter begins a call; on nil the caller leaves with db.mu.RUnlock.
func (db *DB) enter() error {
	db.mu.RLock()
	if db.closing.Load() {
		db.mu.RUnlock()
		return ErrClosed
	}
	if err := db.Broken(); err != nil {
		db.mu.RUnlock()
		return err
	}
	return nil
}

// settle turns what goleveldb returned into what callers get.
func (db *DB) settle(err error) error {
	switch {
	case err == nil:
		return db.Broken()
	case errors.Is(err, leveldb.ErrNotFound):
		if broken := db.Broken(); broken != nil {
			return broken
		}
		return ErrNotFound
	default:
		return db.fail(err)
	}
}

// Get implements Reader.
func (db *DB) Get(key []byte) ([]byte, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.mu.RUnlock()
	shard := db.rows.shard(key)
	value, kept, writes := shard.get(key)
	if kept {
		if value == nil {
			return nil, ErrNotFound
		}
		return value, nil
	}
	value, err := db.level.Get(key, nil)
	err = db.settle(err)
	switch {
	case err == nil:
		if value == nil {
			value = []byte{}
		}
		shard.keep(key, value, writes)
		return value, nil
	case errors.Is(err, ErrNotFound):
		shard.keep(key, nil, writes)
	}
	return nil, err
}

// Iterate implements Reader. The iterator sees the DB as it was at this call.
func (db *DB) Iterate(span Span) Iterator {
	if err := db.enter(); err != nil {
		return &iterator{err: err}
	}
	defer db.mu.RUnlock()
	db.views.Add(1)
	return &iterator{db: db, it: db.level.NewIterator(bounds(span), nil)}
}

// bounds is span in goleveldb's words.
func bounds(span Span) *util.Range {
	return &util.Range{Start: span.Start, Limit: span.End}
}

// WriteBatch gathers writes for DB.Write. The zero WriteBatch is empty and ready. It is not for concurrent use.
type WriteBatch struct {
	batch leveldb.Batch
	bytes int
}

// Put implements Batch. Key and value are copied.
func (b *WriteBatch) Put(key, value []byte) {
	b.bytes += len(key) + len(value)
	b.batch.Put(key, value)
}

// Delete implements Batch. The key is copied.
func (b *WriteBatch) Delete(key []byte) {
	b.bytes += len(key)
	b.batch.Delete(key)
}

// Bytes is the size of the keys and values gathered so far.
func (b *WriteBatch) Bytes() int { return b.bytes }

// Len is the number of writes gathered so far.
func (b *WriteBatch) Len() int { return b.batch.Len() }

// maxKept is the largest batch whose memory Reset keeps.
const maxKept = 4 << 20

// Reset empties the batch and keeps its memory, unless that is much.
func (b *WriteBatch) Reset() {
	if b.bytes > maxKept {
		b.batch = leveldb.Batch{}
	}
	b.batch.Reset()
	b.bytes = 0
}

// NewBatch returns an empty batch.
func (db *DB) NewBatch() *WriteBatch { return new(WriteBatch) }

// Write applies a batch as one, without syncing it: after a power loss the DB holds some prefix of the batches that
// were written. An empty batch is a no-op. After any error the DB is broken.
func (db *DB) Write(b *WriteBatch) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	if b.Len() == 0 {
		return nil
	}
	db.order.Lock()
	defer db.order.Unlock()
	if err := db.settle(db.level.Write(&b.batch, nil)); err != nil {
		return err
	}
	if err := db.rows.wrote(&b.batch); err != nil {
		return db.fail(err) // the batch is not what was put into it
	}
	return nil
}

// Size is the approximate number of bytes that the span takes on disk; what is still in memory is not counted.
func (db *DB) Size(span Span) (int64, error) {
	if err := db.enter(); err != nil {
		return 0, err
	}
	defer db.mu.RUnlock()
	sizes, err := db.level.SizeOf([]util.Range{*bounds(span)})
	if err := db.settle(err); err != nil {
		return 0, err
	}
	return sizes.Sum(), nil
}

// Compact rewrites the tables of a span so that deleted keys no longer slow its iterators.
func (db *DB) Compact(span Span) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	return db.settle(db.level.CompactRange(*bounds(span)))
}

// Snapshot returns the DB as it is now, frozen. Close must be called.
func (db *DB) Snapshot() (*Snapshot, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.mu.RUnlock()
	level, err := db.level.GetSnapshot()
	if err := db.settle(err); err != nil {
		return nil, err
	}
	db.views.Add(1)
	return &Snapshot{db: db, level: level}, nil
}

// Close ends the DB. Iterators and snapshots get ErrClosed from now on, and Close waits until they are closed. It
// returns the error that broke the DB, if one did: what was written may then be lost, and Destroy comes next.
func (db *DB) Close() error {
	db.mu.Lock()
	again := db.closing.Swap(true)
	db.mu.Unlock()
	if again {
		return ErrClosed
	}
	// No view can begin any more: enter looks at closing under mu.
	db.views.Wait()
	err := db.level.Close()
	broken := db.Broken()
	if broken != nil {
		err = nil // goleveldb repeats the error that broke it
	}
	return errors.Join(broken, err, db.storage.lock.Close())
}
