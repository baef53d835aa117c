package multipart

import (
	"context"
	"fmt"
	"math"
)

// Space is the room for new data in bytes, redundancy already taken off.
type Space struct {
	Total, Free int64
}

// Space tells how much can be stored for certain: every drive is counted as the smallest one, because each chunk takes
// a shard's worth of twelve of them; drives on one device share it.
func (s *Store) Space(ctx context.Context) (Space, error) {
	health, err := s.chunks.Health(ctx)
	if err != nil {
		return Space{}, fmt.Errorf("space: %w", err)
	}
	sharing := map[uint64]int64{}
	for _, d := range health.Drives {
		sharing[d.Device]++
	}
	total, free, n := int64(math.MaxInt64), int64(math.MaxInt64), int64(0)
	for _, d := range health.Drives {
		if d.Down != nil {
			continue
		}
		n++
		total = min(total, d.Total/sharing[d.Device])
		free = min(free, d.Free/sharing[d.Device])
	}
	if n == 0 {
		return Space{}, nil
	}
	// 8 of 12 shards are data.
	return Space{Total: total * n / 3 * 2, Free: free * n / 3 * 2}, nil
}
