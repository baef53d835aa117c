package chunkstore

import (
	"context"
	"time"
)

// HoldMemory takes all but free of the row buffers until release is called.
func (s *Store) HoldMemory(free int) (release func(), err error) {
	var held []*row
	release = func() {
		for _, r := range held {
			r.release()
		}
	}
	for range s.budget.total - free - s.budget.used() {
		r, err := s.budget.take(context.Background(), time.Second)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}
