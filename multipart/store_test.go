package multipart_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/multiparttest"
)

func TestMain(m *testing.M) {
	// goleveldb's buffer pool wakes up once more after its DB was closed, and ends then.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

// kit is multiparttest.Kit with the verbs of these tests.
type kit struct{ *multiparttest.Kit }

func newKit(t testing.TB) kit { return kit{multiparttest.New(t, nil)} }

func sized(b []byte) multipart.Body {
	return multipart.Body{Reader: bytes.NewReader(b), Size: int64(len(b))}
}

func (k kit) put(b metadata.BucketID, key string, body []byte) metadata.Version {
	k.T.Helper()
	v, err := k.Store.Put(k.T.Context(), multipart.Put{Bucket: b, Key: key, Body: sized(body)})
	if err != nil {
		k.T.Fatalf("put %q: %v", key, err)
	}
	return v
}

func (k kit) get(b metadata.BucketID, key string, at multipart.At, span multipart.Span) ([]byte, error) {
	o, err := k.Store.Open(k.T.Context(), b, key, at)
	if err != nil {
		return nil, err
	}
	r := o.Read(k.T.Context(), span)
	got, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if cerr := o.Close(); err == nil {
		err = cerr
	}
	return got, err
}

func (k kit) want(b metadata.BucketID, key string, body []byte) {
	k.T.Helper()
	k.wantAt(b, key, multipart.At{}, body)
}

func (k kit) wantAt(b metadata.BucketID, key string, at multipart.At, body []byte) {
	k.T.Helper()
	got, err := k.get(b, key, at, multipart.Span{Len: -1})
	if err != nil {
		k.T.Fatalf("get %q: %v", key, err)
	}
	if !bytes.Equal(got, body) {
		k.T.Fatalf("get %q: %d bytes differ from the %d that were stored", key, len(got), len(body))
	}
}

func (k kit) wantGone(b metadata.BucketID, key string) {
	k.T.Helper()
	if _, err := k.get(b, key, multipart.At{}, multipart.Span{Len: -1}); !errors.Is(err, metadata.ErrNoSuchKey) {
		k.T.Fatalf("get %q: %v, want that there is none", key, err)
	}
}

func etag(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// boundaries are the sizes at which bytes begin to be kept in another way, and their neighbours.
func boundaries() []int {
	all := []int{0, 1, 2}
	for _, edge := range []int{multipart.DefaultInline, 64 << 10, 512 << 10, 1 << 20, chunkstore.MaxChunk, 2 * chunkstore.MaxChunk, 20 << 20} {
		all = append(all, edge-1, edge, edge+1)
	}
	return all
}

func TestObjectsOfEverySizeAreReadAsTheyWereWritten(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("sizes", metadata.Unversioned)
	for i, size := range boundaries() {
		key := fmt.Sprint(size)
		body := storetest.Body(uint64(i), size)
		v := k.put(b, key, body)
		if v.ETag != etag(body) || v.Size != int64(size) || v.Key != key {
			t.Fatalf("%d bytes: stored %+v", size, v)
		}
		if inline := len(v.Inline) > 0; inline != (size > 0 && size <= multipart.DefaultInline) {
			t.Fatalf("%d bytes: inline is %v", size, inline)
		}
		k.want(b, key, body)
		rng := rand.New(rand.NewPCG(2, uint64(size)))
		for range 4 {
			off := rng.IntN(size + 1)
			n := rng.IntN(size - off + 1)
			got, err := k.get(b, key, multipart.At{}, multipart.Span{Off: int64(off), Len: int64(n)})
			if err != nil || !bytes.Equal(got, body[off:off+n]) {
				t.Fatalf("%d bytes: span %d+%d: %v", size, off, n, err)
			}
		}
	}
	k.WantClean()
}

func TestBodyOfUnknownSizeIsStored(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("unknown", metadata.Unversioned)
	for i, size := range []int{0, 1, multipart.DefaultInline, multipart.DefaultInline + 1, 3 << 20, 9 << 20} {
		body := storetest.Body(uint64(i), size)
		v, err := k.Store.Put(t.Context(), multipart.Put{Bucket: b, Key: "k",
			Body: multipart.Body{Reader: iotest.HalfReader(bytes.NewReader(body)), Size: -1}})
		if err != nil || v.ETag != etag(body) {
			t.Fatalf("%d bytes: %+v, %v", size, v, err)
		}
		k.want(b, "k", body)
	}
}

func TestSpansOutsideOfTheObjectAreRefused(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("spans", metadata.Unversioned)
	k.put(b, "k", storetest.Body(1, 100_000))
	for _, span := range []multipart.Span{{Off: -1, Len: 1}, {Off: 100_001, Len: -1}, {Off: 99_999, Len: 2}, {Off: 0, Len: 100_001}, {Off: 1 << 62, Len: 1 << 62}} {
		if _, err := k.get(b, "k", multipart.At{}, span); !errors.Is(err, multipart.ErrSpan) {
			t.Errorf("span %+v: %v", span, err)
		}
	}
	if got, err := k.get(b, "k", multipart.At{}, multipart.Span{Off: 100_000, Len: -1}); err != nil || len(got) != 0 {
		t.Errorf("span at the end: %d bytes, %v", len(got), err)
	}
}

var errGone = errors.New("the client went away")

// TestFailedBodiesLeaveNothing stores bodies that end wrongly in every way, at sizes that are kept in different ways.
func TestFailedBodiesLeaveNothing(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("failed", metadata.Unversioned)
	old := storetest.Body(9, 100_000)
	k.put(b, "k", old)
	before := k.Shards()
	for _, size := range []int{10, multipart.DefaultInline, 600 << 10, 17 << 20} {
		body := storetest.Body(1, size)
		for name, c := range map[string]struct {
			body multipart.Body
			want error
		}{
			"short":        {multipart.Body{Reader: bytes.NewReader(body[:size-1]), Size: int64(size)}, multipart.ErrIncompleteBody},
			"long":         {multipart.Body{Reader: bytes.NewReader(body), Size: int64(size) - 1}, multipart.ErrLongBody},
			"broken":       {multipart.Body{Reader: io.MultiReader(bytes.NewReader(body), iotest.ErrReader(errGone)), Size: -1}, errGone},
			"broken sized": {multipart.Body{Reader: io.MultiReader(bytes.NewReader(body), iotest.ErrReader(errGone)), Size: int64(size)}, errGone},
			"half":         {multipart.Body{Reader: io.MultiReader(bytes.NewReader(body[:size/2]), iotest.ErrReader(errGone)), Size: int64(size)}, errGone},
			"refused": {multipart.Body{Reader: bytes.NewReader(body), Size: int64(size),
				Seal: func([16]byte) (map[string]string, error) { return nil, errGone }}, errGone},
		} {
			if _, err := k.Store.Put(t.Context(), multipart.Put{Bucket: b, Key: "k", Body: c.body}); !errors.Is(err, c.want) {
				t.Fatalf("%s body of %d bytes: %v, want %v", name, size, err, c.want)
			}
		}
	}
	k.want(b, "k", old)
	// What a write had under way to the drives when it failed is deleted behind its back.
	k.Chunks.Eventually("the failed bodies' shards are gone", func() bool { return k.Shards() == before })
	k.WantClean()
}

func TestRefusedCommitsLeaveNothing(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("refused", metadata.Unversioned)
	old := storetest.Body(9, 100_000)
	k.put(b, "k", old)
	before := k.Shards()
	body := storetest.Body(1, 300_000)
	for _, c := range []struct {
		put  multipart.Put
		want error
	}{
		{multipart.Put{Bucket: b, Key: "k", If: metadata.If{NoneMatch: "*"}}, metadata.ErrPrecondition},
		{multipart.Put{Bucket: b, Key: "k", If: metadata.If{Match: "x"}}, metadata.ErrPrecondition},
		{multipart.Put{Bucket: b, Key: "none", If: metadata.If{Match: "*"}}, metadata.ErrNoSuchKey},
		{multipart.Put{Bucket: b, Key: "k", If: metadata.If{NoBase: true}}, metadata.ErrConflict},
		{multipart.Put{Bucket: b + 77, Key: "k"}, metadata.ErrNoSuchBucket},
		{multipart.Put{Bucket: b, Key: ""}, metadata.ErrKeyLength},
		{multipart.Put{Bucket: b, Key: string(make([]byte, multipart.MaxKey+1))}, metadata.ErrKeyLength},
	} {
		c.put.Body = sized(body)
		if _, err := k.Store.Put(t.Context(), c.put); !errors.Is(err, c.want) {
			t.Fatalf("%+v: %v, want %v", c.put.If, err, c.want)
		}
	}
	if after := k.Shards(); after != before {
		t.Fatalf("%d shards before, %d after", before, after)
	}
	k.want(b, "k", old)
	k.put(b, string(bytes.Repeat([]byte("k"), multipart.MaxKey)), body)
}

func TestOverwriteFreesExactlyTheOldChunks(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("over", metadata.Unversioned)
	first, second := storetest.Body(1, 9<<20), storetest.Body(2, 700_000)
	k.put(b, "k", first)
	o, err := k.Store.Open(t.Context(), b, "k", multipart.At{})
	if err != nil {
		t.Fatal(err)
	}
	k.put(b, "k", second)
	if p, err := k.Store.Free(t.Context()); err != nil || p != (multipart.Freed{}) {
		t.Fatalf("freed before its time: %+v, %v", p, err)
	}
	// A reader that opened the replaced version goes on.
	r := o.Read(t.Context(), multipart.Span{Len: -1})
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, first) {
		t.Fatalf("replaced version: %d bytes, %v", len(got), err)
	}
	if err := errors.Join(r.Close(), o.Close()); err != nil {
		t.Fatal(err)
	}
	k.Settle()
	k.WantClean()
	k.want(b, "k", second)
	if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	k.Settle()
	k.wantGone(b, "k")
	if n := k.Shards(); n != 0 {
		t.Fatalf("%d shards are left of nothing", n)
	}
}

func TestRepeatedPutIsAppliedOnce(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("again", metadata.VersioningEnabled)
	session, err := k.Store.OpenSession(t.Context(), 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	op := metadata.Op{Session: session, Seq: 1}
	body := storetest.Body(1, 300_000)
	put := func() metadata.Version {
		v, err := k.Store.Put(t.Context(), multipart.Put{Bucket: b, Key: "k", Body: sized(body), Op: op})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := put()
	if again := put(); again.ID != v.ID {
		t.Fatalf("two versions, %v and %v, of one operation", v.ID, again.ID)
	}
	k.want(b, "k", body)
	k.WantClean()
}

// deaf is told the answer of a write only when it asks again, with the same Op, after something else has happened.
type deaf struct {
	metadata.Names
	op      metadata.Op
	between func() // once
}

// missed says whether the answer of this write is lost, and lets the other things happen.
func (d *deaf) missed() bool {
	between := d.between
	d.between = nil
	if between != nil {
		between()
	}
	return between != nil
}

func (d *deaf) Put(ctx context.Context, p metadata.Put) (metadata.Version, error) {
	if d.between != nil {
		p.Op = d.op
	}
	v, err := d.Names.Put(ctx, p)
	if err == nil && d.missed() {
		return d.Names.Put(ctx, p)
	}
	return v, err
}

func (d *deaf) PutPart(ctx context.Context, b metadata.BucketID, key string, id metadata.UploadID, p metadata.Part, intents []metadata.Row, op metadata.Op) (metadata.Part, error) {
	if d.between != nil {
		op = d.op
	}
	part, err := d.Names.PutPart(ctx, b, key, id, p, intents, op)
	if err == nil && d.missed() {
		return d.Names.PutPart(ctx, b, key, id, p, intents, op)
	}
	return part, err
}

// TestARepetitionTakesNothingAway: what a write stored is copied by reference and replaced before the write hears, by
// asking again, that it was done. Its chunks are not those of a try that came to nothing.
func TestARepetitionTakesNothingAway(t *testing.T) {
	var names *deaf
	k := kit{multiparttest.New(t, func(c *multipart.Config) {
		names = &deaf{Names: c.Catalog}
		c.Catalog = names
	})}
	b := k.Bucket("again", metadata.Unversioned)
	names.op.Session = k.session()
	body := storetest.Body(1, 300_000)
	names.op.Seq, names.between = 1, func() {
		if _, err := k.Store.Copy(t.Context(), multipart.Copy{Bucket: b, Key: "copy", Source: multipart.Source{Bucket: b, Key: "k"}}); err != nil {
			t.Fatal(err)
		}
		k.put(b, "k", storetest.Body(2, 100_000))
	}
	k.put(b, "k", body)
	k.want(b, "copy", body)
	k.WantClean()
	u := k.upload(b, "part", false)
	names.op.Seq, names.between = 2, func() { k.part(b, u, 1, storetest.Body(3, 100_000)) }
	k.part(b, u, 1, body)
	k.WantClean() // what was replaced is freed in its time
}

func sha256Base64(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestReadersLearnWhichMarkerTheyMet(t *testing.T) {
	k := newKit(t)
	for _, versioning := range []metadata.Versioning{metadata.VersioningEnabled, metadata.VersioningSuspended} {
		b := k.Bucket(fmt.Sprintf("marked-%d", versioning), versioning)
		k.put(b, "k", storetest.Body(1, 100))
		deleted, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []multipart.At{{}, {Version: &deleted.Version}, {Null: deleted.Null}} {
			_, err := k.Store.Open(t.Context(), b, "k", at)
			var met *multipart.MarkerError
			if !errors.As(err, &met) || !errors.Is(err, metadata.ErrDeleteMarker) {
				t.Fatalf("open %+v: %v", at, err)
			}
			if met.Marker.ID != deleted.Version || met.Marker.Null != deleted.Null || met.Marker.Modified.IsZero() {
				t.Errorf("open %+v met %+v, want %+v", at, met.Marker, deleted)
			}
		}
	}
}
