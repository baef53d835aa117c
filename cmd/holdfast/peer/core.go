package peer

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/worker"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/metadata"
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

// core is everything that needs the names: it is opened when enough drives are here and lives until the peer stops.
// Parts are listed from the ground up and closed from the top down.
type core struct {
	peer    *Peer
	host    *raft.Host        // the log, the state database, the groups
	catalog *metadata.Catalog // names
	chunks  *chunkstore.Store // bytes
	objects *multipart.Store  // names and bytes together
	repair  *repair.Worker    // missing shards
	workers *worker.Group     // everything in the background
	face    *s3.Server        // what clients talk to

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
	key, err := p.found(ctx, root.NewClient(c.host.Group(rootGroup)), forming)
	if err != nil {
		return nil, err
	}
	if c.catalog, err = metadata.New(ctx, metadata.Config{
		Root: root.NewClient(c.host.Group(rootGroup)), Tablet: c.host.Group(tabletGroup), Now: p.seams.Now, Log: p.log,
	}); err != nil {
		return nil, fmt.Errorf("open the names: %w", err)
	}
	if c.chunks, err = chunkstore.NewStore(chunkstore.Config{
		Volumes: volumes{c.catalog}, Drives: p.drives, Memory: p.config.Memory, Silent: p.silent, Log: p.log, Now: p.seams.Now,
	}); err != nil {
		return nil, err
	}
	if c.objects, err = multipart.New(multipart.Config{
		Catalog: c.catalog, Chunks: c.chunks, Now: p.seams.Now, Log: p.log, Scarce: c.host.Scarce,
	}); err != nil {
		return nil, err
	}
	c.repair = repair.New(repair.Config{
		Store: c.chunks, Volumes: volumes{c.catalog}, Drives: p.drives, Interval: p.seams.RepairEvery, Log: p.log,
	})
	if err := c.startWorkers(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if c.face, err = s3.New(s3.Config{Store: c.objects, Keys: p.lookupKey, Domain: p.config.Domain, Now: p.seams.Now, Log: p.log, Metrics: registry}); err != nil {
		return nil, err
	}
	if err := c.reserve(registry); err != nil {
		return nil, err
	}
	if err := p.finishForming(key); err != nil {
		return nil, err
	}
	return c, c.makeHome(ctx)
}

// openHost opens the log on the drives that are here. On a first start that did not get to it, the log is made.
func (p *Peer) openHost(ctx context.Context, c *core, first bool) (*raft.Host, error) {
	machines := map[raft.GroupID]raft.Machine{rootGroup: root.New(), tabletGroup: tablet.New()}
	config := raft.Config{
		FS: p.seams.FS, StateDir: path.Join(p.config.Dir, "state"), Cluster: p.cluster, Log: p.log, SegmentSize: p.seams.LogSegment,
		Machines: func(id raft.GroupID) raft.Machine { return machines[id] },
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
	switch {
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
	return host, nil
}

// found makes the cluster's first records when a first start is under way, and settles the root access key.
func (p *Peer) found(ctx context.Context, client *root.Client, forming *plan) (Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, foundingDeadline)
	defer cancel()
	if forming != nil {
		key := NewCredentials()
		if p.config.RootKey != nil {
			key = *p.config.RootKey
		}
		devices := make(map[string]uint64)
		for _, d := range forming.Drives {
			info, err := p.seams.FS.Stat(d.Path)
			if err != nil {
				return Credentials{}, fmt.Errorf("first start: %w", err)
			}
			devices[d.Path] = info.Device
		}
		if err := foundCluster(ctx, client, forming, &p.config, key, devices); err != nil {
			return Credentials{}, err
		}
	}
	return settleRootKey(ctx, client, p.config.RootKey)
}

// startWorkers starts the background work.
func (c *core) startWorkers() error {
	c.workers = worker.NewGroup(c.peer.log)
	return errors.Join(
		c.workers.Go(c.repair),
		c.workers.Go(worker.Func("delete", c.objects.Run)),
		c.workers.Go(worker.Func("publish", c.catalog.Run)),
	)
}

// makeHome makes the bucket that `up --mount` shows.
func (c *core) makeHome(ctx context.Context) error {
	name := c.peer.config.HomeBucket
	if name == "" {
		return nil
	}
	_, err := c.catalog.CreateBucket(ctx, name, c.peer.AccessKey())
	if errors.Is(err, metadata.ErrBucketExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// lookupKey is how the S3 face finds the secret of an access key.
func (p *Peer) lookupKey(_ context.Context, accessKey string) (string, s3.Principal, error) {
	key := p.key.Load()
	if key == nil || key.AccessKey != accessKey {
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
	if c.workers != nil {
		c.workers.Close()
	}
	if c.chunks != nil {
		errs = append(errs, c.chunks.Close())
	}
	if c.catalog != nil {
		errs = append(errs, c.catalog.Close())
	}
	if c.host != nil {
		errs = append(errs, c.host.Close())
	}
	return errors.Join(errs...)
}
