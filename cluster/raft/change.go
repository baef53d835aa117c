package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Errors of changes of a group's members.
var (
	// ErrChangeUnderWay says that another change of the members may not have ended: ask again.
	ErrChangeUnderWay = errors.New("another change of the members is under way")
	// ErrLearnerBehind says that a learner lacks too much of the log to vote: a group must not wait for it.
	ErrLearnerBehind = errors.New("the learner is too far behind")
	// ErrNoReplica says that a group has no such replica, or this peer none of the group.
	ErrNoReplica = errors.New("no such replica")
	// ErrReplicaRemoved says that a replica with this id, or a higher one, was removed from this peer.
	ErrReplicaRemoved = errors.New("the replica was removed")
	// ErrReplicaExists says that another replica of the group is on this peer.
	ErrReplicaExists = errors.New("another replica of the group is here")
	// ErrMember says that the members cannot be changed in this way.
	ErrMember = errors.New("the members cannot be changed so")
)

// maxBehind is how many entries a learner may lack when it becomes a voter.
const maxBehind = 100

// Members implements Member.
func (g group) Members() (voters, learners []uint64) {
	if c := g.host.core.Load(); c != nil {
		if r := c.find(g.id); r != nil {
			m := r.shown.Load()
			return slices.Clone(m.voters), slices.Clone(m.learners)
		}
	}
	return nil, nil
}

// AddLearner implements Member.
func (g group) AddLearner(ctx context.Context, id uint64) error { return g.addLearner(ctx, id, 0) }

// addLearner adds a learner; a term that is not 0 must be the one that this replica leads in.
func (g group) addLearner(ctx context.Context, id, term uint64) error {
	return g.change(ctx, raftpb.ConfChangeAddLearnerNode, id, func(r *replica) (bool, error) {
		if term != 0 && r.term != term {
			return false, r.notLeader(fmt.Errorf("term %d is over", term))
		}
		if slices.Contains(r.members.voters, id) {
			return false, fmt.Errorf("%w: it is a voter", ErrMember)
		}
		if len(r.members.learners) >= maxVoters {
			return false, fmt.Errorf("%w: there are %d learners", ErrMember, maxVoters)
		}
		return !slices.Contains(r.members.learners, id), nil
	})
}

// Promote implements Member.
func (g group) Promote(ctx context.Context, id uint64) error {
	return g.change(ctx, raftpb.ConfChangeAddNode, id, func(r *replica) (bool, error) {
		if slices.Contains(r.members.voters, id) {
			return false, nil
		}
		if !slices.Contains(r.members.learners, id) {
			return false, ErrNoReplica
		}
		if len(r.members.voters) >= maxVoters {
			return false, fmt.Errorf("%w: there are %d voters", ErrMember, maxVoters)
		}
		return true, r.closeBehind(id)
	})
}

// Remove implements Member.
func (g group) Remove(ctx context.Context, id uint64) error {
	return g.change(ctx, raftpb.ConfChangeRemoveNode, id, func(r *replica) (bool, error) {
		if id == r.replica {
			return false, fmt.Errorf("%w: a leader hands over before it is removed", ErrMember)
		}
		return r.members.has(id), nil
	})
}

// closeBehind tells whether a learner has nearly everything that this leader has.
func (r *replica) closeBehind(id uint64) error {
	var at tracker.Progress
	r.node.WithProgress(func(other uint64, _ etcd.ProgressType, pr tracker.Progress) {
		if other == id {
			at = pr
		}
	})
	last := r.durable
	if at.State != tracker.StateReplicate || !at.RecentActive || at.Match+maxBehind < last {
		return fmt.Errorf("%w: it has entry %d of %d", ErrLearnerBehind, at.Match, last)
	}
	return nil
}

// change proposes a change of the members and waits until it is applied here. need looks whether it may be made, and
// whether there is anything to do.
func (g group) change(ctx context.Context, kind raftpb.ConfChangeType, id uint64, need func(r *replica) (bool, error)) error {
	c := g.host.core.Load()
	if c == nil {
		return ErrStopped
	}
	p := &proposal{group: g.id, done: make(chan proposalResult, 1), ctx: ctx}
	g.host.number(p)
	needed := false
	err := c.ask(ctx, func() (err error) {
		needed, err = c.proposeChange(g, p, kind, id, need)
		return err
	})
	if errors.Is(err, ErrStopped) {
		err = errors.Join(ErrUnknownOutcome, err)
	}
	if err != nil {
		return fmt.Errorf("group %d: %v of replica %d: %w", g.id, kind, id, err)
	}
	if !needed {
		return nil
	}
	select {
	case r := <-p.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

// proposeChange looks whether a change may be made and proposes it. The worker calls it.
func (c *core) proposeChange(g group, p *proposal, kind raftpb.ConfChangeType, id uint64, need func(r *replica) (bool, error)) (bool, error) {
	r := c.find(g.id)
	if r == nil || !r.leader {
		return false, g.refusal(r)
	}
	// Before an entry of its own term is applied, a leader may not have applied a change of the leader before.
	if r.change != 0 || r.point.term != r.term {
		return false, ErrChangeUnderWay
	}
	if needed, err := need(r); err != nil || !needed {
		return false, err
	}
	c.host.adopt(p)
	context := binary.LittleEndian.AppendUint64(nil, p.id)
	err := r.node.ProposeConfChange(&raftpb.ConfChange{Type: kind.Enum(), NodeId: &id, Context: context})
	if err != nil {
		c.host.claim(p.id)
		return false, r.notLeader(err)
	}
	r.change = p.id
	c.touch(r)
	return true, nil
}

// claimChange finds out who waits for a change of the members that is applied now.
func (c *core) claimChange(r *replica, change raftpb.ConfChangeI) *proposal {
	one, ok := change.AsV1()
	if !ok || len(one.GetContext()) != proposalHeader {
		return nil
	}
	id := binary.LittleEndian.Uint64(one.GetContext())
	if id == r.change {
		r.change = 0
	}
	return c.host.claim(id)
}
