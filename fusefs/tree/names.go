package tree

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// Special is what a name to make shall be.
type Special struct {
	Mode     uint32 // with the type bits
	UID, GID uint32
	Rdev     uint32
	Target   string // of a symlink
}

// Make creates a directory, symbolic link, device, pipe, socket or an empty file; it is stored when Make returns.
func (t *Tree) Make(ctx context.Context, parent uint64, name string, what Special) (Entry, error) {
	if err := t.writable(); err != nil {
		return Entry{}, err
	}
	dir, err := t.dirNode(parent)
	if err != nil {
		return Entry{}, err
	}
	seg, err := t.segment(ctx, dir, name)
	if err != nil {
		return Entry{}, newName(err)
	}
	isDir := what.Mode&syscall.S_IFMT == syscall.S_IFDIR
	if seg.file && isDir {
		return Entry{}, ErrInvalid
	}
	if n, err := t.existing(ctx, dir, name, seg); err != nil {
		return Entry{}, err
	} else if n != nil {
		return Entry{}, ErrExists
	}
	now := time.Now()
	f := File{Data: []byte(what.Target), Cond: Cond{Absent: true}, Inode: newInode(), Attr: Attr{
		Mode: what.Mode, UID: what.UID, GID: what.GID, Rdev: what.Rdev, Target: what.Target, Mtime: now, Atime: now, Ctime: now,
	}}
	f.Attr.Inode = f.Inode
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	gone := dir.gone()
	c := childName{seg.name, isDir}
	f.Key = childKey(dir, c)
	t.mu.Unlock()
	if gone {
		return Entry{}, ErrNotExist
	}
	if len(f.Key) > maxKey {
		return Entry{}, ErrNameTooLong
	}
	info, err := t.objects.Publish(ctx, f)
	if err != nil {
		return Entry{}, wrap("make", f.Key, err)
	}
	t.mu.Lock()
	n := t.upsertLocked(dir, c, info)
	n.seq++
	dir.touched = now
	t.mu.Unlock()
	return t.entry(n), nil
}

// Readlink is the target of a symbolic link.
func (t *Tree) Readlink(ctx context.Context, id uint64) (string, error) {
	n, err := t.node(id)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.info.Attr.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		return "", ErrInvalid
	}
	return n.info.Attr.Target, nil
}

// Unlink removes the name of a file. Open handles keep the content until they are closed.
func (t *Tree) Unlink(ctx context.Context, parent uint64, name string) error {
	if err := t.writable(); err != nil {
		return err
	}
	dir, err := t.dirNode(parent)
	if err != nil {
		return err
	}
	n, err := t.find(ctx, dir, name)
	if err != nil {
		return err
	}
	if n.dir {
		return ErrIsDir
	}
	if err := t.keepDir(ctx, dir); err != nil {
		return err
	}
	n.commit.Lock()
	defer n.commit.Unlock()
	t.moves.RLock()
	defer t.moves.RUnlock()
	if err := t.remove(ctx, n); err != nil {
		return err
	}
	t.mu.Lock()
	t.unlinkLocked(n)
	dir.touched = time.Now()
	t.mu.Unlock()
	return nil
}

// remove deletes the object of a file, if it has one.
func (t *Tree) remove(ctx context.Context, n *node) error {
	if err := t.pin(ctx, n); err != nil {
		return err
	}
	t.mu.Lock()
	key, published := n.key(), n.info.Version != ""
	t.mu.Unlock()
	if !published {
		return t.forgetStage(ctx, n)
	}
	if err := t.objects.Remove(ctx, key, false); err != nil {
		return wrap("remove", key, err)
	}
	t.forgetLater(ctx, n)
	return nil
}

// forgetLater drops the stage of a file whose version is gone: it cannot be published any more, so an error here undoes
// nothing, and the last close tries again.
func (t *Tree) forgetLater(ctx context.Context, n *node) {
	if err := t.forgetStage(ctx, n); err != nil {
		t.log.Warn("sync of a removed file is still stored", "key", t.keyOf(n), "err", err)
	}
}

// pin keeps the content of an open file readable before its name goes; the caller holds moves.
func (t *Tree) pin(ctx context.Context, n *node) error {
	if m := t.imageOf(n); m != nil {
		return m.pinMoving(ctx)
	}
	return nil
}

func (t *Tree) unlinkLocked(n *node) {
	t.leave(n)
	n.unlinked = true
	n.seq++
	t.drop(n)
}

// keepDir gives a directory that exists only through its keys a marker, before one of them goes: a directory does not
// disappear with its last file.
func (t *Tree) keepDir(ctx context.Context, dir *node) error {
	t.mu.Lock()
	needed := dir.parent != nil && dir.info.Version == "" && !dir.gone()
	t.mu.Unlock()
	if !needed {
		return nil
	}
	dir.commit.Lock()
	defer dir.commit.Unlock()
	t.moves.RLock()
	defer t.moves.RUnlock()
	key := t.keyOf(dir)
	err := t.makeMarker(ctx, dir, key, func(a Attr) (Attr, error) { return a, nil })
	if !errors.Is(err, ErrExists) {
		return err
	}
	info, err := t.objects.Stat(ctx, key)
	if err != nil {
		return wrap("stat", key, err)
	}
	t.stored(dir, info)
	return nil
}

// Rmdir removes an empty directory. Whether it is empty is decided where the keys are.
func (t *Tree) Rmdir(ctx context.Context, parent uint64, name string) error {
	if err := t.writable(); err != nil {
		return err
	}
	dir, err := t.dirNode(parent)
	if err != nil {
		return err
	}
	n, err := t.find(ctx, dir, name)
	if err != nil {
		return err
	}
	if !n.dir {
		return ErrNotDir
	}
	if err := t.keepDir(ctx, dir); err != nil {
		return err
	}
	n.commit.Lock()
	defer n.commit.Unlock()
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	key, busy := n.key(), n.info.Size > 0
	for _, c := range n.children {
		busy = busy || c.pending()
	}
	t.mu.Unlock()
	if busy {
		return ErrDirNotEmpty // files that are not published yet, or a marker with content of its own
	}
	if err := t.objects.Remove(ctx, key, true); err != nil {
		return wrap("remove directory", key, err)
	}
	t.mu.Lock()
	t.unlinkLocked(n)
	dir.touched = time.Now()
	t.mu.Unlock()
	return nil
}
