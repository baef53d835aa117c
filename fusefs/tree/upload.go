package tree

import (
	"context"
	"fmt"
)

// freezeLocked ends the open slab.
func (m *image) freezeLocked() {
	if m.open == nil {
		return
	}
	s := m.open
	s.size, s.state = int64(len(s.data)), slabFrozen
	m.slabs = append(m.slabs, s)
	m.open = nil
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
		s.state, s.err, s.done = slabSending, nil, make(chan struct{})
		m.tree.sending.Add(1)
		m.tree.workers.Add(1)
		go m.store(s)
	}
	return nil
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
		s.state, s.err = slabFailed, err
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
	return wrap("store part of", key, m.tree.objects.Part(ctx, key, up, s.part, s.body(), s.size))
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

// settle waits until every pinned slab is stored.
func (m *image) settle(ctx context.Context) error {
	m.mu.Lock()
	waiting := make(map[*slab]bool)
	for _, e := range m.pinned {
		if e.slab != nil && e.slab.state != slabStored {
			waiting[e.slab] = true
		}
	}
	m.mu.Unlock()
	for s := range waiting {
		select {
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range waiting {
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// pressure makes room in the budget of new data: it sends what the images keep back. It returns an error when
// nothing is on its way and what is left could not be stored.
func (t *Tree) pressure() error {
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
		waiting := m.open != nil
		for _, s := range m.slabs {
			waiting = waiting || s.state == slabFrozen
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
