package metadata

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// TestOverwriteAndDeleteFreeExactlyTheirChunks follows manifests from the commit that drops them to the dropped row.
func TestOverwriteAndDeleteFreeExactlyTheirChunks(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	w.put(bucket, "a", "a1")
	w.put(bucket, "a", "a2")
	w.put(bucket, "b", "b1")
	if _, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "b"}); err != nil {
		t.Fatal(err)
	}
	w.put(bucket, "c", "c1")
	_, err := w.Rename(w.ctx, Rename{Bucket: bucket, From: "c", To: "a"})
	w.must(err)

	early, err := w.Freed(w.ctx, nil, 10, w.clock.Now().Add(DefaultFreeAfter-1))
	w.must(err)
	if len(early) != 0 {
		t.Fatalf("freed before the time: %v", manifests(early))
	}
	freed := w.freedNow()
	if got := manifests(freed); !slices.Equal(got, []string{"a1", "a2", "b1"}) {
		t.Fatalf("freed %v", got)
	}
	// Paged by one, the same rows come.
	var after []byte
	for i := range freed {
		page, err := w.Freed(w.ctx, after, 1, w.clock.Now().Add(DefaultFreeAfter))
		w.must(err)
		if len(page) != 1 || string(page[0].Row) != string(freed[i].Row) {
			t.Fatalf("page %d: %v", i, page)
		}
		after = page[0].Row
	}
	w.must(w.DropFreed(w.ctx, [][]byte{freed[0].Row, freed[2].Row}))
	w.must(w.DropFreed(w.ctx, [][]byte{freed[0].Row}))
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"a2"}) {
		t.Fatalf("left %v", got)
	}
}

// TestLargeBodiesGoWithTheirVersions removes bodies that have a row of their own, in every way: those of bytes free
// nothing, those of chunks free them, and no body row is left.
func TestLargeBodiesGoWithTheirVersions(t *testing.T) {
	for _, versioning := range []Versioning{Unversioned, VersioningEnabled} {
		w := newWorld(t)
		bucket := w.bucket("bucket", versioning)
		large := func(letter string) string { return strings.Repeat(letter, 2*inlineBody) }
		bytes := func(key, text string) VersionID {
			v, err := w.Put(w.ctx, Put{Bucket: bucket, Version: Version{Key: key, Size: int64(len(text)), ETag: etag(text), Inline: []byte(text)}})
			w.must(err)
			return v.ID
		}
		var all []VersionID
		all = append(all, bytes("a", large("1")), bytes("a", large("2")), w.put(bucket, "a", large("m")).ID, bytes("a", large("3")),
			w.put(bucket, "a", large("n")).ID)
		bytes("b", large("4"))
		moved, err := w.Rename(w.ctx, Rename{Bucket: bucket, From: "b", To: "a"})
		w.must(err)
		v, err := w.Current(w.ctx, bucket, "a")
		w.must(err)
		if string(v.Inline) != large("4") {
			t.Errorf("%d bytes are renamed", len(v.Inline))
		}
		for _, id := range append(all, moved.ID) {
			_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "a", Version: &id})
			if versioning == Unversioned && errors.Is(err, ErrNoSuchVersion) {
				continue
			}
			w.must(err)
		}
		if got := manifests(w.freedNow()); !slices.Equal(got, []string{large("m"), large("n")}) {
			t.Errorf("%d manifests are freed", len(got))
		}
		if left := w.rows(record.FamilyBody); left != 0 {
			t.Errorf("%d body rows are left", left)
		}
	}
}

// rows counts the rows of a family.
func (w *world) rows(family byte) int {
	w.t.Helper()
	it := w.tablet.State().Iterate(kv.Span{Start: []byte{family}, End: []byte{family + 1}})
	defer it.Close()
	n := 0
	for it.Next() {
		n++
	}
	w.must(it.Err())
	return n
}

// TestVersionedBucketsFreeOnlyWhatIsRemovedForGood keeps everything until a version is removed by its id.
func TestVersionedBucketsFreeOnlyWhatIsRemovedForGood(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	v1 := w.put(bucket, "a", "a1")
	w.put(bucket, "a", "a2")
	_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "a"})
	w.must(err)
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v", got)
	}
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "a", Version: &v1.ID})
	w.must(err)
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"a1"}) {
		t.Fatalf("freed %v", got)
	}
}

func TestSharedChunksWaitForSweep(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	v := w.put(bucket, "a", "a1")
	w.must(w.Lend(w.ctx, bucket, "a", v.ID))
	if got, err := w.Current(w.ctx, bucket, "a"); err != nil || !got.Shared || got.ID != v.ID {
		t.Fatalf("lent version %+v %v", got, err)
	}
	w.put(bucket, "a", "a2")
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v", got)
	}
	waiting := 0
	w.must(w.Survey(w.ctx, func(s Surveyed) error {
		if s.Freed != nil && s.Freed.Shared && string(s.Freed.Manifest) == "a1" {
			waiting++
		}
		return nil
	}))
	if waiting != 1 {
		t.Fatalf("%d rows wait for sweep", waiting)
	}
	w.wantErr(w.Lend(w.ctx, bucket, "a", v.ID), ErrNoSuchVersion)
}

// TestKeptChunksAreNotFreed publishes versions that inherit from their base.
func TestKeptChunksAreNotFreed(t *testing.T) {
	w := newWorld(t)
	for _, versioning := range []Versioning{Unversioned, VersioningEnabled} {
		bucket := w.bucket(fmt.Sprintf("bucket-%d", versioning), versioning)
		base := w.put(bucket, "f", "base")
		p := object(bucket, "f", "next")
		p.Keeps, p.Dropped, p.If.Base = true, []byte("dropped"), base.ID
		next, err := w.Put(w.ctx, p)
		w.must(err)
		got := manifests(w.freedNow())
		if versioning == Unversioned {
			if !slices.Equal(got, []string{"dropped"}) || next.Shared {
				t.Fatalf("freed %v, shared %v", got, next.Shared)
			}
			w.must(w.DropFreed(w.ctx, [][]byte{w.freedNow()[0].Row}))
		} else {
			old, err := w.Version(w.ctx, bucket, "f", base.ID, false)
			w.must(err)
			if len(got) != 0 || !next.Shared || !old.Shared {
				t.Fatalf("freed %v, shared %v and %v", got, next.Shared, old.Shared)
			}
		}
		_, err = w.Put(w.ctx, p)
		w.wantErr(err, ErrConflict)
	}
}

// TestKeptPartRowsGoWithoutTheirChunks makes a file whose base is a completed upload: the rows go, the chunks stay.
func TestKeptPartRowsGoWithoutTheirChunks(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	base := w.complete(bucket, "f", "p1", "p2")
	p := object(bucket, "f", "next")
	p.Keeps, p.If.Base = true, base.ID
	_, err := w.Put(w.ctx, p)
	w.must(err)
	freed := w.freedNow()
	if len(freed) != 1 || len(freed[0].Parts) != 2 || len(manifests(freed)) != 0 {
		t.Fatalf("freed %+v", freed)
	}
	w.must(w.DropFreed(w.ctx, [][]byte{freed[0].Row}))
	if parts, err := w.Parts(w.ctx, bucket, "f", base.PartsOf, 0, 0); err != nil || len(parts) != 0 {
		t.Fatalf("rows are left: %v %v", parts, err)
	}

	// A copy onto itself that changes only metadata takes the part rows over.
	base = w.complete(bucket, "g", "p1", "p2")
	self := Put{Bucket: bucket, Version: base, Keeps: true, If: If{Base: base.ID}}
	self.Version.Meta = map[string]string{"x-amz-meta-a": "b"}
	next, err := w.Put(w.ctx, self)
	w.must(err)
	if got := w.freedNow(); len(got) != 0 {
		t.Fatalf("freed %+v", got)
	}
	if parts, err := w.Parts(w.ctx, bucket, next.PartsKey, next.PartsOf, 0, 0); err != nil || len(parts) != 2 {
		t.Fatalf("parts %v %v", parts, err)
	}
}

// complete makes an object of parts with the given texts.
func (w *world) complete(bucket BucketID, key string, texts ...string) Version {
	w.t.Helper()
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: key}, Op{})
	w.must(err)
	var listed []CompletePart
	for i, text := range texts {
		w.part(bucket, key, u.ID, i+1, text)
		listed = append(listed, CompletePart{Number: i + 1})
	}
	v, err := w.Complete(w.ctx, Complete{Bucket: bucket, Key: key, Upload: u.ID, Parts: listed, MinPartSize: -1})
	w.must(err)
	return v
}

func (w *world) part(bucket BucketID, key string, id UploadID, number int, text string) {
	w.t.Helper()
	_, err := w.PutPart(w.ctx, bucket, key, id, Part{
		Number: number, Size: int64(len(text)), ETag: etag(text), Manifest: []byte(text),
	}, nil, Op{})
	w.must(err)
}

// TestPartsAreFreedInPages removes an object of a thousand parts, made of runs, and drops its pages in any order.
func TestPartsAreFreedInPages(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	var texts, want []string
	for i := range 1000 {
		texts = append(texts, fmt.Sprintf("part %4d", i))
	}
	want = append(want, texts...)
	v := w.complete(bucket, "big", texts...)
	if len(v.Parts) != 1 || v.Parts[0].Count != 1000 {
		t.Fatalf("parts %v are not run-length coded", v.Parts)
	}
	_, err := w.Rename(w.ctx, Rename{Bucket: bucket, From: "big", To: "renamed"})
	w.must(err)
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "renamed"})
	w.must(err)
	freed := w.freedNow()
	got := manifests(freed)
	sort.Strings(want)
	if len(freed) != 4 || !slices.Equal(got, want) {
		t.Fatalf("%d pages with %d parts", len(freed), len(got))
	}
	next, err := w.Freed(w.ctx, freed[1].Row, 1, w.clock.Now().Add(DefaultFreeAfter))
	w.must(err)
	if len(next) != 1 || string(next[0].Row) != string(freed[2].Row) {
		t.Fatalf("the page after the second: %v", next)
	}
	w.must(w.DropFreed(w.ctx, [][]byte{freed[1].Row, freed[3].Row}))
	if got := len(manifests(w.freedNow())); got != 512 {
		t.Fatalf("%d parts left", got)
	}
	w.must(w.DropFreed(w.ctx, [][]byte{freed[0].Row, freed[2].Row}))
	if left := w.freedNow(); len(left) != 0 {
		t.Fatalf("left %v", left)
	}
	if parts, err := w.Parts(w.ctx, bucket, "big", v.PartsOf, 0, 0); err != nil || len(parts) != 0 {
		t.Fatalf("%d part rows are left, %v", len(parts), err)
	}
}

// TestHeldVersionsAreNotFreed holds, replaces, renames and releases.
func TestHeldVersionsAreNotFreed(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session, err := w.OpenSession(w.ctx, time.Hour)
	w.must(err)
	v := w.put(bucket, "a", "a1")
	w.must(w.Hold(w.ctx, session, bucket, "a", v.ID))
	w.must(w.Hold(w.ctx, session, bucket, "a", v.ID))
	_, err = w.Rename(w.ctx, Rename{Bucket: bucket, From: "a", To: "b"})
	w.must(err)
	w.put(bucket, "b", "b2")
	v2, err := w.Current(w.ctx, bucket, "b")
	w.must(err)
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v while held", got)
	}
	w.must(w.Release(w.ctx, session, bucket, "a", v.ID))
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v while held once more", got)
	}
	w.must(w.Release(w.ctx, session, bucket, "a", v.ID))
	w.must(w.Release(w.ctx, session, bucket, "a", v.ID))
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"a1"}) {
		t.Fatalf("freed %v after the release", got)
	}

	// A version that is replaced can still be held, until its time.
	w.put(bucket, "b", "b3")
	w.must(w.Hold(w.ctx, session, bucket, "b", v2.ID))
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"a1"}) {
		t.Fatalf("freed %v", got)
	}
	w.clock.Add(DefaultFreeAfter)
	if err := w.Hold(w.ctx, session, bucket, "b", v2.ID); !errors.Is(err, ErrNoSuchVersion) {
		t.Fatalf("hold after the time: %v", err)
	}
	// The end of the session releases the rest.
	w.must(w.CloseSession(w.ctx, session))
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"a1", "b2"}) {
		t.Fatalf("freed %v after the session", got)
	}
	w.wantErr(w.Hold(w.ctx, session, bucket, "b", v2.ID), ErrSessionFenced)
}

// TestPartRowsHaveOneOwner refuses a version that names the part rows of another one.
func TestPartRowsHaveOneOwner(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	v := w.complete(bucket, "f", "p1", "p2")
	thief := Put{Bucket: bucket, Version: v}
	thief.Version.Key = "g"
	if _, err := w.Put(w.ctx, thief); err == nil || !strings.Contains(err.Error(), errPartsOfAnother.Error()) {
		t.Fatalf("part rows of another key: %v", err)
	}
	thief.Version.Key = "f"
	if _, err := w.Put(w.ctx, thief); err == nil || !strings.Contains(err.Error(), errPartsOfAnother.Error()) {
		t.Fatalf("part rows of the base without Keeps: %v", err)
	}
}
