package vfs

import (
	"slices"
	"syscall"
)

// What follows is done to the medium itself, past the rules and at once durable.

// SetCapacity bounds the bytes that files may take; writes past it fail with ENOSPC. Zero means no bound. It may be
// set below what is used already.
func (m *Memory) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Move renames a file or a whole directory at once and durably, and no rule fires: a drive is carried away, or back.
func (m *Memory) Move(source, target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.rename(source, target); err != nil {
		return pathError("move", source, err)
	}
	for _, name := range []string{source, target} {
		dir, _, err := m.parent(name)
		if err != nil {
			return pathError("move", name, err)
		}
		dir.settle(len(dir.pending))
	}
	return nil
}

// RemoveAll removes a file or a whole directory at once and durably, and no rule fires: a drive is lost.
func (m *Memory) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	dir, base, err := m.parent(name)
	if err != nil || n == m.root {
		return pathError("remove", name, syscall.EINVAL)
	}
	m.unlinkAll(n)
	dir.apply(&entryOp{remove: base})
	dir.settle(len(dir.pending))
	return nil
}

func (m *Memory) unlinkAll(n *node) {
	for _, child := range n.entries {
		m.unlinkAll(child)
	}
	m.unlink(n)
}

// Corrupt lets flip change the bytes of a file from off to its end, in what readers see and on the medium alike.
func (m *Memory) Corrupt(name string, off int64, flip func([]byte)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err != nil {
		return pathError("corrupt", name, err)
	}
	if n.mode.IsDir() || off < 0 || off >= n.size {
		return pathError("corrupt", name, syscall.EINVAL)
	}
	before := make([]byte, n.size-off)
	n.read(before, off)
	after := slices.Clone(before)
	flip(after)
	for i := range after {
		if after[i] == before[i] {
			continue
		}
		at := off + int64(i)
		if _, ok := n.pages[at/Align]; !ok && n.reserved.remove(at/Align, at/Align+1) == 0 {
			m.used += Align
		}
		for _, pages := range []map[int64][]byte{n.pages, n.synced} {
			page := make([]byte, Align)
			copy(page, pages[at/Align])
			page[at%Align] = after[i]
			pages[at/Align] = page
		}
	}
	return nil
}
