package metadata

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/kv/kvtest"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// fate is what happens to one proposal of a localGroup.
type fate int

const (
	applied      fate = iota
	answerLost        // it is applied, but nobody hears of it
	proposalLost      // it is not applied, and nobody knows
	refused           // it is not accepted
	newTerm           // another term begins before it is applied
)

// localGroup is a group without a log: it applies what is proposed at once. It has the faults that a log cannot be
// asked to have.
type localGroup struct {
	id      raft.GroupID
	machine raft.Machine
	db      *kv.DB

	mu    sync.Mutex
	index uint64
	term  uint64
	// decide gives the fate of each proposal; nil means applied.
	decide func(command []byte) fate
	fired  atomic.Int64 // fates other than applied
	down   bool
}

func newGroup(t testing.TB, id raft.GroupID, machine raft.Machine, db *kv.DB) *localGroup {
	t.Helper()
	return &localGroup{id: id, machine: machine, db: db, term: 1}
}

func (g *localGroup) ID() raft.GroupID { return g.id }

func (g *localGroup) Propose(ctx context.Context, command []byte) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return nil, raft.ErrStopped
	}
	f := applied
	if g.decide != nil {
		f = g.decide(command)
	}
	if f != applied {
		g.fired.Add(1)
	}
	switch f {
	case proposalLost:
		return nil, fmt.Errorf("%w: %w", raft.ErrUnknownOutcome, errors.New("lost"))
	case refused:
		return nil, raft.ErrNotLeader
	case newTerm:
		g.term++
	}
	g.index++
	b := g.db.NewBatch()
	result := g.machine.Apply(g.index, g.term, append([]byte(nil), command...), g.db, b)
	if err := g.db.Write(b); err != nil {
		return nil, err
	}
	if f == answerLost {
		return nil, raft.ErrUnknownOutcome
	}
	return result, ctx.Err()
}

func (g *localGroup) Barrier(context.Context) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return 0, raft.ErrStopped
	}
	return g.term, nil
}

func (g *localGroup) State() kv.Reader { return g.db }

func (g *localGroup) Snapshot() (raft.Snapshot, error) { return g.db.Snapshot() }

// clock is a clock that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a Catalog over local groups, which can be opened again over the same state. The tests ask Names: the Catalog
// itself, or what serving makes of it.
type world struct {
	t      testing.TB
	ctx    context.Context
	clock  *clock
	tablet *localGroup
	root   *localGroup

	catalog *Catalog
	Names
}

// serving is what stands between the tests and their Catalog; nil means nothing.
var serving func(testing.TB, *Catalog) Names

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, kvtest.Open(t))
}

func newWorldOn(t testing.TB, db *kv.DB) *world {
	t.Helper()
	w := &world{
		t: t, ctx: t.Context(), clock: &clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)},
		root: newGroup(t, 1, root.New(), db), tablet: newGroup(t, 2, tablet.New(), db),
	}
	w.open()
	return w
}

// open makes a Catalog over the state as it is, as a new process would.
func (w *world) open() {
	w.t.Helper()
	c, err := New(w.ctx, Config{Root: root.NewClient(w.root), Tablet: w.tablet, Now: w.clock.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.catalog, w.Names = c, c
	w.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.t.Error(err)
		}
	})
	if serving != nil {
		w.Names = serving(w.t, c)
	}
}

func (w *world) reopen() {
	w.t.Helper()
	if err := w.catalog.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) bucket(name string, v Versioning) BucketID {
	w.t.Helper()
	b, err := w.CreateBucket(w.ctx, name, "owner")
	if err != nil {
		w.t.Fatal(err)
	}
	if v != Unversioned {
		if err := w.SetVersioning(w.ctx, name, v); err != nil {
			w.t.Fatal(err)
		}
	}
	return b.ID
}

func etag(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

// object is a Put of an object whose manifest is text.
func object(bucket BucketID, key, text string) Put {
	return Put{Bucket: bucket, Version: Version{Key: key, Size: int64(len(text)), ETag: etag(text), Manifest: []byte(text)}}
}

func (w *world) put(bucket BucketID, key, text string) Version {
	w.t.Helper()
	v, err := w.Put(w.ctx, object(bucket, key, text))
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) wantErr(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("error %v, want %v", err, want)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// freedNow lists what the deleter would be given after the waiting time.
func (w *world) freedNow() []Freed {
	w.t.Helper()
	freed, err := w.Freed(w.ctx, nil, 1_000_000, w.clock.Now().Add(DefaultFreeAfter))
	w.must(err)
	return freed
}

// manifests are the freed manifests as text.
func manifests(freed []Freed) []string {
	var out []string
	for _, f := range freed {
		if f.Manifest != nil {
			out = append(out, string(f.Manifest))
		}
		for _, p := range f.Parts {
			if p.Manifest != nil {
				out = append(out, string(p.Manifest))
			}
		}
	}
	return out
}
