package raft

import (
	"encoding/binary"

	etcd "go.etcd.io/raft/v3"
)

// reads are the linearizable reads of a group that wait. One question to the voters is under way at a time, and answers
// for all that came before it was asked: what waited while it was on its way goes with the next.
type reads struct {
	waiting []*proposal // for the next question
	asked   []*proposal // by the question under way
	// confirmed know their index and wait until it is applied.
	confirmed []*proposal
	question  uint64 // number of the last question
}

// fail answers all of them with an error.
func (s *reads) fail(err error) {
	for _, list := range [][]*proposal{s.waiting, s.asked, s.confirmed} {
		for _, p := range list {
			p.finish(proposalResult{err: err})
		}
	}
	s.waiting, s.asked, s.confirmed = nil, nil, nil
}

// lease answers those that have no index yet: the replica became the only voter of its group, and leads. Nobody is left
// who could answer the question under way. What the group acknowledged in this term it has applied.
func (s *reads) lease(term uint64) {
	for _, list := range [][]*proposal{s.waiting, s.asked} {
		for _, p := range list {
			p.finish(proposalResult{term: term})
		}
	}
	s.waiting, s.asked = nil, nil
}

// read begins a linearizable read: a lease answers at once, else the group's voters are asked.
func (c *core) read(r *replica, p *proposal) {
	if term := r.lease.Load(); term != 0 {
		p.finish(proposalResult{term: term})
		return
	}
	if !r.leader {
		p.finish(proposalResult{err: r.notLeader(nil)})
		return
	}
	r.reads.waiting = append(r.reads.waiting, p)
	c.touch(r)
}

// askIndex asks the voters whether this replica still leads, when reads wait and no question is under way. Raft repeats
// a question whose answers were lost with its next heartbeat.
func (c *core) askIndex(r *replica) {
	s := &r.reads
	if len(s.waiting) == 0 || len(s.asked) > 0 {
		return
	}
	s.asked, s.waiting = s.waiting, nil
	s.question++
	r.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, s.question))
}

// readable notes confirmed read indexes and answers the reads whose index is applied.
func (c *core) readable(r *replica, states []etcd.ReadState) {
	s := &r.reads
	for _, state := range states {
		if len(s.asked) == 0 || binary.LittleEndian.Uint64(state.RequestCtx) != s.question {
			continue
		}
		for _, p := range s.asked {
			p.index = state.Index
		}
		s.confirmed, s.asked = append(s.confirmed, s.asked...), nil
	}
	left := s.confirmed[:0]
	for _, p := range s.confirmed {
		if p.index <= r.point.index {
			p.finish(proposalResult{term: r.term})
		} else if !p.abandoned() {
			left = append(left, p)
		}
	}
	s.confirmed = left
	if len(s.waiting) > 0 && len(s.asked) == 0 {
		c.touch(r)
	}
}
