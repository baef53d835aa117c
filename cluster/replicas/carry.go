package replicas

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
)

// carryOut does a step. What it leaves half done when it fails is found by the next Plan, here or at the next leader.
func (w *Worker) carryOut(ctx context.Context, m *topology.Map, member raft.Member, term uint64, step Step) error {
	switch step.Kind {
	case Add:
		return w.begin(ctx, m, member, term, step.Peer)
	case Promote:
		return member.Promote(ctx, step.Replica)
	case Remove:
		return w.remove(ctx, member, step)
	case Transfer, Spread:
		return w.transfer(ctx, member, step)
	case Clean:
		return w.clean(ctx, member, step)
	}
	return fmt.Errorf("no such step: %v", step.Kind)
}

// begin creates a replica on a peer and makes it a learner, in this term or never.
func (w *Worker) begin(ctx context.Context, m *topology.Map, member raft.Member, term uint64, id cluster.PeerID) error {
	peer, known := m.Peer(id)
	if !known {
		return fmt.Errorf("peer %v: %w", id, topology.ErrUnknownPeer)
	}
	generation, err := w.config.Generation(ctx)
	if err != nil {
		return fmt.Errorf("number of a replica: %w", err)
	}
	replica := ReplicaID(generation, peer.Number)
	if err := w.create(ctx, member.ID(), id, replica); err != nil {
		if errors.Is(err, raft.ErrReplicaExists) {
			w.surveyed = time.Time{} // it is a leftover: find out which
		} else {
			w.fail(member.ID(), id, refusedFor)
		}
		return err
	}
	return w.config.Host.AddLearner(ctx, member.ID(), term, replica)
}

// create creates a replica, again when the answer was lost: the same one twice is no error.
func (w *Worker) create(ctx context.Context, group raft.GroupID, peer cluster.PeerID, replica uint64) (err error) {
	for range createTries {
		short, cancel := context.WithTimeout(ctx, callPatience/createTries)
		err = w.config.Peers.Create(short, peer, group, replica)
		cancel()
		if err == nil || errors.Is(err, raft.ErrReplicaExists) || errors.Is(err, raft.ErrReplicaRemoved) {
			break
		}
	}
	return err
}

// remove takes a replica out of its group. Its peer has a leftover then.
func (w *Worker) remove(ctx context.Context, member raft.Member, step Step) error {
	l := w.led[member.ID()]
	since, learner := l.learners[step.Replica]
	if err := member.Remove(ctx, step.Replica); err != nil {
		return err
	}
	delete(l.learners, step.Replica)
	if patience := w.config.Settings().catchUp(); learner && w.config.Now().Sub(since) >= patience {
		w.fail(member.ID(), step.Peer, patience)
	}
	l.removed[step.Replica] = w.config.Now()
	w.left[member.ID()] = append(w.left[member.ID()], Leftover{Peer: step.Peer, Replica: step.Replica})
	return nil
}

// forget takes a replica from what peers are known to hold.
func (w *Worker) forget(group raft.GroupID, replica uint64) {
	w.left[group] = slices.DeleteFunc(w.left[group], func(l Leftover) bool { return l.Replica == replica })
}

// transfer hands the leadership over.
func (w *Worker) transfer(ctx context.Context, member raft.Member, step Step) error {
	if step.Kind == Spread {
		w.spread = w.config.Now()
	}
	if err := member.Transfer(ctx, step.Replica); err != nil {
		w.fail(member.ID(), step.Peer, refusedFor)
		return err
	}
	w.leads[w.config.Self]--
	w.leads[step.Peer]++
	return nil
}

// clean removes a leftover, once it is certain that it will never be a member: see the package's doc. It is tried once
// until peers are asked again.
func (w *Worker) clean(ctx context.Context, member raft.Member, step Step) error {
	group := member.ID()
	w.forget(group, step.Replica)
	if err := member.Remove(ctx, step.Replica); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	return w.config.Peers.Remove(short, step.Peer, group, step.Replica)
}

// fail notes that a peer did not do for a group.
func (w *Worker) fail(group raft.GroupID, peer cluster.PeerID, patience time.Duration) {
	w.led[group].failed[peer] = w.config.Now().Add(patience)
}
