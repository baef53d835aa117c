package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast/holdfast/chunkstore/erasure"
)

// streamWait is how long a stream that has begun waits for memory: longer than a new one, because what it has sent
// would be lost.
const streamWait = time.Minute

// windowsPerStream is how many windows a stream holds: one that the consumer reads, one that is there, one that comes.
const windowsPerStream = 3

// ErrBadSpan says that a span does not lie inside of what is read.
var ErrBadSpan = errors.New("span lies outside of the data")

// Read streams n bytes from off of the concatenation of refs. Every byte was verified before it is given out. The
// reader's errors wrap ErrLost, naming the chunk, when too few shards are readable. Close ends the reading ahead and
// must be called; the reader also implements io.WriterTo, which saves a copy. It is for one goroutine.
func (s *Store) Read(ctx context.Context, refs []Ref, off, n int64) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	r := &reader{
		store: s, ctx: ctx, windows: make(chan *loaded), demand: make(chan struct{}, 1),
		cancel: func() { stop(); cancel() },
	}
	spans, err := cut(refs, off, n)
	if err != nil {
		r.err = err
	}
	s.budget.join()
	if len(spans) == 0 || !s.spawn(func() { r.load(spans) }) {
		if r.err == nil && len(spans) > 0 {
			r.err = ErrClosed
		}
		close(r.windows)
	}
	return r
}

// chunkSpan is a span of one chunk.
type chunkSpan struct {
	chunk Chunk
	span  piece
}

// cut returns the spans of chunks that n bytes from off of the refs lie on.
func cut(refs []Ref, off, n int64) ([]chunkSpan, error) {
	if off < 0 || n < 0 {
		return nil, fmt.Errorf("%d bytes from %d: %w", n, off, ErrBadSpan)
	}
	var spans []chunkSpan
	for _, ref := range refs {
		if int64(ref.Off)+int64(ref.Len) > int64(ref.Size) {
			return nil, fmt.Errorf("chunk %v: bytes %d+%d of %d: %w", ref.ID, ref.Off, ref.Len, ref.Size, ErrBadSpan)
		}
		length := int64(ref.Len)
		if n == 0 {
			break
		}
		if off >= length {
			off -= length
			continue
		}
		take := min(n, length-off)
		from := int64(ref.Off) + off
		spans = append(spans, chunkSpan{ref.Chunk, piece{from, from + take}})
		n -= take
		off = 0
	}
	if n > 0 {
		return nil, fmt.Errorf("%d bytes beyond the end: %w", n, ErrBadSpan)
	}
	return spans, nil
}

// reader is a stream. One goroutine loads windows, two ahead of the consumer; the unbuffered channel between them bounds
// the stream to windowsPerStream.
type reader struct {
	store   *Store
	ctx     context.Context
	cancel  func()
	windows chan *loaded
	demand  chan struct{} // the consumer waits for a window

	current *loaded
	err     error
	closed  bool
}

// loaded is a window with its bytes, or the error that ended the stream.
type loaded struct {
	window *window
	geo    geometry
	next   int64 // offset in the chunk of the next byte to give out
	err    error
}

// load fetches window after window and passes each to the consumer. While one is fetched the next is begun, so that the
// drives read on while this machine hashes.
func (r *reader) load(spans []chunkSpan) {
	defer close(r.windows)
	p := &plan{spans: spans, limit: 1}
	coming := r.begin(p, rowWait)
	for first := true; coming != nil; first = false {
		var after chan *loaded
		if !first { // the first window finds out which drives answer
			after = r.beginAhead(p)
		}
		l := <-coming
		if first && l.err == nil {
			after = r.beginAhead(p)
		}
		if !r.pass(l) || l.err != nil {
			if after != nil {
				(<-after).release()
			}
			return
		}
		if after == nil && r.mayReadAhead() {
			after = r.begin(p, streamWait)
		}
		coming = after
	}
}

// beginAhead begins the next window if there is memory for it to spare.
func (r *reader) beginAhead(p *plan) chan *loaded {
	if r.store.budget.scarce() {
		return nil
	}
	return r.begin(p, 0)
}

// pass gives a window to the consumer. False: the stream has ended.
func (r *reader) pass(l *loaded) bool {
	select {
	case r.windows <- l:
		return true
	case <-r.ctx.Done():
		l.release()
		return false
	}
}

// release gives back the memory of a window that nobody will read.
func (l *loaded) release() {
	if l.window != nil {
		l.window.release()
	}
}

// plan is what of a stream was not begun yet.
type plan struct {
	spans []chunkSpan
	limit int // rows of the next window
}

// begin starts to fetch the next window and returns where it will come; nil at the end of the stream. It waits so long
// for memory; with no wait it returns nil when there is none.
func (r *reader) begin(p *plan, wait time.Duration) chan *loaded {
	for len(p.spans) > 0 && p.spans[0].span.empty() {
		p.spans = p.spans[1:]
	}
	if len(p.spans) == 0 {
		return nil
	}
	cs := p.spans[0]
	coming := make(chan *loaded, 1)
	w, geo, err := r.store.reserve(r.ctx, cs, p.limit, wait)
	switch {
	case err != nil:
		coming <- &loaded{err: err}
		return coming
	case w == nil:
		return nil
	}
	p.spans[0].span.lo = geo.span.hi
	p.limit = min(2*p.limit, maxWindow)
	if !r.store.spawn(func() { coming <- r.fetch(cs.chunk, geo, w) }) {
		w.release()
		coming <- &loaded{err: ErrClosed}
	}
	return coming
}

func (r *reader) fetch(c Chunk, geo geometry, w *window) *loaded {
	if err := r.store.fetch(r.ctx, c, geo, w); err != nil {
		w.release()
		return &loaded{err: err}
	}
	return &loaded{window: w, geo: geo, next: geo.span.lo}
}

// mayReadAhead waits for the consumer when memory is scarce, so that a slow one holds one window only. False: the
// stream has ended.
func (r *reader) mayReadAhead() bool {
	if r.store.budget.scarce() {
		select {
		case <-r.demand:
		case <-r.ctx.Done():
			return false
		}
	}
	return r.ctx.Err() == nil
}

// loadWindow fetches the beginning of a span, up to limit rows, as the memory allows.
func (s *Store) loadWindow(ctx context.Context, cs chunkSpan, limit int, wait time.Duration) (*window, geometry, error) {
	w, geo, err := s.reserve(ctx, cs, limit, wait)
	if err != nil {
		return nil, geometry{}, err
	}
	if err := s.fetch(ctx, cs.chunk, geo, w); err != nil {
		w.release()
		return nil, geometry{}, err
	}
	return w, geo, nil
}

// reserve takes the memory for the beginning of a span, up to limit rows. It waits so long for the first row; with no
// wait it gives no window when there is none.
func (s *Store) reserve(ctx context.Context, cs chunkSpan, limit int, wait time.Duration) (*window, geometry, error) {
	layout := erasure.Default.Layout(int64(cs.chunk.Size))
	width := dataCells * layout.Cell
	touched := (cs.span.hi-1)/width - cs.span.lo/width + 1
	limit = windowRows(min(limit, int(touched), s.budget.share()/windowsPerStream))
	first := s.budget.try()
	if first == nil {
		if wait == 0 {
			return nil, geometry{}, nil
		}
		var err error
		if first, err = s.budget.take(ctx, wait); err != nil {
			if errors.Is(err, ErrSlowDown) {
				s.stats.refused.Add(1)
			}
			return nil, geometry{}, fmt.Errorf("read: %w", err)
		}
	}
	rows := []*row{first}
	for len(rows) < limit {
		more := s.budget.try()
		if more == nil {
			break
		}
		rows = append(rows, more)
	}
	for keep := windowRows(len(rows)); len(rows) > keep; {
		rows[len(rows)-1].release()
		rows = rows[:len(rows)-1]
	}
	return newWindow(rows), newGeometry(int64(cs.chunk.Size), cs.span, len(rows)), nil
}

// bytes returns the next bytes that lie in one piece of memory, nil when all were given out.
func (l *loaded) bytes() []byte {
	if l.next >= l.geo.span.hi {
		return nil
	}
	cell, width := l.geo.layout.Cell, dataCells*l.geo.layout.Cell
	at := l.next - l.geo.first*width
	shard := int(at % width / cell)
	n := min(cell-at%cell, l.geo.span.hi-l.next)
	return l.window.slice(shard, at/width*cell+at%cell, n)
}

// fill makes current a window with bytes left, and returns those bytes.
func (r *reader) fill() ([]byte, error) {
	for {
		if r.current != nil {
			if b := r.current.bytes(); len(b) > 0 {
				return b, nil
			}
			r.current.window.release()
			r.current = nil
		}
		if r.err != nil {
			return nil, r.err
		}
		select {
		case r.demand <- struct{}{}:
		default:
		}
		l, ok := <-r.windows
		select {
		case <-r.demand: // it was for the window that came
		default:
		}
		switch {
		case ok && l.err != nil:
			r.err = l.err
		case ok:
			r.current = l
		case r.store.isClosed():
			r.err = ErrClosed
		case r.ctx.Err() != nil:
			r.err = r.ctx.Err()
		default:
			r.err = io.EOF
		}
	}
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.fill()
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	r.used(n)
	return n, nil
}

// WriteTo implements io.WriterTo. It passes the store's own memory to w, which must not keep it.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		b, err := r.fill()
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(b)
		r.used(n)
		written += int64(n)
		if err != nil {
			return written, err
		}
		if n < len(b) {
			return written, io.ErrShortWrite
		}
	}
}

func (r *reader) used(n int) {
	r.current.next += int64(n)
	r.store.stats.read.Add(int64(n))
}

// Close implements io.Closer. It waits for the reading ahead to end; reads afterwards fail.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.cancel()
	for l := range r.windows {
		l.release()
	}
	if r.current != nil {
		r.current.window.release()
		r.current = nil
	}
	r.err = ErrClosed
	r.store.budget.leave()
	return nil
}

// ReadAt fills dst with the bytes of the chunk from off. It fails with ErrBadSpan when they do not lie in the chunk.
func (s *Store) ReadAt(ctx context.Context, c Chunk, off int64, dst []byte) error {
	if off < 0 || off+int64(len(dst)) > int64(c.Size) {
		return fmt.Errorf("%d bytes from %d of chunk %v: %w", len(dst), off, c.ID, ErrBadSpan)
	}
	if s.isClosed() {
		return ErrClosed
	}
	s.budget.join()
	defer s.budget.leave()
	cs := chunkSpan{c, piece{off, off + int64(len(dst))}}
	for !cs.span.empty() {
		w, geo, err := s.loadWindow(ctx, cs, maxWindow, rowWait)
		if err != nil {
			return err
		}
		l := &loaded{window: w, geo: geo, next: geo.span.lo}
		for b := l.bytes(); len(b) > 0; b = l.bytes() {
			n := copy(dst, b)
			dst = dst[n:]
			l.next += int64(n)
		}
		w.release()
		s.stats.read.Add(geo.span.size())
		cs.span.lo = geo.span.hi
	}
	return nil
}
