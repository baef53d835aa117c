package tree

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"syscall"
	"time"
)

// Opened is an open file.
type Opened struct {
	Handle uint64
	// Keep tells that the kernel's pages of the file are still right.
	Keep bool
}

// handle is one open file description.
type handle struct {
	node   *node
	append bool
	write  bool
	read   *windows
}

func writes(flags uint32) bool { return flags&syscall.O_ACCMODE != syscall.O_RDONLY }

// newInode is a fresh inode number: random, so that mounts need not agree.
func newInode() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if ino := binary.LittleEndian.Uint64(b[:]) &^ (1 << 63); ino > rootID {
			return ino
		}
	}
}

// acquire holds the image of n; leaveImage gives it back. A file that moved with its directory has another version there:
// most opens come after a lookup, which asked for it already.
func (t *Tree) acquire(ctx context.Context, n *node) (*image, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n.moved && n.img == nil && !n.dir && !n.gone() {
		t.mu.Unlock()
		err := t.refresh(ctx, n)
		t.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	if n.dir {
		return nil, ErrIsDir
	}
	n.opens++
	if n.img == nil {
		info := n.info
		info.Attr = t.complete(info.Attr, false)
		n.img = newImage(t, n, info)
	}
	return n.img, nil
}

// leaveImage ends one use of the image. The last one publishes what is still dirty and gives everything back.
func (t *Tree) leaveImage(ctx context.Context, n *node, writer bool) error {
	n.commit.Lock()
	defer n.commit.Unlock()
	t.mu.Lock()
	m, last, gone := n.img, n.opens == 1, n.gone()
	t.mu.Unlock()
	m.mu.Lock()
	if writer {
		m.writers--
	}
	// Memory that was mapped may be written after the close of its file.
	late := writer && m.writers == 0 && m.dirtyLocked() && !m.held
	m.mu.Unlock()
	var err error
	switch {
	case gone && last:
		err = t.forgetStage(ctx, n)
	case last || late:
		err = t.publish(ctx, n)
	}
	t.mu.Lock()
	n.opens--
	if n.opens > 0 {
		t.mu.Unlock()
		return err // opened again during the publish
	}
	n.img = nil
	if m.touched.Load() {
		n.cached = "" // the kernel's pages are those of content that is given up here
	}
	if n.info.Version == "" && !n.unlinked {
		// Never published: the name is free again.
		t.leave(n)
		n.unlinked = true
	}
	t.drop(n)
	t.mu.Unlock()
	m.close()
	return err
}

// Open opens a file. With O_TRUNC it is emptied; the empty version is published with the first close after a write,
// or with the last close.
func (t *Tree) Open(ctx context.Context, id uint64, flags uint32, kill bool) (Opened, error) {
	n, err := t.node(id)
	if err != nil {
		return Opened{}, err
	}
	if writes(flags) || flags&syscall.O_TRUNC != 0 {
		if err := t.writable(); err != nil {
			return Opened{}, err
		}
	}
	// A commit that a close before has started is waited for.
	n.commit.Lock()
	m, err := t.acquire(ctx, n)
	n.commit.Unlock()
	if err != nil {
		return Opened{}, err
	}
	if flags&syscall.O_TRUNC != 0 {
		if err := m.resize(ctx, 0, true, kill); err != nil {
			return Opened{}, errors.Join(err, t.leaveImage(ctx, n, false))
		}
	}
	return t.open(n, m, flags), nil
}

func (t *Tree) open(n *node, m *image, flags uint32) Opened {
	h := &handle{
		node: n, append: flags&syscall.O_APPEND != 0, write: writes(flags),
		read: &windows{budget: t.ahead, wg: &t.workers, size: firstWindow},
	}
	m.mu.Lock()
	if h.write {
		m.writers++
	}
	version := m.base.Version
	m.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.nextHandle
	t.nextHandle++
	t.handles[id] = h
	keep := n.cached == version || n.opens > 1
	n.cached = version
	if keep {
		m.kept.Store(true)
	}
	return Opened{Handle: id, Keep: keep}
}

// Create makes a file and opens it. It exists for this mount at once and for all others when it is closed.
func (t *Tree) Create(ctx context.Context, parent uint64, name string, mode, uid, gid, flags uint32) (Entry, Opened, error) {
	if err := t.writable(); err != nil {
		return Entry{}, Opened{}, err
	}
	dir, err := t.dirNode(parent)
	if err != nil {
		return Entry{}, Opened{}, err
	}
	seg, err := t.segment(ctx, dir, name)
	if err != nil {
		return Entry{}, Opened{}, newName(err)
	}
	if n, err := t.existing(ctx, dir, name, seg); err != nil {
		return Entry{}, Opened{}, err
	} else if n != nil {
		if flags&syscall.O_EXCL != 0 {
			return Entry{}, Opened{}, ErrExists
		}
		e := t.entry(n)
		o, err := t.Open(ctx, n.id, flags, false)
		if err != nil {
			t.Forget(e.Node, 1)
			return Entry{}, Opened{}, err
		}
		return e, o, nil
	}
	now := time.Now()
	attr := Attr{Mode: syscall.S_IFREG | mode&^syscall.S_IFMT, UID: uid, GID: gid, Mtime: now, Atime: now, Ctime: now}
	t.mu.Lock()
	if dir.gone() {
		t.mu.Unlock()
		return Entry{}, Opened{}, ErrNotExist
	}
	if dir.children[childName{seg.name, false}] != nil {
		t.mu.Unlock()
		return Entry{}, Opened{}, ErrExists
	}
	n := t.add(dir, seg.name, false, newInode())
	n.opens++
	m := newImage(t, n, Info{Attr: attr})
	m.changes, m.held, m.exclusive = 1, true, flags&syscall.O_EXCL != 0
	m.touched.Store(true)
	n.img = m
	dir.touched = now
	t.mu.Unlock()
	return t.entry(n), t.open(n, m, flags), nil
}

// existing is the node that a name to create has already; nil when it is free.
func (t *Tree) existing(ctx context.Context, dir *node, name string, seg segment) (*node, error) {
	t.mu.Lock()
	missed := dir.missed == childName{seg.name, false} && time.Since(dir.missedAt) < missTrusted && !seg.file &&
		dir.children[dir.missed] == nil && dir.children[childName{seg.name, true}] == nil
	t.mu.Unlock()
	if missed {
		return nil, nil
	}
	n, err := t.find(ctx, dir, name)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	return n, err
}

// newName is the error for a name that no new file can have.
func newName(err error) error {
	if errors.Is(err, ErrNotExist) {
		return ErrInvalid
	}
	return err
}

func (t *Tree) handle(id uint64) (*handle, *image, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.handles[id]
	if h == nil {
		return nil, nil, ErrBadHandle
	}
	return h, h.node.img, nil
}

// Read fills p from off; fewer bytes mean the end of the file.
func (t *Tree) Read(ctx context.Context, id uint64, p []byte, off int64) (int, error) {
	h, m, err := t.handle(id)
	if err != nil {
		return 0, err
	}
	w := h.read
	if t.config.ReadMemory < 0 {
		w = nil
	}
	for attempt := 1; ; attempt++ {
		n, err := m.read(ctx, w, p, off)
		if !errors.Is(err, ErrStale) || attempt == attempts {
			return n, err
		}
		// A publish or a rename of this file may have replaced the version in the store, and not yet here; or the store
		// does not hold the version open any more.
		h.node.waitCommit()
	}
}

// waitCommit returns after the commit that is under way.
func (n *node) waitCommit() {
	n.commit.Lock()
	defer n.commit.Unlock()
}

// Write puts p at off, or at the end for a handle opened with O_APPEND. It waits for memory.
func (t *Tree) Write(ctx context.Context, id uint64, p []byte, off int64, kill bool) (int, error) {
	h, m, err := t.handle(id)
	if err != nil {
		return 0, err
	}
	if !h.write {
		return 0, ErrBadHandle
	}
	return m.write(ctx, p, off, h.append, kill)
}

// Flush is close(2) of one descriptor, of which a handle may have several: it publishes what was written and returns
// why that failed.
func (t *Tree) Flush(ctx context.Context, id uint64) error {
	h, m, err := t.handle(id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	nothing := !m.dirtyLocked() || m.held
	m.mu.Unlock()
	if nothing || !h.write {
		return nil
	}
	h.node.commit.Lock()
	defer h.node.commit.Unlock()
	return t.publish(ctx, h.node)
}

// Fsync makes the content durable without publishing it.
func (t *Tree) Fsync(ctx context.Context, id uint64) error {
	h, _, err := t.handle(id)
	if err != nil {
		return err
	}
	h.node.commit.Lock()
	defer h.node.commit.Unlock()
	return t.stage(ctx, h.node)
}

// Release ends a handle. An error here has no caller to go to, so it is logged as well.
func (t *Tree) Release(ctx context.Context, id uint64) error {
	t.mu.Lock()
	h := t.handles[id]
	delete(t.handles, id)
	t.mu.Unlock()
	if h == nil {
		return ErrBadHandle
	}
	h.read.close()
	err := t.leaveImage(ctx, h.node, h.write)
	if err != nil {
		t.log.Error("content was not published at the last close", "key", t.keyOf(h.node), "err", err)
	}
	return err
}

// Allocate is fallocate(2): it lengthens the file or makes holes; space is not reserved.
func (t *Tree) Allocate(ctx context.Context, id uint64, off, n int64, mode uint32) error {
	const keep, punch, zero = 1, 2, 16 // FALLOC_FL_*
	h, m, err := t.handle(id)
	if err != nil {
		return err
	}
	if !h.write {
		return ErrBadHandle
	}
	switch {
	case off < 0 || n <= 0 || off > maxFile-n:
		return ErrTooLarge
	case mode == 0:
		if size := m.size(); off+n > size {
			return m.resize(ctx, off+n, false, false)
		}
		return nil
	case mode == keep:
		return nil
	case mode == punch|keep, mode == zero|keep:
		return m.punch(ctx, off, n, false, false)
	case mode == zero:
		return m.punch(ctx, off, n, true, false)
	}
	return ErrUnsupported
}

// Seek finds the next data, or the next hole, at or after off; ErrNoData behind the end.
func (t *Tree) Seek(id uint64, off int64, hole bool) (int64, error) {
	_, m, err := t.handle(id)
	if err != nil {
		return 0, err
	}
	return m.seek(off, hole)
}
