package repair

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

const (
	// deleteTogether is how many shards one call deletes: about as many holes as a drive punches in a second.
	deleteTogether = 1024
	// sealWait is how long a drive that a slot left is waited for until it refuses older epochs.
	sealWait = 10 * time.Second
)

// canGoHome returns the slots that are away from a home drive which is up.
func (w *Worker) canGoHome(v chunkstore.Volume) uint16 {
	var mask uint16
	for i := range v.Slots {
		if _, up := w.seen[v.Home[i]]; up && v.Slots[i] != v.Home[i] {
			mask |= 1 << i
		}
	}
	return mask
}

// goHome copies the shards of the slots in mask to their home drives, changes the row, and deletes the copies that it
// does not name any more. The volume is sealed.
func (w *Worker) goHome(ctx context.Context, v chunkstore.Volume, mask uint16, s survey) error {
	if n := bits.OnesCount16(s.answered); n < chunkstore.SealQuorum {
		w.wait(v.ID, fmt.Errorf("%d of its drives answer, and others may hold chunks that these do not know of", n))
		return nil
	}
	target := v
	var copied [chunkstore.Shards]map[chunkstore.ChunkID]struct{}
	for i := range chunkstore.Shards {
		if mask>>i&1 == 0 {
			continue
		}
		var ok bool
		var err error
		if copied[i], ok, err = w.copySlot(ctx, v, i, s); err != nil {
			return err
		}
		if ok {
			target.Slots[i] = v.Home[i]
		}
		if w.called() && !v.DoubledUp() {
			break // the others go in a pass to come
		}
	}
	if target.Slots == v.Slots {
		w.wait(v.ID, errors.New("none of its slots could be copied"))
		return nil
	}
	moved, err := w.config.Store.UpdateVolume(ctx, target)
	if errors.Is(err, chunkstore.ErrStaleVolume) || errors.Is(err, chunkstore.ErrNotFound) {
		w.wait(v.ID, err)
		return nil // another peer changed it meanwhile: the next pass sees the new row
	}
	if err != nil {
		return err
	}
	w.volumes[v.ID].waits = time.Time{}
	for i := range chunkstore.Shards {
		if moved.Slots[i] == v.Slots[i] {
			continue
		}
		w.mu.Lock()
		w.progress.Moved++
		w.mu.Unlock()
		if err := w.tidy(ctx, v, moved, i, copied[i]); err != nil {
			return err
		}
	}
	return nil
}

// copySlot restores every chunk of a slot on its home drive. ok says that the slot may move: nothing that its old
// drive holds, or may hold, would be left behind, but for remains. copied are the chunks that are at the home drive now, verified.
func (w *Worker) copySlot(ctx context.Context, v chunkstore.Volume, slot int, s survey) (copied map[chunkstore.ChunkID]struct{}, ok bool, err error) {
	copied, ok = make(map[chunkstore.ChunkID]struct{}), true
	var refused []chunkstore.ChunkID
	var without []chunkstore.Chunk
	jobs := make([]job, 0, len(s.held))
	for _, h := range s.held {
		has, remains := h.slots>>slot&1 != 0, s.remains(h)
		jobs = append(jobs, job{h.chunk, slot, v, v.Home[slot], losses(v, h.slots), func(err error) {
			switch {
			case err == nil:
				copied[h.chunk.ID] = struct{}{}
			case errors.Is(err, chunkstore.ErrDeleted) && remains:
				// Nobody can read it any more, so it holds no volume away. What the old drive has of it stays there, for sweep.
			case errors.Is(err, chunkstore.ErrDeleted):
				refused = append(refused, h.chunk.ID)
			case errors.Is(err, chunkstore.ErrLost) && !has && remains:
				// It cannot be rebuilt, not even with what a drive that does not answer may hold.
			case errors.Is(err, chunkstore.ErrLost) && !has && s.answered|s.gone == all:
				without = append(without, h.chunk) // the move takes nothing away
			default:
				ok = false
			}
		}})
	}
	if err := w.restore(ctx, jobs); err != nil {
		return nil, false, err
	}
	if ok && len(refused) > 0 {
		if ok, err = w.deleted(ctx, v, slot, refused); err != nil {
			return nil, false, err
		}
		if !ok {
			w.refuse(Place{v.ID, slot, v.Home[slot]})
		}
	}
	if ok {
		err = w.record(ctx, without, slot)
	}
	return copied, ok && err == nil, err
}

// record names shards that a slot moves without, before it does: another worker may have restored one at the old place
// meanwhile, and taken it for done.
func (w *Worker) record(ctx context.Context, chunks []chunkstore.Chunk, slot int) error {
	for _, c := range chunks {
		if err := w.config.Volumes.AddIntent(ctx, chunkstore.Intent{Chunk: c, Missing: 1 << slot}); err != nil {
			return fmt.Errorf("record that chunk %v lacks shard %d: %w", c.ID, slot, err)
		}
	}
	return nil
}

// deleted says whether chunks that the home drive of a slot calls deleted are so by now on the others too: too few shards
// are left to be one that is named. Else the home drive says so because the slot lay there once, and was moved away. A
// slot that does not answer may hold its shard.
func (w *Worker) deleted(ctx context.Context, v chunkstore.Volume, slot int, chunks []chunkstore.ChunkID) (bool, error) {
	s, err := w.survey(ctx, v)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(chunks, func(id chunkstore.ChunkID) bool {
		slots := s.find(id)
		return slots>>slot&1 != 0 || !s.remains(holding{slots: slots})
	}), nil
}

// tidy deletes the copies that a move left at the old place, of the chunks that were verified at the new one. What else
// lies there came while the slot was copied, or was not known: it counts as litter, and clear deletes it when it is at
// the new place too. So does what a failure leaves.
//
// Nothing is deleted at the new place. What the old one does not hold any more may as well have been cleared by another
// worker as deleted, and Store.Delete asks for the new place itself.
func (w *Worker) tidy(ctx context.Context, before, after chunkstore.Volume, slot int, copied map[chunkstore.ChunkID]struct{}) error {
	from := before.Slots[slot]
	w.fence(ctx, from, after)
	left, err := w.config.Store.ShardsOn(ctx, from, before.ID)
	if err != nil {
		return w.untidy(ctx, before, slot, err)
	}
	var keys []chunkstore.ShardKey
	for _, info := range left {
		if int(info.Key.Shard) != slot {
			continue
		}
		if _, ok := copied[info.Key.Chunk]; ok {
			keys = append(keys, info.Key)
		} else {
			w.litter(after.ID, from)
		}
	}
	still, err := w.still(ctx, after)
	if err != nil {
		return err
	}
	if !still {
		w.litter(after.ID, from) // another worker changed the row: it may lead back here
		return nil
	}
	if err := w.delete(ctx, from, keys); err != nil {
		return w.untidy(ctx, before, slot, err)
	}
	return nil
}

// still says whether a row is the one that is stored.
func (w *Worker) still(ctx context.Context, v chunkstore.Volume) (bool, error) {
	now, err := w.config.Volumes.Volume(ctx, v.ID)
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
		return false, fmt.Errorf("row of volume %d: %w", v.ID, err)
	}
	return err == nil && now.Epoch == v.Epoch, nil
}

// litter notes that a drive holds leftovers of a volume.
func (w *Worker) litter(volume chunkstore.VolumeID, id cluster.DriveID) {
	w.littered[id] = struct{}{}
	if k := w.volumes[volume]; k != nil && k.strays != nil {
		k.strays[id] = struct{}{}
	}
}

// fence makes a drive that a slot left refuse what a worker with an older row may still put there. Where that fails,
// what comes later is a leftover like others.
func (w *Worker) fence(ctx context.Context, id cluster.DriveID, after chunkstore.Volume) {
	d, ok := w.config.Drives.Get(id)
	if !ok {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, sealWait)
	defer cancel()
	if err := d.Seal(bounded, after.ID, after.Epoch); err != nil {
		w.litter(after.ID, id)
	}
}

func (w *Worker) delete(ctx context.Context, id cluster.DriveID, keys []chunkstore.ShardKey) error {
	for part := range slices.Chunk(keys, deleteTogether) {
		if err := w.config.Store.DeleteOn(ctx, id, part); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) untidy(ctx context.Context, v chunkstore.Volume, slot int, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.litter(v.ID, v.Slots[slot])
	w.config.Log.Warn("a moved slot left copies at its old drive; they are deleted when it answers",
		"volume", v.ID, "slot", slot, "drive", v.Slots[slot].String(), "err", err)
	return nil
}
