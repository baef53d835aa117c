package drive_test

import (
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
)

// TestTombstonesGoWithTheirVolume deletes all of a sealed volume: what must not be remembered any more is not
// remembered again after a restart, and deletions of volumes that are still here are.
func TestTombstonesGoWithTheirVolume(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	for volume := chunkstore.VolumeID(1); volume <= 2; volume++ {
		var keys []chunkstore.ShardKey
		for chunk := range uint32(3) {
			s := drivetest.NewShard(drivetest.Key(volume, chunk, 0), 1, 5000)
			must(t, s.Put(t.Context(), d))
			keys = append(keys, s.Header.Key)
		}
		if volume == 1 {
			must(t, d.Seal(t.Context(), volume, 2))
		} else {
			keys = keys[:2]
		}
		must(t, d.Delete(t.Context(), keys))
	}
	if n := d.Tombstones(); n != 2 {
		t.Fatalf("%d tombstones before the restart, want 2", n)
	}
	must(t, d.Close())
	d = open(t, m)
	if n := d.Tombstones(); n != 2 {
		t.Fatalf("%d tombstones after the restart, want 2", n)
	}
}
