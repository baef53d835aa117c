package route

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/tablet"
)

const (
	// lease is how long the leader keeps a Router's session without a word of it: several elections, and short enough
	// that the results of a peer that is gone do not stay for long.
	lease = time.Minute
	// renewEvery leaves two more tries before the lease is over.
	renewEvery = lease / 3
	// slots is how many writes of a Router may have Ops at once: as many as a leader takes of all routers together, and
	// half of those whose results it keeps.
	slots = tablet.Slots / 2
	// maxSessions is how many sessions one write may see end before it was tried.
	maxSessions = 3
	// closeTimeout is how long Close looks for the leader, to end the session before its lease does.
	closeTimeout = 2 * time.Second
)

// errRouterClosed refuses writes after Close.
var errRouterClosed = fmt.Errorf("router is closed: %w", metadata.ErrUnavailable)

// session is one session at the leader. The tablet keeps one result for each sequence number modulo tablet.Slots, so a
// slot is that remainder: who holds it is the only one that writes there, for as long as it takes, and the next one
// counts on by tablet.Slots.
type session struct {
	id uint64
	// free has the next sequence number of every slot that nobody holds.
	free chan uint64
}

func newSession(id uint64) *session {
	s := &session{id: id, free: make(chan uint64, slots)}
	for seq := range uint64(slots) {
		s.free <- seq + 1
	}
	return s
}

// take waits for a slot.
func (s *session) take(ctx context.Context) (metadata.Op, error) {
	select {
	case seq := <-s.free:
		return metadata.Op{Session: s.id, Seq: seq}, nil
	case <-ctx.Done():
		return metadata.Op{}, ctx.Err()
	}
}

// give gives the slot of an Op back that is not tried again.
func (s *session) give(op metadata.Op) { s.free <- op.Seq + tablet.Slots }

// sessions are those of a Router, one at a time.
type sessions struct {
	router *Router
	// opening has room for who opens one.
	opening chan struct{}

	mu     sync.Mutex
	now    *session // nil when none is open
	renews bool
	closed bool

	// life ends with Close; work is the renewal.
	life   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

func (s *sessions) init(r *Router) {
	s.router, s.opening = r, make(chan struct{}, 1)
	s.life, s.cancel = context.WithCancel(context.Background())
}

func (s *sessions) current() (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errRouterClosed
	}
	return s.now, nil
}

// open returns the session that is open, or a new one.
func (s *sessions) open(ctx context.Context) (*session, error) {
	if now, err := s.current(); now != nil || err != nil {
		return now, err
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if now, err := s.current(); now != nil || err != nil {
		return now, err
	}
	id, err := s.router.OpenSession(ctx, lease)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errRouterClosed // it ends with its lease
	}
	s.now = newSession(id)
	if !s.renews {
		s.renews = true
		s.work.Go(s.renew)
	}
	return s.now, nil
}

// ended tells whether a session is over, and makes room for the next one then.
func (s *sessions) ended(ctx context.Context, which *session) bool {
	if err := s.router.RenewSession(ctx, which.id); !errors.Is(err, metadata.ErrSessionFenced) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == which {
		s.now = nil
	}
	return true
}

// renew keeps the session alive until Close. A renewal that fails is left to the next one.
func (s *sessions) renew() {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.life.Done():
			return
		}
		if now, _ := s.current(); now != nil {
			s.ended(s.life, now)
		}
	}
}

// Close ends the Router's session. No write may come after; those under way may fail. A leader that cannot be reached
// ends the session when its lease is over.
func (r *Router) Close() error {
	s := &r.own
	s.mu.Lock()
	now := s.now
	s.now, s.closed = nil, true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	if now == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := r.CloseSession(ctx, now.id); err != nil && !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("end the router's session: %w", err)
	}
	return nil
}

// change is ask for a write that happens once: it gets an Op when neither its arguments nor its context bring one.
func change[A any](ctx context.Context, r *Router, op metadata.Op, call func(context.Context, metadata.Names) (A, error)) (answer A, err error) {
	if r.localOnly || op != (metadata.Op{}) || metadata.OpFrom(ctx) != (metadata.Op{}) {
		return ask(ctx, r, write, call)
	}
	if r.config.Alone != nil && r.config.Alone() {
		return ask(ctx, r, once, call)
	}
	for range maxSessions {
		var s *session
		if s, err = r.own.open(ctx); err != nil {
			return answer, fmt.Errorf("a session for a write: %w", notDone(err))
		}
		if op, err = s.take(ctx); err != nil {
			return answer, err
		}
		answer, err = ask(metadata.WithOp(ctx, op), r, write, call)
		s.give(op)
		// The session of the error may be another one, which the write names.
		if !errors.Is(err, metadata.ErrSessionFenced) || !r.own.ended(ctx, s) {
			return answer, err
		}
		if errors.Is(err, raft.ErrUnknownOutcome) {
			return answer, err
		}
	}
	return answer, fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
}

// doOnce is change without an answer.
func (r *Router) doOnce(ctx context.Context, op metadata.Op, call func(context.Context, metadata.Names) error) error {
	_, err := change(ctx, r, op, func(ctx context.Context, n metadata.Names) (struct{}, error) { return struct{}{}, call(ctx, n) })
	return err
}

// unopened is the error of a session that could not be opened. That its own outcome is unknown says nothing of the write
// that it was for: that was not tried.
type unopened struct{ err error }

// Error implements error.
func (e unopened) Error() string { return e.err.Error() }

// Is matches what the error is, but for the outcome.
func (e unopened) Is(target error) bool {
	return target != raft.ErrUnknownOutcome && errors.Is(e.err, target)
}

func notDone(err error) error { return unopened{err} }
