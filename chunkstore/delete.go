package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// maxMoves is how often Delete follows a volume whose row changes under it.
const maxMoves = 4

// Delete deletes chunks for ever on all their drives. left are the chunks that not every slot has confirmed; the
// caller keeps them and tries again later. err, when not nil, is why the first of them was left.
//
// A volume may move while its chunks are deleted, so the row is read again afterwards: a chunk counts as deleted only
// when all slots of an unchanged row confirmed it. The home drives of slots that are away may hold copies already, of a
// move that was not finished, and whether a peer that moves them reaches such a drive is not known here. So they have to
// confirm it too, as soon as the volume is sealed; before that nothing moves.
func (s *Store) Delete(ctx context.Context, chunks []Chunk) (left []Chunk, err error) {
	byVolume := make(map[VolumeID][]Chunk)
	var order []VolumeID
	for _, c := range chunks {
		if _, ok := byVolume[c.Volume]; !ok {
			order = append(order, c.Volume)
		}
		byVolume[c.Volume] = append(byVolume[c.Volume], c)
	}
	for _, id := range order {
		if e := s.deleteIn(ctx, id, byVolume[id]); e != nil {
			left = append(left, byVolume[id]...)
			if err == nil {
				err = fmt.Errorf("delete %d chunks of volume %d: %w", len(byVolume[id]), id, e)
			}
		}
	}
	return left, err
}

// deleteIn deletes chunks of one volume. It returns nil when every slot has confirmed all of them.
func (s *Store) deleteIn(ctx context.Context, id VolumeID, chunks []Chunk) error {
	v, err := s.volumes.row(ctx, id)
	for range maxMoves {
		if errors.Is(err, ErrNotFound) {
			return nil // a volume row is dropped only when the volume holds no chunk
		}
		if err != nil {
			return err
		}
		failed := s.deleteOn(ctx, v, chunks)
		now, e := s.volumes.refresh(ctx, id)
		if e == nil && now.Epoch == v.Epoch {
			return failed
		}
		v, err = now, e
	}
	return fmt.Errorf("its row keeps changing: %w", ErrStaleVolume)
}

// deleteOn deletes the chunks on all slots of a row and where they may go from there, all drives at once.
func (s *Store) deleteOn(ctx context.Context, v Volume, chunks []Chunk) error {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	for _, slots := range append(bySlots(v.Slots, allShards), homes(v)...) {
		wait.Go(func() {
			if err := s.deleteKeys(ctx, slots, chunks); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wait.Wait()
	return first
}

// homes returns the slots of a sealed volume that are away from home, by their home drives.
func homes(v Volume) []driveSlots {
	if v.State != VolumeSealed {
		return nil
	}
	var away uint16
	for i, id := range v.Home {
		if id != v.Slots[i] {
			away |= 1 << i
		}
	}
	return bySlots(v.Home, away)
}

func (s *Store) deleteKeys(ctx context.Context, slots driveSlots, chunks []Chunk) error {
	m := s.config.Drives.member(slots.drive)
	if m == nil {
		return fmt.Errorf("drive %v is missing: %w", slots.drive, ErrDriveDown)
	}
	keys := make([]ShardKey, 0, len(chunks)*slots.count())
	for _, c := range chunks {
		for i := range Shards {
			if slots.mask>>i&1 != 0 {
				keys = append(keys, ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)})
			}
		}
	}
	_, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.drive.Delete(ctx, keys)
	})
	if err != nil {
		return fmt.Errorf("drive %v: %w", slots.drive, err)
	}
	return nil
}
