package drive_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestADroppedVolumeDoesNotComeBack deletes all of a sealed volume, has the ledger written anew without it, and cuts
// the power: its file must be gone for good by then.
func TestADroppedVolumeDoesNotComeBack(t *testing.T) {
	renewed := 0
	for seed := range uint64(40) {
		m := newMemory(t, seed)
		d := open(t, m)
		var keys []chunkstore.ShardKey
		for chunk := range uint32(3) {
			s := drivetest.NewShard(drivetest.Key(1, chunk, 0), 1, 5000)
			must(t, s.Put(t.Context(), d))
			keys = append(keys, s.Header.Key)
		}
		must(t, d.Seal(t.Context(), 1, 2))
		must(t, d.Delete(t.Context(), keys))
		if n := d.Tombstones(); n != 0 {
			t.Fatalf("%d tombstones of a volume that is gone", n)
		}
		// A ledger whose sync failed is written anew, and says only what is still remembered.
		fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: "/ledger.", Err: syscall.EIO, Times: 1})
		must(t, d.Delete(t.Context(), []chunkstore.ShardKey{drivetest.Key(2, 1, 0)}))
		renewed += fault.Fired()
		m = m.Crash()
		_ = d.Close() // of a device without power
		d = open(t, m)
		for _, key := range keys {
			if _, err := d.Header(t.Context(), key); !errors.Is(err, chunkstore.ErrNotFound) {
				t.Fatalf("seed %d: a deleted shard is back: %v", seed, err)
			}
		}
		must(t, d.Close())
	}
	if renewed == 0 {
		t.Fatal("no ledger was written anew")
	}
}

// TestASectorOfTheLedgerThatCannotBeReadCostsNothing has the device refuse each read of a ledger in turn: every page
// stands twice.
func TestASectorOfTheLedgerThatCannotBeReadCostsNothing(t *testing.T) {
	fired := 0
	for nth := range 8 {
		m := newMemory(t, 1)
		d := open(t, m)
		var keys []chunkstore.ShardKey
		for chunk := range uint32(3) {
			s := drivetest.NewShard(drivetest.Key(1, chunk, 0), 1, 5000)
			must(t, s.Put(t.Context(), d))
			keys = append(keys, s.Header.Key)
			must(t, d.Delete(t.Context(), keys[chunk:]))
		}
		must(t, d.Close())
		fault := m.Inject(vfs.Rule{Op: vfs.OpRead, Path: "/ledger.", Err: syscall.EIO, After: nth, Times: 1})
		d = open(t, m)
		fired += fault.Fired()
		fault.Clear()
		if n := d.Tombstones(); n != len(keys) {
			t.Fatalf("read %d fails: %d deletions are known, want %d", nth, n, len(keys))
		}
		must(t, d.Close())
	}
	if fired < 5 {
		t.Fatalf("the fault fired %d times", fired)
	}
}
