package rebalance

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

const (
	// threshold is how many hundredths of its size a drive may be emptier or fuller than the mean, so that any two lie
	// within five, with a point left for what moves on its own: new writes, logs. Slots move until it is not, and only from drives that are fuller than the mean to emptier ones, so they
	// do not move back when the mean shifts a little; what lies between is left to new writes, which prefer emptier drives.
	threshold = 2.0
	// full is the part of a drive, in hundredths, that moves do not fill it beyond. It leaves the drive some room below
	// the 95 % at which it takes nothing any more.
	full = 90.0
	// freshGroups is how many groups are made to learn what a fresh placement survives.
	freshGroups = 2 * placement.Width
)

// State says what a drive is to the slots of volumes.
type State uint8

// The zero State is that of a drive which is down for a moment, or on its way back: its slots stay, and it takes none.
const (
	Keeps State = iota
	// Takes is the state of a drive that is up. How full it is the planner looks at itself.
	Takes
	// Leaves is the state of a drive that is drained, or dead for so long that nobody waits for it: all slots go. A drive
	// that is not in the list was removed, and so leaves too.
	Leaves
)

// Drive is what the planner knows of a drive.
type Drive struct {
	placement.Drive
	State State
	Full  bool  // it takes no bytes now, and can give slots
	Size  int64 // bytes of the file system; zero: unknown, and its fullness is not looked at
	Used  int64 // bytes of it that are taken
}

// Volume is a volume row and the bytes that each of its slots takes, about. Zero bytes: unknown, or nothing.
type Volume struct {
	chunkstore.Volume
	Bytes int64
}

// Reason says why the home of a volume changes, the most urgent first.
type Reason uint8

const (
	// Leaving: a home drive leaves, or refuses the slot.
	Leaving Reason = iota + 1
	// Fragile: the volume survives fewer losses of zones, racks, peers, devices or drives than a new one would.
	Fragile
	// Uneven: a drive is much emptier or fuller than the others.
	Uneven
)

func (r Reason) String() string {
	switch r {
	case Leaving:
		return "leaving"
	case Fragile:
		return "fragile"
	case Uneven:
		return "uneven"
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Change is a volume with another home: Row is the stored row but for Home.
type Change struct {
	Row    chunkstore.Volume
	Reason Reason
	Slots  uint16 // whose home changed
	Bytes  int64  // that have to move for it: of slots which do not lie at their new home already
}

// Cluster is all that a plan depends on. The same Cluster gives the same plan.
type Cluster struct {
	Drives  []Drive
	Volumes []Volume
	// Restless says that drives came or went a moment ago and others may follow: only what must leave a drive gets another
	// home, the rest waits, so that it moves once.
	Restless bool
	// Refused says that a drive cannot take a slot, although it takes others. Nil: none refuses.
	Refused func(repair.Place) bool
}

// Plan is what there is to do.
type Plan struct {
	// Changes are the first volumes to give another home, most urgent first.
	Changes []Change
	// Volumes and Bytes are what is to be moved in all, those included that are on their way already. What Changes does
	// not cover yet is an estimate.
	Volumes int
	Bytes   int64
	// Underway is the number of volumes on their way to a home drive that takes them.
	Underway int
	// Homeless is the number of volumes with a home drive that leaves, and nowhere to go: too few drives take slots, or
	// they are full.
	Homeless int
}

// Make plans for so many volumes that at most away are on their way at a time. A plan is empty when every home is on a drive that does not leave, every volume
// survives what a new one would, and no drive is emptier or fuller than the mean by more than the threshold; carried out, it leads
// there, and to no further plan.
func Make(c Cluster, away int) Plan {
	p := newPlanner(c)
	for i := range c.Volumes {
		p.underway(&c.Volumes[i])
	}
	p.limit = away - p.plan.Underway
	reasons := make([]Reason, len(c.Volumes))
	for i := range c.Volumes {
		if v := &c.Volumes[i]; v.State == chunkstore.VolumeSealed {
			reasons[i] = p.reason(v)
		}
	}
	for i := range c.Volumes {
		if reasons[i] == Leaving {
			p.rehome(&c.Volumes[i])
		}
	}
	if c.Restless {
		p.limit = min(p.limit, len(p.plan.Changes))
	}
	for i := range c.Volumes {
		if reasons[i] == Fragile {
			p.strengthen(&c.Volumes[i])
		}
	}
	var calm []*Volume // that may move for the sake of others
	for i := range c.Volumes {
		v := &c.Volumes[i]
		if v.State == chunkstore.VolumeSealed && v.Home == v.Slots && v.Bytes > 0 && reasons[i] == 0 {
			calm = append(calm, v)
		}
	}
	p.even(calm)
	return p.plan
}

type planner struct {
	cluster Cluster
	limit   int // of changes
	plan    Plan

	sites  map[cluster.DriveID]*site
	takers []*site // in order of id
	able   bool    // they are enough
	fresh  strength
	later  bool        // volumes are left that need another home for their own sake
	shares [levels]int // the most slots that each domain of takers has to hold when all hold about the same
}

func newPlanner(c Cluster) *planner {
	p := &planner{cluster: c, sites: make(map[cluster.DriveID]*site)}
	number := newNumbers()
	var takers []placement.Drive
	for _, d := range c.Drives {
		s := &site{Drive: d, at: number.of(d.Drive), used: d.Used}
		p.sites[d.ID] = s
		if d.State == Takes {
			p.takers = append(p.takers, s)
			takers = append(takers, d.Drive)
		}
	}
	for level := range levels {
		domains := make(map[int]struct{})
		for _, s := range p.takers {
			domains[s.at[level]] = struct{}{}
		}
		n := max(1, len(domains))
		p.shares[level] = (placement.Width + n - 1) / n
	}
	slices.SortFunc(p.takers, func(a, b *site) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	groups, err := placement.Groups(takers, freshGroups)
	p.able = err == nil // ErrTooFewDrives is the only one
	for i, slots := range groups {
		s := p.layout(slots).strength()
		if i == 0 {
			p.fresh = s
		}
		p.fresh = p.fresh.worse(s)
	}
	return p
}

// underway counts a volume that moves, and what it will take and give.
func (p *planner) underway(v *Volume) {
	moves := int64(0)
	for i := range v.Slots {
		if v.Slots[i] != v.Home[i] {
			moves++
			p.carry(v, v.Slots[i], v.Home[i])
		}
	}
	if p.moves(v) {
		p.plan.Underway++
		p.plan.Volumes++
		p.plan.Bytes += moves * v.Bytes
	}
}

// moves says that a volume is on its way to homes that all take it. One that waits for a drive to return is not, nor is
// one that needs another home first: it must not keep its own rescue waiting.
func (p *planner) moves(v *Volume) bool {
	for i, id := range v.Home {
		if id == v.Slots[i] {
			continue
		}
		if home := p.sites[id]; home == nil || home.State != Takes || home.Full || p.refused(v, i, id) {
			return false
		}
	}
	return v.Slots != v.Home
}

// carry notes that a slot goes from one drive to another.
func (p *planner) carry(v *Volume, from, to cluster.DriveID) {
	if s := p.sites[from]; s != nil {
		s.used -= v.Bytes
	}
	if s := p.sites[to]; s != nil {
		s.used += v.Bytes
	}
}

// reason says why a volume needs another home for its own sake, zero when it does not.
func (p *planner) reason(v *Volume) Reason {
	if p.homeless(v) != 0 {
		return Leaving
	}
	if p.able && v.Slots == v.Home && p.layout(v.Home).strength().weaker(p.fresh) {
		return Fragile
	}
	return 0
}

// homeless returns the slots whose home drive leaves or refuses them.
func (p *planner) homeless(v *Volume) uint16 {
	var mask uint16
	for i, id := range v.Home {
		// Of a slot that lies at a home which refuses it, some shards can never be put back there.
		if s := p.sites[id]; s == nil || s.State == Leaves || p.refused(v, i, id) {
			mask |= 1 << i
		}
	}
	return mask
}

func (p *planner) refused(v *Volume, slot int, id cluster.DriveID) bool {
	return p.cluster.Refused != nil && p.cluster.Refused(repair.Place{Volume: v.ID, Slot: slot, Drive: id})
}

// rehome gives the slots of a volume that have to leave their home another one.
func (p *planner) rehome(v *Volume) {
	mask := p.homeless(v)
	if !p.able {
		p.plan.Homeless++
		return
	}
	if len(p.plan.Changes) >= p.limit {
		p.postpone(v, bits.OnesCount16(mask))
		return
	}
	home, l := v.Home, p.layout(v.Home)
	for i := range home {
		if mask>>i&1 != 0 {
			l[i] = nil
		}
	}
	for i := range home {
		if mask>>i&1 == 0 {
			continue
		}
		s := p.target(v, l, i)
		if s == nil {
			p.plan.Homeless++
			return
		}
		l[i] = s
		home[i] = s.ID
	}
	p.change(v, p.strongest(v, home), Leaving)
}

// strengthen moves the worst slots of a fragile volume until it survives what a new one would.
func (p *planner) strengthen(v *Volume) {
	if len(p.plan.Changes) >= p.limit {
		p.postpone(v, p.layout(v.Home).excess(p.fresh, p.shares))
		return
	}
	if home := p.strongest(v, v.Home); home != v.Home {
		p.change(v, home, Fragile)
	}
}

// strongest returns home with as few slots moved as it takes to survive what a fresh placement would, or as near to that
// as single moves lead.
func (p *planner) strongest(v *Volume, home chunkstore.DriveIDs) chunkstore.DriveIDs {
	l := p.layout(home)
	best, strongest := home, l.strength()
	for range 2 * chunkstore.Shards {
		if !strongest.weaker(p.fresh) {
			return best
		}
		slot, s := p.step(v, l)
		if s == nil {
			return best
		}
		l[slot] = s
		home[slot] = s.ID
		if now := l.strength(); now.deficit(p.fresh) < strongest.deficit(p.fresh) {
			best, strongest = home, now
		}
	}
	return best
}

// change adds a change of home to the plan.
func (p *planner) change(v *Volume, home chunkstore.DriveIDs, reason Reason) {
	c := Change{Row: v.Volume, Reason: reason}
	for i := range home {
		if home[i] == v.Home[i] {
			continue
		}
		c.Slots |= 1 << i
		p.carry(v, v.Home[i], home[i])
		if home[i] != v.Slots[i] {
			c.Bytes += v.Bytes
		}
	}
	c.Row.Home = home
	p.plan.Changes = append(p.plan.Changes, c)
	p.plan.Bytes += c.Bytes
	if !p.moves(v) { // else it was counted
		p.plan.Volumes++
	}
}

// postpone counts a volume of which so many slots have to move, in a plan to come.
func (p *planner) postpone(v *Volume, slots int) {
	p.later = true
	p.plan.Volumes++
	p.plan.Bytes += int64(slots) * v.Bytes
}
