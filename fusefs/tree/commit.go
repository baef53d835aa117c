package tree

import (
	"context"
	"errors"
	"slices"
)

// snapshot is what one publish or stage puts into the store.
type snapshot struct {
	file File
	// based is set when pieces refer to the base version.
	based   bool
	gen     uint64
	changes uint64
}

// publish makes the dirty content of n its current version; the caller holds n.commit. A clean file, and one that was
// unlinked here, publishes nothing.
func (t *Tree) publish(ctx context.Context, n *node) error {
	m := n.img
	if m == nil || !m.dirty() {
		return nil
	}
	return t.commit(ctx, n, t.publishSnapshot)
}

// attempts is how often a commit is tried while other clients replace the object in between.
const attempts = 8

// commit takes snapshots of n until send has stored one. Another writer may be first: this one was asked to store its
// content too, so it replaces what that one stored, and the last close wins.
func (t *Tree) commit(ctx context.Context, n *node, send func(context.Context, *node, snapshot) error) error {
	m := n.img
	t.committing.Add(1)
	defer func() {
		t.committing.Add(-1)
		t.dirty.wake()
	}()
	for attempt := 1; ; attempt++ {
		snap, err := m.snapshot(ctx)
		if err != nil {
			return err
		}
		err = send(ctx, n, snap)
		m.unpin()
		if !errors.Is(err, ErrExists) && !errors.Is(err, ErrConflict) || attempt == attempts {
			return err
		}
		if err := t.overtake(ctx, n, snap, err); err != nil {
			return err
		}
	}
}

// overtake prepares the commit over what another writer stored under the key. Every commit names the version that it
// replaces, none is unconditional: one that arrives late, after its sender gave up and sent another, changes nothing.
func (t *Tree) overtake(ctx context.Context, n *node, snap snapshot, cause error) error {
	m := n.img
	t.mu.Lock()
	key, ino := n.key(), n.ino
	t.mu.Unlock()
	info, err := t.objects.Stat(ctx, key)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return wrap("stat", key, err)
	}
	m.mu.Lock()
	// With this inode number it is a commit of this file whose answer was lost.
	refused := m.exclusive && info.Version != "" && info.Attr.Inode != ino
	m.mu.Unlock()
	if refused {
		return cause
	}
	if snap.based {
		// Pieces can only refer to the version that is replaced.
		if err := m.absorb(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.overtaken, m.over = true, info.Version
	m.mu.Unlock()
	return nil
}

// publishSnapshot sends the snapshot under the name that the file has now, if it has one, and notes its version. Directory
// renames wait meanwhile: a publish must not bring a moved key back, nor a moved file get the version it had before.
func (t *Tree) publishSnapshot(ctx context.Context, n *node, snap snapshot) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	gone, key, ino := n.gone(), n.key(), n.ino
	t.mu.Unlock()
	if gone {
		return nil
	}
	snap.file.Key, snap.file.Inode, snap.file.Attr.Inode = key, ino, ino
	info, err := t.objects.Publish(ctx, snap.file)
	if err != nil {
		return wrap("publish", key, lostPieces(snap, err))
	}
	t.published(n, snap, info)
	return nil
}

// lostPieces is lost for a commit: what is missing is a part, not the name.
func lostPieces(snap snapshot, err error) error {
	if snap.file.Upload == "" {
		return err
	}
	return lost(err)
}

// published makes the new version the base of the image and gives the slabs back.
func (t *Tree) published(n *node, snap snapshot, info Info) {
	m := n.img
	t.mu.Lock()
	n.info = info
	n.cached = info.Version // the kernel's pages are what was written
	n.seq++
	if n.detached {
		t.adoptLocked(n)
	}
	t.mu.Unlock()
	m.mu.Lock()
	src, up, key := m.rebaseLocked(snap, info)
	m.mu.Unlock()
	t.discard(src, up, key)
}

// adoptLocked gives a file that was replaced elsewhere its name back after it replaced that in turn.
func (t *Tree) adoptLocked(n *node) {
	c := childName{n.name, false}
	if now := n.parent.children[c]; now != nil {
		if now.img != nil {
			return
		}
		t.leave(now)
		now.detached = true
	}
	n.detached = false
	n.parent.children[c] = n
}

// rebaseLocked turns everything the snapshot held into spans of the new version. It returns what is to be given back.
func (m *image) rebaseLocked(snap snapshot, info Info) (src *source, up Upload, key string) {
	ext := make(extents, 0, len(m.ext))
	for _, e := range m.ext {
		if e.gen <= snap.gen {
			e = extent{off: e.off, len: e.len, base: true, at: e.off, gen: 0}
		}
		ext = ext.add(e)
	}
	m.ext = ext
	m.base, m.exclusive, m.overtaken, m.over = info, false, false, ""
	m.rebased++
	m.kept.Store(true) // programs have seen this content
	m.published = snap.changes
	m.touched.Store(m.dirtyLocked())
	if m.changes == snap.changes {
		m.held = false
		m.attr = info.Attr
	}
	staged := m.stageParts
	m.stageKey, m.stageParts, m.pinned = "", nil, nil
	m.reuseLocked(staged)
	m.sweepLocked()
	src, m.src = m.src, nil
	for _, s := range m.slabs {
		if s.part > 0 {
			return src, "", "" // the upload goes on
		}
	}
	up, key = m.upload, m.uploadKey
	m.upload, m.uploadKey, m.nextPart, m.freeParts = "", "", 1, nil
	return src, up, key
}

// discard closes a reader and aborts an upload behind the caller's back.
func (t *Tree) discard(src *source, up Upload, key string) {
	if src == nil && up == "" {
		return
	}
	t.workers.Add(1)
	go func() {
		defer t.workers.Done()
		if src != nil {
			if err := src.release(); err != nil {
				t.log.Warn("close version", "key", src.Info().Key, "err", err)
			}
		}
		if up != "" {
			if err := t.objects.Abort(t.lifetime, key, up); err != nil && !errors.Is(err, ErrNotExist) {
				t.log.Warn("abort upload", "key", key, "err", err)
			}
		}
	}()
}

// snapshot collects what to publish. A small file comes with its data; of others the slabs are stored first.
func (m *image) snapshot(ctx context.Context) (snapshot, error) {
	if snap, ok, err := m.smallSnapshot(ctx); ok || err != nil {
		return snap, err
	}
	if err := m.compact(ctx); err != nil {
		return snapshot{}, err
	}
	m.mu.Lock()
	early := m.sendingLocked()
	if err := m.sendLocked(); err != nil {
		m.mu.Unlock()
		return snapshot{}, err
	}
	snap := m.headLocked()
	// Writers may go on: what they replace stays pinned until the commit is over.
	m.pinned = slices.Clone(m.ext)
	m.mu.Unlock()
	if err := m.settle(ctx, early); err != nil {
		m.unpin()
		return snapshot{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.pinned {
		p := Piece{Base: e.base, Hole: e.hole(), Off: e.at, Len: e.len}
		if e.slab != nil {
			p.Part = e.slab.part
			snap.file.Upload = m.upload
		}
		if e.base {
			snap.based, snap.file.Cond = true, Cond{Base: m.base.Version}
		}
		snap.file.Pieces = appendPiece(snap.file.Pieces, p)
	}
	return snap, nil
}

func appendPiece(list []Piece, p Piece) []Piece {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Part == p.Part && last.Base == p.Base && last.Hole == p.Hole && (p.Hole || last.Off+last.Len == p.Off) {
			last.Len += p.Len
			return list
		}
	}
	return append(list, p)
}

// unpin ends what the last snapshot kept from being given back.
func (m *image) unpin() {
	m.mu.Lock()
	m.pinned = nil
	m.sweepLocked()
	m.mu.Unlock()
}

func (m *image) headLocked() snapshot {
	snap := snapshot{gen: m.gen, changes: m.changes}
	m.gen++
	snap.file.Attr = m.attr
	over := m.base.Version
	if m.overtaken {
		over = m.over
	}
	snap.file.Cond = Cond{Absent: over == "", Base: over}
	return snap
}

// smallSnapshot is the snapshot of a file whose bytes are all in memory, or so few that they are fetched.
func (m *image) smallSnapshot(ctx context.Context) (snapshot, bool, error) {
	m.mu.Lock()
	size, changes, fetch := m.ext.size(), m.changes, false
	for _, e := range m.ext {
		fetch = fetch || e.base || e.slab != nil && e.slab.data == nil
	}
	if size > smallFile || fetch && size > smallMerge {
		m.mu.Unlock()
		return snapshot{}, false, nil
	}
	if !fetch {
		defer m.mu.Unlock()
		m.freezeLocked()
		snap := m.headLocked()
		snap.file.Data = m.dataLocked(size)
		return snap, true, nil
	}
	m.mu.Unlock()
	data := make([]byte, size)
	if n, err := m.read(ctx, nil, data, 0); err != nil || int64(n) != size {
		return snapshot{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes != changes {
		return snapshot{}, false, nil // a writer was in between: by pieces
	}
	m.freezeLocked()
	snap := m.headLocked()
	snap.file.Data = data
	return snap, true, nil
}

// dataLocked is the whole content out of memory, without a copy where one slab has it in order. A frozen slab does not
// change any more, so the bytes may be used after the lock.
func (m *image) dataLocked(size int64) []byte {
	if len(m.ext) == 1 && m.ext[0].slab != nil {
		e := m.ext[0]
		return e.slab.data[e.at : e.at+e.len : e.at+e.len]
	}
	data := make([]byte, size)
	for _, e := range m.ext {
		if e.slab != nil {
			copy(data[e.off:], e.slab.data[e.at:e.at+e.len])
		}
	}
	return data
}

// absorb reads what the file keeps of its base version and writes it into parts, because the base is not the current
// version any more and pieces can only refer to that.
func (m *image) absorb(ctx context.Context) error {
	return m.rewrite(ctx, func(e extent) bool { return e.base })
}

// compactAbove is how many parts an open file may use before its small ones are gathered: a database that syncs
// after every page would run out of the 10,000 in a day.
const compactAbove = 1000

// compact gathers small parts into large ones when there are many.
func (m *image) compact(ctx context.Context) error {
	m.mu.Lock()
	many := len(m.slabs) > compactAbove
	live := make(map[*slab]int64)
	if many {
		for _, e := range m.ext {
			live[e.slab] += e.len
		}
	}
	m.mu.Unlock()
	if !many {
		return nil
	}
	return m.rewrite(ctx, func(e extent) bool {
		return e.slab != nil && e.slab.state == slabStored && live[e.slab] < firstPart/8
	})
}

// rewrite copies the extents that are chosen into new slabs, a megabyte at a time. What a writer changes meanwhile
// stays as the writer left it.
func (m *image) rewrite(ctx context.Context, chosen func(extent) bool) error {
	const step = 1 << 20
	buf := make([]byte, step)
	for off := int64(0); ; {
		m.mu.Lock()
		i := m.ext.find(off)
		for i < len(m.ext) && !chosen(m.ext[i].cut(off, m.ext[i].end())) {
			i++
		}
		if i == len(m.ext) {
			m.mu.Unlock()
			return nil
		}
		e := m.ext[i].cut(off, m.ext[i].end())
		e = e.cut(e.off, e.off+step)
		m.mu.Unlock()
		p := buf[:e.len]
		n, err := m.read(ctx, nil, p, e.off)
		if err != nil {
			return err
		}
		if err := m.replace(ctx, e, p[:n]); err != nil {
			return err
		}
		off = e.end()
	}
}

// replace puts p, the bytes of e, into new slabs where the file still has e.
func (m *image) replace(ctx context.Context, e extent, p []byte) error {
	var credit int64
	defer func() { m.tree.dirty.give(credit) }()
	for len(p) > 0 {
		m.mu.Lock()
		i := m.ext.find(e.off)
		if i == len(m.ext) || m.ext[i].slab != e.slab || m.ext[i].base != e.base || m.ext[i].at+e.off-m.ext[i].off != e.at {
			// Overwritten meanwhile: nothing to keep of these bytes. The rest is looked at step by step.
			skip := int64(len(p))
			if i < len(m.ext) {
				skip = min(skip, m.ext[i].end()-e.off)
			}
			m.mu.Unlock()
			p, e = p[skip:], e.cut(e.off+skip, e.end())
			continue
		}
		n := min(int64(len(p)), m.ext[i].end()-e.off)
		placed, need, err := m.placeLocked(p[:n], e.off, &credit)
		m.mu.Unlock()
		if err != nil {
			return err
		}
		p, e = p[placed:], e.cut(e.off+int64(placed), e.end())
		if need > 0 {
			// This commit gives nothing back before it has what it waits for here: nobody must wait for it.
			m.tree.committing.Add(-1)
			m.tree.dirty.wake()
			err := m.credit(ctx, need, &credit)
			m.tree.committing.Add(1)
			if err != nil {
				return err
			}
		}
	}
	return nil
}
