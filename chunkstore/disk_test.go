package chunkstore_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// disks are twelve real drives and the rows of their volumes; both outlive a crash, the rows because they belong to
// the metadata.
type disks struct {
	t       *testing.T
	fs      vfs.FS
	dir     string
	ids     []drive.Identity
	volumes *storetest.Volumes
}

func newDisks(t *testing.T, fs vfs.FS, dir string) *disks {
	t.Helper()
	d := &disks{t: t, fs: fs, dir: dir}
	id := cluster.ClusterID(cluster.NewID())
	var places []placement.Drive
	for i := range 12 {
		one := drive.Identity{
			Format: drive.IdentityFormat, Cluster: id, Drive: cluster.DriveID(cluster.NewID()),
			Name: fmt.Sprintf("d%d", i+1), Created: time.Unix(1_700_000_000, 0),
		}
		one.IntegrityKey[0] = 7
		if err := vfs.MkdirAll(fs, d.path(i), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := drive.Init(fs, d.path(i), one); err != nil {
			t.Fatal(err)
		}
		d.ids = append(d.ids, one)
		places = append(places, placement.Drive{ID: one.Drive})
	}
	slots, err := placement.Groups(places, 12)
	if err != nil {
		t.Fatal(err)
	}
	var groups []chunkstore.Group
	for i, s := range slots {
		groups = append(groups, chunkstore.Group{ID: uint32(i), Slots: s})
	}
	d.volumes = storetest.NewVolumes(groups)
	return d
}

func (d *disks) path(i int) string { return fmt.Sprintf("%s/d%d", d.dir, i+1) }

// open opens all drives but those left out, and a Store over them. The caller calls closeAll.
func (d *disks) open(leftOut ...int) (k *storetest.Kit, closeAll func()) {
	d.t.Helper()
	k = &storetest.Kit{T: d.t, Set: chunkstore.NewDrives(), Volumes: d.volumes}
	var drives []*drive.Drive
	for i, id := range d.ids {
		skip := false
		for _, out := range leftOut {
			skip = skip || out == i
		}
		if skip {
			continue
		}
		one, err := drive.Open(d.t.Context(), drive.Config{
			FS: d.fs, Dir: d.path(i), Cluster: id.Cluster, Drive: id.Drive, Key: id.IntegrityKey, Name: id.Name,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			d.t.Fatal(err)
		}
		if err := k.Set.Add(one); err != nil {
			d.t.Fatal(err)
		}
		drives = append(drives, one)
	}
	k.Config = chunkstore.Config{
		Volumes: d.volumes, Drives: k.Set, Memory: 64 << 20, Log: slog.New(slog.DiscardHandler),
		PutDeadline: 20 * time.Second, ReadDeadline: 20 * time.Second,
	}
	k.Restart()
	return k, func() {
		d.t.Helper()
		if err := k.Store.Close(); err != nil {
			d.t.Error(err)
		}
		for _, one := range drives {
			if err := one.Close(); err != nil {
				d.t.Logf("close drive: %v", err) // after a power loss closing may say so
			}
		}
	}
}

func TestRealDrivesSurviveFourLosses(t *testing.T) {
	d := newDisks(t, vfs.OS(), t.TempDir())
	k, done := d.open()
	var bodies [][]byte
	var written []chunkstore.Written
	for i, size := range []int{1, leaf + 1, 3*cell + 17, row, row + 1, 9<<20 + 5} {
		bodies = append(bodies, storetest.Body(uint64(i), size))
		written = append(written, k.Write(bodies[i]))
		k.Want(written[i], bodies[i])
	}
	done()
	for _, lost := range [][]int{nil, {0, 1, 2, 3}, {8, 9, 10, 11}, {1, 4, 7, 10}} {
		k, done := d.open(lost...)
		for i, w := range written {
			k.Want(w, bodies[i])
		}
		done()
	}
}

// TestPowerLossKeepsWhatWasAcknowledged cuts the power of all drives while writers are at work.
func TestPowerLossKeepsWhatWasAcknowledged(t *testing.T) {
	for seed := range uint64(12) {
		fs := vfs.NewMemory(seed)
		d := newDisks(t, fs, "/drives")
		k, done := d.open()
		var (
			wait  sync.WaitGroup
			mu    sync.Mutex
			acked = make(map[uint64]chunkstore.Written)
			sizes = make(map[uint64]int)
		)
		begun := make(chan struct{}, 64)
		for writer := range uint64(3) {
			wait.Go(func() {
				for n := uint64(0); ; n++ {
					name := writer*1000 + n
					size := 1 + int(seed*7919+name*104729)%(3*row)
					select {
					case begun <- struct{}{}:
					default:
					}
					w, err := k.Store.Write(t.Context(), bytes.NewReader(storetest.Body(name, size)), chunkstore.WriteOptions{Size: -1})
					if err != nil {
						return // the power is gone
					}
					mu.Lock()
					acked[name], sizes[name] = w, size
					mu.Unlock()
				}
			})
		}
		for range 6 + seed%5 {
			<-begun
		}
		after := fs.Crash()
		wait.Wait()
		done()
		if len(acked) == 0 {
			t.Fatalf("seed %d: the power went before anything was acknowledged", seed)
		}
		d.fs = after
		k, done = d.open(int(seed%12), int((seed+5)%12)) // two drives do not come back at all
		for name, w := range acked {
			k.Want(w, storetest.Body(name, sizes[name]))
		}
		done()
	}
}
