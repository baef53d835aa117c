package peer

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// openHost opens the log on the drives that are here. On a first start that did not get to it, the log is made.
func (p *Peer) openHost(ctx context.Context, c *core, first bool) (*raft.Host, error) {
	machines := map[raft.GroupID]raft.Machine{rootGroup: root.New(), tabletGroup: tablet.New()}
	if wrap := p.seams.Machine; wrap != nil {
		for id, machine := range machines {
			machines[id] = wrap(id, machine)
		}
	}
	config := raft.Config{
		FS: p.seams.FS, StateDir: path.Join(p.config.Dir, stateDir), Cluster: p.cluster, Log: p.log, SegmentSize: p.seams.LogSegment,
		WriteBuffer: p.seams.StateBuffer,
		Machines:    func(id raft.GroupID) raft.Machine { return machines[id] },
		Transport:   p.wire, Snapshots: snapshotWire{p.wire}, PeerOf: p.peerOf,
	}
	if p.mark != nil {
		config.Applied = func(group raft.GroupID, index uint64) {
			if group == tabletGroup {
				p.mark.Set(index)
			}
		}
	}
	for _, s := range p.slots {
		if state := s.look(); state.kind == slotUp {
			config.Mirrors = append(config.Mirrors, raft.Mirror{Drive: state.identity.Drive, Dir: s.path})
			c.mirrors[state.identity.Drive] = true
		}
	}
	host, err := raft.Open(ctx, config)
	if errors.Is(err, raft.ErrNotBootstrapped) {
		host, err = p.makeLog(ctx, config, first, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := p.finishJoining(); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return host, nil
}

// makeLog makes the log of a peer that had none: with the groups of a new cluster, or without any where it joins one.
func (p *Peer) makeLog(ctx context.Context, config raft.Config, first bool, none error) (*raft.Host, error) {
	joining, err := p.isJoining()
	switch {
	case err != nil:
		return nil, err
	case !joining && !first:
		return nil, fmt.Errorf("the drives carry identities of a first start that never finished and its plan is gone: "+
			"nothing was stored yet, so empty them to begin again: %w", none)
	case len(config.Mirrors) < len(p.slots):
		return nil, fmt.Errorf("first start: %s; every drive must be there", p.Summary())
	case joining:
		return raft.Bootstrap(ctx, config)
	}
	return raft.Bootstrap(ctx, config, groups...)
}

// reconcile tells the log's host which drives came and went. Only the supervisor calls it.
func (c *core) reconcile() {
	here := make(map[cluster.DriveID]string)
	for _, s := range c.peer.slots {
		if state := s.look(); state.kind == slotUp {
			if _, open := c.peer.drives.Get(state.identity.Drive); open {
				here[state.identity.Drive] = s.path
			}
		}
	}
	for id := range c.mirrors {
		if _, up := here[id]; !up {
			c.host.DriveDown(id)
			delete(c.mirrors, id)
		}
	}
	for id, dir := range here {
		if !c.mirrors[id] {
			c.host.DriveUp(raft.Mirror{Drive: id, Dir: dir})
			c.mirrors[id] = true
		}
	}
}
