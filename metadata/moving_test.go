package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// ledger is what clients were told about one bucket, by the text that each write stores as its ETag.
type ledger struct {
	mu sync.Mutex
	// put has the version of every acknowledged Put, refused those that were not made.
	put     map[string]metadata.VersionID
	refused map[string]bool
	markers map[metadata.VersionID]bool
	// high is the highest acknowledged clock of a version or marker, by key; gone has the keys that were ever deleted.
	high map[string]uint64
	gone map[string]bool
}

func (l *ledger) acknowledged(key string, id metadata.VersionID, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.high[key] = max(l.high[key], id.Clock)
	if text == "" {
		l.markers[id] = true
	} else {
		l.put[text] = id
	}
}

// seen is what a read that begins now must see of all keys.
func (l *ledger) seen() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]uint64, len(l.high))
	for key, clock := range l.high {
		if !l.gone[key] {
			out[key] = clock
		}
	}
	return out
}

// load is one client: it writes and reads through all routers in turn, with Ops of its own or without.
type load struct {
	t       *testing.T
	x       *trio
	bucket  metadata.BucketID
	ledger  *ledger
	random  *rand.Rand
	id      int
	session uint64 // 0: writes bring no Op
	seq     uint64
	writes  int
}

func (l *load) names() metadata.Names { return l.x.peers[1+l.random.IntN(peers)].router }

func (l *load) op() metadata.Op {
	if l.session == 0 {
		return metadata.Op{}
	}
	l.seq++
	return metadata.Op{Session: l.session, Seq: l.seq}
}

// step does one thing. Keys below kept/ are never deleted.
func (l *load) step(ctx context.Context) error {
	l.writes++
	key := fmt.Sprintf("%s/%d", []string{"kept", "gone"}[l.random.IntN(2)], l.random.IntN(6))
	text := fmt.Sprintf("%d:%d", l.id, l.writes)
	switch n := l.random.IntN(10); {
	case n < 3:
		return l.put(ctx, key, text+" any", metadata.If{})
	case n < 5:
		v, err := l.names().Current(ctx, l.bucket, key)
		if errors.Is(err, metadata.ErrNoSuchKey) {
			return l.put(ctx, key, text+" none", metadata.If{NoneMatch: "*"})
		}
		if err != nil {
			return err
		}
		return l.put(ctx, key, fmt.Sprintf("%s after %v", text, v.ID), metadata.If{Base: v.ID})
	case n < 6:
		return l.put(ctx, key, text+" none", metadata.If{NoneMatch: "*"})
	case n < 8 && strings.HasPrefix(key, "gone/"):
		l.ledger.mu.Lock()
		l.ledger.gone[key] = true
		l.ledger.mu.Unlock()
		d, err := l.names().Delete(ctx, metadata.Delete{Bucket: l.bucket, Key: key, Op: l.op()})
		if err == nil {
			l.ledger.acknowledged(key, d.Version, "")
		}
		return err
	}
	return l.list(ctx)
}

func (l *load) put(ctx context.Context, key, text string, cond metadata.If) error {
	v, err := l.names().Put(ctx, metadata.Put{
		Bucket: l.bucket, Version: metadata.Version{Key: key, ETag: text, Size: 1, Inline: []byte{1}}, If: cond, Op: l.op(),
	})
	switch {
	case err == nil:
		l.ledger.acknowledged(key, v.ID, text)
	case errors.Is(err, metadata.ErrPrecondition) || errors.Is(err, metadata.ErrConflict) || errors.Is(err, metadata.ErrNoSuchKey):
		l.ledger.mu.Lock()
		l.ledger.refused[text] = true
		l.ledger.mu.Unlock()
		return nil
	}
	return err
}

// list wants of every key that is never deleted what was acknowledged before, or something newer.
func (l *load) list(ctx context.Context) error {
	must := l.ledger.seen()
	page, err := l.names().List(ctx, metadata.List{Bucket: l.bucket, Prefix: "kept/", Max: 1000})
	if err != nil {
		return err
	}
	for _, v := range page.Versions {
		if v.ID.Clock < must[v.Key] {
			l.t.Errorf("%s is listed with clock %d, %d was acknowledged before", v.Key, v.ID.Clock, must[v.Key])
		}
		delete(must, v.Key)
	}
	for key := range must {
		if strings.HasPrefix(key, "kept/") {
			l.t.Errorf("%s is not listed", key)
		}
	}
	return nil
}

// TestNamesWhileLeadersMove has clients at the routers of three peers while leadership is handed over all the time, and
// leaders are cut off and come back. Every call ends with an answer, though it may be repeated on its way; every write
// that was acknowledged is there once, none that was refused is; each conditional one followed upon what it asked for.
func TestNamesWhileLeadersMove(t *testing.T) {
	x := newTrio(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := x.peers[1].router.CreateBucket(ctx, "bucket", "me")
	if err == nil {
		err = x.peers[2].router.SetVersioning(ctx, "bucket", metadata.VersioningEnabled)
	}
	if err != nil {
		t.Fatal(err)
	}
	book := &ledger{
		put: map[string]metadata.VersionID{}, refused: map[string]bool{}, markers: map[metadata.VersionID]bool{},
		high: map[string]uint64{}, gone: map[string]bool{},
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const clients = 6
	running, stop := context.WithCancel(ctx)
	defer stop()
	var steps atomic.Int64
	var g sync.WaitGroup
	for i := range clients {
		l := &load{t: t, x: x, bucket: b.ID, ledger: book, random: rand.New(rand.NewPCG(seed, uint64(i))), id: i}
		if i%2 == 0 {
			if l.session, err = l.names().OpenSession(ctx, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		g.Go(func() {
			for running.Err() == nil {
				if err := l.step(ctx); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				steps.Add(1)
			}
		})
	}
	d := disturbance{x: x, random: rand.New(rand.NewPCG(seed, 99)), book: book}
	d.run(running)
	stop()
	g.Wait()
	t.Logf("%d steps, %d puts, %d refused, %d markers; %d transfers, %d leaders cut off", steps.Load(), len(book.put), len(book.refused), len(book.markers), d.moves, d.cuts)
	if !d.enough() {
		t.Error("too little happened")
	}
	checkHistory(ctx, t, x, b.ID, book)
}

// disturbance moves leadership about every 100 ms, and cuts every fifth leader off for the time of an election. The
// connections to leaders break ten times as often: what they were asked then happens, and nobody hears of it.
type disturbance struct {
	x           *trio
	random      *rand.Rand
	book        *ledger
	moves, cuts int
}

func (d *disturbance) enough() bool {
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	return d.moves >= 20 && d.cuts >= 5 && len(d.book.put) >= 200 && len(d.book.refused) >= 20 && len(d.book.markers) >= 20
}

func (d *disturbance) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	var breaker sync.WaitGroup
	defer breaker.Wait()
	defer cancel()
	breaker.Go(func() { d.breakAnswers(ctx) })
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil && !d.enough(); n++ {
		<-pause.C
		now := d.x.leader(d.x.members()...)
		if n%5 == 4 {
			d.x.setCut(now.n, true)
			d.cuts++
			for range 4 {
				<-pause.C
			}
			d.x.setCut(now.n, false)
			continue
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		if now.tablet().Transfer(short, 1+(now.n+uint64(d.random.IntN(peers-1)))%peers) == nil {
			d.moves++
		}
		cancel()
	}
}

func (d *disturbance) breakAnswers(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		for _, m := range d.x.members() {
			if m.leads() {
				m.breakConns(m.n)
			}
		}
	}
}

// checkHistory compares all versions with what clients were told.
func checkHistory(ctx context.Context, t *testing.T, x *trio, bucket metadata.BucketID, book *ledger) {
	t.Helper()
	page, err := x.peers[3].router.ListVersions(ctx, metadata.ListVersions{Bucket: bucket, Max: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	markers := 0
	made := map[string]int{}
	for i, v := range page.Versions {
		if v.DeleteMarker {
			markers++
			if !book.markers[v.ID] {
				t.Errorf("marker %v of %s was never acknowledged", v.ID, v.Key)
			}
			continue
		}
		made[v.ETag]++
		if id, ok := book.put[v.ETag]; !ok || id != v.ID {
			t.Errorf("version %v of %s, %q, was acknowledged as %v", v.ID, v.Key, v.ETag, id)
		}
		var older *metadata.Version
		if i+1 < len(page.Versions) && page.Versions[i+1].Key == v.Key {
			older = &page.Versions[i+1]
		}
		switch _, asked, _ := strings.Cut(v.ETag, " "); {
		case asked == "any":
		case asked == "none":
			if older != nil && !older.DeleteMarker {
				t.Errorf("%s: %q was made though %q was there", v.Key, v.ETag, older.ETag)
			}
		case older == nil || asked != fmt.Sprintf("after %v", older.ID):
			t.Errorf("%s: %q follows upon %+v", v.Key, v.ETag, older)
		}
	}
	for text := range book.put {
		if made[text] != 1 {
			t.Errorf("%q was acknowledged and made %d times", text, made[text])
		}
	}
	for text := range book.refused {
		if made[text] != 0 {
			t.Errorf("%q was refused and made", text)
		}
	}
	if markers != len(book.markers) {
		t.Errorf("%d markers of %d", markers, len(book.markers))
	}
	u, err := x.peers[1].router.Usage(ctx, bucket)
	if err != nil || int(u.Objects+u.Versions) != len(page.Versions) {
		t.Errorf("usage %+v of %d versions, %v", u, len(page.Versions), err)
	}
}
