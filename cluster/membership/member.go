package membership

import (
	"net/netip"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// Data is what a peer tells the others of itself. Beside an Ed25519 signature its texts may have 393 bytes together.
type Data struct {
	// Name, Zone and Rack are what the operator called them. Each may be empty.
	Name, Zone, Rack string
	// Peer is the host:port where other peers call it, S3 the one where clients do.
	Peer, S3 string
	// Format is the newest format of bytes on disk and wire that it knows, Command the newest commands of Raft groups.
	Format, Command uint32
	// Incarnation grows with every start of the peer: of two processes of one peer the newer one is believed, wherever
	// it runs. Zero means the milliseconds since 1970 when Start was called. After a clock has gone back, the peer is
	// found only when its predecessor is dead, so a caller that can keep a number on disk should give it.
	Incarnation uint64
}

// Member is what this peer was told of one peer, and how it seems to be.
type Member struct {
	ID cluster.PeerID
	Data
	// Gossip is where its gossip goes.
	Gossip netip.AddrPort
	State  State
	// Since is when this peer learnt of the state.
	Since time.Time
}

// State is how a member seems to be. The zero State is of a peer that was never heard of.
type State int

// The states.
const (
	Unseen State = iota
	Alive
	// Suspect has not answered this peer's own probe. It is dead soon unless it proves otherwise.
	Suspect
	// Dead did not answer, and did not say that it goes.
	Dead
	// Left said that it goes.
	Left
)

func (s State) String() string {
	switch s {
	case Unseen:
		return "unseen"
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	}
	return "unknown"
}

// Up says whether it is worth calling: alive or suspect.
func (s State) Up() bool { return s == Alive || s == Suspect }

// settled leaves out suspicions, which are soon over.
func (s State) settled() State {
	if s == Suspect {
		return Alive
	}
	return s
}

// Address is where a peer that the root group knows takes gossip.
type Address struct {
	ID cluster.PeerID
	// Gossip is host:port. A name is looked up at every attempt.
	Gossip string
}
