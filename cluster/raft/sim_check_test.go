package raft

import (
	"errors"
	"math"
	"slices"
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
	group   GroupID
	command string // empty for a read
	place   uint64 // of an acknowledged command, or the answer of a read
	outcome outcome
	// begun and ended are readings of one counter: what ended before another began happened before it.
	begun, ended int64
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

// check holds what the clients saw against the history. The places of the commands are the only order in which they may
// have happened, so the history is linearizable exactly when nothing that ended before another began stands after it.
func (s *sim) check(group GroupID, list []string, total *simTally) {
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
		if e.group != group {
			continue
		}
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
	s.checkOrder(group, begun, ended)
}

// checkOrder looks at the order of commands and reads.
func (s *sim) checkOrder(group GroupID, begun, ended []int64) {
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
		if e.group == group && e.command == "" && e.outcome == acked {
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
