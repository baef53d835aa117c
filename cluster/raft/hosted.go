package raft

import (
	"context"
	"fmt"
	"slices"
)

// Replicas are the replicas on this peer: their ids by group. The error wraps ErrStopped while the log is not open, when
// nobody can tell.
func (h *Host) Replicas() (map[GroupID]uint64, error) {
	c := h.core.Load()
	if c == nil {
		return nil, fmt.Errorf("replicas of this peer: %w", ErrStopped)
	}
	ids := map[GroupID]uint64{}
	for group, r := range *c.groups.Load() {
		ids[group] = r.replica
	}
	return ids, nil
}

// AddLearner is Member.AddLearner for a leader of one term, which Barrier told: in a later term it gives an ErrNotLeader.
// So who leads in a later term, and does not find the replica among the members, knows that it will never be one.
func (h *Host) AddLearner(ctx context.Context, id GroupID, term, replica uint64) error {
	return group{host: h, id: id}.addLearner(ctx, replica, term)
}

// CaughtUp tells whether Promote would take a learner now: nil, or ErrLearnerBehind. It is ErrNotLeader where the group is
// not led.
func (h *Host) CaughtUp(ctx context.Context, id GroupID, replica uint64) error {
	c := h.core.Load()
	if c == nil {
		return ErrStopped
	}
	return c.ask(ctx, func() error {
		r := c.find(id)
		if r == nil || !r.leader {
			return group{host: h, id: id}.refusal(r)
		}
		if !slices.Contains(r.members.learners, replica) {
			return fmt.Errorf("learner %d of group %d: %w", replica, id, ErrNoReplica)
		}
		return r.closeBehind(replica)
	})
}
