package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// TestGatewaysShareTheDrives lets three peers write, read, delete, repair and seal over twelve drives at the same time,
// each as if it led, while drives go and come back and paths are cut for one peer only. After every round, with the
// faults as they are, a checker goes through all that was acknowledged.
func TestGatewaysShareTheDrives(t *testing.T) {
	seeds := 4
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := newGateways(t, uint64(seed))
			for range 5 {
				g.round()
				g.check()
			}
			g.heal()
			g.wantFaults()
		})
	}
}

// stored is a body that was acknowledged.
type stored struct {
	seed    uint64
	size    int
	chunks  []chunkstore.Chunk
	deleted bool // a delete of it was begun
}

func (s *stored) body() []byte { return storetest.Body(s.seed, s.size) }

type gateways struct {
	*storetest.Peers
	clock   clock
	rng     *rand.Rand
	workers []*repair.Worker

	mu        sync.Mutex
	ledger    []*stored
	waiting   []*stored // whose delete was not confirmed
	begun     int       // deletes; all are confirmed in the end
	confirmed int       // deletes that every slot confirmed in the middle of the trouble
	reads     int       // reads by the checker
	blind     int       // chunks that it could not ask of a peer that saw too few shards
	moved     int64
}

func newGateways(t *testing.T, seed uint64) *gateways {
	g := &gateways{rng: rand.New(rand.NewPCG(seed, 7))}
	g.Peers = storetest.NewPeers(t, 3, 12, func(c *chunkstore.Config) {
		c.Now = g.clock.now
		c.VolumeSize = 256 << 10
		c.Domains = func(id cluster.DriveID) chunkstore.Domains {
			return chunkstore.Domains{Peer: cluster.PeerID{id[0]/4 + 1}}
		}
	})
	for range g.All {
		g.workers = append(g.workers, nil)
	}
	for i := range g.All {
		g.startRepair(i)
	}
	return g
}

func (g *gateways) startRepair(i int) {
	if w := g.workers[i]; w != nil {
		g.moved += w.Progress().Moved
	}
	g.workers[i] = repair.New(repair.Config{
		Store: g.All[i].Store, Volumes: g.Volumes, Drives: g.All[i].Set, Share: 1, Log: slog.New(slog.DiscardHandler),
	})
}

// round runs all kinds of work on all peers at once while faults change under them.
func (g *gateways) round() {
	if i := g.rng.IntN(2 * len(g.All)); i < len(g.All) {
		g.All[i].Restart()
		g.startRepair(i)
	}
	var wait sync.WaitGroup
	for i, p := range g.All {
		wait.Go(func() { g.write(p, rand.New(rand.NewPCG(g.seedOf(), 1))) })
		wait.Go(func() { g.read(p, rand.New(rand.NewPCG(g.seedOf(), 2))) })
		wait.Go(func() { g.delete(p, rand.New(rand.NewPCG(g.seedOf(), 3))) })
		wait.Go(func() { g.repair(g.workers[i]) })
		wait.Go(func() { g.seal(p, rand.New(rand.NewPCG(g.seedOf(), 4))) })
	}
	wait.Wait()
}

// seedOf draws the seed of a goroutine.
func (g *gateways) seedOf() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rng.Uint64()
}

// fault changes one thing: at most two drives are down, and at most two paths of each peer are cut.
func (g *gateways) fault() {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, drive, peer := g.rng.IntN(4), g.rng.IntN(12), g.rng.IntN(len(g.All))
	links := g.All[peer].Links
	switch n {
	case 0:
		down := 0
		for _, d := range g.Drives {
			if d.Status().Down != nil {
				down++
			}
		}
		if down < 2 {
			g.Drives[drive].Down(errDevice)
		}
	case 1:
		g.Drives[drive].Return()
	case 2:
		cut := 0
		for _, l := range links {
			if l.Status().Down != nil && l.Drive.Status().Down == nil {
				cut++
			}
		}
		if cut < 2 {
			links[drive].Cut(true)
		}
	case 3:
		links[drive].Cut(false)
	}
	g.clock.advance(6 * time.Second) // longer than a drive is avoided for a failure
}

func (g *gateways) write(p *storetest.Peer, rng *rand.Rand) {
	for n := range 15 {
		if n%3 == 0 {
			g.fault()
		}
		s := &stored{seed: rng.Uint64(), size: 1 + rng.IntN(60_000)}
		if rng.IntN(8) == 0 {
			s.size = row + rng.IntN(row)
		}
		w, err := p.Store.Write(g.T.Context(), bytes.NewReader(s.body()), chunkstore.WriteOptions{Size: -1})
		if errors.Is(err, chunkstore.ErrSlowDown) {
			continue
		}
		if err != nil {
			g.T.Errorf("write: %v", err)
			return
		}
		for _, in := range w.Intents { // they are committed with the version that names the chunks
			if err := g.Volumes.AddIntent(g.T.Context(), in); err != nil {
				g.T.Error(err)
			}
		}
		s.chunks = w.Chunks
		g.mu.Lock()
		g.ledger = append(g.ledger, s)
		g.mu.Unlock()
	}
}

// some returns an acknowledged body that nobody deletes, and marks it as deleted if asked to. Nil: there is none.
func (g *gateways) some(rng *rand.Rand, remove bool) *stored {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ledger) == 0 {
		return nil
	}
	s := g.ledger[rng.IntN(len(g.ledger))]
	if s.deleted {
		return nil
	}
	s.deleted = remove
	return s
}

// read reads what the others wrote. It may fail, for what a peer sees changes under it, but never with wrong bytes.
func (g *gateways) read(p *storetest.Peer, rng *rand.Rand) {
	for range 30 {
		s := g.some(rng, false)
		if s == nil {
			continue
		}
		err := p.Verify(g.T.Context(), s.chunks, s.body())
		if err != nil && !errors.Is(err, chunkstore.ErrLost) {
			g.T.Errorf("read: %v", err)
		}
	}
}

func (g *gateways) delete(p *storetest.Peer, rng *rand.Rand) {
	for n := range 16 {
		s := g.doomed(rng, n%2 == 1)
		if s == nil {
			continue
		}
		left, err := p.Store.Delete(g.T.Context(), s.chunks)
		if (err == nil) != (len(left) == 0) {
			g.T.Errorf("delete: left %d, %v", len(left), err)
		}
		g.mu.Lock()
		if err == nil {
			g.confirmed++
		} else {
			g.waiting = append(g.waiting, s)
		}
		g.mu.Unlock()
	}
}

// doomed returns a body to delete, if again is set one whose delete was not confirmed. Nil: there is none.
func (g *gateways) doomed(rng *rand.Rand, again bool) *stored {
	if !again {
		return g.some(rng, true)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		return nil
	}
	s := g.waiting[0]
	g.waiting = g.waiting[1:]
	return s
}

func (g *gateways) repair(w *repair.Worker) {
	for range 4 {
		if _, err := w.RunOnce(g.T.Context()); err != nil {
			g.T.Errorf("repair: %v", err)
		}
	}
}

// seal seals volumes of others that live and write, whatever they are, and what some peer left open.
func (g *gateways) seal(p *storetest.Peer, rng *rand.Rand) {
	for range 3 {
		rows := g.Volumes.All()
		if len(rows) > 0 {
			v := rows[rng.IntN(len(rows))]
			if _, err := p.Store.Seal(g.T.Context(), v.ID); err != nil && !errors.Is(err, chunkstore.ErrDriveDown) && !errors.Is(err, chunkstore.ErrStaleVolume) {
				g.T.Errorf("seal: %v", err)
			}
		}
		suspect := g.All[rng.IntN(len(g.All))].ID
		err := p.Store.SealAbandoned(g.T.Context(), func(owner cluster.PeerID) bool { return owner == suspect })
		if err != nil && !errors.Is(err, chunkstore.ErrDriveDown) && !errors.Is(err, chunkstore.ErrStaleVolume) {
			g.T.Errorf("seal what is abandoned: %v", err)
		}
	}
}

// check holds the faults as they are and goes through everything acknowledged: a shard that is not where the row says
// is named by an intent, and each peer that sees eight shards of a chunk reads it.
func (g *gateways) check() {
	g.T.Helper()
	for _, s := range g.ledger {
		if s.deleted {
			continue
		}
		for _, c := range s.chunks {
			held := g.held(c)
			if unnamed := allMask &^ held &^ g.Volumes.Intent(c); unnamed != 0 {
				g.T.Errorf("shards %012b of chunk %v are not where the row says, and no intent names them", unnamed, c.ID)
			}
		}
		for i, p := range g.All {
			if !g.sees(p, s) {
				g.blind++
				continue
			}
			g.reads++
			if err := p.Verify(g.T.Context(), s.chunks, s.body()); err != nil {
				g.T.Errorf("peer %d: %v", i+1, err)
			}
		}
	}
}

// held returns which shards of a chunk lie where the row says, on drives that are up or not.
func (g *gateways) held(c chunkstore.Chunk) uint16 {
	var mask uint16
	v := g.Row(c.Volume)
	for i, id := range v.Slots {
		if g.Drive(id).Holds(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}) {
			mask |= 1 << i
		}
	}
	return mask
}

// sees says whether a peer can reach eight shards of every chunk.
func (g *gateways) sees(p *storetest.Peer, s *stored) bool {
	for _, c := range s.chunks {
		v, held := g.Row(c.Volume), g.held(c)
		for i, id := range v.Slots {
			if d, ok := p.Set.Get(id); !ok || d.Status().Down != nil {
				held &^= 1 << i
			}
		}
		if bits.OnesCount16(held) < 8 {
			return false
		}
	}
	return true
}

// heal ends all faults. Repair on one peer then brings everything to twelve shards at home, and every peer reads all of
// it; what was deleted is deleted once more where that was not confirmed, and nobody reads it.
func (g *gateways) heal() {
	g.T.Helper()
	for _, d := range g.Drives {
		d.Return()
	}
	for _, p := range g.All {
		for _, l := range p.Links {
			l.Cut(false)
		}
	}
	g.clock.advance(time.Minute)
	var gone []chunkstore.Chunk
	for _, s := range g.ledger {
		if s.deleted {
			gone = append(gone, s.chunks...)
			g.begun++
		}
	}
	var last repair.Progress
	for range 20 {
		if left, err := g.All[2].Store.Delete(g.T.Context(), gone); err != nil || len(left) != 0 {
			g.T.Fatalf("delete: left %d, %v", len(left), err)
		}
		var err error
		if last, err = g.workers[0].RunOnce(g.T.Context()); err != nil {
			g.T.Fatal(err)
		}
		if last.UnderProtected == 0 && last.Away == 0 && last.Intents == 0 {
			break
		}
	}
	if last.UnderProtected != 0 || last.Away != 0 || last.Intents != 0 {
		g.T.Fatalf("repair does not end: %+v", last)
	}
	for _, s := range g.ledger {
		for _, c := range s.chunks {
			switch held := g.held(c); {
			case s.deleted && held != 0:
				g.T.Errorf("chunk %v was deleted and shards %012b of it are there", c.ID, held)
			case !s.deleted && held != allMask:
				g.T.Errorf("chunk %v was repaired and has shards %012b", c.ID, held)
			}
		}
	}
	g.check()
}

// wantFaults fails the test when the run did not do what it is for.
func (g *gateways) wantFaults() {
	g.T.Helper()
	var lost, retried int64
	fired := 0
	for _, p := range g.All {
		retried += p.Store.Stats().Retried
		for _, l := range p.Links {
			lost += l.Lost()
		}
	}
	for _, d := range g.Drives {
		fired += d.Fired(memory.Any)
	}
	for i := range g.All {
		g.startRepair(i)
	}
	away := 0
	for _, v := range g.Volumes.All() {
		if v.Epoch > 2 {
			away++
		}
	}
	g.T.Logf("%d bodies, %d of %d deletes confirmed at once, %d reads checked, %d not; calls that met a cut path %d, a drive that was down %d; "+
		"chunks sent again %d, slots moved %d, volumes that moved %d of %d", len(g.ledger), g.confirmed, g.begun, g.reads, g.blind,
		lost, fired, retried, g.moved, away, len(g.Volumes.All()))
	if len(g.ledger) < 50 || g.begun == 0 || g.reads < 200 || lost == 0 || fired == 0 || retried == 0 || g.moved == 0 || away == 0 {
		g.T.Error("the faults, or the load, were not there")
	}
}

// TestPeersThatSeeDifferentDrives: each of three peers is cut off from four drives of its own, so all write doubled up on
// other drives, and read what the others wrote to drives that they do not see.
func TestPeersThatSeeDifferentDrives(t *testing.T) {
	ps := storetest.NewPeers(t, 3, 12, nil)
	for i, p := range ps.All {
		for _, l := range p.Links[4*i : 4*i+4] {
			l.Cut(true)
		}
	}
	body := storetest.Body(8, row)
	var written []chunkstore.Written
	for _, p := range ps.All {
		w := p.Write(body)
		if len(w.Intents) != 0 {
			t.Fatalf("%d intents although the writes doubled up", len(w.Intents))
		}
		written = append(written, w)
	}
	ctx := context.WithoutCancel(t.Context())
	for i, p := range ps.All {
		for j, w := range written {
			// Of the eight drives of j with 12 slots, p sees four with 4 to 8: enough when they hold two slots each.
			seen := 0
			for _, id := range ps.Row(w.Chunks[0].Volume).Slots {
				if int(id[0])/4 != i {
					seen++
				}
			}
			err := p.Verify(ctx, w.Chunks, body)
			if seen >= 8 && err != nil || seen < 8 && !errors.Is(err, chunkstore.ErrLost) {
				t.Errorf("peer %d sees %d shards of what peer %d wrote: %v", i, seen, j, err)
			}
		}
	}
}
