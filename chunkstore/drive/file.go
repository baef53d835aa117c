package drive

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// headerSize is the two copies of the file header; records begin behind them.
const headerSize = 2 * pageSize

// ahead is how much space is reserved before the append point: it makes ENOSPC show before a record is begun and saves
// the device a metadata update per append. What is left of it is given back when the file is closed.
const ahead = 8 << 20

// chunkFile is one append-only file. The fields from writer on belong to the committer.
type chunkFile struct {
	name   string
	header fileHeader

	live int // records in the index; guarded by Drive.mu
	// known counts the records ever seen in the file. A file of which nothing is known is not removed for being empty.
	known int
	// length is end as readers may see it.
	length atomic.Int64

	// writer is nil once the file takes no more appends: it is full, or a write or sync failed.
	writer vfs.File
	opened vfs.Info // what writer leads to
	// end is the append point, a multiple of pageSize, never before any byte that was ever written.
	end       int64
	allocated int64
	dirty     bool // written since the last sync
	// entries are the durable records since the last index record at a multiple of segment, which ended at from.
	from    int64
	entries []entry
	// footed says that an index record of entries stands at the end of the file.
	footed bool
}

// fileKey names the chunk files of one shard of one volume.
type fileKey struct {
	volume chunkstore.VolumeID
	shard  uint8
}

func (d *Drive) volumeDir(volume chunkstore.VolumeID) string {
	return fmt.Sprintf("%s/volumes/%02x", d.dir, uint8(volume))
}

func (d *Drive) fileName(key fileKey, generation uint32) string {
	return fmt.Sprintf("%s/%016x.%02x.%08x", d.volumeDir(key.volume), uint64(key.volume), key.shard, generation)
}

// stream is the chunk files of one shard of one volume as the committer sees them: one goroutine at a time uses it.
type stream struct {
	key        fileKey
	generation uint32     // of the next new file
	active     *chunkFile // takes the appends; nil when the next append makes a file
	unsynced   []*put     // written to active since its last sync
}

// create makes a new chunk file, durably: content first, then its name, then the names of new directories.
func (d *Drive) create(s *stream) (*chunkFile, error) {
	key, generation := s.key, s.generation
	f := &chunkFile{
		name: d.fileName(key, generation),
		header: fileHeader{kind: kindChunkFile, cluster: d.identity.Cluster, drive: d.identity.Drive, volume: key.volume,
			shard: key.shard, generation: generation, created: time.Now().Unix()},
		end:  headerSize,
		from: headerSize,
	}
	f.length.Store(f.end)
	if _, err := rand.Read(f.header.file[:]); err != nil {
		return nil, err
	}
	if err := d.makeDir(d.volumeDir(key.volume)); err != nil {
		return nil, err
	}
	// The number is spent even when what follows fails: a half-made file is never written again.
	s.generation++
	if err := d.openWriter(f, os.O_CREATE|os.O_EXCL); err != nil {
		return nil, err
	}
	if err := d.writeFileHeader(f); err != nil {
		return nil, errors.Join(err, f.retire())
	}
	return f, nil
}

// makeDir makes one directory where it is missing, and never those above it: a drive that was moved away must not come
// into being again as an empty one, on whatever file system lies below its mount point.
func (d *Drive) makeDir(name string) error {
	if err := d.fs.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (d *Drive) writeFileHeader(f *chunkFile) error {
	page := vfs.Aligned(pageSize)
	d.seal.putFileHeader(page, f.header)
	if err := d.write(f, [][]byte{page, page}, 0); err != nil {
		return err
	}
	if err := f.writer.Sync(); err != nil {
		return err
	}
	// The directory above is synced too: an earlier attempt may have made the directory and failed to sync its name.
	return errors.Join(d.fs.SyncDir(d.volumeDir(f.header.volume)), d.fs.SyncDir(d.dir+"/volumes"))
}

// openWriter opens f for appending, with direct I/O while the file system takes it.
func (d *Drive) openWriter(f *chunkFile, flags int) error {
	flags |= os.O_RDWR
	if d.direct.Load() {
		writer, err := d.fs.OpenFile(f.name, flags|vfs.Direct, 0o600)
		if err == nil {
			return f.take(writer)
		}
		if !errors.Is(err, vfs.ErrNoDirect) {
			return err
		}
		// Some file systems make the file before they refuse the flag.
		flags &^= os.O_EXCL
		d.direct.Store(false)
	}
	writer, err := d.fs.OpenFile(f.name, flags, 0o600)
	if err != nil {
		return err
	}
	return f.take(writer)
}

// take makes writer the one of f.
func (f *chunkFile) take(writer vfs.File) error {
	opened, err := writer.Stat()
	if err != nil {
		return errors.Join(err, writer.Close())
	}
	f.writer, f.opened = writer, opened
	return nil
}

// errUnnamed says that a chunk file's name leads nowhere or to another file: what is written to it would be lost.
var errUnnamed = errors.New("the file was removed or replaced while it was written")

// checkName looks whether the name still leads to the file that is written.
func (d *Drive) checkName(f *chunkFile) error {
	now, err := d.fs.Stat(f.name)
	if err != nil && !isMissing(err) {
		return err
	}
	if err != nil || now.Device != f.opened.Device || now.Inode != f.opened.Inode {
		return errUnnamed
	}
	return nil
}

// write writes at off, and falls back from direct I/O for good when the first write shows that it does not work.
func (d *Drive) write(f *chunkFile, buffers [][]byte, off int64) error {
	_, err := f.writer.WriteVAt(buffers, off)
	if !errors.Is(err, vfs.ErrNoDirect) {
		return err
	}
	d.direct.Store(false)
	if err := f.retire(); err != nil {
		return err
	}
	if err := d.openWriter(f, 0); err != nil {
		return err
	}
	_, err = f.writer.WriteVAt(buffers, off)
	return err
}

// reserveSpace makes sure that [end, end+length) has space.
func (d *Drive) reserveSpace(f *chunkFile, length int64) error {
	need := f.end + length
	if need <= f.allocated {
		return nil
	}
	from := max(f.allocated, f.end)
	room := max(0, min(ahead, d.fileSize-need))
	if err := f.writer.Allocate(from, need-from+room); err == nil {
		f.allocated = need + room
		return nil
	} else if !isNoSpace(err) {
		return err
	}
	// Near the end of the space the record itself may still fit.
	if err := f.writer.Allocate(from, need-from); err != nil {
		return err
	}
	f.allocated = need
	return nil
}

// retire closes the writer: the file takes no more appends.
func (f *chunkFile) retire() error {
	if f.writer == nil {
		return nil
	}
	err := f.writer.Close()
	f.writer = nil
	return err
}

// finish ends a file in good health: an index record, the space reserved ahead given back, synced.
func (d *Drive) finish(f *chunkFile) error {
	if at := f.boundary(indexSize(len(f.entries))); at > 0 {
		f.end = at
	}
	if err := d.writeIndex(f); err != nil {
		return errors.Join(err, f.retire())
	}
	err := f.writer.Truncate(f.end)
	if err == nil {
		err = f.writer.Sync()
	}
	return errors.Join(err, f.retire())
}

// writeIndex appends an index record of everything since f.from. All of that is durable already.
func (d *Drive) writeIndex(f *chunkFile) error {
	b := vfs.Aligned(int(indexSize(len(f.entries))))
	d.seal.putIndex(b, index{volume: f.header.volume, shard: f.header.shard, file: f.header.file, offset: f.end,
		from: f.from, entries: f.entries})
	if err := d.reserveSpace(f, int64(len(b))); err != nil {
		return err
	}
	f.dirty = true
	if err := d.write(f, [][]byte{b}, f.end); err != nil {
		return err
	}
	f.end += int64(len(b))
	f.length.Store(f.end)
	return nil
}

// boundary returns the multiple of segment that a record of length bytes at end would cross, 0 for none.
func (f *chunkFile) boundary(length int64) int64 {
	next := (f.end + segment - 1) / segment * segment
	if f.end+length > next {
		return next
	}
	return 0
}
