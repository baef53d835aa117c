package metadata

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

func (w *world) keys(bucket BucketID, prefix string) []string {
	w.t.Helper()
	page, err := w.List(w.ctx, List{Bucket: bucket, Prefix: prefix, Max: 1_000_000})
	w.must(err)
	var keys []string
	for _, v := range page.Versions {
		keys = append(keys, v.Key)
	}
	return keys
}

func TestRenamePrefixMovesEverythingAtOnce(t *testing.T) {
	for _, versioning := range []Versioning{Unversioned, VersioningEnabled, VersioningSuspended} {
		w := newWorld(t)
		bucket := w.bucket("bucket", versioning)
		big := string(make([]byte, 4*inlineBody))
		w.put(bucket, "from/", "")
		w.put(bucket, "from/a", "a")
		w.put(bucket, "from/sub/b", big)
		w.put(bucket, "from0", "outside")
		w.put(bucket, "to/", "marker that is replaced")
		if versioning == VersioningEnabled {
			w.put(bucket, "from/a", "a2")
		}
		before, err := w.Usage(w.ctx, bucket)
		w.must(err)
		w.must(w.RenamePrefix(w.ctx, bucket, "from/", "to/"))
		if got := fmt.Sprint(w.keys(bucket, "")); got != "[from0 to/ to/a to/sub/b]" {
			t.Fatalf("keys %v", got)
		}
		v, err := w.Current(w.ctx, bucket, "to/sub/b")
		w.must(err)
		if string(v.Manifest) != big || v.Null != (versioning != VersioningEnabled) {
			t.Fatalf("moved %+v", v)
		}
		after, err := w.Usage(w.ctx, bucket)
		w.must(err)
		if after.Objects != before.Objects-1 {
			t.Fatalf("usage %+v, before %+v", after, before)
		}
		w.checkUsage(bucket)
		if versioning == VersioningEnabled {
			_, err := w.Current(w.ctx, bucket, "from/a")
			w.wantErr(err, ErrDeleteMarker)
		}
		w.wantErr(w.RenamePrefix(w.ctx, bucket, "from/", "to/"), ErrDirNotEmpty)
		w.wantErr(w.RenamePrefix(w.ctx, bucket, "from/", "new/"), ErrNoSuchKey)
		w.wantErr(w.RenamePrefix(w.ctx, bucket, "to/", "to/sub/"), ErrBadRename)
		w.wantErr(w.RenamePrefix(w.ctx, bucket, "to", "new/"), ErrBadRename)
	}
}

// checkUsage counts what Survey finds and compares it with the counters.
func (w *world) checkUsage(bucket BucketID) {
	w.t.Helper()
	var u Usage
	w.must(w.Survey(w.ctx, func(s Surveyed) error {
		if v := s.Version; v != nil && s.Bucket == bucket {
			if v.Latest {
				u.Objects++
				u.Bytes += v.Size
			} else {
				u.Versions++
				u.VersionBytes += v.Size
			}
		}
		return nil
	}))
	got, err := w.Usage(w.ctx, bucket)
	w.must(err)
	got.Uploads, got.Parts, got.PartBytes = 0, 0, 0
	if got != u {
		w.t.Fatalf("usage %+v, counted %+v", got, u)
	}
}

// TestLargeRenamePrefixGoesOnAfterACrash stops the tablet after each piece; every key is under exactly one name all the
// time, and under the new one in the end.
func TestLargeRenamePrefixGoesOnAfterACrash(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	const files = 60
	big := string(make([]byte, 200<<10)) // twenty of them are more than one command moves
	for i := range files {
		w.put(bucket, fmt.Sprintf("from/%03d", i), big)
	}
	crashes := 0
	count := func() (from, to int) { return len(w.keys(bucket, "from/")), len(w.keys(bucket, "to/")) }
	var pieces atomic.Int64
	stopAfterOne := func() {
		pieces.Store(0)
		w.tablet.mu.Lock()
		defer w.tablet.mu.Unlock()
		w.tablet.decide = func([]byte) fate {
			if pieces.Add(1) == 2 {
				w.tablet.down = true // Propose holds the mutex
				return proposalLost
			}
			return applied
		}
	}
	stopAfterOne()
	err := w.RenamePrefix(w.ctx, bucket, "from/", "to/")
	w.wantErr(err, ErrUnavailable)
	for {
		w.tablet.mu.Lock()
		w.tablet.down, w.tablet.decide = false, nil
		w.tablet.mu.Unlock()
		from, to := count()
		if from+to != files {
			t.Fatalf("%d keys under the old name and %d under the new one", from, to)
		}
		if from == 0 {
			break
		}
		crashes++
		w.must(w.catalog.Close())
		// The next process does one more piece, or two, and dies again. Its own session and buckets come first.
		w.open()
		deadline := time.Now().Add(10 * time.Second)
		for now, _ := count(); now == from; now, _ = count() {
			if time.Now().After(deadline) {
				t.Fatal("the rename does not go on")
			}
			<-time.After(time.Millisecond)
		}
		stopAfterOne()
	}
	if crashes == 0 {
		t.Fatal("the rename was not interrupted")
	}
	w.tablet.mu.Lock()
	w.tablet.down, w.tablet.decide = false, nil
	w.tablet.mu.Unlock()
	w.reopen()
	w.put(bucket, "from/new", "the journal is gone")
	w.reopen()
	if got := w.keys(bucket, "from/"); len(got) != 1 {
		t.Fatalf("a finished rename moved %v", got)
	}
	w.checkUsage(bucket)
}

// TestWritesBelowARenamedPrefixWait cancels the caller of a rename: the rename goes on, and a write below waits for it.
func TestWritesBelowARenamedPrefixWait(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	w.put(bucket, "from/a", "a")
	ctx, cancel := context.WithCancel(w.ctx)
	var tries atomic.Int64
	w.tablet.decide = func([]byte) fate {
		if tries.Add(1) <= 2 {
			cancel()
			return proposalLost
		}
		return applied
	}
	if err := w.RenamePrefix(ctx, bucket, "from/", "to/"); err != nil {
		w.wantErr(err, context.Canceled)
	}
	w.put(bucket, "from/b", "b")
	if got := fmt.Sprint(w.keys(bucket, "")); got != "[from/b to/a]" {
		t.Fatalf("keys %v", got)
	}
	if tries.Load() < 3 {
		t.Fatal("nothing was lost")
	}
}

func TestRenameNeverReplacesWithNoReplace(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	w.put(bucket, "a", "a")
	w.put(bucket, "b", "b")
	_, err := w.Rename(w.ctx, Rename{Bucket: bucket, From: "a", To: "b", NoReplace: true})
	w.wantErr(err, ErrExists)
	v, err := w.Rename(w.ctx, Rename{Bucket: bucket, From: "a", To: "c", NoReplace: true, Attr: &Attr{Mode: 1}})
	w.must(err)
	if v.Attr.Mode != 1 || string(v.Manifest) != "a" || !v.Latest {
		t.Fatalf("renamed %+v", v)
	}
}

func TestRmdirSeesEveryKeyBelow(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	w.put(bucket, "d/", "")
	w.put(bucket, "d/f", "f")
	_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "d/", Empty: true})
	w.wantErr(err, ErrDirNotEmpty)
	_, err = w.Delete(w.ctx, Delete{Bucket: bucket, Key: "d/f"})
	w.must(err)
	if has, err := w.HasPrefix(w.ctx, bucket, "d/f"); err != nil || has {
		t.Fatal(has, err)
	}
	d, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "d/", Empty: true})
	w.must(err)
	if !d.Found {
		t.Fatal("the marker was not there")
	}
}

// TestHoldFollowsAPrefixRename holds a file, renames its directory, and replaces it there.
func TestHoldFollowsAPrefixRename(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Hour)
	v := w.put(bucket, "from/a", "a1")
	w.must(w.Hold(w.ctx, session, bucket, "from/a", v.ID))
	w.must(w.RenamePrefix(w.ctx, bucket, "from/", "to/"))
	w.must(w.RenamePrefix(w.ctx, bucket, "to/", "on/"))
	w.put(bucket, "on/a", "a2")
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v while held", got)
	}
	w.must(w.Release(w.ctx, session, bucket, "from/a", v.ID))
	if got := manifests(w.freedNow()); len(got) != 1 {
		t.Fatalf("freed %v", got)
	}
}
