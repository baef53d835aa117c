package root

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
)

const (
	// firstProbe is how long a peer may take to say who leads. The next rounds take twice as long each, up to lastProbe:
	// a leader that is slow for everybody is found in the end.
	firstProbe = time.Second
	lastProbe  = 4 * time.Second
	// searchEvery is the least time between two searches, whoever begins them: many calls wait for one election.
	searchEvery = 100 * time.Millisecond
)

// memo is what a Router has learned of who leads.
type memo struct {
	// turn is held by the one call that searches: the others take what it finds.
	turn chan struct{}

	mu sync.Mutex
	// leader led when it was asked last; zero when nobody is known to.
	leader cluster.PeerID
	// searches counts those that have ended, the last of them at ended.
	searches uint64
	ended    time.Time
}

func (m *memo) led(peer cluster.PeerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader = peer
}

func (m *memo) forget(peer cluster.PeerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader == peer {
		m.leader = cluster.PeerID{}
	}
}

func (m *memo) recall() cluster.PeerID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

// news counts the searches that have ended, and tells whether the last did so just now.
func (m *memo) news() (searches uint64, justNow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.searches, time.Since(m.ended) < searchEvery
}

// search asks the known peers who leads; zero when none says so before ctx ends.
func (r *Router) search(ctx context.Context, limit time.Duration) cluster.PeerID {
	m := &r.memo
	before, _ := m.news()
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return cluster.PeerID{}
	}
	defer func() { <-m.turn }()
	if searches, justNow := m.news(); justNow || searches != before {
		return m.recall() // another call has searched
	}
	leader := r.askAround(ctx, limit)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.searches, m.ended = m.searches+1, time.Now()
	if leader != (cluster.PeerID{}) {
		m.leader = leader
	}
	return leader
}

// askAround asks each known peer once, in any order but that hints are followed first.
func (r *Router) askAround(ctx context.Context, limit time.Duration) cluster.PeerID {
	queue := slices.Clone(r.config.Known())
	rand.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
	asked := map[cluster.PeerID]bool{{}: true, r.config.Self: true}
	for len(queue) > 0 && ctx.Err() == nil {
		peer := queue[0]
		queue = queue[1:]
		if asked[peer] {
			continue
		}
		asked[peer] = true
		t := r.config.target(peer)
		if t.seat == nil {
			continue
		}
		leads, hint := probe(ctx, t.seat, limit)
		if leads {
			return peer
		}
		if !asked[hint] {
			queue = append([]cluster.PeerID{hint}, queue...)
		}
	}
	return cluster.PeerID{}
}

// probe asks a peer whether it leads, by a small read.
func probe(ctx context.Context, seat Seat, limit time.Duration) (leads bool, hint cluster.PeerID) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := seat.Row(ctx, Cluster, incarnationName)
	return answered(err), hintOf(err)
}

// waiting is the patience of one call. It goes in rounds of attempts, with a pause after each; in a round it asks nobody
// twice but the one that a search has found.
type waiting struct {
	ctx    context.Context
	router *Router
	until  time.Time // zero before the first failure
	pause  time.Duration
	rounds int

	// hint is who leads by the last error.
	hint     cluster.PeerID
	tried    map[cluster.PeerID]bool
	searched bool

	last error
	// unknown is set once a command may have been applied.
	unknown bool
}

func (w *waiting) newRound() {
	w.tried = map[cluster.PeerID]bool{{}: true}
	w.searched = false
}

// next is where the next attempt of the round goes.
func (w *waiting) next() (target, bool) {
	c := &w.router.config
	for _, peer := range [...]cluster.PeerID{w.hint, c.leader(), w.router.memo.recall()} {
		if t := w.try(peer); t.seat != nil {
			return t, true
		}
	}
	if w.searched {
		return target{}, false
	}
	w.searched = true
	w.begin()
	ctx, cancel := context.WithDeadline(w.ctx, w.until)
	defer cancel()
	peer := w.router.search(ctx, min(firstProbe<<min(w.rounds, 8), lastProbe))
	w.tried[peer] = true
	t := c.target(peer)
	return t, t.seat != nil
}

// try is the way to a peer that was not tried in this round.
func (w *waiting) try(peer cluster.PeerID) target {
	if w.tried[peer] {
		return target{}
	}
	w.tried[peer] = true
	t := w.router.config.target(peer)
	if t.seat == nil {
		w.last = fmt.Errorf("peer %v cannot be reached", peer)
		w.begin()
	}
	return t
}

// begin begins to be impatient.
func (w *waiting) begin() {
	if w.until.IsZero() {
		w.until = time.Now().Add(w.router.config.Patience)
	}
}

// note takes in how an attempt failed.
func (w *waiting) note(err error) {
	w.begin()
	w.last = err
	w.hint = hintOf(err)
	w.unknown = w.unknown || errors.Is(err, raft.ErrUnknownOutcome)
}

// wait pauses before another round, and tells whether there is to be one.
func (w *waiting) wait() bool {
	left := time.Until(w.until)
	if left <= 0 {
		return false
	}
	// Half of the pause is random: those who wait for the same election do not all come at once.
	timer := time.NewTimer(min(w.pause/2+rand.N(w.pause/2+1), left))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.ctx.Done():
		return false
	}
	w.pause = min(2*w.pause, lastPause)
	w.rounds++
	w.newRound()
	return true
}

// ended is the error of a call that ends without an answer. What the attempts met is in its text only: their errors
// speak of other peers.
func (w *waiting) ended() error {
	err := w.ctx.Err()
	if err == nil {
		err = ErrUnavailable
	}
	if w.unknown {
		err = fmt.Errorf("%w: %w", raft.ErrUnknownOutcome, err)
	}
	if w.last == nil {
		return fmt.Errorf("%w: nobody leads it", err)
	}
	return fmt.Errorf("%w: %v", err, w.last)
}
