package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
)

// settle restores what an intent names, and resolves it when every shard is verified on its drive, or deleted there.
func (w *Worker) settle(ctx context.Context, t task) error {
	c, up := t.intent.Chunk, w.volumes[t.volume.ID].up
	left := t.intent.Missing
	deleted := false
	for i := range chunkstore.Shards {
		if t.intent.Missing&up>>i&1 == 0 {
			continue
		}
		begun := time.Now()
		err := w.config.Store.Restore(ctx, c, i, t.volume, t.volume.Slots[i])
		if errors.Is(err, chunkstore.ErrDeleted) {
			deleted = true
		}
		if err == nil || errors.Is(err, chunkstore.ErrDeleted) {
			left &^= 1 << i
		}
		if err := w.restored(ctx, t.losses, begun, err); err != nil {
			return err
		}
	}
	if left != 0 && !deleted {
		gone, err := w.gone(ctx, c, up)
		if err != nil {
			return err
		}
		if !gone {
			return nil
		}
	}
	// A chunk that one drive deleted is being deleted on all: nothing is left to repair.
	if err := w.config.Volumes.ResolveIntent(ctx, c); err != nil {
		return fmt.Errorf("resolve the intent of chunk %v: %w", c.ID, err)
	}
	w.config.Store.Repaired(c)
	return nil
}

// gone says that all twelve slots answer and none holds the chunk: it was deleted. Where a drive does not answer,
// nothing is known.
func (w *Worker) gone(ctx context.Context, c chunkstore.Chunk, up uint16) (bool, error) {
	if up != all {
		return false, nil
	}
	result, err := w.config.Store.Check(ctx, c)
	if err != nil {
		return false, err
	}
	return result.Missing == all, nil
}

// tend brings a volume in order: shards missing on drives that are up, then shards that can go home.
func (w *Worker) tend(ctx context.Context, v chunkstore.Volume) error {
	k := w.volumes[v.ID]
	home := w.canGoHome(v)
	if !k.dirty && home == 0 {
		return nil
	}
	if home != 0 {
		sealed, err := w.config.Store.Seal(ctx, v.ID)
		if errors.Is(err, chunkstore.ErrDriveDown) || errors.Is(err, chunkstore.ErrStaleVolume) {
			return nil // too few slots answer, or another peer changes it now: the next pass
		}
		if err != nil {
			return err
		}
		v = sealed
	}
	s, err := w.survey(ctx, v)
	if err != nil {
		return err
	}
	k.note(v, s)
	clean, err := w.fill(ctx, v, k, s)
	if err != nil {
		return err
	}
	if clean && s.answered&k.up == k.up { // a drive that is down makes it dirty again when it returns
		k.dirty = false
	}
	if home != 0 {
		return w.goHome(ctx, v, home, s.held)
	}
	return nil
}

// fill restores the shards that drives which answered do not hold. clean says that none is left.
// A chunk that a drive says was deleted is being deleted on all.
func (w *Worker) fill(ctx context.Context, v chunkstore.Volume, k *known, s survey) (clean bool, err error) {
	k.short = make(map[chunkstore.ChunkID]struct{})
	for at := range s.held {
		h := &s.held[at]
		if s.remains(*h) {
			continue
		}
		missing := s.answered &^ h.slots
		for i := range chunkstore.Shards {
			if missing>>i&1 == 0 {
				continue
			}
			begun := time.Now()
			err := w.config.Store.Restore(ctx, h.chunk, i, v, v.Slots[i])
			switch {
			case errors.Is(err, chunkstore.ErrDeleted):
				missing = 0
			case err == nil:
				missing &^= 1 << i
				h.slots |= 1 << i
			}
			if err := w.restored(ctx, losses(v, h.slots), begun, err); err != nil {
				return false, err
			}
		}
		if missing != 0 {
			k.short[h.chunk.ID] = struct{}{}
		}
	}
	return len(k.short) == 0, nil
}

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
func (w *Worker) goHome(ctx context.Context, v chunkstore.Volume, mask uint16, held []holding) error {
	target := v
	for i := range chunkstore.Shards {
		if mask>>i&1 == 0 {
			continue
		}
		ok, err := w.copySlot(ctx, v, i, held)
		if err != nil {
			return err
		}
		if ok {
			target.Slots[i] = v.Home[i]
		}
	}
	if target.Slots == v.Slots {
		return nil
	}
	moved, err := w.config.Store.UpdateVolume(ctx, target)
	if errors.Is(err, chunkstore.ErrStaleVolume) {
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
		if err := w.tidy(ctx, v, moved, i, held); err != nil {
			return err
		}
	}
	return nil
}

// copySlot restores every chunk of a slot on its home drive. ok says that the slot may move: nothing that its old
// drive holds, or may hold, would be left behind.
func (w *Worker) copySlot(ctx context.Context, v chunkstore.Volume, slot int, held []holding) (ok bool, err error) {
	from := w.seen[v.Slots[slot]]
	ok = true
	for _, h := range held {
		begun := time.Now()
		err := w.config.Store.Restore(ctx, h.chunk, slot, v, v.Home[slot])
		if err := w.restored(ctx, losses(v, h.slots), begun, err); err != nil {
			return false, err
		}
		switch {
		case err == nil || errors.Is(err, chunkstore.ErrDeleted):
		case errors.Is(err, chunkstore.ErrLost) && from != nil && h.slots>>slot&1 == 0:
			// The old drive answers and does not hold it, and it cannot be rebuilt: the move takes nothing away.
		default:
			ok = false
		}
	}
	return ok, nil
}

// tidy deletes what a move left over: at the new place chunks that were deleted at the old one while they were copied,
// at the old place the copies. A chunk that the old place only lacks is not deleted for it: it is put there once more,
// which fails when it was deleted. A failure leaves copies that no row names, which sweep finds.
func (w *Worker) tidy(ctx context.Context, before, after chunkstore.Volume, slot int, held []holding) error {
	left, err := w.config.Store.ShardsOn(ctx, before.Slots[slot], before.ID)
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
		switch err := w.config.Store.Restore(ctx, h.chunk, slot, after, before.Slots[slot]); {
		case errors.Is(err, chunkstore.ErrDeleted):
			deleted = append(deleted, key)
		case err == nil:
			old = append(old, key)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	if len(deleted) > 0 {
		if err := w.config.Store.DeleteOn(ctx, after.Slots[slot], deleted); err != nil {
			return w.untidy(ctx, before, slot, err)
		}
	}
	if len(old) > 0 {
		if err := w.config.Store.DeleteOn(ctx, before.Slots[slot], old); err != nil {
			return w.untidy(ctx, before, slot, err)
		}
	}
	return nil
}

func (w *Worker) untidy(ctx context.Context, v chunkstore.Volume, slot int, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.config.Log.Warn("a moved slot left copies at its old drive", "volume", v.ID, "slot", slot, "drive", v.Slots[slot].String(), "err", err)
	return nil
}
