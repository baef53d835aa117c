package raft

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// simPeer is a peer that loses power and comes back.
type simPeer struct {
	id    byte
	bench *bench

	mu   sync.Mutex
	host *Host // nil while it is down
	f    *vfs.Memory
}

func (p *simPeer) up() *Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host
}

// sim is a cluster in a bubble, its clients and what they saw.
type sim struct {
	t     *testing.T
	seed  uint64
	dice  *dice
	net   *simNet
	peers []*simPeer
	clock atomic.Int64 // numbers invocations and returns

	mu     sync.Mutex
	events []event
}

// The groups of a sim. Replicas of the first move.
const (
	movingGroup GroupID = 1 + iota
	quietGroup
)

// newSim bootstraps a group on the first peers; one more peer is there for replicas that move.
func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, seed: seed, dice: &dice{random: rand.New(rand.NewPCG(seed, 7))}}
	s.net = &simNet{dice: s.dice, hosts: map[cluster.PeerID]*Host{}, cut: map[[2]cluster.PeerID]bool{},
		loss: int(seed * 37 % 200), late: time.Duration(1+seed%5) * 10 * time.Millisecond}
	voters := []uint64{1, 2, 3}
	if seed%3 == 2 {
		voters = append(voters, 4, 5)
	}
	for id := 1; id <= len(voters)+1; id++ {
		f := vfs.NewMemory(seed*16 + uint64(id))
		b := newBench(t, f, 3)
		peer := cluster.PeerID{byte(id)}
		b.config.Transport, b.config.Snapshots, b.config.PeerOf = simPort{s.net, peer}, simSnapshots{s.net, peer}, peerOf
		b.config.Tick, b.config.CheckpointBytes = 50*time.Millisecond, 128<<10
		if seed%2 == 1 {
			b.config.kept = 1 << 10 // followers soon need snapshots
		}
		groups := []GroupID{movingGroup, quietGroup}
		b.config.Replica, b.config.Voters = uint64(id), voters
		if id > len(voters) {
			b.config.Voters, groups = []uint64{uint64(id)}, nil
		}
		h, err := Bootstrap(t.Context(), b.config, groups...)
		if err != nil {
			t.Fatal(err)
		}
		p := &simPeer{id: byte(id), bench: b, host: h, f: f}
		s.peers = append(s.peers, p)
		s.net.hosts[peer] = h
	}
	return s
}

// lose cuts a peer's power at one of its next operations, waits, and starts it again.
func (s *sim) lose(p *simPeer, down time.Duration) {
	h := p.up()
	if h == nil {
		return
	}
	cut := cutPower(p.f, s.dice.n(40))
	pause(s.dice.upTo(100 * time.Millisecond))
	after, _ := cut()
	s.stop(p, h)
	pause(down)
	if s.dice.n(4) == 0 {
		if err := after.RemoveAll(p.bench.config.StateDir); err != nil {
			s.t.Errorf("seed %d: %v", s.seed, err)
		}
	}
	s.start(p, after)
}

func (s *sim) stop(p *simPeer, h *Host) {
	p.mu.Lock()
	p.host = nil
	p.mu.Unlock()
	s.net.mu.Lock()
	delete(s.net.hosts, cluster.PeerID{p.id})
	s.net.mu.Unlock()
	_ = h.Close() // its file system may be gone
}

func (s *sim) start(p *simPeer, f *vfs.Memory) {
	b := p.bench.on(f)
	h, err := Open(context.Background(), b.config)
	if err != nil {
		s.t.Errorf("seed %d: peer %d cannot open: %v", s.seed, p.id, err)
		return
	}
	p.mu.Lock()
	p.bench, p.host, p.f = b, h, f
	p.mu.Unlock()
	s.net.mu.Lock()
	s.net.hosts[cluster.PeerID{p.id}] = h
	s.net.mu.Unlock()
}

// leader is the peer that its own host takes for the leader, or a random one.
func (s *sim) leader(group GroupID) *simPeer {
	for _, p := range s.peers {
		if h := p.up(); h != nil {
			if g := h.Group(group); g != nil && g.Leader().Replica%100 == uint64(p.id) {
				return p
			}
		}
	}
	return s.peers[s.dice.n(len(s.peers))]
}

// isolate cuts a peer off from all others, in one direction or both.
func (s *sim) isolate(p *simPeer, in, out bool) {
	for _, other := range s.peers {
		if other != p {
			s.net.setCut(cluster.PeerID{other.id}, cluster.PeerID{p.id}, in)
			s.net.setCut(cluster.PeerID{p.id}, cluster.PeerID{other.id}, out)
		}
	}
}

// trouble does one harm after another until ctx ends, and heals what it cut.
func (s *sim) trouble(ctx context.Context) {
	for ctx.Err() == nil {
		group := movingGroup + GroupID(s.dice.n(2))
		lasts := 100*time.Millisecond + s.dice.upTo(900*time.Millisecond)
		switch s.dice.n(9) {
		case 0:
			s.isolate(s.leader(group), true, true)
		case 1: // it hears nobody and is heard
			s.isolate(s.leader(group), true, false)
		case 2: // it is heard by nobody and hears
			s.isolate(s.leader(group), false, true)
		case 3: // halves
			for i, p := range s.peers {
				for j, q := range s.peers {
					s.net.setCut(cluster.PeerID{p.id}, cluster.PeerID{q.id}, i%2 != j%2)
				}
			}
		case 4: // flapping
			p := s.leader(group)
			for i := range 6 {
				s.isolate(p, i%2 == 0, i%2 == 0)
				pause(s.dice.upTo(200 * time.Millisecond))
			}
		case 5:
			s.lose(s.leader(group), s.dice.upTo(time.Second))
		case 6: // all at once
			var wait sync.WaitGroup
			for _, p := range s.peers {
				wait.Go(func() { s.lose(p, s.dice.upTo(200*time.Millisecond)) })
			}
			wait.Wait()
		case 7:
			if h := s.leader(group).up(); h != nil {
				if err := h.Checkpoint(ctx); err != nil && ctx.Err() == nil {
					s.t.Logf("seed %d: checkpoint: %v", s.seed, err)
				}
			}
		case 8:
			if h := s.leader(group).up(); h != nil && h.Group(group) != nil {
				short, cancel := context.WithTimeout(ctx, time.Second)
				_ = h.Group(group).Transfer(short, 1+uint64(s.dice.n(len(s.peers)))) // it may fail in many ways
				cancel()
			}
		}
		pause(lasts)
		s.net.heal()
		pause(s.dice.upTo(600 * time.Millisecond))
	}
}

// simSeeds is how many seeds run, in the long form twice as many; HOLDFAST_RAFT_SEEDS asks for more, HOLDFAST_RAFT_SEED for one of them alone.
func simSeeds(t *testing.T) (first, count uint64) {
	count = 100
	switch {
	case long():
		count = 200
	case testing.Short():
		count = 20
	}
	number := func(name string) (uint64, bool) {
		text := os.Getenv(name)
		if text == "" {
			return 0, false
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n, true
	}
	if one, ok := number("HOLDFAST_RAFT_SEED"); ok {
		return one, 1
	}
	if n, ok := number("HOLDFAST_RAFT_SEEDS"); ok {
		count = n
	}
	return 0, count
}

// TestClustersKeepTheirWordInTrouble runs clusters of 3 and 5 voters on networks that fail and peers that lose power, and
// checks what their clients saw: nothing acknowledged is lost, nothing refused is there, reads are linearizable, and all
// replicas end with the same history.
func TestClustersKeepTheirWordInTrouble(t *testing.T) {
	first, count := simSeeds(t)
	const lanes = 2
	var total simTally
	t.Run("seeds", func(t *testing.T) {
		for lane := range uint64(lanes) {
			t.Run(fmt.Sprint("lane", lane), func(t *testing.T) {
				t.Parallel()
				for seed := first + lane; seed < first+count && !t.Failed(); seed += lanes {
					t.Run(fmt.Sprint(seed), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { runSim(t, seed, &total) })
					})
				}
			})
		}
	})
	t.Logf("%d clusters: %d acknowledged, %d unknown, %d refused, %d read, %d batches lost, %d snapshots, %d replicas moved", count,
		total.acked, total.unknown, total.refused, total.reads, total.dropped, total.snapshots, total.moves)
	if count >= 20 && (total.acked == 0 || total.unknown == 0 || total.refused == 0 || total.reads == 0 ||
		total.dropped == 0 || total.snapshots == 0 || total.moves == 0) {
		t.Error("something was not exercised")
	}
}

// simTally counts what happened in all runs.
type simTally struct {
	mu                                                        sync.Mutex
	acked, unknown, refused, reads, dropped, snapshots, moves int
}

func runSim(t *testing.T, seed uint64, total *simTally) {
	s := newSim(t, seed)
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() { s.trouble(ctx) })
	for client := range 4 {
		wait.Go(func() { s.client(ctx, client) })
	}
	moves := 0
	if seed%4 >= 2 {
		wait.Go(func() { moves = s.move(ctx) })
	}
	wait.Wait()
	s.net.heal()
	moved, quiet := s.settle(movingGroup), s.settle(quietGroup)
	total.mu.Lock()
	s.net.mu.Lock()
	total.dropped += s.net.dropped
	total.snapshots += s.net.snapshots
	s.net.mu.Unlock()
	total.moves += moves
	s.check(movingGroup, moved, total)
	s.check(quietGroup, quiet, total)
	total.mu.Unlock()
	for _, p := range s.peers {
		if err := p.up().Close(); err != nil {
			t.Errorf("seed %d: close: %v", seed, err)
		}
	}
	pause(stateLingers + s.net.late)
}

// settle waits until all members have the same history, and returns the commands.
func (s *sim) settle(group GroupID) []string {
	s.t.Helper()
	for range 600 {
		pause(100 * time.Millisecond)
		if list, ok := s.alike(group); ok {
			return list
		}
	}
	for _, p := range s.peers {
		if g := p.up().Group(group); g != nil {
			voters, learners := g.Members()
			s.t.Logf("peer %d: %+v, leader %+v, voters %v, learners %v", p.id, pointOf(s.t, p.up(), group), g.Leader(), voters, learners)
		}
	}
	s.t.Fatalf("seed %d: the replicas do not agree within a minute", s.seed)
	return nil
}

func (s *sim) alike(group GroupID) (list []string, ok bool) {
	leader := s.leader(group).up()
	if leader.Group(group) == nil {
		return nil, false
	}
	short, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := leader.Group(group).Barrier(short); err != nil {
		return nil, false
	}
	point := pointOf(s.t, leader, group)
	voters, learners := leader.Group(group).Members()
	for _, id := range slices.Concat(voters, learners) {
		h := s.peers[id%100-1].up()
		if h.Group(group) == nil {
			if slices.Contains(learners, id) {
				continue // it was added and its replica not made: the move ended there
			}
			return nil, false
		}
		if pointOf(s.t, h, group) != point {
			return nil, false
		}
		got, err := items(h, group)
		if err != nil {
			s.t.Fatalf("seed %d: replica %d: %v", s.seed, id, err)
		}
		if list == nil {
			list = got
		}
		if !slices.Equal(list, got) {
			s.t.Fatalf("seed %d: replica %d has other items at the same point", s.seed, id)
		}
	}
	return list, fmt.Sprint(pointOf(s.t, leader, group)) == fmt.Sprint(point)
}

// pause passes virtual time: all of this runs in a bubble.
func pause(t time.Duration) { time.Sleep(t) }
