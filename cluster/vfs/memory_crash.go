package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sector is the unit that a device writes atomically; a torn page is a mix of old and new sectors.
const sector = 512

// Crash cuts the power and returns the file system as it may be found afterwards: of every page that was not synced
// the old content, the new, or a mix of 512-byte sectors; of an unsynced size the old, the new or one between; of
// every directory its durable entries and a random prefix of the later changes. Everything synced is there.
// All operations on m and on its files, hanging ones too, give ErrPowerLost from then on. Rules are not carried over.
func (m *Memory) Crash() *Memory {
	return m.end(func(next *Memory) { next.root = newCrash(m, next).directory(m.root) })
}

// Kill ends the process as kill -9 does and returns the file system with everything that was written, still volatile.
// Locks are free; operations on m give ErrPowerLost from then on.
func (m *Memory) Kill() *Memory {
	return m.end(func(next *Memory) { next.root = m.root })
}

func (m *Memory) end(fill func(next *Memory)) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		panic("vfs: a Memory can end only once")
	}
	m.dead = true
	close(m.gone)
	next := &Memory{
		gone:     make(chan struct{}),
		random:   rand.New(rand.NewPCG(m.random.Uint64(), m.random.Uint64())),
		inodes:   m.inodes,
		locked:   map[*node]bool{},
		capacity: m.capacity,
	}
	fill(next)
	next.recount(next.root, map[*node]bool{})
	return next
}

// recount sets links, opens and used from the tree: no handle survives a crash.
func (m *Memory) recount(n *node, seen map[*node]bool) {
	if seen[n] {
		n.links++
		return
	}
	seen[n] = true
	n.links, n.opens = 1, 0
	m.used += n.space()
	for _, child := range n.entries {
		m.recount(child, seen)
	}
}

// crash copies a tree as power loss leaves it.
type crash struct {
	random *rand.Rand
	keep   map[*node]int // of each directory, how many pending operations became durable
	copies map[*node]*node
}

func newCrash(m, next *Memory) *crash {
	c := &crash{random: next.random, keep: map[*node]int{}, copies: map[*node]*node{}}
	c.choose(m.root)
	// A removal that belongs to a rename may be durable only if the new name is.
	for changed := true; changed; {
		changed = false
		for dir, count := range c.keep {
			for i, op := range dir.pending[:count] {
				if op.after == nil {
					continue
				}
				if at := slices.Index(op.afterDir.pending, op.after); at >= c.keep[op.afterDir] {
					c.keep[dir], changed = i, true
					break
				}
			}
		}
	}
	return c
}

// choose draws the prefix of every directory reachable before or after its pending operations, in order of name so
// that a seed gives the same draw.
func (c *crash) choose(dir *node) {
	if _, done := c.keep[dir]; done {
		return
	}
	c.keep[dir] = c.random.IntN(len(dir.pending) + 1)
	for _, entries := range []map[string]*node{dir.durable, dir.entries} {
		for _, name := range sortedNames(entries) {
			if child := entries[name]; child.mode.IsDir() {
				c.choose(child)
			}
		}
	}
	for _, op := range dir.pending {
		if op.node != nil && op.node.mode.IsDir() {
			c.choose(op.node)
		}
	}
}

func (c *crash) directory(dir *node) *node {
	if copied, ok := c.copies[dir]; ok {
		return copied
	}
	fresh := &node{inode: dir.inode, mode: dir.mode, entries: map[string]*node{}, durable: map[string]*node{}}
	c.copies[dir] = fresh
	found := map[string]*node{}
	for name, child := range dir.durable {
		found[name] = child
	}
	for _, op := range dir.pending[:c.keep[dir]] {
		applyEntry(found, op)
	}
	for _, name := range sortedNames(found) {
		child := found[name]
		if child.mode.IsDir() {
			fresh.entries[name] = c.directory(child)
		} else {
			fresh.entries[name] = c.file(child)
		}
		fresh.durable[name] = fresh.entries[name]
	}
	return fresh
}

func (c *crash) file(n *node) *node {
	if copied, ok := c.copies[n]; ok {
		return copied
	}
	fresh := &node{inode: n.inode, mode: n.mode, pages: map[int64][]byte{}, synced: map[int64][]byte{},
		dirty: map[int64]bool{}, lost: map[int64]bool{}}
	c.copies[n] = fresh
	for index, page := range n.synced {
		fresh.pages[index] = page
	}
	unsynced := make([]int64, 0, len(n.dirty)+len(n.lost))
	for index := range n.dirty {
		unsynced = append(unsynced, index)
	}
	for index := range n.lost {
		if !n.dirty[index] {
			unsynced = append(unsynced, index)
		}
	}
	slices.Sort(unsynced)
	for _, index := range unsynced {
		c.page(fresh, index, n.synced[index], n.pages[index])
	}
	fresh.size = c.size(n.syncedSize, n.size)
	fresh.cutTail()
	for index, page := range fresh.pages {
		fresh.synced[index] = page
	}
	fresh.syncedSize = fresh.size
	return fresh
}

// cutTail drops the pages past the size and zeroes the rest of the last one.
func (n *node) cutTail() {
	for index, page := range n.pages {
		switch from := n.size - index*Align; {
		case from <= 0:
			delete(n.pages, index)
		case from < Align && page != nil:
			cut := make([]byte, Align)
			copy(cut, page[:from])
			n.pages[index] = cut
		}
	}
}

// page draws what became of an unsynced page. Nil pages are zeros.
func (c *crash) page(n *node, index int64, before, after []byte) {
	switch c.random.IntN(3) {
	case 0: // old: already there
	case 1:
		n.pages[index] = after
	case 2:
		torn := make([]byte, Align)
		copy(torn, before)
		for at := 0; at < Align; at += sector {
			if c.random.IntN(2) == 0 {
				continue
			}
			if after == nil {
				clear(torn[at : at+sector])
			} else {
				copy(torn[at:at+sector], after[at:])
			}
		}
		n.pages[index] = torn
	}
}

// size draws what became of a size that was not synced.
func (c *crash) size(before, after int64) int64 {
	if before == after {
		return after
	}
	switch c.random.IntN(3) {
	case 0:
		return before
	case 1:
		return after
	}
	low, high := min(before, after), max(before, after)
	return low + c.random.Int64N(high-low+1)
}

func sortedNames(entries map[string]*node) []string { return slices.Sorted(maps.Keys(entries)) }

// Copy returns another file system that holds the same, all of it durable; m goes on. The copy's crashes are drawn from
// seed. Locks and rules are not carried over. Many tests can begin with what was made once.
func (m *Memory) Copy(seed uint64) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := NewMemory(seed)
	next.inodes, next.capacity = m.inodes, m.capacity
	next.root = (&copying{copies: map[*node]*node{}}).node(m.root)
	next.recount(next.root, map[*node]bool{})
	return next
}

// copying copies a tree as readers see it.
type copying struct{ copies map[*node]*node }

func (c *copying) node(n *node) *node {
	if copied, ok := c.copies[n]; ok {
		return copied
	}
	fresh := &node{inode: n.inode, mode: n.mode, reserved: slices.Clone(n.reserved)}
	c.copies[n] = fresh
	if n.mode.IsDir() {
		fresh.entries, fresh.durable = map[string]*node{}, map[string]*node{}
		for name, child := range n.entries {
			fresh.entries[name] = c.node(child)
			fresh.durable[name] = fresh.entries[name]
		}
		return fresh
	}
	fresh.pages, fresh.synced = map[int64][]byte{}, map[int64][]byte{}
	fresh.dirty, fresh.lost = map[int64]bool{}, map[int64]bool{}
	for index, page := range n.pages {
		if n.dirty[index] {
			page = slices.Clone(page) // m may change it in place
		}
		fresh.pages[index], fresh.synced[index] = page, page
	}
	fresh.size, fresh.syncedSize = n.size, n.size
	return fresh
}
