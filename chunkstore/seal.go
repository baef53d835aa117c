package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// SealQuorum is how many slots must refuse older epochs before the list of a volume's chunks is final: an
	// acknowledged chunk is on ten slots at least, so one of any three holds it.
	SealQuorum = 3
)

// Seal seals a volume and returns its row. After nil the volume takes no chunk any more, from whatever gateway, and
// the union of the shards that its reachable slots list is the final list of its chunks. Chunks that a Store has under
// way there are sent to another volume. Sealing a sealed volume makes sure of the same.
//
// The drives refuse before the row says so: a row that says sealed is true, whoever began it and died.
func (s *Store) Seal(ctx context.Context, id VolumeID) (Volume, error) {
	s.volumes.mu.Lock()
	s.volumes.remove(id)
	s.volumes.mu.Unlock()
	var last error
	for range maxMoves { // another peer may seal it at the same time, or move its slots
		v, err := s.volumes.refresh(ctx, id)
		if err != nil {
			return Volume{}, err
		}
		next := v
		if v.State != VolumeSealed {
			next.Epoch++
		}
		if refusing := s.refuse(ctx, next, v.Slots); refusing < SealQuorum {
			return Volume{}, fmt.Errorf("seal volume %d: only %d slots of %d needed answered: %w", id, refusing, SealQuorum, ErrDriveDown)
		}
		if v.State == VolumeSealed {
			return v, nil
		}
		v.State = VolumeSealed
		if v, last = s.commit(ctx, v); !errors.Is(last, ErrStaleVolume) {
			return v, last
		}
	}
	return Volume{}, last
}

// refuse makes the drives of some slots refuse the epochs before a row's, and returns of how many slots they do.
func (s *Store) refuse(ctx context.Context, v Volume, slots DriveIDs) int {
	var (
		wait     sync.WaitGroup
		refusing atomic.Int32
	)
	for _, slots := range bySlots(slots, allShards) {
		m := s.config.Drives.member(slots.drive)
		if m == nil {
			continue
		}
		wait.Go(func() {
			_, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, m.drive.Seal(ctx, v.ID, v.Epoch)
			})
			if err == nil {
				refusing.Add(int32(slots.count()))
			}
		})
	}
	wait.Wait()
	return int(refusing.Load())
}

// SealAbandoned seals the open volumes of the owners that gone holds for, and those that have no owner: the work of
// one peer for those that will not do it any more. A peer that was only thought to be gone loses nothing: its chunks go
// to another volume. It goes through all rows; the error joins why volumes are left, which the next call tries again.
// The volumes of this Store are never sealed by it.
func (s *Store) SealAbandoned(ctx context.Context, gone func(owner cluster.PeerID) bool) error {
	var left []VolumeID
	err := EachVolume(ctx, s.config.Volumes, func(v Volume) error {
		none := v.Owner == cluster.PeerID{}
		if v.State == VolumeOpen && v.Owner != s.config.Self && (none || gone(v.Owner)) {
			left = append(left, v.ID)
		}
		return nil
	})
	errs := []error{err}
	for _, id := range left {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := s.Seal(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// UpdateVolume commits a changed row of a sealed volume as Volumes.UpdateVolume does, and remembers it. The drives of
// its slots, old ones included, then refuse what others still write by the older epoch, as far as they answer.
func (s *Store) UpdateVolume(ctx context.Context, v Volume) (Volume, error) {
	before, known := s.volumes.cached(v.ID, v.Epoch)
	row, err := s.commit(ctx, v)
	if err != nil {
		return Volume{}, err
	}
	s.refuse(ctx, row, row.Slots)
	if known && before.Slots != row.Slots {
		s.refuse(ctx, row, before.Slots)
	}
	return row, nil
}

func (s *Store) commit(ctx context.Context, v Volume) (Volume, error) {
	row, err := s.config.Volumes.UpdateVolume(ctx, v)
	if err != nil {
		return Volume{}, fmt.Errorf("change volume %d: %w", v.ID, err)
	}
	s.volumes.mu.Lock()
	defer s.volumes.mu.Unlock()
	return s.volumes.remember(row), nil
}

// EachVolume calls f with every volume row in order, until f fails.
func EachVolume(ctx context.Context, volumes Volumes, f func(Volume) error) error {
	var after VolumeID
	for {
		rows, err := volumes.ListVolumes(ctx, after, listPage)
		if err != nil {
			return fmt.Errorf("list volumes after %d: %w", after, err)
		}
		for _, v := range rows {
			if err := f(v); err != nil {
				return err
			}
			after = v.ID
		}
		if len(rows) == 0 {
			return nil
		}
	}
}
