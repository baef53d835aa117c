package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
)

// Errors of a peer that does not know who it is. It never becomes another one: it ends.
var (
	// errLostSelf says that nothing here tells who this peer is, although its drives belong to a cluster of several.
	errLostSelf = errors.New("no record of this peer can be used, neither in the data directory nor on any of its drives: " +
		"ask another peer for a token (holdfast cluster token) and start this one with --join; it stays the peer that it was")
	// errOtherSelf says that the record is not of the peer that the drives are of.
	errOtherSelf = errors.New("the record of this peer is another one's: take it out of the data directory, and start again")
)

// hopeless says that nothing which this peer waits for would help it.
func hopeless(err error) bool {
	return errors.Is(err, errLostSelf) || errors.Is(err, errOtherSelf) || errors.Is(err, join.ErrRemoved)
}

// know finds out who this peer is before it has connections, and whether its drives agree.
func (p *Peer) know(ctx context.Context, host *raft.Host, forming *plan) error {
	if p.self.Load() == nil { // the drive that tells may have come since the start
		own, err := p.loadSelf()
		if err != nil {
			return err
		}
		p.self.Store(own)
	}
	if p.self.Load() == nil {
		if err := p.become(ctx, host, forming); err != nil {
			return p.lost(err)
		}
	}
	replicasHere, err := host.Replicas()
	if err != nil {
		return err
	}
	own := p.self.Load()
	for group, replica := range replicasHere {
		if of := replicas.PeerNumber(replica); of != own.number {
			return fmt.Errorf("%w: it is of peer %d, %v, and the %s on these drives of peer %d", errOtherSelf, own.number, own.id, groupNames[group], of)
		}
	}
	return nil
}

// lost says what is wrong with the records that there are. While a drive is not here it may have a good one.
func (p *Peer) lost(err error) error {
	if !errors.Is(err, errLostSelf) {
		return err
	}
	for _, s := range p.slots {
		if state := s.look(); state.kind != slotUp {
			return fmt.Errorf("no drive that is here has the record of this peer, and %s is %s", s.path, state.kind)
		}
	}
	for _, why := range p.unusable {
		err = fmt.Errorf("%w; %w", err, why)
	}
	return err
}

// become finds out who this peer is when nothing here says so: it makes a cluster at its first start, gives a cluster
// that is older than peers were what it lacks, and gets a peer that is alone its certificate again when it lost it.
func (p *Peer) become(ctx context.Context, host *raft.Host, forming *plan) error {
	ctx, cancel := context.WithTimeout(ctx, foundingDeadline)
	defer cancel()
	group := host.Group(rootGroup)
	if group == nil {
		return errLostSelf
	}
	if voters, _ := group.Members(); len(voters) != 1 {
		return errLostSelf
	}
	client := root.NewClient(group)
	if forming != nil {
		if made, err := p.foundFirst(ctx, client, forming); made || err != nil {
			return err
		}
	}
	m, err := topology.Load(ctx, client)
	if err != nil {
		return err
	}
	id, err := p.ownerOfDrives(&m)
	if err != nil {
		return err
	}
	switch _, err := join.Load(ctx, client); {
	case errors.Is(err, join.ErrNoSecrets):
		return p.addSecrets(ctx, client, id)
	case err != nil:
		return err
	}
	credentials, secrets, err := join.Reissue(ctx, client, id, p.seams.Now())
	if err != nil {
		return err
	}
	if m, err = topology.Load(ctx, client); err != nil {
		return err
	}
	return p.settleSelf(&m, &self{id: id, credentials: credentials, trusted: secrets.List, gossip: secrets.Gossip})
}

// foundFirst makes the cluster. It tells whether it was made now; else it was made before a crash.
func (p *Peer) foundFirst(ctx context.Context, client *root.Client, forming *plan) (bool, error) {
	key := NewCredentials()
	if p.config.RootKey != nil {
		key = *p.config.RootKey
	}
	rows, err := p.plannedDrives(forming.Drives)
	if err != nil {
		return false, fmt.Errorf("first start: %w", err)
	}
	id, err := cluster.ParseID(forming.Peer)
	if err != nil {
		return false, err
	}
	founding, err := join.Found(p.cluster, cluster.PeerID(id), p.seams.Now())
	if err != nil {
		return false, err
	}
	made, err := foundCluster(ctx, client, forming, &p.config, founding, key, rows)
	if err != nil || !made {
		return false, err
	}
	m, err := topology.Load(ctx, client)
	if err != nil {
		return false, err
	}
	return true, p.settleSelf(&m, &self{id: cluster.PeerID(id), credentials: founding.Credentials, trusted: founding.List, gossip: founding.Gossip})
}

// plannedDrives are drives of a plan as the topology will have them, but for their peer.
func (p *Peer) plannedDrives(planned []planDrive) ([]topology.Drive, error) {
	onDevice := make(map[uint64]int64) // each of several drives on a device has a part of its size
	rows := make([]topology.Drive, len(planned))
	for i, d := range planned {
		id, err := cluster.ParseID(d.Drive)
		if err != nil {
			return nil, err
		}
		info, err := p.seams.FS.Stat(d.Path)
		if err != nil {
			return nil, fmt.Errorf("drive %s: %w", d.Path, err)
		}
		usage, err := p.seams.FS.Usage(d.Path)
		if err != nil {
			return nil, fmt.Errorf("drive %s: %w", d.Path, err)
		}
		onDevice[info.Device]++
		rows[i] = topology.Drive{ID: cluster.DriveID(id), Name: d.Name, Path: d.Path, Device: info.Device, Size: usage.Total, State: topology.Active}
	}
	for i := range rows {
		rows[i].Size /= onDevice[rows[i].Device]
	}
	return rows, nil
}

// addSecrets gives a cluster of one peer, made by a release that knew no others, what it takes to have others.
func (p *Peer) addSecrets(ctx context.Context, client *root.Client, id cluster.PeerID) error {
	founding, err := join.Found(p.cluster, id, p.seams.Now())
	if err != nil {
		return err
	}
	m, err := topology.Change(ctx, client, func(m *topology.Map) (topology.Extra, error) {
		_, err := m.AddPeer(firstPeer(id, &p.config, founding))
		return topology.Extra{Put: founding.Rows}, err
	})
	if err != nil {
		return fmt.Errorf("prepare the cluster for other peers: %w", err)
	}
	return p.settleSelf(&m, &self{id: id, credentials: founding.Credentials, trusted: founding.List, gossip: founding.Gossip})
}

// settleSelf completes the record of this peer from the topology and keeps it.
func (p *Peer) settleSelf(m *topology.Map, s *self) error {
	row, ok := m.Peer(s.id)
	if !ok {
		return fmt.Errorf("this peer, %v: %w", s.id, topology.ErrUnknownPeer)
	}
	s.number, s.known = row.Number, topology.Map{Epoch: m.Epoch, Peers: m.Peers}
	return p.saveSelf(s)
}

// ownerOfDrives is the peer that the drives which are here belong to.
func (p *Peer) ownerOfDrives(m *topology.Map) (cluster.PeerID, error) {
	for _, s := range p.slots {
		if state := s.look(); state.kind == slotUp {
			if d, ok := m.Drive(state.identity.Drive); ok {
				return d.Peer, nil
			}
		}
	}
	return cluster.PeerID{}, errLostSelf
}
