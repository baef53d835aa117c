package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
)

// TestAWriteTakesTheOpOfItsContext repeats every write whose arguments have no Op, after somebody else undid what the
// first time did: the second time says what the first one said, and changes nothing.
func TestAWriteTakesTheOpOfItsContext(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Hour)
	seq := uint64(0)
	twice := func(what string, do func(ctx context.Context) error, between func(), want string, state func() string) {
		t.Helper()
		seq++
		ctx := WithOp(w.ctx, Op{session, seq})
		w.must(do(ctx))
		between()
		if err := do(ctx); err != nil {
			t.Errorf("%s again: %v", what, err)
		}
		if have := state(); have != want {
			t.Errorf("%s again: state %q, want %q", what, have, want)
		}
	}
	row := func() string {
		r, err := w.Row(w.ctx, []byte("row"))
		if errors.Is(err, ErrNoSuchKey) {
			return "none"
		}
		w.must(err)
		return fmt.Sprintf("%s %d", r.Value, r.Revision)
	}
	putRow := func(ctx context.Context) error {
		r, err := w.PutRow(ctx, Row{Key: []byte("row"), Value: []byte("v")})
		if err == nil && (r.Revision != 1 || !bytes.Equal(r.Value, []byte("v"))) {
			t.Errorf("row %+v", r)
		}
		return err
	}
	deleteRow := func(ctx context.Context) error { return w.DeleteRow(ctx, []byte("row")) }
	twice("PutRow", putRow, func() { w.must(deleteRow(w.ctx)) }, "none", row)
	w.must(putRow(w.ctx))
	twice("DeleteRow", deleteRow, func() { w.must(putRow(w.ctx)) }, "v 1", row)

	tags := func(value string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			v, err := w.SetTags(ctx, bucket, "k", nil, false, map[string]string{"t": value})
			if err == nil && v.Tags["t"] != value {
				t.Errorf("tags %v of %q", v.Tags, value)
			}
			return err
		}
	}
	w.put(bucket, "k", "text")
	twice("SetTags", tags("a"), func() { w.must(tags("b")(w.ctx)) }, "b", func() string {
		v, err := w.Current(w.ctx, bucket, "k")
		w.must(err)
		return v.Tags["t"]
	})

	stages := func() string {
		all, err := w.Staged(w.ctx)
		w.must(err)
		out := ""
		for _, s := range all {
			out += string(s.Own)
		}
		return out
	}
	stage := func(own string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			return w.Stage(ctx, staged(session, 5, object(bucket, "f", own), own))
		}
	}
	discard := func(ctx context.Context) error { return w.Discard(ctx, StageKey{session, 5}) }
	twice("Stage", stage("one"), func() { w.must(stage("two")(w.ctx)) }, "two", stages)
	twice("Discard", discard, func() { w.must(stage("three")(w.ctx)) }, "three", stages)
	w.must(discard(w.ctx))

	// Holds are counted: two of them, and two times one release, keep the version held.
	held := w.put(bucket, "h", "held")
	isHeld := func() string {
		w.clock.Add(w.catalog.config.FreeAfter + time.Second)
		for _, m := range manifests(w.freedNow()) {
			if m == "held" {
				return "freed"
			}
		}
		return "held"
	}
	hold := func(ctx context.Context) error { return w.Hold(ctx, session, bucket, "h", held.ID) }
	release := func(ctx context.Context) error { return w.Release(ctx, session, bucket, "h", held.ID) }
	twice("Hold", hold, func() { w.must(hold(w.ctx)) }, "held", isHeld)
	w.put(bucket, "h", "newer")
	twice("Release", release, func() {}, "held", isHeld)
	w.must(release(w.ctx))
	if state := isHeld(); state != "freed" {
		t.Errorf("after two holds and two releases it is %s", state)
	}

	rename := func(ctx context.Context) error { return w.RenamePrefix(ctx, bucket, "from/", "to/") }
	w.put(bucket, "from/a", "a")
	twice("RenamePrefix", rename, func() { w.put(bucket, "from/b", "b") }, "from/b to/a ", func() string {
		page, err := w.List(w.ctx, List{Bucket: bucket, Max: 10})
		w.must(err)
		out := ""
		for _, v := range page.Versions {
			if v.Key != "k" && v.Key != "h" {
				out += v.Key + " "
			}
		}
		return out
	})
	versioning := func(v Versioning) func(ctx context.Context) error {
		return func(ctx context.Context) error { return w.SetVersioning(ctx, "bucket", v) }
	}
	twice("SetVersioning", versioning(VersioningEnabled), func() { w.must(versioning(VersioningSuspended)(w.ctx)) }, "2", func() string {
		b, err := w.Bucket(w.ctx, "bucket")
		w.must(err)
		return fmt.Sprint(b.Versioning)
	})
}

// TestBucketsAreMadeAndDeletedOnceByAnOp stops both between the root group and the tablet, and repeats them after others
// used the name.
func TestBucketsAreMadeAndDeletedOnceByAnOp(t *testing.T) {
	w := newWorld(t)
	session := w.session(time.Hour)
	op := func(seq uint64) context.Context { return WithOp(w.ctx, Op{session, seq}) }
	// Everything that goes to the root group after the tablet fails for a while.
	stop := func(do func(ctx context.Context) error, ctx context.Context) {
		t.Helper()
		w.tablet.decide = func([]byte) fate {
			w.root.mu.Lock()
			w.root.down = true
			w.root.mu.Unlock()
			return applied
		}
		err := do(ctx)
		w.tablet.decide = nil
		w.root.mu.Lock()
		w.root.down = false
		w.root.mu.Unlock()
		if !errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, ErrUnavailable) {
			t.Fatalf("stopped in its middle: %v", err)
		}
	}
	var made Bucket
	create := func(ctx context.Context) (err error) {
		made, err = w.CreateBucket(ctx, "name", "me")
		return err
	}
	remove := func(ctx context.Context) error { return w.DeleteBucket(ctx, "name") }
	exists := func() BucketID {
		t.Helper()
		b, err := w.Bucket(w.ctx, "name")
		if errors.Is(err, ErrNoSuchBucket) {
			return 0
		}
		w.must(err)
		return b.ID
	}

	w.must(create(op(1)))
	first := made
	w.must(create(op(1)))
	if made != first || exists() != first.ID {
		t.Fatalf("made %+v, then %+v", first, made)
	}
	w.wantErr(create(op(2)), ErrBucketExists)
	w.must(remove(op(3)))
	w.must(create(op(1)))
	if exists() != 0 {
		t.Fatal("a bucket that was made and deleted came back")
	}
	w.must(create(op(4)))
	second := exists()
	w.must(remove(op(3)))
	if exists() != second {
		t.Fatal("a repeated deletion took the next bucket of the name")
	}
	w.wantErr(create(op(1)), ErrBucketExists)

	stop(remove, op(5))
	w.must(remove(op(5)))
	if exists() != 0 {
		t.Fatal("the bucket is not deleted")
	}
	stop(create, op(6))
	if exists() != 0 {
		t.Fatal("a bucket without a name")
	}
	w.must(create(op(6)))
	third := exists()
	w.put(third, "k", "text")
	w.must(create(op(6)))
	if exists() != third || third == 0 {
		t.Fatalf("bucket %d, then %d", third, exists())
	}
	w.wantErr(create(op(7)), ErrBucketExists)
}

// TestAnInternalUploadBelongsToNoContext makes one on the way through a router: it does not end with its session.
func TestAnInternalUploadBelongsToNoContext(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Hour)
	u, err := w.CreateUpload(WithOp(w.ctx, Op{session, 1}), bucket, Upload{Key: "k", Internal: true}, Op{})
	w.must(err)
	again, err := w.CreateUpload(WithOp(w.ctx, Op{session, 1}), bucket, Upload{Key: "k", Internal: true}, Op{})
	w.must(err)
	if again.ID != u.ID {
		t.Fatalf("upload %v, then %v", u.ID, again.ID)
	}
	w.must(w.CloseSession(w.ctx, session))
	_, err = w.Upload(w.ctx, bucket, "k", u.ID)
	w.must(err)
}
