package chunkstore_test

import (
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// TestNearParityStandsForFarData: where all data shards are read whole, parity shards of this peer save as many reads of
// other peers. A part of a row is read from where it lies, and near drives that fail cost nothing but their reads.
func TestNearParityStandsForFarData(t *testing.T) {
	near := make(map[cluster.DriveID]bool)
	k := storetest.New(t, 12, func(c *chunkstore.Config) {
		c.Near = func(id cluster.DriveID) bool { return near[id] }
	})
	body := storetest.Body(1, 4*row)
	w := k.Write(body)
	slots := k.Slots(w.Chunks[0])
	for _, i := range []int{0, 1, 8, 9} { // two data shards and two parity shards
		near[slots[i].ID()] = true
	}
	reads := func() (n [chunkstore.Shards]int) {
		for i, d := range slots {
			n[i] = d.Calls(memory.OpRead)
		}
		return n
	}
	wantReads := func(what string, before [chunkstore.Shards]int, shards ...int) {
		t.Helper()
		read := make(map[int]bool)
		for i, n := range reads() {
			if n > before[i] {
				read[i] = true
			}
		}
		for _, i := range shards {
			if !read[i] {
				t.Errorf("%s: shard %d was not read", what, i)
			}
			delete(read, i)
		}
		if len(read) > 0 {
			t.Errorf("%s: shards %v were read as well", what, read)
		}
	}

	before := reads()
	k.Want(w, body)
	wantReads("all", before, 0, 1, 4, 5, 6, 7, 8, 9)
	if s := k.Store.Stats(); s.Nearer == 0 || s.ShardBytes != int64(len(body)) {
		t.Errorf("it took %d bytes of shards: %+v", s.ShardBytes, s)
	}

	before = reads()
	part := make([]byte, 2*leaf)
	if err := k.Store.ReadAt(t.Context(), w.Chunks[0], 3*cell, part); err != nil || string(part) != string(body[3*cell:][:2*leaf]) {
		t.Fatalf("a part: %v", err)
	}
	wantReads("a part", before, 3)

	for _, d := range slots[8:] {
		d.Fail(memory.OpRead, chunkstore.ErrDriveDown)
	}
	k.Want(w, body) // the far data shards are what is left
	for _, d := range slots[8:] {
		if d.Fired(memory.OpRead) == 0 {
			t.Error("nothing failed")
		}
		d.Fail(memory.OpRead, nil)
	}

	before = reads()
	k.Remove(index(k, slots[8]), index(k, slots[2]))
	k.Want(w, body)
	wantReads("without a near one and a far one", before, 0, 1, 3, 4, 5, 6, 7, 9)
}

func index(k *storetest.Kit, d *memory.Drive) int {
	for i, other := range k.Drives {
		if other == d {
			return i
		}
	}
	return -1
}
