package rebalance

import (
	"cmp"
	"slices"
)

// site is a drive, the numbers of its domains, and the bytes that it will hold when all moves were made.
type site struct {
	Drive
	at   domains
	used int64
}

// fill is how full the drive is with so many more bytes, in hundredths.
func (s *site) fill(more int64) float64 {
	if s.Size <= 0 {
		return 0
	}
	return 100 * float64(s.used+more) / float64(s.Size)
}

func (s *site) room(more int64) bool { return !s.Full && s.fill(more) <= full }

// target returns the drive for a slot that has none: by the rules of package placement, of equals the one where the slot
// lies now, else the emptiest. Nil: none has room.
func (p *planner) target(v *Volume, l *layout, slot int) *site {
	var best *site
	var bestRank [levels]int
	for _, s := range p.takers {
		stays := s.ID == v.Slots[slot]
		if !stays && !s.room(v.Bytes) || p.refused(v, slot, s.ID) {
			continue
		}
		rank := l.rank(s)
		order := -1
		if best != nil {
			order = cmp.Or(slices.Compare(rank[:], bestRank[:]), before(stays, best.ID == v.Slots[slot]), cmp.Compare(s.fill(0), best.fill(0)))
		}
		if order < 0 {
			best, bestRank = s, rank
		}
	}
	return best
}

// before orders true before false.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// step returns the single move that evens the volume out most where it is weak, without making it less even elsewhere
// than a fresh placement is. A move from a fuller drive to an emptier one is preferred among equals.
func (p *planner) step(v *Volume, l *layout) (slot int, to *site) {
	weak := l.strength().weak(p.fresh)
	var best [2 * levels]int
	var bestFill float64
	for i, from := range l {
		if from == nil {
			continue
		}
		for _, s := range p.takers {
			if s == from || s.ID != v.Slots[i] && !s.room(v.Bytes) || p.refused(v, i, s.ID) {
				continue
			}
			gain := l.gain(i, s)
			if !l.allows(gain, p.fresh) {
				continue
			}
			rank := weakFirst(gain, weak)
			if order := slices.Compare(rank[:], best[:]); order > 0 || order == 0 && (to == nil || s.fill(0)-from.fill(0) >= bestFill) {
				continue
			}
			best, bestFill, slot, to = rank, s.fill(0)-from.fill(0), i, s
		}
	}
	return slot, to
}
