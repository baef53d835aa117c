package membership

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// nodeName is how memberlist knows a process: the peer and which of its starts it is. memberlist never moves a node that
// is not dead to another address, so to it each start is a node of its own, and what follows from that is decided here.
type nodeName struct {
	id          cluster.PeerID
	incarnation uint64
}

func (n nodeName) String() string { return fmt.Sprintf("%s-%016x", n.id, n.incarnation) }

// parseName reads what String writes, and no other form of it, else one process could appear twice.
func parseName(text string) (nodeName, error) {
	const idDigits = 2 * len(cluster.PeerID{})
	if len(text) != idDigits+1+16 {
		return nodeName{}, fmt.Errorf("%q: %w", text, cluster.ErrBadID)
	}
	id, err := cluster.ParseID(text[:idDigits])
	if err != nil {
		return nodeName{}, err
	}
	incarnation, err := strconv.ParseUint(text[idDigits+1:], 16, 64)
	name := nodeName{cluster.PeerID(id), incarnation}
	if err != nil || name.String() != text {
		return nodeName{}, fmt.Errorf("%q: %w", text, cluster.ErrBadID)
	}
	return name, nil
}

// life is one process of a peer as it is kept. member.State is never Suspect: that is told by suspected.
type life struct {
	member    Member
	suspected time.Time // zero: not
	// meta is what member was read from. Its signature was found good.
	meta []byte
}

func (l *life) up() bool { return l.member.State.Up() }

// look is the life as Members shows it.
func (l *life) look() Member {
	if l == nil {
		return Member{}
	}
	member := l.member
	if member.State == Alive && !l.suspected.IsZero() {
		member.State, member.Since = Suspect, l.suspected
	}
	return member
}

// lives are the processes of one peer, by incarnation: one, and more for as long as an older one is not found dead.
type lives map[uint64]*life

// livesLimit is how many processes of one peer are heard of at once. A supervisor that starts a peer again every second
// makes about twenty, until the old ones are found dead.
const livesLimit = 64

// shown is the process that stands for the peer: the newest that is up, else the newest. So one that has moved is found
// at once, one whose clock went back is found when its predecessor is dead, and one that was copied by mistake is found
// again when the copy has ended. It is nil when there is none.
func (ls lives) shown() *life {
	var best *life
	for _, l := range ls {
		switch {
		case best == nil, l.up() && !best.up():
			best = l
		case l.up() == best.up() && l.member.Incarnation > best.member.Incarnation:
			best = l
		}
	}
	return best
}

// hear takes in what a process tells of itself.
func (ls lives) hear(id cluster.PeerID, told announcement, meta []byte, now time.Time) {
	member := Member{ID: id, Data: told.Data, Gossip: told.gossip, State: Alive, Since: now}
	before := ls[told.Incarnation]
	if told.leaving || before != nil && before.member.State == Left {
		member.State = Left // for good: who comes back is another process
	}
	if before != nil && before.member.State == member.State {
		member.Since = before.member.Since
	}
	ls[told.Incarnation] = &life{member: member, meta: meta}
	ls.replace(told.gossip, told.Incarnation, now)
	ls.prune()
}

// replace ends the older processes at an address that a newer one has taken: they cannot run any more.
func (ls lives) replace(gossip netip.AddrPort, by uint64, now time.Time) {
	for incarnation := range ls {
		if incarnation < by && ls[incarnation].member.Gossip == gossip {
			ls.die(incarnation, now)
		}
	}
}

// die ends a process. Who said that it goes has left.
func (ls lives) die(incarnation uint64, now time.Time) {
	l := ls[incarnation]
	if l == nil {
		return
	}
	if l.member.State == Alive {
		l.member.State, l.member.Since, l.suspected = Dead, now, time.Time{}
	}
	ls.prune()
}

// prune drops who is neither up nor the newest.
func (ls lives) prune() {
	var newest uint64
	for incarnation := range ls {
		newest = max(newest, incarnation)
	}
	for incarnation, l := range ls {
		if incarnation != newest && !l.up() {
			delete(ls, incarnation)
		}
	}
}

// suspect notes since when a process has not answered; zero takes the suspicion away.
func (ls lives) suspect(incarnation uint64, since time.Time) {
	l := ls[incarnation]
	if l == nil || l.member.State != Alive || l.suspected.IsZero() == since.IsZero() {
		return
	}
	l.suspected = since
}

// outlived says whether the process should not have answered what was sent then: a newer one of the peer was up already.
func (ls lives) outlived(incarnation uint64, sent time.Time) bool {
	for other, l := range ls {
		if other > incarnation && l.up() && l.member.Since.Before(sent) {
			return true
		}
	}
	return false
}
