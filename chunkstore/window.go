package chunkstore

import (
	"sync/atomic"

	"github.com/holdfast/holdfast/chunkstore/erasure"
)

// maxWindow is the most rows that are read at a time; windows grow 1, 2, 4, 8, so that the first byte comes soon.
const maxWindow = 8

// piece is a run of bytes [lo, hi).
type piece struct{ lo, hi int64 }

func (p piece) empty() bool        { return p.lo >= p.hi }
func (p piece) size() int64        { return p.hi - p.lo }
func (p piece) holds(q piece) bool { return q.empty() || p.lo <= q.lo && q.hi <= p.hi }
func (p piece) hull(q piece) piece {
	switch {
	case p.empty():
		return q
	case q.empty():
		return p
	}
	return piece{min(p.lo, q.lo), max(p.hi, q.hi)}
}

// geometry says which bytes of a chunk's shards a span of its data lies on. All offsets of shards are counted from the
// first row of the window, at Base in the payload.
type geometry struct {
	layout erasure.Layout
	span   piece // of the chunk's data
	first  int64 // row
	rows   int64
}

// newGeometry covers a span, or as much of it as limit rows hold.
func newGeometry(size int64, span piece, limit int) geometry {
	layout := erasure.Default.Layout(size)
	width := dataCells * layout.Cell
	first := span.lo / width
	rows := min((span.hi-1)/width-first+1, int64(limit))
	span.hi = min(span.hi, (first+rows)*width)
	return geometry{layout: layout, span: span, first: first, rows: rows}
}

// base is the offset in every shard's payload of the window's first row.
func (g geometry) base() int64 { return g.first * g.layout.Cell }

// need returns what must be read of a data shard, whole leaves.
func (g geometry) need(shard int) piece {
	cell, width := g.layout.Cell, dataCells*g.layout.Cell
	lo, hi := g.span.lo-g.first*width, g.span.hi-1-g.first*width // first and last byte, from the window's first row
	from, to := piece{}, piece{}
	switch at := int(lo / cell); {
	case shard < at:
		from.lo = cell
	case shard == at:
		from.lo = lo % cell
	}
	last := hi / width
	switch at := int(hi % width / cell); {
	case shard < at:
		to.hi = (last + 1) * cell
	case shard == at:
		to.hi = last*cell + hi%cell + 1
	default:
		to.hi = last * cell
	}
	if from.lo >= to.hi {
		return piece{}
	}
	leaf := g.layout.Leaf
	// A leaf that does not divide the cell exists only in chunks of one row, where the cell is the whole shard.
	return piece{from.lo / leaf * leaf, min((to.hi+leaf-1)/leaf*leaf, g.rows*cell)}
}

// window is the memory of rows that are read together. The cells of one shard lie back to back, so that a drive is
// asked once for all of them: a window of w rows has w buffers of 8 + 4 cells, and gives shard i the data cells from
// i·w on, or of parity shard j the parity cells from j·w on.
type window struct {
	rows []*row
	refs atomic.Int32
	// spill[i], when not nil, stands for the cells of shard i: a drive that hangs may still write to its own.
	spill [Shards][]byte
}

func newWindow(rows []*row) *window {
	w := &window{rows: rows}
	w.refs.Store(1)
	return w
}

func (w *window) retain() { w.refs.Add(1) }

func (w *window) release() {
	if w.refs.Add(-1) > 0 {
		return
	}
	for _, r := range w.rows {
		r.release()
	}
}

// abandon leaves the memory of a shard to whoever may still write there, and gives the shard new memory. It happens
// only when a drive hangs, which is then gone around, so the new memory is not charged to the budget.
func (w *window) abandon(shard int) {
	w.spill[shard] = make([]byte, len(w.rows)*erasure.Cell)
}

// slice returns the bytes from off of a shard, at most n of them, as far as they lie in one piece of memory.
func (w *window) slice(shard int, off, n int64) []byte {
	if spill := w.spill[shard]; spill != nil {
		return spill[off : off+n : off+n]
	}
	count := int64(len(w.rows))
	inRow, before, first := int64(dataCells), int64(0), int64(shard)*count
	if shard >= dataCells {
		inRow, before, first = Shards-dataCells, rowData, int64(shard-dataCells)*count
	}
	cell := first + off/erasure.Cell
	at := before + cell%inRow*erasure.Cell + off%erasure.Cell
	end := before + inRow*erasure.Cell
	n = min(n, end-at)
	return w.rows[cell/inRow].buf[at : at+n : at+n]
}

// windowRows rounds a number of rows down to one that a window can have.
func windowRows(n int) int {
	w := 1
	for 2*w <= min(n, maxWindow) {
		w *= 2
	}
	return w
}
