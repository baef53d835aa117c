package rebalance

import (
	"cmp"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

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
	home    map[*Volume]*homes
	order   []*Volume // of home, as they came
}

// homes is a volume's layout on its way to a change.
type homes struct {
	layout *layout
	change [chunkstore.Shards]*site
}

// even moves single slots from the fullest drives to those that are emptier than the mean by more than the threshold,
// until they are not. Volumes that move for another reason are not among calm; while there are such, they fill drives, and this
// waits.
func (p *planner) even(calm []*Volume) {
	e := &evening{planner: p, lodgers: make(map[cluster.DriveID][]lodger), home: make(map[*Volume]*homes)}
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
		home := v.Home
		for i, s := range e.home[v].change {
			if s != nil {
				home[i] = s.ID
			}
		}
		// change counts what goes where once more.
		for i := range home {
			e.carry(v, home[i], v.Home[i])
		}
		p.change(v, home, Uneven)
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
		for at, l := range e.lodgers[from.ID] {
			if e.fits(l, from, to) {
				e.lodgers[from.ID] = slices.Delete(e.lodgers[from.ID], at, at+1)
				e.move(l, from, to)
				return l.volume.Bytes, true
			}
		}
	}
	return 0, false
}

// fits says that a slot may move: the domains of its volume stay even, the drive it goes to stays emptier than the one
// it leaves was, and the plan has room for its volume.
func (e *evening) fits(l lodger, from, to *site) bool {
	bytes := l.volume.Bytes
	if to.fill(bytes) > from.fill(0) || !to.room(bytes) || from.fill(-bytes) < e.mean-threshold || e.refused(l.volume, l.slot, to.ID) {
		return false
	}
	h := e.home[l.volume]
	if h == nil {
		if len(e.plan.Changes)+len(e.order) >= e.limit {
			return false
		}
		h = &homes{layout: e.layout(l.volume.Home)}
	}
	gain := h.layout.gain(l.slot, to)
	return h.layout.allows(gain, e.fresh)
}

func (e *evening) move(l lodger, from, to *site) {
	h := e.home[l.volume]
	if h == nil {
		h = &homes{layout: e.layout(l.volume.Home)}
		e.home[l.volume] = h
		e.order = append(e.order, l.volume)
	}
	h.layout.remove(l.slot)
	h.layout.put(l.slot, to)
	h.change[l.slot] = to
	e.carry(l.volume, from.ID, to.ID)
}
