package tree

import (
	"context"
	"errors"
	"hash/fnv"
	"maps"
	"strings"
	"syscall"
	"time"
)

// Stat is what stat(2) shows of a node.
type Stat struct {
	Inode               uint64
	Size                int64
	Mode                uint32 // with the type bits
	Links               uint32
	UID, GID            uint32
	Rdev                uint32
	Mtime, Atime, Ctime time.Time
}

// Entry is a name that was found: the kernel's node id and its attributes. Each Entry counts as one lookup until
// Forget.
type Entry struct {
	Node uint64
	Stat Stat
}

// Change is a set of new attributes; nil fields stay.
type Change struct {
	Mode         *uint32 // permission bits
	UID, GID     *uint32
	Size         *int64
	Mtime, Atime *time.Time
	// Kill clears set-user-id and, with group execute, set-group-id.
	Kill bool
	// Handle is the open handle through which the size changes: the new content is published when it is closed.
	// Zero: by name; published at once unless somebody has the file open for writing.
	Handle uint64
}

func (c Change) empty() bool {
	return c.Mode == nil && c.UID == nil && c.GID == nil && c.Mtime == nil && c.Atime == nil && !c.Kill
}

// apply changes attributes other than the size.
func (c Change) apply(a Attr) Attr {
	a.Ctime = time.Now()
	if c.Mode != nil {
		a.Mode = a.Mode&syscall.S_IFMT | *c.Mode&^syscall.S_IFMT
	}
	if c.UID != nil || c.GID != nil || c.Kill {
		if c.Mode == nil {
			a.Mode = killPrivileges(a.Mode)
		}
	}
	if c.UID != nil {
		a.UID = *c.UID
	}
	if c.GID != nil {
		a.GID = *c.GID
	}
	if c.Mtime != nil {
		a.Mtime = *c.Mtime
	}
	if c.Atime != nil {
		a.Atime = *c.Atime
	}
	return a
}

// inodeOf is the inode number of a key that carries none: always the same, on every mount.
func inodeOf(key string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // a hash never fails
	if sum := h.Sum64() &^ (1 << 63); sum > rootID {
		return sum
	}
	return rootID + 1
}

// complete gives an object that no mount touched the attributes that it shows.
func (t *Tree) complete(a Attr, dir bool) Attr {
	if a.Mode != 0 {
		return a
	}
	a.UID, a.GID = t.config.UID, t.config.GID
	a.Mode = syscall.S_IFREG | 0o666&^t.config.Umask
	if dir {
		a.Mode = syscall.S_IFDIR | 0o777&^t.config.Umask
	}
	if a.Mtime.IsZero() {
		a.Mtime = t.started
	}
	return a
}

// statLocked wants Tree.mu; content, when not nil, is the size and attributes of the image.
func (t *Tree) statLocked(n *node, content *Info) Stat {
	info := n.info
	if content != nil {
		info = *content
	}
	a := t.complete(info.Attr, n.dir)
	s := Stat{
		Inode: n.ino, Size: info.Size, Mode: a.Mode, Links: 1, UID: a.UID, GID: a.GID, Rdev: a.Rdev,
		Mtime: a.Mtime, Atime: a.Atime, Ctime: a.Ctime,
	}
	if s.Atime.IsZero() {
		s.Atime = s.Mtime
	}
	if s.Ctime.IsZero() {
		s.Ctime = s.Mtime
	}
	if n.dir {
		s.Links, s.Size = 2, 4096
		if n.touched.After(s.Mtime) {
			s.Mtime, s.Ctime = n.touched, n.touched
		}
	}
	if n.unlinked {
		s.Links = 0
	}
	return s
}

// stat is the node as it is now, its unpublished content included.
func (t *Tree) stat(n *node) Stat {
	content := t.content(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.statLocked(n, content)
}

// content is the size and attributes of an image that differs from the published version, else nil.
func (t *Tree) content(n *node) *Info {
	t.mu.Lock()
	m := n.img
	t.mu.Unlock()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirtyLocked() && m.base.Version == "" {
		return nil
	}
	info := m.base
	info.Size, info.Attr = m.ext.size(), m.attr
	return &info
}

// GetAttr is stat(2) of a node.
func (t *Tree) GetAttr(ctx context.Context, id uint64) (Stat, error) {
	n, err := t.node(id)
	if err != nil {
		return Stat{}, err
	}
	t.mu.Lock()
	m, known := n.img, n.opens > 0 || n.unlinked || n.parent == nil
	t.mu.Unlock()
	switch {
	case m != nil:
		err = t.refreshOpen(ctx, n, m)
	case !known:
		err = t.refresh(ctx, n)
	}
	if err != nil {
		return Stat{}, err
	}
	return t.stat(n), nil
}

// refresh asks the store what the node is now.
func (t *Tree) refresh(ctx context.Context, n *node) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	key, seq, gone := n.key(), n.seq, n.gone()
	t.mu.Unlock()
	if gone {
		return nil
	}
	info, err := t.objects.Stat(ctx, key)
	switch {
	case errors.Is(err, ErrNotExist) && n.dir:
		return nil // a directory that is only a prefix
	case errors.Is(err, ErrNotExist):
		t.mu.Lock()
		moved := n.seq != seq || n.img != nil
		t.mu.Unlock()
		if moved {
			return nil // renamed or published meanwhile
		}
		return ErrStale
	case err != nil:
		return wrap("stat", key, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.seq == seq && n.img == nil {
		n.info, n.moved = info, false
	}
	return nil
}

// SetAttr changes attributes and the size. Changes of a file with unpublished content wait for its publish; others are
// stored at once.
func (t *Tree) SetAttr(ctx context.Context, id uint64, c Change) (Stat, error) {
	if err := t.writable(); err != nil {
		return Stat{}, err
	}
	n, err := t.node(id)
	if err != nil {
		return Stat{}, err
	}
	if c.Size != nil {
		if err := t.setSize(ctx, n, c); err != nil {
			return Stat{}, err
		}
		c.Size, c.Kill = nil, false
	}
	if !c.empty() {
		if err := t.edit(ctx, n, func(a Attr) (Attr, error) { return c.apply(a), nil }); err != nil {
			return Stat{}, err
		}
	}
	if n.dir && c.Mtime != nil {
		t.mu.Lock()
		n.touched = time.Time{} // what was set explicitly counts, until the next change of an entry
		t.mu.Unlock()
	}
	return t.stat(n), nil
}

func (t *Tree) setSize(ctx context.Context, n *node, c Change) error {
	if n.dir {
		return ErrIsDir
	}
	m, err := t.acquire(ctx, n)
	if err != nil {
		return err
	}
	size := *c.Size
	m.mu.Lock()
	same := size == m.ext.size()
	m.mu.Unlock()
	if !same {
		err = m.resize(ctx, size, c.Handle != 0, c.Kill)
	} else if c.Mtime == nil {
		now := time.Now()
		err = t.edit(ctx, n, func(a Attr) (Attr, error) {
			a.Mtime, a.Ctime = now, now
			if c.Kill {
				a.Mode = killPrivileges(a.Mode)
			}
			return a, nil
		})
	}
	if err == nil && !same && c.Handle == 0 {
		m.mu.Lock()
		waits := m.writers > 0
		if !waits && c.Mtime != nil {
			m.attr = Change{Mtime: c.Mtime}.apply(m.attr)
		}
		m.mu.Unlock()
		if !waits {
			n.commit.Lock()
			err = t.publish(ctx, n)
			n.commit.Unlock()
		}
	}
	return errors.Join(err, t.leaveImage(ctx, n, false))
}

// edit changes attributes through fn: in the image when that is dirty, else in the store.
func (t *Tree) edit(ctx context.Context, n *node, fn func(Attr) (Attr, error)) error {
	n.commit.Lock()
	defer n.commit.Unlock()
	t.mu.Lock()
	m, gone := n.img, n.gone()
	t.mu.Unlock()
	if m != nil {
		m.mu.Lock()
		if m.dirtyLocked() || gone {
			a, err := fn(t.complete(m.attr, n.dir))
			if err == nil {
				m.attr = a
				m.changes++
				m.touched.Store(true)
			}
			m.mu.Unlock()
			return err
		}
		m.mu.Unlock()
	}
	if n.parent == nil || gone {
		return t.editLocal(n, fn)
	}
	return t.editStored(ctx, n, fn)
}

// editLocal changes what only this mount knows: the root, which is no object, and directories that were removed.
func (t *Tree) editLocal(n *node, fn func(Attr) (Attr, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, err := fn(t.complete(n.info.Attr, n.dir))
	if err == nil {
		n.info.Attr = a
	}
	return err
}

// at tells whether v is the version that the image is based on.
func (m *image) at(v Version) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.base.Version == v
}

// editAlone changes the attributes of an open file whose object was replaced or removed elsewhere, as those of an unlinked
// file: what is under its name now is another file.
func (m *image) editAlone(fn func(Attr) (Attr, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := fn(m.tree.complete(m.attr, false))
	if err == nil {
		m.attr = a
		m.stores++
	}
	return err
}

func (t *Tree) editStored(ctx context.Context, n *node, fn func(Attr) (Attr, error)) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	key, info := n.key(), n.info
	t.mu.Unlock()
	// Somebody else may change the attributes at the same time; four times in a row is a quarrel.
	for range 4 {
		if info.Version == "" {
			found, err := t.objects.Stat(ctx, key)
			if errors.Is(err, ErrNotExist) && n.dir {
				return t.makeMarker(ctx, n, key, fn)
			}
			if m := t.imageOf(n); m != nil && (err == nil || errors.Is(err, ErrNotExist)) && !m.at(found.Version) {
				return m.editAlone(fn)
			}
			if err != nil {
				return wrap("stat", key, err)
			}
			info = found
		}
		a, err := fn(t.complete(info.Attr, n.dir))
		if err != nil {
			return err
		}
		a.Inode = n.ino
		a.Xattrs = maps.Clone(a.Xattrs)
		after, err := t.objects.SetAttr(ctx, key, info.Version, a)
		if err == nil {
			t.stored(n, after)
			return nil
		}
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotExist) {
			return wrap("set attributes of", key, err)
		}
		info = Info{}
	}
	return wrap("set attributes of", key, ErrConflict)
}

// makeMarker gives a directory that is only a prefix an object to keep its attributes on.
func (t *Tree) makeMarker(ctx context.Context, n *node, key string, fn func(Attr) (Attr, error)) error {
	a, err := fn(t.complete(Attr{}, true))
	if err != nil {
		return err
	}
	a.Inode = n.ino
	info, err := t.objects.Publish(ctx, File{Key: key, Attr: a, Cond: Cond{Absent: true}, Inode: n.ino})
	if err != nil {
		return wrap("make directory", strings.TrimSuffix(key, "/"), err)
	}
	t.stored(n, info)
	return nil
}

// stored notes a version that was made here without new content.
func (t *Tree) stored(n *node, info Info) {
	t.mu.Lock()
	n.info, n.moved = info, false
	n.seq++
	m := n.img
	t.mu.Unlock()
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// The bytes are those of the version before, so an open reader of it goes on.
	m.base = info
	m.stores++
	if !m.dirtyLocked() {
		m.attr = info.Attr
	}
}

// fresh is how long the attributes of an open file count as known.
const fresh = time.Second

// refreshOpen asks for the attributes of a clean open file, if they were not asked for just now: another client may have
// changed them. What an object that replaced this one has is not looked at.
func (t *Tree) refreshOpen(ctx context.Context, n *node, m *image) error {
	m.mu.Lock()
	now := time.Now()
	due := !m.dirtyLocked() && m.base.Version != "" && now.Sub(m.asked) >= fresh
	stores := m.stores
	if due {
		m.asked = now
	}
	m.mu.Unlock()
	if !due {
		return nil
	}
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	key, gone := n.key(), n.gone() || n.detached
	t.mu.Unlock()
	if gone {
		return nil
	}
	info, err := t.objects.Stat(ctx, key)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return wrap("stat", key, err)
	}
	m.learn(info, stores)
	return nil
}

// learn takes over the attributes of the base version as they were found, unless they were changed here meanwhile.
func (m *image) learn(info Info, stores uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stores == stores && m.base.Version == info.Version && !m.dirtyLocked() {
		m.base, m.attr = info, info.Attr
	}
}
