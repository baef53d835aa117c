package tree

import (
	"context"
	"fmt"
)

// freezeLocked ends the open slab.
func (m *image) freezeLocked() {
	s := m.open
	m.open = nil
	if s == nil || len(s.data) == 0 {
		return // of a writer that waits for memory
	}
	s.size, s.state = int64(len(s.data)), slabFrozen
	m.slabs = append(m.slabs, s)
}

// sendLocked ends the open slab and starts to store every slab that is not stored or on its way.
func (m *image) sendLocked() error {
	m.freezeLocked()
	for _, s := range m.slabs {
		if s.state != slabFrozen && s.state != slabFailed {
			continue
		}
		if s.part == 0 {
			part, err := m.newPartLocked()
			if err != nil {
				return err
			}
			s.part = part
		}
		m.startLocked(s)
	}
	return nil
}

// startLocked begins an attempt to store a slab that has a part.
func (m *image) startLocked(s *slab) {
	s.state, s.err, s.done = slabSending, nil, make(chan struct{})
	m.tree.sending.Add(1)
	m.tree.workers.Add(1)
	go m.store(s)
}

// sendingLocked are the slabs on their way.
func (m *image) sendingLocked() map[*slab]bool {
	sending := map[*slab]bool{}
	for _, s := range m.slabs {
		if s.state == slabSending {
			sending[s] = true
		}
	}
	return sending
}

func (m *image) newPartLocked() (int, error) {
	if n := len(m.freeParts); n > 0 {
		part := m.freeParts[n-1]
		m.freeParts = m.freeParts[:n-1]
		return part, nil
	}
	if m.nextPart > maxParts {
		return 0, fmt.Errorf("%d parts in one open file: %w", maxParts, ErrTooLarge)
	}
	m.nextPart++
	return m.nextPart - 1, nil
}

// store uploads one slab. It belongs to Tree.workers.
func (m *image) store(s *slab) {
	defer m.tree.workers.Done()
	err := m.storePart(s)
	m.mu.Lock()
	var freed int64
	if err != nil {
		s.state, s.err, s.doubt = slabFailed, err, true
	} else {
		s.state = slabStored
		freed = s.drop()
	}
	close(s.done)
	m.sweepLocked() // it may have been overwritten meanwhile
	m.mu.Unlock()
	m.tree.sending.Add(-1)
	m.tree.dirty.give(freed)
	m.tree.dirty.wake()
}

func (m *image) storePart(s *slab) error {
	ctx := m.tree.lifetime
	select {
	case m.tree.slots <- struct{}{}:
		defer func() { <-m.tree.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return ErrStale // nobody wants it any more
	}
	up, key, err := m.begin(ctx)
	if err != nil {
		return err
	}
	return wrap("store part of", key, lost(m.tree.objects.Part(ctx, key, up, s.part, s.body(), s.size)))
}

// begin starts the upload of this image once.
func (m *image) begin(ctx context.Context) (Upload, string, error) {
	m.starting.Lock()
	defer m.starting.Unlock()
	m.mu.Lock()
	up, key := m.upload, m.uploadKey
	m.mu.Unlock()
	if up != "" {
		return up, key, nil
	}
	key = m.tree.keyOf(m.node)
	up, err := m.tree.objects.Begin(ctx, key)
	if err != nil {
		return "", "", wrap("begin upload of", key, err)
	}
	m.mu.Lock()
	m.upload, m.uploadKey = up, key
	m.mu.Unlock()
	return up, key, nil
}

// settle waits until every pinned slab is stored. Each is looked at again after its attempt: a writer who waits for memory
// may have begun another one. A slab that was on its way already, one of early, gets an attempt of this commit when that
// one fails: it may have met what no longer is.
func (m *image) settle(ctx context.Context, early map[*slab]bool) error {
	for {
		m.mu.Lock()
		under, failed := m.unsettledLocked()
		var err error
		switch {
		case failed == nil:
		case early[failed]:
			delete(early, failed)
			m.startLocked(failed)
			under = failed.done
		default:
			err = failed.err
		}
		m.mu.Unlock()
		if under == nil || err != nil {
			return err
		}
		select {
		case <-under:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unsettledLocked is the end of an attempt to store a pinned slab, nil when all are stored, or one that is not.
func (m *image) unsettledLocked() (under <-chan struct{}, failed *slab) {
	for _, e := range m.pinned {
		switch {
		case e.slab == nil || e.slab.state == slabStored:
		case e.slab.state == slabFailed:
			return nil, e.slab
		default:
			under = e.slab.done
		}
	}
	return under, nil
}

// memory waits for n bytes of the budget of new data.
func (t *Tree) memory(ctx context.Context, n int64) error {
	first := true
	return t.dirty.take(ctx, n, func() error {
		again := first
		first = false
		return t.pressure(again)
	})
}

// pressure makes room in the budget of new data: it sends what the images keep back, with again also what could not be
// stored before. It returns an error when nothing is on its way and what is left could not be stored.
func (t *Tree) pressure(again bool) error {
	var images []*image
	t.mu.Lock()
	for _, n := range t.byID {
		if n.img != nil {
			images = append(images, n.img)
		}
	}
	t.mu.Unlock()
	var failed error
	for _, m := range images {
		m.mu.Lock()
		for _, s := range m.slabs {
			if s.state == slabFailed {
				failed = s.err
			}
		}
		waiting := m.open != nil && len(m.open.data) > 0
		for _, s := range m.slabs {
			waiting = waiting || s.state == slabFrozen || again && s.state == slabFailed
		}
		if waiting {
			if err := m.sendLocked(); err != nil {
				failed = err
			}
		}
		m.mu.Unlock()
	}
	if failed != nil && t.sending.Load() == 0 && t.committing.Load() == 0 {
		t.dirty.wake() // the others learn it too
		return failed
	}
	return nil
}
