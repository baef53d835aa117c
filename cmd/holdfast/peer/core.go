package peer

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	chunkremote "github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/worker"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/metadata"
	nameremote "github.com/holdfast/holdfast/metadata/remote"
	"github.com/holdfast/holdfast/metadata/route"
	"github.com/holdfast/holdfast/metadata/tablet"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3"
)

// The Raft groups of a cluster with one tablet.
const (
	rootGroup   raft.GroupID = 1
	tabletGroup raft.GroupID = 2
)

// foundingDeadline bounds the first commands of a core: they wait for a log that may be replayed first.
const foundingDeadline = 30 * time.Second

// core is everything that needs the log: it is opened when enough drives are here and lives until the peer stops. Parts
// are listed from the ground up and closed from the top down.
type core struct {
	peer     *Peer
	host     *raft.Host        // the log, the state database, the replicas that are here
	leaders  *leaders          // who leads each group
	root     *root.Client      // the rows of the root group, wherever its leader is
	seat     *route.Seat       // the catalog of this peer while it leads the tablet
	links    *links            // connections with the other peers
	watcher  *topology.Watcher // the newest map
	remotes  *remotes          // drives of other peers
	names    *route.Router     // names, wherever their leader is
	chunks   *chunkstore.Store // bytes
	objects  *multipart.Store  // names and bytes together
	repair   *repair.Worker    // missing shards
	balance  *rebalance.Worker // data to where the topology wants it
	replicas *replicas.Worker  // voters of the groups that this peer leads
	lead     *leadership       // the work of the peer that leads
	workers  *worker.Group     // everything else in the background
	face     *s3.Server        // what clients talk to

	service *remote.Service // what mounts talk to beside S3

	// mirrors are the drives that the host knows as up. Only the supervisor touches it.
	mirrors map[cluster.DriveID]bool
}

// openCore puts the parts together. What was opened is closed again when a later part cannot be.
func (p *Peer) openCore(ctx context.Context) (_ *core, err error) {
	c := &core{peer: p, mirrors: make(map[cluster.DriveID]bool)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	forming, err := p.readPlan()
	if err != nil {
		return nil, err
	}
	if p.mark != nil && forming == nil {
		p.mark.Wait()
	}
	if c.host, err = p.openHost(ctx, c, forming != nil); err != nil {
		return nil, err
	}
	p.host.Store(c.host)
	if p.self.Load() == nil {
		if err := p.become(ctx, c.host, forming); err != nil {
			return nil, err
		}
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.openBytes(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if c.face, err = s3.New(s3.Config{Store: c.objects, Keys: p.lookupKey, Domain: p.config.Domain, Now: p.seams.Now, Log: p.log, Metrics: registry}); err != nil {
		return nil, err
	}
	if err := c.reserve(registry); err != nil {
		return nil, err
	}
	return c, c.begin(ctx)
}

// connect makes what the other peers call, and what this one calls them with.
func (c *core) connect() (err error) {
	p := c.peer
	c.leaders = newLeaders(p, c.host)
	rows := root.NewRouter(root.Config{
		Self: p.id(), Leader: func() (cluster.PeerID, bool, bool) { return c.leaders.of(rootGroup) },
		Local: root.Local(c.replicaOf(rootGroup)), Remote: c.rowsOf, Known: p.reachable,
	})
	c.root = root.At(rows)
	c.lead = &leadership{core: c}
	c.seat = &route.Seat{
		Member: c.tabletMember, Self: p.id(), Open: c.openCatalog, Lead: c.lead.work, Log: p.log,
		PeerOf: func(replica uint64) (cluster.PeerID, bool) { return p.peerOf(tabletGroup, replica) },
	}
	routes, inlets := c.served(rows)
	if c.links, err = p.openLinks(c.root, routes, inlets); err != nil {
		return err
	}
	known := p.self.Load().known
	known.Epoch = 0 // it lacks drives and groups: the first look reads them
	c.watcher = topology.NewWatcher(c.root, known, p.log)
	p.watcher.Store(c.watcher)
	c.links.keepTrust(c.root, c.watcher)
	c.remotes = newRemotes(p, c.links.peers)
	c.names = route.New(route.Config{
		Self: p.id(), Leader: func() (cluster.PeerID, bool, bool) { return c.leaders.of(tabletGroup) },
		Local: c.seat.Local, Remote: c.namesOf, Alone: c.namesAlone,
	})
	return nil
}

// begin starts to follow the cluster, and to lead where this peer does. A peer that is alone waits until it does.
func (c *core) begin(ctx context.Context) error {
	c.workers = worker.NewGroup(c.peer.log)
	err := errors.Join(
		c.workers.Go(c.leaders),
		c.workers.Go(worker.Func("names", c.seat.Run)),
		c.workers.Go(c.watcher),
		c.workers.Go(worker.Func("follow", c.follow)),
		c.workers.Go(worker.Func("regroup", c.regroup)),
		c.workers.Go(c.replicas),
		c.workers.Go(c.links.lists),
		c.workers.Go(c.links.renewer),
		c.workers.Go(worker.Func("announce", c.announce)),
		c.workers.Go(worker.Func("keys", c.keepKeys)),
	)
	if err != nil {
		return err
	}
	if !c.peer.self.Load().alone() {
		return c.settle(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, foundingDeadline)
	defer cancel()
	if err := c.watcher.Refresh(ctx); err != nil {
		return err
	}
	key, err := settleRootKey(ctx, c.root, c.peer.config.RootKey)
	if err != nil {
		return err
	}
	if err := c.peer.finishForming(key); err != nil {
		return err
	}
	return c.makeHome(ctx)
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

// openBytes opens the chunk store and the object path.
func (c *core) openBytes() (err error) {
	p := c.peer
	if c.chunks, err = chunkstore.NewStore(chunkstore.Config{
		Volumes: c.volumes(), Drives: p.drives, Memory: p.config.Memory, Silent: p.silent, Log: p.log, Now: p.seams.Now,
		Self: p.id(), Domains: c.domains, Near: p.isNear, Leaving: c.leaving,
	}); err != nil {
		return err
	}
	if c.objects, err = multipart.New(multipart.Config{
		Catalog: c.names, Chunks: c.chunks, Now: p.seams.Now, Log: p.log, Scarce: c.host.Scarce,
	}); err != nil {
		return err
	}
	c.makeWork()
	return nil
}

// served are the questions that other peers may ask.
func (c *core) served(rows *root.Router) ([]transport.Route, []transport.Inlet) {
	p := c.peer
	drives := chunkremote.Handler(p.ownDrive, chunkremote.HandlerOptions{Cluster: p.cluster})
	names := nameremote.Handler(route.Local(route.Config{
		Self: p.id(), Leader: func() (cluster.PeerID, bool, bool) { return c.leaders.of(tabletGroup) }, Local: c.seat.Local,
	}))
	issuer := &join.Issuer{Root: c.root, Now: p.seams.Now}
	return append(replicas.Routes(c.host), []transport.Route{
			issuer.Route(),
			{Pattern: chunkremote.Prefix, Roles: onlyPeers, MaxBody: -1, Handler: drives},
			{Pattern: nameremote.PathPrefix, Roles: onlyPeers, MaxBody: -1, Handler: names},
			{Pattern: root.PathPrefix, Roles: onlyPeers, MaxBody: -1, Handler: root.Handler(rows.Here())},
			{Pattern: "GET " + reportPath, Roles: onlyPeers, Handler: c.reportHandler()},
			{Pattern: "GET " + leadersPath, Roles: onlyPeers, Handler: c.leaders.handler()},
			{Pattern: "POST " + installPath, Roles: onlyPeers, MaxBody: -1, Handler: installHandler(c.host)},
		}...), []transport.Inlet{{Name: raftStream, Roles: onlyPeers, Receive: func(_ trust.Identity, message []byte) {
			if err := c.host.Receive(message); err != nil {
				p.log.Debug("a batch of raft messages was refused", "err", err)
			}
		}}}
}

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

// volumes are the rows of volumes, for the chunk store.
func (c *core) volumes() volumes {
	return volumes{catalog: c.names, root: c.root, groups: c.groups}
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

// isNear says that a drive is this peer's own, so that its shards cost no way.
func (p *Peer) isNear(id cluster.DriveID) bool {
	_, own := p.ownDrive(id)
	return own
}

// domains are where a drive lies.
func (c *core) domains(id cluster.DriveID) chunkstore.Domains {
	m := c.watcher.Map()
	at, _ := m.Domains(id)
	return chunkstore.Domains{Peer: at.Peer, Rack: at.Rack, Zone: at.Zone}
}

// namesAlone says that this peer has the only replica of the tablet, and leads it.
func (c *core) namesAlone() bool {
	member := c.tabletMember()
	if member == nil || c.seat.Catalog() == nil {
		return false
	}
	voters, learners := member.Members()
	return len(voters) == 1 && len(learners) == 0
}

// namesOf asks another peer for names.
func (c *core) namesOf(id cluster.PeerID) metadata.Names {
	if c.links == nil {
		return nil
	}
	return nameremote.New(callsTo(c.links.peers, id), base, nameremote.Options{})
}

// openCatalog opens the names when this peer begins to lead them.
func (c *core) openCatalog(ctx context.Context) (*metadata.Catalog, error) {
	return metadata.New(ctx, metadata.Config{
		Root: c.root, Tablet: c.tabletMember(), Now: c.peer.seams.Now, Log: c.peer.log,
	})
}

func (c *core) tabletMember() raft.Member {
	member := c.host.Group(tabletGroup)
	if wrap := c.peer.seams.Tablet; wrap != nil && member != nil {
		return wrap(member)
	}
	return member
}

// replicaOf finds the replica of a group on this peer.
func (c *core) replicaOf(group raft.GroupID) func() raft.Group {
	return func() raft.Group {
		if member := c.host.Group(group); member != nil {
			return member
		}
		return nil
	}
}

// rowsOf asks another peer for rows of the root group.
func (c *core) rowsOf(id cluster.PeerID) root.Seat {
	other, err := c.peer.wire.peer(id)
	if err != nil {
		return nil
	}
	return root.Remote(other, base)
}

// openHost opens the log on the drives that are here. On a first start that did not get to it, the log is made.
func (p *Peer) openHost(ctx context.Context, c *core, first bool) (*raft.Host, error) {
	machines := map[raft.GroupID]raft.Machine{rootGroup: root.New(), tabletGroup: tablet.New()}
	if wrap := p.seams.Machine; wrap != nil {
		for id, machine := range machines {
			machines[id] = wrap(id, machine)
		}
	}
	config := raft.Config{
		FS: p.seams.FS, StateDir: path.Join(p.config.Dir, "state"), Cluster: p.cluster, Log: p.log, SegmentSize: p.seams.LogSegment,
		Machines:  func(id raft.GroupID) raft.Machine { return machines[id] },
		Transport: p.wire, Snapshots: snapshotWire{p.wire}, PeerOf: p.peerOf,
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
	joining, err := p.isJoining()
	if err != nil {
		return nil, err
	}
	host, err := raft.Open(ctx, config)
	switch {
	case errors.Is(err, raft.ErrNotBootstrapped) && joining:
		if len(config.Mirrors) < len(p.slots) {
			return nil, fmt.Errorf("first start: %s; every drive must be there", p.Summary())
		}
		host, err = raft.Bootstrap(ctx, config)
	case errors.Is(err, raft.ErrNotBootstrapped) && first:
		if len(config.Mirrors) < len(p.slots) {
			return nil, fmt.Errorf("first start: %s; every drive must be there", p.Summary())
		}
		host, err = raft.Bootstrap(ctx, config, rootGroup, tabletGroup)
	case errors.Is(err, raft.ErrNotBootstrapped):
		return nil, fmt.Errorf("the drives carry identities of a first start that never finished and its plan is gone: "+
			"nothing was stored yet, so empty them to begin again: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := p.finishJoining(); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return host, nil
}

// makeHome makes the bucket that `up --mount` shows.
func (c *core) makeHome(ctx context.Context) error {
	name := c.peer.config.HomeBucket
	if name == "" {
		_, err := c.names.Buckets(ctx) // the names are open when it answers
		return err
	}
	_, err := c.names.CreateBucket(ctx, name, c.peer.AccessKey())
	if errors.Is(err, metadata.ErrBucketExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// errNoKeys says that the access keys are not known yet.
var errNoKeys = fmt.Errorf("the access keys were not read yet: %w", metadata.ErrUnavailable)

// lookupKey is how the S3 face finds the secret of an access key.
func (p *Peer) lookupKey(_ context.Context, accessKey string) (string, s3.Principal, error) {
	key := p.key.Load()
	if key == nil {
		return "", s3.Principal{}, errNoKeys
	}
	if key.AccessKey != accessKey {
		return "", s3.Principal{}, s3.ErrNoSuchAccessKey
	}
	return string(key.Secret), s3.Principal{AccessKey: accessKey, Name: "root", Root: true}, nil
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

// close closes the parts from the top down. Parts that were never opened are nil.
func (c *core) close() error {
	var errs []error
	if c.service != nil {
		errs = append(errs, c.service.Close())
	}
	if c.chunks != nil {
		errs = append(errs, c.chunks.Close())
	}
	if c.names != nil {
		errs = append(errs, c.names.Close())
	}
	if c.workers != nil {
		c.workers.Close()
	}
	if c.host != nil { // leadership goes to others while there are connections
		c.peer.host.Store(nil)
		errs = append(errs, c.host.Close())
	}
	if c.remotes != nil {
		errs = append(errs, c.remotes.close())
	}
	if c.links != nil {
		errs = append(errs, c.links.close())
	}
	return errors.Join(errs...)
}
