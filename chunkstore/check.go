package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// Check reads every shard of a chunk whole and tells how each one is. Damage that it finds is not recorded: the caller
// decides (AddIntent). An error means that the volume row could not be read.
func (s *Store) Check(ctx context.Context, c Chunk) (CheckResult, error) {
	v, err := s.volumes.refresh(ctx, c.Volume)
	if err != nil {
		return CheckResult{}, fmt.Errorf("check chunk %v: %w", c.ID, err)
	}
	var (
		result CheckResult
		wait   sync.WaitGroup
		mu     sync.Mutex
	)
	for i := range Shards {
		wait.Go(func() {
			err := s.checkShard(ctx, c, v, i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				result.Good |= 1 << i
			case errors.Is(err, ErrDamaged):
				result.Damaged |= 1 << i
			case errors.Is(err, ErrNotFound):
				result.Missing |= 1 << i
			default:
				result.Unreachable |= 1 << i
			}
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return CheckResult{}, err
	}
	result.Losses = placement.Tolerates(placement.Slots(v.Slots), result.Good)
	return result, nil
}

// checkShard verifies a shard on its drive, and that it belongs to the chunk as its reference proves it.
func (s *Store) checkShard(ctx context.Context, c Chunk, v Volume, shard int) error {
	m := s.config.Drives.member(v.Slots[shard])
	if m == nil {
		return ErrDriveDown
	}
	key := ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(shard)}
	_, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) (struct{}, error) {
		h, err := m.drive.Header(ctx, key)
		if err == nil {
			err = h.Verify(c)
		}
		if err == nil {
			err = m.drive.Check(ctx, key)
		}
		return struct{}{}, err
	})
	return err
}

// Health tells how well everything that is stored is protected at this moment.
func (s *Store) Health(ctx context.Context) (Health, error) {
	var h Health
	up := make(map[cluster.DriveID]uint64) // device of each drive that takes part
	now := s.config.Now()
	for _, m := range s.config.Drives.all() {
		d := DriveHealth{DriveStatus: m.drive.Status(), Suspect: m.suspect(now), Hanging: m.hanging(now)}
		if s.config.Silent != nil {
			d.Hanging = max(d.Hanging, s.config.Silent(m.drive.ID()))
		}
		h.Drives = append(h.Drives, d)
		if d.Down == nil && d.Hanging == 0 {
			h.Up++
			up[m.drive.ID()] = d.Device
		}
	}
	h.DriveLosses, h.DeviceLosses = Shards, Shards
	masks := make(map[VolumeID]protection)
	err := EachVolume(ctx, s.config.Volumes, func(v Volume) error {
		h.Volumes++
		if v.State == VolumeOpen {
			h.Open++
		}
		p := protect(v.Slots, up)
		masks[v.ID] = p
		if p.up != allShards || v.Slots != v.Home {
			h.UnderVolumes++
		}
		h.count(p, allShards)
		return nil
	})
	if err != nil {
		return Health{}, err
	}
	err = EachIntent(ctx, s.config.Volumes, func(in Intent) error {
		h.Intents++
		if p, ok := masks[in.Chunk.Volume]; ok {
			h.count(p, allShards&^in.Missing)
		}
		return nil
	})
	if err != nil {
		return Health{}, err
	}
	if h.Volumes == 0 {
		if row, _, err := s.volumes.plan(ctx); err == nil {
			h.count(protect(row.Slots, up), allShards)
		} else if errors.Is(err, ErrSlowDown) {
			h.DriveLosses, h.DeviceLosses = -1, -1
		} else {
			return Health{}, err
		}
	}
	h.MemoryTotal = int64(s.budget.total) * rowSize
	h.MemoryUsed = int64(s.budget.used()) * rowSize
	return h, nil
}

// protection is what the slots of a volume lie on.
type protection struct {
	drives  placement.Slots
	devices [Shards]uint64
	up      uint16
}

func protect(slots DriveIDs, up map[cluster.DriveID]uint64) protection {
	p := protection{drives: slots}
	for i, id := range slots {
		device, ok := up[id]
		if ok {
			p.up |= 1 << i
		}
		p.devices[i] = device
	}
	return p
}

// count lowers the losses tolerated to those of a chunk with these shards.
func (h *Health) count(p protection, shards uint16) {
	h.DriveLosses = min(h.DriveLosses, placement.Tolerates(p.drives, p.up&shards))
	h.DeviceLosses = min(h.DeviceLosses, placement.Tolerates(p.devices, p.up&shards))
}

// EachIntent calls f with every intent in order, until f fails.
func EachIntent(ctx context.Context, volumes Volumes, f func(Intent) error) error {
	var after Chunk
	for {
		intents, err := volumes.Intents(ctx, after, listPage)
		if err != nil {
			return fmt.Errorf("list intents: %w", err)
		}
		for _, in := range intents {
			if err := f(in); err != nil {
				return err
			}
			after = in.Chunk
		}
		if len(intents) == 0 {
			return nil
		}
	}
}
