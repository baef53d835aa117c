package membership

// Stats are counts since Start, and how the members are now.
type Stats struct {
	// Packets and streams that were dropped: of another cluster; sealed with no key of the ring, or not sealed; not in
	// the form that peers send; seen before; too many at once.
	WrongLabel, WrongKey, Malformed, Replayed, Busy uint64
	// News of members that was refused, as often as it came: of who is not in the cluster; not signed by the peer, or
	// told for another process or address than the signed one; with data that this release cannot read.
	Strangers, Forged, Unreadable uint64
	// Signs that one peer runs twice, as often as they were seen: an older process of it that still answers, one
	// incarnation at two addresses, or more than 64 processes at once.
	Duplicates uint64
	// Joins of peers that were not alive.
	Joins, JoinsFailed uint64
	// Members by state, this peer too. Unseen counts known peers that were never heard of.
	Unseen, Alive, Suspect, Dead, Left int
}

// Stats returns the counts.
func (m *Membership) Stats() Stats {
	dropped := func(why refusal) uint64 { return m.gate.refused[why].Load() }
	s := Stats{
		WrongLabel: dropped(wrongLabel), WrongKey: dropped(wrongKey), Malformed: dropped(malformed), Replayed: dropped(replayed), Busy: dropped(busy),
		Strangers: m.strangers.Load(), Forged: m.forged.Load(), Unreadable: m.unreadable.Load(), Duplicates: m.duplicates.Load(),
		Joins: m.joins.tried.Load(), JoinsFailed: m.joins.failed.Load(),
	}
	states := map[State]int{}
	seen := map[string]bool{}
	for _, member := range m.Members() {
		states[member.State]++
		seen[member.ID.String()] = true
	}
	for _, a := range m.config.Known() {
		if name := a.ID.String(); !seen[name] {
			seen[name] = true
			states[Unseen]++
		}
	}
	s.Unseen, s.Alive, s.Suspect, s.Dead, s.Left = states[Unseen], states[Alive], states[Suspect], states[Dead], states[Left]
	return s
}
