package rebalance_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

func (f *fleet) held(n int) int64 { return f.drives[n].Status().Shards }

// TestADrainedDriveEndsEmpty: what moves is read once, no chunk is under-protected meanwhile, and the drive is empty.
func TestADrainedDriveEndsEmpty(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 15)
	p := f.peers[0]
	bodies := f.writeAll(p, 60)
	f.settle(p)
	drain := []int{3, 8}
	var must, read int64
	for _, d := range f.drives {
		read -= d.BytesRead()
	}
	for _, n := range drain {
		must += f.drives[n].Status().Bytes
	}
	if empty, left, err := rebalance.Empty(t.Context(), &f.topology, f.drives[3].ID()); empty || left == 0 || err != nil {
		t.Fatalf("before: %v, %d volumes, %v", empty, left, err)
	}
	f.state(rebalance.Leaves, drain...)
	for moving := true; moving; {
		b, r := f.pass(p)
		moving = b.Volumes > 0
		if r.UnderProtected != 0 {
			t.Fatalf("%d chunks are under-protected while they move", r.UnderProtected)
		}
	}
	f.wantEmpty(drain...)
	for _, d := range f.drives {
		read += d.BytesRead()
	}
	if read > must {
		t.Fatalf("%d bytes were read to move %d", read, must)
	}
	progress := p.rebalance.Progress()
	if progress.MovedBytes < must || progress.MovedBytes > must*11/10 || progress.MovedVolumes == 0 {
		t.Fatalf("%+v, %d bytes had to move", progress, must)
	}
	f.wantWhole(p, bodies)
}

// TestManySmallVolumesDoNotWaitForEachOther: a drain has far more volumes than may be on their way at a time, and is done
// long before the worker would look again by itself.
func TestManySmallVolumesDoNotWaitForEachOther(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 14)
	p := f.peers[0]
	bodies := f.writeAll(p, 20)
	f.settle(p)
	f.state(rebalance.Leaves, 0)
	_, left, err := rebalance.Empty(t.Context(), &f.topology, f.drives[0].ID())
	if err != nil || left <= rebalance.DefaultAway {
		t.Fatalf("%d volumes have to move, %v", left, err)
	}
	w := rebalance.New(rebalance.Config{
		Calm: -1, Store: p.store, Volumes: &f.topology, Registry: p.set, Drives: f.list, Kick: p.repair.Kick, Share: 1, Interval: time.Hour,
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	for _, run := range []func(context.Context) error{w.Run, p.repair.Run} {
		workers.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for left > 0 {
		select {
		case <-ctx.Done():
			t.Fatalf("%d volumes are still there", left)
		case <-tick.C:
		}
		if _, left, err = rebalance.Empty(ctx, &f.topology, f.drives[0].ID()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	workers.Wait()
	f.wantWhole(p, bodies)
}

func TestMovesAreBoundedAndSlotsOnTheirWayAreProtected(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 14)
	p := f.peers[0]
	f.writeAll(p, 60)
	f.settle(p)
	f.state(rebalance.Leaves, 0)
	b, err := p.rebalance.RunOnce(t.Context())
	if err != nil || b.Volumes <= rebalance.DefaultAway {
		t.Fatalf("%+v, %v", b, err)
	}
	if b, err = p.rebalance.RunOnce(t.Context()); err != nil || b.Underway != rebalance.DefaultAway {
		t.Fatalf("%+v, %v: want %d on their way", b, err, rebalance.DefaultAway)
	}
	// The drives that they go to take nothing, so they stay on their way.
	for i, d := range f.drives {
		d.SetFull(i != 0)
	}
	r, err := p.repair.RunOnce(t.Context())
	if err != nil || r.Away != rebalance.DefaultAway || r.UnderProtected != 0 || r.Failed == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	f.drives[0].Down(errors.New("pulled"))
	if r, err = p.repair.RunOnce(t.Context()); err != nil || r.UnderProtected == 0 {
		t.Fatalf("with the drive down: %+v, %v", r, err)
	}
}

func TestOpenVolumesOnALeavingDriveAreSealed(t *testing.T) {
	f := newFleet(t, 2)
	f.add(1, 14)
	writer, leader := f.peers[0], f.peers[1]
	var bodies []body
	for i := range 6 {
		b, err := f.write(writer, uint64(i), 1000)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	open := 0
	for _, v := range f.All() {
		if v.State == chunkstore.VolumeOpen {
			open++
		}
	}
	if open == 0 {
		t.Fatal("no volume is open")
	}
	drain := []int{0, 1}
	f.state(rebalance.Leaves, drain...)
	f.settle(leader)
	b, err := f.write(writer, 99, row)
	if err != nil {
		t.Fatal(err)
	}
	f.settle(leader)
	f.wantEmpty(drain...)
	f.wantWhole(leader, append(bodies, b))
}

func TestAClusterThatGrewSurvivesTheLossOfAPeer(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 12)
	p := f.peers[0]
	bodies := f.writeAll(p, 40)
	f.settle(p)
	f.add(2, 12)
	f.add(3, 12)
	f.settle(p)
	peerOf := make(map[cluster.DriveID]int)
	for i, d := range f.drives {
		peerOf[d.ID()] = i / 12
	}
	moved := 0
	for _, v := range f.All() {
		if v.State == chunkstore.VolumeOpen {
			continue // the Store opened it ahead of the next write
		}
		moved++
		var peers [placement.Width]int
		for i, id := range v.Slots {
			peers[i] = peerOf[id]
		}
		if losses := placement.Tolerates(peers, 1<<placement.Width-1); losses != 1 {
			t.Fatalf("volume %d survives %d losses of a peer: %v", v.ID, losses, peers)
		}
	}
	if moved < 10 {
		t.Fatalf("only %d volumes are sealed", moved)
	}
	f.wantWhole(p, bodies)
	for _, d := range f.drives[12:24] {
		d.Down(errors.New("the machine burned"))
	}
	for _, b := range bodies {
		f.want(p, b)
	}
}

// TestADeadDriveIsRebuiltElsewhere: it was taken out of the topology with all that it held.
func TestADeadDriveIsRebuiltElsewhere(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 14)
	p := f.peers[0]
	bodies := f.writeAll(p, 30)
	f.settle(p)
	if f.held(5) == 0 {
		t.Fatal("the drive holds nothing")
	}
	f.remove(5)
	f.drives[5].Down(errors.New("dead"))
	f.settle(p)
	f.wantWhole(p, bodies)
	if empty, _, err := rebalance.Empty(t.Context(), &f.topology, f.drives[5].ID()); err != nil || !empty {
		t.Fatalf("%v, %v", empty, err)
	}
}

// TestRemainsDoNotHoldADeadDriveInItsVolumes: what is left of a write that was given up cannot be rebuilt, whatever the
// dead drive held of it. When the drive returns after all, nothing that it held is dropped.
func TestRemainsDoNotHoldADeadDriveInItsVolumes(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 14)
	p := f.peers[0]
	bodies := f.writeAll(p, 12)
	f.settle(p)
	c := bodies[0].Chunks[0]
	v, err := f.Volume(t.Context(), c.Volume)
	if err != nil {
		t.Fatal(err)
	}
	drive := func(slot int) int {
		for n, d := range f.drives {
			if d.ID() == v.Slots[slot] {
				return n
			}
		}
		t.Fatal("no such drive")
		return -1
	}
	for slot := range 8 {
		if !f.drives[drive(slot)].Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(slot)}) {
			t.Fatal("no shard to lose")
		}
	}
	dead := drive(9)
	f.drives[dead].Down(errors.New("dead"))
	f.state(rebalance.Leaves, dead)
	f.settle(p)
	if empty, left, err := rebalance.Empty(t.Context(), &f.topology, f.drives[dead].ID()); err != nil || !empty {
		t.Fatalf("%d volumes name it, %v", left, err)
	}
	f.drives[dead].Return()
	f.settle(p)
	f.wantEmpty(dead)
	r, err := p.store.Check(t.Context(), c)
	if err != nil || r.Good != 0b1111<<8 {
		t.Fatalf("%+v, %v: its shard must be at the new place", r, err)
	}
	for _, b := range bodies[1:] {
		f.want(p, b)
	}
}

// TestASlotThatCannotReturnGoesElsewhere gives a slot the home that it left before: its shards are deleted there for
// ever. It must not be taken for moved, nor for deleted.
func TestASlotThatCannotReturnGoesElsewhere(t *testing.T) {
	f := newFleet(t, 1)
	f.add(1, 14)
	p := f.peers[0]
	bodies := f.writeAll(p, 20)
	f.settle(p)
	f.state(rebalance.Leaves, 4)
	before := f.All()
	f.settle(p)
	f.wantEmpty(4)
	f.state(rebalance.Takes, 4)
	id := f.drives[4].ID()
	returned := 0
	for i, v := range f.All()[:len(before)] {
		for slot := range v.Slots {
			if before[i].Slots[slot] == id && v.State == chunkstore.VolumeSealed && returned < rebalance.DefaultAway {
				v.Home[slot] = id
				if _, err := p.store.UpdateVolume(t.Context(), v); err != nil {
					t.Fatal(err)
				}
				returned++
			}
		}
	}
	if returned == 0 {
		t.Fatal("the drive held no slot")
	}
	for range 2 {
		if r, err := p.repair.RunOnce(t.Context()); err != nil || r.UnderProtected != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	f.settle(p)
	f.wantWhole(p, bodies)
	// Even with a row that names it already, as an earlier version left it, the shards are rebuilt.
	for i, v := range f.All()[:len(before)] {
		if slot := slotOf(before[i], id); slot >= 0 && v.State == chunkstore.VolumeSealed {
			v.Home[slot], v.Slots[slot] = id, id
			if _, err := p.store.UpdateVolume(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	other := f.join()
	for range 3 {
		if _, err := other.repair.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := other.repair.Progress().UnderProtected; n == 0 {
		t.Fatal("shards that a drive refuses are not missed")
	}
	f.settle(other)
	f.wantWhole(other, bodies)
}

func slotOf(v chunkstore.Volume, id cluster.DriveID) int {
	for i := range v.Slots {
		if v.Slots[i] == id {
			return i
		}
	}
	return -1
}
