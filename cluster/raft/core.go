package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	etcd "go.etcd.io/raft/v3"

	"github.com/holdfast/holdfast/cluster/kv"
)

// core is a host between one opening of its log and state and the next: one worker goroutine that owns every
// RawNode, and one keeper goroutine for mirrors, segments and checkpoints.
type core struct {
	host   *Host
	log    *mirroredLog
	db     *kv.DB
	groups map[GroupID]*replica
	order  []*replica // the same, in the order of their ids
	points chan pointRequest
	// batch and rows are those of the application under way; they are kept for their memory. The worker owns them.
	batch kv.WriteBatch
	rows  map[string][]byte

	// Of the keeper: the checkpoints that are kept, oldest first, and the log's bytes at the newest.
	kept          []checkpointHead
	keptBytes     int64
	lastSize      int64
	number        uint64 // of the newest checkpoint
	checkpointing sync.Mutex
}

// replica is one group here. The worker owns it, except for lease.
type replica struct {
	id      GroupID
	replica uint64
	voters  []uint64
	alone   bool // the only voter: what is durable here is committed
	node    *etcd.RawNode
	store   *entryStore
	machine Machine
	point   applied
	// durable is the last index in the log; hard is the state that raft wants remembered, written with the next append.
	durable   uint64
	hard      hardState
	hardDirty bool
	// unapplied are appends whose entries are not all applied: a checkpoint does not cover their frames.
	unapplied []appended
	leader    bool
	term      uint64
	reads     []*proposal // waiting for an index
	readSeq   uint64
	// lease is the term in which this replica, alone in its group, leads and has applied an entry of its own; else 0.
	// While it is not zero everything acknowledged is applied.
	lease atomic.Uint64
}

// appended says that entries up to an index were written in frames from seq on.
type appended struct {
	index, seq uint64
}

// pointRequest asks the worker for a consistent point of all groups and a snapshot of it.
type pointRequest struct {
	answer chan<- pointAnswer
}

type pointAnswer struct {
	head checkpointHead
	snap *kv.Snapshot
	err  error
}

// errStateBroken ends a core whose state must be rebuilt.
var errStateBroken = errors.New("state database must be rebuilt")

// errEnd ends a core because the host closes.
var errEnd = errors.New("host closes")

// run works until stop is closed or something breaks, and tells why it ended.
func (c *core) run(stop <-chan struct{}) error {
	ticker := time.NewTicker(c.host.config.Tick)
	defer ticker.Stop()
	idle := 0
	for {
		var ticks int
		select {
		case <-stop:
			return errEnd
		case <-c.host.kick:
		case <-ticker.C:
			ticks = 1
		case request := <-c.points:
			request.answer <- c.point()
			continue
		}
		if err := c.db.Broken(); err != nil {
			return fmt.Errorf("%w: %w", errStateBroken, err)
		}
		idle += ticks
		for {
			// Those who were answered, and those whose requests wait for a processor, get to propose first: the more
			// entries an append has, the fewer appends there are. When nobody waits this costs nothing.
			runtime.Gosched()
			busy, err := c.round(ticks)
			if err != nil {
				return err
			}
			ticks = 0
			if !busy {
				break
			}
			idle = 0
			select {
			case <-stop:
				return errEnd
			case request := <-c.points:
				request.answer <- c.point()
			default:
			}
		}
		if idle >= 2 {
			if err := c.log.settle(); err != nil {
				return err
			}
		}
	}
}

// round takes what waits, lets every group make progress once, and tells whether there may be more.
//
// The append of this round's entries and the apply of the entries that the round before made durable run at the same
// time: while the devices sync, machines work. Nothing is applied that is not durable here.
func (c *core) round(ticks int) (busy bool, err error) {
	for range ticks {
		for _, r := range c.order {
			r.node.Tick()
		}
	}
	work := c.host.take()
	for _, m := range work.messages {
		c.step(m)
	}
	for _, p := range work.proposals {
		c.propose(p)
	}
	var readies []groupReady
	var records []record
	for _, r := range c.order {
		if !r.node.HasReady() {
			continue
		}
		g := groupReady{r: r, ready: r.node.Ready()}
		records = append(records, g.records()...)
		readies = append(readies, g)
	}
	if len(readies) == 0 {
		return false, nil
	}
	if err := c.perform(readies, records); err != nil {
		return false, err
	}
	return true, nil
}

// groupReady is what a group wants done.
type groupReady struct {
	r     *replica
	ready etcd.Ready
}

// records are what must be in the log before anything of the Ready shows outside.
func (g *groupReady) records() []record {
	var list []record
	r := g.r
	if hs := g.ready.HardState; !etcd.IsEmptyHardState(hs) {
		r.hard = hardState{term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
		r.hardDirty = true
	}
	for _, e := range g.ready.Entries {
		list = append(list, record{
			kind: kindEntry, entryType: uint8(e.GetType()), group: r.id, index: e.GetIndex(), term: e.GetTerm(), payload: e.GetData(),
		})
	}
	// A commit index alone is not worth a sync: it goes with the next entries.
	if r.hardDirty && g.ready.MustSync {
		list = append(list, r.hard.record(r.id))
		r.hardDirty = false
	}
	return list
}

// appliesBefore tells whether a Ready has entries to apply that were durable before its own are.
func (g groupReady) appliesBefore() bool {
	committed := g.ready.CommittedEntries
	return len(committed) > 0 && committed[0].GetIndex() <= g.r.durable
}

// perform does what the groups want, in the order that Raft asks for: log, messages, apply; and advances them.
func (c *core) perform(readies []groupReady, records []record) error {
	first := c.log.lastSeq() + 1
	// Entries that were durable before this round are applied while the devices sync.
	var end func() error
	if slices.ContainsFunc(readies, groupReady.appliesBefore) {
		end = c.beginAppend(records)
	} else {
		end = func() error { return c.append(records) }
	}
	var applyErr error
	for i := range readies {
		if applyErr = c.apply(readies[i].r, readies[i].ready.CommittedEntries, readies[i].r.durable); applyErr != nil {
			break
		}
	}
	if err := end(); err != nil {
		return err
	}
	if applyErr != nil {
		return applyErr
	}
	for i := range readies {
		if err := c.conclude(&readies[i], first); err != nil {
			return err
		}
	}
	return nil
}

// append makes records durable.
func (c *core) append(records []record) error {
	if len(records) == 0 {
		return nil
	}
	_, err := c.log.append(records)
	return err
}

// beginAppend begins an append beside the worker. What it returns waits for the end.
func (c *core) beginAppend(records []record) (end func() error) {
	if len(records) == 0 {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- c.append(records) }()
	return func() error { return <-done }
}

// conclude finishes a group's Ready after its entries are durable.
func (c *core) conclude(g *groupReady, firstSeq uint64) error {
	r, rd := g.r, g.ready
	if n := len(rd.Entries); n > 0 {
		r.store.append(rd.Entries)
		r.durable = rd.Entries[n-1].GetIndex()
		r.unapplied = append(r.unapplied, appended{index: r.durable, seq: firstSeq})
	}
	if len(rd.Messages) > 0 && c.host.config.Transport != nil {
		c.host.config.Transport.Send(r.id, rd.Messages)
	}
	if rd.SoftState != nil {
		c.lead(r, rd.SoftState.RaftState == etcd.StateLeader)
	}
	if err := c.apply(r, rd.CommittedEntries, r.durable); err != nil {
		return err
	}
	c.readable(r, rd.ReadStates)
	r.node.Advance(rd)
	keep := 0
	if !r.alone {
		keep = keptForFollowers
	}
	r.store.compact(r.point.index, keep)
	for len(r.unapplied) > 0 && r.unapplied[0].index <= r.point.index {
		r.unapplied = r.unapplied[1:]
	}
	return nil
}

// lead notes that this replica began or ceased to lead.
func (c *core) lead(r *replica, leader bool) {
	if r.leader && !leader {
		r.lease.Store(0)
		c.host.giveUp(func(p *proposal) bool { return p.group == r.id }, ErrUnknownOutcome)
		for _, p := range r.reads {
			p.finish(proposalResult{err: ErrNotLeader})
		}
		r.reads = nil
	}
	r.leader = leader
	r.term = r.node.BasicStatus().HardState.GetTerm()
}

// propose hands a proposal to its group. One that is refused is answered at once.
func (c *core) propose(p *proposal) {
	r := c.groups[p.group]
	if r == nil {
		p.finish(proposalResult{err: fmt.Errorf("group %d: %w", p.group, ErrNotLeader)})
		return
	}
	if p.read {
		c.read(r, p)
		return
	}
	c.host.adopt(p)
	if err := r.node.Propose(p.data); err != nil {
		if c.host.claim(p.id) != nil {
			p.finish(proposalResult{err: fmt.Errorf("group %d: %w: %w", p.group, ErrNotLeader, err)})
		}
	}
}

// read begins a linearizable read: a lease answers at once, else the group's voters are asked.
func (c *core) read(r *replica, p *proposal) {
	if term := r.lease.Load(); term != 0 {
		p.finish(proposalResult{term: term})
		return
	}
	if !r.leader {
		p.finish(proposalResult{err: fmt.Errorf("group %d: %w", p.group, ErrNotLeader)})
		return
	}
	r.readSeq++
	p.id = r.readSeq
	r.reads = append(r.reads, p)
	r.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, p.id))
}

// readable notes confirmed read indexes and answers the reads whose index is applied.
func (c *core) readable(r *replica, states []etcd.ReadState) {
	for _, s := range states {
		id := binary.LittleEndian.Uint64(s.RequestCtx)
		for _, p := range r.reads {
			if p.id == id {
				p.index = s.Index
			}
		}
	}
	left := r.reads[:0]
	for _, p := range r.reads {
		if p.index != 0 && p.index <= r.point.index {
			p.finish(proposalResult{term: r.term})
		} else if !p.abandoned() {
			left = append(left, p)
		}
	}
	r.reads = left
}

// step hands a message of another peer to its group.
func (c *core) step(m groupMessage) {
	r := c.groups[m.group]
	if r == nil {
		return // the group is not here (any more); its leader learns from silence
	}
	if err := r.node.Step(m.message); err != nil {
		c.host.config.Log.Debug("raft message refused", "group", uint64(m.group), "err", err)
	}
}

// point is where all groups are, with a snapshot of the state there. Only the worker calls it, between rounds.
func (c *core) point() pointAnswer {
	snap, err := c.db.Snapshot()
	if err != nil {
		return pointAnswer{err: err}
	}
	head := checkpointHead{seq: c.log.lastSeq()}
	for _, r := range c.order {
		hard := r.hard
		hard.commit = max(hard.commit, r.point.index)
		head.groups = append(head.groups, groupPoint{group: r.id, replica: r.replica, voters: r.voters, applied: r.point, hard: hard})
		if len(r.unapplied) > 0 {
			head.seq = min(head.seq, r.unapplied[0].seq-1)
		}
	}
	return pointAnswer{head: head, snap: snap}
}

// close ends log and state. The worker and the keeper have ended.
func (c *core) close() error {
	for _, r := range c.order {
		for _, p := range r.reads {
			p.finish(proposalResult{err: ErrStopped})
		}
		r.lease.Store(0)
	}
	err := c.db.Close()
	if errors.Is(err, kv.ErrBroken) {
		err = nil // it was reported when it broke, and is rebuilt
	}
	return errors.Join(c.log.close(), err)
}

// ready tells whether every group that has no other voters leads and has applied all it had.
func (c *core) ready() bool {
	for _, r := range c.order {
		if r.alone && r.lease.Load() == 0 {
			return false
		}
	}
	return true
}

// waitReady waits until ready or until the core ends.
func (c *core) waitReady(ctx context.Context, ended <-chan struct{}) error {
	for {
		changed := c.host.watch()
		if c.ready() {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
