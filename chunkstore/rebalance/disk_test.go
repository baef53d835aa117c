package rebalance_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// disks is a Store over real drives, and its workers.
type disks struct {
	drives  []*drive.Drive
	states  []rebalance.Drive
	volumes *storetest.Volumes
	peer
}

func diskPath(i int) string { return fmt.Sprintf("/d%d", i) }

// openDisks returns a Store over n drives on fs under dir. Groups are made over the first twelve of them.
func openDisks(t testing.TB, fs vfs.FS, dir string, n int) *disks {
	t.Helper()
	d := &disks{peer: peer{set: chunkstore.NewDrives()}}
	id := cluster.ClusterID{1}
	var places []placement.Drive
	for i := range n {
		one := drive.Identity{
			Format: drive.IdentityFormat, Cluster: id, Drive: driveID(i + 1), Name: fmt.Sprint("d", i), Created: time.Unix(1_700_000_000, 0),
		}
		if err := vfs.MkdirAll(fs, dir+diskPath(i), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := drive.Init(fs, dir+diskPath(i), one); err != nil {
			t.Fatal(err)
		}
		opened, err := drive.Open(t.Context(), drive.Config{
			FS: fs, Dir: dir + diskPath(i), Cluster: id, Drive: one.Drive, Key: one.IntegrityKey, Name: one.Name, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.set.Add(opened); err != nil {
			t.Fatal(err)
		}
		d.drives = append(d.drives, opened)
		places = append(places, placement.Drive{ID: one.Drive})
		d.states = append(d.states, rebalance.Drive{Drive: placement.Drive{ID: one.Drive}, State: rebalance.Takes})
	}
	slots, err := placement.Groups(places[:12], 12)
	if err != nil {
		t.Fatal(err)
	}
	var groups []chunkstore.Group
	for i, s := range slots {
		groups = append(groups, chunkstore.Group{ID: uint32(i), Slots: s})
	}
	d.volumes = storetest.NewVolumes(groups)
	log := slog.New(slog.DiscardHandler)
	if d.store, err = chunkstore.NewStore(chunkstore.Config{
		Volumes: d.volumes, Drives: d.set, Memory: 64 << 20, Log: log, PutDeadline: 20 * time.Second, ReadDeadline: 20 * time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.store.Close(); err != nil {
			t.Error(err)
		}
		for _, one := range d.drives {
			if err := one.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	d.repair = repair.New(repair.Config{Store: d.store, Volumes: d.volumes, Drives: d.set, Share: 1, Log: log})
	d.rebalance = rebalance.New(rebalance.Config{
		Calm: -1, Store: d.store, Volumes: d.volumes, Registry: d.set, Drives: d.list, Refused: d.repair.Refused, Share: 1, Log: log,
	})
	return d
}

// write stores n bodies of a size, in one volume if they are small.
func (d *disks) write(t testing.TB, n, size int) []body {
	t.Helper()
	var bodies []body
	for i := range n {
		b := body{bytes: storetest.Body(uint64(i), size)}
		var err error
		if b.Written, err = d.store.Write(t.Context(), bytes.NewReader(b.bytes), chunkstore.WriteOptions{Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	return bodies
}

// drain makes a drive leave and moves everything off it.
func (d *disks) drain(t testing.TB, n int) {
	t.Helper()
	d.states[n].State = rebalance.Leaves
	for range 20 {
		b, err := d.rebalance.RunOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Volumes == 0 && b.Open == 0 {
			return
		}
		if _, err := d.repair.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("not drained: %+v", d.rebalance.Progress())
}

// TestSmallShardsAreSyncedTogether drains a disk with many small shards. The one that takes them syncs several at once.
func TestSmallShardsAreSyncedTogether(t *testing.T) {
	const shards = 96
	fs := vfs.NewMemory(1)
	d := openDisks(t, fs, "", 13)
	bodies := d.write(t, shards, 1000)
	if n := d.drives[4].Status().Shards; n != shards {
		t.Fatalf("%d shards to move, want %d", n, shards)
	}
	slow := func() { <-time.After(time.Millisecond) } // as a medium is
	syncs := fs.Inject(vfs.Rule{Op: vfs.OpSync, Path: diskPath(12) + "/volumes", Delay: slow})
	d.drain(t, 4)
	if n := syncs.Fired(); n == 0 || n > shards/2 {
		t.Fatalf("%d syncs for %d shards", n, shards)
	} else {
		t.Logf("%d syncs for %d shards", n, shards)
	}
	if n := d.drives[4].Status().Shards; n != 0 {
		t.Fatalf("%d shards stay", n)
	}
	for _, b := range bodies {
		for _, c := range b.Chunks {
			if r, err := d.store.Check(t.Context(), c); err != nil || r.Good != 1<<chunkstore.Shards-1 {
				t.Fatalf("chunk %v: %+v, %v", c.ID, r, err)
			}
		}
	}
	// A disk forgets the deletions of a volume that has left it, so the slot may return there.
	d.states[4].State = rebalance.Takes
	d.drain(t, 12)
	if n := d.drives[4].Status().Shards; n != shards {
		t.Fatalf("%d shards returned, want %d", n, shards)
	}
	if p := d.repair.Progress(); p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
}

// BenchmarkDrain moves the shards of a drive to another one.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct{ n, size int }{{256, 1000}, {64, chunkstore.MaxChunk}} {
		b.Run(fmt.Sprintf("%d-chunks-of-%d", c.n, c.size), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				d := openDisks(b, vfs.OS(), b.TempDir(), 13)
				d.write(b, c.n, c.size)
				b.SetBytes(d.drives[4].Status().Bytes)
				b.StartTimer()
				d.drain(b, 4)
			}
		})
	}
}

func (d *disks) list(ctx context.Context) ([]rebalance.Drive, error) {
	return slices.Clone(d.states), ctx.Err()
}
