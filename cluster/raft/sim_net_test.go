package raft

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// dice is a random source for many goroutines.
type dice struct {
	mu     sync.Mutex
	random *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(n)
}

func (d *dice) upTo(t time.Duration) time.Duration { return time.Duration(d.n(int(t) + 1)) }

// simNet is a network that drops, delays, doubles and reorders, and that can be cut in one direction.
type simNet struct {
	dice *dice
	loss int // of 1000 batches, lost or doubled
	late time.Duration

	mu        sync.Mutex
	hosts     map[cluster.PeerID]*Host
	cut       map[[2]cluster.PeerID]bool
	dropped   int
	snapshots int
}

func (n *simNet) to(from, to cluster.PeerID) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[[2]cluster.PeerID{from, to}] {
		return nil
	}
	return n.hosts[to]
}

func (n *simNet) setCut(from, to cluster.PeerID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]cluster.PeerID{from, to}] = cut
}

func (n *simNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

type simPort struct {
	net  *simNet
	from cluster.PeerID
}

func (p simPort) Send(to cluster.PeerID, batch []byte) {
	copies := 1
	if p.net.dice.n(1000) < p.net.loss {
		copies = 2 * p.net.dice.n(2) // none, or twice
	}
	if copies == 0 {
		p.net.mu.Lock()
		p.net.dropped++
		p.net.mu.Unlock()
	}
	for range copies {
		time.AfterFunc(p.net.dice.upTo(p.net.late), func() {
			if h := p.net.to(p.from, to); h != nil {
				if err := h.Receive(slices.Clone(batch)); err != nil {
					panic(err)
				}
			}
		})
	}
}

type simSnapshots simPort

func (s simSnapshots) Send(ctx context.Context, to PeerReplica, stream io.Reader) error {
	h := s.net.to(s.from, to.Peer)
	if h == nil {
		return errors.New("cut off")
	}
	err := h.Install(ctx, to.Group, &simStream{stream, s, to.Peer})
	if err == nil {
		s.net.mu.Lock()
		s.net.snapshots++
		s.net.mu.Unlock()
	}
	return err
}

// simStream ends when the network is cut.
type simStream struct {
	io.Reader
	port simSnapshots
	to   cluster.PeerID
}

func (s *simStream) Read(p []byte) (int, error) {
	pause(s.port.net.dice.upTo(s.port.net.late))
	if s.port.net.to(s.port.from, s.to) == nil {
		return 0, errors.New("cut off meanwhile")
	}
	return s.Reader.Read(p)
}
