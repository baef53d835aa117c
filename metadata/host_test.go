package metadata

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// hostConfig is a real host with the real machines, on drives of a file system.
func hostConfig(t testing.TB, f vfs.FS, dir string) raft.Config {
	t.Helper()
	c := raft.Config{
		FS: f, StateDir: dir + "/state", Cluster: cluster.ClusterID{1},
		Machines: func(id raft.GroupID) raft.Machine {
			if id == 1 {
				return root.New()
			}
			return tablet.New()
		},
	}
	for i := range 5 {
		drive := fmt.Sprintf("%s/d%d", dir, i+1)
		if err := vfs.MkdirAll(f, drive, 0o700); err != nil {
			t.Fatal(err)
		}
		c.Mirrors = append(c.Mirrors, raft.Mirror{Drive: cluster.DriveID{byte(i + 1)}, Dir: drive})
	}
	return c
}

func catalogOn(t testing.TB, h *raft.Host) *Catalog {
	t.Helper()
	c, err := New(t.Context(), Config{Root: root.NewClient(h.Group(1)), Tablet: h.Group(2)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNamesSurviveThePowerLossOfTheirHost writes through the real log, cuts the power while writers are at work, and
// wants every acknowledged version after the restart, exact counters, and the state rebuilt from the log alone.
func TestNamesSurviveThePowerLossOfTheirHost(t *testing.T) {
	memory := vfs.NewMemory(11)
	config := hostConfig(t, memory, "/peer")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h, err := raft.Bootstrap(ctx, config, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	c := catalogOn(t, h)
	b, err := c.CreateBucket(ctx, "bucket", "owner")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetVersioning(ctx, "bucket", VersioningEnabled); err != nil {
		t.Fatal(err)
	}
	acked, after := writeUntilCrash(ctx, t, c, b.ID, memory)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Log("close without power:", err)
	}

	config.FS = after
	h, err = raft.Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	c = catalogOn(t, h)
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	page, err := c.ListVersions(ctx, ListVersions{Bucket: b.ID, Max: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range acked {
		if !slices.ContainsFunc(page.Versions, func(v Version) bool { return v.ID == want.ID && v.ETag == want.ETag }) {
			t.Fatalf("acknowledged version %v of %q is lost", want.ID, want.Key)
		}
	}
	u, err := c.Usage(ctx, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if int(u.Objects+u.Versions) != len(page.Versions) {
		t.Fatalf("usage %+v with %d versions", u, len(page.Versions))
	}
	// Clocks go on above everything that was given out.
	v, err := c.Put(ctx, object(b.ID, "key 0", "after"))
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range page.Versions {
		if old.ID.Clock >= v.ID.Clock {
			t.Fatalf("version id %v after %v", v.ID, old.ID)
		}
	}
}

// writeUntilCrash lets writers work until half of what they have is acknowledged, and cuts the power then.
func writeUntilCrash(ctx context.Context, t *testing.T, c *Catalog, bucket BucketID, memory *vfs.Memory) (acked []Version, after vfs.FS) {
	t.Helper()
	const writers, each = 8, 50
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	failed := 0
	var g sync.WaitGroup
	for i := range writers {
		g.Go(func() {
			for n := range each {
				v, err := c.Put(ctx, object(bucket, fmt.Sprintf("key %d", i%3), fmt.Sprintf("%d/%d", i, n)))
				mu.Lock()
				if err != nil {
					failed++
					mu.Unlock()
					return
				}
				acked = append(acked, v)
				if after == nil && len(acked) >= writers*each/2 {
					after = memory.Crash()
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	g.Wait()
	if after == nil || failed == 0 {
		t.Fatalf("power cut: %v, writers that it hit: %d", after != nil, failed)
	}
	return acked, after
}

// BenchmarkPut writes 4 KiB objects from 16 clients through the real log on five mirrors of this machine's disk. The
// one-writer rate of the same log is beside it.
func BenchmarkPut(b *testing.B) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			c, bucket := benchCatalog(b)
			body := make([]byte, 4<<10)
			work := make(chan int)
			var g sync.WaitGroup
			b.ResetTimer()
			for range clients {
				g.Go(func() {
					for n := range work {
						p := Put{Bucket: bucket, Version: Version{
							Key: fmt.Sprintf("dir/%08d", n), Size: 4 << 10, ETag: etag("body"), Inline: body,
							Headers: map[string]string{"content-type": "application/octet-stream"},
						}}
						if _, err := c.Put(b.Context(), p); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for n := range b.N {
				work <- n
			}
			close(work)
			g.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}

func benchCatalog(b *testing.B) (*Catalog, BucketID) {
	b.Helper()
	h, err := raft.Bootstrap(b.Context(), hostConfig(b, vfs.OS(), b.TempDir()), 1, 2)
	if err != nil {
		b.Fatal(err)
	}
	c := catalogOn(b, h)
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	bucket, err := c.CreateBucket(b.Context(), "bucket", "owner")
	if err != nil {
		b.Fatal(err)
	}
	return c, bucket.ID
}

// BenchmarkList reads a page of 1,000 keys of buckets that are a hundred times apart in size.
func BenchmarkList(b *testing.B) {
	for _, keys := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			db, err := kv.Open(kv.Config{FS: vfs.OS(), Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				if err := db.Close(); err != nil {
					b.Error(err)
				}
			})
			w := newWorldOn(b, db)
			bucket := w.bucket("bucket", Unversioned)
			var g sync.WaitGroup
			work := make(chan int, 64)
			for range 4 {
				g.Go(func() {
					for n := range work {
						if _, err := w.Put(w.ctx, object(bucket, fmt.Sprintf("dir/%08d", n), "text")); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for n := range keys {
				work <- n
			}
			close(work)
			g.Wait()
			n := 0
			for b.Loop() {
				n = (n + 7919) % keys
				l := List{Bucket: bucket, Prefix: "dir/", Delimiter: "/", After: fmt.Sprintf("dir/%08d", n), Max: 1000}
				if _, err := w.List(w.ctx, l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
