package metadata

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// staged makes a stage of a file.
func staged(session, inode uint64, p Put, own string) Stage {
	return Stage{StageKey: StageKey{session, inode}, Put: p, Own: []byte(own)}
}

func (w *world) session(lease time.Duration) uint64 {
	w.t.Helper()
	id, err := w.OpenSession(w.ctx, lease)
	w.must(err)
	return id
}

func TestStageIsPublishedWhenItsSessionRunsOut(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(10 * time.Second)
	base := w.put(bucket, "f", "base")
	p := object(bucket, "f", "staged")
	p.If.Base = base.ID
	w.must(w.Stage(w.ctx, staged(session, 5, p, "own")))
	if v, err := w.Current(w.ctx, bucket, "f"); err != nil || v.ID != base.ID {
		t.Fatalf("a stage is visible: %+v %v", v, err)
	}
	// The process dies; the next one gives the session its lease anew, and then ends it.
	w.reopen()
	w.catalog.endOverdue(w.ctx)
	if stages, err := w.Staged(w.ctx); err != nil || len(stages) != 1 || string(stages[0].Put.Version.Manifest) != "staged" {
		t.Fatalf("stages %+v %v", stages, err)
	}
	w.must(w.RenewSession(w.ctx, session))
	w.clock.Add(11 * time.Second)
	w.wantErr(w.RenewSession(w.ctx, session), ErrSessionFenced)
	w.catalog.endOverdue(w.ctx)
	v, err := w.Current(w.ctx, bucket, "f")
	w.must(err)
	if string(v.Manifest) != "staged" {
		t.Fatalf("current %+v", v)
	}
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"base"}) {
		t.Fatalf("freed %v: the version owns the stage's chunks now", got)
	}
	if stages, err := w.Staged(w.ctx); err != nil || len(stages) != 0 {
		t.Fatalf("stages %v %v", stages, err)
	}
	put := object(bucket, "f", "late")
	put.Op = Op{session, 1}
	_, err = w.Put(w.ctx, put)
	w.wantErr(err, ErrSessionFenced)
	w.wantErr(w.Stage(w.ctx, staged(session, 5, p, "own")), ErrSessionFenced)
}

// TestStageThatLostItsBaseIsKeptBeside replaces the base before the session ends.
func TestStageThatLostItsBaseIsKeptBeside(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		w := newWorld(t)
		bucket := w.bucket("bucket", Unversioned)
		session := w.session(time.Minute)
		base := w.put(bucket, "f", "base")
		p := object(bucket, "f", "staged")
		p.If.Base, p.Keeps, p.Dropped = base.ID, true, []byte("part of base")
		w.must(w.Stage(w.ctx, staged(session, 5, p, "own")))
		if deleted {
			_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: "f"})
			w.must(err)
		} else {
			w.put(bucket, "f", "newer")
		}
		if got := manifests(w.freedNow()); len(got) != 0 {
			t.Fatalf("freed %v: the stage needs its base", got)
		}
		w.must(w.CloseSession(w.ctx, session))
		page, err := w.ListVersions(w.ctx, ListVersions{Bucket: bucket, Max: 10})
		w.must(err)
		if len(page.Versions) != 2 || page.Versions[0].DeleteMarker != deleted || page.Versions[1].ETag != etag("staged") {
			t.Fatalf("versions %+v", page.Versions)
		}
		v, err := w.Version(w.ctx, bucket, "f", page.Versions[1].ID, false)
		w.must(err)
		if string(v.Manifest) != "staged" || !v.Shared {
			t.Fatalf("kept %+v", v)
		}
		if got := manifests(w.freedNow()); len(got) != 0 {
			t.Fatalf("freed %v", got)
		}
		if _, err := w.Current(w.ctx, bucket, "f"); errors.Is(err, ErrNoSuchKey) != deleted {
			t.Fatal(err)
		}
		u, err := w.Usage(w.ctx, bucket)
		w.must(err)
		if u.Objects+u.Versions != 2 {
			t.Fatalf("usage %+v", u)
		}
	}
}

func TestStageReplacedDiscardedAndUnstagedFreesItsOwn(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Minute)
	p := object(bucket, "f", "staged")
	w.must(w.Stage(w.ctx, staged(session, 1, p, "own 1")))
	w.must(w.Stage(w.ctx, staged(session, 1, p, "own 1"))) // a retry frees nothing
	if got := manifests(w.freedNow()); len(got) != 0 {
		t.Fatalf("freed %v", got)
	}
	w.must(w.Stage(w.ctx, staged(session, 1, p, "own 2")))
	w.must(w.Stage(w.ctx, staged(session, 2, p, "own 3")))
	w.must(w.Discard(w.ctx, StageKey{session, 2}))
	w.must(w.Discard(w.ctx, StageKey{session, 2}))
	p.Unstage = StageKey{session, 1}
	_, err := w.Put(w.ctx, p)
	w.must(err)
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"own 1", "own 3", "own 2"}) {
		t.Fatalf("freed %v", got)
	}
}

// TestAdoptedPartsBelongToTheVersion publishes twice from one open upload and then aborts it.
func TestAdoptedPartsBelongToTheVersion(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Minute)
	u, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "f", Internal: true}, Op{session, 1})
	w.must(err)
	for i, text := range []string{"p1", "p2", "p3"} {
		w.part(bucket, "f", u.ID, i+1, text)
	}
	p := object(bucket, "renamed", "p1 and half of p2")
	p.AdoptsOf, p.AdoptsKey = u.ID, "f"
	p.Adopts = []Adopt{{Number: 1}, {Number: 2, Rest: []byte("rest of p2")}}
	_, err = w.Put(w.ctx, p)
	w.must(err)
	if parts, err := w.Parts(w.ctx, bucket, "f", u.ID, 0, 0); err != nil || len(parts) != 3 || !parts[0].Adopted || parts[2].Adopted {
		t.Fatalf("parts %+v %v", parts, err)
	}
	missing := p
	missing.Adopts = []Adopt{{Number: 9}}
	_, err = w.Put(w.ctx, missing)
	w.wantErr(err, ErrInvalidPart)
	_, err = w.Complete(w.ctx, Complete{Bucket: bucket, Key: "f", Upload: u.ID, Parts: []CompletePart{{Number: 1}}})
	w.wantErr(err, ErrInvalidPart)
	// Replacing an adopted part frees only what the version does not name.
	w.part(bucket, "f", u.ID, 2, "p2 again")
	if got := manifests(w.freedNow()); !slices.Equal(got, []string{"rest of p2"}) {
		t.Fatalf("freed %v", got)
	}
	if page, err := w.Uploads(w.ctx, ListUploads{Bucket: bucket, Max: 10}); err != nil || len(page.Uploads) != 0 {
		t.Fatalf("internal uploads are listed: %v %v", page, err)
	}
	// The session ends, and its uploads with it.
	w.must(w.CloseSession(w.ctx, session))
	got := manifests(w.freedNow())
	slices.Sort(got)
	if !slices.Equal(got, []string{"p2 again", "p3", "rest of p2"}) {
		t.Fatalf("freed %v", got)
	}
	usage, err := w.Usage(w.ctx, bucket)
	w.must(err)
	if usage.Uploads != 0 || usage.Parts != 0 || usage.PartBytes != 0 || usage.Objects != 1 {
		t.Fatalf("usage %+v", usage)
	}
}

// TestRunEndsSessionsByItself runs the worker.
func TestRunEndsSessionsByItself(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Second)
	w.must(w.Stage(w.ctx, staged(session, 1, object(bucket, "f", "staged"), "")))
	w.clock.Add(2 * time.Second)
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error)
	go func() { done <- w.catalog.Run(ctx) }()
	deadline := time.After(10 * time.Second)
	for {
		if _, err := w.Current(w.ctx, bucket, "f"); err == nil {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the stage was not published")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	w.must(<-done)
}

// TestSessionsOfDeadCatalogsEnd opens the state again and again: the watermark follows.
func TestSessionsOfDeadCatalogsEnd(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.bucket("b-"+time.Now().Format("150405.000000000"), Unversioned)
		w.reopen()
		w.catalog.endOverdue(w.ctx)
	}
	w.clock.Add(2 * time.Minute) // a router that was not closed has a session of its own
	w.catalog.endOverdue(w.ctx)
	rows, err := w.catalog.Root().Rows(w.ctx, 's', "", "", 0)
	w.must(err)
	if len(rows) != 1 {
		t.Fatalf("%d sessions are left", len(rows))
	}
}
