package replicas

import (
	"cmp"
	"math"
	"slices"

	"github.com/holdfast/holdfast/cluster/topology"
)

// drainLeader hands the leadership over when the leader's peer must not have a replica.
func (p *planner) drainLeader() Step {
	if !p.leader.leaving() {
		return Step{}
	}
	return p.handOver(Transfer, "the leader's peer is "+string(p.leader.peer.State))
}

// handOver transfers the leadership to the voter that suits best, if any does.
func (p *planner) handOver(kind Kind, why string) Step {
	var best *member
	for i, m := range p.voters {
		if m.ID == p.v.Leader || m.unreachable || m.leaving() {
			continue
		}
		if best == nil || p.compareHeirs(m, *best) < 0 {
			best = &p.voters[i]
		}
	}
	if best == nil {
		return Step{}
	}
	return Step{Kind: kind, Peer: best.peer.ID, Replica: best.ID, Why: why}
}

func (p *planner) compareHeirs(a, b member) int {
	return cmp.Or(
		yesFirst(!p.v.Failed[a.peer.ID], !p.v.Failed[b.peer.ID]),
		yesFirst(a.wanted, b.wanted),
		cmp.Compare(p.leads(a), p.leads(b)),
		cmp.Compare(a.peer.Number, b.peer.Number),
	)
}

// leads is how many groups a peer leads; who has not said so is taken last.
func (p *planner) leads(m member) int {
	if n, known := p.v.Leads[m.peer.ID]; known {
		return n
	}
	return math.MaxInt
}

// clean removes what is left behind.
func (p *planner) clean() Step {
	for _, left := range p.v.Left {
		if !slices.ContainsFunc(p.v.Members, func(r Replica) bool { return r.ID == left.Replica }) {
			return Step{Kind: Clean, Peer: left.Peer, Replica: left.Replica, Why: "it is no member"}
		}
	}
	return Step{}
}

// dropLearner takes out a learner that is not to become a voter, or did not in its time.
func (p *planner) dropLearner() Step {
	for _, m := range p.learners {
		switch {
		case !m.wanted:
			return Step{Kind: Remove, Peer: m.peer.ID, Replica: m.ID, Why: "the learner is not needed"}
		case p.late(m):
			return Step{Kind: Remove, Peer: m.peer.ID, Replica: m.ID, Why: "the learner did not catch up"}
		}
	}
	return Step{}
}

// removeVoter takes out a voter that should go, when the others are enough: more than there should be, or an even number,
// of which the last survives nothing more. So of three voters, one of which is replaced, there are four for a moment.
func (p *planner) removeVoter() Step {
	extra := p.extra()
	if n := len(p.voters); len(extra) == 0 || n <= p.size && n%2 == 1 {
		return Step{}
	}
	goes := extra[0]
	if goes.ID == p.v.Leader {
		return p.handOver(Transfer, "the leader's replica goes")
	}
	left := len(p.reachable())
	if !goes.unreachable {
		left--
	}
	if left < majority(len(p.voters)-1) {
		return Step{} // those who are left could not agree
	}
	return Step{Kind: Remove, Peer: goes.peer.ID, Replica: goes.ID, Why: why(goes)}
}

func why(m member) string {
	switch {
	case m.leaving():
		return "the peer is " + string(m.peer.State)
	case m.Lost:
		return "the peer has lost it"
	case m.down:
		return "the peer is down"
	}
	return "another peer has its place"
}

// wave is how many learners are made voters together. A group grows from an odd number to the next, so that it has an even
// one for a moment only; and it replaces one voter at a time.
func (p *planner) wave() int {
	switch n := len(p.voters); {
	case len(p.missing) == 0:
		return 0
	case n >= p.size || n%2 == 0 || len(p.extra()) > 0:
		return 1
	}
	return 2
}

// add begins a replica on the next peer that should have one.
func (p *planner) add() Step {
	if len(p.learners) >= p.wave() {
		return Step{}
	}
	for _, c := range p.missing {
		if c.class == fit && !c.learner {
			return Step{Kind: Add, Peer: c.peer.ID, Why: "the peer should have a voter"}
		}
	}
	return Step{}
}

// promote makes a voter of a learner when as many are ready as are to become voters together.
func (p *planner) promote() Step {
	var ready []member
	for _, m := range p.learners {
		if m.wanted && m.CaughtUp && !m.unreachable {
			ready = append(ready, m)
		}
	}
	if wave := p.wave(); wave == 0 || len(ready) < wave {
		return Step{}
	}
	first := slices.MinFunc(ready, func(a, b member) int { return cmp.Compare(a.peer.Number, b.peer.Number) })
	return Step{Kind: Promote, Peer: first.peer.ID, Replica: first.ID, Why: "the learner has caught up"}
}

// spread hands the leadership to the voter whose peer leads least, when that makes both lead more alike. It waits until all
// voters can be reached: in trouble a leadership stays where it is.
func (p *planner) spread() Step {
	settled := len(p.missing) == 0 && len(p.learners) == 0 && len(p.extra()) == 0 && len(p.reachable()) == len(p.voters)
	if !settled || p.v.Now.Sub(p.v.Elected) < p.s.settle() || p.v.Now.Sub(p.v.Spread) < p.s.spread() {
		return Step{}
	}
	step := p.handOver(Spread, "the peer leads less")
	leads, known := p.v.Leads[step.Peer]
	if step.Kind == None || !known || p.v.Failed[step.Peer] || p.v.Leads[p.leader.peer.ID]-leads < 2 {
		return Step{}
	}
	return step
}

// Losses are how many more peers, or zones, a group may lose at once, whichever they are, and still agree. Both are -1 when
// it cannot agree now.
type Losses struct {
	Peers, Zones int
}

// Tolerated counts the losses that a group with voters on these peers tolerates. Voters on unreachable peers count as lost.
func Tolerated(voters []topology.Peer, reachable func(topology.Peer) bool) Losses {
	here := map[string]int{}
	spare := -majority(len(voters))
	for _, peer := range voters {
		if reachable(peer) {
			here[peer.Zone]++
			spare++
		}
	}
	if spare < 0 {
		return Losses{-1, -1}
	}
	l := Losses{Peers: spare}
	counts := make([]int, 0, len(here))
	for _, n := range here {
		counts = append(counts, n)
	}
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	for _, n := range counts {
		if spare -= n; spare < 0 {
			break
		}
		l.Zones++
	}
	return l
}
