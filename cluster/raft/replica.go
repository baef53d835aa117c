package raft

import (
	"fmt"
	"sync/atomic"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// replica is one group here. The worker owns it, except for lease, hint, shown and caughtUp.
type replica struct {
	id      GroupID
	replica uint64
	members members
	alone   bool // the only voter: what is durable here is committed
	// sendable tells that there is a way to send snapshots.
	sendable bool
	// begun and stamp are those of groupPoint.
	begun, stamp uint64
	node         *etcd.RawNode
	store        *entryStore
	machine      Machine
	dirty        bool // in the core's list of that name
	gone         bool // removed
	point        applied
	// install is a snapshot on its way into the log; filling tells that the log has it and the state does not yet. Until
	// it has, point is the old one, and what Raft hands out for application, up to handed, waits.
	install *installation
	filling bool
	handed  uint64
	// durable is the last index in the log; hard is the state that raft wants remembered, written with the next append.
	durable   uint64
	hard      hardState
	hardDirty bool
	// unapplied are appends whose entries are not all applied: a checkpoint does not cover their frames.
	unapplied []appended
	leader    bool
	term      uint64
	proposed  []*raftpb.Entry // of this round
	reads     reads
	change    uint64 // the proposal that changes the members, while one is under way
	campaign  int    // ticks until this replica stands for election because its leader is unreachable; 0 for never
	// holds are entries that stay in memory for replicas that get a snapshot: the index of it by replica.
	holds map[uint64]uint64
	// caughtUp tells that everything is applied that readers may have seen before, which is up to must.
	caughtUp atomic.Bool
	must     uint64
	// shown are the members, for those who ask.
	shown atomic.Pointer[members]
	// hint is who leads, as far as this replica knows.
	hint atomic.Pointer[Leader]
	// lease is the term in which this replica, alone in its group, leads and has applied an entry of its own; else 0.
	// While it is not zero everything acknowledged is applied.
	lease atomic.Uint64
}

// appended says that entries up to an index were written in frames from seq on.
type appended struct {
	index, seq uint64
}

// retainedAtOpen is how many bytes of applied entries a group with other voters keeps when the log is opened: after a
// power loss of everything some replicas lack the last entries of others, which must not cost them a snapshot.
const retainedAtOpen = 64 << 10

// begin makes the replicas of the groups over the state.
func (c *core) begin(groups []*groupLog) error {
	if err := c.clearForeign(groups); err != nil {
		return err
	}
	byID := map[GroupID]*replica{}
	for _, g := range groups {
		machine := c.host.config.Machines(g.id)
		point, m, err := c.settleState(g, machine.Spans())
		if err != nil {
			return err
		}
		if point.index < g.base.index || point.index > g.last() {
			return fmt.Errorf("%w: group %d restored at %d, its log has %d to %d", ErrLogDamaged, g.id, point.index, g.base.index, g.last())
		}
		r, err := c.newReplica(g, machine, point, m)
		if err != nil {
			return err
		}
		byID[g.id] = r
		c.order = append(c.order, r)
	}
	c.groups.Store(&byID)
	c.log.setWant(c.wantMirrors())
	return nil
}

// newReplica makes the replica of a group whose state is settled.
func (c *core) newReplica(g *groupLog, machine Machine, point applied, m members) (*replica, error) {
	retain := 0
	if !m.only(g.replica) || len(m.learners) > 0 {
		retain = retainedAtOpen
	}
	g.shed(point.index, retain)
	g.hard.commit = max(g.hard.commit, point.index)
	r := &replica{
		id: g.id, replica: g.replica, members: m, point: point, durable: g.last(),
		hard: g.hard, begun: g.begun, stamp: g.stamp, holds: map[uint64]uint64{},
		sendable: c.host.config.Snapshots != nil,
		store:    newEntryStore(g.before(), g.hard, m.conf(), g.entries),
		machine:  machine,
		alone:    m.only(g.replica),
	}
	r.store.snapshot = r.snapshotMetadata
	if g.last() > point.index {
		// A checkpoint taken before these are applied must not let go of any frame.
		r.unapplied = []appended{{index: g.last(), seq: c.log.segments[0].first}}
	}
	var err error
	if r.node, err = etcd.NewRawNode(c.raftConfig(r)); err != nil {
		return nil, fmt.Errorf("group %d: %w", g.id, err)
	}
	r.shown.Store(&m)
	r.hint.Store(&Leader{Term: g.hard.term})
	r.must = c.host.reachedBefore(g.id)
	r.caughtUp.Store(r.point.index >= r.must)
	r.machine.Restored()
	if r.alone {
		if err := r.node.Campaign(); err != nil {
			return nil, fmt.Errorf("group %d: %w", g.id, err)
		}
	}
	c.touch(r)
	return r, nil
}

func (c *core) raftConfig(r *replica) *etcd.Config {
	return &etcd.Config{
		ID: r.replica, ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks, Storage: r.store,
		Applied: r.point.index, MaxSizePerMsg: maxMessageBytes, MaxCommittedSizePerReady: maxCommittedApply,
		MaxUncommittedEntriesSize: maxUncommitted, MaxInflightMsgs: maxInflightMsgs, MaxInflightBytes: maxInflightBytes,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true, ReadOnlyOption: etcd.ReadOnlySafe,
		Logger: raftLogger{c.host.config.Log.With("group", uint64(r.id))},
	}
}
