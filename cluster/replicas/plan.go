package replicas

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
)

// ReplicaID makes the id of a replica: no generation is given out twice, and the peer can be read from it.
func ReplicaID(generation uint64, peer uint16) uint64 { return generation<<16 | uint64(peer) }

// PeerNumber is the number of the peer that a replica is on.
func PeerNumber(replica uint64) uint16 { return uint16(replica) }

// Replica is a member of a group.
type Replica struct {
	ID    uint64
	Voter bool
	// CaughtUp says of a learner that it can become a voter. Since is when its leader first saw it.
	CaughtUp bool
	Since    time.Time
	// Lost says that its peer answers and does not hold it: it will never take part again.
	Lost bool
}

// Leftover is a replica of the group on a peer that is not a member, and will never be.
type Leftover struct {
	Peer    cluster.PeerID
	Replica uint64
}

// View is a group as its leader sees it.
type View struct {
	Now   time.Time
	Map   *topology.Map
	Group raft.GroupID
	// Members are all replicas of the group, Leader is the one that leads it and Elected since when.
	Members []Replica
	Leader  uint64
	Elected time.Time
	// Unreachable tells since when peers are. Who is not in it is reachable.
	Unreachable map[cluster.PeerID]time.Time
	// Failed are peers that were tried of late and did not do.
	Failed map[cluster.PeerID]bool
	// Left are replicas that nobody needs, on peers that can be reached.
	Left []Leftover
	// Leads is how many groups each peer leads, as far as known. Spread is when the leader's peer last gave a leadership
	// away because of it.
	Leads  map[cluster.PeerID]int
	Spread time.Time
}

// Kind is what a Step does.
type Kind int

// The kinds of steps.
const (
	// None does nothing: all is as it should be, or must wait.
	None Kind = iota
	// Add creates a replica on Peer and makes it a learner.
	Add
	// Promote makes the learner Replica a voter.
	Promote
	// Remove takes Replica out of the group. Clean follows.
	Remove
	// Transfer hands the leadership to Replica. Spread is Transfer because others lead less.
	Transfer
	Spread
	// Clean removes the leftover Replica from Peer.
	Clean
)

func (k Kind) String() string {
	return [...]string{"none", "add", "promote", "remove", "transfer", "spread", "clean"}[k]
}

// Step is one change of a group.
type Step struct {
	Kind    Kind
	Peer    cluster.PeerID
	Replica uint64
	// Why is a reason for people.
	Why string
}

// member is a Replica with what is known of its peer.
type member struct {
	Replica
	peer        topology.Peer
	unreachable bool
	down        bool
	wanted      bool // the peer should have a voter
}

// leaving says that the peer must not have a replica.
func (m member) leaving() bool { return m.peer.State != topology.Active }

// on tells whether a peer holds the replica.
func (m member) on(peer topology.Peer) bool { return m.peer.Number == peer.Number && !m.Lost }

// planner is a View with what follows from it.
type planner struct {
	v        View
	s        Settings
	voters   []member
	learners []member
	leader   member
	// size is how many voters there should be now: the target, or fewer when there are not enough peers for it. missing
	// are the peers that should have one and have none, in order.
	size    int
	missing []candidate
}

// Plan is the next step of a group. It does what is most urgent and one thing only; the next step follows from what then
// is. Carried out again and again it ends with None, and no step undoes one before while peers stay as they are.
func Plan(v View, s Settings) Step {
	p, ok := newPlanner(v, s)
	if !ok {
		return Step{}
	}
	for _, next := range []func() Step{p.drainLeader, p.clean, p.dropLearner, p.removeVoter, p.add, p.promote, p.spread} {
		if step := next(); step.Kind != None {
			return step
		}
		if len(p.reachable()) < majority(len(p.voters)) {
			return Step{} // nothing can be agreed upon
		}
	}
	return Step{}
}

// newPlanner is false when the map does not know a member: it is an old one, and nothing may follow from it. It is false
// too when no peer may have a replica: there is nowhere to go.
func newPlanner(v View, s Settings) (*planner, bool) {
	p := &planner{v: v, s: s}
	for _, r := range v.Members {
		peer, known := v.Map.ByNumber(PeerNumber(r.ID))
		if !known {
			return nil, false
		}
		m := member{Replica: r, peer: peer}
		m.unreachable, m.down = p.away(peer, r.ID == v.Leader)
		if r.Lost {
			m.unreachable, m.down = true, true // a peer may return with it, this one will not
		}
		if r.Voter {
			p.voters = append(p.voters, m)
		} else {
			p.learners = append(p.learners, m)
		}
	}
	at := slices.IndexFunc(p.voters, func(m member) bool { return m.ID == v.Leader })
	if at < 0 {
		return nil, false
	}
	p.leader = p.voters[at]
	return p, p.want()
}

// away tells whether a peer is unreachable, and whether it has been for so long that it counts as down.
func (p *planner) away(peer topology.Peer, leads bool) (unreachable, down bool) {
	since, unreachable := p.v.Unreachable[peer.ID]
	unreachable = unreachable && !leads
	return unreachable, unreachable && p.v.Now.Sub(since) >= p.s.down()
}

// want settles which peers should have the voters. It is false when there are none.
func (p *planner) want() bool {
	var candidates []candidate
	active := 0
	for _, peer := range p.v.Map.Peers {
		if peer.State != topology.Active {
			continue
		}
		active++
		if c, ok := p.candidate(peer); ok {
			candidates = append(candidates, c)
		}
	}
	p.size = min(p.s.Target(p.v.Group, active), odd(len(candidates)))
	for _, c := range choose(candidates, p.size) {
		on := func(m member) bool { return m.on(c.peer) }
		v, l := slices.IndexFunc(p.voters, on), slices.IndexFunc(p.learners, on)
		if l >= 0 {
			p.learners[l].wanted = v < 0
		}
		if v >= 0 {
			p.voters[v].wanted = true
		} else {
			p.missing = append(p.missing, c)
		}
	}
	slices.SortFunc(p.missing, func(a, b candidate) int { return cmp.Compare(a.peer.Number, b.peer.Number) })
	return len(candidates) > 0
}

// candidate is false for a peer that is down and has no vote.
func (p *planner) candidate(peer topology.Peer) (candidate, bool) {
	on := func(m member) bool { return m.on(peer) }
	c := candidate{
		peer: peer, voter: slices.ContainsFunc(p.voters, on), learner: slices.ContainsFunc(p.learners, on),
		leader: peer.Number == p.leader.peer.Number,
	}
	var away bool
	c.unreachable, away = p.away(peer, c.leader)
	switch {
	case away && !c.voter:
		return c, false
	case away:
		c.class = down
	case c.voter:
	case c.unreachable && !c.learner, p.v.Failed[peer.ID], p.overdue(peer):
		c.class = unready
	}
	return c, true
}

// overdue tells whether the learner on a peer has had its time.
func (p *planner) overdue(peer topology.Peer) bool {
	return slices.ContainsFunc(p.learners, func(m member) bool { return m.on(peer) && p.late(m) })
}

func (p *planner) late(m member) bool { return !m.CaughtUp && p.v.Now.Sub(m.Since) >= p.s.catchUp() }

func (p *planner) reachable() (list []member) {
	for _, m := range p.voters {
		if !m.unreachable {
			list = append(list, m)
		}
	}
	return list
}

// extra are the voters that should go, the one to go first before the others: who is unreachable, because nothing gets
// less sure without it; who is removed; who is draining; the leader last, because it must hand over before.
func (p *planner) extra() (list []member) {
	for _, m := range p.voters {
		if !m.wanted {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b member) int {
		return cmp.Or(
			yesFirst(a.ID != p.v.Leader, b.ID != p.v.Leader),
			yesFirst(a.unreachable, b.unreachable),
			yesFirst(a.peer.State == topology.Removed, b.peer.State == topology.Removed),
			yesFirst(a.leaving(), b.leaving()),
			-cmp.Compare(a.peer.Number, b.peer.Number),
		)
	})
	return list
}
