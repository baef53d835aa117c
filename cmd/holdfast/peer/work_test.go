package peer

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestARemovedDriveIsNotWaitedFor: seven shards of a chunk are left of a write that was cut off. An eighth could be on a
// drive that does not answer, so the chunk holds the volume there, until the drive is removed.
func TestARemovedDriveIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(1)
	seams := testSeams(m)
	seams.RepairEvery = 50 * time.Millisecond
	p, err := Start(t.Context(), testConfig(), seams)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	ready(t, p)
	keep(t, p, "a", testBody)
	c := p.core.Load()
	volumes, err := c.volumes().ListVolumes(t.Context(), 0, 1)
	if err != nil || len(volumes) != 1 {
		t.Fatalf("%d volumes, %v", len(volumes), err)
	}
	v := volumes[0]
	for slot := 1; slot <= 7; slot++ {
		d, ok := p.ownDrive(v.Slots[slot])
		if !ok {
			t.Fatalf("slot %d is on no drive of this peer", slot)
		}
		left := drivetest.NewShard(drivetest.Key(v.ID, 1, uint8(slot)), v.Epoch, 4<<10)
		if err := left.Put(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	now := p.topology()
	dead, ok := now.Drive(v.Slots[0])
	if !ok {
		t.Fatal("the map lacks the drive of slot 0")
	}
	if err := m.Move(dead.Path, "/away"); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "the drive to be missed", func() bool { return c.status(dead.ID).Down != nil })
	if c.removed(t.Context(), dead.ID) {
		t.Fatal("a drive that is away counts as removed")
	}
	early := &core{watcher: topology.NewWatcher(c.root, topology.Map{Epoch: 1}, p.log)} // from before the drive came
	if early.removed(t.Context(), dead.ID) {
		t.Fatal("a drive that an old map lacks counts as removed")
	}
	if _, err := (source{p, c}).ActOnDrive(t.Context(), dead.Name, admin.Remove, true); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "no volume to name the drive", func() bool {
		empty, _, err := rebalance.Empty(t.Context(), c.volumes(), dead.ID)
		return err == nil && empty
	})
	wantRead(t, p, "a", testBody)
}

// TestNoWorkOfALeaderBeginsAfterItWasStopped leads again, or for the first time, while a peer stops: the chunk store that
// the work needs is closed by then.
func TestNoWorkOfALeaderBeginsAfterItWasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leadership{core: &core{peer: &Peer{log: slog.New(slog.DiscardHandler)}}}
		l.stop()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.work(ctx, nil)
		}()
		synctest.Wait()
		if l.leads() {
			t.Error("it works")
		}
		select {
		case <-ended:
			t.Error("it did not wait until another leads")
		default:
		}
		cancel()
		<-ended
	})
}
