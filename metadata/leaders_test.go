package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/tests/expect"
)

// heldGroup is a member of which the next proposal is held up, when a test says so, between its decision and the log.
type heldGroup struct {
	raft.Member
	held chan struct{} // has one value for each proposal to hold
	at   chan struct{} // gets one when it has come
	free chan struct{} // closed: it goes on
}

func (g heldGroup) Propose(ctx context.Context, command []byte) (any, error) {
	select {
	case <-g.held:
		g.at <- struct{}{}
		<-g.free
	default:
	}
	return g.Member.Propose(ctx, command)
}

func create(b metadata.BucketID, key, text string) metadata.Put {
	return metadata.Put{
		Bucket: b, Version: metadata.Version{Key: key, ETag: text, Size: int64(len(text)), Inline: []byte(text)},
		If: metadata.If{NoneMatch: "*"},
	}
}

// wantOver is the error of a call of a Catalog whose peer does not lead any more.
func wantOver(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, raft.ErrNotLeader) || !errors.Is(err, metadata.ErrUnavailable) || errors.Is(err, raft.ErrUnknownOutcome) {
		t.Errorf("not refused: %v", err)
	}
}

func mustClose(t *testing.T, c *metadata.Catalog) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestADecisionOfAnEarlierTermIsNotApplied lets a leader decide, lose leadership to another that decides otherwise, and
// lead again before its first decision comes to the log.
func TestADecisionOfAnEarlierTermIsNotApplied(t *testing.T) {
	x := newTrio(t, false)
	ctx := t.Context()
	a := x.leader(x.members()...)
	b := x.peers[a.n%peers+1]
	group := heldGroup{a.tablet(), make(chan struct{}, 1), make(chan struct{}), make(chan struct{})}
	first, err := metadata.New(ctx, metadata.Config{Root: a.rootClient(), Tablet: group})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, first)
	bucket, err := first.CreateBucket(ctx, "bucket", "me")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.SetVersioning(ctx, "bucket", metadata.VersioningEnabled); err != nil {
		t.Fatal(err)
	}
	session, err := first.OpenSession(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	before, err := first.Put(ctx, create(bucket.ID, "before", "first"))
	if err != nil {
		t.Fatal(err)
	}
	group.held <- struct{}{}
	outcome := make(chan error, 1)
	go func() {
		_, err := first.Put(ctx, create(bucket.ID, "key", "first"))
		outcome <- err
	}()
	<-group.at
	x.moveTo(b)
	second, err := b.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, second)
	v, err := second.Put(ctx, create(bucket.ID, "key", "second"))
	if err != nil || v.ID.Clock <= before.ID.Clock {
		t.Fatalf("version %v after %v: %v", v.ID, before.ID, err)
	}
	// What the first one opened is known to the second; what it does now is known to be refused.
	if err := second.RenewSession(ctx, session); err != nil {
		t.Fatal(err)
	}
	_, err = first.OpenSession(ctx, time.Hour)
	wantOver(t, err)
	wantOver(t, first.CloseSession(ctx, session))
	x.moveTo(a)
	close(group.free)
	wantOver(t, <-outcome)
	_, err = first.Put(ctx, create(bucket.ID, "another", "first"))
	wantOver(t, err)
	third, err := a.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, third)
	if got, err := third.Current(ctx, bucket.ID, "key"); err != nil || got.ETag != "second" {
		t.Fatalf("%+v, %v", got, err)
	}
	if u, err := third.Usage(ctx, bucket.ID); err != nil || u.Objects != 2 || u.Versions != 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	if err := third.RenewSession(ctx, session); err != nil {
		t.Fatal(err)
	}
}

// TestTwoCatalogsNeverBothCommit cuts leaders off under load: for some time each of two Catalogs takes itself for the one
// that leads, both run their background work, and many writers ask both to make the same keys.
func TestTwoCatalogsNeverBothCommit(t *testing.T) {
	x := newTrio(t, false)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	old := x.leader(x.members()...)
	first, err := old.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, first)
	bucket, err := first.CreateBucket(ctx, "bucket", "me")
	if err == nil {
		err = first.SetVersioning(ctx, "bucket", metadata.VersioningEnabled)
	}
	if err != nil {
		t.Fatal(err)
	}
	const writers, most = 4, 60
	inLog, together := 0, 0
	catalogs := []*metadata.Catalog{first}
	var last uint64
	for round := 0; round < 4 || inLog == 0 || together < 2; round++ {
		if round == most {
			t.Fatalf("%d commands were in the log of a leader that was cut off, two led at once %d times", inLog, together)
		}
		// Writers of the old one go on until they are told that it is over.
		var wins, unknown [16]atomic.Int64
		key := func(i int) string { return fmt.Sprintf("%d/%d", round, i) }
		write := func(c *metadata.Catalog, text string, i int) bool {
			_, err := c.Put(ctx, create(bucket.ID, key(i), text))
			switch {
			case err == nil:
				wins[i].Add(1)
			case errors.Is(err, metadata.ErrPrecondition):
			case errors.Is(err, raft.ErrUnknownOutcome):
				unknown[i].Add(1)
				return true
			default:
				wantOver(t, err)
				return true
			}
			return false
		}
		before := catalogs[len(catalogs)-1]
		background, stop := context.WithCancel(ctx)
		var g, workers sync.WaitGroup
		workers.Go(func() { _ = before.Run(background) })
		var own, lost atomic.Int64
		for w := range writers {
			g.Go(func() {
				for i := 0; !write(before, "old", (w+i)%len(wins)/2); i++ {
					_, err := before.Put(ctx, create(bucket.ID, fmt.Sprintf("own/%d/%d/%d", round, w, i), "own"))
					switch {
					case err == nil:
						own.Add(1)
						continue
					case errors.Is(err, raft.ErrUnknownOutcome):
						lost.Add(1)
					default:
						wantOver(t, err)
					}
					return
				}
			})
		}
		expect.Soon(t, "load", func() bool { return own.Load() > 20 })
		x.setCut(old.n, true)
		var rest []*member
		for _, m := range x.members() {
			if m != old {
				rest = append(rest, m)
			}
		}
		next := x.leader(rest...)
		if old.leads() {
			together++
		}
		after, err := next.open(ctx)
		if errors.Is(err, raft.ErrNotLeader) { // it was deposed at once
			next = x.leader(rest...)
			after, err = next.open(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, after)
		workers.Go(func() { _ = after.Run(background) })
		for i := range wins {
			g.Go(func() { write(after, "new", i) })
		}
		g.Wait()
		x.setCut(old.n, false)
		stop()
		workers.Wait()
		for i := range wins {
			v, err := after.Current(ctx, bucket.ID, key(i))
			if err != nil {
				t.Fatalf("%s: %v", key(i), err)
			}
			if n := wins[i].Load(); n > 1 || n == 0 && unknown[i].Load() == 0 {
				t.Errorf("%s was made %d times, %d unknown", key(i), n, unknown[i].Load())
			}
			if v.ID.Clock <= last && round > 0 && v.ETag == "new" {
				t.Errorf("%s has clock %d after %d", key(i), v.ID.Clock, last)
			}
		}
		inLog += int(lost.Load())
		for prefix, want := range map[string]int{fmt.Sprintf("%d/", round): len(wins), fmt.Sprintf("own/%d/", round): int(own.Load())} {
			page, err := after.ListVersions(ctx, metadata.ListVersions{Bucket: bucket.ID, Prefix: prefix, Max: 100_000})
			if made := len(page.Versions); err != nil || made < want || made > want+int(lost.Load()) {
				t.Fatalf("%d versions below %s, %d acknowledged and %d unknown, %v", made, prefix, want, lost.Load(), err)
			}
			for _, v := range page.Versions {
				last = max(last, v.ID.Clock)
			}
		}
		old, catalogs = next, append(catalogs, after)
	}
}

// TestANewCatalogSeesWhatIsInTheLog opens one at once on a peer that has just come to lead, while what its predecessor
// acknowledged may not be applied there yet.
func TestANewCatalogSeesWhatIsInTheLog(t *testing.T) {
	x := newTrio(t, false)
	ctx := t.Context()
	now := x.leader(x.members()...)
	c, err := now.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := c.CreateBucket(ctx, "bucket", "me")
	if err != nil {
		t.Fatal(err)
	}
	var clock uint64
	for round := range 10 {
		session, err := c.OpenSession(ctx, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var wrote sync.WaitGroup
		var high atomic.Uint64
		for i := range 8 {
			wrote.Go(func() {
				v, err := c.Put(ctx, create(bucket.ID, fmt.Sprintf("%d/%d", round, i), "text"))
				if err != nil {
					t.Error(err)
				}
				for {
					was := high.Load()
					if v.ID.Clock <= was || high.CompareAndSwap(was, v.ID.Clock) {
						return
					}
				}
			})
		}
		wrote.Wait()
		clock = high.Load()
		next := x.peers[now.n%peers+1]
		x.moveTo(next)
		after, err := next.open(ctx)
		if errors.Is(err, raft.ErrNotLeader) {
			x.moveTo(next)
			after, err = next.open(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := after.RenewSession(ctx, session); err != nil {
			t.Fatal(err)
		}
		page, err := after.List(ctx, metadata.List{Bucket: bucket.ID, Max: 1000})
		if err != nil || len(page.Versions) != 8*(round+1)+round {
			t.Fatalf("%d keys after round %d: %v", len(page.Versions), round, err)
		}
		v, err := after.Put(ctx, create(bucket.ID, fmt.Sprintf("%d/after", round), "text"))
		if err != nil || v.ID.Clock <= clock {
			t.Fatalf("clock %d after %d: %v", v.ID.Clock, clock, err)
		}
		wantOver(t, func() error { _, err := c.Current(ctx, bucket.ID, "0/0"); return err }())
		mustClose(t, c)
		c, now = after, next
	}
	mustClose(t, c)
	if _, err := x.rootRows(ctx); err != nil {
		t.Fatal(err)
	}
}

// rootRows are the sessions' rows.
func (x *trio) rootRows(ctx context.Context) ([]root.Row, error) {
	return x.peers[1].rootClient().Rows(ctx, root.Sessions, "", "", 0)
}

// TestASeatFollowsTheLeader moves leadership around: there is a Catalog where it is, and soon none where it was.
func TestASeatFollowsTheLeader(t *testing.T) {
	x := newTrio(t, true)
	for round := range 12 {
		to := x.peers[1+round%peers]
		x.moveTo(to)
		expect.Soon(t, "the Catalog is where the leader is", func() bool {
			for _, m := range x.members() {
				if (m.seat.Catalog() != nil) != m.leads() {
					return false
				}
			}
			return true
		})
	}
}
