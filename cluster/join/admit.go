package join

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// outcome is what an ask led to.
type outcome string

const (
	admitted outcome = "new"
	rejoined outcome = "returned"
	repeated outcome = "repeated"
)

// admission is one ask on its way into the map. Its edit may run several times, each time on the map as it then is.
type admission struct {
	root    *root.Client
	alive   func(cluster.PeerID) bool
	ask     *ask
	token   trust.TokenID
	bound   binding
	secrets *Secrets
	now     time.Time
	// fresh is the id of a peer that is new.
	fresh cluster.PeerID

	// What the last edit came to.
	how         outcome
	peer        topology.Peer
	certificate []byte
}

// edit puts the peer into the map, its drives, and the token's row into the same command. What can be refused is
// refused here, when nothing is changed yet; that includes the certificate.
func (a *admission) edit(ctx context.Context, m *topology.Map) (topology.Extra, error) {
	row, token, err := readToken(ctx, a.root, a.token)
	if err != nil {
		return topology.Extra{}, err // trust.ErrTokenWrong: it was taken back meanwhile
	}
	if token.Used() {
		if err := a.again(m, token); err != nil {
			return topology.Extra{}, err
		}
		return topology.Extra{}, a.certify()
	}
	if err := a.place(m); err != nil {
		return topology.Extra{}, err
	}
	token.Peer, token.Key = a.peer.ID, a.ask.key
	return topology.Extra{Put: []root.Row{tokenRow(token, row.Revision)}}, a.certify()
}

// again finds the peer that a used token admitted, when it is the one that asks.
func (a *admission) again(m *topology.Map, token Token) error {
	peer, err := member(m, token.Peer)
	switch {
	case err == nil && token.Key.Equal(a.ask.key) && peer.Key.Equal(a.ask.key):
		a.how, a.peer = repeated, peer
		return nil
	case err != nil && token.Key.Equal(a.ask.key):
		return err
	case err != nil:
		return ErrTokenUsed
	}
	return fmt.Errorf("%w: it admitted %q", ErrTokenUsed, peer.Name)
}

// place adds the peer, or brings it back, and its drives.
func (a *admission) place(m *topology.Map) error {
	if lowest := lowestCommand(m); a.ask.Command < lowest {
		return fmt.Errorf("%w: it knows commands up to %d, the cluster uses %d", ErrOldRelease, a.ask.Command, lowest)
	}
	id, err := a.before(m)
	if err != nil {
		return err
	}
	if id == (cluster.PeerID{}) && a.ask.Again {
		return fmt.Errorf("%w: it comes back, and no peer of this cluster has its drives: it was removed, or the token is another cluster's; "+
			"with empty drives and an empty data directory it may join as a new one", topology.ErrUnknownPeer)
	}
	if id == (cluster.PeerID{}) {
		a.how = admitted
		a.peer, err = m.AddPeer(a.updated(topology.Peer{ID: a.fresh}))
		if err != nil {
			return err
		}
	} else if err := a.bringBack(m, id); err != nil {
		return err
	}
	for _, d := range a.ask.Drives {
		d.Peer = a.peer.ID
		if old, known := m.Drive(d.ID); known && old.Peer == d.Peer {
			d.State = old.State // a drive that is drained is drained still
		}
		if err := m.SetDrive(d); err != nil {
			return err
		}
	}
	return nil
}

// updated is a peer with what it says of itself now.
func (a *admission) updated(p topology.Peer) topology.Peer {
	p.Name, p.Zone, p.Rack = a.ask.Name, a.ask.Zone, a.ask.Rack
	p.Peer, p.Gossip, p.S3, p.TLS = a.ask.PeerAddress, a.ask.Gossip, a.ask.S3, a.ask.TLS
	p.Key, p.Command = a.ask.key, a.ask.Command
	return p
}

// lowestCommand is the newest format of commands that all peers know: those that are in use.
func lowestCommand(m *topology.Map) uint32 {
	members := m.Members()
	if len(members) == 0 {
		return 0
	}
	lowest := members[0].Command
	for _, p := range members {
		lowest = min(lowest, p.Command)
	}
	return lowest
}

// before says who in the cluster asks: by its id, by the key that it has, or by the drives that it brings. Zero means
// that it is new. Drives of others are refused; those of removed peers are free.
func (a *admission) before(m *topology.Map) (cluster.PeerID, error) {
	id := a.ask.Peer
	for _, p := range m.Members() {
		if id == (cluster.PeerID{}) && p.Key.Equal(a.ask.key) {
			id = p.ID
		}
	}
	for _, d := range a.ask.Drives {
		known, ok := m.Drive(d.ID)
		if !ok {
			continue
		}
		owner, err := member(m, known.Peer)
		switch {
		case err != nil && !errors.Is(err, ErrRemoved):
			return id, err
		case err != nil:
		case id == (cluster.PeerID{}):
			id = owner.ID
		case id != owner.ID:
			return id, fmt.Errorf("%w: %s is of %q", ErrDrive, d.Name, owner.Name)
		}
	}
	return id, nil
}

// bringBack replaces what is known of a peer of the cluster; it keeps its id, number and state.
func (a *admission) bringBack(m *topology.Map, id cluster.PeerID) error {
	peer, err := member(m, id)
	if err != nil {
		return err
	}
	if revoked(a.secrets.List, id) {
		return fmt.Errorf("peer %v: %w", id, ErrRemoved)
	}
	// The key that asks may be the peer's own already: it was admitted, and its token expired before its answer came.
	signed := peer.Key.Equal(a.ask.key) ||
		trust.Signed(peer.Key, returnUse, returning(a.bound, a.token, a.ask.key), a.ask.before)
	if !signed && a.alive != nil && a.alive(id) {
		return fmt.Errorf("%w: %q, %v; stop it first, or start this one with the files of its data directory", ErrRunning, peer.Name, id)
	}
	if err := m.SetPeer(a.updated(peer)); err != nil {
		return err
	}
	a.how = rejoined
	a.peer, err = member(m, id)
	return err
}

// certify issues the certificate. It leaves this process only when the command was committed.
func (a *admission) certify() (err error) {
	identity := trust.Identity{Peer: a.peer.ID, Roles: trust.RolePeer}
	a.certificate, err = a.secrets.Authority.Issue(a.ask.request, identity, a.now)
	return err
}
