package repair

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/placement"
)

// settle restores what intents name, and resolves those of which every shard is verified on its drive, or whose chunk is
// deleted.
func (w *Worker) settle(ctx context.Context, tasks []task) error {
	for part := range slices.Chunk(tasks, batch) {
		var jobs []job
		left, refused := make([]uint16, len(part)), make([]bool, len(part))
		for at, t := range part {
			left[at] = t.intent.Missing
			for i := range chunkstore.Shards {
				if t.intent.Missing&w.volumes[t.volume.ID].up>>i&1 == 0 {
					continue
				}
				jobs = append(jobs, job{t.intent.Chunk, i, t.volume, t.volume.Slots[i], t.losses, func(err error) {
					if errors.Is(err, chunkstore.ErrDeleted) {
						refused[at] = true
						w.volumes[t.volume.ID].dirty = true // unless others hold it still: fill looks
					}
					if err == nil {
						left[at] &^= 1 << i
					}
				}})
			}
		}
		if err := w.restore(ctx, jobs); err != nil {
			return err
		}
		for at, t := range part {
			if err := w.resolve(ctx, t, left[at], refused[at]); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve removes an intent when no shard of it is left to restore, and none was added to it meanwhile.
func (w *Worker) resolve(ctx context.Context, t task, left uint16, refused bool) error {
	c := t.intent.Chunk
	if left != 0 {
		gone, err := w.gone(ctx, c, w.volumes[t.volume.ID].up, refused)
		if err != nil {
			return err
		}
		if !gone {
			return nil
		}
	}
	now, err := w.missing(ctx, c)
	if err != nil {
		return err
	}
	if now&^t.intent.Missing != 0 {
		return nil // the next pass restores those too
	}
	if err := w.config.Volumes.ResolveIntent(ctx, c); err != nil {
		return fmt.Errorf("resolve the intent of chunk %v: %w", c.ID, err)
	}
	w.config.Store.Repaired(c)
	return nil
}

// missing returns the shards that the intent of a chunk names now, zero where there is none. A pass takes its time, and
// a read may have found more damage since.
func (w *Worker) missing(ctx context.Context, c chunkstore.Chunk) (uint16, error) {
	intents, err := w.config.Volumes.Intents(ctx, justBefore(c), 1)
	if err != nil {
		return 0, fmt.Errorf("read the intent of chunk %v: %w", c.ID, err)
	}
	if len(intents) == 0 || intents[0].Chunk != c {
		return 0, nil
	}
	return intents[0].Missing, nil
}

// justBefore returns what is the last before a chunk in the order of Volumes.Intents.
func justBefore(c chunkstore.Chunk) chunkstore.Chunk {
	before := chunkstore.Chunk{Volume: c.Volume, ID: c.ID, Size: math.MaxUint32}
	for i := range before.Digest {
		before.Digest[i] = 0xff
	}
	if before.ID.Seq--; c.ID.Seq == 0 {
		before.ID.Block-- // blocks count from one
	}
	return before
}

// gone says that a chunk was deleted: all twelve slots answer and none holds it, or one of them refused it as deleted and
// the others are too few to rebuild it, those included that do not answer. A drive alone says nothing of a chunk that lives:
// it may refuse it because the slot lay there once and was moved away.
func (w *Worker) gone(ctx context.Context, c chunkstore.Chunk, up uint16, refused bool) (bool, error) {
	if up != all && !refused {
		return false, nil
	}
	result, err := w.config.Store.Check(ctx, c)
	switch {
	case errors.Is(err, chunkstore.ErrStaleVolume):
		return false, nil // the next pass
	case errors.Is(err, chunkstore.ErrNotFound):
		return true, nil // a row goes when its volume holds no chunk
	case err != nil:
		return false, err
	}
	return result.Missing == all || refused && bits.OnesCount16(all&^result.Missing) < placement.Data, nil
}

// tendAll brings the volumes in order: first those that lack shards or are doubled up, then those that merely move to
// another home. The moves give way when there is news: they go on in the pass after it.
func (w *Worker) tendAll(ctx context.Context, rows map[chunkstore.VolumeID]chunkstore.Volume) error {
	for _, moves := range []bool{false, true} {
		for _, id := range order(rows) {
			if moves && w.called() {
				return nil
			}
			if err := w.tend(ctx, rows[id], moves); err != nil {
				return err
			}
		}
	}
	return nil
}

// called says that Run was kicked, or that drives came or went.
func (w *Worker) called() bool {
	changed := w.changed.Load()
	return len(w.kick) > 0 || changed != nil && len(*changed) > 0
}

// tend brings a volume in order: shards missing on drives that are up, then shards that can go home. moves says which
// volumes go home now: those that are doubled up, or those that are not.
func (w *Worker) tend(ctx context.Context, v chunkstore.Volume, moves bool) error {
	k := w.volumes[v.ID]
	goes := func() (slots uint16) {
		if v.DoubledUp() != moves {
			slots = w.canGoHome(v)
		}
		return slots
	}
	home := goes()
	if home == 0 && (moves || !k.dirty) {
		if v.Slots == v.Home {
			k.waits = time.Time{}
		} else if v.DoubledUp() != moves {
			w.wait(v.ID, errors.New("the drives of its home are not up"))
		}
		return nil
	}
	w.at("volume %d", v.ID)
	if home != 0 {
		sealed, err := w.config.Store.Seal(ctx, v.ID)
		if errors.Is(err, chunkstore.ErrDriveDown) || errors.Is(err, chunkstore.ErrStaleVolume) || errors.Is(err, chunkstore.ErrNotFound) {
			w.wait(v.ID, err)
			return nil // too few slots answer, or another peer changes it now: the next pass
		}
		if err != nil {
			return err
		}
		v = sealed
		home = goes()
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
		return w.goHome(ctx, v, home, s)
	}
	return nil
}

// fill restores the shards that drives which answered do not hold. clean says that none is left.
//
// A chunk that a drive says was deleted is being deleted on all, and left alone. When the next pass finds that others
// hold it still, the drive refuses it (Refused), and its shard there counts as missing.
func (w *Worker) fill(ctx context.Context, v chunkstore.Volume, k *known, s survey) (clean bool, err error) {
	k.short = make(map[chunkstore.ChunkID]struct{})
	clean = true
	var jobs []job
	for at := range s.held {
		h := &s.held[at]
		if s.remains(*h) {
			continue
		}
		alive := bits.OnesCount16(h.slots) >= placement.Data
		missing, tolerates := s.answered&^h.slots, losses(v, h.slots)
		for i := range chunkstore.Shards {
			if missing>>i&1 == 0 {
				continue
			}
			jobs = append(jobs, job{h.chunk, i, v, v.Slots[i], tolerates, func(err error) {
				refused := errors.Is(err, chunkstore.ErrDeleted)
				lasts := refused && alive && w.refuse(Place{v.ID, i, v.Slots[i]})
				switch {
				case err == nil:
					h.slots |= 1 << i
				case !refused || lasts:
					k.short[h.chunk.ID] = struct{}{}
				}
				clean = clean && (err == nil || refused && !alive)
			}})
		}
	}
	if err := w.restore(ctx, jobs); err != nil {
		return false, err
	}
	return clean, nil
}
