package peer

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
)

// follow brings connections and drives to the newest map, and keeps a copy of it for the next start, until ctx ends.
func (c *core) follow(ctx context.Context) error {
	p := c.peer
	for begun := false; ; begun = true {
		m, news := c.watcher.Current()
		err := errors.Join(c.links.follow(&m), c.remotes.follow(&m))
		// The first time the record is written where it is missing: DIR or a drive may have been lost since the last.
		if !begun || p.self.Load().known.Epoch < m.Epoch {
			err = errors.Join(err, p.keepCluster(), p.changeSelf(func(s *self) {
				if s.known.Epoch < m.Epoch {
					s.known = topology.Map{Epoch: m.Epoch, Peers: m.Peers}
				}
			}))
		}
		if err != nil {
			p.log.Warn("a change of the topology was not followed whole", "err", err)
		}
		if p.mark != nil && len(m.Members()) > 1 {
			p.mark.Retire()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

// groups are the placement groups, as of the newest map.
func (c *core) groups(ctx context.Context) ([]topology.Group, error) {
	m := c.watcher.Map()
	if m.Epoch == 0 { // none was read yet
		if err := c.watcher.Refresh(ctx); err != nil {
			return nil, err
		}
		m = c.watcher.Map()
	}
	return m.Groups, nil
}

// leaving says that a drive, or its peer, is being drained or was silent for long.
func (c *core) leaving(id cluster.DriveID) bool {
	m := c.watcher.Map()
	d, ok := m.Drive(id)
	if !ok {
		return false
	}
	owner, member := m.Peer(d.Peer)
	return d.State != topology.Active || d.Out || !member || owner.State != topology.Active || owner.Out
}

// removed says that a drive, or its peer, was taken out of the topology for ever. A map that lacks a drive may be older
// than the drive: only the newest map says that it is gone.
func (c *core) removed(ctx context.Context, id cluster.DriveID) bool {
	stays := func() bool {
		m := c.watcher.Map()
		d, ok := m.Drive(id)
		_, member := m.Peer(d.Peer)
		return ok && d.State != topology.Removed && member
	}
	if stays() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, mapWait)
	defer cancel()
	return c.watcher.Refresh(ctx) == nil && !stays() // who is not told so asks again
}

// mapWait is how long the root group is waited for by whoever can ask again.
const mapWait = 2 * time.Second

// domains are where a drive lies.
func (c *core) domains(id cluster.DriveID) chunkstore.Domains {
	m := c.watcher.Map()
	at, _ := m.Domains(id)
	return chunkstore.Domains{Peer: at.Peer, Rack: at.Rack, Zone: at.Zone}
}

// isNear says that a drive is this peer's own, so that its shards cost no way.
func (p *Peer) isNear(id cluster.DriveID) bool {
	_, own := p.ownDrive(id)
	return own
}

// settlePatience is how long a peer waits for what it needs of the others before it serves anyway.
const settlePatience = 3 * time.Second

// settle waits until this peer knows the topology and the keys, and the drives of the peers that it reaches have
// answered: what it serves before would fail for no reason. The others may not be here, so it waits for a while only.
func (c *core) settle(ctx context.Context) error {
	timeout := time.NewTimer(settlePatience)
	defer timeout.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if c.watcher.Map().Epoch > 0 && c.peer.RootKey() != nil && c.unheard() == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			c.peer.log.Info("some of the cluster has not answered yet; serving what can be served")
			return nil
		case <-ticker.C:
		}
	}
}

// unheard counts the drives of other peers that have never answered.
func (c *core) unheard() int {
	n := 0
	for _, d := range c.peer.drives.All() {
		if far, ok := d.(*remoteDrive); ok {
			if _, ever := far.Age(); !ever {
				n++
			}
		}
	}
	if m := c.watcher.Map(); n == 0 && len(c.peer.drives.All()) < len(m.Drives) {
		n = 1 // they are about to be opened
	}
	return n
}
