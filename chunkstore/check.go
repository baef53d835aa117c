package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast/holdfast/cluster/placement"
)

// Check reads every shard of a chunk whole and tells how each one is. Damage that it finds is not recorded: the caller
// decides (AddIntent). An error means that the volume row could not be read, or kept changing.
func (s *Store) Check(ctx context.Context, c Chunk) (CheckResult, error) {
	v, err := s.volumes.refresh(ctx, c.Volume)
	for range maxMoves {
		if err != nil {
			break
		}
		var result CheckResult
		if result, err = s.checkAll(ctx, c, v); err != nil || result.Good == allShards {
			return result, err
		}
		before := v.Epoch
		if v, err = s.volumes.refresh(ctx, c.Volume); err == nil && v.Epoch == before {
			return result, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("the row of volume %d keeps changing: %w", c.Volume, ErrStaleVolume)
	}
	return CheckResult{}, fmt.Errorf("check chunk %v: %w", c.ID, err)
}

// checkAll checks every shard where a row says that it is.
func (s *Store) checkAll(ctx context.Context, c Chunk, v Volume) (CheckResult, error) {
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
	names := s.look(&h)
	left := allLosses(Shards)
	masks := make(map[VolumeID]protection)
	err := EachVolume(ctx, s.config.Volumes, func(v Volume) error {
		h.Volumes++
		if v.State == VolumeOpen {
			h.Open++
		}
		p := names.protect(v.Slots)
		masks[v.ID] = p
		if p.up != allShards || v.DoubledUp() {
			h.UnderVolumes++
		}
		left.count(&p, allShards)
		return nil
	})
	if err != nil {
		return Health{}, err
	}
	err = EachIntent(ctx, s.config.Volumes, func(in Intent) error {
		h.Intents++
		if p, ok := masks[in.Chunk.Volume]; ok {
			left.count(&p, allShards&^in.Missing)
		}
		return nil
	})
	if err != nil {
		return Health{}, err
	}
	if h.Volumes == 0 {
		if row, _, err := s.volumes.plan(ctx); err == nil {
			p := names.protect(row.Slots)
			left.count(&p, allShards)
		} else if errors.Is(err, ErrSlowDown) {
			left = allLosses(-1)
		} else {
			return Health{}, err
		}
	}
	h.losses(left)
	h.MemoryTotal = int64(s.budget.total) * rowSize
	h.MemoryUsed = int64(s.budget.used()) * rowSize
	return h, nil
}

// look tells of every drive, and returns the domains of those that take part.
func (s *Store) look(h *Health) *domainNames {
	names := newDomainNames()
	now := s.config.Now()
	for _, m := range s.config.Drives.all() {
		d := DriveHealth{DriveStatus: m.drive.Status(), Suspect: m.suspect(now), Hanging: m.hanging(now)}
		if s.config.Silent != nil {
			d.Hanging = max(d.Hanging, s.config.Silent(m.drive.ID()))
		}
		h.Drives = append(h.Drives, d)
		if d.Down == nil && d.Hanging == 0 {
			h.Up++
			names.add(m.drive.ID(), d.Device, s.config.Domains(m.drive.ID()))
		}
	}
	return names
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
