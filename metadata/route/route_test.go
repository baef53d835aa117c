package route

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/remote"
)

// ledger is what the tablet knows, whoever leads: how often each key was put, which Ops it has seen, and which sessions
// of routers are open.
type ledger struct {
	mu   sync.Mutex
	puts map[string]int
	seen map[metadata.Op]bool
	open map[uint64]bool
	last uint64 // session
}

// ownSessions are the numbers of routers' sessions; those of the tests' own Ops are below, and never end.
const ownSessions = 1000

func newLedger() *ledger {
	return &ledger{puts: map[string]int{}, seen: map[metadata.Op]bool{}, open: map[uint64]bool{}, last: ownSessions}
}

func (l *ledger) put(key string, op metadata.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if op != (metadata.Op{}) {
		if op.Session > ownSessions && !l.open[op.Session] {
			return metadata.ErrSessionFenced
		}
		if l.seen[op] {
			return nil
		}
		l.seen[op] = true
	}
	l.puts[key]++
	return nil
}

func (l *ledger) openSession() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.open[l.last] = true
	return l.last
}

// fence ends all sessions of routers, and tells how many there were.
func (l *ledger) fence() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.open)
	clear(l.open)
	return n
}

func (l *ledger) closeSession(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, id)
}

func (l *ledger) isOpen(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[id]
}

func (l *ledger) count(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.puts[key]
}

// cast is some peers of which one leads; each answers by what the test says of it.
type cast struct {
	*ledger
	t      *testing.T
	mu     sync.Mutex
	leader cluster.PeerID // zero: nobody
	peers  map[cluster.PeerID]*peer
}

// peer is the names at one peer.
type peer struct {
	metadata.Names
	cast  *cast
	id    cluster.PeerID
	calls atomic.Int64
	// renewed counts the renewals of sessions that were open.
	renewed atomic.Int64
	// before decides what happens to a call: handled true ends it with err.
	before func(ctx context.Context, apply func()) (handled bool, err error)
}

func newCast(t *testing.T, ids ...byte) *cast {
	c := &cast{t: t, ledger: newLedger(), peers: map[cluster.PeerID]*peer{}}
	for _, id := range ids {
		c.peers[cluster.PeerID{id}] = &peer{cast: c, id: cluster.PeerID{id}}
	}
	c.lead(ids[0])
	return c
}

func (c *cast) lead(id byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = cluster.PeerID{id}
	if id == 0 {
		c.leader = cluster.PeerID{}
	}
}

func (c *cast) leads() cluster.PeerID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

func (c *cast) peer(id byte) *peer { return c.peers[cluster.PeerID{id}] }

// router is the Router at one peer. knows says whom it takes for the leader; nil: it knows the truth.
func (c *cast) router(self byte, knows func() cluster.PeerID) *Router {
	me := cluster.PeerID{self}
	if knows == nil {
		knows = c.leads
	}
	r := New(Config{
		Self: me,
		Leader: func() (cluster.PeerID, bool, bool) {
			id := knows()
			return id, id == me, id != cluster.PeerID{}
		},
		Local: func() metadata.Names {
			if c.leads() != me {
				return nil
			}
			return c.peers[me]
		},
		Remote: func(id cluster.PeerID) metadata.Names {
			if p := c.peers[id]; p != nil {
				return p
			}
			return nil
		},
	})
	c.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return r
}

func (p *peer) answer(ctx context.Context, apply func()) error {
	p.calls.Add(1)
	if p.before != nil {
		if handled, err := p.before(ctx, apply); handled {
			return err
		}
	}
	if leader := p.cast.leads(); leader != p.id {
		return metadata.NotLeader{Peer: leader}
	}
	apply()
	return nil
}

func (p *peer) Put(ctx context.Context, q metadata.Put) (metadata.Version, error) {
	op := q.Op
	if op == (metadata.Op{}) {
		op = metadata.OpFrom(ctx)
	}
	var applied error
	err := p.answer(ctx, func() { applied = p.cast.put(q.Version.Key, op) })
	if err == nil {
		err = applied
	}
	return metadata.Version{Key: q.Version.Key}, err
}

// The calls about sessions do not count, and nothing happens to them but that they need the leader.
func (p *peer) session() error {
	if leader := p.cast.leads(); leader != p.id {
		return metadata.NotLeader{Peer: leader}
	}
	return nil
}

func (p *peer) OpenSession(_ context.Context, lease time.Duration) (uint64, error) {
	if err := p.session(); err != nil {
		return 0, err
	}
	return p.cast.openSession(), nil
}

func (p *peer) RenewSession(_ context.Context, id uint64) error {
	if err := p.session(); err != nil {
		return err
	}
	if !p.cast.isOpen(id) {
		return metadata.ErrSessionFenced
	}
	p.renewed.Add(1)
	return nil
}

func (p *peer) CloseSession(_ context.Context, id uint64) error {
	if err := p.session(); err != nil {
		return err
	}
	p.cast.closeSession(id)
	return nil
}

func (p *peer) Current(ctx context.Context, _ metadata.BucketID, key string) (metadata.Version, error) {
	return metadata.Version{Key: key}, p.answer(ctx, func() {})
}

func (p *peer) Survey(ctx context.Context, fn func(metadata.Surveyed) error) error {
	if err := p.answer(ctx, func() {}); err != nil {
		return err
	}
	if err := fn(metadata.Surveyed{Key: "k"}); err != nil {
		return err
	}
	return answerLost()
}

// answerLost is what a client says of a lost answer to a write, without a peer's name.
func answerLost() error {
	return fmt.Errorf("%w: %w: %w", metadata.ErrUnavailable, raft.ErrUnknownOutcome, remote.ErrLost)
}

func put(key string, seq uint64) metadata.Put {
	p := metadata.Put{Version: metadata.Version{Key: key}}
	if seq > 0 {
		p.Op = metadata.Op{Session: 1, Seq: seq}
	}
	return p
}

func wantUnknown(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("outcome is said to be known: %v", err)
	}
}

func wantRefused(t *testing.T, err error) {
	t.Helper()
	if err == nil || errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("nothing was done, and the error is %v", err)
	}
}

func TestCallsGoToTheLeaderAndFollowHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2, 3)
		ctx := t.Context()
		begin := time.Now()
		for _, r := range []*Router{c.router(1, nil), c.router(2, nil), c.router(3, func() cluster.PeerID { return cluster.PeerID{2} })} {
			if _, err := r.Put(ctx, put("k", 0)); err != nil {
				t.Fatal(err)
			}
			if v, err := r.Current(ctx, 1, "k"); err != nil || v.Key != "k" {
				t.Fatal(v, err)
			}
		}
		if c.count("k") != 3 || c.peer(2).calls.Load() != 2 || c.peer(3).calls.Load() != 0 {
			t.Fatalf("%d puts, %d calls of a peer that was taken for the leader", c.count("k"), c.peer(2).calls.Load())
		}
		if took := time.Since(begin); took != 0 {
			t.Fatalf("hints were followed after %v", took)
		}
	})
}

// TestCallsWaitForALeader elects one after some time, and none at all.
func TestCallsWaitForALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		c.lead(0)
		r := c.router(1, nil)
		go func() {
			time.Sleep(5 * time.Second)
			c.lead(2)
		}()
		begin := time.Now()
		if _, err := r.Put(t.Context(), put("k", 0)); err != nil || c.count("k") != 1 {
			t.Fatal(err, c.count("k"))
		}
		if took := time.Since(begin); took < 5*time.Second || took > 5*time.Second+lastPause {
			t.Fatalf("the leader was found after %v", took)
		}
		c.lead(0)
		begin = time.Now()
		_, err := r.Put(t.Context(), put("k", 0))
		wantRefused(t, err)
		if took := time.Since(begin); took != DefaultPatience {
			t.Fatalf("gave up after %v", took)
		}
		gaveUp := func(want time.Duration) {
			t.Helper()
			begin := time.Now()
			_, err := r.Put(t.Context(), put("k", 0))
			wantRefused(t, err)
			if took := time.Since(begin); took != want {
				t.Fatalf("gave up after %v, want %v", took, want)
			}
		}
		gaveUp(leastPatience) // those who come later have waited long enough
		gaveUp(leastPatience)
		time.Sleep(DefaultPatience + 1)
		gaveUp(DefaultPatience) // nobody knows of the time between
		c.lead(2)
		if _, err := r.Put(t.Context(), put("k", 1)); err != nil {
			t.Fatal(err)
		}
		c.lead(0)
		gaveUp(DefaultPatience)
		ctx, cancel := context.WithTimeout(t.Context(), leastPatience/2)
		defer cancel()
		_, err = r.Put(ctx, put("k", 0))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, raft.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		// Two peers that name each other are asked now and then, not all the time.
		c.peer(1).before = func(context.Context, func()) (bool, error) { return true, metadata.NotLeader{Peer: cluster.PeerID{2}} }
		c.peer(2).before = func(context.Context, func()) (bool, error) { return true, metadata.NotLeader{Peer: cluster.PeerID{1}} }
		_, err = c.router(3, func() cluster.PeerID { return cluster.PeerID{1} }).Put(t.Context(), put("k", 9))
		wantRefused(t, err)
		if calls := c.peer(1).calls.Load() + c.peer(2).calls.Load(); calls < 10 || calls > 200 {
			t.Fatalf("%d calls", calls)
		}
	})
}

// TestLostAnswersAreRepeated loses the first answers of each call, before and after it was applied.
func TestLostAnswersAreRepeated(t *testing.T) {
	for _, applied := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCast(t, 1, 2)
			r := c.router(2, nil)
			lose := 0
			c.peer(1).before = func(_ context.Context, apply func()) (bool, error) {
				if lose--; lose < 0 {
					return false, nil
				}
				if applied {
					apply()
				}
				return true, answerLost()
			}
			lose = 3
			if _, err := r.Put(t.Context(), put("op", 7)); err != nil || c.count("op") != 1 {
				t.Fatalf("a write with an Op: %v, applied %d times", err, c.count("op"))
			}
			lose = 3
			if _, err := r.Current(t.Context(), 1, "k"); err != nil {
				t.Fatalf("a read: %v", err)
			}
			lose = 3
			if _, err := r.Put(t.Context(), put("plain", 0)); err != nil || c.count("plain") != 1 {
				t.Fatalf("a write without an Op: %v, applied %d times", err, c.count("plain"))
			}
			// An answer that was lost stays lost, whatever comes after it.
			lose = 1
			c.lead(1)
			inner := c.peer(1).before
			c.peer(1).before = func(ctx context.Context, apply func()) (bool, error) {
				handled, err := inner(ctx, apply)
				c.lead(0)
				return handled, err
			}
			_, err := r.Put(t.Context(), put("op", 8))
			wantUnknown(t, err)
			// What is refused after a loss may yet be done: the lost attempt is somewhere still.
			c.lead(1)
			times := 2
			c.peer(1).before = func(context.Context, func()) (bool, error) {
				if times--; times > 0 {
					return true, answerLost()
				}
				return true, metadata.ErrPrecondition
			}
			var doubt metadata.MayFollow
			if _, err := r.Put(t.Context(), put("op", 9)); !errors.Is(err, metadata.ErrPrecondition) || !errors.As(err, &doubt) {
				t.Fatal(err)
			}
			// What was not accepted is tried again, whatever it is.
			c.lead(1)
			times = 2
			c.peer(1).before = func(context.Context, func()) (bool, error) {
				times--
				return times >= 0, fmt.Errorf("%w: %w", metadata.ErrUnavailable, remote.ErrNotSent)
			}
			if _, err := r.Put(t.Context(), put("not sent", 0)); err != nil || c.count("not sent") != 1 {
				t.Fatal(err, c.count("not sent"))
			}
		})
	}
}

// TestAnswersEndACall repeats no answer: those of the names, and those that say that nothing can help.
func TestAnswersEndACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		begin := time.Now()
		for _, want := range []error{
			metadata.ErrPrecondition, metadata.ErrSessionFenced, metadata.ErrNoSuchKey,
			fmt.Errorf("%w: %w", metadata.ErrUnavailable, raft.ErrLogLost), fmt.Errorf("%w: %w", metadata.ErrUnavailable, remote.ErrUnlisted),
		} {
			c.peer(1).before = func(context.Context, func()) (bool, error) { return true, want }
			for _, self := range []byte{1, 2} {
				_, err := c.router(self, nil).Put(t.Context(), put("k", 1))
				var doubt metadata.MayFollow
				if !errors.Is(err, want) || errors.Is(err, raft.ErrUnknownOutcome) || errors.As(err, &doubt) {
					t.Errorf("%v became %v", want, err)
				}
			}
		}
		// A host that stops does not keep its own callers waiting.
		c.peer(1).before = func(context.Context, func()) (bool, error) {
			return true, fmt.Errorf("%w: %w", metadata.ErrUnavailable, raft.ErrStopped)
		}
		if _, err := c.router(1, nil).Current(t.Context(), 1, "k"); !errors.Is(err, raft.ErrStopped) {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

// TestAPeerThatHangsIsLeftWhenTheLeaderMoves hangs in the middle of a call, applied or not, and moves the leader.
func TestAPeerThatHangsIsLeftWhenTheLeaderMoves(t *testing.T) {
	for _, self := range []byte{1, 2, 3} { // the hung peer itself, the next leader, and one that never leads
		synctest.Test(t, func(t *testing.T) {
			c := newCast(t, 1, 2, 3)
			r := c.router(self, nil)
			c.peer(1).before = func(ctx context.Context, apply func()) (bool, error) {
				apply()
				time.AfterFunc(3*time.Second, func() { c.lead(2) })
				<-ctx.Done()
				return true, ctx.Err()
			}
			begin := time.Now()
			if _, err := r.Put(t.Context(), put("op", 1)); err != nil || c.count("op") != 1 {
				t.Fatalf("%v, applied %d times", err, c.count("op"))
			}
			if took := time.Since(begin); took > 3*time.Second+2*watchEvery {
				t.Fatalf("left after %v", took)
			}
			c.lead(1)
			if _, err := r.Current(t.Context(), 1, "k"); err != nil {
				t.Fatal(err)
			}
			c.lead(1)
			if _, err := r.Put(t.Context(), put("plain", 0)); err != nil || c.count("plain") != 1 {
				t.Fatalf("%v, applied %d times", err, c.count("plain"))
			}
		})
	}
}

// TestALongCallIsLeftAloneWhileItsPeerLeads runs a call for an hour, with short times without a leader.
func TestALongCallIsLeftAloneWhileItsPeerLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		c.peer(1).before = func(ctx context.Context, apply func()) (bool, error) {
			for range 60 {
				time.Sleep(time.Minute)
				c.lead(0)
				time.Sleep(DefaultPatience - time.Second)
				c.lead(1)
			}
			return false, ctx.Err()
		}
		if _, err := c.router(2, nil).Put(t.Context(), put("k", 0)); err != nil || c.count("k") != 1 {
			t.Fatal(err)
		}
		// Nobody leads any more: the call ends at last.
		c.peer(1).before = func(ctx context.Context, _ func()) (bool, error) {
			c.lead(0)
			<-ctx.Done()
			return true, ctx.Err()
		}
		_, err := c.router(2, nil).Put(t.Context(), put("k", 0))
		wantUnknown(t, err)
	})
}

// TestASurveyIsNotBegunAgainInItsMiddle loses its end.
func TestASurveyIsNotBegunAgainInItsMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		refuse := 2
		c.peer(1).before = func(context.Context, func()) (bool, error) {
			refuse--
			return refuse >= 0, metadata.NotLeader{}
		}
		seen := 0
		err := c.router(2, nil).Survey(t.Context(), func(metadata.Surveyed) error {
			seen++
			return nil
		})
		if seen != 1 || !errors.Is(err, remote.ErrLost) {
			t.Fatalf("seen %d times: %v", seen, err)
		}
		// An error of the caller ends it, even one that looks like a lost answer.
		own := fmt.Errorf("mine: %w", answerLost())
		if err := c.router(2, nil).Survey(t.Context(), func(metadata.Surveyed) error { return own }); err != own {
			t.Fatal(err)
		}
	})
}

// TestLocalAnswersOnlyByItself refuses with a hint where another peer leads.
func TestLocalAnswersOnlyByItself(t *testing.T) {
	c := newCast(t, 1, 2)
	local := func(self byte) metadata.Names { return Local(c.router(self, nil).config) }
	if _, err := local(1).Put(t.Context(), put("k", 0)); err != nil || c.count("k") != 1 {
		t.Fatal(err)
	}
	_, err := local(2).Put(t.Context(), put("k", 0))
	var hint metadata.LeaderHint
	if !errors.As(err, &hint) || hint.Leader() != (cluster.PeerID{1}) || !errors.Is(err, raft.ErrNotLeader) {
		t.Fatal(err)
	}
	c.lead(0)
	_, err = local(2).Current(t.Context(), 1, "k")
	if !errors.As(err, &hint) || hint.Leader() != (cluster.PeerID{}) || c.peer(1).calls.Load() != 1 || c.peer(2).calls.Load() != 0 {
		t.Fatal(err)
	}
}

// TestEveryWriteHappensOnceWhileLeadersMove moves the leader all the time under many writers, with Ops of their own and
// without, and loses answers.
func TestEveryWriteHappensOnceWhileLeadersMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const writers, each = 8, 50
		c := newCast(t, 1, 2, 3)
		var turn, lost atomic.Int64
		for _, p := range c.peers {
			p.before = func(ctx context.Context, apply func()) (bool, error) {
				time.Sleep(time.Duration(turn.Add(1)%7) * time.Millisecond)
				if c.leads() != p.id {
					return false, nil
				}
				switch turn.Load() % 5 {
				case 0:
					apply()
					lost.Add(1)
					return true, answerLost()
				case 1:
					lost.Add(1)
					return true, answerLost()
				}
				return false, nil
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		var mover sync.WaitGroup
		mover.Go(func() {
			for n := byte(0); ctx.Err() == nil; n++ {
				c.lead(n % 4) // 0: nobody
				time.Sleep(37 * time.Millisecond)
			}
		})
		var g sync.WaitGroup
		for i := range writers {
			r := c.router(byte(i%3+1), nil)
			g.Go(func() {
				for n := range each {
					key := fmt.Sprint(i, "/", n)
					seq := uint64(i*each + n + 1)
					if n%2 == 1 {
						seq = 0
					}
					if _, err := r.Put(t.Context(), put(key, seq)); err != nil || c.count(key) != 1 {
						t.Errorf("%s was applied %d times: %v", key, c.count(key), err)
					}
				}
			})
		}
		g.Wait()
		stop()
		mover.Wait()
		if lost.Load() < writers*each/4 {
			t.Fatalf("%d answers lost", lost.Load())
		}
	})
}
