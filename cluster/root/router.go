package root

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
)

const (
	// DefaultPatience is how long a call goes on without a leader: three elections of the longest kind.
	DefaultPatience = 10 * time.Second
	// firstPause and lastPause are the waits between rounds of attempts.
	firstPause = 10 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	// watchEvery is how often an attempt under way looks whether the leader has moved.
	watchEvery = 250 * time.Millisecond
)

// Config says what a Router finds peers by. Its functions must not block.
type Config struct {
	// Self is this peer.
	Self cluster.PeerID
	// Leader says which peer leads the root group as far as the replica on this peer knows, and whether that is this
	// peer; ok is false while it knows nobody, or there is no replica here. It is asked for every call.
	Leader func() (peer cluster.PeerID, local, ok bool)
	// Local is the seat at the replica on this peer; nil when there never is one.
	Local Seat
	// Remote is the seat at another peer, nil when it is not known how to reach it.
	Remote func(peer cluster.PeerID) Seat
	// Known are the peers that are asked who leads when Leader does not know.
	Known func() []cluster.PeerID
	// Patience is how long a call goes on from its first failed attempt. Zero means DefaultPatience.
	Patience time.Duration
}

// Router is the seat at whoever leads. Where this peer has no replica that knows, it asks the known peers, one after the
// other, until one leads or says who does, and remembers that. It waits while nobody leads, follows the hints of peers
// that do not, and repeats every call until there is an answer, or Patience is over: the error is ErrUnavailable then,
// and raft.ErrUnknownOutcome too for a command that may still be applied. When the caller's context ends the error is
// that of the context, and raft.ErrUnknownOutcome as before. It never is raft.ErrNotLeader, which would say something
// of the caller's own group.
type Router struct {
	config Config
	memo   memo
}

var _ Seat = (*Router)(nil)

// NewRouter returns a Router.
func NewRouter(c Config) *Router {
	if c.Patience <= 0 {
		c.Patience = DefaultPatience
	}
	return &Router{config: c, memo: memo{turn: make(chan struct{}, 1)}}
}

// Propose implements Seat.
func (r *Router) Propose(ctx context.Context, command []byte) (first uint64, err error) {
	err = r.do(ctx, func(ctx context.Context, s Seat) (err error) {
		first, err = s.Propose(ctx, command)
		return err
	})
	return first, err
}

// Row implements Seat.
func (r *Router) Row(ctx context.Context, kind Kind, name string) (row Row, err error) {
	err = r.do(ctx, func(ctx context.Context, s Seat) (err error) {
		row, err = s.Row(ctx, kind, name)
		return err
	})
	return row, err
}

// Rows implements Seat.
func (r *Router) Rows(ctx context.Context, q Query) (rows []Row, err error) {
	err = r.do(ctx, func(ctx context.Context, s Seat) (err error) {
		rows, err = s.Rows(ctx, q)
		return err
	})
	return rows, err
}

// Here is what this peer answers by itself, for its Handler: what it says while it leads, else NotLeader with the leader
// that it knows.
func (r *Router) Here() Seat { return here{&r.config} }

// do calls until there is an answer, or no hope.
func (r *Router) do(ctx context.Context, call func(context.Context, Seat) error) error {
	w := waiting{ctx: ctx, router: r, pause: firstPause}
	w.newRound()
	for ctx.Err() == nil {
		t, found := w.next()
		if !found {
			if !w.wait() {
				break
			}
			continue
		}
		err := r.attempt(ctx, t, call)
		if answered(err) {
			r.memo.led(t.peer)
			return err
		}
		r.memo.forget(t.peer)
		w.note(fmt.Errorf("peer %v: %w", t.peer, err))
	}
	return w.ended()
}

// answered says that an error, or none, is the answer to a call.
func answered(err error) bool {
	return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || errors.Is(err, ErrTooLarge) ||
		errors.Is(err, raft.ErrTooLarge)
}

// target is where an attempt goes.
type target struct {
	peer cluster.PeerID
	seat Seat
}

// target is the way to a peer; seat is nil when there is none.
func (c *Config) target(peer cluster.PeerID) target {
	switch peer {
	case cluster.PeerID{}:
		return target{}
	case c.Self:
		return target{peer, c.Local}
	}
	return target{peer, c.Remote(peer)}
}

// leader is who leads as far as this peer knows; zero when it does not.
func (c *Config) leader() cluster.PeerID {
	peer, local, ok := c.Leader()
	switch {
	case !ok:
		return cluster.PeerID{}
	case local:
		return c.Self
	}
	return peer
}

var errMoved = errors.New("the leader moved while the call was under way")

// attempt calls once. It gives up when another peer begins to lead meanwhile, so that one that hangs, or that does not
// know yet that it was deposed, holds nobody back.
func (r *Router) attempt(ctx context.Context, t target, call func(context.Context, Seat) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(ctx, t.peer, cancel)
	}()
	err := call(ctx, t.seat)
	cancel(nil)
	<-watched
	if !answered(err) && errors.Is(context.Cause(ctx), errMoved) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return err
}

// watch ends an attempt when a leader is known that neither is its peer nor was known when it began: what the replica
// here knows may be older than the hint that was followed.
func (r *Router) watch(ctx context.Context, peer cluster.PeerID, cancel context.CancelCauseFunc) {
	before := r.config.leader()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now := r.config.leader(); now != (cluster.PeerID{}) && now != before && now != peer {
				cancel(errMoved)
				return
			}
		}
	}
}

// here is the seat of Router.Here.
type here struct{ config *Config }

// seat is that of this peer while it leads.
func (h here) seat() (Seat, error) {
	leader := h.config.leader()
	if leader == h.config.Self && h.config.Local != nil {
		return h.config.Local, nil
	}
	return nil, h.notLeader()
}

// notLeader says who leads, if another peer does.
func (h here) notLeader() error {
	leader := h.config.leader()
	if leader == h.config.Self {
		return NotLeader{}
	}
	return NotLeader{Peer: leader}
}

// hint adds who leads to the error of a replica that has just ceased to.
func (h here) hint(err error) error {
	if errors.Is(err, raft.ErrNotLeader) && hintOf(err) == (cluster.PeerID{}) {
		return fmt.Errorf("%w: %w", h.notLeader(), err)
	}
	return err
}

// Propose implements Seat.
func (h here) Propose(ctx context.Context, command []byte) (uint64, error) {
	seat, err := h.seat()
	if err != nil {
		return 0, err
	}
	first, err := seat.Propose(ctx, command)
	return first, h.hint(err)
}

// Row implements Seat.
func (h here) Row(ctx context.Context, kind Kind, name string) (Row, error) {
	seat, err := h.seat()
	if err != nil {
		return Row{}, err
	}
	row, err := seat.Row(ctx, kind, name)
	return row, h.hint(err)
}

// Rows implements Seat.
func (h here) Rows(ctx context.Context, q Query) ([]Row, error) {
	seat, err := h.seat()
	if err != nil {
		return nil, err
	}
	rows, err := seat.Rows(ctx, q)
	return rows, h.hint(err)
}
