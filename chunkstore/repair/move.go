package repair

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
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
	target := v
	for i := range chunkstore.Shards {
		if mask>>i&1 == 0 {
			continue
		}
		ok, err := w.copySlot(ctx, v, i, s)
		if err != nil {
			return err
		}
		if ok {
			target.Slots[i] = v.Home[i]
		}
		if w.called() && !doubled(v) {
			break // the others go in a pass to come
		}
	}
	if target.Slots == v.Slots {
		return nil
	}
	moved, err := w.config.Store.UpdateVolume(ctx, target)
	if errors.Is(err, chunkstore.ErrStaleVolume) || errors.Is(err, chunkstore.ErrNotFound) {
		return nil // another peer changed it meanwhile: the next pass sees the new row
	}
	if err != nil {
		return err
	}
	for i := range chunkstore.Shards {
		if moved.Slots[i] == v.Slots[i] {
			continue
		}
		w.mu.Lock()
		w.progress.Moved++
		w.mu.Unlock()
		if err := w.tidy(ctx, v, moved, i, s.held); err != nil {
			return err
		}
	}
	return nil
}

// copySlot restores every chunk of a slot on its home drive. ok says that the slot may move: nothing that its old
// drive holds, or may hold, would be left behind.
func (w *Worker) copySlot(ctx context.Context, v chunkstore.Volume, slot int, s survey) (ok bool, err error) {
	old := v.Slots[slot]
	// What a drive that answers, or that does not return, does not hold, the move cannot take away.
	known := w.seen[old] != nil || w.config.Removed != nil && w.config.Removed(old)
	ok = true
	var refused []chunkstore.ChunkID
	jobs := make([]job, 0, len(s.held))
	for _, h := range s.held {
		has := h.slots>>slot&1 != 0
		jobs = append(jobs, job{h.chunk, slot, v, v.Home[slot], losses(v, h.slots), func(err error) {
			switch {
			case err == nil:
			case errors.Is(err, chunkstore.ErrDeleted):
				refused = append(refused, h.chunk.ID)
			case errors.Is(err, chunkstore.ErrLost) && !has && (known || s.remains(h)):
				// It cannot be rebuilt, not even with what the old drive may hold.
			default:
				ok = false
			}
		}})
	}
	if err := w.restore(ctx, jobs); err != nil {
		return false, err
	}
	if len(refused) == 0 {
		return ok, nil
	}
	deleted, err := w.deleted(ctx, v, slot, refused)
	if err == nil && !deleted {
		w.refuse(Place{v.ID, slot, v.Home[slot]})
	}
	return ok && deleted, err
}

// deleted says whether chunks that the home drive of a slot calls deleted are so by now on the others too, as far as
// that can be seen. Else the home drive says so because the slot lay there once, and was moved away.
func (w *Worker) deleted(ctx context.Context, v chunkstore.Volume, slot int, chunks []chunkstore.ChunkID) (bool, error) {
	s, err := w.survey(ctx, v)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(chunks, func(id chunkstore.ChunkID) bool {
		slots := s.find(id)
		return slots>>slot&1 != 0 || bits.OnesCount16(slots) >= placement.Data
	}), nil
}

// tidy deletes what a move left over: at the new place chunks that were deleted at the old one while they were copied,
// at the old place the copies. A chunk that the old place only lacks is not deleted for it: it is put there once more,
// which fails when it was deleted. After a failure the drive counts as littered: clear deletes the copies later.
func (w *Worker) tidy(ctx context.Context, before, after chunkstore.Volume, slot int, held []holding) error {
	from := before.Slots[slot]
	w.fence(ctx, from, after)
	left, err := w.config.Store.ShardsOn(ctx, from, before.ID)
	if err != nil {
		return w.untidy(ctx, before, slot, err)
	}
	still := make(map[chunkstore.ChunkID]struct{})
	var old []chunkstore.ShardKey
	for _, info := range left {
		if int(info.Key.Shard) == slot {
			still[info.Key.Chunk] = struct{}{}
			old = append(old, info.Key)
		}
	}
	var deleted []chunkstore.ShardKey
	for _, h := range held {
		if _, ok := still[h.chunk.ID]; ok || h.slots>>slot&1 == 0 {
			continue
		}
		key := chunkstore.ShardKey{Volume: before.ID, Chunk: h.chunk.ID, Shard: uint8(slot)}
		switch err := w.config.Store.Restore(ctx, h.chunk, slot, after, from); {
		case errors.Is(err, chunkstore.ErrDeleted):
			deleted = append(deleted, key)
		case err == nil:
			old = append(old, key)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	if err := w.delete(ctx, after.Slots[slot], deleted); err != nil {
		return w.untidy(ctx, before, slot, err)
	}
	if err := w.delete(ctx, from, old); err != nil {
		return w.untidy(ctx, before, slot, err)
	}
	return nil
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
		w.littered[id] = struct{}{}
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
	w.littered[v.Slots[slot]] = struct{}{}
	w.config.Log.Warn("a moved slot left copies at its old drive; they are deleted when it answers",
		"volume", v.ID, "slot", slot, "drive", v.Slots[slot].String(), "err", err)
	return nil
}
