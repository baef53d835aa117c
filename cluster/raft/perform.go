package raft

import (
	"encoding/binary"
	"slices"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// groupReady is what a group wants done.
type groupReady struct {
	r     *replica
	ready etcd.Ready
}

// records are what must be in the log before anything of the Ready shows outside.
func (g *groupReady) records() []record {
	var list []record
	r := g.r
	snapshot := !etcd.IsEmptySnap(g.ready.Snapshot)
	if snapshot {
		list = append(list, r.install.record(r.id))
	}
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
	if r.hardDirty && (g.ready.MustSync || snapshot) {
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

// perform does what the groups want, in the order that Raft asks for: log, messages, apply; and advances them. What a
// leader has to say about its entries it says while its own log writes them: it counts itself only when they are durable.
func (c *core) perform(readies []groupReady, records []record) error {
	first := c.log.lastSeq() + 1
	c.post(readies, true)
	// Entries that were durable before this round are applied while the devices sync.
	var end func() error
	if slices.ContainsFunc(readies, groupReady.appliesBefore) {
		end = c.beginAppend(records)
	} else {
		end = func() error { return c.append(records) }
	}
	var applyErr error
	for i := range readies {
		if applyErr = c.applyReady(&readies[i]); applyErr != nil {
			break
		}
	}
	if err := end(); err != nil {
		return err
	}
	if applyErr != nil {
		return applyErr
	}
	c.post(readies, false)
	for i := range readies {
		if err := c.conclude(&readies[i], first); err != nil {
			return err
		}
	}
	return nil
}

// applyReady applies what a Ready has for that, as far as it is durable.
func (c *core) applyReady(g *groupReady) error {
	if committed := g.ready.CommittedEntries; len(committed) > 0 && g.r.filling {
		g.r.handed = committed[len(committed)-1].GetIndex() // once the state is there
		return nil
	}
	return c.apply(g.r, g.ready.CommittedEntries, g.r.durable)
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
	if !etcd.IsEmptySnap(rd.Snapshot) {
		c.installed(r, firstSeq)
	}
	if n := len(rd.Entries); n > 0 {
		r.store.append(rd.Entries)
		r.durable = rd.Entries[n-1].GetIndex()
		r.unapplied = append(r.unapplied, appended{index: r.durable, seq: firstSeq})
	}
	c.follow(r, rd)
	if err := c.applyReady(g); err != nil {
		return err
	}
	c.readable(r, rd.ReadStates)
	r.node.Advance(rd)
	r.store.compact(r.compactable(), c.keepFor(r))
	for len(r.unapplied) > 0 && r.unapplied[0].index <= r.point.index {
		r.unapplied = r.unapplied[1:]
	}
	if r.node.HasReady() {
		c.touch(r)
	}
	return nil
}

// compactable is the index up to which nobody needs the entries any more, except for followers that are a little behind.
func (r *replica) compactable() uint64 {
	index := r.point.index
	if r.store.bytes > maxHeld {
		return index
	}
	for _, hold := range r.holds {
		index = min(index, hold)
	}
	return index
}

// What stays in memory of applied entries for other voters.
const (
	// keptForFollowers is how many bytes a group keeps, when there are few groups.
	keptForFollowers = 8 << 20
	// keptForAll is how many bytes all groups keep together, unless each keeps keptAtLeast.
	keptForAll  = 64 << 20
	keptAtLeast = 64 << 10
	// maxHeld is how many bytes a group keeps for replicas that get a snapshot. When it grows past that, they need
	// another one.
	maxHeld = 64 << 20
)

// keepFor is how many bytes of applied entries a group keeps.
func (c *core) keepFor(r *replica) int {
	if r.alone && len(r.members.learners) == 0 {
		return 0
	}
	if kept := c.host.config.kept; kept != 0 {
		return kept
	}
	return min(keptForFollowers, max(keptAtLeast, keptForAll/len(c.order)))
}

// propose hands proposals to their groups, those of a group together. What is refused is answered at once.
func (c *core) propose(proposals []*proposal) {
	for i, p := range proposals {
		r := c.find(p.group)
		switch {
		case r == nil:
			p.finish(proposalResult{err: &NotLeaderError{Group: p.group, Cause: ErrNoReplica}})
			proposals[i] = nil
		case p.read:
			c.read(r, p)
			proposals[i] = nil
		default:
			if r.proposed == nil {
				c.touch(r)
			}
			r.proposed = append(r.proposed, &raftpb.Entry{Data: p.data})
		}
	}
	if len(proposals) > 0 {
		c.host.adoptAll(proposals)
	}
	for _, p := range proposals {
		if p == nil {
			continue
		}
		if r := c.find(p.group); r.proposed != nil {
			c.hand(r)
		}
	}
	for _, r := range c.dirty {
		c.askIndex(r)
	}
}

// hand gives a round's commands of a group to Raft.
func (c *core) hand(r *replica) {
	entries := r.proposed
	r.proposed = nil
	err := r.node.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: &r.replica, Entries: entries})
	if err == nil {
		return
	}
	for _, e := range entries {
		if p := c.host.claim(binary.LittleEndian.Uint64(e.GetData())); p != nil {
			p.finish(proposalResult{err: r.notLeader(err)})
		}
	}
}

// step hands a message of another peer to its group.
func (c *core) step(m GroupMessage) {
	r := c.find(m.Group)
	if r == nil || m.Message.GetTo() != r.replica {
		return // the replica is not here (any more), and nothing but Create makes one; its leader learns from silence
	}
	if m.Message.GetType() == raftpb.MsgHeartbeat && m.Message.GetCommit() > r.durable {
		// The leader knows that this replica had more. Raft panics at this; the replica must be replaced by another.
		c.host.config.Log.Error("replica has lost a part of its log", "group", uint64(r.id), "replica", r.replica,
			"last", r.durable, "acknowledged", m.Message.GetCommit())
		return
	}
	c.touch(r)
	if err := r.node.Step(m.Message); err != nil {
		c.host.config.Log.Debug("raft message refused", "group", uint64(m.Group), "err", err)
	}
	c.hear(r, m.Message)
}
