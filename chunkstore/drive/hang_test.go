package drive_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestHungDeviceKeepsOnlyWhatItHasBegun hangs the device in a write. The put under way stays until the device is done
// with its cells; a put that waits for its turn leaves with its context; Status and reads go on.
func TestHungDeviceKeepsOnlyWhatItHasBegun(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	stored := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 5000)
	must(t, stored.Put(t.Context(), d))
	fault := m.Inject(vfs.Rule{Op: vfs.OpWrite, Path: "/volumes/", Hang: true})
	begun := drivetest.NewShard(drivetest.Key(1, 2, 0), 1, 5000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- begun.Put(ctx, d) }()
	for fault.Fired() == 0 {
		drivetest.WantRead(t, d, stored)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- drivetest.NewShard(drivetest.Key(1, 3, 0), 1, 5000).Put(ctx, d) }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting put: %v", err)
	}
	if down := d.Status().Down; down != nil {
		t.Errorf("status: %v", down)
	}
	select {
	case err := <-done:
		t.Fatalf("the put under way returned %v while the device reads its cells", err)
	default:
	}
	fault.Clear()
	must(t, <-done)
	drivetest.WantRead(t, d, begun)
	if _, err := d.Header(t.Context(), drivetest.Key(1, 3, 0)); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("the withdrawn put: %v", err)
	}
}

// TestPutsOfOneBatchShareOneSync proves the group commit: puts that wait together take one sync.
func TestPutsOfOneBatchShareOneSync(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	must(t, drivetest.NewShard(drivetest.Key(1, 0, 0), 1, 5000).Put(t.Context(), d))
	hang := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: "/volumes/", Hang: true, Times: 1})
	syncs := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: "/volumes/"})
	const count = 50
	var group sync.WaitGroup
	put := func(i uint32) {
		if err := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 5000).Put(context.Background(), d); err != nil {
			t.Error(err)
		}
	}
	group.Go(func() { put(1) })
	for hang.Fired() == 0 {
		d.Status()
	}
	for i := range uint32(count) {
		group.Go(func() { put(2 + i) })
	}
	for d.Waiting() < count {
		d.Status()
	}
	hang.Clear()
	group.Wait()
	if n := syncs.Fired(); n != 2 {
		t.Errorf("%d puts took %d syncs, want 2", count+1, n)
	}
}

func TestManyReadersOfManyFiles(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m, func(c *drive.Config) { c.FileSize = 16 << 10 }) // a file a shard: more than there are handles
	const count = 200
	var shards []*drivetest.Shard
	for i := range uint32(count) {
		s := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 5000)
		must(t, s.Put(t.Context(), d))
		shards = append(shards, s)
	}
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range shards {
				drivetest.WantRead(t, d, shards[(i*(w+1))%count])
			}
		})
	}
	group.Wait()
}
