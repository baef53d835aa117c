package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/chunkstore/hashkern"
)

const (
	// maxRowsPerChunk makes MaxChunk: 16 rows of 512 KiB.
	maxRowsPerChunk = MaxChunk / rowData
	// chunksInFlight is how many chunks of one write are under way to drives: one is synced while the next is filled,
	// and one more hides a slow drive.
	chunksInFlight = 3
)

// ErrBodyLength says that a body was longer or shorter than announced. A body that is too short also wraps
// io.ErrUnexpectedEOF.
var ErrBodyLength = errors.New("body is not as long as announced")

// Write reads r to its end and stores it as chunks of at most MaxChunk bytes. When it returns nil every chunk is
// durable on enough drives to survive the loss of any two; an empty body has no chunks. The caller commits the Intents
// together with whatever names the chunks. On an error nothing is stored: what was written is deleted again as far as
// it can be. ErrSlowDown: the drives or the memory could not take it; ErrBodyLength: r did not have o.Size bytes; an
// error of r is passed on.
//
//	r ─ rows ─┬─ coder: parity, leaves ─ chunks ─┬─ sender ─ twelve drives
//	          └─ Tee                             └─ sender …
func (s *Store) Write(ctx context.Context, r io.Reader, o WriteOptions) (Written, error) {
	if s.isClosed() {
		return Written{}, ErrClosed
	}
	s.budget.join()
	defer s.budget.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.life, func() { cancel(ErrClosed) })
	defer stop()
	w := &writer{
		store: s, ctx: ctx, cancel: cancel, options: o,
		filled: make(chan *filledRow, 1), freed: make(chan struct{}, 1), flush: make(chan struct{}, 1),
		sending: make(chan struct{}, chunksInFlight),
	}
	size, err := w.run(r)
	if err != nil {
		s.discard(w.chunks)
		if errors.Is(err, ErrSlowDown) {
			s.stats.refused.Add(1)
		}
		return Written{}, err
	}
	s.stats.written.Add(size)
	written := Written{Size: size}
	for i, c := range w.chunks {
		written.Chunks = append(written.Chunks, c)
		if w.missing[i] != 0 {
			written.Intents = append(written.Intents, Intent{Chunk: c, Missing: w.missing[i]})
		}
	}
	return written, nil
}

// writer is one Write. The goroutine of Write fills rows, one codes them, one shows them to Tee, and each chunk under
// way has one that sends it.
type writer struct {
	store   *Store
	ctx     context.Context // ends when any part of the write fails
	cancel  context.CancelCauseFunc
	options WriteOptions

	filled  chan *filledRow
	freed   chan struct{} // a row that was held is free, or the share is larger
	flush   chan struct{} // the filler wants rows: send what is coded
	sending chan struct{} // one token for each chunk under way
	held    atomic.Int32  // rows that this write holds

	wait sync.WaitGroup
	mu   sync.Mutex // guards chunks and missing
	// chunks are those stored, in order of the body. A chunk under way has its place already, with Size 0.
	chunks  []Chunk
	missing []uint16
}

// filledRow is a row with n bytes of the body. The write counts it as held until both the coder's chunk and Tee are
// done with it.
type filledRow struct {
	row  *row
	n    int
	uses atomic.Int32
}

func (w *writer) run(r io.Reader) (int64, error) {
	tee := make(chan *filledRow, maxRowsPerChunk)
	if w.options.Tee != nil {
		w.wait.Go(func() {
			for f := range tee {
				if w.ctx.Err() == nil {
					w.options.Tee(f.row.buf[:f.n])
				}
				f.row.release()
				w.drop(f)
			}
		})
	}
	w.wait.Go(w.code)
	size, err := w.fill(r, tee)
	if err != nil {
		w.cancel(err)
	}
	close(w.filled)
	close(tee)
	w.wait.Wait()
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return size, nil
}

// fill reads the body into rows until its end.
func (w *writer) fill(r io.Reader, tee chan<- *filledRow) (int64, error) {
	var size int64
	for {
		if w.options.Size >= 0 && size >= w.options.Size {
			if err := w.checkSize(size); err != nil {
				return size, err
			}
			return size, expectEnd(r)
		}
		row, err := w.takeRow()
		if err != nil {
			return size, err
		}
		n, ended, err := readRow(r, row.buf[:rowData])
		size += int64(n)
		if n == 0 || err != nil {
			row.release()
			w.held.Add(-1)
			if err != nil {
				return size, fmt.Errorf("read body: %w", err)
			}
			return size, w.checkSize(size)
		}
		f := &filledRow{row: row, n: n}
		if err := w.pass(f, tee); err != nil {
			return size, err
		}
		if ended {
			return size, w.checkSize(size)
		}
	}
}

// maxEmptyReads is how many reads in a row may give nothing before a body counts as broken, as in package bufio.
const maxEmptyReads = 100

// readRow reads until buf is full or the body ends. It is not io.ReadFull because a body that was cut off may say so
// with io.ErrUnexpectedEOF, which must not be taken for the end of a short row.
func readRow(r io.Reader, buf []byte) (n int, ended bool, err error) {
	for empty := 0; n < len(buf); {
		m, err := r.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF: // a reader returns it as it is; wrapped, it is some other reader's end
			return n, true, nil
		case err != nil:
			return n, false, err
		case m > 0:
			empty = 0
		default:
			if empty++; empty == maxEmptyReads {
				return n, false, io.ErrNoProgress
			}
		}
	}
	return n, false, nil
}

// pass hands a filled row to the coder and to Tee.
func (w *writer) pass(f *filledRow, tee chan<- *filledRow) error {
	f.uses.Store(1)
	if w.options.Tee != nil {
		f.uses.Store(2)
		f.row.retain()
		tee <- f // Tee's goroutine always receives
	}
	select {
	case w.filled <- f:
		return nil
	case <-w.ctx.Done():
		f.row.release()
		w.drop(f)
		return context.Cause(w.ctx)
	}
}

func (w *writer) checkSize(size int64) error {
	switch {
	case w.options.Size < 0 || size == w.options.Size:
		return nil
	case size < w.options.Size:
		return fmt.Errorf("%d of %d bytes: %w: %w", size, w.options.Size, ErrBodyLength, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("more than %d bytes: %w", w.options.Size, ErrBodyLength)
}

// expectEnd reads on until the reader says that the body has ended: it may have something to verify there.
func expectEnd(r io.Reader) error {
	var probe [1]byte
	n, ended, err := readRow(r, probe[:])
	switch {
	case err != nil:
		return fmt.Errorf("read body: %w", err)
	case n == 0 && ended:
		return nil
	}
	return fmt.Errorf("a byte beyond the end: %w", ErrBodyLength)
}

// takeRow waits for memory: for this write's share of the budget, then for a row.
func (w *writer) takeRow() (*row, error) {
	for int(w.held.Load()) >= w.store.budget.share() {
		select {
		case w.flush <- struct{}{}:
		default:
		}
		select {
		case <-w.freed:
		case <-w.ctx.Done():
			return nil, context.Cause(w.ctx)
		}
	}
	row, err := w.store.budget.take(w.ctx, rowWait)
	if err != nil {
		if w.ctx.Err() != nil {
			err = context.Cause(w.ctx)
		}
		return nil, fmt.Errorf("write: %w", err)
	}
	w.held.Add(1)
	return row, nil
}

// drop ends one use of a row on behalf of this write.
func (w *writer) drop(f *filledRow) {
	if f.uses.Add(-1) > 0 {
		return
	}
	w.held.Add(-1)
	w.wake()
}

// wake makes the filler look again whether it may take a row.
func (w *writer) wake() {
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// code makes chunks of the filled rows. A chunk ends when it is full, when the body ends, or, at a row boundary, when
// memory is short: so that a slow body does not hold more than the row that it fills.
func (w *writer) code() {
	out := &outgoing{}
	defer func() {
		for f := range w.filled { // after a failure the filler may have passed one more
			f.row.release()
			w.drop(f)
		}
	}()
	for {
		var pressure <-chan struct{}
		var flush chan struct{}
		if len(out.rows) > 0 {
			pressure, flush = w.store.budget.pressure(), w.flush
		}
		end := false
		select {
		case f, ok := <-w.filled:
			if !ok {
				w.dispatch(out)
				return
			}
			if err := w.store.code(out, f, w.options.MD5); err != nil {
				w.cancel(err)
			}
			w.store.stats.rows.Add(1)
			limit := min(max(w.store.budget.share()/2, 1), maxRowsPerChunk)
			end = f.n < rowData || len(out.rows) >= limit
		case <-pressure:
			end = true
		case <-flush:
			if end = int(w.held.Load()) >= w.store.budget.share(); !end { // the share grew meanwhile
				w.wake()
			}
		case <-w.ctx.Done():
			w.release(out)
			return
		}
		if end {
			w.dispatch(out)
			out = &outgoing{}
		}
	}
}

// dispatch sends a chunk to the drives, waiting while too many are under way.
func (w *writer) dispatch(out *outgoing) {
	if len(out.rows) == 0 {
		return
	}
	select {
	case w.sending <- struct{}{}:
	case <-w.ctx.Done():
	}
	if w.ctx.Err() != nil {
		w.release(out)
		return
	}
	out.finish()
	w.mu.Lock()
	at := len(w.chunks)
	w.chunks = append(w.chunks, Chunk{})
	w.missing = append(w.missing, 0)
	w.mu.Unlock()
	w.wait.Go(func() {
		chunk, missing, err := w.store.send(w.ctx, out, w.options.Owner)
		if err != nil {
			w.cancel(err)
		}
		w.mu.Lock()
		w.chunks[at], w.missing[at] = chunk, missing
		w.mu.Unlock()
		w.release(out)
		<-w.sending
	})
}

// release ends the write's own use of a chunk's rows. Puts that still run keep theirs.
func (w *writer) release(out *outgoing) {
	rows := out.rows
	out.release()
	for _, f := range rows {
		w.drop(f)
	}
}

// outgoing is a chunk on its way to the drives. Its cells are immutable once it is finished.
type outgoing struct {
	rows   []*filledRow
	size   int64
	layout erasure.Layout
	cells  [Shards][][]byte
	leaves [Shards][]Digest
	roots  [Shards]Digest
	// extra counts the puts that read the cells, beside the write itself.
	extra atomic.Int32
}

// code adds one more row to a chunk, and its bytes to md5 when that is not nil. Only the last row of a chunk may be less
// than full.
func (s *Store) code(o *outgoing, f *filledRow, md5 *hashkern.MD5) error {
	layout := s.codec.Scheme().Layout(int64(f.n))
	if len(o.rows) > 0 {
		layout.Cell, layout.Leaf = erasure.Cell, erasure.Leaf
	}
	o.rows = append(o.rows, f)
	o.size += int64(f.n)
	clear(f.row.buf[f.n : dataCells*layout.Cell])
	cells := f.row.cells(layout.Cell)
	if err := s.codec.Encode(cells[:]); err != nil {
		return err
	}
	var leaves [][]byte
	for i, cell := range cells {
		o.cells[i] = append(o.cells[i], cell)
		leaves = cutLeaves(leaves, cell, layout.Leaf)
	}
	sums := make([]hashkern.Digest, len(leaves))
	work := hashkern.Work{Leaves: leaves, Sums: sums}
	if md5 != nil {
		work.MD5, work.Body = md5, f.row.buf[:f.n]
	}
	s.hasher.run(work)
	perCell := len(leaves) / len(cells)
	for i := range cells {
		for _, sum := range sums[i*perCell : (i+1)*perCell] {
			o.leaves[i] = append(o.leaves[i], Digest(sum))
		}
	}
	return nil
}

func (o *outgoing) finish() {
	o.layout = erasure.Default.Layout(o.size)
	for i := range o.roots {
		o.roots[i] = Root(o.leaves[i])
	}
}

func (o *outgoing) retain() { o.extra.Add(1) }

func (o *outgoing) release() {
	if o.extra.Add(-1) >= 0 {
		return
	}
	for _, f := range o.rows {
		f.row.release()
	}
}

// cutLeaves appends the leaves of a cell.
func cutLeaves(leaves [][]byte, cell []byte, leaf int64) [][]byte {
	for off := int64(0); off < int64(len(cell)); off += leaf {
		leaves = append(leaves, cell[off:min(off+leaf, int64(len(cell)))])
	}
	return leaves
}
