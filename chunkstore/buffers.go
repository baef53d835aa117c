package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/chunkstore/erasure"
)

// Sizes of a row buffer, the unit of memory.
const (
	dataCells = 8
	rowData   = dataCells * erasure.Cell
	rowSize   = Shards * erasure.Cell
)

// rowWait is how long a request waits for memory before it is refused: clients repeat a request after about that long.
const rowWait = 5 * time.Second

// budget is a fixed set of row buffers in one mapping outside of the Go heap, so the collector neither scans nor
// doubles it and pages never touched cost nothing. The free list is a stack: few rows stay warm and resident.
type budget struct {
	region []byte
	total  int

	mu      sync.Mutex
	free    []*row
	waiters []chan *row
	short   chan struct{} // closed while someone waits
	users   int           // requests that share the budget
}

// row is one buffer. Whoever may still touch it holds a reference; the last release makes it free.
type row struct {
	budget *budget
	buf    []byte // rowSize bytes, page-aligned: eight data cells, then four parity cells
	refs   atomic.Int32
}

func newBudget(memory int64) (*budget, error) {
	b := &budget{total: int(memory / rowSize), short: make(chan struct{})}
	region, err := unix.Mmap(-1, 0, b.total*rowSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of row buffers: %w", b.total*rowSize, err)
	}
	b.region = region
	for i := b.total - 1; i >= 0; i-- {
		b.free = append(b.free, &row{budget: b, buf: region[i*rowSize : (i+1)*rowSize : (i+1)*rowSize]})
	}
	return b, nil
}

// errBuffersInUse says that row buffers could not be unmapped.
var errBuffersInUse = errors.New("row buffers are still in use")

// close unmaps the buffers. All of them must be free; if not, they stay mapped and errBuffersInUse comes with their number.
func (b *budget) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if used := b.total - len(b.free); used > 0 {
		return fmt.Errorf("%w: %d", errBuffersInUse, used)
	}
	b.free = nil
	b.total = 0
	if err := unix.Munmap(b.region); err != nil {
		return fmt.Errorf("unmap row buffers: %w", err)
	}
	return nil
}

// join counts a request among those that share the budget, until leave.
func (b *budget) join() {
	b.mu.Lock()
	b.users++
	b.mu.Unlock()
}

func (b *budget) leave() {
	b.mu.Lock()
	b.users--
	b.mu.Unlock()
}

// share is the number of rows that one request may hold so that all can go on.
func (b *budget) share() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(2, b.total/max(1, b.users))
}

// scarce says that less than a quarter of the rows is free, so nobody should read ahead.
func (b *budget) scarce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.free) < b.total/4
}

func (b *budget) used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total - len(b.free)
}

// try returns a row if one is free and nobody waits for it, else nil.
func (b *budget) try() *row {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 {
		return nil
	}
	return b.pop()
}

func (b *budget) pop() *row {
	n := len(b.free)
	if n == 0 {
		return nil
	}
	r := b.free[n-1]
	b.free = b.free[:n-1]
	r.refs.Store(1)
	return r
}

// take returns a row with one reference, waiting for it up to the given time, after which it fails with ErrSlowDown.
// Rows go to waiters in the order of their coming.
func (b *budget) take(ctx context.Context, wait time.Duration) (*row, error) {
	b.mu.Lock()
	if len(b.waiters) == 0 {
		if r := b.pop(); r != nil {
			b.mu.Unlock()
			return r, nil
		}
		close(b.short)
	}
	ch := make(chan *row, 1)
	b.waiters = append(b.waiters, ch)
	b.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("no memory for %v: %w", wait, ErrSlowDown)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, w := range b.waiters {
		if w == ch {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.calm()
			return nil, err
		}
	}
	return <-ch, nil // it was given away in the same moment
}

// calm is called with mu held, after a waiter left.
func (b *budget) calm() {
	if len(b.waiters) == 0 {
		b.short = make(chan struct{})
	}
}

// pressure returns a channel that is closed while someone waits for memory.
func (b *budget) pressure() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.short
}

func (r *row) retain() { r.refs.Add(1) }

func (r *row) release() {
	switch n := r.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("row buffer released twice")
	}
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 {
		r.refs.Store(1)
		b.waiters[0] <- r
		b.waiters = b.waiters[1:]
		b.calm()
		return
	}
	b.free = append(b.free, r)
}

// cells returns the twelve cells of a row whose cells have size bytes each.
func (r *row) cells(size int64) *[Shards][]byte {
	var cells [Shards][]byte
	for i := range cells {
		cells[i] = r.cell(i, size)
	}
	return &cells
}

// cell returns cell i of a row whose cells have size bytes. The data cells lie back to back, so that a body is read
// into them in one piece.
func (r *row) cell(i int, size int64) []byte {
	off := int64(i) * size
	if i >= dataCells {
		off = rowData + int64(i-dataCells)*size
	}
	return r.buf[off : off+size : off+size]
}
