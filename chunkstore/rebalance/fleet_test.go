package rebalance_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const row = 512 << 10

// topology is the rows of volumes, the drives of the cluster, and the placement groups over those that take slots.
type topology struct {
	*storetest.Volumes

	mu     sync.Mutex
	drives []rebalance.Drive
	groups []chunkstore.Group
}

func (p *topology) Groups(ctx context.Context) ([]chunkstore.Group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.groups, ctx.Err()
}

// fleet is memory drives, and Stores over all of them with workers each, as peers of a cluster have.
type fleet struct {
	t      *testing.T
	drives []*memory.Drive
	topology
	peers []*peer
}

type peer struct {
	set       *chunkstore.Drives
	store     *chunkstore.Store
	repair    *repair.Worker
	rebalance *rebalance.Worker
}

func newFleet(t *testing.T, peers int) *fleet {
	t.Helper()
	f := &fleet{t: t, topology: topology{Volumes: storetest.NewVolumes(nil)}}
	t.Cleanup(func() {
		for _, d := range f.drives {
			if err := d.Close(); err != nil {
				t.Errorf("close drive: %v", err)
			}
		}
	})
	for range peers {
		f.join()
	}
	return f
}

// join starts a Store with its workers over the drives that there are.
func (f *fleet) join() *peer {
	f.t.Helper()
	p := &peer{set: chunkstore.NewDrives()}
	for _, d := range f.drives {
		if err := p.set.Add(d); err != nil {
			f.t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	store, err := chunkstore.NewStore(chunkstore.Config{
		Volumes: &f.topology, Drives: p.set, Memory: 64 << 20, Log: log, VolumeSize: row / 2,
		PutDeadline: 20 * time.Second, ReadDeadline: 20 * time.Second,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := store.Close(); err != nil {
			f.t.Errorf("close store: %v", err)
		}
	})
	p.store = store
	p.repair = repair.New(repair.Config{
		Store: store, Volumes: &f.topology, Drives: p.set, Share: 1, Interval: 10 * time.Millisecond, Log: log, Removed: f.removed,
	})
	p.rebalance = rebalance.New(rebalance.Config{
		Calm: -1, Store: store, Volumes: &f.topology, Registry: p.set, Drives: f.list, Refused: p.repair.Refused, Kick: p.repair.Kick,
		Share: 1, Interval: 10 * time.Millisecond, Log: log,
	})
	f.peers = append(f.peers, p)
	return p
}

// add adds n drives of a peer number to the topology, each a device of its own.
func (f *fleet) add(number, n int) {
	f.t.Helper()
	for range n {
		id := driveID(len(f.drives) + 1)
		d := memory.New(id)
		f.drives = append(f.drives, d)
		for _, p := range f.peers {
			if err := p.set.Add(d); err != nil {
				f.t.Fatal(err)
			}
		}
		f.mu.Lock()
		f.topology.drives = append(f.topology.drives, rebalance.Drive{
			Drive: placement.Drive{ID: id, Peer: cluster.PeerID{byte(number)}, Device: uint64(len(f.drives))}, State: rebalance.Takes,
		})
		f.mu.Unlock()
	}
	f.regroup()
}

// state sets what drives, counted from 0, are to slots.
func (f *fleet) state(state rebalance.State, drives ...int) {
	f.t.Helper()
	f.mu.Lock()
	for _, n := range drives {
		f.topology.drives[n].State = state
	}
	f.mu.Unlock()
	f.regroup()
}

// regroup makes the placement groups of the topology.
func (f *fleet) regroup() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var takers []placement.Drive
	for _, d := range f.topology.drives {
		if d.State == rebalance.Takes {
			takers = append(takers, d.Drive)
		}
	}
	slots, err := placement.Groups(takers, placement.Count(len(takers)))
	if err != nil {
		return // not enough drives yet
	}
	f.groups = nil
	for i, s := range slots {
		f.groups = append(f.groups, chunkstore.Group{ID: uint32(i), Slots: s})
	}
}

func (f *fleet) list(ctx context.Context) ([]rebalance.Drive, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.topology.drives), ctx.Err()
}

// remove takes a drive out of the topology and of every registry.
func (f *fleet) remove(n int) {
	f.t.Helper()
	id := f.drives[n].ID()
	f.mu.Lock()
	f.topology.drives = slices.DeleteFunc(f.topology.drives, func(d rebalance.Drive) bool { return d.ID == id })
	f.mu.Unlock()
	for _, p := range f.peers {
		p.set.Remove(id)
	}
	f.regroup()
}

func (f *fleet) removed(_ context.Context, id cluster.DriveID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(f.topology.drives, func(d rebalance.Drive) bool { return d.ID == id })
}

// body is something written.
type body struct {
	chunkstore.Written
	bytes []byte
}

func (f *fleet) write(p *peer, seed uint64, size int) (body, error) {
	b := body{bytes: storetest.Body(seed, size)}
	w, err := p.store.Write(context.Background(), bytes.NewReader(b.bytes), chunkstore.WriteOptions{Size: int64(size)})
	b.Written = w
	for _, in := range w.Intents {
		if err := f.AddIntent(context.Background(), in); err != nil {
			f.t.Error(err)
		}
	}
	return b, err
}

// writeAll writes n bodies through a peer and seals every volume.
func (f *fleet) writeAll(p *peer, n int) []body {
	f.t.Helper()
	var bodies []body
	for i := range n {
		b, err := f.write(p, uint64(i), 1+i*70_001%(3*row))
		if err != nil {
			f.t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	f.sealAll(p)
	return bodies
}

func (f *fleet) sealAll(p *peer) {
	f.t.Helper()
	for _, v := range f.All() {
		if _, err := p.store.Seal(f.t.Context(), v.ID); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fleet) want(p *peer, b body) {
	f.t.Helper()
	r := p.store.Read(f.t.Context(), storetest.Refs(b.Chunks), 0, b.Size)
	got, err := io.ReadAll(r)
	if e := r.Close(); err == nil {
		err = e
	}
	if err != nil {
		f.t.Fatalf("read %d bytes: %v", b.Size, err)
	}
	if !bytes.Equal(got, b.bytes) {
		f.t.Fatalf("read %d bytes: they differ from what was written", b.Size)
	}
}

// wantWhole fails unless every shard of every body is good at home, and drives hold nothing else.
func (f *fleet) wantWhole(p *peer, bodies []body) {
	f.t.Helper()
	var shards, held int64
	for _, b := range bodies {
		for _, c := range b.Chunks {
			r, err := p.store.Check(f.t.Context(), c)
			if err != nil || r.Good != 1<<chunkstore.Shards-1 {
				f.t.Fatalf("chunk %v of volume %d: %+v, %v", c.ID, c.Volume, r, err)
			}
			shards += chunkstore.Shards
		}
		f.want(p, b)
	}
	for _, v := range f.All() {
		if v.Slots != v.Home {
			f.t.Fatalf("volume %d is away from home", v.ID)
		}
	}
	for _, d := range f.drives {
		if d.Status().Down == nil {
			held += d.Status().Shards
		}
	}
	if held != shards {
		f.t.Fatalf("drives hold %d shards, want %d", held, shards)
	}
}

// pass makes a pass of both workers and fails when chunks are under-protected or too many volumes are on their way.
func (f *fleet) pass(p *peer) (rebalance.Progress, repair.Progress) {
	f.t.Helper()
	b, err := p.rebalance.RunOnce(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if b.Underway > rebalance.DefaultAway {
		f.t.Fatalf("%d volumes are on their way", b.Underway)
	}
	r, err := p.repair.RunOnce(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return b, r
}

// settle makes passes until nothing is left to move or to repair.
func (f *fleet) settle(p *peer) rebalance.Progress {
	f.t.Helper()
	for range 1000 {
		b, r := f.pass(p)
		if b.Volumes == 0 && b.Homeless == 0 && b.Open == 0 && r.UnderProtected == 0 && r.Away == 0 && r.Intents == 0 {
			return b
		}
	}
	b, r := f.pass(p)
	f.t.Fatalf("it does not settle: %+v, %+v", b, r)
	return b
}

// wantEmpty fails unless drives are named by no row and hold nothing.
func (f *fleet) wantEmpty(drives ...int) {
	f.t.Helper()
	for _, n := range drives {
		empty, left, err := rebalance.Empty(f.t.Context(), &f.topology, f.drives[n].ID())
		if err != nil || !empty || left != 0 {
			f.t.Fatalf("drive %d is named by %d volumes, %v", n, left, err)
		}
		if held := f.drives[n].Status().Shards; held != 0 {
			f.t.Fatalf("drive %d holds %d shards", n, held)
		}
	}
}
