package replicas

import (
	"cmp"
	"slices"

	"github.com/holdfast/holdfast/cluster/topology"
)

// candidate is a peer that may have a voter.
type candidate struct {
	peer topology.Peer
	// class is how willingly it is taken: see the constants.
	class       int
	voter       bool
	learner     bool
	unreachable bool
	leader      bool
}

// The classes of candidates. All of a lower one are taken before any of a higher.
const (
	// fit are those that can serve, and members that have not been away for long.
	fit = iota
	// unready cannot serve now, but may soon: they have no vote, and are unreachable or failed of late.
	unready
	// down are voters that have been away for long. They stay when nobody can take their place.
	down
)

// choose picks the peers that should have the voters, n at most: of the lowest classes, as evenly over zones and then over
// racks as they allow, and of all such choices the one that keeps most of what there is.
//
// It takes one after another whatever is best next. That finds the best choice of all, because the costs (squares of
// counts in zones, of counts in racks within zones, and what single peers cost) are convex over a laminar family of sets,
// where the greedy way is exact (Murota, Discrete Convex Analysis, 2003, 6.3 and 10.1). And because a change towards
// the choice makes it no worse and no other choice better, the choice stays the same until it is reached.
func choose(candidates []candidate, n int) []candidate {
	left := slices.Clone(candidates)
	var chosen []candidate
	zones, racks := map[string]int{}, map[[2]string]int{}
	for len(chosen) < n && len(left) > 0 {
		best := slices.MinFunc(left, func(a, b candidate) int {
			return cmp.Or(
				cmp.Compare(a.class, b.class),
				cmp.Compare(zones[a.peer.Zone], zones[b.peer.Zone]),
				cmp.Compare(racks[rackOf(a.peer)], racks[rackOf(b.peer)]),
				yesFirst(a.voter, b.voter),
				yesFirst(a.learner, b.learner),
				yesFirst(!a.unreachable, !b.unreachable),
				yesFirst(a.leader, b.leader),
				cmp.Compare(a.peer.Number, b.peer.Number),
			)
		})
		zones[best.peer.Zone]++
		racks[rackOf(best.peer)]++
		chosen = append(chosen, best)
		left = slices.DeleteFunc(left, func(c candidate) bool { return c.peer.Number == best.peer.Number })
	}
	return chosen
}

// rackOf names a rack: racks of the same name in different zones are different ones.
func rackOf(p topology.Peer) [2]string { return [2]string{p.Zone, p.Rack} }

// yesFirst orders what is true before what is not.
func yesFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
