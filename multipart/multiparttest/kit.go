// Package multiparttest puts an object store together in memory for tests: the real object path, catalog and chunk
// store over memory drives, with a clock that tests move by hand.
package multiparttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// Kit is an object store in memory.
type Kit struct {
	T       testing.TB
	Store   *multipart.Store
	Catalog *metadata.Catalog
	Chunks  *storetest.Kit
	Clock   *Clock

	fs     *vfs.Memory
	host   *raft.Host
	tablet *group
	change func(*multipart.Config)
}

// Clock is a clock that only Advance moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Drives is the number of memory drives of a Kit.
const Drives = 12

// New returns a Kit that ends with the test. change, when not nil, edits the configuration of the Store.
func New(t testing.TB, change func(*multipart.Config)) *Kit {
	t.Helper()
	k := &Kit{T: t, Chunks: storetest.New(t, Drives, nil), fs: vfs.NewMemory(1), change: change}
	k.Clock = &Clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	for _, m := range hostConfig(k.fs).Mirrors {
		if err := vfs.MkdirAll(k.fs, m.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host, err := raft.Bootstrap(t.Context(), hostConfig(k.fs), rootGroup, tabletGroup)
	if err != nil {
		t.Fatal(err)
	}
	k.start(host)
	t.Cleanup(k.stop)
	return k
}

// Restart closes everything above the drives and opens it again, as a restart of the process does.
func (k *Kit) Restart() {
	k.T.Helper()
	k.stop()
	k.Chunks.Restart()
	host, err := raft.Open(k.T.Context(), hostConfig(k.fs))
	if err != nil {
		k.T.Fatal(err)
	}
	k.start(host)
}

func (k *Kit) start(host *raft.Host) {
	k.T.Helper()
	k.host = host
	k.tablet = &group{Group: host.Group(tabletGroup)}
	var err error
	k.Catalog, err = metadata.New(k.T.Context(), metadata.Config{Root: root.NewClient(host.Group(rootGroup)), Tablet: k.tablet, Now: k.Clock.Now})
	if err != nil {
		k.T.Fatal(err)
	}
	config := multipart.Config{Catalog: k.Catalog, Chunks: k.Chunks.Store, Now: k.Clock.Now}
	if k.change != nil {
		k.change(&config)
	}
	if k.Store, err = multipart.New(config); err != nil {
		k.T.Fatal(err)
	}
}

func (k *Kit) stop() {
	k.T.Helper()
	if err := errors.Join(k.Catalog.Close(), k.host.Close()); err != nil {
		k.T.Errorf("close names: %v", err)
	}
}

// FailCommits makes fail decide before each commit of names whether it fails with nothing changed; nil ends that.
func (k *Kit) FailCommits(fail func() error) {
	k.tablet.mu.Lock()
	defer k.tablet.mu.Unlock()
	k.tablet.fail = fail
}

// Bucket makes a bucket.
func (k *Kit) Bucket(name string, v metadata.Versioning) metadata.BucketID {
	k.T.Helper()
	b, err := k.Store.CreateBucket(k.T.Context(), name, "tester")
	if err == nil && v != metadata.Unversioned {
		err = k.Store.SetVersioning(k.T.Context(), name, v)
	}
	if err != nil {
		k.T.Fatal(err)
	}
	return b.ID
}

// Settle lets the time of all readers pass and deletes what was freed.
func (k *Kit) Settle() {
	k.T.Helper()
	k.Clock.Advance(16 * time.Minute)
	p, err := k.Store.Free(k.T.Context())
	if err != nil || p.Left > 0 {
		k.T.Fatalf("free: %+v, %v", p, err)
	}
}

// Orphans returns the chunks on the drives that no name leads to, and the names' chunks that are not on all drives.
func (k *Kit) Orphans(ctx context.Context) (orphans, missing []chunkstore.ChunkID, err error) {
	held := map[chunkstore.ChunkID]int{}
	for _, d := range k.Chunks.Drives {
		volumes, err := d.Volumes(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, v := range volumes {
			shards, err := d.Shards(ctx, v.Volume)
			if err != nil {
				return nil, nil, err
			}
			for _, s := range shards {
				held[s.Key.Chunk]++
			}
		}
	}
	named := map[chunkstore.ChunkID]bool{}
	err = k.Store.Survey(ctx, func(n multipart.Named) error {
		named[n.Chunk.ID] = true
		return nil
	})
	for id := range held {
		if !named[id] {
			orphans = append(orphans, id)
		}
	}
	for id := range named {
		if held[id] != chunkstore.Shards {
			missing = append(missing, id)
		}
	}
	return orphans, missing, err
}

// WantClean fails the test unless exactly the chunks that names lead to are on the drives, and all of them.
func (k *Kit) WantClean() {
	k.T.Helper()
	orphans, missing, err := k.Orphans(k.T.Context())
	if err == nil && len(orphans)+len(missing) > 0 {
		err = fmt.Errorf("%d chunks that nothing names, %d named ones that are not whole", len(orphans), len(missing))
	}
	if err != nil {
		k.T.Fatal(err)
	}
}

// WantNothingMissing fails the test if a name of a version leads to a chunk that is not on all drives.
func (k *Kit) WantNothingMissing() {
	k.T.Helper()
	err := k.Store.Survey(k.T.Context(), func(n multipart.Named) error {
		if n.At.Version == nil {
			return nil
		}
		r, err := k.Chunks.Store.Check(k.T.Context(), n.Chunk)
		if err == nil && r.Good != 1<<chunkstore.Shards-1 {
			err = fmt.Errorf("chunk %v of %q: %+v", n.Chunk.ID, n.At.Key, r)
		}
		return err
	})
	if err != nil {
		k.T.Fatal(err)
	}
}

// Shards counts the shards on all drives.
func (k *Kit) Shards() (n int64) {
	for _, d := range k.Chunks.Drives {
		n += d.Status().Shards
	}
	return n
}
