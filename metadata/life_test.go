package metadata

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/tests/expect"
)

// sharedGroup is a localGroup that others may lead too.
type sharedGroup struct{ *localGroup }

var _ raft.Member = sharedGroup{}

func (sharedGroup) Members() (voters, learners []uint64) { return []uint64{1, 2, 3}, nil }

func (sharedGroup) Leader() raft.Leader { return raft.Leader{} }

func (sharedGroup) AddLearner(context.Context, uint64) error { return raft.ErrMember }

func (sharedGroup) Promote(context.Context, uint64) error { return raft.ErrMember }

func (sharedGroup) Remove(context.Context, uint64) error { return raft.ErrMember }

func (sharedGroup) Transfer(context.Context, uint64) error { return raft.ErrTransfer }

// wantOver is the error of a call of a Catalog that is over.
func wantOver(t *testing.T, err error, unknown bool) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, raft.ErrUnknownOutcome) != unknown || !unknown && !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("unknown should be %v: %v", unknown, err)
	}
}

// TestCloseEndsWhatIsUnderWay closes over a write whose outcome nobody finds out, one that waits for it, one that is not
// accepted, and a prefix rename, and does not wait for their callers.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	w.put(bucket, "from/k", "text")
	w.put(bucket, "key", "old")
	c := w.catalog
	var lost, turnedAway atomic.Int64
	kind := proposalLost
	w.tablet.decide = func([]byte) fate {
		if kind == proposalLost {
			lost.Add(1)
		} else {
			turnedAway.Add(1)
		}
		return kind
	}
	var g sync.WaitGroup
	g.Go(func() {
		_, err := c.Put(context.Background(), object(bucket, "key", "first"))
		wantOver(t, err, true)
	})
	expect.Soon(t, "answers of unknown outcome", func() bool { return lost.Load() > 1 })
	w.tablet.mu.Lock()
	kind = refused
	w.tablet.mu.Unlock()
	g.Go(func() {
		_, err := c.Put(context.Background(), object(bucket, "key", "second"))
		wantOver(t, err, false)
	})
	g.Go(func() {
		_, err := c.Put(context.Background(), object(bucket, "other", "text"))
		wantOver(t, err, false)
	})
	g.Go(func() { wantOver(t, c.RenamePrefix(context.Background(), bucket, "from/", "to/"), false) })
	expect.Soon(t, "writes of each kind under way", func() bool {
		c.latches.mu.Lock()
		defer c.latches.mu.Unlock()
		return len(c.latches.queue) >= 4 && turnedAway.Load() > 3
	})
	begin := time.Now()
	w.must(c.Close())
	g.Wait()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("closed after %v", took)
	}
	_, err := c.Put(context.Background(), object(bucket, "key", "late"))
	wantOver(t, err, false)
	_, err = c.Current(context.Background(), bucket, "key")
	wantOver(t, err, false)
	_, err = c.OpenSession(context.Background(), time.Minute)
	wantOver(t, err, false)
	_, err = c.CreateBucket(context.Background(), "another", "me")
	wantOver(t, err, false)
	wantOver(t, c.RenewSession(context.Background(), 1), false)

	// One that closes between a command that is lost and its repetition.
	w.tablet.decide = nil
	w.open()
	if v, err := w.Current(w.ctx, bucket, "key"); err != nil || v.ETag != etag("old") {
		t.Fatalf("%+v, %v", v, err)
	}
}

// TestADeposedCatalogEndsItsCalls loses leadership in every place of a write, and gains it again: what may have been
// applied is of unknown outcome, the rest was not done, and nothing is done later.
func TestADeposedCatalogEndsItsCalls(t *testing.T) {
	for name, c := range map[string]struct {
		fates   []fate // and refused from then on
		unknown bool
		made    int
	}{
		"not accepted":                   {[]fate{}, false, 0},
		"lost, then not accepted":        {[]fate{proposalLost}, true, 0},
		"applied, then not accepted":     {[]fate{answerLost}, true, 1},
		"accepted in another term":       {[]fate{newTerm}, false, 0},
		"lost, then in another term":     {[]fate{proposalLost, newTerm}, false, 0},
		"applied, and found in the next": {[]fate{answerLost, newTerm}, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			bucket := w.bucket("bucket", VersioningEnabled)
			shared, err := New(w.ctx, Config{Root: root.NewClient(w.root), Tablet: sharedGroup{w.tablet}, Now: w.clock.Now})
			w.must(err)
			at := 0
			w.tablet.decide = func([]byte) fate {
				if at++; at > len(c.fates) {
					return refused
				}
				return c.fates[at-1]
			}
			_, err = shared.Put(context.Background(), object(bucket, "key", "text"))
			wantOver(t, err, c.unknown)
			w.tablet.decide = nil
			if len(c.fates) > 0 && c.fates[len(c.fates)-1] == newTerm {
				// It leads again, in a term of which it knows nothing.
				_, err = shared.Put(context.Background(), object(bucket, "key", "text"))
				wantOver(t, err, false)
				_, err = shared.Current(context.Background(), bucket, "key")
				wantOver(t, err, false)
				_, err = shared.OpenSession(context.Background(), time.Minute)
				wantOver(t, err, false)
			}
			w.must(shared.Close())
			w.reopen() // the Catalog of the world is of an earlier term as well
			u, err := w.Usage(w.ctx, bucket)
			w.must(err)
			if int(u.Objects+u.Versions) != c.made {
				t.Fatalf("%d versions, want %d", u.Objects+u.Versions, c.made)
			}
		})
	}
}
