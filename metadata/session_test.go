package metadata

import (
	"testing"
	"time"
)

// TestANamedSessionOutlivesARestart restarts under a mount: it finds its session again, its stage is not published, a
// change that it repeats is answered from the first time, and its upload goes on.
func TestANamedSessionOutlivesARestart(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	take := func(name string) uint64 {
		t.Helper()
		id, err := w.TakeSession(w.ctx, name, 30*time.Second)
		w.must(err)
		return id
	}
	session := take("mount/a")
	if other := take("mount/b"); other == session {
		t.Fatal("two names share a session")
	}
	if again := take("mount/a"); again != session {
		t.Fatalf("session %d, then %d", session, again)
	}
	put := object(bucket, "f", "once")
	put.Op = Op{session, 1}
	first, err := w.Put(w.ctx, put)
	w.must(err)
	upload, err := w.CreateUpload(w.ctx, bucket, Upload{Key: "g", Internal: true}, Op{session, 2})
	w.must(err)
	w.must(w.Stage(w.ctx, staged(session, 5, object(bucket, "h", "staged"), "own")))

	w.clock.Add(29 * time.Second)
	w.reopen()
	w.clock.Add(29 * time.Second)
	if again := take("mount/a"); again != session {
		t.Fatalf("session %d, and %d after the restart", session, again)
	}
	w.clock.Add(29 * time.Second)
	w.catalog.endOverdue(w.ctx)
	put.Version.Manifest = []byte("twice")
	again, err := w.Put(w.ctx, put)
	w.must(err)
	if again.ID != first.ID || string(again.Manifest) != "once" {
		t.Fatalf("a repeated put made %+v after %+v", again, first)
	}
	_, err = w.Upload(w.ctx, bucket, "g", upload.ID)
	w.must(err)
	if stages, err := w.Staged(w.ctx); err != nil || len(stages) != 1 {
		t.Fatalf("stages %v %v", stages, err)
	}

	w.clock.Add(2 * time.Second)
	w.catalog.endOverdue(w.ctx)
	_, err = w.Upload(w.ctx, bucket, "g", upload.ID)
	w.wantErr(err, ErrNoSuchUpload)
	if next := take("mount/a"); next == session {
		t.Fatal("a session that is over was taken up again")
	}
}

// TestARenewedSessionIsNotEnded renews a session between the look for overdue ones and their end.
func TestARenewedSessionIsNotEnded(t *testing.T) {
	w := newWorld(t)
	id, err := w.TakeSession(w.ctx, "mount/a", 10*time.Second)
	w.must(err)
	w.clock.Add(11 * time.Second)
	late := w.clock.Now()
	if ids := w.catalog.sessions.overdue(late); len(ids) != 1 || ids[0] != id {
		t.Fatalf("overdue %v", ids)
	}
	w.clock.Add(-2 * time.Second)
	w.must(w.RenewSession(w.ctx, id))
	if w.catalog.sessions.endIfOver(id, late) {
		t.Fatal("a renewed session was ended")
	}
	w.must(w.RenewSession(w.ctx, id))
}

// TestAStageNeedsABaseThatIsStillThere stages on a base whose chunks may be deleted at any moment.
func TestAStageNeedsABaseThatIsStillThere(t *testing.T) {
	w := newWorld(t)
	bucket := w.bucket("bucket", Unversioned)
	session := w.session(time.Hour)
	base := w.put(bucket, "f", "base")
	p := object(bucket, "f", "staged")
	p.If.Base, p.Keeps = base.ID, true
	w.put(bucket, "f", "newer")
	w.clock.Add(w.catalog.config.FreeAfter - time.Second)
	w.wantErr(w.Stage(w.ctx, staged(session, 5, p, "own")), ErrConflict)

	w.must(w.Stage(w.ctx, staged(session, 6, object(bucket, "other", "x"), "own 6")))
	held := w.put(bucket, "g", "held")
	w.must(w.Hold(w.ctx, session, bucket, "g", held.ID))
	p = object(bucket, "g", "staged")
	p.If.Base, p.Keeps = held.ID, true
	w.put(bucket, "g", "newer")
	w.clock.Add(w.catalog.config.FreeAfter + time.Second)
	w.must(w.Stage(w.ctx, staged(session, 7, p, "own 7")))
}
