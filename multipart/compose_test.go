package multipart_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// file is an open file as a mount holds it: its bytes, and the pieces that make them.
type file struct {
	k       kit
	rng     *rand.Rand
	bucket  metadata.BucketID
	key     string
	session uint64
	writes  uint64 // numbers given to writes of the session

	base   metadata.VersionID // of the last publish; zero: none
	size   int64              // of the base
	upload metadata.Upload
	parts  int
	image  []byte
	pieces []multipart.Piece
}

func (k kit) session() uint64 {
	k.T.Helper()
	id, err := k.Store.OpenSession(k.T.Context(), 24*time.Hour)
	if err != nil {
		k.T.Fatal(err)
	}
	return id
}

// reopen gives up the upload and begins with the published version.
func (f *file) reopen(published []byte) {
	f.k.T.Helper()
	f.abort()
	f.pieces = nil
	f.image = bytes.Clone(published)
	if f.size > 0 {
		f.pieces = []multipart.Piece{{Base: true, Len: f.size}}
	}
}

func (f *file) abort() {
	f.k.T.Helper()
	if f.upload.ID.IsZero() {
		return
	}
	if err := f.k.Store.Abort(f.k.T.Context(), f.bucket, f.upload.Key, f.upload.ID); err != nil {
		f.k.T.Fatal(err)
	}
	f.upload, f.parts = metadata.Upload{}, 0
}

// op numbers the next write of the file's session.
func (f *file) op() metadata.Op {
	f.writes++
	return metadata.Op{Session: f.session, Seq: f.writes}
}

// cut returns the pieces of the bytes lo..hi.
func cut(pieces []multipart.Piece, lo, hi int64) (out []multipart.Piece) {
	at := int64(0)
	for _, p := range pieces {
		from, to := max(lo, at), min(hi, at+p.Len)
		if from < to {
			q := p
			if !q.Hole {
				q.Off += from - at
			}
			q.Len = to - from
			out = append(out, q)
		}
		at += p.Len
	}
	return out
}

func (f *file) write(off, n int64) {
	f.k.T.Helper()
	if f.upload.ID.IsZero() {
		u, err := f.k.Store.CreateUpload(f.k.T.Context(), multipart.CreateUpload{
			Bucket: f.bucket, Key: f.key, Internal: true, Op: f.op(),
		})
		if err != nil {
			f.k.T.Fatal(err)
		}
		f.upload = u
	}
	body := storetest.Body(f.rng.Uint64(), int(n))
	f.parts++
	f.k.part(f.bucket, f.upload, f.parts, body)
	end := int64(len(f.image))
	before := cut(f.pieces, 0, min(off, end))
	if off > end {
		before = append(before, multipart.Piece{Hole: true, Len: off - end})
		f.image = append(f.image, make([]byte, off-end)...)
	}
	after := cut(f.pieces, off+n, end)
	f.pieces = append(append(before, multipart.Piece{Part: f.parts, Len: n}), after...)
	if need := off + n - int64(len(f.image)); need > 0 {
		f.image = append(f.image, make([]byte, need)...)
	}
	copy(f.image[off:], body)
}

func (f *file) truncate(n int64) {
	f.pieces = cut(f.pieces, 0, n)
	f.image = f.image[:n]
}

func (f *file) compose() multipart.Compose {
	return multipart.Compose{
		Bucket: f.bucket, Key: f.key, Upload: f.upload.ID, UploadKey: f.upload.Key, Pieces: f.pieces,
		If: metadata.If{Base: f.base, NoBase: f.base.IsZero()}, Op: f.op(),
	}
}

const inode = 7

func (f *file) publish() metadata.Version {
	f.k.T.Helper()
	c := f.compose()
	c.Unstage = metadata.StageKey{Session: f.session, Inode: inode}
	v, err := f.k.Store.Compose(f.k.T.Context(), c)
	if err != nil {
		f.k.T.Fatalf("publish %d pieces: %v", len(f.pieces), err)
	}
	if v.Size != int64(len(f.image)) {
		f.k.T.Fatalf("published %d bytes of %d", v.Size, len(f.image))
	}
	f.base, f.size = v.ID, v.Size
	return v
}

func (f *file) stage() {
	f.k.T.Helper()
	err := f.k.Store.Stage(f.k.T.Context(), metadata.StageKey{Session: f.session, Inode: inode}, f.compose())
	if err != nil {
		f.k.T.Fatalf("stage %d pieces: %v", len(f.pieces), err)
	}
}

// step does one random thing to a file.
func (f *file) step(published *[]byte) {
	f.k.T.Helper()
	end := int64(len(f.image))
	switch f.rng.IntN(12) {
	case 0, 1, 2, 3: // small random writes, which tools do most
		f.write(f.rng.Int64N(end+1), 1+f.rng.Int64N(30_000))
	case 4:
		f.write(end, 1+f.rng.Int64N(2<<20))
	case 5:
		f.write(end+f.rng.Int64N(1<<20), 1+f.rng.Int64N(1000))
	case 6:
		f.truncate(f.rng.Int64N(end + 1))
	case 7, 8:
		f.publish()
		*published = bytes.Clone(f.image)
		if f.rng.IntN(2) == 0 && f.size > 0 {
			f.pieces = []multipart.Piece{{Base: true, Len: f.size}}
		}
	case 9:
		f.stage()
	case 10:
		if err := f.k.Store.Discard(f.k.T.Context(), metadata.StageKey{Session: f.session, Inode: inode}); err != nil {
			f.k.T.Fatal(err)
		}
	case 11:
		if f.rng.IntN(3) == 0 {
			if err := f.k.Store.Discard(f.k.T.Context(), metadata.StageKey{Session: f.session, Inode: inode}); err != nil {
				f.k.T.Fatal(err)
			}
			f.reopen(*published)
		} else {
			if f.rng.IntN(4) == 0 {
				f.k.Restart()
			}
			f.k.Settle()
			f.k.WantClean()
		}
	}
}

// TestComposedFilesEqualTheirModel writes files at random, as a mount does, and compares what is published with plain
// bytes. After every settling exactly the chunks that names lead to are on the drives: nothing was freed too early,
// nothing was forgotten.
func TestComposedFilesEqualTheirModel(t *testing.T) {
	for seed := range uint64(16) {
		versioning := metadata.Versioning(seed % 2)
		t.Run(fmt.Sprintf("seed %d versioning %d", seed, versioning), func(t *testing.T) {
			k := newKit(t)
			f := &file{k: k, rng: rand.New(rand.NewPCG(seed, 1)), bucket: k.Bucket("files", versioning), key: "f", session: k.session()}
			var published []byte
			var history []metadata.Version
			contents := map[metadata.VersionID][]byte{}
			for range 60 {
				before := f.base
				f.step(&published)
				if f.base == before {
					continue
				}
				k.want(f.bucket, f.key, published)
				v, err := k.Store.Current(t.Context(), f.bucket, f.key)
				if err != nil {
					t.Fatal(err)
				}
				history = append(history, v)
				contents[v.ID] = published
			}
			f.abort()
			if err := k.Store.CloseSession(t.Context(), f.session); err != nil {
				t.Fatal(err)
			}
			k.Settle()
			k.WantClean()
			if versioning == metadata.VersioningEnabled {
				for _, v := range history {
					k.wantAt(f.bucket, f.key, multipart.At{Version: &v.ID}, contents[v.ID])
				}
				return
			}
			if f.base.IsZero() {
				return
			}
			if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: f.bucket, Key: f.key}); err != nil {
				t.Fatal(err)
			}
			k.Settle()
			if n := k.Shards(); n != 0 {
				t.Fatalf("%d shards are left of nothing", n)
			}
		})
	}
}

// TestStageIsPublishedWhenItsSessionEnds is the mount that dies after an fsync.
func TestStageIsPublishedWhenItsSessionEnds(t *testing.T) {
	for seed := range uint64(8) {
		k := newKit(t)
		f := &file{k: k, rng: rand.New(rand.NewPCG(seed, 2)), bucket: k.Bucket("files", metadata.Unversioned), key: "f", session: k.session()}
		var published []byte
		for range 10 {
			f.step(&published)
		}
		f.write(0, 100_000)
		f.stage()
		want := bytes.Clone(f.image)
		f.write(500, 90_000) // after the fsync: may be lost
		if err := k.Store.CloseSession(t.Context(), f.session); err != nil {
			t.Fatal(err)
		}
		k.Settle()
		k.want(f.bucket, f.key, want)
		k.WantClean()
	}
}

func TestComposeOfWholePartsHasTheETagOfAnUpload(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("etag", metadata.Unversioned)
	u, w := k.upload(b, "k", true), k.upload(b, "l", true)
	var pieces []multipart.Piece
	var complete []metadata.CompletePart
	for n := 1; n <= 3; n++ {
		body := storetest.Body(uint64(n), 100_000+n)
		k.part(b, u, n, body)
		k.part(b, w, n, body)
		pieces = append(pieces, multipart.Piece{Part: n, Len: int64(len(body))})
		complete = append(complete, metadata.CompletePart{Number: n})
	}
	composed, err := k.Store.Compose(t.Context(), multipart.Compose{Bucket: b, Key: "k", Upload: u.ID, Pieces: pieces})
	if err != nil {
		t.Fatal(err)
	}
	completed, err := k.Store.Complete(t.Context(), metadata.Complete{Bucket: b, Key: "l", Upload: w.ID, Parts: complete, MinPartSize: -1})
	if err != nil || completed.ETag != composed.ETag {
		t.Fatalf("composed %s, completed %s, %v", composed.ETag, completed.ETag, err)
	}
}

func TestComposeOverAReplacedBaseIsAConflict(t *testing.T) {
	k := newKit(t)
	f := &file{k: k, rng: rand.New(rand.NewPCG(1, 3)), bucket: k.Bucket("conflict", metadata.Unversioned), key: "f", session: k.session()}
	f.write(0, 200_000)
	f.publish()
	other := storetest.Body(5, 50_000)
	k.put(f.bucket, f.key, other)
	before := k.Shards()
	f.write(10, 10)
	if _, err := k.Store.Compose(t.Context(), f.compose()); !errors.Is(err, metadata.ErrConflict) {
		t.Fatal(err)
	}
	// Without a condition the part's bytes still are the replaced version's, which may be gone at any time.
	c := f.compose()
	c.If = metadata.If{}
	if _, err := k.Store.Compose(t.Context(), c); !errors.Is(err, metadata.ErrConflict) {
		t.Fatal(err)
	}
	if n := k.Shards(); n != before {
		t.Fatalf("%d shards before, %d after", before, n)
	}
	k.want(f.bucket, f.key, other)
	f.abort()
	k.Settle()
	k.WantClean()
	k.want(f.bucket, f.key, other)
}

func TestBadPiecesAreRefused(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("bad", metadata.Unversioned)
	v := k.put(b, "k", storetest.Body(1, 1000))
	u := k.upload(b, "k", true)
	k.part(b, u, 1, storetest.Body(2, 1000))
	for _, p := range []multipart.Piece{
		{Part: 1, Len: 0}, {Part: 1, Off: -1, Len: 1}, {Part: 1, Off: 1, Len: 1000}, {Part: 1, Base: true, Len: 1}, {Len: 1},
		{Base: true, Off: 999, Len: 2}, {Base: true, Off: 1 << 62, Len: 1 << 62}, {Part: -1, Len: 1}, {Part: 10_001, Len: 1},
		{Part: 2, Len: 1}, {Hole: true, Len: multipart.MaxObject + 1}, {Hole: true, Base: true, Len: 1},
	} {
		_, err := k.Store.Compose(t.Context(), multipart.Compose{
			Bucket: b, Key: "k", Upload: u.ID, Pieces: []multipart.Piece{p}, If: metadata.If{Base: v.ID},
		})
		if !errors.Is(err, multipart.ErrSpan) && !errors.Is(err, multipart.ErrPartNumber) && !errors.Is(err, metadata.ErrInvalidPart) &&
			!errors.Is(err, metadata.ErrObjectTooLarge) {
			t.Errorf("piece %+v: %v", p, err)
		}
	}
}

// TestIndexedFilesAreReadAndFreed keeps more references than stand in a record, and needs pages of them.
func TestIndexedFilesAreReadAndFreed(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("index", metadata.Unversioned)
	u := k.upload(b, "k", true)
	const mib = 1 << 20
	body := storetest.Body(3, 17<<20)
	k.part(b, u, 1, body)
	var want []byte
	var pieces []multipart.Piece
	rng := rand.New(rand.NewPCG(4, 4))
	for range 40 { // forty spans of random places, and holes between
		off := rng.Int64N(16 * mib)
		pieces = append(pieces, multipart.Piece{Part: 1, Off: off, Len: 300_000}, multipart.Piece{Hole: true, Len: 10_000})
		want = append(append(want, body[off:off+300_000]...), make([]byte, 10_000)...)
	}
	v, err := k.Store.Compose(t.Context(), multipart.Compose{Bucket: b, Key: "k", Upload: u.ID, Pieces: pieces})
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Manifest) > 2000 {
		t.Fatalf("a manifest of %d bytes stands in the record", len(v.Manifest))
	}
	if err := k.Store.Abort(t.Context(), b, "k", u.ID); err != nil {
		t.Fatal(err)
	}
	k.Settle()
	k.WantClean()
	k.want(b, "k", want)
	for range 20 {
		off := rng.Int64N(int64(len(want)) - 5000)
		got, err := k.get(b, "k", multipart.At{}, multipart.Span{Off: off, Len: 5000})
		if err != nil || !bytes.Equal(got, want[off:off+5000]) {
			t.Fatalf("span at %d: %v", off, err)
		}
	}
	if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	k.Settle()
	if n := k.Shards(); n != 0 {
		t.Fatalf("%d shards are left of nothing", n)
	}
}
