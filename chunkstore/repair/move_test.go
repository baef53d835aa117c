package repair_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// rehome gives a slot of every sealed volume a home on a drive that has none of its slots, and tells what it chose.
func rehome(k *storetest.Kit, slot int, not ...cluster.DriveID) map[chunkstore.VolumeID]cluster.DriveID {
	k.T.Helper()
	chosen := make(map[chunkstore.VolumeID]cluster.DriveID)
	for _, v := range k.Volumes.All() {
		v, err := k.Store.Seal(k.T.Context(), v.ID)
		if err != nil {
			k.T.Fatal(err)
		}
		for _, d := range k.Drives {
			if id := d.ID(); !slices.Contains(v.Slots[:], id) && !slices.Contains(v.Home[:], id) && !slices.Contains(not, id) {
				v.Home[slot] = id
				break
			}
		}
		if _, err := k.Store.UpdateVolume(k.T.Context(), v); err != nil {
			k.T.Fatal(err)
		}
		chosen[v.ID] = v.Home[slot]
	}
	return chosen
}

// writes stores a few bodies of different sizes and returns their chunks.
func writes(k *storetest.Kit, n int) (chunks []chunkstore.Chunk) {
	k.T.Helper()
	for i := range n {
		chunks = append(chunks, k.Write(storetest.Body(uint64(i), 1+i*100_003%(2*row))).Chunks...)
	}
	return chunks
}

// TestASlotThatMovesIsReadOnce: and only rebuilt where it cannot be read. Nothing is under-protected meanwhile.
func TestASlotThatMovesIsReadOnce(t *testing.T) {
	for _, readable := range []bool{true, false} {
		k := storetest.New(t, 14, nil)
		chunks := writes(k, 20)
		worker := newWorker(k)
		pass(k, worker)
		rehome(k, 3)
		var payload, read int64
		for _, v := range k.Volumes.All() {
			infos, err := k.Drive(v.Slots[3]).Shards(t.Context(), v.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				h, err := k.Drive(v.Slots[3]).Header(t.Context(), info.Key)
				if err != nil {
					t.Fatal(err)
				}
				payload += h.Layout.ShardSize()
				if !readable && !k.Drive(v.Slots[3]).Damage(info.Key, 0) {
					t.Fatal("no shard to damage")
				}
			}
		}
		for _, d := range k.Drives {
			read -= d.BytesRead()
		}
		p := pass(k, worker)
		for _, d := range k.Drives {
			read += d.BytesRead()
		}
		if p.Away != 0 || p.Moved == 0 || p.UnderProtected != 0 {
			t.Fatalf("%+v", p)
		}
		if readable && read != payload || !readable && read < 8*payload {
			t.Fatalf("%d bytes were read to move %d; readable: %v", read, payload, readable)
		}
		wantWhole(k, chunks...)
	}
}

// cutOff makes the passes of a worker end at the moment at which a row has changed, before anything is tidied.
func cutOff(k *storetest.Kit, hook *afterMove) {
	k.T.Helper()
	for {
		ctx, cancel := context.WithCancel(k.T.Context())
		moved := false
		hook.then = func(_, _ chunkstore.Volume) {
			moved = true
			cancel()
		}
		_, err := newWorker(k).RunOnce(ctx)
		cancel()
		if !moved {
			if err != nil {
				k.T.Fatal(err)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			k.T.Fatalf("cut off, and it said %v", err)
		}
		for _, v := range k.Volumes.All() {
			if v.Slots != v.Home {
				moved = false // there are more
			}
		}
		if moved {
			break
		}
	}
	hook.then = func(_, _ chunkstore.Volume) {}
}

func TestWhatACutOffMoveLeftIsClearedByTheNextWorker(t *testing.T) {
	hook := &afterMove{}
	k := storetest.New(t, 14, func(c *chunkstore.Config) { hook.Volumes, c.Volumes = c.Volumes, hook })
	chunks := writes(k, 20)
	chosen := rehome(k, 3)
	cutOff(k, hook)
	if held := shardsHeld(k); held <= int64(len(chunks)*chunkstore.Shards) {
		t.Fatalf("drives hold %d shards of %d chunks: nothing was left over", held, len(chunks))
	}
	// While the copy at the new place cannot be verified, the one at the old place stays.
	for _, id := range chosen {
		k.Drive(id).Fail(memory.OpCheck, errors.New("input/output error"))
		k.Drive(id).Fail(memory.OpPut, errors.New("input/output error"))
	}
	worker := newWorker(k)
	before := shardsHeld(k)
	if p := pass(k, worker); p.Cleared != 0 || shardsHeld(k) != before {
		t.Fatalf("%+v: %d shards of %d stay", p, shardsHeld(k), before)
	}
	for _, id := range chosen {
		k.Drive(id).Fail(memory.OpCheck, nil)
		k.Drive(id).Fail(memory.OpPut, nil)
	}
	if p := pass(k, worker); p.Cleared == 0 || p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks...)
}

// TestTheLeftoverIsTheSource loses the copies at the new place after a move that was cut off: they are made again from
// what was left at the old one.
func TestTheLeftoverIsTheSource(t *testing.T) {
	hook := &afterMove{}
	k := storetest.New(t, 14, func(c *chunkstore.Config) { hook.Volumes, c.Volumes = c.Volumes, hook })
	chunks := writes(k, 5)
	chosen := rehome(k, 3)
	cutOff(k, hook)
	lost := 0
	for _, c := range chunks {
		if k.Drive(chosen[c.Volume]).Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 3}) {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("nothing was lost")
	}
	if p := pass(k, newWorker(k)); p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks...)
}

// TestCopiesForAHomeThatChangedAreCleared changes the home again while the first one is being filled.
func TestCopiesForAHomeThatChangedAreCleared(t *testing.T) {
	k := storetest.New(t, 14, nil)
	chunks := writes(k, 20)
	worker := newWorker(k)
	pass(k, worker)
	chosen := rehome(k, 3)
	for _, id := range chosen {
		k.Drive(id).Fail(memory.OpCheck, errors.New("input/output error")) // what is put there cannot be verified
	}
	first := pass(k, worker)
	if p := first; p.Away == 0 || p.UnderProtected != 0 || shardsHeld(k) <= int64(len(chunks)*chunkstore.Shards) {
		t.Fatalf("%+v, %d shards held", p, shardsHeld(k))
	}
	for _, id := range chosen {
		k.Drive(id).Fail(memory.OpCheck, nil)
	}
	var not []cluster.DriveID
	for _, id := range chosen {
		not = append(not, id)
	}
	for _, v := range k.Volumes.All() { // back to where it lies
		v.Home = v.Slots
		if _, err := k.Store.UpdateVolume(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if p := pass(k, worker); p.Cleared == 0 || p.Moved != first.Moved {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks...)
	rehome(k, 5, not...)
	if p := pass(k, worker); p.Moved == first.Moved || p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks...)
}

// thirdSlotMoves writes three chunks and gives slot 3 of their volumes another home, which no pass has seen yet.
func thirdSlotMoves(t *testing.T) (*storetest.Kit, *repair.Worker, []chunkstore.Chunk, map[chunkstore.VolumeID]cluster.DriveID) {
	k := storetest.New(t, 14, nil)
	chunks := writes(k, 3)
	worker := newWorker(k)
	pass(k, worker)
	return k, worker, chunks, rehome(k, 3)
}

// TestARefusalLastsOnlyWhileTheChunkLives: a drive refuses what was deleted there. If it was deleted everywhere, that is
// all there is to it; if not, the slot needs another home.
func TestARefusalLastsOnlyWhileTheChunkLives(t *testing.T) {
	k, worker, chunks, chosen := thirdSlotMoves(t)
	c := chunks[1]
	key := chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 3}
	place := repair.Place{Volume: c.Volume, Slot: 3, Drive: chosen[c.Volume]}
	if err := k.Drive(place.Drive).Delete(t.Context(), []chunkstore.ShardKey{key}); err != nil {
		t.Fatal(err)
	}
	if pass(k, worker); worker.Refused(place) {
		t.Fatal("one pass is not enough to tell a refusal from a deletion under way")
	}
	v, err := k.Volumes.Volume(t.Context(), c.Volume)
	if err != nil || v.Slots[3] == place.Drive {
		t.Fatalf("the slot moved without a chunk that lives, %v", err)
	}
	if pass(k, worker); !worker.Refused(place) {
		t.Fatal("the second pass does not tell")
	}
	if left, err := k.Store.Delete(t.Context(), []chunkstore.Chunk{c}); len(left) != 0 || err != nil {
		t.Fatal(left, err)
	}
	if p := pass(k, worker); p.Away != 0 || p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks[0], chunks[2])
}

// TestRemainsHoldNoVolumeAway: seven shards are left of a write that was given up, and the home drive of a slot has deleted
// its own already. Nobody can read the chunk, so the slot goes home without it, and nothing of it is deleted.
func TestRemainsHoldNoVolumeAway(t *testing.T) {
	k, worker, chunks, chosen := thirdSlotMoves(t)
	c := chunks[1]
	old := k.Slots(c)
	for _, i := range []int{0, 1, 2, 4, 5} {
		if !old[i].Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}) {
			t.Fatalf("shard %d was not there", i)
		}
	}
	key := chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 3}
	if err := k.Drive(chosen[c.Volume]).Delete(t.Context(), []chunkstore.ShardKey{key}); err != nil {
		t.Fatal(err)
	}
	if p := pass(k, worker); p.Away != 0 || p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	if _, err := old[3].Header(t.Context(), key); err != nil {
		t.Errorf("what the old drive had of it: %v", err)
	}
	pass(k, worker)
	before := pass(k, worker)
	if after := pass(k, worker); after.Failed != before.Failed {
		t.Errorf("it is tried again in every pass: %d attempts failed, then %d", before.Failed, after.Failed)
	}
	for _, other := range []chunkstore.Chunk{chunks[0], chunks[2]} {
		if r, err := k.Store.Check(t.Context(), other); err != nil || r.Missing != 0 {
			t.Errorf("chunk %v: %+v, %v", other.ID, r, err)
		}
	}
}

// TestMovesGiveWayToNews kicks the worker when the first slot of a volume was copied: that one moves, the others wait
// for the pass after the kick.
func TestMovesGiveWayToNews(t *testing.T) {
	k := storetest.New(t, 16, nil)
	chunks := writes(k, 20)
	worker := newWorker(k)
	pass(k, worker)
	volume := chunks[0].Volume
	target := k.Drive(rehome(k, 3)[volume])
	rehome(k, 7)
	release := target.Hang(memory.OpPut)
	kicked := make(chan struct{})
	go func() {
		defer close(kicked)
		k.Eventually("the first slot is being copied", func() bool { return target.Fired(memory.OpPut) > 0 })
		worker.Kick()
		release()
	}()
	p := pass(k, worker)
	<-kicked
	if p.UnderProtected != 0 || p.Failed != 0 {
		t.Fatalf("%+v", p)
	}
	v, err := k.Volumes.Volume(t.Context(), volume)
	if err != nil || v.Slots[3] != v.Home[3] || v.Slots[7] == v.Home[7] {
		t.Fatalf("%+v, %v: want slot 3 at home, and slot 7 not yet", v, err)
	}
	if p = pass(k, worker); p.Away != 0 || p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, chunks...)
}
