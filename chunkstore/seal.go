package chunkstore

import (
	"context"
	"fmt"
)

const (
	// SealQuorum is how many slots must refuse older epochs before the list of a volume's chunks is final: an
	// acknowledged chunk is on ten slots at least, so one of any three holds it.
	SealQuorum = 3
)

// Seal seals a volume and returns its row. After nil the volume takes no chunk any more, from whatever gateway, and
// the union of the shards that its reachable slots list is the final list of its chunks. Chunks that this Store has
// under way there are sent to another volume. Sealing a sealed volume makes sure of the same.
func (s *Store) Seal(ctx context.Context, id VolumeID) (Volume, error) {
	s.volumes.mu.Lock()
	s.volumes.remove(id)
	s.volumes.mu.Unlock()
	v, err := s.volumes.refresh(ctx, id)
	if err != nil {
		return Volume{}, err
	}
	if v.State != VolumeSealed {
		v.State = VolumeSealed
		if v, err = s.UpdateVolume(ctx, v); err != nil {
			return Volume{}, err
		}
	}
	refusing := 0
	for _, slots := range bySlots(v.Slots, allShards) {
		m := s.config.Drives.member(slots.drive)
		if m == nil {
			continue
		}
		_, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, m.drive.Seal(ctx, id, v.Epoch)
		})
		if err == nil {
			refusing += slots.count()
		}
	}
	if refusing < SealQuorum {
		return Volume{}, fmt.Errorf("seal volume %d: only %d slots of %d needed answered: %w", id, refusing, SealQuorum, ErrDriveDown)
	}
	return v, nil
}

// UpdateVolume commits a changed volume row as Volumes.UpdateVolume does, and remembers it.
func (s *Store) UpdateVolume(ctx context.Context, v Volume) (Volume, error) {
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
