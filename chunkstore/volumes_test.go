package chunkstore_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

func open(k *storetest.Kit) int {
	n := 0
	for _, v := range k.Volumes.All() {
		if v.State == chunkstore.VolumeOpen {
			n++
		}
	}
	return n
}

func TestFullVolumesAreSealedAndReplaced(t *testing.T) {
	k := storetest.New(t, 12, func(c *chunkstore.Config) { c.VolumeSize = 1 << 20 })
	body := storetest.Body(1, 64<<20)
	w := k.Write(body)
	k.Eventually("full volumes are sealed", func() bool { return len(k.Volumes.All()) >= 6 && open(k) <= 2 })
	k.Want(w, body)
	for _, v := range k.Volumes.All() {
		if v.State != chunkstore.VolumeSealed {
			continue
		}
		if v.Epoch < 2 {
			t.Fatalf("sealed volume %d has epoch %d", v.ID, v.Epoch)
		}
		// A writer that still believes in the old epoch is refused.
		d := k.Drive(v.Slots[0])
		payload := vfs.Aligned(4096)
		h := &chunkstore.Header{
			Key: chunkstore.ShardKey{Volume: v.ID, Chunk: chunkstore.ChunkID{Block: 99}}, Epoch: 1, Size: 1,
			Layout: erasure.Default.Layout(1), Leaves: []chunkstore.Digest{sha256.Sum256(payload)},
		}
		h.Roots[0] = chunkstore.Root(h.Leaves)
		if err := d.Put(t.Context(), h, [][]byte{payload}); !errors.Is(err, chunkstore.ErrStaleVolume) {
			t.Fatalf("put to sealed volume %d: %v", v.ID, err)
		}
	}
}

// TestVolumesOfSmallDrivesAreSmall: a slot is a small part of the smallest drive of its volume.
func TestVolumesOfSmallDrivesAreSmall(t *testing.T) {
	k := storetest.New(t, 12, nil)
	for i, d := range k.Drives {
		d.SetTotal(int64(2+i) << 30)
	}
	body := storetest.Body(1, 16<<20)
	var written []chunkstore.Written
	for range 20 { // 40 MiB on each drive
		written = append(written, k.Write(body))
	}
	k.Eventually("volumes of 16 MiB are sealed", func() bool { return len(k.Volumes.All()) > open(k) })
	for _, v := range k.Volumes.All() {
		if v.State != chunkstore.VolumeSealed {
			continue
		}
		uses, err := k.Drive(v.Slots[0]).Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(uses, func(u chunkstore.VolumeUse) bool { return u.Volume == v.ID })
		if at < 0 || uses[at].Bytes < 14<<20 || uses[at].Bytes > 22<<20 {
			t.Errorf("volume %d was sealed when its chunk files had %+v", v.ID, uses)
		}
	}
	k.Want(written[0], body)
	k.Want(written[len(written)-1], body)
}

func TestRestartUsesOpenVolumesAgain(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(2, row)
	first := k.Write(body)
	k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	for range 20 {
		k.Restart()
		w := k.Write(body)
		if w.Chunks[0].ID == first.Chunks[0].ID {
			t.Fatal("a chunk id was issued twice")
		}
		k.Want(w, body)
	}
	if n := len(k.Volumes.All()); n != 2 {
		t.Fatalf("%d volumes after 20 restarts, want 2", n)
	}
	k.Want(first, body)
}

func TestRestartSealsWhatItCannotUse(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(3, row)
	w := k.Write(body)
	k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	k.Remove(5)
	k.Restart()
	k.Write(body)
	k.Eventually("the old volumes are sealed", func() bool {
		for _, v := range k.Volumes.All() {
			if v.Slots == v.Home && v.State == chunkstore.VolumeOpen {
				return false
			}
		}
		return true
	})
	k.Want(w, body)
}

// TestWriteFollowsAVolumeSealedByAnother: another gateway seals the volume that this one writes to.
func TestWriteFollowsAVolumeSealedByAnother(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(4, 3*row)
	k.Write(body)
	k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	config := k.Config
	other, err := chunkstore.NewStore(config)
	if err != nil {
		t.Fatal(err)
	}
	before := k.Volumes.All()
	for _, v := range before {
		if _, err := other.Seal(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	w := k.Write(body)
	for _, v := range before {
		if w.Chunks[0].Volume == v.ID {
			t.Fatalf("the chunk went to sealed volume %d", v.ID)
		}
	}
	if k.Store.Stats().Retried == 0 {
		t.Fatal("no chunk was sent again: the seal did not bite")
	}
	k.Want(w, body)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSealNeedsThreeSlots(t *testing.T) {
	k := storetest.New(t, 12, nil)
	w := k.Write(storetest.Body(5, row))
	for i := range 10 {
		k.Drives[i].Fail(memory.OpSeal, errDevice)
	}
	if _, err := k.Store.Seal(t.Context(), w.Chunks[0].Volume); !errors.Is(err, chunkstore.ErrDriveDown) {
		t.Fatalf("sealed with two slots: %v", err)
	}
	k.Drives[0].Fail(memory.OpSeal, nil)
	if _, err := k.Store.Seal(t.Context(), w.Chunks[0].Volume); err != nil {
		t.Fatal(err)
	}
}

func TestDeleteIsConfirmedByEverySlot(t *testing.T) {
	k := storetest.New(t, 12, nil)
	a, b := k.Write(storetest.Body(6, row)), k.Write(storetest.Body(7, row))
	chunks := append(append([]chunkstore.Chunk{}, a.Chunks...), b.Chunks...)
	k.Drives[2].Fail(memory.OpDelete, errDevice)
	left, err := k.Store.Delete(t.Context(), chunks)
	if len(left) != len(chunks) || err == nil {
		t.Fatalf("left %d of %d, %v", len(left), len(chunks), err)
	}
	k.Drives[2].Fail(memory.OpDelete, nil)
	if left, err := k.Store.Delete(t.Context(), left); len(left) != 0 || err != nil {
		t.Fatalf("left %d, %v", len(left), err)
	}
	if left, err := k.Store.Delete(t.Context(), chunks); len(left) != 0 || err != nil {
		t.Fatalf("again: left %d, %v", len(left), err)
	}
	for i, d := range k.Drives {
		if n := d.Status().Shards; n != 0 {
			t.Fatalf("drive %d holds %d shards", i, n)
		}
	}
}

// TestDeleteReachesUnfinishedMoves: a home drive holds the copy of a move that was broken off when its chunk is deleted.
func TestDeleteReachesUnfinishedMoves(t *testing.T) {
	k := storetest.New(t, 12, nil)
	k.Remove(3)
	w := k.Write(storetest.Body(11, row))
	c := w.Chunks[0]
	k.Return(3)
	v, err := k.Store.Seal(t.Context(), c.Volume)
	if err != nil {
		t.Fatal(err)
	}
	home := k.Drives[3]
	slot := slices.Index(v.Home[:], home.ID())
	if slot < 0 || v.Slots[slot] == home.ID() {
		t.Fatalf("the write did not double up: %+v", v)
	}
	if err := k.Store.Restore(t.Context(), c, slot, v, home.ID()); err != nil || home.Status().Shards != 1 {
		t.Fatalf("the home drive holds %d shards, %v", home.Status().Shards, err)
	}
	if left, err := k.Store.Delete(t.Context(), w.Chunks); len(left) != 0 || err != nil {
		t.Fatalf("left %d, %v", len(left), err)
	}
	if n := home.Status().Shards; n != 0 {
		t.Fatalf("the home drive holds %d shards", n)
	}
	if err := k.Store.Restore(t.Context(), c, slot, v, home.ID()); err == nil || home.Status().Shards != 0 {
		t.Fatalf("a deleted shard came home: %v", err)
	}
}

func TestHealthCountsLossesTruly(t *testing.T) {
	k := storetest.New(t, 12, nil)
	health := func() chunkstore.Health {
		t.Helper()
		h, err := k.Store.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for i, d := range k.Drives {
		d.SetPlace("", uint64(1+i/6)) // two devices of six drives
	}
	if h := health(); h.DriveLosses != 4 || h.DeviceLosses != 0 || h.Volumes != 0 {
		t.Fatalf("empty: %+v", h)
	}
	w := k.Write(storetest.Body(8, row))
	if h := health(); h.DriveLosses != 4 || h.DeviceLosses != 0 || h.Up != 12 || h.UnderVolumes != 0 {
		t.Fatalf("whole: %+v", h)
	}
	in := chunkstore.Intent{Chunk: w.Chunks[0], Missing: 1<<3 | 1<<8}
	if err := k.Volumes.AddIntent(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if h := health(); h.DriveLosses != 2 || h.Intents != 1 {
		t.Fatalf("two shards missing: %+v", h)
	}
	if err := k.Volumes.ResolveIntent(t.Context(), w.Chunks[0]); err != nil {
		t.Fatal(err)
	}
	k.Remove(0, 1, 2, 3)
	if h := health(); h.DriveLosses != 0 || h.Up != 8 || h.UnderVolumes == 0 {
		t.Fatalf("four gone: %+v", h)
	}
	k.Remove(4)
	if h := health(); h.DriveLosses != -1 {
		t.Fatalf("five gone: %+v", h)
	}
}

func TestReadRefusesWhatIsNotThere(t *testing.T) {
	k := storetest.New(t, 12, nil)
	w := k.Write(storetest.Body(9, row))
	for _, c := range []struct{ off, n int64 }{{-1, 1}, {0, -1}, {0, row + 1}, {row, 1}} {
		if _, err := k.Read(w.Chunks, c.off, c.n); !errors.Is(err, chunkstore.ErrBadSpan) {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	if err := k.Store.ReadAt(t.Context(), w.Chunks[0], row-1, make([]byte, 2)); !errors.Is(err, chunkstore.ErrBadSpan) {
		t.Fatal(err)
	}
	unknown := w.Chunks[0]
	unknown.Volume = 77
	if _, err := k.Read([]chunkstore.Chunk{unknown}, 0, 1); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Fatal(err)
	}
	forged := w.Chunks[0]
	forged.Digest[0] ^= 1
	if _, err := k.Read([]chunkstore.Chunk{forged}, 0, 1); !errors.Is(err, chunkstore.ErrLost) {
		t.Fatalf("a reference that no header proves: %v", err)
	}
}

func TestReadOfSpansAndReadAt(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(10, 20<<20)
	w := k.Write(body)
	refs := []chunkstore.Ref{
		{Chunk: w.Chunks[1], Off: 100, Len: 3 * row},
		{Chunk: w.Chunks[0], Off: 7, Len: 1},
		{Chunk: w.Chunks[2], Off: 0, Len: w.Chunks[2].Size},
	}
	first, second := int(w.Chunks[0].Size), int(w.Chunks[0].Size+w.Chunks[1].Size)
	want := append(append(append([]byte{}, body[first+100:first+100+3*row]...), body[7]), body[second:]...)
	r := k.Store.Read(t.Context(), refs, 50, int64(len(want)-50))
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want[50:]) {
		t.Fatal("bytes differ")
	}
	at := make([]byte, 5*row+3)
	if err := k.Store.ReadAt(t.Context(), w.Chunks[0], 12345, at); err != nil || !bytes.Equal(at, body[12345:12345+len(at)]) {
		t.Fatal(err)
	}
	// Close in the middle leaves nothing behind (goleak looks).
	r = k.Store.Read(t.Context(), refs, 0, int64(len(want)))
	if _, err := r.Read(at); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(at); !errors.Is(err, chunkstore.ErrClosed) {
		t.Fatal(err)
	}
}
