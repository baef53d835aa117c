package tree

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// image is the content of one open file, shared by all its handles: the base version and what was changed since.
//
// Invariant: ext covers the file from 0 to its size; every slab that ext names is open or is in slabs.
type image struct {
	tree *Tree
	node *node

	// opening is held while the base version is opened (I/O), so that it is opened once.
	opening sync.Mutex
	// starting is held while the upload is begun (I/O), so that there is one.
	starting sync.Mutex
	// appending is held over a whole write at the end of the file, which may wait for memory: what another appender
	// writes meanwhile would stand in the middle of it.
	appending sync.Mutex

	mu  sync.Mutex
	ext extents
	// gen numbers the snapshots; an extent of an older generation than the last snapshot is part of it.
	gen   uint64
	open  *slab
	slabs []*slab
	// closed is set when the last handle is gone: nothing is stored any more.
	closed bool
	// pinned is what a commit in progress names.
	pinned extents
	// base is the version that base extents refer to; src reads it, nil until something does.
	base Info
	src  *source
	// rebased counts the changes of base: a read that failed may have lost its source to one and is repeated.
	rebased uint64
	attr    Attr
	// stores counts the changes of attributes that were made here without a publish; asked is when others were last
	// looked for.
	stores uint64
	asked  time.Time
	// changes counts every change of content or attributes; published and staged are its values at the last commit.
	changes, published, staged uint64
	// kept is set once the kernel was told to keep its pages of base.
	kept atomic.Bool
	// touched mirrors changes != published for readers without mu.
	touched atomic.Bool
	// held is set while all that happened is a creation or a truncation to nothing by open: it is not published before
	// a write or the last close, or each `echo x > f` would make an empty version first.
	held bool
	// exclusive is set while the key must not exist at the first publish.
	exclusive bool
	// overtaken is set when the key has or had another version than base, and over is the one it has, which the next
	// publish replaces.
	overtaken  bool
	over       Version
	writers    int
	upload     Upload
	uploadKey  string
	nextPart   int
	freeParts  []int
	stageKey   string
	stageParts map[int]bool
}

func newImage(t *Tree, n *node, info Info) *image {
	m := &image{tree: t, node: n, base: info, attr: info.Attr, gen: 1, nextPart: 1}
	if info.Version != "" && info.Size > 0 {
		m.ext = extents{{len: info.Size, base: true, gen: 0}}
	}
	return m
}

func (m *image) dirtyLocked() bool { return m.changes != m.published }

func (m *image) dirty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dirtyLocked()
}

func (m *image) storeCount() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stores
}

func (m *image) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ext.size()
}

// write puts p at off, or at the end with atEnd, and says where it began. It waits while the memory for new data is
// used up.
func (m *image) write(ctx context.Context, p []byte, off int64, atEnd, kill bool) (int, error) {
	m.keepBase(ctx)
	if atEnd {
		m.appending.Lock()
		defer m.appending.Unlock()
	}
	var credit int64
	defer func() { m.tree.dirty.give(credit) }()
	done := 0
	for done < len(p) {
		m.mu.Lock()
		if atEnd && done == 0 {
			off = m.ext.size()
		}
		if off > maxFile-int64(len(p)) {
			m.mu.Unlock()
			return done, ErrTooLarge
		}
		n, need, err := m.placeLocked(p[done:], off+int64(done), &credit)
		if n > 0 {
			m.wroteLocked(kill)
		}
		m.mu.Unlock()
		if err != nil {
			return done, err
		}
		done += n
		if need > 0 {
			if err := m.credit(ctx, need, &credit); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// keepBase opens the base version before the first change, so that the file can be published even if the version is
// replaced or removed elsewhere until then. An error is not the writer's: the publish tries again.
func (m *image) keepBase(ctx context.Context) {
	if !m.touched.Load() {
		_ = m.pin(ctx)
	}
}

// credit waits for need bytes of memory more than credit, and gives credit back meanwhile: who waits keeps nothing.
func (m *image) credit(ctx context.Context, need int64, credit *int64) error {
	n := *credit + need
	m.tree.dirty.give(*credit)
	*credit = 0
	if err := m.tree.memory(ctx, n); err != nil {
		return err
	}
	*credit = n
	return nil
}

func (m *image) wroteLocked(kill bool) {
	now := time.Now()
	m.attr.Mtime, m.attr.Ctime = now, now
	if kill {
		m.attr.Mode = killPrivileges(m.attr.Mode)
	}
	m.changes++
	m.touched.Store(true)
	m.held = false
}

// placeLocked stores the start of p at off and says how much, or how much more budget that needs.
func (m *image) placeLocked(p []byte, off int64, credit *int64) (n int, need int64, err error) {
	if i := m.ext.find(off); i < len(m.ext) && m.open != nil && m.ext[i].slab == m.open {
		e := m.ext[i]
		return copy(m.open.data[e.at+off-e.off:e.at+e.len], p), 0, nil
	}
	limit := partSize(m.nextPart, m.tree.config.Memory/4)
	if m.open != nil && int64(len(m.open.data)) >= limit {
		if err := m.sendLocked(); err != nil {
			return 0, 0, err
		}
	}
	if m.open == nil {
		m.open = &slab{}
	}
	n = int(min(int64(len(p)), limit-int64(len(m.open.data))))
	whole := int64(0)
	if m.nextPart > 1 && m.ext.size() >= limit {
		whole = limit // the file is long: no small steps any more
	}
	cost, capacity := m.open.room(n, whole)
	if cost > *credit {
		if short := cost - *credit; !m.tree.dirty.try(short) {
			return 0, short, nil
		}
		*credit = cost
	}
	*credit -= cost
	at := int64(len(m.open.data))
	m.open.write(p[:n], capacity)
	m.ext = m.ext.put(extent{off: off, len: int64(n), slab: m.open, at: at, gen: m.gen})
	return n, 0, nil
}

// resize changes the length. Opening with O_TRUNC is held back until a write or the last close.
func (m *image) resize(ctx context.Context, size int64, hold, kill bool) error {
	if size < 0 || size > maxFile {
		return ErrTooLarge
	}
	if size > 0 {
		m.keepBase(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clean := !m.dirtyLocked() || m.held
	m.ext = m.ext.resize(size, m.gen)
	m.wroteLocked(kill)
	m.held = clean && hold && size == 0
	m.sweepLocked()
	return nil
}

// punch makes a hole.
func (m *image) punch(ctx context.Context, off, n int64, grow, kill bool) error {
	if off < 0 || n <= 0 || off > maxFile-n {
		return ErrTooLarge
	}
	m.keepBase(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !grow {
		n = min(n, m.ext.size()-off)
	}
	if n > 0 {
		m.ext = m.ext.put(extent{off: off, len: n, gen: m.gen})
	}
	m.wroteLocked(kill)
	m.sweepLocked()
	return nil
}

// seek finds data or a hole at or after off.
func (m *image) seek(off int64, hole bool) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off >= m.ext.size() {
		return 0, ErrNoData
	}
	for i := m.ext.find(off); i < len(m.ext); i++ {
		if m.ext[i].hole() == hole {
			return max(off, m.ext[i].off), nil
		}
	}
	if hole {
		return m.ext.size(), nil
	}
	return 0, ErrNoData
}

// sweepLocked gives back the slabs that no extent names and no read fetches.
func (m *image) sweepLocked() {
	live := make(map[*slab]bool, len(m.slabs)+1)
	for _, e := range m.ext {
		if e.slab != nil {
			live[e.slab] = true
		}
	}
	for _, e := range m.pinned {
		if e.slab != nil {
			live[e.slab] = true
		}
	}
	var freed int64
	if m.open != nil && !live[m.open] {
		freed += m.open.drop()
		m.open = nil
	}
	kept := m.slabs[:0]
	for _, s := range m.slabs {
		if live[s] || s.state == slabSending || s.readers > 0 {
			kept = append(kept, s)
			continue
		}
		freed += s.drop()
		if s.part > 0 && !s.doubt && !m.stageParts[s.part] {
			m.freeParts = append(m.freeParts, s.part)
		}
	}
	clear(m.slabs[len(kept):])
	m.slabs = kept
	m.tree.dirty.give(freed)
}

// close gives everything back: it is called once, when the last handle is gone. What is on its way into the store is
// waited for in the background, because only then it is known what there is to abort.
func (m *image) close() {
	m.mu.Lock()
	m.closed = true
	m.ext, m.pinned = nil, nil
	m.sweepLocked()
	sending := slices.Clone(m.slabs)
	src := m.src
	m.src = nil
	m.mu.Unlock()
	if len(sending) == 0 {
		m.tree.discard(src, m.upload, m.uploadKey)
		return
	}
	m.tree.workers.Add(1)
	go func() {
		defer m.tree.workers.Done()
		for _, s := range sending {
			<-s.done
		}
		m.mu.Lock()
		up, key := m.upload, m.uploadKey
		m.mu.Unlock()
		m.tree.discard(src, up, key)
	}()
}

// renamed says whether the first publish of a renamed file wants a free name.
func (m *image) renamed(exclusive bool, now time.Time) {
	m.mu.Lock()
	m.attr.Ctime = now
	m.exclusive, m.overtaken, m.over = exclusive, false, ""
	m.mu.Unlock()
}
