package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
)

// client appends and reads through whichever host it takes for the leader.
func (s *sim) client(ctx context.Context, number int) {
	at := s.peers[number%len(s.peers)]
	group := movingGroup + GroupID(number%2)
	for i := 0; ctx.Err() == nil; i++ {
		pause(s.dice.upTo(30 * time.Millisecond))
		h := at.up()
		if h == nil || h.Group(group) == nil {
			at = s.peers[s.dice.n(len(s.peers))]
			continue
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond+s.dice.upTo(2*time.Second))
		e := event{group: group, begun: s.clock.Add(1)}
		var err error
		if s.dice.n(3) == 0 {
			e.place, err = s.read(short, h, group)
		} else {
			e.command = fmt.Sprintf("client %d command %d", number, i)
			var place any
			if place, err = h.Group(group).Propose(short, []byte(e.command)); err == nil {
				e.place = place.(uint64)
			}
		}
		e.ended, e.outcome = s.clock.Add(1), outcomeOf(err)
		cancel()
		s.mu.Lock()
		s.events = append(s.events, e)
		s.mu.Unlock()
		var hint *NotLeaderError
		if errors.As(err, &hint) && hint.Leader.Replica != 0 {
			at = s.peers[hint.Leader.Replica%100-1]
		} else if err != nil {
			at = s.peers[s.dice.n(len(s.peers))]
			pause(s.dice.upTo(100 * time.Millisecond))
		}
	}
}

// read is a linearizable read of the count.
func (s *sim) read(ctx context.Context, h *Host, group GroupID) (uint64, error) {
	if _, err := h.Group(group).Barrier(ctx); err != nil {
		return 0, err
	}
	value, err := h.Group(group).State().Get(fmt.Appendf(nil, "m/%d/count", group))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}

// move replaces a voter by a new replica on a peer that has none, again and again.
func (s *sim) move(ctx context.Context) (moves int) {
	for generation := uint64(1); ctx.Err() == nil; generation++ {
		pause(s.dice.upTo(500 * time.Millisecond))
		if s.moveOne(ctx, generation) {
			moves++
		}
	}
	return moves
}

// retry asks whoever leads until a change is made, or ctx ends.
func (s *sim) retry(ctx context.Context, change func(ctx context.Context, g Member) error) bool {
	for ctx.Err() == nil {
		if h := s.leader(movingGroup).up(); h != nil && h.Group(movingGroup) != nil {
			short, cancel := context.WithTimeout(ctx, time.Second)
			err := change(short, h.Group(movingGroup))
			cancel()
			if err == nil {
				return true
			}
		}
		pause(50 * time.Millisecond)
	}
	return false
}

func (s *sim) moveOne(ctx context.Context, generation uint64) bool {
	var voters []uint64
	if !s.retry(ctx, func(_ context.Context, g Member) error { voters, _ = g.Members(); return nil }) || len(voters) == 0 {
		return false
	}
	var target *simPeer
	for _, p := range s.peers {
		if h := p.up(); h != nil && h.Group(movingGroup) == nil {
			target = p
		}
	}
	if target == nil {
		return false
	}
	id := generation*100 + uint64(target.id)
	old := voters[s.dice.n(len(voters))]
	if h := target.up(); h == nil || h.Create(ctx, movingGroup, id) != nil {
		return false
	}
	return s.retry(ctx, func(ctx context.Context, g Member) error { return g.AddLearner(ctx, id) }) &&
		s.retry(ctx, func(ctx context.Context, g Member) error { return g.Promote(ctx, id) }) &&
		s.retry(ctx, func(ctx context.Context, g Member) error {
			err := g.Remove(ctx, old)
			if errors.Is(err, ErrMember) {
				_ = g.Transfer(ctx, id) // the leader itself goes; it is tried again when it leads no more
			}
			return err
		}) &&
		s.retry(ctx, func(ctx context.Context, _ Member) error {
			h := s.peers[old%100-1].up()
			if h == nil {
				return ErrStopped
			}
			return h.Remove(ctx, movingGroup, old)
		})
}
