package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// read fills p from off and returns how many bytes the file had there.
func (m *image) read(ctx context.Context, w *windows, p []byte, off int64) (int, error) {
	for attempt := 0; ; attempt++ {
		n, epoch, err := m.readOnce(ctx, w, p, off)
		if err == nil {
			return n, nil
		}
		m.mu.Lock()
		moved := m.rebased != epoch
		m.mu.Unlock()
		// Each attempt that moved met another commit. On a busy machine four in one read were seen, and the reader was told.
		if !moved || attempt == 15 {
			return 0, err
		}
	}
}

func (m *image) readOnce(ctx context.Context, w *windows, p []byte, off int64) (int, uint64, error) {
	m.mu.Lock()
	epoch := m.rebased
	end := min(off+int64(len(p)), m.ext.size())
	if off >= end {
		m.mu.Unlock()
		return 0, epoch, nil
	}
	p = p[:end-off]
	spans := m.ext.span(off, end)
	var stored, based extents
	for _, e := range spans {
		to := p[e.off-off : e.end()-off]
		switch {
		case e.base:
			based = append(based, e)
		case e.hole():
			clear(to)
		case e.slab.data == nil:
			e.slab.readers++
			stored = append(stored, e)
		default:
			copy(to, e.slab.data[e.at:e.at+e.len])
		}
	}
	up, key := m.upload, m.uploadKey
	m.mu.Unlock()

	if len(stored) > 0 {
		err := m.readStored(ctx, up, key, stored, p, off)
		if err != nil {
			return 0, epoch, wrap("read back part", key, err)
		}
	}
	if len(based) == 0 {
		return len(p), epoch, nil
	}
	src, err := m.settledSource(ctx)
	if err != nil {
		return 0, epoch, err
	}
	for _, e := range based {
		to := p[e.off-off : e.end()-off]
		if w != nil {
			err = w.read(ctx, m.tree.lifetime, src, to, e.at)
		} else {
			_, err = readAt(ctx, src, to, e.at)
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, ErrNotExist) {
		// The store does not hold the version open any more; under its present name it may still be there.
		m.forget(src)
		err = fmt.Errorf("%w: %v", ErrStale, err)
	}
	if cerr := src.release(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, epoch, wrap("read", src.Info().Key, err)
	}
	return len(p), epoch, nil
}

// forget makes the next read open the base version again.
func (m *image) forget(src *source) {
	m.mu.Lock()
	ours := m.src == src
	if ours {
		m.src = nil
	}
	m.mu.Unlock()
	if ours {
		m.tree.discard(src, "", "")
	}
}

// readStored reads extents whose bytes are parts of the upload by now into p, which stands at off. It ends the holds on
// their slabs: without them a commit could give a part back meanwhile, and its number to other bytes.
func (m *image) readStored(ctx context.Context, up Upload, key string, stored extents, p []byte, off int64) error {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, e := range stored {
			e.slab.readers--
		}
		m.sweepLocked()
	}()
	for _, e := range stored {
		to := p[e.off-off : e.end()-off]
		n, err := m.tree.objects.ReadPart(ctx, key, up, e.slab.part, to, e.at)
		if n == len(to) {
			continue
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return lost(err)
	}
	return nil
}

// lost makes an I/O error of the news that an upload, or a part of it, is gone: no program asked for that name.
func lost(err error) error {
	if errors.Is(err, ErrNotExist) {
		return fmt.Errorf("%w: %v", ErrIO, err)
	}
	return err
}

// settledSource is source for callers that do not hold Tree.moves: no directory above is renamed meanwhile.
func (m *image) settledSource(ctx context.Context) (*source, error) {
	m.tree.moves.RLock()
	defer m.tree.moves.RUnlock()
	return m.source(ctx)
}

// source opens the base version, or holds the opened one. The caller releases it, and holds Tree.moves.
func (m *image) source(ctx context.Context) (*source, error) {
	m.opening.Lock()
	defer m.opening.Unlock()
	m.mu.Lock()
	src, base := m.src, m.base
	if src != nil {
		src.hold()
		m.mu.Unlock()
		return src, nil
	}
	m.mu.Unlock()
	key := m.tree.keyOf(m.node)
	r, err := m.tree.objects.Open(ctx, key, base.Version)
	if errors.Is(err, ErrNotExist) && m.follow(ctx, key, base.Version) {
		return nil, err // the caller reads again
	}
	if errors.Is(err, ErrNotExist) {
		return nil, fmt.Errorf("open %q: %w: %v", key, ErrStale, err) // the open file is there, its version is not
	}
	if err != nil {
		return nil, wrap("open", key, err)
	}
	src = newSource(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.base.Version != base.Version {
		m.rebased++
		return nil, errors.Join(src.release(), ErrStale)
	}
	if m.closed { // meanwhile: a rename pins what the last close gives back, and nobody would give this one back
		return src, nil
	}
	m.src = src
	return src.hold(), nil
}

// follow moves a clean image, nothing of which was read yet, to the version that replaced its base.
func (m *image) follow(ctx context.Context, key string, was Version) bool {
	info, err := m.tree.objects.Stat(ctx, key)
	if err != nil || info.Version == was {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirtyLocked() || m.base.Version != was || m.kept.Load() {
		return m.base.Version != was
	}
	m.base, m.attr, m.ext = info, info.Attr, nil
	if info.Size > 0 {
		m.ext = extents{{len: info.Size, base: true, gen: m.gen}}
	}
	m.rebased++
	return true
}

// pin opens the base version, so that it stays readable after its name is gone.
func (m *image) pin(ctx context.Context) error {
	m.tree.moves.RLock()
	defer m.tree.moves.RUnlock()
	return m.pinMoving(ctx)
}

// pinMoving is pin for callers that hold Tree.moves.
func (m *image) pinMoving(ctx context.Context) error {
	m.mu.Lock()
	need := m.src == nil
	if need {
		need = false
		for _, e := range m.ext {
			need = need || e.base
		}
	}
	m.mu.Unlock()
	if !need {
		return nil
	}
	src, err := m.source(ctx)
	if err != nil {
		return err
	}
	return src.release()
}
