package rebalance_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
)

// lead runs the workers of a peer until stop is called.
func (p *peer) lead(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	for name, run := range map[string]func(context.Context) error{"repair": p.repair.Run, "rebalance": p.rebalance.Run} {
		wait.Go(func() {
			if err := run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	return func() {
		cancel()
		wait.Wait()
	}
}

// clients write and delete through both peers until stopped, and keep what must be there.
type clients struct {
	mu      sync.Mutex
	bodies  []body
	deleted []chunkstore.Chunk // not confirmed by every slot yet
	writes  int
}

func (c *clients) run(ctx context.Context, f *fleet, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	for n := uint64(0); ctx.Err() == nil; n++ {
		p := f.peers[random.IntN(len(f.peers))]
		b, err := f.write(p, seed<<32|n, 1+random.IntN(2*row))
		c.mu.Lock()
		c.writes++
		if err == nil {
			c.bodies = append(c.bodies, b)
		}
		if len(c.bodies) > 40 || random.IntN(4) == 0 && len(c.bodies) > 0 {
			at := random.IntN(len(c.bodies))
			c.deleted = append(c.deleted, c.bodies[at].Chunks...)
			c.bodies = append(c.bodies[:at], c.bodies[at+1:]...)
		}
		chunks := c.deleted
		c.deleted = nil
		c.mu.Unlock()
		left, _ := p.store.Delete(context.Background(), chunks) // what is left is tried again
		c.mu.Lock()
		c.deleted = append(c.deleted, left...)
		c.mu.Unlock()
	}
}

// TestTwoLeadersAtATimeLoseNothing runs the workers of two peers, stops and starts them at random, grows the cluster,
// drains drives, and lets others go down and come back, while clients write and delete.
func TestTwoLeadersAtATimeLoseNothing(t *testing.T) {
	for seed := range uint64(3) {
		f := newFleet(t, 2)
		f.add(1, 14)
		random := rand.New(rand.NewPCG(seed, 2))
		c := &clients{}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		for i := range uint64(2) {
			wait.Go(func() { c.run(ctx, f, seed*2+i) })
		}
		stops := make([]func(), len(f.peers))
		draining := []int{1, 6, 12}
		down := -1
		deadline := time.Now().Add(time.Minute) // of a machine that does other things too
		step := time.NewTicker(20 * time.Millisecond)
		for n := 0; n < 120 || !f.tested(c) && time.Now().Before(deadline); n++ {
			<-step.C
			at := random.IntN(len(f.peers))
			if stops[at] == nil {
				stops[at] = f.peers[at].lead(t)
			} else if random.IntN(3) == 0 {
				stops[at]()
				stops[at] = nil
			}
			switch n {
			case 20:
				f.add(2, 8)
			case 40:
				f.state(rebalance.Leaves, draining...)
			case 60:
				f.add(3, 8)
			}
			if random.IntN(4) == 0 {
				if down >= 0 {
					f.drives[down].Return()
					down = -1
				} else {
					down = random.IntN(len(f.drives))
					f.drives[down].Down(errors.New("cable"))
				}
			}
		}
		step.Stop()
		cancel()
		wait.Wait()
		for _, stop := range stops {
			if stop != nil {
				stop()
			}
		}
		if down >= 0 {
			f.drives[down].Return()
		}
		f.conclude(seed, c, draining)
	}
}

// conclude lets one leader finish, and looks at everything.
func (f *fleet) conclude(seed uint64, c *clients, draining []int) {
	f.t.Helper()
	leader := f.join()
	left, err := leader.store.Delete(f.t.Context(), c.deleted)
	if len(left) > 0 {
		f.t.Fatalf("seed %d: %d chunks cannot be deleted: %v", seed, len(left), err)
	}
	progress := f.settle(leader)
	f.wantEmpty(draining...)
	f.wantNoLeftovers()
	for _, p := range f.peers {
		for _, b := range c.bodies {
			f.want(p, b)
		}
	}
	for _, b := range c.bodies {
		for _, chunk := range b.Chunks {
			if r, err := leader.store.Check(f.t.Context(), chunk); err != nil || r.Good != 1<<chunkstore.Shards-1 {
				f.t.Fatalf("seed %d: chunk %v: %+v, %v", seed, chunk.ID, r, err)
			}
		}
	}
	if !f.tested(c) || len(c.bodies) == 0 {
		f.t.Fatalf("seed %d: %d writes, of which %d bodies stay: nothing was put to the test", seed, c.writes, len(c.bodies))
	}
	f.t.Logf("seed %d: %d writes, %d bodies stay, %+v", seed, c.writes, len(c.bodies), progress)
}

// tested says that there was load, that slots moved, and that calls met a drive which was down.
func (f *fleet) tested(c *clients) bool {
	moved, fired := int64(0), 0
	for _, d := range f.drives {
		fired += d.Fired(memory.Any)
	}
	for _, p := range f.peers {
		moved += p.repair.Progress().Moved
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return moved > 0 && fired > 0 && c.writes > 40
}

// wantNoLeftovers fails when a drive holds a shard of a sealed volume that the row does not name it for.
func (f *fleet) wantNoLeftovers() {
	f.t.Helper()
	for _, v := range f.All() {
		for n, d := range f.drives {
			infos, err := d.Shards(f.t.Context(), v.ID)
			if err != nil {
				f.t.Fatal(err)
			}
			for _, info := range infos {
				if v.State == chunkstore.VolumeSealed && v.Slots[info.Key.Shard] != d.ID() {
					f.t.Fatalf("drive %d holds %v, which is at drive %v", n, info.Key, v.Slots[info.Key.Shard])
				}
			}
		}
	}
}
