// Package tree turns names into keys: a mounted bucket as a tree of files with handles, attributes and dirty data.
// It knows neither the kernel (package fusefs does) nor the network (Objects does), so it is model-checked alone.
//
// Each open file has one image that all its handles share: extents over the base version, slabs of new data and
// holes. Slabs are uploaded as parts while the file is written; close publishes the pieces as one new version, fsync
// stages them. See ../SEMANTICS.md for what programs may rely on.
//
// Lock order: node.commit (held over I/O), Tree.moves (held over I/O: directory renames exclude commits), then
// image.opening and image.starting (held over I/O), then Tree.mu or image.mu, never one inside the other and never
// held over I/O.
package tree

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Errors of this floor; fusefs maps each to an errno in one table.
var (
	ErrNotExist    = errors.New("no such file")
	ErrExists      = errors.New("file exists")
	ErrConflict    = errors.New("file was changed elsewhere")
	ErrDirNotEmpty = errors.New("directory is not empty")
	ErrNoSpace     = errors.New("no space is left")
	ErrAccess      = errors.New("access is denied")
	ErrTooLarge    = errors.New("file is too large")
	ErrNameTooLong = errors.New("name is too long")
	ErrReadOnly    = errors.New("mount is read-only")
	ErrIO          = errors.New("input/output error")
	ErrUnavailable = errors.New("store is not available now")
	ErrQuota       = errors.New("quota is exhausted")
	ErrIsDir       = errors.New("is a directory")
	ErrNotDir      = errors.New("is not a directory")
	ErrInvalid     = errors.New("invalid argument")
	ErrPermission  = errors.New("operation is not permitted")
	ErrUnsupported = errors.New("operation is not supported")
	ErrBadHandle   = errors.New("bad file handle")
	ErrStale       = errors.New("file is no longer there")
	ErrNoAttr      = errors.New("no such attribute")
	ErrNoData      = errors.New("no data at or after this offset")
	ErrTooMuch     = errors.New("attributes are too large")
)

const (
	// defaultMemory bounds new data: 64 parts of 8 MiB.
	defaultMemory = 512 << 20
	// leastMemory lets one part fill while others are on their way.
	leastMemory = 64 << 20
	// defaultReadMemory lets five sequential readers have their largest windows.
	defaultReadMemory = 128 << 20
	// defaultUploads is how many parts are on their way at once: enough to hide the round trips, few enough that a
	// slow link does not stall every one of them.
	defaultUploads = 8
)

// Config is what a Tree is made of.
type Config struct {
	// Objects is the bucket; the tree does not close it.
	Objects Objects
	// UID, GID and Umask are the owner and permissions of objects that no mount has touched: files have mode
	// 0666 &^ Umask, directories 0777 &^ Umask.
	UID, GID, Umask uint32
	// ReadOnly refuses every change.
	ReadOnly bool
	// Memory bounds new data that is not yet stored, in bytes; writers wait at it. Zero means 512 MiB, the least is
	// 64 MiB.
	Memory int64
	// ReadMemory bounds what is read ahead, in bytes. Zero means 128 MiB; negative means no read-ahead.
	ReadMemory int64
	// Uploads is how many parts are stored at once. Zero means 8.
	Uploads int
	// Log gets what no caller can be told. Nil means slog.Default().
	Log *slog.Logger
}

// Tree is one mounted bucket. Its methods may be called concurrently. Node ids are the kernel's; 1 is the root.
type Tree struct {
	config  Config
	objects Objects
	log     *slog.Logger
	started time.Time

	// lifetime ends with Close; background uploads and read-ahead run under it. It is stored because they outlive the
	// call that starts them.
	lifetime context.Context
	stop     context.CancelFunc
	workers  sync.WaitGroup
	slots    chan struct{}
	dirty    *budget
	ahead    *budget
	sending  atomic.Int64
	// committing counts the publishes on their way: each gives memory back.
	committing atomic.Int64

	// moves is read-held by whatever uses a key in the store and write-held by a directory rename, so that no key
	// changes between its computation and its use.
	moves sync.RWMutex

	mu sync.Mutex
	table
	handles    map[uint64]*handle
	dirs       map[uint64]*dirHandle
	nextHandle uint64
}

// New makes the tree over a bucket. Close ends it.
func New(c Config) *Tree {
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	c.Memory = max(c.Memory, leastMemory)
	if c.ReadMemory == 0 {
		c.ReadMemory = defaultReadMemory
	}
	if c.Uploads <= 0 {
		c.Uploads = defaultUploads
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	t := &Tree{
		config: c, objects: c.Objects, log: c.Log, started: time.Now(),
		slots: make(chan struct{}, c.Uploads),
		dirty: newBudget(c.Memory), ahead: newBudget(max(c.ReadMemory, 0)),
		table: newTable(), handles: map[uint64]*handle{}, dirs: map[uint64]*dirHandle{}, nextHandle: 1,
	}
	t.lifetime, t.stop = context.WithCancel(context.Background())
	return t
}

// Close publishes what open handles left dirty, ends the background work and waits for it. The kernel must be gone.
func (t *Tree) Close(ctx context.Context) error {
	t.mu.Lock()
	ids := make([]uint64, 0, len(t.handles))
	for id := range t.handles {
		ids = append(ids, id)
	}
	t.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, t.Release(ctx, id))
	}
	done := make(chan struct{})
	go func() {
		t.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	t.stop()
	<-done
	return errors.Join(errs...)
}

// wrap says at which key an operation failed; nil stays nil.
func wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", op, key, err)
}

func (t *Tree) keyOf(n *node) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.key()
}

// node finds a node id; ErrStale when the kernel should not know it any more.
func (t *Tree) node(id uint64) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byID[id]; n != nil {
		return n, nil
	}
	return nil, ErrStale
}

// imageOf is the content of n, nil while it is not open.
func (t *Tree) imageOf(n *node) *image {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.img
}

func (t *Tree) dirNode(id uint64) (*node, error) {
	n, err := t.node(id)
	if err == nil && !n.dir {
		return nil, ErrNotDir
	}
	return n, err
}

// Forget takes back lookups of a node.
func (t *Tree) Forget(id, lookups uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil || n.parent == nil {
		return
	}
	n.lookups -= min(n.lookups, lookups)
	t.drop(n)
}

// Nodes is how many nodes the tree knows.
func (t *Tree) Nodes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// Space is what df shows.
func (t *Tree) Space(ctx context.Context) (Space, error) { return t.objects.Space(ctx) }

// writable refuses changes of a read-only mount.
func (t *Tree) writable() error {
	if t.config.ReadOnly {
		return ErrReadOnly
	}
	return nil
}

// killPrivileges is what a write or a change of owner leaves of a mode.
func killPrivileges(mode uint32) uint32 {
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		return mode
	}
	mode &^= syscall.S_ISUID
	if mode&0o010 != 0 {
		mode &^= syscall.S_ISGID
	}
	return mode
}

// DirtyBytes is how much memory holds new data now.
func (t *Tree) DirtyBytes() int64 { return t.dirty.used() }
