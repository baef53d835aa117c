package sim

import (
	"context"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
	numbers "github.com/holdfast/holdfast/cluster"
)

// fence is a volume on a drive.
type fence struct {
	drive  numbers.DriveID
	volume chunkstore.VolumeID
}

// fences check that nothing is written to a volume by an older epoch once its drive has said that it refuses that: the
// list of a volume's chunks is final then, and its shards may be moved.
type fences struct {
	c *cluster

	mu     sync.Mutex
	sealed map[fence]numbers.Epoch
	seals  int
}

// count is how often a drive sealed a volume.
func (f *fences) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seals
}

// on watches a drive.
func (f *fences) on(d chunkstore.Drive) chunkstore.Drive { return fenced{d, f} }

type fenced struct {
	chunkstore.Drive
	fences *fences
}

// Seal implements chunkstore.Drive.
func (d fenced) Seal(ctx context.Context, volume chunkstore.VolumeID, epoch numbers.Epoch) error {
	err := d.Drive.Seal(ctx, volume, epoch)
	if err == nil {
		d.fences.mu.Lock()
		defer d.fences.mu.Unlock()
		at := fence{d.ID(), volume}
		d.fences.sealed[at] = max(d.fences.sealed[at], epoch)
		d.fences.seals++
	}
	return err
}

// Put implements chunkstore.Drive.
func (d fenced) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	d.fences.mu.Lock()
	sealed := d.fences.sealed[fence{d.ID(), h.Key.Volume}]
	d.fences.mu.Unlock()
	err := d.Drive.Put(ctx, h, cells)
	if err == nil && h.Epoch < sealed {
		d.fences.c.complain("a moved volume was open: drive %v took %v by epoch %d after it had sealed epoch %d", d.ID(), h.Key, h.Epoch, sealed)
	}
	return err
}
