package metadata

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

func TestBucketNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"abc": true, "a-b.c1": true, strings.Repeat("a", 63): true, "1ab": true,
		"ab": false, strings.Repeat("a", 64): false, "Abc": false, "a_b": false, "-ab": false, "ab-": false,
		".ab": false, "a..b": false, "a.-b": false, "a-.b": false, "a-b.c-d": true, "192.168.1.1": false, "": false, "a/b": false, "äbc": false,
	} {
		if err := CheckBucketName(name); (err == nil) != ok || (!ok && !errors.Is(err, ErrBadBucketName)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBucketsComeAndGo(t *testing.T) {
	w := newWorld(t)
	first := w.bucket("one", Unversioned)
	_, err := w.CreateBucket(w.ctx, "one", "other")
	w.wantErr(err, ErrBucketExists)
	_, err = w.CreateBucket(w.ctx, "One", "other")
	w.wantErr(err, ErrBadBucketName)
	w.bucket("two", VersioningEnabled)
	w.wantErr(w.SetVersioning(w.ctx, "two", Unversioned), ErrConflict)
	buckets, err := w.Buckets(w.ctx)
	w.must(err)
	if len(buckets) != 2 || buckets[0].Name != "one" || buckets[1].Versioning != VersioningEnabled || buckets[0].Owner != "owner" {
		t.Fatalf("buckets %+v", buckets)
	}
	if b, err := w.catalog.BucketByID(w.ctx, first); err != nil || b.Name != "one" || !b.Created.Equal(w.clock.Now()) {
		t.Fatalf("bucket %+v %v", b, err)
	}
	w.put(first, "k", "text")
	w.wantErr(w.DeleteBucket(w.ctx, "one"), ErrBucketNotEmpty)
	_, err = w.Delete(w.ctx, Delete{Bucket: first, Key: "k"})
	w.must(err)
	w.must(w.DeleteBucket(w.ctx, "one"))
	w.wantErr(w.DeleteBucket(w.ctx, "one"), ErrNoSuchBucket)
	_, err = w.Put(w.ctx, object(first, "k", "text"))
	w.wantErr(err, ErrNoSuchBucket)
	for _, err := range []error{
		second(w.Bucket(w.ctx, "one")), second(w.catalog.BucketByID(w.ctx, first)), second(w.Usage(w.ctx, first)),
		second(w.List(w.ctx, List{Bucket: first, Max: 1})), second(w.ListVersions(w.ctx, ListVersions{Bucket: first, Max: 1})),
		second(w.Uploads(w.ctx, ListUploads{Bucket: first, Max: 1})), second(w.Current(w.ctx, first, "k")),
		second(w.CreateUpload(w.ctx, first, Upload{Key: "k"}, Op{})), second(w.HasPrefix(w.ctx, first, "")),
	} {
		w.wantErr(err, ErrNoSuchBucket)
	}
	if again := w.bucket("one", Unversioned); again == first {
		t.Fatal("a bucket id came back")
	}
	if freed := manifests(w.freedNow()); fmt.Sprint(freed) != "[text]" {
		t.Fatalf("the chunks of a deleted bucket are lost: %v", freed)
	}
}

func second[T any](_ T, err error) error { return err }

// TestVersionsAndMarkersKeepABucket wants a bucket with only a delete marker to be refused.
func TestVersionsAndMarkersKeepABucket(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	d, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "never there"})
	w.must(err)
	if d.Found || !d.DeleteMarker {
		t.Fatalf("deleted %+v", d)
	}
	w.wantErr(w.DeleteBucket(w.ctx, "bucket"), ErrBucketNotEmpty)
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "never there", Version: &d.Version})
	w.must(err)
	w.must(w.DeleteBucket(w.ctx, "bucket"))
}

// TestOneOfManyRacersMakesTheBucket also races its deletion against writes: a write that succeeded is never lost with
// its bucket.
func TestOneOfManyRacersMakesTheBucket(t *testing.T) {
	w := newWorld(t)
	var made atomic.Int64
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			switch _, err := w.CreateBucket(w.ctx, "race", "owner"); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, ErrBucketExists):
				t.Error(err)
			}
		})
	}
	g.Wait()
	if made.Load() != 1 {
		t.Fatalf("%d racers made the bucket", made.Load())
	}
	b, err := w.Bucket(w.ctx, "race")
	w.must(err)
	var put, deleted atomic.Int64
	for range 8 {
		g.Go(func() {
			if _, err := w.Put(w.ctx, object(b.ID, "k", "text")); err == nil {
				put.Add(1)
			} else if !errors.Is(err, ErrNoSuchBucket) {
				t.Error(err)
			}
		})
		g.Go(func() {
			if err := w.DeleteBucket(w.ctx, "race"); err == nil {
				deleted.Add(1)
			} else if !errors.Is(err, ErrBucketNotEmpty) && !errors.Is(err, ErrNoSuchBucket) {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if (put.Load() == 0) == (deleted.Load() == 0) {
		t.Fatalf("%d writes succeeded and %d deletions", put.Load(), deleted.Load())
	}
}

// TestBucketChangesAreFinishedAfterACrash stops the root group between the two rows of a bucket.
func TestBucketChangesAreFinishedAfterACrash(t *testing.T) {
	w := newWorld(t)
	w.bucket("gone", Unversioned)
	id := w.bucket("versioned", Unversioned)
	stop := func(g *localGroup, down bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.down = down
	}
	// The deletion has fenced the tablet, then the root group stops answering commands.
	w.root.decide = func([]byte) fate { w.root.down = true; return proposalLost }
	w.wantErr(w.DeleteBucket(w.ctx, "gone"), ErrUnavailable)
	stop(w.root, false)
	w.root.decide = nil
	// The versioning has reached the root group, then the tablet stops.
	w.tablet.decide = func([]byte) fate { w.tablet.down = true; return proposalLost }
	w.wantErr(w.SetVersioning(w.ctx, "versioned", VersioningEnabled), ErrUnavailable)
	stop(w.tablet, false)
	w.tablet.decide = nil
	w.reopen()
	_, err := w.Bucket(w.ctx, "gone")
	w.wantErr(err, ErrNoSuchBucket)
	if v := w.put(id, "k", "text"); v.Null {
		t.Fatal("the bucket has versioning, and a write makes the null version")
	}
}

func TestRowsAreComparedAndSwapped(t *testing.T) {
	w := newWorld(t)
	_, err := w.Row(w.ctx, []byte("v/1"))
	w.wantErr(err, ErrNoSuchKey)
	row, err := w.PutRow(w.ctx, Row{Key: []byte("v/1"), Value: []byte("a")})
	w.must(err)
	_, err = w.PutRow(w.ctx, Row{Key: []byte("v/1"), Value: []byte("b")})
	w.wantErr(err, ErrConflict)
	row.Value = []byte("c")
	row, err = w.PutRow(w.ctx, row)
	w.must(err)
	if got, err := w.Row(w.ctx, []byte("v/1")); err != nil || string(got.Value) != "c" || got.Revision != row.Revision || row.Revision != 2 {
		t.Fatalf("row %+v %v", got, err)
	}
	for _, key := range []string{"v/2", "v/3", "w", "u\xff\xff", "v"} {
		_, err := w.PutRow(w.ctx, Row{Key: []byte(key)})
		w.must(err)
	}
	rows, err := w.Rows(w.ctx, []byte("v/"), []byte("v/1"), 1)
	w.must(err)
	if len(rows) != 1 || string(rows[0].Key) != "v/2" {
		t.Fatalf("rows %+v", rows)
	}
	if rows, err = w.Rows(w.ctx, []byte("v/"), nil, 0); err != nil || len(rows) != 3 {
		t.Fatalf("rows %+v %v", rows, err)
	}
	w.must(w.DeleteRow(w.ctx, []byte("v/1")))
	w.must(w.DeleteRow(w.ctx, []byte("v/1")))
	if rows, err = w.Rows(w.ctx, []byte("v/"), nil, 0); err != nil || len(rows) != 2 {
		t.Fatalf("rows %+v %v", rows, err)
	}
}

func TestBlocksAreLeasedOnce(t *testing.T) {
	w := newWorld(t)
	seen := make(map[uint64]bool)
	for range 100 {
		block, err := w.LeaseBlock(w.ctx)
		w.must(err)
		if seen[block] || block>>48 != 0 {
			t.Fatalf("block %x", block)
		}
		seen[block] = true
	}
	w.must(w.catalog.Root().SetIncarnation(w.ctx, 3))
	block, err := w.LeaseBlock(w.ctx)
	w.must(err)
	if block>>48 != 3 {
		t.Fatalf("block %x after the incarnation was raised", block)
	}
	if err := w.catalog.Root().SetIncarnation(w.ctx, 3); err == nil {
		t.Fatal("the incarnation was raised to itself")
	}
}

// TestSurveyFindsEverything counts one of each.
func TestSurveyFindsEverything(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	session := w.session(DefaultFreeAfter)
	w.put(bucket, "k", "one")
	v := w.put(bucket, "k", strings.Repeat("two", inlineBody))
	w.put(bucket, "gone", "three")
	gone, err := w.Current(w.ctx, bucket, "gone")
	w.must(err)
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "gone", Version: &gone.ID})
	w.must(err)
	w.complete(bucket, "parts", "a", "b")
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "up"}, Op{})
	w.must(err)
	w.part(bucket, "up", u.ID, 7, "part")
	w.must(w.Stage(w.ctx, staged(session, 1, object(bucket, "s", "staged"), "own")))
	_, err = w.PutRow(w.ctx, Row{Key: []byte("row")})
	w.must(err)
	found := make(map[string]int)
	w.must(w.Survey(w.ctx, func(s Surveyed) error {
		switch {
		case s.Version != nil:
			found["version"]++
			if s.Version.ID == v.ID && (len(s.Version.Manifest) != 3*inlineBody || !s.Version.Latest) {
				t.Errorf("version %+v", s.Version)
			}
		case s.Upload != nil:
			found["upload"]++
		case s.Part != nil:
			found["part"]++
		case s.Freed != nil:
			found["freed "+string(s.Freed.Manifest)]++
		case s.Stage != nil:
			found["stage "+s.Key]++
		case s.Row != nil:
			found["row "+string(s.Row.Key)]++
		}
		return nil
	}))
	want := map[string]int{"version": 3, "upload": 1, "part": 3, "freed three": 1, "stage s": 1, "row row": 1}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Fatalf("found %v, want %v", found, want)
	}
	stop := errors.New("stop")
	w.wantErr(w.Survey(w.ctx, func(Surveyed) error { return stop }), stop)
}

// TestListReadsNoRowsBelowACommonPrefix counts the rows that a listing with a delimiter steps on.
func TestListReadsNoRowsBelowACommonPrefix(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	for i := range 2000 {
		w.put(bucket, fmt.Sprintf("dir%d/%04d", i%2, i), "")
	}
	r := &countingReader{Reader: w.tablet.db}
	page, err := state{r}.list(List{Bucket: bucket, Delimiter: "/", Max: 10})
	w.must(err)
	if len(page.Prefixes) != 2 || page.Truncated {
		t.Fatalf("page %+v", page)
	}
	if r.steps == 0 || r.steps > 2*(maxSteps+2) {
		t.Fatalf("%d rows were read for two prefixes", r.steps)
	}
}

type countingReader struct {
	kv.Reader
	steps int
}

func (r *countingReader) Iterate(span kv.Span) kv.Iterator {
	return &countingIterator{r.Reader.Iterate(span), r}
}

type countingIterator struct {
	kv.Iterator
	r *countingReader
}

func (i *countingIterator) Next() bool {
	i.r.steps++
	return i.Iterator.Next()
}

// TestDeleteMarkersDoNotSlowListings deletes every key of a versioned bucket: the family that is listed is empty.
func TestDeleteMarkersDoNotSlowListings(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	for i := range 200 {
		key := fmt.Sprint(i)
		w.put(bucket, key, "text")
		_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: key})
		w.must(err)
	}
	prefix := record.BucketPrefix(record.FamilyCurrent, uint64(bucket))
	it := w.tablet.db.Iterate(kv.Span{Start: prefix, End: record.After(prefix)})
	defer it.Close()
	if it.Next() {
		t.Fatalf("row %x among the current objects", it.Key())
	}
}
