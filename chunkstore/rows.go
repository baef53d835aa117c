package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// maxRows bounds the cache of volume rows, about 30 MiB. A row that was pushed out is read again.
	maxRows = 1 << 16
	// unknownAgain is how old a row may be that names a drive which is not there at all: the drive left the topology,
	// or this gateway does not know it yet, and the slot has moved or soon will.
	unknownAgain = time.Second
	// downAgain is how old a row may be that names a drive which is down. Its shards are rebuilt by every read until
	// their slot moves; that is worth a row read now and then, but not one for each of a hundred thousand volumes a second.
	downAgain = 30 * time.Second
)

// cachedRow is a volume row as it was at some time. Other peers move slots, so what is read, deleted, checked or
// restored by a row that turns out to be old is done again by the new one.
type cachedRow struct {
	Volume
	// looked is when the row was read, or its drives were last all found to be there.
	looked time.Time
}

// row returns a volume row, from the cache when it is there. A row that names drives which are not there is read anew
// once it is old enough, because the slots have probably moved; where that fails the old one must do.
func (vs *volumeSet) row(ctx context.Context, id VolumeID) (Volume, error) {
	vs.mu.Lock()
	c, ok := vs.rows[id]
	if !ok {
		vs.mu.Unlock()
		return vs.refresh(ctx, id)
	}
	old := vs.outdated(c)
	if old || vs.store.config.Now().Sub(c.looked) > downAgain {
		c.looked = vs.store.config.Now() // the others go on by the cached row meanwhile
		vs.rows[id] = c
	}
	vs.mu.Unlock()
	if !old {
		return c.Volume, nil
	}
	bounded, cancel := context.WithTimeout(ctx, vs.store.config.ReadDeadline)
	defer cancel()
	fresh, err := vs.refresh(bounded, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return c.Volume, nil
	}
	return fresh, err
}

// outdated is called with mu held. It tells whether a row names drives that are not there and is too old for that.
func (vs *volumeSet) outdated(c cachedRow) bool {
	age := vs.store.config.Now().Sub(c.looked)
	if age <= unknownAgain {
		return false
	}
	for _, id := range c.Slots {
		m := vs.store.config.Drives.member(id)
		if m == nil || age > downAgain && m.drive.Status().Down != nil {
			return true
		}
	}
	return false
}

// refresh reads a volume row anew.
func (vs *volumeSet) refresh(ctx context.Context, id VolumeID) (Volume, error) {
	v, err := vs.store.config.Volumes.Volume(ctx, id)
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if errors.Is(err, ErrNotFound) {
		delete(vs.rows, id)
	}
	if err != nil {
		return Volume{}, fmt.Errorf("row of volume %d: %w", id, err)
	}
	return vs.remember(v), nil
}

// remember is called with mu held. It keeps the newest epoch of a row.
func (vs *volumeSet) remember(v Volume) Volume {
	old, ok := vs.rows[v.ID]
	if ok && old.Epoch > v.Epoch {
		return old.Volume
	}
	if !ok && len(vs.rows) >= maxRows {
		for id := range vs.rows { // any one
			delete(vs.rows, id)
			break
		}
	}
	vs.rows[v.ID] = cachedRow{v, vs.store.config.Now()}
	return v
}

// cached returns the row of that epoch if the cache has it.
func (vs *volumeSet) cached(id VolumeID, epoch cluster.Epoch) (Volume, bool) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	c, ok := vs.rows[id]
	return c.Volume, ok && c.Epoch == epoch
}

// still tells with an error whether the row of a volume is of this epoch now.
func (vs *volumeSet) still(ctx context.Context, v Volume) error {
	now, err := vs.refresh(ctx, v.ID)
	if err != nil {
		return err
	}
	if now.Epoch != v.Epoch {
		return fmt.Errorf("volume %d is at epoch %d, not %d: %w", v.ID, now.Epoch, v.Epoch, ErrStaleVolume)
	}
	return nil
}
