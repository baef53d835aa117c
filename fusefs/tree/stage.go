package tree

import (
	"context"
	"maps"
)

// stage makes the dirty content durable without publishing it (fsync); the caller holds n.commit.
func (t *Tree) stage(ctx context.Context, n *node) error {
	m, key := n.img, t.keyOf(n)
	m.mu.Lock()
	clean := !m.dirtyLocked() || m.staged == m.changes && m.stageKey == key
	m.mu.Unlock()
	if clean {
		return nil
	}
	return t.commit(ctx, n, t.stageSnapshot)
}

func (t *Tree) stageSnapshot(ctx context.Context, n *node, snap snapshot) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	gone, key, ino := n.gone(), n.key(), n.ino
	t.mu.Unlock()
	if gone {
		return nil // nobody can open it again after a crash
	}
	snap.file.Key, snap.file.Inode, snap.file.Attr.Inode = key, ino, ino
	err := t.objects.Stage(ctx, snap.file)
	m := n.img
	m.mu.Lock()
	defer m.mu.Unlock()
	parts := make(map[int]bool)
	for _, p := range snap.file.Pieces {
		if p.Part > 0 {
			parts[p.Part] = true
		}
	}
	if err != nil {
		// It may be stored all the same: the parts of both are kept.
		maps.Copy(parts, m.stageParts)
		m.stageParts = parts
		return wrap("sync", key, lostPieces(snap, err))
	}
	m.staged, m.stageKey = snap.changes, key
	before := m.stageParts
	m.stageParts = parts
	m.reuseLocked(before)
	return nil
}

// reuseLocked frees the numbers of parts that only the stage before used.
func (m *image) reuseLocked(before map[int]bool) {
	inUse := make(map[int]bool, len(m.slabs))
	for _, s := range m.slabs {
		inUse[s.part] = true
	}
	for part := range before {
		if !inUse[part] && !m.stageParts[part] {
			m.freeParts = append(m.freeParts, part)
		}
	}
}

// restage moves the stage of a renamed file to its new key; the caller holds n.commit.
func (t *Tree) restage(ctx context.Context, n *node) error {
	m := n.img
	if m == nil {
		return nil
	}
	m.mu.Lock()
	staged := m.stageKey != ""
	m.mu.Unlock()
	if !staged {
		return nil
	}
	return t.stage(ctx, n)
}

// forgetStage drops the stage of a file that will not be published. After an error it can be called again.
func (t *Tree) forgetStage(ctx context.Context, n *node) error {
	m := n.img
	if m == nil {
		return nil
	}
	m.mu.Lock()
	key := m.stageKey
	m.mu.Unlock()
	if key == "" {
		return nil
	}
	if err := t.objects.Discard(ctx, key, n.ino); err != nil {
		return wrap("forget sync of", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.stageParts
	m.stageKey, m.stageParts = "", nil
	m.reuseLocked(before)
	return nil
}
