package raft

import (
	"context"
	"errors"
	"fmt"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/holdfast/holdfast/cluster"
)

// Leader says who leads a group. Replica is zero when nobody is known to.
type Leader struct {
	Replica, Term uint64
}

// NotLeaderError is an ErrNotLeader that knows who may lead.
type NotLeaderError struct {
	Group  GroupID
	Leader Leader
	// Cause says why Raft refused; it may be nil.
	Cause error
}

func (e *NotLeaderError) Error() string {
	text := fmt.Sprintf("group %d: %v", e.Group, ErrNotLeader)
	if e.Leader.Replica != 0 {
		text += fmt.Sprintf(", replica %d leads in term %d", e.Leader.Replica, e.Leader.Term)
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap lets errors.Is find ErrNotLeader and the cause.
func (e *NotLeaderError) Unwrap() []error { return []error{ErrNotLeader, e.Cause} }

func (r *replica) notLeader(cause error) error {
	return &NotLeaderError{Group: r.id, Leader: *r.hint.Load(), Cause: cause}
}

// follow notes what a Ready says about who leads.
func (c *core) follow(r *replica, rd etcd.Ready) {
	if rd.SoftState == nil {
		if known := r.hint.Load(); known.Term != r.hard.term {
			r.hint.Store(&Leader{Replica: known.Replica, Term: r.hard.term})
		}
		return
	}
	c.lead(r, rd.SoftState.RaftState == etcd.StateLeader)
	r.hint.Store(&Leader{Replica: rd.SoftState.Lead, Term: r.term})
	if rd.SoftState.Lead != etcd.None {
		r.campaign = 0
	}
	c.host.changed()
}

// lead notes that this replica began or ceased to lead.
func (c *core) lead(r *replica, leader bool) {
	r.term = r.node.BasicStatus().HardState.GetTerm()
	if r.leader && !leader {
		r.lease.Store(0)
		r.change = 0
		clear(r.holds)
		c.host.giveUp(func(p *proposal) bool { return p.group == r.id }, ErrUnknownOutcome)
		r.reads.fail(r.notLeader(nil))
	}
	r.leader = leader
}

// Leader implements Member.
func (g group) Leader() Leader {
	if c := g.host.core.Load(); c != nil {
		if r := c.find(g.id); r != nil {
			return *r.hint.Load()
		}
	}
	return Leader{}
}

// ErrTransfer says that leadership did not go where it was sent.
var ErrTransfer = errors.New("leadership was not transferred")

// Transfer implements Member.
func (g group) Transfer(ctx context.Context, to uint64) error {
	h := g.host
	c := h.core.Load()
	if c == nil {
		return ErrStopped
	}
	err := c.ask(ctx, func() error {
		r := c.find(g.id)
		if r == nil || !r.leader {
			return g.refusal(r)
		}
		c.touch(r)
		r.node.TransferLeader(to)
		return nil
	})
	if err != nil {
		return err
	}
	// Raft gives a transfer up after an election timeout; the new leader's first words take a little more.
	timeout := time.NewTimer(2 * electionTicks * h.config.Tick)
	defer timeout.Stop()
	for {
		changed := h.watch()
		if g.Leader().Replica == to {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return fmt.Errorf("group %d to replica %d: %w", g.id, to, ErrTransfer)
		}
	}
}

// refusal is why a group that does not lead here, or is not here, refuses what only a leader does.
func (g group) refusal(r *replica) error {
	if r == nil {
		return &NotLeaderError{Group: g.id, Cause: ErrNoReplica}
	}
	return r.notLeader(nil)
}

// handOver transfers every leadership to the voter that has most of the log, and tells how many groups this host leads
// that others could lead. The worker calls it.
func (c *core) handOver() (leading int) {
	for _, r := range c.order {
		if !r.leader || r.alone {
			continue
		}
		best, match := uint64(0), uint64(0)
		r.node.WithProgress(func(id uint64, typ etcd.ProgressType, pr tracker.Progress) {
			if id != r.replica && typ == etcd.ProgressTypePeer && pr.RecentActive && pr.Match > match {
				best, match = id, pr.Match
			}
		})
		if best != 0 {
			leading++
			c.touch(r)
			r.node.TransferLeader(best)
		}
	}
	return leading
}

// stepDown hands all leadership over before the host stops, so that nobody waits for an election. It waits for at most
// an election timeout: others may be gone too.
func (h *Host) stepDown() {
	ctx, cancel := context.WithTimeout(context.Background(), electionTicks*h.config.Tick)
	defer cancel()
	for {
		c := h.core.Load()
		if c == nil {
			return
		}
		changed := h.watch()
		leading := 0
		if err := c.ask(ctx, func() error { leading = c.handOver(); return nil }); err != nil || leading == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-h.done:
			return
		}
	}
}

// Unreachable says that a peer refuses connections or resets them. Leaders stop sending it entries until it answers, and
// those that it led stand for election at once instead of waiting until they miss its heartbeats. It does not block.
func (h *Host) Unreachable(peer cluster.PeerID) {
	h.mu.Lock()
	if !h.closed && len(h.waiting.unreachable) < maxWaiting {
		h.waiting.unreachable = append(h.waiting.unreachable, peer)
	}
	h.mu.Unlock()
	h.wakeWorker()
}

// electionStep is how many ticks the voters of a group stand for election one after another when their leader was found
// unreachable, so that they do not split the votes.
const electionStep = 2

// electionTurn is in how many ticks this replica's turn is when a leader is gone.
func (r *replica) electionTurn(gone uint64) int {
	turn := 1
	for _, id := range r.members.voters {
		if id < r.replica && id != gone {
			turn += electionStep
		}
	}
	return turn
}

// unreachable tells every group about replicas on a peer.
func (c *core) unreachable(peer cluster.PeerID) {
	for _, r := range c.order {
		for _, list := range [][]uint64{r.members.voters, r.members.learners} {
			for _, id := range list {
				if at, known := c.peerOf(r.id, id); id == r.replica || !known || at != peer {
					continue
				}
				c.touch(r)
				if r.leader {
					r.node.ReportUnreachable(id)
				} else if r.hint.Load().Replica == id && r.campaign == 0 {
					r.campaign = r.electionTurn(id)
					if err := r.node.ForgetLeader(); err != nil {
						c.host.config.Log.Debug("leader not forgotten", "group", uint64(r.id), "err", err)
					}
				}
			}
		}
	}
}

// standForElection counts the ticks down until a replica without a leader campaigns.
func (c *core) standForElection(r *replica) {
	if r.campaign == 0 {
		return
	}
	if r.campaign--; r.campaign > 0 {
		return
	}
	if err := r.node.Campaign(); err != nil {
		c.host.config.Log.Debug("no election", "group", uint64(r.id), "err", err)
	}
}
