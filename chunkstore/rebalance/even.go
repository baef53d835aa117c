package rebalance

import (
	"cmp"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// maxLooks is how many slots of a drive are tried for another one. Where so many do not fit, the domains of the two differ
// so that hardly any will: it bounds the time that a plan takes.
const maxLooks = 1000

// lodger is a slot of a volume that lies at a drive.
type lodger struct {
	volume *Volume
	slot   int
}

// evening is the state of even.
type evening struct {
	*planner
	mean    float64 // hundredths
	lodgers map[cluster.DriveID][]lodger
	layouts map[*Volume]*layout // of those looked at
	changes map[*Volume]*chunkstore.DriveIDs
	order   []*Volume // of changes, as they came
	useless map[pair]struct{}
}

// pair is a drive that has nothing which fits another one.
type pair struct{ from, to *site }

// even moves single slots from the fullest drives to those that are emptier than the mean by more than the threshold,
// until they are not. Volumes that move for another reason are not among calm; while there are such, they fill drives, and this
// waits.
func (p *planner) even(calm []*Volume) {
	e := &evening{
		planner: p, lodgers: make(map[cluster.DriveID][]lodger), layouts: make(map[*Volume]*layout),
		changes: make(map[*Volume]*chunkstore.DriveIDs), useless: make(map[pair]struct{}),
	}
	used, size := 0.0, 0.0
	for _, s := range p.takers {
		if s.Size > 0 {
			used, size = used+float64(s.used), size+float64(s.Size)
		}
	}
	if size == 0 || !p.able || p.later {
		return
	}
	e.mean = 100 * used / size
	var empty []*site
	for _, s := range p.takers {
		if s.Size > 0 && s.fill(0) < e.mean-threshold {
			empty = append(empty, s)
		}
	}
	if len(empty) == 0 {
		return
	}
	for _, v := range calm {
		for i, id := range v.Home {
			e.lodgers[id] = append(e.lodgers[id], lodger{v, i})
		}
	}
	lacking := 0.0
	for _, s := range empty {
		lacking += float64(s.Size) * (e.mean - threshold - s.fill(0)) / 100
	}
	moved := e.fillUp(empty)
	for _, v := range e.order {
		home := e.changes[v]
		for i := range home {
			e.carry(v, home[i], v.Home[i]) // change counts it once more
		}
		p.change(v, *home, Uneven)
	}
	if len(p.plan.Changes) >= p.limit && lacking > float64(moved) {
		p.plan.Bytes += int64(lacking) - moved
		p.plan.Volumes++ // one at least
	}
}

// fillUp moves slots to the emptiest drive until none is too far from the mean, or nothing fits, and returns the bytes.
func (e *evening) fillUp(empty []*site) (moved int64) {
	for len(empty) > 0 {
		slices.SortStableFunc(empty, func(a, b *site) int { return cmp.Compare(a.fill(0), b.fill(0)) })
		to := empty[0]
		if to.fill(0) >= e.mean-threshold {
			return moved
		}
		bytes, ok := e.fetch(to)
		if !ok {
			empty = empty[1:]
		}
		moved += bytes
	}
	return moved
}

// fetch moves one slot to a drive, from the fullest one that has one to give. ok is false when none has.
func (e *evening) fetch(to *site) (bytes int64, ok bool) {
	sources := slices.Clone(e.takers)
	slices.SortStableFunc(sources, func(a, b *site) int { return cmp.Compare(b.fill(0), a.fill(0)) })
	for _, from := range sources {
		if from.Size <= 0 || from.fill(0) <= e.mean {
			return 0, false
		}
		if _, ok := e.useless[pair{from, to}]; ok {
			continue
		}
		for at, l := range e.lodgers[from.ID] {
			if at == maxLooks {
				break
			}
			if e.fits(l, from, to) {
				e.lodgers[from.ID] = slices.Delete(e.lodgers[from.ID], at, at+1)
				e.move(l, from, to)
				return l.volume.Bytes, true
			}
		}
		e.useless[pair{from, to}] = struct{}{}
	}
	return 0, false
}

// fits says that a slot may move: the domains of its volume stay even, the drive it goes to stays emptier than the one
// it leaves was, that one does not get too empty itself, and the plan has room for its volume.
func (e *evening) fits(l lodger, from, to *site) bool {
	v := l.volume
	if e.changes[v] == nil && len(e.plan.Changes)+len(e.order) >= e.limit {
		return false
	}
	if to.fill(v.Bytes) > from.fill(0) || !to.room(v.Bytes) || from.fill(-v.Bytes) < e.mean-threshold || e.refused(v, l.slot, to.ID) {
		return false
	}
	on := e.layouts[v]
	if on == nil {
		on = e.layout(v.Home)
		e.layouts[v] = on
	}
	return on.allows(on.gain(l.slot, to), e.fresh)
}

func (e *evening) move(l lodger, from, to *site) {
	home := e.changes[l.volume]
	if home == nil {
		home = new(chunkstore.DriveIDs)
		*home = l.volume.Home
		e.changes[l.volume] = home
		e.order = append(e.order, l.volume)
	}
	home[l.slot] = to.ID
	e.layouts[l.volume][l.slot] = to
	e.carry(l.volume, from.ID, to.ID)
}
