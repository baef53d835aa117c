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
)

// pair is two peers with a repair worker each, over one set of drives and rows. hook belongs to the first.
type pair struct {
	*storetest.Peers
	hook    *aroundMove
	workers [2]*repair.Worker
}

// aroundMove runs something in the middle of a worker's move, as another worker or a client does.
type aroundMove struct {
	chunkstore.Volumes
	before, after func(chunkstore.Volume) // of the row that has moved slots; nil: nothing
}

func (a *aroundMove) UpdateVolume(ctx context.Context, v chunkstore.Volume) (chunkstore.Volume, error) {
	old, err := a.Volumes.Volume(ctx, v.ID)
	if err != nil {
		return chunkstore.Volume{}, err
	}
	moves := old.Slots != v.Slots
	if moves && a.before != nil {
		a.before(v)
	}
	v, err = a.Volumes.UpdateVolume(ctx, v)
	if err == nil && moves && a.after != nil {
		a.after(v)
	}
	return v, err
}

func newPair(t *testing.T, drives int) *pair {
	p := &pair{hook: &aroundMove{}}
	p.Peers = storetest.NewPeers(t, 2, drives, nil)
	first := p.All[0]
	p.hook.Volumes, first.Config.Volumes = first.Config.Volumes, p.hook
	first.Restart()
	for i, peer := range p.All {
		p.workers[i] = repair.New(repair.Config{
			Store: peer.Store, Volumes: peer.Config.Volumes, Drives: peer.Set, Share: 1, Log: peer.Config.Log,
		})
	}
	return p
}

func (p *pair) pass(worker int) repair.Progress {
	p.T.Helper()
	progress, err := p.workers[worker].RunOnce(p.T.Context())
	if err != nil {
		p.T.Fatal(err)
	}
	return progress
}

// rehome seals the volume of a chunk and gives a slot another home, on a drive that has none.
func (p *pair) rehome(c chunkstore.Chunk, slot int) chunkstore.Volume {
	p.T.Helper()
	v, err := p.All[1].Store.Seal(p.T.Context(), c.Volume)
	if err != nil {
		p.T.Fatal(err)
	}
	for _, d := range p.Drives {
		if !slices.Contains(v.Slots[:], d.ID()) {
			v.Home[slot] = d.ID()
		}
	}
	if v, err = p.All[1].Store.UpdateVolume(p.T.Context(), v); err != nil {
		p.T.Fatal(err)
	}
	return v
}

func shard(c chunkstore.Chunk, i int) chunkstore.ShardKey {
	return chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}
}

// wantKnown fails unless every shard of a chunk is where the row says, or named by an intent.
func (p *pair) wantKnown(c chunkstore.Chunk) {
	p.T.Helper()
	v := p.Row(c.Volume)
	for i, id := range v.Slots {
		if !p.Drive(id).Holds(shard(c, i)) && p.Volumes.Intent(c)>>i&1 == 0 {
			p.T.Errorf("shard %d of chunk %v is not at its slot, and no intent names it", i, c.ID)
		}
	}
}

// TestWhatAnotherWorkerClearedIsNotTakenForDeleted: between the change of a row and its tidying another worker clears
// the copies at the old place. They are marked as deleted there; the ones at the new place stay.
func TestWhatAnotherWorkerClearedIsNotTakenForDeleted(t *testing.T) {
	p := newPair(t, 13)
	w := p.All[0].Write(storetest.Body(1, 3*row))
	c := w.Chunks[0]
	before := p.rehome(c, 3)
	cleared := int64(0)
	p.hook.after = func(chunkstore.Volume) { cleared = p.pass(1).Cleared }
	p.pass(0)
	if cleared == 0 || p.Row(c.Volume).Slots[3] == before.Slots[3] {
		t.Fatalf("%d copies were cleared in the middle of the move", cleared)
	}
	p.wantKnown(c)
}

// TestAShardThatCameWhileItsSlotMovedIsNotDeleted: a worker cannot rebuild a shard and moves its slot without it; at that
// moment another one restores it at the old place. There is no other copy of it.
func TestAShardThatCameWhileItsSlotMovedIsNotDeleted(t *testing.T) {
	p := newPair(t, 13)
	w := p.All[0].Write(storetest.Body(2, row))
	c := w.Chunks[0]
	v := p.rehome(c, 3)
	if !p.Drive(v.Slots[3]).Lose(shard(c, 3)) {
		t.Fatal("no shard to lose")
	}
	if err := p.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: 1 << 3}); err != nil {
		t.Fatal(err)
	}
	unreadable := func(err error) {
		for _, i := range []int{0, 1, 2, 4, 5} {
			p.Drive(v.Slots[i]).Fail(memory.OpRead, err)
		}
	}
	unreadable(errors.New("input/output error"))
	restored := int64(0)
	p.hook.before = func(chunkstore.Volume) {
		unreadable(nil)
		other := p.All[1]
		if err := other.Store.Restore(t.Context(), c, 3, p.Row(c.Volume), v.Slots[3]); err != nil {
			t.Fatal(err)
		}
		if err := p.Volumes.ResolveIntent(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		restored++
	}
	p.hook.after = func(chunkstore.Volume) { unreadable(errors.New("input/output error")) }
	p.pass(0)
	if restored == 0 || p.Row(c.Volume).Slots[3] == v.Slots[3] {
		t.Fatalf("restored %d at the old place, which moved: %v", restored, p.Row(c.Volume).Slots[3] != v.Slots[3])
	}
	p.wantKnown(c)
	if key := shard(c, 3); !p.Drive(v.Slots[3]).Holds(key) && !p.Drive(v.Home[3]).Holds(key) {
		t.Error("the only copy was deleted")
	}
	unreadable(nil)
	p.pass(0)
	if p.pass(0); p.Volumes.Intent(c) != 0 || !p.Drive(v.Home[3]).Holds(shard(c, 3)) || p.Drive(v.Slots[3]).Holds(shard(c, 3)) {
		t.Error("the shard is not where it belongs, and there only")
	}
}

// TestAnIntentOutlivesARefusal: a drive says of a chunk that lives that it was deleted there. The other shards that the
// intent names stay named until they are restored, and so does this one.
func TestAnIntentOutlivesARefusal(t *testing.T) {
	p := newPair(t, 12)
	c := p.All[0].Write(storetest.Body(3, row)).Chunks[0]
	v := p.Row(c.Volume)
	if err := p.Drive(v.Slots[3]).Delete(t.Context(), []chunkstore.ShardKey{shard(c, 3)}); err != nil {
		t.Fatal(err)
	}
	if !p.Drive(v.Slots[5]).Lose(shard(c, 5)) {
		t.Fatal("no shard to lose")
	}
	p.Drive(v.Slots[5]).Fail(memory.OpPut, errors.New("input/output error"))
	if err := p.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: 1<<3 | 1<<5}); err != nil {
		t.Fatal(err)
	}
	p.pass(0)
	p.wantKnown(c)
	if p.pass(0).UnderProtected != 1 {
		t.Error("it does not count as under-protected")
	}
	p.Drive(v.Slots[5]).Fail(memory.OpPut, nil)
	p.pass(0)
	p.wantKnown(c)
	if !p.Drive(v.Slots[5]).Holds(shard(c, 5)) {
		t.Error("what can be restored was not")
	}
	if left, err := p.All[1].Store.Delete(t.Context(), []chunkstore.Chunk{c}); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	if progress := p.pass(0); progress.Intents != 0 || progress.UnderProtected != 0 {
		t.Errorf("after the delete: %+v", progress)
	}
}

// TestAnIntentKeepsWhatIsFoundMeanwhile: while a pass restores one shard that an intent names, another is found missing.
func TestAnIntentKeepsWhatIsFoundMeanwhile(t *testing.T) {
	p := newPair(t, 12)
	c := p.All[0].Write(storetest.Body(7, row)).Chunks[0]
	v := p.Row(c.Volume)
	if !p.Drive(v.Slots[3]).Lose(shard(c, 3)) {
		t.Fatal("no shard to lose")
	}
	if err := p.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: 1 << 3}); err != nil {
		t.Fatal(err)
	}
	release := p.Drive(v.Slots[3]).Hang(memory.OpPut)
	found := make(chan struct{})
	go func() {
		defer close(found)
		defer release()
		p.Eventually("the shard is being restored", func() bool { return p.Drive(v.Slots[3]).Fired(memory.OpPut) > 0 })
		p.Drive(v.Slots[7]).Lose(shard(c, 7))
		p.Drive(v.Slots[7]).Fail(memory.OpPut, errors.New("input/output error"))
		if err := p.Volumes.AddIntent(t.Context(), chunkstore.Intent{Chunk: c, Missing: 1 << 7}); err != nil {
			t.Error(err)
		}
	}()
	p.pass(0)
	<-found
	p.wantKnown(c)
	p.Drive(v.Slots[7]).Fail(memory.OpPut, nil)
	if progress := p.pass(0); progress.Intents != 0 || progress.UnderProtected != 0 {
		t.Errorf("%+v", progress)
	}
	p.wantKnown(c)
}

// TestASlotDoesNotMoveFromADriveThatIsNotHeard: the drive is up, but does not list what it holds. Of a chunk that cannot
// be read for a moment the only thing known is that it is not known.
func TestASlotDoesNotMoveFromADriveThatIsNotHeard(t *testing.T) {
	p := newPair(t, 13)
	c := p.All[0].Write(storetest.Body(4, row)).Chunks[0]
	v := p.rehome(c, 3)
	fail := func(err error) {
		p.Drive(v.Slots[3]).Fail(memory.OpList, err)
		p.Drive(v.Slots[3]).Fail(memory.OpRead, err)
		for _, i := range []int{0, 1, 2, 4} {
			p.Drive(v.Slots[i]).Fail(memory.OpRead, err)
		}
	}
	fail(errors.New("input/output error"))
	p.pass(0)
	if p.Row(c.Volume).Slots[3] != v.Slots[3] {
		t.Error("the slot moved without the shard")
	}
	p.wantKnown(c)
	fail(nil)
	if progress := p.pass(0); progress.Away != 0 {
		t.Errorf("%+v", progress)
	}
	p.wantKnown(c)
}

// TestWhatAnotherWorkerMovedIsLookedAt: a worker that knows a volume to be whole hears that another one moved a slot of
// it, and finds that a shard did not arrive.
func TestWhatAnotherWorkerMovedIsLookedAt(t *testing.T) {
	p := newPair(t, 13)
	c := p.All[0].Write(storetest.Body(5, row)).Chunks[0]
	p.pass(1)
	v := p.rehome(c, 3)
	p.hook.after = func(v chunkstore.Volume) { p.Drive(v.Slots[3]).Lose(shard(c, 3)) }
	p.pass(0)
	if p.Row(c.Volume).Slots[3] != v.Home[3] || p.Drive(v.Home[3]).Holds(shard(c, 3)) {
		t.Fatal("the slot did not move, or the shard was not lost")
	}
	p.pass(1)
	p.wantKnown(c)
}

// TestADeletedChunkDoesNotComeHome: the peer that deletes does not reach the home drive to which another one is copying.
// The delete is not confirmed then, and what came home goes with the next try.
func TestADeletedChunkDoesNotComeHome(t *testing.T) {
	p := newPair(t, 13)
	w := p.All[0].Write(storetest.Body(6, row))
	c := w.Chunks[0]
	v := p.rehome(c, 3)
	link := p.All[1].Links[slices.IndexFunc(p.Drives, func(d *memory.Drive) bool { return d.ID() == v.Home[3] })]
	tried := false
	p.hook.before = func(chunkstore.Volume) {
		link.Cut(true)
		left, err := p.All[1].Store.Delete(t.Context(), w.Chunks)
		link.Cut(false)
		tried = true
		if len(left) == 0 || !errors.Is(err, chunkstore.ErrDriveDown) {
			t.Errorf("left %d, %v: the delete is confirmed, and a copy is at the home drive: %v",
				len(left), err, p.Drive(v.Home[3]).Holds(shard(c, 3)))
		}
	}
	p.pass(0)
	if !tried {
		t.Fatal("nothing moved")
	}
	if left, err := p.All[1].Store.Delete(t.Context(), w.Chunks); len(left) != 0 || err != nil {
		t.Fatalf("again: left %d, %v", len(left), err)
	}
	p.pass(0)
	p.pass(1)
	for i, d := range p.Drives {
		if n := d.Status().Shards; n != 0 {
			t.Errorf("drive %d holds %d shards of a deleted chunk", i, n)
		}
	}
}
