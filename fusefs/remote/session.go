package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// keptAnswers is how many answers of changes a session remembers: more than one mount has on their way.
const keptAnswers = 1024

// session is one mount as the service knows it.
type session struct {
	id             string
	bucket, prefix string
	owner          string
	objects        tree.Objects

	// seen is when the mount was last heard of, in nanoseconds since the process began.
	seen atomic.Int64

	mu      sync.Mutex
	ended   bool
	timer   *time.Timer
	readers map[uint64]*served
	answers map[uint64]*answer
	order   []uint64
}

// began is where the clock of session.seen starts; it is monotonic.
var began = time.Now()

// hear notes a sign of the mount.
func (s *session) hear() { s.seen.Store(int64(time.Since(began))) }

// silent is how long the mount was not heard of.
func (s *session) silent() time.Duration { return time.Since(began) - time.Duration(s.seen.Load()) }

// served is an open reader; uses counts the reads in progress, so that it is not closed under one.
type served struct {
	tree.Reader
	uses sync.WaitGroup
}

// answer is what a change came to. done is closed when it is known.
type answer struct {
	done chan struct{}
	info tree.Info
	text string
	err  error
}

// once runs a change, or waits for and returns the answer of the same change asked for before. The change goes on when
// its requester hangs up: the repeated request gets its answer.
func (s *session) once(ctx context.Context, seq uint64, fn func(context.Context) (tree.Info, string, error)) (tree.Info, string, error) {
	s.mu.Lock()
	a, again := s.answers[seq]
	if !again {
		a = &answer{done: make(chan struct{})}
		s.answers[seq] = a
		s.order = append(s.order, seq)
		if len(s.order) > keptAnswers {
			delete(s.answers, s.order[0])
			s.order = s.order[1:]
		}
	}
	s.mu.Unlock()
	if again {
		select {
		case <-a.done:
			return a.info, a.text, a.err
		case <-ctx.Done():
			return tree.Info{}, "", ctx.Err()
		}
	}
	a.info, a.text, a.err = fn(tree.WithOp(context.WithoutCancel(ctx), tree.Op{Seq: seq}))
	if errors.Is(a.err, tree.ErrUnavailable) {
		s.forget(seq, a)
	}
	close(a.done)
	return a.info, a.text, a.err
}

// forget lets a change be tried again: its answer was none.
func (s *session) forget(seq uint64, a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers[seq] == a {
		delete(s.answers, seq)
		s.order = slices.DeleteFunc(s.order, func(n uint64) bool { return n == seq })
	}
}

func (s *session) addReader(r tree.Reader) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, errNoSession
	}
	// Random, so that an id from before a restart of the gateway never means another file.
	id := rand.Uint64()
	for id == 0 || s.readers[id] != nil {
		id = rand.Uint64()
	}
	s.readers[id] = &served{Reader: r}
	return id, nil
}

// reader holds an open reader; the caller calls uses.Done.
func (s *session) reader(id uint64) (*served, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.readers[id]
	if r == nil {
		return nil, errNoReader
	}
	r.uses.Add(1)
	return r, nil
}

func (s *session) closeReader(id uint64) error {
	s.mu.Lock()
	r := s.readers[id]
	delete(s.readers, id)
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.uses.Wait()
	return r.Close()
}

// leave gives back what this gateway holds for the session; again is nil's work.
func (s *session) leave() error {
	_, err := s.leaveOnce()
	return err
}

func (s *session) leaveOnce() (first bool, err error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false, nil
	}
	s.ended = true
	s.timer.Stop()
	ids := make([]uint64, 0, len(s.readers))
	for id := range s.readers {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.closeReader(id))
	}
	return true, errors.Join(errs...)
}

// end ends the session for the store too.
func (s *session) end(ctx context.Context) error {
	first, err := s.leaveOnce()
	if e, ok := s.objects.(tree.Ender); ok && first {
		err = errors.Join(err, e.EndSession(ctx))
	}
	return err
}

// expire ends the session of a mount that was not heard of, where nobody else would.
func (s *session) expire(ctx context.Context) error {
	if _, ok := s.objects.(Keeper); ok {
		return s.leave()
	}
	return s.end(ctx)
}
