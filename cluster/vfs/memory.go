package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Memory is a file system in memory that knows what a power loss would leave. Every write is volatile page by page
// (4 KiB) until File.Sync, every directory entry until SyncDir; Crash cuts the power and returns what may be found
// afterwards, Kill ends the process and returns all that was written. Faults come by rule (Inject).
//
// It is deterministic: the same seed and the same calls in the same order leave the same files.
type Memory struct {
	// gone is closed by Crash and Kill; operations that hang return then.
	gone chan struct{}

	mu       sync.Mutex
	random   *rand.Rand
	root     *node
	inodes   uint64
	locked   map[*node]bool
	rules    []*Fault
	capacity int64 // bytes; 0 means no limit
	used     int64 // pages that hold bytes or are allocated
	dead     bool
}

// defaultTotal is what Usage tells of a Memory without a capacity: 1 TiB, more than any test writes.
const defaultTotal = 1 << 40

// memoryDevice is the device number of every Memory, a value that real devices do not have.
const memoryDevice = 0xfeed

// NewMemory returns an empty file system whose crashes are drawn from seed.
func NewMemory(seed uint64) *Memory {
	m := &Memory{
		gone:   make(chan struct{}),
		random: rand.New(rand.NewPCG(seed, 0x686f6c6466617374)),
		locked: map[*node]bool{},
	}
	m.root = m.newNode(fs.ModeDir | 0o755)
	m.root.links = 1
	return m
}

// node is a file or a directory. Guarded by Memory.mu.
type node struct {
	inode uint64
	mode  fs.FileMode
	links int // directory entries
	opens int // open handles

	// Of a file. pages is what readers see. A page that stands in pages and not in dirty may be shared with synced (and
	// with other Memory values): it is copied before it is changed.
	pages  map[int64][]byte
	synced map[int64][]byte
	// reserved are the pages that are allocated and not written; none of them is in pages. A power loss frees them.
	reserved runs
	// dirty are the pages that the next Sync makes durable; lost are those that a failed Sync gave up, as kernels do:
	// readers still see them, no later Sync writes them.
	dirty      map[int64]bool
	lost       map[int64]bool
	size       int64
	syncedSize int64

	// Of a directory. entries is what readers see; durable plus pending, in order, gives entries.
	entries map[string]*node
	durable map[string]*node
	pending []*entryOp
}

// entryOp is one change of a directory that is not durable yet. A rename inside a directory is one operation.
type entryOp struct {
	set, remove string // names; empty for none
	node        *node  // what set leads to
	// After a rename from another directory, after is the operation there that must be durable before this removal
	// is: a power loss may leave a file under both names and never under none.
	after    *entryOp
	afterDir *node
}

func (m *Memory) newNode(mode fs.FileMode) *node {
	m.inodes++
	n := &node{inode: m.inodes, mode: mode}
	if mode.IsDir() {
		n.entries, n.durable = map[string]*node{}, map[string]*node{}
	} else {
		n.pages, n.synced = map[int64][]byte{}, map[int64][]byte{}
		n.dirty, n.lost = map[int64]bool{}, map[int64]bool{}
	}
	return n
}

// lookup walks to a name. Callers hold mu.
func (m *Memory) lookup(name string) (*node, error) {
	if !path.IsAbs(name) {
		return nil, syscall.EINVAL
	}
	n := m.root
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "" {
			continue
		}
		if !n.mode.IsDir() {
			return nil, syscall.ENOTDIR
		}
		child, ok := n.entries[part]
		if !ok {
			return nil, syscall.ENOENT
		}
		n = child
	}
	return n, nil
}

// parent returns the directory of a name and the last part of it. Callers hold mu.
func (m *Memory) parent(name string) (*node, string, error) {
	clean := path.Clean(name)
	dir, err := m.lookup(path.Dir(clean))
	if err != nil {
		return nil, "", err
	}
	if !dir.mode.IsDir() {
		return nil, "", syscall.ENOTDIR
	}
	return dir, path.Base(clean), nil
}

func (d *node) apply(op *entryOp) {
	d.pending = append(d.pending, op)
	applyEntry(d.entries, op)
}

func applyEntry(entries map[string]*node, op *entryOp) {
	if op.remove != "" {
		delete(entries, op.remove)
	}
	if op.set != "" {
		entries[op.set] = op.node
	}
}

// OpenFile implements FS.
func (m *Memory) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := m.before(OpOpen, name); err != nil {
		return nil, pathError("open", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, pathError("open", name, ErrPowerLost)
	}
	n, err := m.open(name, flag, perm)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &memoryFile{m: m, n: n, name: path.Clean(name), direct: flag&Direct != 0,
		writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

func (m *Memory) open(name string, flag int, perm fs.FileMode) (*node, error) {
	n, err := m.lookup(name)
	switch {
	case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case err == syscall.ENOENT && flag&os.O_CREATE != 0:
		dir, base, err := m.parent(name)
		if err != nil {
			return nil, err
		}
		n = m.newNode(perm.Perm())
		n.links = 1
		dir.apply(&entryOp{set: base, node: n})
	case err != nil:
		return nil, err
	}
	if n.mode.IsDir() {
		return nil, syscall.EISDIR
	}
	if flag&os.O_TRUNC != 0 {
		m.resize(n, 0)
	}
	n.opens++
	return n, nil
}

// Mkdir implements FS.
func (m *Memory) Mkdir(name string, perm fs.FileMode) error {
	return m.change(OpMkdir, "mkdir", name, func() error {
		if _, err := m.lookup(name); err == nil {
			return syscall.EEXIST
		}
		dir, base, err := m.parent(name)
		if err != nil {
			return err
		}
		n := m.newNode(fs.ModeDir | perm.Perm())
		n.links = 1
		dir.apply(&entryOp{set: base, node: n})
		return nil
	})
}

// Remove implements FS.
func (m *Memory) Remove(name string) error {
	return m.change(OpRemove, "remove", name, func() error {
		n, err := m.lookup(name)
		if err != nil {
			return err
		}
		if len(n.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		dir, base, err := m.parent(name)
		if err != nil {
			return err
		}
		dir.apply(&entryOp{remove: base})
		m.unlink(n)
		return nil
	})
}

// Rename implements FS.
func (m *Memory) Rename(source, target string) error {
	return m.change(OpRename, "rename", source, func() error { return m.rename(source, target) })
}

func (m *Memory) rename(source, target string) error {
	n, err := m.lookup(source)
	if err != nil {
		return err
	}
	from, fromBase, err := m.parent(source)
	if err != nil {
		return err
	}
	to, toBase, err := m.parent(target)
	if err != nil {
		return err
	}
	if strings.HasPrefix(path.Clean(target)+"/", path.Clean(source)+"/") {
		if path.Clean(target) == path.Clean(source) {
			return nil
		}
		return syscall.EINVAL
	}
	if old, ok := to.entries[toBase]; ok {
		switch {
		case old.mode.IsDir() && !n.mode.IsDir():
			return syscall.EISDIR
		case !old.mode.IsDir() && n.mode.IsDir():
			return syscall.ENOTDIR
		case len(old.entries) > 0:
			return syscall.ENOTEMPTY
		}
		m.unlink(old)
	}
	if from == to {
		to.apply(&entryOp{set: toBase, remove: fromBase, node: n})
		return nil
	}
	arrival := &entryOp{set: toBase, node: n}
	to.apply(arrival)
	from.apply(&entryOp{remove: fromBase, after: arrival, afterDir: to})
	return nil
}

// unlink drops an entry's hold on a node and frees its space when nothing holds it.
func (m *Memory) unlink(n *node) {
	n.links--
	m.free(n)
}

func (m *Memory) free(n *node) {
	if n.links == 0 && n.opens == 0 && !n.mode.IsDir() {
		m.used -= n.space()
		n.pages, n.reserved = map[int64][]byte{}, nil
	}
}

// space is the bytes that a file takes.
func (n *node) space() int64 { return (int64(len(n.pages)) + n.reserved.pages()) * Align }

// ReadDir implements FS.
func (m *Memory) ReadDir(name string) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	err := m.change(OpReadDir, "readdir", name, func() error {
		dir, err := m.lookup(name)
		if err != nil {
			return err
		}
		if !dir.mode.IsDir() {
			return syscall.ENOTDIR
		}
		for _, base := range sortedNames(dir.entries) {
			list = append(list, fs.FileInfoToDirEntry(fileInfo{base, dir.entries[base].info()}))
		}
		return nil
	})
	return list, err
}

// Stat implements FS.
func (m *Memory) Stat(name string) (Info, error) {
	var info Info
	err := m.change(OpStat, "stat", name, func() error {
		n, err := m.lookup(name)
		if err == nil {
			info = n.info()
		}
		return err
	})
	return info, err
}

// SyncDir implements FS. An injected error leaves the entries volatile.
func (m *Memory) SyncDir(name string) error {
	return m.change(OpSyncDir, "sync", name, func() error {
		dir, err := m.lookup(name)
		if err != nil {
			return err
		}
		if !dir.mode.IsDir() {
			return syscall.ENOTDIR
		}
		dir.settle(len(dir.pending))
		return nil
	})
}

// settle makes the first count pending operations durable, and before each what it depends on.
func (d *node) settle(count int) {
	done := d.pending[:count]
	d.pending = slices.Clone(d.pending[count:])
	for _, op := range done {
		if op.after != nil {
			if i := slices.Index(op.afterDir.pending, op.after); i >= 0 {
				op.afterDir.settle(i + 1)
			}
		}
		applyEntry(d.durable, op)
	}
}

// Lock implements FS.
func (m *Memory) Lock(name string) (io.Closer, error) {
	var held *memoryLock
	err := m.change(OpLock, "lock", name, func() error {
		n, err := m.open(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if m.locked[n] {
			n.opens--
			return ErrLocked
		}
		m.locked[n] = true
		held = &memoryLock{m: m, n: n}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

type memoryLock struct {
	m    *Memory
	n    *node
	once sync.Once
}

func (l *memoryLock) Close() error {
	err := fs.ErrClosed
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		err = nil
		if l.m.dead { // the node may belong to the file system that Kill returned
			return
		}
		delete(l.m.locked, l.n)
		l.n.opens--
		l.m.free(l.n)
	})
	return err
}

// Usage implements FS.
func (m *Memory) Usage(name string) (Usage, error) {
	var usage Usage
	err := m.change(OpUsage, "statfs", name, func() error {
		if _, err := m.lookup(name); err != nil {
			return err
		}
		usage.Total = defaultTotal
		if m.capacity > 0 {
			usage.Total = m.capacity
		}
		usage.Free = max(usage.Total-m.used, 0)
		return nil
	})
	return usage, err
}

// change runs a whole-file-system operation: rules first, then, unless power is gone, the deed under mu.
func (m *Memory) change(op Op, word, name string, deed func() error) error {
	err := m.before(op, name)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.dead {
			err = ErrPowerLost
		} else {
			err = deed()
		}
	}
	return pathError(word, name, err)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (n *node) info() Info {
	return Info{Size: n.size, Mode: n.mode, Device: memoryDevice, Inode: n.inode}
}

func (m *Memory) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("memory file system, %d bytes used", m.used)
}
