package peer

import (
	"context"
	"errors"
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
	nameremote "github.com/holdfast/holdfast/metadata/remote"
	"github.com/holdfast/holdfast/metadata/route"
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
	entitled *entitled         // which of them may change what on the drives here
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
	if err := p.know(ctx, c.host, forming); err != nil {
		return nil, err
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
	c.entitled = &entitled{leads: c.leadsNames}
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
	c.entitled.readOwners(c.volumes())
	return nil
}

// leadsNames tells whether a peer leads the names, as far as this one knows.
func (c *core) leadsNames(id cluster.PeerID) bool {
	leader, _, ok := c.leaders.of(tabletGroup)
	return ok && leader == id
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
		c.workers.Go(c.links.keys),
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
	drives := chunkremote.Handler(p.ownDrive, chunkremote.HandlerOptions{
		Cluster: p.cluster, Allow: c.entitled.allow, Refusals: &c.entitled.refusals,
	})
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

// volumes are the rows of volumes, for the chunk store.
func (c *core) volumes() volumes {
	return volumes{catalog: c.names, root: c.root, groups: c.groups}
}

// close closes the parts from the top down. Parts that were never opened are nil.
func (c *core) close() error {
	var errs []error
	if c.service != nil {
		errs = append(errs, c.service.Close())
	}
	if c.lead != nil {
		c.lead.stop()
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
