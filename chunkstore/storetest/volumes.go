// Package storetest is a small cluster for tests of what stands on chunkstore: volume rows in memory, and twelve memory
// drives with their switches.
package storetest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
)

// Volumes is chunkstore.Volumes in memory: the reference of what the metadata must do. Make it with NewVolumes.
type Volumes struct {
	mu      sync.Mutex
	rows    map[chunkstore.VolumeID]chunkstore.Volume
	intents map[chunkstore.Chunk]uint16
	groups  []chunkstore.Group
	last    chunkstore.VolumeID
	block   uint64
	updates int
}

var _ chunkstore.Volumes = (*Volumes)(nil)

// NewVolumes returns rows with these placement groups and no volumes.
func NewVolumes(groups []chunkstore.Group) *Volumes {
	return &Volumes{
		rows:    make(map[chunkstore.VolumeID]chunkstore.Volume),
		intents: make(map[chunkstore.Chunk]uint16),
		groups:  groups,
	}
}

// Volume implements chunkstore.Volumes.
func (v *Volumes) Volume(ctx context.Context, id chunkstore.VolumeID) (chunkstore.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	row, ok := v.rows[id]
	if !ok {
		return chunkstore.Volume{}, fmt.Errorf("volume %d: %w", id, chunkstore.ErrNotFound)
	}
	return row, ctx.Err()
}

// CreateVolume implements chunkstore.Volumes.
func (v *Volumes) CreateVolume(ctx context.Context, row chunkstore.Volume) (chunkstore.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last++
	row.ID, row.Epoch = v.last, 1
	v.rows[row.ID] = row
	return row, ctx.Err()
}

// UpdateVolume implements chunkstore.Volumes.
func (v *Volumes) UpdateVolume(ctx context.Context, row chunkstore.Volume) (chunkstore.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, ok := v.rows[row.ID]
	if !ok {
		return chunkstore.Volume{}, fmt.Errorf("volume %d: %w", row.ID, chunkstore.ErrNotFound)
	}
	if old.Epoch != row.Epoch {
		return chunkstore.Volume{}, fmt.Errorf("volume %d epoch %d, not %d: %w", row.ID, old.Epoch, row.Epoch, chunkstore.ErrStaleVolume)
	}
	row.Epoch++
	v.rows[row.ID] = row
	v.updates++
	return row, ctx.Err()
}

// ListVolumes implements chunkstore.Volumes.
func (v *Volumes) ListVolumes(ctx context.Context, after chunkstore.VolumeID, max int) ([]chunkstore.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var rows []chunkstore.Volume
	for id, row := range v.rows {
		if id > after {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b chunkstore.Volume) int { return cmp.Compare(a.ID, b.ID) })
	return rows[:min(max, len(rows))], ctx.Err()
}

// DropVolume implements chunkstore.Volumes.
func (v *Volumes) DropVolume(ctx context.Context, id chunkstore.VolumeID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.rows, id)
	return ctx.Err()
}

// LeaseChunkBlock implements chunkstore.Volumes.
func (v *Volumes) LeaseChunkBlock(ctx context.Context) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.block++
	return v.block, ctx.Err()
}

// Groups implements chunkstore.Volumes.
func (v *Volumes) Groups(ctx context.Context) ([]chunkstore.Group, error) {
	return v.groups, ctx.Err()
}

// AddIntent implements chunkstore.Volumes: shards are added to those of an intent that is there.
func (v *Volumes) AddIntent(ctx context.Context, in chunkstore.Intent) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.intents[in.Chunk] |= in.Missing
	return ctx.Err()
}

// Intents implements chunkstore.Volumes.
func (v *Volumes) Intents(ctx context.Context, after chunkstore.Chunk, max int) ([]chunkstore.Intent, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var intents []chunkstore.Intent
	for c, missing := range v.intents {
		if compareChunks(c, after) > 0 {
			intents = append(intents, chunkstore.Intent{Chunk: c, Missing: missing})
		}
	}
	slices.SortFunc(intents, func(a, b chunkstore.Intent) int { return compareChunks(a.Chunk, b.Chunk) })
	return intents[:min(max, len(intents))], ctx.Err()
}

// ResolveIntent implements chunkstore.Volumes.
func (v *Volumes) ResolveIntent(ctx context.Context, chunk chunkstore.Chunk) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.intents, chunk)
	return ctx.Err()
}

// All returns every row in order.
func (v *Volumes) All() []chunkstore.Volume {
	rows, err := v.ListVolumes(context.Background(), 0, math.MaxInt)
	if err != nil {
		panic(err) // a context that never ends cannot fail it
	}
	return rows
}

// Intent returns the mask of missing shards that is recorded for a chunk, zero for none.
func (v *Volumes) Intent(c chunkstore.Chunk) uint16 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.intents[c]
}

func compareChunks(a, b chunkstore.Chunk) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.ID.Block, b.ID.Block), cmp.Compare(a.ID.Seq, b.ID.Seq),
		cmp.Compare(a.Size, b.Size), slices.Compare(a.Digest[:], b.Digest[:]))
}
