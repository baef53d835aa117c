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

// even moves single slots from the fullest drives to the emptiest, until none is emptier or fuller than the mean by more
// than the threshold. Volumes that move for another reason are not among calm; while there are such, they fill drives, and
// this waits.
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
	var empty, full []*site
	lacking, spare := 0.0, 0.0
	for _, s := range p.takers {
		switch off := s.fill(0) - e.mean; {
		case s.Size <= 0:
		case off < -threshold:
			empty = append(empty, s)
			lacking -= float64(s.Size) * (off + threshold) / 100
		case off > threshold:
			full = append(full, s)
			spare += float64(s.Size) * (off - threshold) / 100
		}
	}
	if len(empty)+len(full) == 0 {
		return
	}
	for _, v := range calm {
		for i, id := range v.Home {
			e.lodgers[id] = append(e.lodgers[id], lodger{v, i})
		}
	}
	moved := e.fillUp(empty) + e.clearOut(full)
	for _, v := range e.order {
		home := e.changes[v]
		for i := range home {
			e.carry(v, home[i], v.Home[i]) // change counts it once more
		}
		p.change(v, *home, Uneven)
	}
	if need := max(lacking, spare); len(p.plan.Changes) >= p.limit && need > float64(moved) {
		p.plan.Bytes += int64(need) - moved
		p.plan.Volumes++ // one at least
	}
}

// fillUp moves slots to the emptiest drive until none is too far below the mean, or nothing fits, and returns the bytes.
func (e *evening) fillUp(empty []*site) (moved int64) {
	for len(empty) > 0 {
		slices.SortStableFunc(empty, emptiest)
		to := empty[0]
		if to.fill(0) >= e.mean-threshold {
			return moved
		}
		bytes := int64(0)
		for _, from := range slices.Backward(e.byFill()) {
			if from.fill(0) <= e.mean || bytes > 0 {
				break
			}
			bytes = e.shift(from, to)
		}
		if bytes == 0 {
			empty = empty[1:]
		}
		moved += bytes
	}
	return moved
}

// clearOut moves slots from the fullest drive until none is too far above the mean, or nothing fits, and returns the
// bytes. Where few drives are full and many are empty, no single one of the many lies far below the mean.
func (e *evening) clearOut(full []*site) (moved int64) {
	for len(full) > 0 {
		slices.SortStableFunc(full, func(a, b *site) int { return emptiest(b, a) })
		from := full[0]
		if from.fill(0) <= e.mean+threshold {
			return moved
		}
		bytes := int64(0)
		for _, to := range e.byFill() {
			if to.fill(0) >= e.mean || bytes > 0 {
				break
			}
			bytes = e.shift(from, to)
		}
		if bytes == 0 {
			full = full[1:]
		}
		moved += bytes
	}
	return moved
}

func emptiest(a, b *site) int { return cmp.Compare(a.fill(0), b.fill(0)) }

// byFill are the drives of known size, the emptiest first.
func (e *evening) byFill() []*site {
	sites := slices.DeleteFunc(slices.Clone(e.takers), func(s *site) bool { return s.Size <= 0 })
	slices.SortStableFunc(sites, emptiest)
	return sites
}

// shift moves one slot from a drive to another, and returns its bytes: 0 when none fits.
func (e *evening) shift(from, to *site) int64 {
	if _, ok := e.useless[pair{from, to}]; ok {
		return 0
	}
	for at, l := range e.lodgers[from.ID] {
		if at == maxLooks {
			break
		}
		if e.fits(l, from, to) {
			e.lodgers[from.ID] = slices.Delete(e.lodgers[from.ID], at, at+1)
			e.move(l, from, to)
			return l.volume.Bytes
		}
	}
	e.useless[pair{from, to}] = struct{}{}
	return 0
}

// fits says that a slot may move: the domains of its volume stay even, the drive it goes to stays emptier than the one
// it leaves was, that one does not get too empty itself, the two come closer, and the plan has room for its volume.
func (e *evening) fits(l lodger, from, to *site) bool {
	v := l.volume
	if e.changes[v] == nil && len(e.plan.Changes)+len(e.order) >= e.limit {
		return false
	}
	if to.fill(v.Bytes) > from.fill(0) || !to.room(v.Bytes) || from.fill(-v.Bytes) < e.mean-threshold || e.refused(v, l.slot, to.ID) {
		return false
	}
	// The sum over drives of the square of what is used by the size falls with every move, so moves come to an end.
	if to.fill(0)+to.fill(v.Bytes) >= from.fill(0)+from.fill(-v.Bytes) {
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
