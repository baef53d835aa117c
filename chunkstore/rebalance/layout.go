package rebalance

import (
	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// The levels of failure domains in the order of the rules of package placement: never two slots on one drive while
// another is free comes first.
const (
	byDrive = iota
	byZone
	byRack
	byPeer
	byDevice
	levels
)

// domains are the numbers of what a drive lies in, by level.
type domains [levels]int

// numbers gives every domain a number.
type numbers struct {
	known map[any]int
}

func newNumbers() *numbers { return &numbers{known: make(map[any]int)} }

func (n *numbers) of(d placement.Drive) domains {
	type zone string
	type rack [2]string
	type device struct {
		peer   cluster.PeerID
		device uint64
	}
	return domains{
		byDrive: n.number(d.ID), byZone: n.number(zone(d.Zone)), byRack: n.number(rack{d.Zone, d.Rack}),
		byPeer: n.number(d.Peer), byDevice: n.number(device{d.Peer, d.Device}),
	}
}

func (n *numbers) number(domain any) int {
	i, ok := n.known[domain]
	if !ok {
		i = len(n.known)
		n.known[domain] = i
	}
	return i
}

// layout is where the slots of a volume lie, nil for a slot on a drive that is not in the list.
type layout [chunkstore.Shards]*site

func (p *planner) layout(home chunkstore.DriveIDs) *layout {
	l := new(layout)
	for i, id := range home {
		l[i] = p.sites[id]
	}
	return l
}

// count is the number of slots in a domain of a level.
func (l *layout) count(level, domain int) int {
	n := 0
	for _, s := range l {
		if s != nil && s.at[level] == domain {
			n++
		}
	}
	return n
}

// rank is what a drive is judged by as the place of one more slot; the least is the best.
func (l *layout) rank(s *site) [levels]int {
	var rank [levels]int
	for level, domain := range s.at {
		rank[level] = l.count(level, domain)
	}
	return rank
}

// gain is by how much the sum of the squares of the slots per domain changes, by level, when a slot goes to another
// drive: negative is more even.
func (l *layout) gain(slot int, to *site) [levels]int {
	var gain [levels]int
	for level, domain := range to.at {
		if from := l[slot].at[level]; from != domain {
			gain[level] = 2 * (l.count(level, domain) - l.count(level, from) + 1)
		}
	}
	return gain
}

// allows says that a layout is after a move at no level less even than before, or than a fresh placement may be.
func (l *layout) allows(gain [levels]int, fresh strength) bool {
	for level, more := range gain {
		if more > 0 && l.squares(level)+more > fresh.squares[level] {
			return false
		}
	}
	return true
}

func (l *layout) squares(level int) int {
	squares := 0
	for _, s := range l {
		if s != nil {
			squares += l.count(level, s.at[level]) // each of n slots in a domain adds n
		}
	}
	return squares
}

// strength is what a layout survives and how even it is.
type strength struct {
	losses  [levels]int
	squares [levels]int
}

func (l *layout) strength() strength {
	var st strength
	var there uint16
	for i, s := range l {
		if s != nil {
			there |= 1 << i
		}
	}
	for level := range levels {
		var domain [placement.Width]int
		for i, s := range l {
			if s != nil {
				domain[i] = s.at[level]
			}
		}
		st.squares[level] = l.squares(level)
		st.losses[level] = placement.Tolerates(domain, there)
	}
	return st
}

// worse returns the worse of two at each level.
func (s strength) worse(other strength) strength {
	for level := range levels {
		s.losses[level] = min(s.losses[level], other.losses[level])
		s.squares[level] = max(s.squares[level], other.squares[level])
	}
	return s
}

// deficit is how many losses fewer are survived, over all levels.
func (s strength) deficit(fresh strength) int {
	sum := 0
	for level := range levels {
		sum += max(0, fresh.losses[level]-s.losses[level])
	}
	return sum
}

func (s strength) weaker(fresh strength) bool { return s.deficit(fresh) > 0 }

// weak says at which levels fewer losses are survived.
func (s strength) weak(fresh strength) [levels]bool {
	var weak [levels]bool
	for level := range levels {
		weak[level] = s.losses[level] < fresh.losses[level]
	}
	return weak
}

// weakFirst orders gains for comparison: those at weak levels before the others. Only what is below all zeros is a gain.
func weakFirst(gain [levels]int, weak [levels]bool) [2 * levels]int {
	var rank [2 * levels]int
	for level := range levels {
		if weak[level] {
			rank[level] = gain[level]
		} else {
			rank[levels+level] = gain[level]
		}
	}
	return rank
}

// excess is about how many slots have to move until a layout survives what a fresh one does: those above an even share
// of their domain, at the worst level.
func (l *layout) excess(fresh strength, shares [levels]int) int {
	weak := l.strength().weak(fresh)
	most := 1
	for level := range levels {
		if !weak[level] {
			continue
		}
		over, seen := 0, make(map[int]bool)
		for _, s := range l {
			if s != nil && !seen[s.at[level]] {
				seen[s.at[level]] = true
				over += max(0, l.count(level, s.at[level])-shares[level])
			}
		}
		most = max(most, over)
	}
	return most
}
