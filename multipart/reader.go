package multipart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// reader streams the bytes of a source. It is for one goroutine.
type reader struct {
	ctx    context.Context
	cancel context.CancelFunc
	s      *Store
	src    source
	left   int64                       // bytes not yet given
	hold   func(context.Context) error // called before every read; may be nil
	batch  int                         // references of the next read of the chunk store
	peeked *extent                     // read from src, not yet begun
	run    io.ReadCloser               // the current run of bytes, and
	runEnd int64                       // what must be left when it ends
	err    error
}

func newReader(ctx context.Context, s *Store, src source, n int64, hold func(context.Context) error) *reader {
	ctx, cancel := context.WithCancel(ctx)
	return &reader{ctx: ctx, cancel: cancel, s: s, src: src, left: n, hold: hold, batch: firstRefs}
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(p)
	r.err = err
	return n, err
}

func (r *reader) read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.hold != nil {
		if err := r.hold(r.ctx); err != nil {
			return 0, err
		}
	}
	for {
		if r.run == nil {
			if err := r.advance(); err != nil {
				return 0, err
			}
		}
		n, err := r.run.Read(p)
		r.left -= int64(n)
		if err == nil {
			if n == 0 {
				continue
			}
			return n, nil
		}
		if !errors.Is(err, io.EOF) || r.left != r.runEnd {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%d bytes of a run are missing: %w", r.left-r.runEnd, io.ErrUnexpectedEOF)
			}
			return n, err
		}
		if err := r.endRun(); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		if r.left == 0 {
			return 0, io.EOF
		}
	}
}

func (r *reader) endRun() error {
	run := r.run
	r.run = nil
	return run.Close()
}

// advance begins the next run: consecutive references to chunks, or one extent that needs none.
func (r *reader) advance() error {
	e, err := r.peek()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the last %d bytes have no extents: %w", r.left, ErrManifest)
		}
		return err
	}
	if e.kind != kindData {
		r.peeked = nil
		r.runEnd = r.left - e.len
		if e.kind == kindHole {
			r.run = io.NopCloser(io.LimitReader(zeros{}, e.len))
		} else {
			r.run = io.NopCloser(bytes.NewReader(e.bytes))
		}
		return nil
	}
	var batch []extent
	for len(batch) < r.batch {
		e, err := r.peek()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if e.kind != kindData {
			break
		}
		batch = append(batch, *e)
		r.peeked = nil
	}
	r.batch = moreRefs
	refs, n := refsOf(batch)
	r.runEnd = r.left - n
	r.run = r.s.chunks.Read(r.ctx, refs, 0, n)
	return nil
}

// peek returns the next extent without taking it.
func (r *reader) peek() (*extent, error) {
	if r.peeked == nil {
		e, err := r.src.next(r.ctx)
		if err != nil {
			return nil, err
		}
		r.peeked = &e
	}
	return r.peeked, nil
}

// Close stops the reading ahead.
func (r *reader) Close() error {
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	if r.run == nil {
		return nil
	}
	return r.endRun()
}

// zeros is what a hole reads as.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
