package peer

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
)

// id is this peer's, zero before it is part of a cluster.
func (p *Peer) id() cluster.PeerID {
	if own := p.self.Load(); own != nil {
		return own.id
	}
	return cluster.PeerID{}
}

// topology is the newest map that this peer has seen. Before it saw one it has the peers of the last time.
func (p *Peer) topology() topology.Map {
	if w := p.watcher.Load(); w != nil {
		return w.Map()
	}
	if own := p.self.Load(); own != nil {
		return own.known
	}
	return topology.Map{}
}

// ownRow is what the others know of this peer.
func (p *Peer) ownRow() (topology.Peer, bool) {
	m := p.topology()
	return m.Peer(p.id())
}

// nameOf is what a person calls a peer.
func (p *Peer) nameOf(id cluster.PeerID) string {
	m := p.topology()
	if other, ok := m.Peer(id); ok {
		return other.Name
	}
	return id.String()
}

// s3Address is where clients of other machines reach this peer, as host:port.
func (p *Peer) s3Address() string {
	at, err := advertised(p.listener.Addr().String())
	if err != nil { // the address of a TCP listener always splits
		return p.listener.Addr().String()
	}
	return at
}

// announceEvery is how often a peer compares what the cluster knows of it with what is so.
const announceEvery = 2 * time.Second

// announce keeps this peer's rows true: where it listens, and its drives. It runs until ctx ends.
func (c *core) announce(ctx context.Context) error {
	ticker := time.NewTicker(announceEvery)
	defer ticker.Stop()
	for {
		if err := c.announceOnce(ctx); err != nil && ctx.Err() == nil {
			c.peer.log.Warn("the cluster was not told about this peer", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// announceOnce changes the rows if they differ.
func (c *core) announceOnce(ctx context.Context) error {
	m := c.peer.topology()
	if changed, err := c.describe(&m); err != nil || !changed {
		return err
	}
	now, err := topology.Change(ctx, c.root, func(m *topology.Map) (topology.Extra, error) {
		_, err := c.describe(m)
		return topology.Extra{}, err
	})
	if err == nil {
		c.watcher.Take(now)
	}
	return err
}

var errRemoved = errors.New("this peer was removed from the cluster")

// describe writes what is so into a map, and tells whether that changed anything. The map's lists may be shared: they
// are copied first.
func (c *core) describe(m *topology.Map) (changed bool, err error) {
	p := c.peer
	row, ok := m.Peer(p.id())
	if !ok {
		if row, ok := m.ByNumber(p.self.Load().number); ok && row.ID == p.id() {
			return false, errRemoved
		}
		return false, fmt.Errorf("peer %v: %w", p.id(), topology.ErrUnknownPeer)
	}
	m.Peers, m.Drives = slices.Clone(m.Peers), slices.Clone(m.Drives)
	now := row
	now.Name, now.Zone, now.Rack = p.config.Name, p.config.Zone, p.config.Rack
	if other, err := m.Named(now.Name); err == nil && other.ID != now.ID {
		now.Name = row.Name // somebody else has the name that is wanted now
	}
	now.Peer, now.S3, now.TLS, now.Command = c.links.address, p.s3Address(), p.scheme == "https", commandFormat
	now.Gossip = cmp.Or(c.links.gossipAt, row.Gossip)
	now.Key = c.links.trust.Credentials().PublicKey()
	if changed = !samePeer(now, row); changed {
		if err := m.SetPeer(now); err != nil {
			return false, err
		}
	}
	for _, d := range c.ownDriveRows() {
		if old, ok := m.Drive(d.ID); ok {
			d.State, d.Out = old.State, old.Out
			if old == d {
				continue
			}
		}
		if err := m.SetDrive(d); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

func samePeer(a, b topology.Peer) bool {
	keys := ed25519.PublicKey(a.Key).Equal(ed25519.PublicKey(b.Key))
	a.Key, b.Key = nil, nil
	return keys && fmt.Sprint(a) == fmt.Sprint(b)
}

// ownDriveRows are the drives of this peer that are up.
func (c *core) ownDriveRows() []topology.Drive {
	onDevice := make(map[uint64]int64) // each of several drives on a device has a part of its size
	for _, d := range c.peer.ownDrives() {
		onDevice[d.Status().Device]++
	}
	var rows []topology.Drive
	for _, s := range c.peer.slots {
		state := s.look()
		d, open := c.peer.ownDrive(state.identity.Drive)
		if state.kind != slotUp || !open {
			continue
		}
		st := d.Status()
		rows = append(rows, topology.Drive{
			ID: d.ID(), Name: state.identity.Name, Path: s.path, Peer: c.peer.id(), Device: st.Device, Size: st.Total / max(1, onDevice[st.Device]), State: topology.Active,
		})
	}
	return rows
}
