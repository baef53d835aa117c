package drive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Config says which directory to open, and how.
type Config struct {
	FS  vfs.FS // required
	Dir string // required, absolute
	// Cluster is the cluster that the drive must belong to; a drive of another one is ErrForeign. Required.
	Cluster cluster.ClusterID
	// Drive is the drive that the directory must be. Zero: any of the cluster.
	Drive cluster.DriveID
	// Key is the cluster's integrity key that the identity must hold. Zero: the identity is trusted.
	Key [32]byte
	// Name is what Status calls the drive. Empty: the identity's name.
	Name string
	// Log takes warnings and errors. Nil: they are dropped.
	Log *slog.Logger
	// FileSize is how long a chunk file grows before the next one is begun, in bytes. Zero: 1 GiB.
	FileSize int64
	// Reserve is the free space below which Put gives ErrFull, in bytes. Zero: 5 % of the file system; negative: none.
	Reserve int64
	// Watch is how often the drive looks whether its directory is still there and how full it is. Zero: every second;
	// negative: only with each batch of writes.
	Watch time.Duration
}

const (
	defaultFileSize = 1 << 30
	defaultWatch    = time.Second
	// defaultReserve is the part of the file system kept free, as a divisor.
	defaultReserve = 20
	// maxFailures is how many failed writes or syncs a drive may have before it is taken for broken.
	maxFailures = 3
	// queueLength bounds the requests that wait for the committer beside the batch in work.
	queueLength = 256
)

// Drive is an open drive. It implements chunkstore.Drive.
//
// Put returns only when nothing reads its cells any more: a Put whose write has begun stays as long as the device takes,
// even when its context ends. A Put that still waits for its turn leaves at once.
type Drive struct {
	fs       vfs.FS
	dir      string
	name     string
	identity Identity
	home     vfs.Info // of the identity file, as it was opened
	seal     *sealer
	log      *slog.Logger
	fileSize int64
	reserve  int64

	lock     io.Closer
	handles  handles
	headers  headers
	queue    chan *request
	stopping chan struct{} // closed when the drive goes down
	group    sync.WaitGroup
	close    func() error

	direct   atomic.Bool // direct I/O has not been refused yet
	full     atomic.Bool
	total    atomic.Int64
	free     atomic.Int64
	damaged  atomic.Int64
	failures atomic.Int64

	mu      sync.RWMutex
	down    error // why the drive does nothing; nil while it works
	volumes map[chunkstore.VolumeID]*volumeIndex
	shards  int64
	bytes   int64

	// What follows belongs to Open and then to the committer.
	streams map[fileKey]*stream
	ledger  ledger
	remains []location
	// written and checked say how much was written since the space was looked at, and when that was.
	written int64
	checked time.Time
}

var _ chunkstore.Drive = (*Drive)(nil)

// Open opens the drive in c.Dir and reads its index. Errors: ErrNoIdentity, ErrBadIdentity, ErrForeign, ErrLocked, and
// those of the file system. A damaged copy of the identity, of a file header or of the ledger is rewritten whole.
func Open(ctx context.Context, c Config) (*Drive, error) {
	d, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open drive %s: %w", c.Dir, err)
	}
	return d, nil
}

func open(ctx context.Context, c Config) (*Drive, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id, err := ReadIdentity(c.FS, c.Dir)
	if err != nil {
		return nil, err
	}
	switch {
	case id.Cluster != c.Cluster:
		return nil, fmt.Errorf("it is of cluster %v: %w", id.Cluster, ErrForeign)
	case c.Drive != cluster.DriveID{} && id.Drive != c.Drive:
		return nil, fmt.Errorf("it is drive %v where %v was expected: %w", id.Drive, c.Drive, ErrForeign)
	case c.Key != [32]byte{} && id.IntegrityKey != c.Key:
		return nil, fmt.Errorf("its integrity key is another: %w", ErrForeign)
	}
	lock, err := c.FS.Lock(c.Dir + "/lock")
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return nil, err
	}
	d := newDrive(c, id, lock)
	if err := d.load(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	d.start(c.Watch)
	return d, nil
}

func newDrive(c Config, id Identity, lock io.Closer) *Drive {
	d := &Drive{
		fs: c.FS, dir: c.Dir, name: c.Name, identity: id, seal: newSealer(id.IntegrityKey), log: c.Log,
		fileSize: c.FileSize, reserve: c.Reserve, lock: lock,
		queue: make(chan *request, queueLength), stopping: make(chan struct{}),
		volumes: map[chunkstore.VolumeID]*volumeIndex{}, streams: map[fileKey]*stream{},
	}
	d.handles.fs = c.FS
	d.direct.Store(true)
	if d.name == "" {
		d.name = id.Name
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.fileSize == 0 {
		d.fileSize = defaultFileSize
	}
	d.close = sync.OnceValue(d.stop)
	return d
}

// load reads everything that the directory holds.
func (d *Drive) load() error {
	id, bad, err := readIdentity(d.fs, d.dir)
	if err != nil {
		return err
	}
	if err := repairIdentity(d.fs, d.dir, id, bad); err != nil {
		return err
	}
	if d.home, err = d.fs.Stat(d.homeName()); err != nil {
		return err
	}
	if err := d.refreshUsage(); err != nil {
		return err
	}
	if err := d.loadLedgers(); err != nil {
		return err
	}
	return d.loadFiles()
}

func (d *Drive) start(watch time.Duration) {
	d.group.Go(d.run)
	if watch == 0 {
		watch = defaultWatch
	}
	if watch > 0 {
		d.group.Go(func() { d.watch(watch) })
	}
}

func (d *Drive) homeName() string { return d.dir + "/" + identityNames[0] }

// checkHome tells whether the directory is still the one that was opened. A directory that was moved away leaves open
// files working, and what they take would be acknowledged to nobody's use.
func (d *Drive) checkHome() error {
	now, err := d.fs.Stat(d.homeName())
	if err != nil {
		return fmt.Errorf("directory was moved away: %w", err)
	}
	if now.Device != d.home.Device || now.Inode != d.home.Inode {
		return errors.New("directory was moved away and another one stands in its place")
	}
	return nil
}

// watch looks after the drive while nothing is written.
func (d *Drive) watch(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-d.stopping:
			return
		case <-ticker.C:
		}
		err := d.checkHome()
		if err == nil {
			err = d.refreshUsage()
		}
		if err != nil {
			d.goDown(err)
		}
	}
}

func (d *Drive) refreshUsage() error {
	usage, err := d.fs.Usage(d.dir)
	if err != nil {
		return err
	}
	reserve := d.reserve
	if reserve == 0 {
		reserve = usage.Total / defaultReserve
	}
	if usage.ReadOnly {
		return syscall.EROFS
	}
	d.total.Store(usage.Total)
	d.free.Store(usage.Free)
	d.full.Store(usage.Free < reserve)
	return nil
}

// failed counts a failed write or sync; too many and the drive goes down. A file system that has become read-only, as
// kernels make one whose metadata is damaged, fails every write: that one is enough.
func (d *Drive) failed(err error) {
	if n := d.failures.Add(1); n >= maxFailures || errors.Is(err, syscall.EROFS) {
		d.goDown(fmt.Errorf("%d writes or syncs failed: %w", n, err))
	}
}

// goDown makes the drive do nothing more. The first cause is kept.
func (d *Drive) goDown(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down != nil {
		return
	}
	d.down = fmt.Errorf("drive %s: %w: %w", d.name, chunkstore.ErrDriveDown, cause)
	close(d.stopping)
	if !errors.Is(cause, errClosed) {
		d.log.Error("drive is down", "drive", d.name, "path", d.dir, "err", cause)
	}
}

var errClosed = errors.New("closed")

func (d *Drive) downError() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.down
}

// ID implements chunkstore.Drive.
func (d *Drive) ID() cluster.DriveID { return d.identity.Drive }

// Identity returns what the identity files say.
func (d *Drive) Identity() Identity { return d.identity }

// Status implements chunkstore.Drive. It does no I/O and never waits for the device.
func (d *Drive) Status() chunkstore.DriveStatus {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return chunkstore.DriveStatus{
		ID: d.identity.Drive, Name: d.name, Path: d.dir, Down: d.down, Full: d.full.Load(), Device: d.home.Device,
		Total: d.total.Load(), Free: d.free.Load(), Shards: d.shards, Bytes: d.bytes, Damaged: d.damaged.Load(),
	}
}

// Close implements chunkstore.Drive. It waits for the write under way, as long as the device takes. Everything
// acknowledged is durable before; Close only adds index records that make the next Open quick.
func (d *Drive) Close() error {
	d.goDown(errClosed)
	return d.close()
}

func (d *Drive) stop() error {
	d.group.Wait()
	return d.release()
}

// release closes all that is open.
func (d *Drive) release() error {
	var errs []error
	for _, s := range d.streams {
		if s.active != nil {
			errs = append(errs, s.active.retire())
		}
	}
	if d.ledger.writer != nil {
		errs = append(errs, d.ledger.writer.Close())
	}
	return errors.Join(append(errs, d.handles.closeAll(), d.lock.Close())...)
}
