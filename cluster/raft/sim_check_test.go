package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
)

// outcome is what a client knows of an operation.
type outcome int

const (
	acked outcome = iota
	refused
	unknown
)

// event is an operation of a client: an append of a command, or a read of how many there are.
type event struct {
	command string // empty for a read
	place   uint64 // of an acknowledged command, or the answer of a read
	outcome outcome
	// begun and ended are readings of one counter: what ended before another began happened before it.
	begun, ended int64
}

// client appends and reads through whichever host it takes for the leader.
func (s *sim) client(ctx context.Context, number int) {
	at := s.peers[number%len(s.peers)]
	for i := 0; ctx.Err() == nil; i++ {
		time.Sleep(s.dice.upTo(30 * time.Millisecond))
		h := at.up()
		if h == nil || h.Group(simGroup) == nil {
			at = s.peers[s.dice.n(len(s.peers))]
			continue
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond+s.dice.upTo(2*time.Second))
		e := event{begun: s.clock.Add(1)}
		var err error
		if s.dice.n(3) == 0 {
			e.place, err = s.read(short, h)
		} else {
			e.command = fmt.Sprintf("client %d command %d", number, i)
			var place any
			if place, err = h.Group(simGroup).Propose(short, []byte(e.command)); err == nil {
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
			time.Sleep(s.dice.upTo(100 * time.Millisecond))
		}
	}
}

// outcomeOf is what the contract of Propose says about an error.
func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return acked
	case errors.Is(err, ErrUnknownOutcome):
		return unknown
	}
	return refused
}

// read is a linearizable read of the count.
func (s *sim) read(ctx context.Context, h *Host) (uint64, error) {
	if _, err := h.Group(simGroup).Barrier(ctx); err != nil {
		return 0, err
	}
	value, err := h.Group(simGroup).State().Get(fmt.Appendf(nil, "m/%d/count", simGroup))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}

// check holds what the clients saw against the history. The places of the commands are the only order in which they may
// have happened, so the history is linearizable exactly when nothing that ended before another began stands after it.
func (s *sim) check(list []string, total *simTally) {
	place := map[string]int{}
	for i, command := range list {
		if at, twice := place[command]; twice {
			s.t.Errorf("seed %d: %q is there at %d and %d", s.seed, command, at, i)
		}
		place[command] = i
	}
	// Of the command at each place: when it began and ended. One of unknown outcome may end at any time.
	begun, ended := make([]int64, len(list)), make([]int64, len(list))
	known := make([]bool, len(list))
	for _, e := range s.events {
		at, there := place[e.command]
		switch {
		case e.command == "":
			total.reads++
			continue
		case e.outcome == acked:
			total.acked++
			if !there || uint64(at) != e.place {
				s.t.Errorf("seed %d: acknowledged %q of place %d is at %d (%v)", s.seed, e.command, e.place, at, there)
			}
		case e.outcome == refused:
			total.refused++
			if there {
				s.t.Errorf("seed %d: refused %q is at %d", s.seed, e.command, at)
			}
		default:
			total.unknown++
		}
		if there {
			begun[at], ended[at], known[at] = e.begun, e.ended, true
			if e.outcome != acked {
				ended[at] = math.MaxInt64
			}
		}
	}
	if i := slices.Index(known, false); i >= 0 {
		s.t.Errorf("seed %d: %q at %d was never proposed", s.seed, list[i], i)
	}
	s.checkOrder(begun, ended)
}

// checkOrder looks at the order of commands and reads.
func (s *sim) checkOrder(begun, ended []int64) {
	// latest[n] is when the last of the first n commands began, earliest[n] when the first of those from n on ended.
	latest, earliest := make([]int64, len(begun)+1), make([]int64, len(begun)+1)
	for i, at := range begun {
		latest[i+1] = max(latest[i], at)
	}
	earliest[len(ended)] = math.MaxInt64
	for i := len(ended) - 1; i >= 0; i-- {
		earliest[i] = min(earliest[i+1], ended[i])
		if earliest[i+1] < begun[i] {
			s.t.Errorf("seed %d: a command after place %d had ended before that began", s.seed, i)
		}
	}
	var reads []event
	for _, e := range s.events {
		if e.command == "" && e.outcome == acked {
			reads = append(reads, e)
		}
	}
	for _, r := range reads {
		if int(r.place) > len(begun) || latest[min(int(r.place), len(begun))] > r.ended {
			s.t.Errorf("seed %d: a read found %d commands before they began", s.seed, r.place)
		} else if earliest[r.place] < r.begun {
			s.t.Errorf("seed %d: a read found only %d commands after more were acknowledged", s.seed, r.place)
		}
		for _, before := range reads {
			if before.ended < r.begun && before.place > r.place {
				s.t.Errorf("seed %d: a read found %d commands after another found %d", s.seed, r.place, before.place)
			}
		}
	}
}

// move replaces a voter by a new replica on a peer that has none, again and again.
func (s *sim) move(ctx context.Context) (moves int) {
	for generation := uint64(1); ctx.Err() == nil; generation++ {
		time.Sleep(s.dice.upTo(500 * time.Millisecond))
		if s.moveOne(ctx, generation) {
			moves++
		}
	}
	return moves
}

// retry asks whoever leads until a change is made, or ctx ends.
func (s *sim) retry(ctx context.Context, change func(ctx context.Context, g Member) error) bool {
	for ctx.Err() == nil {
		if h := s.leader().up(); h != nil && h.Group(simGroup) != nil {
			short, cancel := context.WithTimeout(ctx, time.Second)
			err := change(short, h.Group(simGroup))
			cancel()
			if err == nil {
				return true
			}
		}
		time.Sleep(50 * time.Millisecond)
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
		if h := p.up(); h != nil && h.Group(simGroup) == nil {
			target = p
		}
	}
	if target == nil {
		return false
	}
	id := generation*100 + uint64(target.id)
	old := voters[s.dice.n(len(voters))]
	if h := target.up(); h == nil || h.Create(ctx, simGroup, id) != nil {
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
			return h.Remove(ctx, simGroup, old)
		})
}
