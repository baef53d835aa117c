package metadata

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/metadata/tablet"
)

// TestWritesHappenExactlyOnceWhateverTheLogDoes loses proposals and answers, changes the term and refuses, under
// concurrent writers: the counters at the end are those of one application each.
func TestWritesHappenExactlyOnceWhateverTheLogDoes(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	random := rand.New(rand.NewPCG(7, 7))
	w.tablet.decide = func([]byte) fate {
		if random.IntN(2) == 0 { // under the group's mutex
			return applied
		}
		return fate(random.IntN(int(newTerm) + 1))
	}
	const writers, each = 8, 40
	var g sync.WaitGroup
	for i := range writers {
		g.Go(func() {
			for n := range each {
				if _, err := w.Put(w.ctx, object(bucket, fmt.Sprintf("key %d", i%3), fmt.Sprintf("text %d %d", i, n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if w.tablet.fired.Load() == 0 {
		t.Fatal("no fault fired")
	}
	u, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if u.Objects != 3 || u.Objects+u.Versions != writers*each {
		t.Fatalf("usage %+v after %d puts of 3 keys", u, writers*each)
	}
	page, err := w.ListVersions(w.ctx, ListVersions{Bucket: bucket, Max: 10_000})
	w.must(err)
	if len(page.Versions) != writers*each {
		t.Fatalf("%d versions", len(page.Versions))
	}
}

// TestRetryOfAClientGetsTheSameAnswer repeats writes with the same Op, also through a Catalog that began later.
func TestRetryOfAClientGetsTheSameAnswer(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	session, err := w.OpenSession(w.ctx, time.Minute)
	w.must(err)
	p := object(bucket, "key", "first")
	p.Op = Op{session, 1}
	first, err := w.Put(w.ctx, p)
	w.must(err)
	second := w.put(bucket, "key", "second")

	w.reopen()
	again := p
	again.Version.Manifest = []byte("bytes of the second try")
	got, err := w.Put(w.ctx, again)
	w.must(err)
	if got.ID != first.ID || string(got.Manifest) != "first" {
		t.Fatalf("retry got %+v", got)
	}
	if v, err := w.Current(w.ctx, bucket, "key"); err != nil || v.ID != second.ID {
		t.Fatalf("the retry changed the current version: %v %v", v, err)
	}
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "key", Version: &first.ID})
	w.must(err)
	if got, err = w.Put(w.ctx, again); err != nil || got.ID != first.ID || got.Manifest != nil {
		t.Fatalf("retry of a version that is gone: %+v %v", got, err)
	}

	// The same sequence after its slot was used again is refused, never applied.
	for n := uint64(2); n <= tablet.Slots+1; n += tablet.Slots - 1 {
		next := object(bucket, "key", "later")
		next.Op = Op{session, n}
		_, err := w.Put(w.ctx, next)
		w.must(err)
	}
	if _, err := w.Put(w.ctx, again); !errors.Is(err, ErrSessionFenced) {
		t.Fatalf("forgotten sequence: %v", err)
	}
}

func TestEveryKindOfWriteIsRepeatable(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	session, err := w.OpenSession(w.ctx, time.Minute)
	w.must(err)
	op := func(n uint64) Op { return Op{session, n} }
	for range 2 {
		u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "up"}, op(1))
		w.must(err)
		_, err = w.PutPart(w.ctx, bucket, "up", u.ID, Part{Number: 1, Size: 4, ETag: etag("part"), Manifest: []byte("part")}, nil, op(2))
		if err != nil && !errors.Is(err, ErrNoSuchUpload) {
			t.Fatal(err)
		}
		v, err := w.Complete(w.ctx, Complete{Bucket: bucket, Key: "up", Upload: u.ID, Parts: []CompletePart{{Number: 1}}, Op: op(3)})
		w.must(err)
		v, err = w.Rename(w.ctx, Rename{Bucket: bucket, From: "up", To: "moved", Op: op(4)})
		w.must(err)
		if v.Key != "moved" || v.Size != 4 {
			t.Fatalf("rename answered %+v", v)
		}
		v, err = w.SetAttr(w.ctx, bucket, "moved", v.ID, Attr{Mode: 0o644}, op(5))
		w.must(err)
		if v.Attr == nil || v.Attr.Mode != 0o644 {
			t.Fatalf("attr answered %+v", v)
		}
		d, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "moved", Op: op(6)})
		w.must(err)
		if !d.Found || !d.DeleteMarker {
			t.Fatalf("delete answered %+v", d)
		}
	}
	u, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if (u != Usage{Versions: 2, VersionBytes: 4}) {
		t.Fatalf("usage %+v", u)
	}
}

func TestOneOfManyRacersCreates(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	var won atomic.Int64
	var g sync.WaitGroup
	for i := range 64 {
		g.Go(func() {
			p := object(bucket, "lock", fmt.Sprint(i))
			p.If.NoneMatch = "*"
			switch _, err := w.Put(w.ctx, p); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrPrecondition):
				t.Error(err)
			}
		})
	}
	g.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d racers won", won.Load())
	}
}

// TestCancelledWriteKeepsItsTurn cancels a writer whose command is lost: the next writer of the key waits until the
// first one's outcome is known.
func TestCancelledWriteKeepsItsTurn(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	ctx, cancel := context.WithCancel(w.ctx)
	var lost atomic.Int64
	w.tablet.decide = func([]byte) fate {
		if lost.Add(1) <= 3 {
			cancel()
			return proposalLost
		}
		return applied
	}
	if _, err := w.Put(ctx, object(bucket, "key", "first")); err != nil && !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	second := w.put(bucket, "key", "second")
	page, err := w.ListVersions(w.ctx, ListVersions{Bucket: bucket, Max: 10})
	w.must(err)
	if len(page.Versions) != 2 || page.Versions[0].ID != second.ID {
		t.Fatalf("versions %+v", page.Versions)
	}
	if lost.Load() < 4 {
		t.Fatal("nothing was lost")
	}
}

func TestGroupThatStoppedIsUnavailable(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	w.tablet.mu.Lock()
	w.tablet.down = true
	w.tablet.mu.Unlock()
	_, err := w.Put(w.ctx, object(bucket, "key", "text"))
	w.wantErr(err, ErrUnavailable)
	_, err = w.Current(w.ctx, bucket, "key")
	w.wantErr(err, ErrUnavailable)
	_, err = w.List(w.ctx, List{Bucket: bucket, Max: 1})
	w.wantErr(err, ErrUnavailable)
}

func TestCommandOverItsLimitIsRefused(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	p := object(bucket, "key", "text")
	p.Version.Manifest = make([]byte, tablet.MaxCommand)
	_, err := w.Put(w.ctx, p)
	w.wantErr(err, ErrTooLarge)
	if _, err := w.Current(w.ctx, bucket, "key"); !errors.Is(err, ErrNoSuchKey) {
		t.Fatal(err)
	}
}

func TestKeyLimits(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	for size, ok := range map[int]bool{0: false, 1: true, maxKey: true, maxKey + 1: false} {
		_, err := w.Put(w.ctx, object(bucket, string(make([]byte, size)), "text"))
		if (err == nil) != ok || (!ok && !errors.Is(err, ErrKeyLength)) {
			t.Errorf("key of %d bytes: %v", size, err)
		}
	}
}

// TestVersionComesBackAsItWasPut checks that no field of a version is lost on its way through the state.
func TestVersionComesBackAsItWasPut(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	when := time.Date(1969, 1, 2, 3, 4, 5, 6, time.UTC)
	p := object(bucket, "k\xff\x00", "text")
	p.Version.Modified = when
	p.Version.Headers = map[string]string{"content-type": "text/\xff", "expires": ""}
	p.Version.Meta = map[string]string{"x-amz-meta-a": "b"}
	p.Version.Tags = map[string]string{"é": "ü"}
	p.Version.Checksums = map[string]string{"CRC32": "AAAA"}
	p.Version.ChecksumType = "FULL_OBJECT"
	p.Version.Attr = &Attr{
		Mode: 0o100644, UID: 1, GID: 2, Mtime: time.Unix(0, 0).UTC(), Atime: when, Rdev: 3, Target: "\xfe",
		Xattrs: map[string][]byte{"user.a": {0xff}}, Inode: 9,
	}
	put, err := w.Put(w.ctx, p)
	w.must(err)
	got, err := w.Current(w.ctx, bucket, p.Version.Key)
	w.must(err)
	if got, put, want := fmt.Sprintf("%+v", *got.Attr), fmt.Sprintf("%+v", *put.Attr), fmt.Sprintf("%+v", *p.Version.Attr); got != want || put != want {
		t.Errorf("attributes\n%s\nput answered\n%s\nwant\n%s", got, put, want)
	}
	want := p.Version
	want.ID, want.Latest = got.ID, true
	got.Attr, want.Attr = nil, nil
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestLatchesTakeTurnsWithoutDeadlock runs overlapping spans from many goroutines.
func TestLatchesTakeTurnsWithoutDeadlock(t *testing.T) {
	var ls latches
	var busy [4]atomic.Int64
	var g sync.WaitGroup
	for i := range 16 {
		g.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 200 {
				a, b := random.IntN(4), random.IntN(4)
				held, err := ls.acquire(t.Context(), one(fmt.Sprint(a)), one(fmt.Sprint(b)))
				if err != nil {
					t.Error(err)
					return
				}
				if busy[a].Add(1) != 1 {
					t.Error("two hold one name")
				}
				busy[a].Add(-1)
				ls.release(held)
			}
		})
	}
	g.Wait()
	held, err := ls.acquire(t.Context(), prefixLatch(1, "dir/"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ls.acquire(ctx, keyLatch(1, "dir/file")); !errors.Is(err, context.Canceled) {
		t.Fatalf("key below a held prefix: %v", err)
	}
	other, err := ls.acquire(t.Context(), keyLatch(1, "dir"), keyLatch(2, "dir/file"))
	if err != nil {
		t.Fatal(err)
	}
	ls.release(other)
	ls.release(held)
	if len(ls.queue) != 0 {
		t.Fatalf("%d latches are left", len(ls.queue))
	}
}
