package metadata

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCompleteChecksWhatTheClientLists(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	u, err := w.CreateUpload(w.ctx, bucket, Upload{
		Key: "k", Owner: "me", Template: Version{Headers: map[string]string{"content-type": "a/b"}}, ChecksumAlgorithm: "CRC32",
	}, Op{})
	w.must(err)
	if got, err := w.Upload(w.ctx, bucket, "k", u.ID); err != nil || got.Owner != "me" || got.ChecksumAlgorithm != "CRC32" {
		t.Fatalf("upload %+v %v", got, err)
	}
	for number, size := range map[int]int64{2: minPartSize, 5: minPartSize - 1, 9: 1} {
		_, err := w.PutPart(w.ctx, bucket, "k", u.ID, Part{
			Number: number, Size: size, ETag: etag(fmt.Sprint(number)), Manifest: []byte(fmt.Sprint("p", number)),
			Checksums: map[string]string{"CRC32": fmt.Sprint(number)},
		}, []Row{{Key: []byte(fmt.Sprint("intent ", number)), Value: []byte("v")}}, Op{})
		w.must(err)
	}
	listed := func(numbers ...int) (out []CompletePart) {
		for _, n := range numbers {
			out = append(out, CompletePart{Number: n})
		}
		return out
	}
	for _, c := range []struct {
		name  string
		parts []CompletePart
		want  error
	}{
		{"none", nil, ErrInvalidPart},
		{"descending", listed(5, 2), ErrInvalidPartOrder},
		{"twice", listed(2, 2), ErrInvalidPartOrder},
		{"missing first", listed(1, 2), ErrInvalidPart},
		{"missing between", listed(2, 3, 9), ErrInvalidPart},
		{"missing last", listed(2, 10), ErrInvalidPart},
		{"small", listed(5, 9), ErrPartTooSmall},
		{"etag", []CompletePart{{Number: 2, ETag: etag("x")}}, ErrInvalidPart},
		{"checksum", []CompletePart{{Number: 2, Checksums: map[string]string{"CRC32": "3"}}}, ErrInvalidPart},
		{"unknown checksum", []CompletePart{{Number: 2, Checksums: map[string]string{"SHA1": "3"}}}, ErrInvalidPart},
	} {
		_, err := w.Complete(w.ctx, Complete{Bucket: bucket, Key: "k", Upload: u.ID, Parts: c.parts})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	usage, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if (usage != Usage{Uploads: 1, Parts: 3, PartBytes: 2 * minPartSize}) {
		t.Fatalf("usage %+v", usage)
	}
	w.wantErr(w.DeleteBucket(w.ctx, "bucket"), ErrBucketNotEmpty)

	p := Complete{Bucket: bucket, Key: "k", Upload: u.ID, Parts: []CompletePart{
		{Number: 2, ETag: etag("2"), Checksums: map[string]string{"CRC32": "2"}}, {Number: 9},
	}}
	v, err := w.Complete(w.ctx, p)
	w.must(err)
	if v.Size != minPartSize+1 || !strings.HasSuffix(v.ETag, "-2") || v.Headers["content-type"] != "a/b" {
		t.Fatalf("completed %+v", v)
	}
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"p5"}) {
		t.Fatalf("freed %v", got)
	}
	usage, err = w.Usage(w.ctx, bucket)
	w.must(err)
	if (usage != Usage{Objects: 1, Bytes: minPartSize + 1}) {
		t.Fatalf("usage %+v", usage)
	}
	if rows, err := w.Rows(w.ctx, []byte("intent "), nil, 0); err != nil || len(rows) != 3 {
		t.Fatalf("intents %v %v", rows, err)
	}
	// A retry is answered for seven days, and changes nothing.
	w.put(bucket, "k", "newer")
	again, err := w.Complete(w.ctx, p)
	w.must(err)
	if again.ID != v.ID || again.ETag != v.ETag {
		t.Fatalf("retry answered %+v", again)
	}
	_, err = w.PutPart(w.ctx, bucket, "k", u.ID, Part{Number: 1, ETag: etag("")}, nil, Op{})
	w.wantErr(err, ErrNoSuchUpload)
	w.wantErr(w.Abort(w.ctx, bucket, "k", u.ID, Op{}), ErrNoSuchUpload)
	w.clock.Add(DefaultResultsFor + time.Second)
	w.catalog.pruneAll(w.ctx)
	_, err = w.Complete(w.ctx, p)
	w.wantErr(err, ErrNoSuchUpload)
}

func TestReplacedAndAbortedPartsAreFreed(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", VersioningEnabled)
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "k"}, Op{})
	w.must(err)
	w.part(bucket, "k", u.ID, 1, "one")
	w.part(bucket, "k", u.ID, 1, "one again")
	_, err = w.PutPart(w.ctx, bucket, "k", u.ID, Part{Number: 2, Size: 3, ETag: etag("two"), Manifest: []byte("two"), Shared: true}, nil, Op{})
	w.must(err)
	w.must(w.Abort(w.ctx, bucket, "k", u.ID, Op{}))
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"one", "one again"}) {
		t.Fatalf("freed %v", got)
	}
	for _, bad := range []int{0, -1, maxPartNumber + 1} {
		_, err := w.PutPart(w.ctx, bucket, "k", u.ID, Part{Number: bad}, nil, Op{})
		w.wantErr(err, ErrInvalidPart)
	}
	usage, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if usage != (Usage{}) {
		t.Fatalf("usage %+v", usage)
	}
	w.must(w.DeleteBucket(w.ctx, "bucket"))
}

// TestConcurrentPartsAndComplete retries parts while the upload is completed: what is counted and freed is exact.
func TestConcurrentPartsAndComplete(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	const parts, tries = 8, 6
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "k"}, Op{})
	w.must(err)
	var listed []CompletePart
	for i := range parts {
		w.part(bucket, "k", u.ID, i+1, fmt.Sprintf("part %d", i+1))
		listed = append(listed, CompletePart{Number: i + 1})
	}
	var g sync.WaitGroup
	var mu sync.Mutex
	stored := parts
	for i := range parts {
		g.Go(func() {
			for range tries {
				text := fmt.Sprintf("part %d", i+1)
				_, err := w.PutPart(w.ctx, bucket, "k", u.ID, Part{
					Number: i + 1, Size: int64(len(text)), ETag: etag(text), Manifest: []byte(text),
				}, nil, Op{})
				if errors.Is(err, ErrNoSuchUpload) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				stored++
				mu.Unlock()
			}
		})
	}
	g.Go(func() {
		if _, err := w.Complete(w.ctx, Complete{Bucket: bucket, Key: "k", Upload: u.ID, Parts: listed, MinPartSize: -1}); err != nil {
			t.Error(err)
		}
	})
	g.Wait()
	if got := len(manifests(w.freedNow())); got != stored-parts {
		t.Fatalf("%d parts freed of %d stored", got, stored)
	}
	usage, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if (usage != Usage{Objects: 1, Bytes: parts * 6}) {
		t.Fatalf("usage %+v", usage)
	}
}

func TestUploadsArePagedByKeyAndAge(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	var want []string
	for _, key := range []string{"a", "a", "a/b", "a/c", "b", "d/x", "d/y", "e\x00"} {
		u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: key}, Op{})
		w.must(err)
		w.part(bucket, key, u.ID, 1, "part")
		want = append(want, fmt.Sprint(key, u.ID))
	}
	w.complete(bucket, "c", "completed")
	for _, max := range []int{1, 2, 3, 100} {
		var got, prefixes []string
		l := ListUploads{Bucket: bucket, Max: max}
		for more := true; more; {
			page, err := w.Uploads(w.ctx, l)
			w.must(err)
			for _, u := range page.Uploads {
				got = append(got, fmt.Sprint(u.Key, u.ID))
			}
			l.AfterKey, l.AfterUpload, more = page.NextKey, page.NextUpload, page.Truncated
		}
		if !slices.Equal(got, want) {
			t.Fatalf("by %d: %q, want %q", max, got, want)
		}
		got = nil
		l = ListUploads{Bucket: bucket, Max: max, Delimiter: "/"}
		for more := true; more; {
			page, err := w.Uploads(w.ctx, l)
			w.must(err)
			for _, u := range page.Uploads {
				got = append(got, u.Key)
			}
			prefixes = append(prefixes, page.Prefixes...)
			l.AfterKey, l.AfterUpload, more = page.NextKey, page.NextUpload, page.Truncated
		}
		if fmt.Sprintf("%q %q", got, prefixes) != `["a" "a" "b" "e\x00"] ["a/" "d/"]` {
			t.Fatalf("by %d with delimiter: %q %q", max, got, prefixes)
		}
	}
	if page, err := w.Uploads(w.ctx, ListUploads{Bucket: bucket}); err != nil || page.Truncated || len(page.Uploads) != 0 {
		t.Fatalf("empty page %+v %v", page, err)
	}
}

// TestCompleteOfTenThousandParts is one small command that moves no row.
func TestCompleteOfTenThousandParts(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "k"}, Op{})
	w.must(err)
	var listed []CompletePart
	manifest := make([]byte, 64)
	for n := 1; n <= maxPartNumber; n++ {
		_, err := w.PutPart(w.ctx, bucket, "k", u.ID, Part{
			Number: n, Size: minPartSize, ETag: etag("same"), Manifest: manifest,
		}, nil, Op{})
		w.must(err)
		listed = append(listed, CompletePart{Number: n, ETag: etag("same")})
	}
	size := 0
	w.tablet.mu.Lock()
	w.tablet.decide = func(command []byte) fate {
		size = max(size, len(command))
		return applied
	}
	w.tablet.mu.Unlock()
	began := time.Now()
	v, err := w.Complete(w.ctx, Complete{Bucket: bucket, Key: "k", Upload: u.ID, Parts: listed})
	took := time.Since(began)
	w.must(err)
	t.Logf("complete of %d parts: %v, command of %d bytes", maxPartNumber, took, size)
	if v.Size != maxPartNumber*minPartSize || len(v.Parts) != 1 {
		t.Fatalf("completed %+v", v)
	}
	if size == 0 || size > 4<<10 {
		t.Errorf("the command has %d bytes", size)
	}
}
