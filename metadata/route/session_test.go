package route

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// TestTheSessionOfARouterLivesAsLongAsIt opens one for the first write that needs it, and renews it without writes.
func TestTheSessionOfARouterLivesAsLongAsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		r := c.router(2, nil)
		ctx := t.Context()
		if _, err := r.Put(ctx, put("own op", 3)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Current(ctx, 1, "k"); err != nil {
			t.Fatal(err)
		}
		if c.last != ownSessions {
			t.Fatal("a session was opened that nobody needs")
		}
		for range 3 {
			if _, err := r.Put(ctx, put("k", 0)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10*lease + time.Second)
		if n := c.peer(1).renewed.Load(); n != 30 {
			t.Fatalf("renewed %d times in ten leases", n)
		}
		if c.last != ownSessions+1 || !c.isOpen(c.last) {
			t.Fatalf("%d sessions", c.last-ownSessions)
		}
		if err := r.Close(); err != nil || c.isOpen(c.last) {
			t.Fatalf("the session outlives its router: %v", err)
		}
		_, err := r.Put(ctx, put("k", 0))
		wantRefused(t, err)
		if _, err := r.Current(ctx, 1, "k"); err != nil {
			t.Fatalf("a read after Close: %v", err)
		}
	})
}

// TestASessionThatEndedIsReplaced fences the router's session between writes, and in the middle of one: before it may
// have been applied, and after.
func TestASessionThatEndedIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		r := c.router(2, nil)
		ctx := t.Context()
		write := func(key string) error {
			t.Helper()
			_, err := r.Put(ctx, put(key, 0))
			return err
		}
		if err := write("first"); err != nil {
			t.Fatal(err)
		}
		if c.fence() != 1 {
			t.Fatal("no session was open")
		}
		if err := write("after"); err != nil || c.count("after") != 1 {
			t.Fatal(err, c.count("after"))
		}
		// Nobody has tried it when the session ends.
		times := 0
		c.peer(1).before = func(context.Context, func()) (bool, error) {
			if times++; times == 1 {
				c.fence()
				return true, metadata.NotLeader{}
			}
			return false, nil
		}
		if err := write("untried"); err != nil || c.count("untried") != 1 {
			t.Fatal(err, c.count("untried"))
		}
		for _, applied := range []bool{true, false} {
			times = 0
			c.peer(1).before = func(_ context.Context, apply func()) (bool, error) {
				if times++; times > 1 {
					return false, nil
				}
				if applied {
					apply()
				}
				// What the session did is forgotten with it.
				c.fence()
				clear(c.seen)
				return true, answerLost()
			}
			key := fmt.Sprint("applied ", applied)
			wantUnknown(t, write(key))
			if n := c.count(key); (n == 1) != applied || n > 1 {
				t.Fatalf("%s: %d times", key, n)
			}
			if err := write("later"); err != nil {
				t.Fatal(err)
			}
		}
		// The leader refuses every session.
		c.peer(1).before = func(context.Context, func()) (bool, error) {
			c.fence()
			return true, metadata.ErrSessionFenced
		}
		wantRefused(t, write("never"))
		// The session of the answer is another one: the router's own lives.
		c.peer(1).before = nil
		if err := write("last"); err != nil {
			t.Fatal(err)
		}
		opened := c.last
		c.peer(1).before = func(context.Context, func()) (bool, error) { return true, metadata.ErrSessionFenced }
		if err := write("of another"); !errors.Is(err, metadata.ErrSessionFenced) || errors.Is(err, raft.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		if c.last != opened || !c.isOpen(opened) {
			t.Fatal("the router's own session was given up")
		}
	})
}

// TestWhoOpensASessionInVainWasNotTried loses the answers about the session.
func TestWhoOpensASessionInVainWasNotTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		c.lead(0)
		r := c.router(1, nil)
		_, err := r.Put(t.Context(), put("k", 0))
		wantRefused(t, err)
		if err := notDone(answerLost()); errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, metadata.ErrUnavailable) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Put(ctx, put("k", 0)); !errors.Is(err, context.Canceled) || errors.Is(err, raft.ErrUnknownOutcome) {
			t.Fatal(err)
		}
	})
}

// TestAWriteHasItsSlotForItself keeps one write waiting for longer than the tablet's memory is: however many others come
// and go, none takes its place. No two that are under way have one slot.
func TestAWriteHasItsSlotForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1, 2)
		r := c.router(2, nil)
		var mu sync.Mutex
		held := map[uint64]bool{}
		most := 0
		last := map[uint64]uint64{}
		c.peer(1).before = func(ctx context.Context, apply func()) (bool, error) {
			op := metadata.OpFrom(ctx)
			slot := op.Seq % tablet.Slots
			mu.Lock()
			if held[slot] || op.Seq <= last[slot] {
				t.Errorf("write %d beside %d in slot %d", op.Seq, last[slot], slot)
			}
			held[slot], last[slot] = true, op.Seq
			most = max(most, len(held))
			mu.Unlock()
			wait := time.Millisecond
			if op.Seq == 1 {
				wait = time.Minute
			}
			time.Sleep(wait)
			mu.Lock()
			delete(held, slot)
			mu.Unlock()
			return false, nil
		}
		var g sync.WaitGroup
		g.Go(func() {
			if _, err := r.Put(t.Context(), put("slow", 0)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		begin := time.Now()
		for range 3 * slots {
			g.Go(func() {
				if _, err := r.Put(t.Context(), put("k", 0)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		for range 2 * tablet.Slots {
			if _, err := r.Put(t.Context(), put("k", 0)); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("the slow write held the others up")
		}
		g.Wait()
		if most != slots || c.count("slow") != 1 {
			t.Fatalf("at most %d slots at once, slow %d times", most, c.count("slow"))
		}
	})
}

// TestARouterThatIsAloneWritesWithoutOps lets the only replica be here: writes need no session, and one whose outcome is
// not known is not repeated.
func TestARouterThatIsAloneWritesWithoutOps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t, 1)
		r := c.router(1, nil)
		alone := true
		r.config.Alone = func() bool { return alone }
		ctx := t.Context()
		if _, err := r.Put(ctx, put("k", 0)); err != nil {
			t.Fatal(err)
		}
		if c.last != ownSessions {
			t.Fatal("a session was opened that nobody needs")
		}
		lost := 0
		c.peer(1).before = func(_ context.Context, apply func()) (bool, error) {
			lost++
			apply()
			return true, answerLost()
		}
		_, err := r.Put(ctx, put("lost", 0))
		if wantUnknown(t, err); lost != 1 || c.count("lost") != 1 {
			t.Fatalf("after %d attempts, applied %d times: %v", lost, c.count("lost"), err)
		}
		c.peer(1).before = nil
		alone = false
		if _, err := r.Put(ctx, put("k", 0)); err != nil || c.last != ownSessions+1 {
			t.Fatalf("with others about: %v, %d sessions", err, c.last-ownSessions)
		}
	})
}
