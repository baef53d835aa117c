package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/worker"
)

const (
	// sealEvery is how often the leader looks for open volumes whose writer is gone.
	sealEvery = 30 * time.Second
	// goneFor is how long a peer must be unreachable until its open volumes are sealed by another: as long as until its
	// replicas are replaced.
	goneFor = 10 * time.Minute
)

// makeWork makes the workers that need names and bytes.
func (c *core) makeWork() {
	p := c.peer
	c.repair = repair.New(repair.Config{
		Store: c.chunks, Volumes: c.volumes(), Drives: p.drives, Interval: p.seams.RepairEvery, Removed: c.removed, Log: p.log,
	})
	c.balance = rebalance.New(rebalance.Config{
		Store: c.chunks, Volumes: c.volumes(), Registry: p.drives, Drives: c.drivesForVolumes, Refused: c.repair.Refused,
		Kick: c.repair.Kick, Interval: p.seams.RepairEvery, Calm: 3 * p.seams.RepairEvery, Log: p.log,
	})
	c.replicas = replicas.New(replicas.Config{
		Host: c.host, Self: p.id(), Map: c.watcher.Map, Reachable: c.reachable,
		Generation: func(ctx context.Context) (uint64, error) { return c.root.Allocate(ctx, root.Any) },
		Peers:      unmarked{replicas.Remote(c.links.peers), p},
		Settings: func() replicas.Settings {
			m := c.watcher.Map()
			return voterSettings(&m)
		},
		Now: p.seams.Now, Log: p.log,
	})
}

// leaderWork is what the peer that leads the tablet does.
func (c *core) leaderWork() []worker.Worker {
	return []worker.Worker{
		c.repair,
		c.balance,
		worker.Func("seal", c.sealAbandoned),
		worker.Func("out", c.outs),
		worker.Func("delete", c.objects.Run),
		&join.Rotation{Root: c.root, Holdings: c.holdings, Every: c.peer.seams.RotateEvery, Log: c.peer.log},
	}
}

// unmarked takes the mark of this machine out of use before another peer gets a replica: from then on others may commit
// what the mark does not show.
type unmarked struct {
	replicas.Peers
	peer *Peer
}

// Create implements replicas.Peers.
func (u unmarked) Create(ctx context.Context, peer cluster.PeerID, group raft.GroupID, replica uint64) error {
	if u.peer.mark != nil {
		u.peer.mark.Retire()
	}
	return u.Peers.Create(ctx, peer, group, replica)
}

// reachable tells whether a peer answers, and since when that is so.
func (c *core) reachable(id cluster.PeerID) (bool, time.Time) {
	for _, st := range c.links.peers.Status() {
		if st.Peer == id {
			return st.Reachable, st.Since
		}
	}
	return false, c.peer.started
}

var errNoMap = errors.New("the topology was not read yet")

// drivesForVolumes tells of every drive what it is to the slots of volumes.
func (c *core) drivesForVolumes(context.Context) ([]rebalance.Drive, error) {
	m := c.watcher.Map()
	if m.Epoch == 0 {
		return nil, errNoMap
	}
	shares := make(map[onDevice]*share)
	for _, d := range m.Drives {
		if d.State != topology.Removed {
			at := onDevice{d.Peer, d.Device}
			if shares[at] == nil {
				shares[at] = new(share)
			}
			shares[at].add(c.status(d.ID))
		}
	}
	var list []rebalance.Drive
	for _, d := range m.Drives {
		at, ok := m.Domains(d.ID)
		owner, member := m.Peer(d.Peer)
		if !ok || !member || d.State == topology.Removed {
			continue
		}
		row := rebalance.Drive{Drive: at, Size: d.Size, State: rebalance.Keeps}
		st := c.status(d.ID)
		row.Used = shares[onDevice{d.Peer, d.Device}].used(st)
		switch {
		case d.State != topology.Active || d.Out || owner.State != topology.Active || owner.Out:
			row.State = rebalance.Leaves
		case st.Down == nil:
			row.State, row.Full = rebalance.Takes, st.Full
		}
		list = append(list, row)
	}
	return list, nil
}

// status is that of a drive anywhere in the cluster.
func (c *core) status(id cluster.DriveID) chunkstore.DriveStatus {
	if d, ok := c.peer.drives.Get(id); ok {
		return d.Status()
	}
	return chunkstore.DriveStatus{ID: id, Down: chunkstore.ErrDriveDown}
}

// onDevice names a device of a peer.
type onDevice struct {
	peer   cluster.PeerID
	device uint64
}

// share is what the drives on one device have of it: each an equal part of its size, and of what is not theirs.
type share struct {
	drives int64
	bytes  int64 // of shards
	taken  int64 // of the device, by anybody
}

func (s *share) add(st chunkstore.DriveStatus) {
	s.drives++
	s.bytes += st.Bytes
	s.taken = max(s.taken, st.Total-st.Free)
}

// used is how much of its part a drive has used.
func (s *share) used(st chunkstore.DriveStatus) int64 {
	return st.Bytes + max(0, s.taken-s.bytes)/s.drives
}

// regroup lets go of this peer's open volumes whose placement groups are gone, until ctx ends.
func (c *core) regroup(ctx context.Context) error {
	for {
		m, news := c.watcher.Current()
		if len(m.Groups) > 0 {
			if err := c.chunks.Regroup(ctx, chunkGroups(m.Groups)); err != nil && ctx.Err() == nil {
				return err // the group of workers tries again
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

// awayFor is how long a peer must be unreachable until the rotation of the gossip key goes on without it.
const awayFor = 10 * time.Second

// holdings are what the peers that are up have of what a removal changes. It is an error that one of them does not say.
func (c *core) holdings(ctx context.Context) (map[cluster.PeerID]join.Holding, error) {
	m, err := c.mapNow(ctx)
	if err != nil {
		return nil, err
	}
	reports, err := c.reports(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[cluster.PeerID]join.Holding)
	for _, member := range m.Members() {
		if r, ok := reports[member.ID]; ok {
			all[member.ID] = r.Holds
			continue
		}
		if up, since := c.reachable(member.ID); up || c.peer.seams.Now().Sub(since) < awayFor {
			return nil, fmt.Errorf("%s does not say which gossip key it has", member.Name)
		}
	}
	return all, nil
}

// sealAbandoned seals the open volumes of peers that are gone, until ctx ends.
func (c *core) sealAbandoned(ctx context.Context) error {
	ticker := time.NewTicker(sealEvery)
	defer ticker.Stop()
	for {
		err := c.chunks.SealAbandoned(ctx, func(owner cluster.PeerID) bool {
			m := c.watcher.Map()
			if _, member := m.Peer(owner); !member {
				return m.Epoch > 0
			}
			up, since := c.reachable(owner)
			return owner != c.peer.id() && !up && c.peer.seams.Now().Sub(since) > goneFor
		})
		if err != nil && ctx.Err() == nil {
			c.peer.log.Warn("volumes of peers that are gone were not sealed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
