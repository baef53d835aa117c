package tree

import (
	"context"
	"errors"
	"strings"
	"time"
)

// NoReplace is the flag of Rename that refuses an existing target.
const NoReplace = 1 // RENAME_NOREPLACE

// Rename moves a name. Content that is not published yet follows its file.
func (t *Tree) Rename(ctx context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) error {
	if err := t.writable(); err != nil {
		return err
	}
	if flags&^NoReplace != 0 {
		return ErrInvalid // RENAME_EXCHANGE and RENAME_WHITEOUT: see SEMANTICS.md
	}
	from, err := t.dirNode(parent)
	if err != nil {
		return err
	}
	to, err := t.dirNode(newParent)
	if err != nil {
		return err
	}
	n, err := t.find(ctx, from, name)
	if err != nil {
		return err
	}
	seg, err := t.segment(ctx, to, newName)
	if errors.Is(err, ErrNotExist) {
		return ErrInvalid
	}
	if err != nil {
		return err
	}
	old, err := t.find(ctx, to, newName)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	switch {
	case old == n && n != nil:
		return nil
	case old != nil && flags&NoReplace != 0:
		return ErrExists
	case old != nil && old.dir && !n.dir:
		return ErrIsDir
	case old != nil && !old.dir && n.dir:
		return ErrNotDir
	}
	if err := t.keepDir(ctx, from); err != nil {
		return err
	}
	if n.dir {
		return t.renameDir(ctx, n, from, to, old, seg.name)
	}
	return t.renameFile(ctx, n, from, to, old, seg.name, flags&NoReplace != 0)
}

// lockBoth takes the commit locks of two nodes in the order of their ids; b may be nil.
func lockBoth(a, b *node) (unlock func()) {
	if b == nil {
		a.commit.Lock()
		return a.commit.Unlock
	}
	first, second := a, b
	if b.id < a.id {
		first, second = b, a
	}
	first.commit.Lock()
	second.commit.Lock()
	return func() {
		second.commit.Unlock()
		first.commit.Unlock()
	}
}

func (t *Tree) renameFile(ctx context.Context, n, from, to, old *node, name string, noReplace bool) error {
	defer lockBoth(n, old)()
	if old == nil {
		if err := t.moveFile(ctx, n, from, to, nil, name, noReplace); err != nil {
			return err
		}
		return t.restage(ctx, n)
	}
	if err := t.publishFirst(ctx, n, old); err != nil {
		return err
	}
	forgotten, err := t.forgetFirst(ctx, old)
	if err != nil {
		return err
	}
	if err := t.moveFile(ctx, n, from, to, old, name, noReplace); err != nil {
		if forgotten {
			err = errors.Join(err, t.stage(ctx, old)) // what was synced stays synced
		}
		return err
	}
	t.forgetLater(ctx, old)
	return t.restage(ctx, n)
}

// forgetFirst drops the stage of a file that was never published, before another gets its name: afterwards nothing would
// keep the stage from being published there.
func (t *Tree) forgetFirst(ctx context.Context, old *node) (bool, error) {
	t.mu.Lock()
	m, needed := old.img, old.info.Version == ""
	t.mu.Unlock()
	if m == nil || !needed {
		return false, nil
	}
	m.mu.Lock()
	staged := m.stageKey != ""
	m.mu.Unlock()
	return staged, t.forgetStage(ctx, old)
}

// publishFirst publishes a file that exists only here before it replaces one that exists for all: otherwise the target's
// old content would be under its name until the file is closed, and come back if it is renamed again before.
func (t *Tree) publishFirst(ctx context.Context, n, old *node) error {
	t.mu.Lock()
	needed := n.info.Version == "" && old.info.Version != ""
	t.mu.Unlock()
	if !needed {
		return nil
	}
	return t.publish(ctx, n)
}

func (t *Tree) moveFile(ctx context.Context, n, from, to, old *node, name string, noReplace bool) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	gone := n.unlinked || to.gone()
	source, target := n.key(), to.key()+name
	published := n.info.Version != ""
	t.mu.Unlock()
	if gone {
		return ErrNotExist
	}
	if len(target) > maxKey {
		return ErrNameTooLong
	}
	if old != nil {
		if err := t.pin(ctx, old); err != nil {
			return err
		}
	}
	now := time.Now()
	var info Info
	if published {
		var err error
		if info, err = t.renameObject(ctx, n, source, target, noReplace); err != nil {
			return wrap("rename", source, err)
		}
		t.carried(n, info)
	} else if m := t.imageOf(n); m != nil {
		// The publish replaces what is under the new name then; a target that must not exist is asked for there.
		m.renamed(noReplace, now)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if old != nil {
		t.unlinkLocked(old)
	}
	t.move(n, to, name)
	n.seq++
	if n.cached != "" && published {
		n.cached = info.Version
	}
	from.touched, to.touched = now, now
	return nil
}

// renameObject renames a published file. When its answer was lost and the store does not remember the request any more,
// the inode number under the new name tells that it was done.
func (t *Tree) renameObject(ctx context.Context, n *node, source, target string, noReplace bool) (Info, error) {
	info, err := t.objects.Rename(ctx, source, target, noReplace)
	if !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrExists) {
		return info, err
	}
	t.mu.Lock()
	before := n.info
	t.mu.Unlock()
	there, statErr := t.objects.Stat(ctx, target)
	if statErr == nil && before.Attr.Inode != 0 && there.Attr.Inode == before.Attr.Inode && there.Size == before.Size && there.ETag == before.ETag {
		return there, nil
	}
	return info, err
}

func (t *Tree) renameDir(ctx context.Context, n, from, to, old *node, name string) error {
	defer lockBoth(n, old)()
	open, err := t.moveDir(ctx, n, from, to, old, name)
	if err != nil {
		return err
	}
	// What is synced and not published goes to the new names too.
	for _, f := range open {
		f.commit.Lock()
		err := t.restage(ctx, f)
		f.commit.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// moveDir returns the files that were open below the directory.
func (t *Tree) moveDir(ctx context.Context, n, from, to, old *node, name string) ([]*node, error) {
	t.moves.Lock() // no commit below may compute its key before and use it after
	defer t.moves.Unlock()
	t.mu.Lock()
	source, target := n.key(), to.key()+name+"/"
	gone := n.unlinked || to.gone()
	busy := false
	if old != nil {
		busy = old.info.Size > 0
		for _, c := range old.children {
			busy = busy || c.pending()
		}
	}
	t.mu.Unlock()
	switch {
	case gone:
		return nil, ErrNotExist
	case strings.HasPrefix(target, source):
		return nil, ErrInvalid
	case busy:
		return nil, ErrDirNotEmpty
	case len(target) > maxKey:
		return nil, ErrNameTooLong
	}
	for _, f := range t.openBelow(n) {
		if err := t.pin(ctx, f); err != nil {
			return nil, err
		}
	}
	if err := t.renamePrefix(ctx, n, source, target); err != nil {
		return nil, wrap("rename directory", source, err)
	}
	t.mu.Lock()
	if old != nil {
		t.unlinkLocked(old)
	}
	t.move(n, to, name)
	t.movedLocked(n)
	now := time.Now()
	from.touched, to.touched = now, now
	t.mu.Unlock()
	open := t.openBelow(n) // with those that were opened meanwhile
	return open, t.follow(ctx, open)
}

// renamePrefix renames the keys of a directory. When its answer was lost and the request was made again, nothing is left
// under the old name, and the inode number of the marker under the new one tells that it was done.
func (t *Tree) renamePrefix(ctx context.Context, n *node, source, target string) error {
	err := t.objects.RenamePrefix(ctx, source, target)
	if !errors.Is(err, ErrNotExist) {
		return err
	}
	t.mu.Lock()
	ino := n.info.Attr.Inode
	t.mu.Unlock()
	if there, statErr := t.objects.Stat(ctx, target); statErr == nil && ino != 0 && there.Attr.Inode == ino {
		return nil
	}
	return err
}

// openBelow is every open file below a directory.
func (t *Tree) openBelow(dir *node) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*node
	for _, n := range t.byID {
		if n.img == nil || n.unlinked {
			continue
		}
		for at := n.parent; at != nil; at = at.parent {
			if at == dir {
				out = append(out, n)
			}
		}
	}
	return out
}

// follow gives open files the versions that they have under their new names.
func (t *Tree) follow(ctx context.Context, open []*node) error {
	for _, n := range open {
		t.mu.Lock()
		key, published := n.key(), n.info.Version != ""
		t.mu.Unlock()
		if !published {
			continue // not published yet
		}
		info, err := t.objects.Stat(ctx, key)
		if errors.Is(err, ErrNotExist) {
			continue // removed elsewhere meanwhile: its next publish makes it again
		}
		if err != nil {
			return wrap("stat", key, err)
		}
		t.carried(n, info)
	}
	return nil
}

// carried notes the version that a file has under its new name. If the object was replaced elsewhere while the file is open
// here, that is another content: the image stays with the version it has.
func (t *Tree) carried(n *node, info Info) {
	t.mu.Lock()
	before := n.info
	t.mu.Unlock()
	if info.Size == before.Size && info.ETag == before.ETag {
		t.stored(n, info)
	}
}

// movedLocked marks everything below a directory: its versions have other ids under their new names.
func (t *Tree) movedLocked(n *node) {
	n.seq++
	n.moved = true
	for _, c := range n.children {
		t.movedLocked(c)
	}
}
