package remote

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	// maxPiece is how much of a shard a drive is asked for at once: what a Store asks a local drive for, so that a
	// disk makes one access of it.
	maxPiece = 8 * erasure.Cell
	// unit is what memory is counted in.
	unit = erasure.Cell
)

// pool is the memory of shards on their way: buffers of one cell and of one piece, aligned for direct I/O. The
// semaphore bounds those in use; idle ones are the garbage collector's.
type pool struct {
	room   *semaphore.Weighted
	total  int64
	cells  sync.Pool
	pieces sync.Pool
}

func newPool(memory int64) *pool {
	aligned := func(size int) func() any {
		return func() any { return &block{vfs.Aligned(size)} }
	}
	// At least the longest shard must fit.
	p := &pool{total: max(memory, maxShard) / unit}
	p.room = semaphore.NewWeighted(p.total)
	p.cells.New, p.pieces.New = aligned(unit), aligned(maxPiece)
	return p
}

type block struct{ buf []byte }

// buffers are what one call holds. Whoever took them releases them, when nothing reads or writes them any more.
type buffers struct {
	parts  [][]byte
	blocks []*block
	from   *sync.Pool
	room   *semaphore.Weighted
	weight int64
}

// take returns buffers of size bytes each, count of them, size at most maxPiece. It waits that long for room.
func (p *pool) take(ctx context.Context, size int64, count int, wait time.Duration) (*buffers, error) {
	b := &buffers{from: &p.cells, room: p.room, weight: min((size+unit-1)/unit*int64(count), p.total)}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := p.room.Acquire(bounded, b.weight); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("peer has no memory for a shard for %v: %w", wait, chunkstore.ErrDriveDown)
	}
	if size > unit {
		b.from = &p.pieces
	}
	for range count {
		block := b.from.Get().(*block)
		b.blocks = append(b.blocks, block)
		b.parts = append(b.parts, block.buf[:size])
	}
	return b, nil
}

func (b *buffers) release() {
	for _, block := range b.blocks {
		b.from.Put(block)
	}
	b.blocks, b.parts = nil, nil
	b.room.Release(b.weight)
}
