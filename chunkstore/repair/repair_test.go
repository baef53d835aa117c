package repair_test

import (
	"context"
	"errors"
	"math/bits"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/chunkstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const row = 512 << 10

func newWorker(k *storetest.Kit) *repair.Worker {
	return repair.New(repair.Config{Store: k.Store, Volumes: k.Volumes, Drives: k.Set, Share: 1, Log: k.Config.Log})
}

func pass(k *storetest.Kit, w *repair.Worker) repair.Progress {
	k.T.Helper()
	p, err := w.RunOnce(k.T.Context())
	if err != nil {
		k.T.Fatal(err)
	}
	return p
}

// wantWhole fails unless every shard of every chunk is good on its home drive and no drive holds anything else.
func wantWhole(k *storetest.Kit, chunks ...chunkstore.Chunk) {
	k.T.Helper()
	for _, c := range chunks {
		r, err := k.Store.Check(k.T.Context(), c)
		if err != nil {
			k.T.Fatal(err)
		}
		if r.Good != 1<<chunkstore.Shards-1 {
			k.T.Fatalf("chunk %v: %+v", c.ID, r)
		}
		v, err := k.Volumes.Volume(k.T.Context(), c.Volume)
		if err != nil {
			k.T.Fatal(err)
		}
		if v.Slots != v.Home {
			k.T.Fatalf("volume %d is away from home", v.ID)
		}
	}
	if held, want := shardsHeld(k), int64(len(chunks)*chunkstore.Shards); held != want {
		k.T.Fatalf("drives hold %d shards, want %d", held, want)
	}
}

func shardsHeld(k *storetest.Kit) int64 {
	var held int64
	for _, d := range k.Drives {
		held += d.Status().Shards
	}
	return held
}

func TestDamageIsRebuiltInPlace(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(1, 3*row+5000)
	w := k.Write(body)
	c := w.Chunks[0]
	slots := k.Slots(c)
	key := func(i int) chunkstore.ShardKey {
		return chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}
	}
	if !slots[1].Damage(key(1), 70_000) || !slots[4].DamageHeader(key(4)) || !slots[7].Lose(key(7)) || !slots[10].Damage(key(10), 0) {
		t.Fatal("a shard to damage was not there")
	}
	k.Want(w, body)
	k.Eventually("the damage is recorded", func() bool {
		mask := k.Volumes.Intent(c)
		return mask>>1&1 != 0 && mask>>4&1 != 0 && mask>>7&1 != 0
	})
	worker := newWorker(k)
	p := pass(k, worker)
	if p.UnderProtected != 0 || p.Intents != 0 || p.Restored < 3 {
		t.Fatalf("%+v", p)
	}
	// The damaged parity shard was not read, so only a check can find it.
	r, err := k.Store.Check(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Damaged != 0 {
		if err := k.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: r.Damaged}); err != nil {
			t.Fatal(err)
		}
		if p := pass(k, worker); p.UnderProtected != 0 {
			t.Fatalf("%+v", p)
		}
	}
	wantWhole(k, c)
	k.Want(w, body)
	// New damage of a repaired chunk is recorded again.
	if !slots[1].Damage(key(1), 0) {
		t.Fatal("shard 1 is gone")
	}
	k.Want(w, body)
	k.Eventually("the new damage is recorded", func() bool { return k.Volumes.Intent(c) == 1<<1 })
}

func TestIntentsOfWritesAreResolvedWhenTheDriveWorksAgain(t *testing.T) {
	k := storetest.New(t, 12, nil)
	bad := k.Drives[3]
	bad.Fail(memory.OpPut, errors.New("input/output error"))
	body := storetest.Body(2, row)
	w := k.Write(body)
	if len(w.Intents) != 1 || bits.OnesCount16(w.Intents[0].Missing) != 1 || bad.Fired(memory.OpPut) == 0 {
		t.Fatalf("intents %+v, fired %d", w.Intents, bad.Fired(memory.OpPut))
	}
	if err := k.Volumes.AddIntent(t.Context(), w.Intents[0]); err != nil {
		t.Fatal(err)
	}
	worker := newWorker(k)
	if p := pass(k, worker); p.UnderProtected != 1 || p.Intents != 1 || p.Failed == 0 {
		t.Fatalf("while the drive fails: %+v", p)
	}
	bad.Fail(memory.OpPut, nil)
	if p := pass(k, worker); p.UnderProtected != 0 || p.Intents != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k, w.Chunks...)
}

// TestDoubledShardsGoHome is the story of DESIGN: four drives gone, writes go on, two more gone, everything reads, all
// return, everything is whole at home.
func TestDoubledShardsGoHome(t *testing.T) {
	k := storetest.New(t, 12, nil)
	worker := newWorker(k)
	before := storetest.Body(3, row+1)
	wb := k.Write(before)
	pass(k, worker)
	k.Remove(0, 4, 5, 9)
	during := storetest.Body(4, 9<<20)
	wd := k.Write(during)
	if len(wd.Intents) != 0 {
		t.Fatalf("a doubled-up write left intents: %+v", wd.Intents)
	}
	p := pass(k, worker)
	if want := int64(len(wb.Chunks) + len(wd.Chunks)); p.UnderProtected != want || p.Away == 0 {
		t.Fatalf("with four drives gone: %+v, want %d under-protected", p, want)
	}
	k.Want(wb, before)
	k.Remove(1, 2)
	k.Want(wd, during)
	k.Return(1, 2, 0, 4, 5, 9)
	if p := pass(k, worker); p.UnderProtected != 0 || p.Away != 0 || p.Moved < 4 {
		t.Fatalf("when all returned: %+v", p)
	}
	wantWhole(k, append(wb.Chunks, wd.Chunks...)...)
	k.Remove(2, 3, 6, 7)
	k.Want(wd, during)
}

// afterMove runs something when a volume's row has changed, before the copies at the old place are looked at.
type afterMove struct {
	chunkstore.Volumes
	then func(before, after chunkstore.Volume)
}

func (a *afterMove) UpdateVolume(ctx context.Context, v chunkstore.Volume) (chunkstore.Volume, error) {
	before, err := a.Volumes.Volume(ctx, v.ID)
	if err != nil {
		return chunkstore.Volume{}, err
	}
	v, err = a.Volumes.UpdateVolume(ctx, v)
	if err == nil && before.Slots != v.Slots {
		a.then(before, v)
	}
	return v, err
}

// TestACopyIsNotDeletedBecauseTheOldOneIsMissing loses the copies at the old places of slots that go home, at the
// moment of the move: nothing says that they were deleted, so the copies at home stay.
func TestACopyIsNotDeletedBecauseTheOldOneIsMissing(t *testing.T) {
	hook := &afterMove{}
	k := storetest.New(t, 12, func(c *chunkstore.Config) { hook.Volumes, c.Volumes = c.Volumes, hook })
	k.Remove(0, 4, 5, 9)
	body := storetest.Body(4, 3*row)
	w := k.Write(body)
	c := w.Chunks[0]
	lost := 0
	hook.then = func(before, after chunkstore.Volume) {
		if before.ID != c.Volume {
			return // another volume; c's copies of the same slots are where c's row says
		}
		for i := range chunkstore.Shards {
			key := chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}
			if before.Slots[i] != after.Slots[i] && k.Drive(before.Slots[i]).Lose(key) {
				lost++
			}
		}
	}
	k.Return(0, 4, 5, 9)
	worker := newWorker(k)
	pass(k, worker)
	if lost == 0 {
		t.Fatal("nothing was lost")
	}
	for range 2 {
		pass(k, worker)
	}
	r, err := k.Store.Check(t.Context(), c)
	if err != nil || r.Good != 1<<chunkstore.Shards-1 {
		t.Fatalf("%d copies were lost at the old places; the chunk is %+v, %v", lost, r, err)
	}
	k.Want(w, body)
}

func TestBlankDriveIsFilled(t *testing.T) {
	k := storetest.New(t, 12, nil)
	worker := newWorker(k)
	var chunks []chunkstore.Chunk
	bodies := [][]byte{storetest.Body(5, 100_000), storetest.Body(6, 4*row+1), storetest.Body(7, 17)}
	var written []chunkstore.Written
	for _, b := range bodies {
		w := k.Write(b)
		written = append(written, w)
		chunks = append(chunks, w.Chunks...)
	}
	pass(k, worker)
	// The drive is exchanged: same identity, nothing on it.
	k.Remove(8)
	if err := k.Drives[8].Close(); err != nil {
		t.Fatal(err)
	}
	k.Drives[8] = memory.New(k.Drives[8].ID())
	k.Return(8)
	if p := pass(k, worker); p.UnderProtected != 0 || p.Restored != int64(len(chunks)) {
		t.Fatalf("%+v, want %d restored", p, len(chunks))
	}
	wantWhole(k, chunks...)
	k.Remove(0, 1, 2, 3)
	for i, w := range written {
		k.Want(w, bodies[i])
	}
}

func TestDeletedChunksAreNotBroughtBack(t *testing.T) {
	k := storetest.New(t, 12, nil)
	worker := newWorker(k)
	w := k.Write(storetest.Body(8, row))
	pass(k, worker)
	k.Remove(2)
	left, err := k.Store.Delete(t.Context(), w.Chunks)
	if len(left) != len(w.Chunks) || !errors.Is(err, chunkstore.ErrDriveDown) {
		t.Fatalf("delete with a drive gone: left %d, %v", len(left), err)
	}
	k.Return(2)
	pass(k, worker)
	for i, d := range k.Drives {
		if n := d.Status().Shards; i != 2 && n != 0 {
			t.Fatalf("drive %d holds %d shards of a deleted chunk", i, n)
		}
	}
	if left, err := k.Store.Delete(t.Context(), left); err != nil || len(left) != 0 {
		t.Fatalf("left %d, %v", len(left), err)
	}
	if p := pass(k, worker); p.UnderProtected != 0 {
		t.Fatalf("%+v", p)
	}
	wantWhole(k)
}

func TestIntentOfADeletedChunkIsResolved(t *testing.T) {
	k := storetest.New(t, 12, nil)
	w := k.Write(storetest.Body(9, row))
	in := chunkstore.Intent{Chunk: w.Chunks[0], Missing: 1 << 5}
	if err := k.Volumes.AddIntent(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Store.Delete(t.Context(), w.Chunks); err != nil {
		t.Fatal(err)
	}
	if p := pass(k, newWorker(k)); p.Intents != 0 {
		t.Fatalf("%+v", p)
	}
}

// TestLostChunkKeepsItsIntent: with too few shards nothing is rebuilt, deleted or forgotten.
func TestLostChunkKeepsItsIntent(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(10, row)
	w := k.Write(body)
	c := w.Chunks[0]
	for i, d := range k.Slots(c) {
		if i < 5 && !d.Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}) {
			t.Fatalf("shard %d was not there", i)
		}
	}
	if err := k.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: 1}); err != nil {
		t.Fatal(err)
	}
	worker := newWorker(k)
	if p := pass(k, worker); p.Intents != 1 || p.UnderProtected != 1 {
		t.Fatalf("%+v", p)
	}
	if _, err := k.Read(w.Chunks, 0, w.Size); !errors.Is(err, chunkstore.ErrLost) {
		t.Fatalf("got %v", err)
	}
}

// TestRemainsOfAFailedWriteAreLeftToSweep: too few shards to rebuild from, on drives that all answer.
func TestRemainsOfAFailedWriteAreLeftToSweep(t *testing.T) {
	k := storetest.New(t, 12, nil)
	worker := newWorker(k)
	w := k.Write(storetest.Body(12, row))
	c := w.Chunks[0]
	slots := k.Slots(c)
	for i := range 8 {
		if !slots[i].Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}) {
			t.Fatalf("shard %d was not there", i)
		}
	}
	if p := pass(k, worker); p.UnderProtected != 0 || p.Remains != 1 || p.Failed != 0 {
		t.Fatalf("%+v", p)
	}
	for i := 8; i < chunkstore.Shards; i++ {
		if slots[i].Status().Shards != 1 {
			t.Fatalf("shard %d was deleted", i)
		}
	}
	// With drives away the others might be there: it counts until they answer.
	for i := range 4 {
		k.Set.Remove(slots[i].ID())
	}
	if p := pass(k, worker); p.UnderProtected != 1 || p.Remains != 0 {
		t.Fatalf("with drives away: %+v", p)
	}
	for i := range 4 {
		if err := k.Set.Add(slots[i]); err != nil {
			t.Fatal(err)
		}
	}
	if p := pass(k, worker); p.UnderProtected != 0 || p.Remains != 1 || p.Failed != 0 {
		t.Fatalf("when they answer again: %+v", p)
	}
}

func TestRunFollowsDrives(t *testing.T) {
	k := storetest.New(t, 12, nil)
	worker := newWorker(k)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	k.Remove(7)
	w := k.Write(storetest.Body(11, row))
	k.Return(7)
	k.Eventually("shards are home", func() bool {
		v, err := k.Volumes.Volume(t.Context(), w.Chunks[0].Volume)
		return err == nil && v.Slots == v.Home
	})
	k.Eventually("nothing is under-protected", func() bool { return worker.Progress().UnderProtected == 0 })
	k.Eventually("the copies left behind are deleted", func() bool { return shardsHeld(k) == int64(len(w.Chunks)*chunkstore.Shards) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantWhole(k, w.Chunks...)
}
