package peer

import (
	"errors"

	"github.com/holdfast/holdfast/chunkstore"
	chunkremote "github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
)

// remotes keeps the drives of other peers in the registry, as the topology has them. One goroutine calls follow.
type remotes struct {
	peer  *Peer
	peers *transport.Peers
	open  map[cluster.DriveID]*remoteDrive
}

type remoteDrive struct {
	*chunkremote.Drive
	owner cluster.PeerID
}

func newRemotes(p *Peer, peers *transport.Peers) *remotes {
	return &remotes{peer: p, peers: peers, open: make(map[cluster.DriveID]*remoteDrive)}
}

// follow opens the drives that are new in the map, and closes those that are gone from it or on another peer now.
func (r *remotes) follow(m *topology.Map) error {
	var errs []error
	wanted := make(map[cluster.DriveID]cluster.PeerID)
	for _, d := range m.Drives {
		if owner, ok := m.Peer(d.Peer); ok && owner.ID != r.peer.id() && d.State != topology.Removed {
			wanted[d.ID] = owner.ID
		}
	}
	for id, d := range r.open {
		if wanted[id] != d.owner {
			errs = append(errs, r.drop(id))
		}
	}
	for id, owner := range wanted {
		if r.open[id] != nil {
			continue
		}
		d := &remoteDrive{owner: owner, Drive: chunkremote.New(callsTo(r.peers, owner), base, id, chunkremote.Options{Cluster: r.peer.cluster, Peer: owner})}
		if err := r.peer.drives.Add(d); err != nil {
			// The drive is here too: it was moved to this peer, and its row follows.
			errs = append(errs, d.Close())
			continue
		}
		r.open[id] = d
	}
	return errors.Join(errs...)
}

// drop takes a drive out. The registry may hold another drive of that id by now: one of this peer.
func (r *remotes) drop(id cluster.DriveID) error {
	d := r.open[id]
	delete(r.open, id)
	if now, ok := r.peer.drives.Get(id); ok && now == chunkstore.Drive(d) {
		r.peer.drives.Remove(id)
	}
	return d.Close()
}

// close closes all.
func (r *remotes) close() error {
	var errs []error
	for id := range r.open {
		errs = append(errs, r.drop(id))
	}
	return errors.Join(errs...)
}

// ownDrive finds a drive of this peer, for others.
func (p *Peer) ownDrive(id cluster.DriveID) (chunkstore.Drive, bool) {
	d, ok := p.drives.Get(id)
	if _, elsewhere := d.(*remoteDrive); !ok || elsewhere {
		return nil, false
	}
	return d, true
}

// ownDrives are the drives of this peer that are open.
func (p *Peer) ownDrives() []chunkstore.Drive {
	var list []chunkstore.Drive
	for _, d := range p.drives.All() {
		if _, elsewhere := d.(*remoteDrive); !elsewhere {
			list = append(list, d)
		}
	}
	return list
}
