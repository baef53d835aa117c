package tree

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// missTrusted is how long a create believes the lookup that the kernel sent right before it. The publish asks again.
const missTrusted = 100 * time.Millisecond

// Lookup finds a name in a directory.
func (t *Tree) Lookup(ctx context.Context, parent uint64, name string) (Entry, error) {
	dir, err := t.dirNode(parent)
	if err != nil {
		return Entry{}, err
	}
	n, err := t.find(ctx, dir, name)
	if err != nil {
		return Entry{}, err
	}
	return t.entry(n), nil
}

// entry counts a lookup of n.
func (t *Tree) entry(n *node) Entry {
	content := t.content(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[n.id] != n {
		n = t.restoreLocked(n)
	}
	n.lookups++
	return Entry{Node: n.id, Stat: t.statLocked(n, content)}
}

// restoreLocked puts a node back that was forgotten between its find and its entry, unless another lookup of the same name
// made it again meanwhile.
func (t *Tree) restoreLocked(n *node) *node {
	if c := (childName{n.name, n.dir}); !n.unlinked && !n.detached && n.parent != nil {
		if now := n.parent.children[c]; now != nil {
			return now
		}
		n.parent.children[c] = n
	}
	if t.byID[n.id] != nil {
		n.id = t.freshID(n.ino)
	}
	t.byID[n.id] = n
	return n
}

// find is the node that a name in dir stands for.
func (t *Tree) find(ctx context.Context, dir *node, name string) (*node, error) {
	seg, err := t.segment(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	t.moves.RLock()
	defer t.moves.RUnlock()
	for {
		t.mu.Lock()
		if dir.gone() {
			t.mu.Unlock()
			return nil, ErrNotExist
		}
		file := dir.children[childName{seg.name, false}]
		if file != nil && t.ownLocked(file) && (seg.file || dir.children[childName{seg.name, true}] == nil) {
			t.mu.Unlock()
			return file, nil
		}
		before := dir.versionsOf(seg.name)
		key := dir.key() + seg.name
		var m *image
		if file != nil {
			m = file.img
		}
		t.mu.Unlock()
		var stores uint64
		if m != nil {
			stores = m.storeCount()
		}

		found, err := t.look(ctx, key, seg.file)
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		if dir.versionsOf(seg.name) != before {
			t.mu.Unlock()
			continue // committed here meanwhile: what was found may be older
		}
		n := t.foundLocked(dir, seg, found)
		t.mu.Unlock()
		if n == nil {
			return nil, ErrNotExist
		}
		if n == file && m != nil {
			m.learn(*found.File, stores) // another client may have changed the attributes of the open version
		}
		return n, nil
	}
}

// named is what a directory has under one name, as this mount knows it.
type named struct {
	file, dir       *node
	fileSeq, dirSeq uint64
}

// versionsOf wants Tree.mu.
func (n *node) versionsOf(name string) named {
	v := named{file: n.children[childName{name, false}], dir: n.children[childName{name, true}]}
	if v.file != nil {
		v.fileSeq = v.file.seq
	}
	if v.dir != nil {
		v.dirSeq = v.dir.seq
	}
	return v
}

// ownLocked tells whether this mount knows better than the store what the file is: it has unpublished content.
func (t *Tree) ownLocked(n *node) bool {
	if n.img == nil {
		return false
	}
	if n.info.Version == "" {
		return true
	}
	return n.img.touched.Load()
}

// foundLocked is the node of what the store has under a name; nil when it has nothing.
func (t *Tree) foundLocked(dir *node, seg segment, found Found) *node {
	c := childName{seg.name, true}
	if found.Dir && !seg.file {
		var info Info
		if found.Marker != nil {
			info = *found.Marker
		}
		return t.upsertLocked(dir, c, info)
	}
	if old := dir.children[c]; old != nil && !seg.file {
		t.leave(old) // removed elsewhere
		old.detached = true
		t.drop(old)
	}
	c.dir = false
	if found.File == nil {
		if n := dir.children[c]; n != nil && !t.ownLocked(n) {
			// Removed elsewhere. Open handles keep it; without any the kernel forgets it.
			t.leave(n)
			n.detached = true
			t.drop(n)
		}
		dir.missed, dir.missedAt = c, time.Now()
		return nil
	}
	return t.upsertLocked(dir, c, *found.File)
}

// upsertLocked makes or refreshes a child. A file that was replaced elsewhere while it is open here becomes another
// node, so that who has it open goes on reading the version that was opened.
func (t *Tree) upsertLocked(dir *node, c childName, info Info) *node {
	n := dir.children[c]
	if n != nil && !c.dir && n.info.Version != info.Version && !t.ownLocked(n) && (n.opens > 0 || t.otherKind(n.info, info)) {
		t.leave(n)
		n.detached = true
		t.drop(n)
		n = nil
	}
	if n == nil {
		ino := info.Attr.Inode
		if ino == 0 {
			ino = inodeOf(childKey(dir, c))
		}
		n = t.add(dir, c.name, c.dir, ino)
	}
	if n.opens == 0 || c.dir {
		n.info, n.moved = info, false
	}
	return n
}

// otherKind tells whether the kernel must not take the new version for the inode it knows: the type changed, or the
// target of a symbolic link, which it keeps.
func (t *Tree) otherKind(before, after Info) bool {
	a, b := t.complete(before.Attr, false), t.complete(after.Attr, false)
	return a.Mode&syscall.S_IFMT != b.Mode&syscall.S_IFMT || a.Target != b.Target
}

func childKey(dir *node, c childName) string {
	if c.dir {
		return dir.key() + c.name + "/"
	}
	return dir.key() + c.name
}

// segment decodes a file name; a name for a long segment is looked for in the listing.
func (t *Tree) segment(ctx context.Context, dir *node, name string) (segment, error) {
	seg, err := unescapeName(name)
	if err != nil {
		if errors.Is(err, ErrInvalid) {
			err = ErrNotExist
		}
		return segment{}, err
	}
	if seg.digest == "" {
		if key := t.keyOf(dir) + seg.name; len(key) > maxKey {
			return segment{}, ErrNameTooLong
		}
		return seg, nil
	}
	prefix := t.keyOf(dir)
	for after := ""; ; {
		page, err := t.objects.List(ctx, prefix+seg.start, after, listPage)
		if err != nil {
			return segment{}, wrap("list", prefix, err)
		}
		for _, p := range page.Prefixes {
			page.Entries = append(page.Entries, Info{Key: strings.TrimSuffix(p, "/")})
		}
		for _, e := range page.Entries {
			if s := strings.TrimPrefix(e.Key, prefix); !strings.Contains(s, "/") && seg.matches(s) {
				return segment{name: s, file: seg.file}, nil
			}
		}
		if !page.Truncated {
			return segment{}, ErrNotExist
		}
		after = page.Next
	}
}

// look asks what a key is: an object, a directory or both.
func (t *Tree) look(ctx context.Context, key string, fileOnly bool) (Found, error) {
	if l, ok := t.objects.(Looker); ok {
		found, err := l.Look(ctx, key)
		return found, wrap("look up", key, err)
	}
	var found Found
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		found.File, err = t.statMaybe(ctx, key)
		return err
	})
	if !fileOnly && len(key) < maxKey {
		g.Go(func() (err error) {
			found.Marker, err = t.statMaybe(ctx, key+"/")
			return err
		})
		g.Go(func() (err error) {
			found.Dir, err = t.objects.Exists(ctx, key+"/")
			return err
		})
	}
	err := g.Wait()
	return found, wrap("look up", key, err)
}

func (t *Tree) statMaybe(ctx context.Context, key string) (*Info, error) {
	if key == "" {
		return nil, nil // the empty segment of the root is no key
	}
	info, err := t.objects.Stat(ctx, key)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &info, nil
}
