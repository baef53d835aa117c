package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// clock is a time that only tests move.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// stale is two peers of which the second has cached the row of a volume, and the first then moved slots of it.
type stale struct {
	*storetest.Peers
	mover, other  *storetest.Peer
	body          []byte
	written       chunkstore.Written
	before, after chunkstore.Volume
}

func newStale(t *testing.T, change func(*chunkstore.Config), slots ...int) *stale {
	t.Helper()
	ps := storetest.NewPeers(t, 2, 24, change)
	s := &stale{Peers: ps, mover: ps.All[0], other: ps.All[1], body: storetest.Body(1, 2*row+12345)}
	s.written = s.mover.Write(s.body)
	s.other.Want(s.written, s.body)
	if len(slots) > 0 {
		s.move(slots...)
	}
	return s
}

func (s *stale) chunk() chunkstore.Chunk { return s.written.Chunks[0] }

func (s *stale) move(slots ...int) {
	s.T.Helper()
	s.before = s.Row(s.chunk().Volume)
	s.after = s.Move(s.mover, s.chunk().Volume, slots...)
	if s.after.Epoch <= s.before.Epoch || s.after.Slots == s.before.Slots {
		s.T.Fatalf("nothing moved: %+v", s.after)
	}
}

// shards counts what all drives hold.
func (s *stale) shards() int64 {
	var n int64
	for _, d := range s.Drives {
		n += d.Status().Shards
	}
	return n
}

var everySlot = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}

// TestReadsFollowMovedSlots: from one slot moved, where the others rebuild it, to all, where nothing is where the cached
// row says.
func TestReadsFollowMovedSlots(t *testing.T) {
	for n := 1; n <= chunkstore.Shards; n++ {
		s := newStale(t, nil, everySlot[:n]...)
		s.other.Want(s.written, s.body)
		rebuilt := s.other.Store.Stats().Rebuilt
		if n <= 4 && rebuilt == 0 {
			t.Fatalf("%d slots moved: the cached row was not old", n)
		}
		s.other.Want(s.written, s.body)
		if again := s.other.Store.Stats().Rebuilt; again != rebuilt {
			t.Fatalf("%d slots moved: the second read went by the old row, too", n)
		}
		if mask := s.Volumes.Intent(s.chunk()); mask != 0 {
			t.Fatalf("%d slots moved: shards %012b were reported missing", n, mask)
		}
	}
}

// TestReadsLearnOfDrivesThatLeft: the slots of a drive that this peer does not know, or that is down, moved. Nothing is
// missing on a drive that answers, so only the age of the row tells.
func TestReadsLearnOfDrivesThatLeft(t *testing.T) {
	for _, how := range []struct {
		name string
		wait time.Duration
		gone func(s *stale, id cluster.DriveID)
	}{
		{"unknown", 2 * time.Second, func(s *stale, id cluster.DriveID) { s.other.Set.Remove(id) }},
		{"down", time.Minute, func(s *stale, id cluster.DriveID) { s.Drive(id).Down(errDevice) }},
	} {
		t.Run(how.name, func(t *testing.T) {
			var c clock
			s := newStale(t, func(config *chunkstore.Config) { config.Now = c.now }, 0)
			how.gone(s, s.before.Slots[0])
			s.other.Want(s.written, s.body)
			rebuilt := s.other.Store.Stats().Rebuilt
			if rebuilt == 0 {
				t.Fatal("the cached row was not old")
			}
			c.advance(how.wait)
			s.other.Want(s.written, s.body)
			if again := s.other.Store.Stats().Rebuilt; again != rebuilt {
				t.Fatal("the read still goes by the old row")
			}
		})
	}
}

// countingVolumes counts reads of rows, and fails them while broken is set.
type countingVolumes struct {
	chunkstore.Volumes
	reads  atomic.Int64
	broken atomic.Bool
}

func (v *countingVolumes) Volume(ctx context.Context, id chunkstore.VolumeID) (chunkstore.Volume, error) {
	v.reads.Add(1)
	if v.broken.Load() {
		return chunkstore.Volume{}, errors.New("no leader")
	}
	return v.Volumes.Volume(ctx, id)
}

// TestDownDrivesCostFewRowReads: a drive that is down makes reads look at the row again, but seldom, and where the rows
// cannot be read the cached one serves.
func TestDownDrivesCostFewRowReads(t *testing.T) {
	var c clock
	counting := &countingVolumes{}
	s := newStale(t, func(config *chunkstore.Config) {
		config.Now = c.now
		if config.Self == (cluster.PeerID{2}) {
			counting.Volumes = config.Volumes
			config.Volumes = counting
		}
	})
	s.Drives[0].Down(errDevice)
	id := s.Row(s.chunk().Volume).Slots[3]
	s.other.Set.Remove(id)
	before := counting.reads.Load()
	for range 600 { // a minute
		s.other.Want(s.written, s.body[:row])
		c.advance(100 * time.Millisecond)
	}
	if n := counting.reads.Load() - before; n < 30 || n > 60 {
		t.Errorf("a drive that is not there made a minute of reads look at the row %d times", n)
	}
	counting.broken.Store(true)
	before = counting.reads.Load()
	for range 20 {
		s.other.Want(s.written, s.body)
		c.advance(time.Second / 2)
	}
	if counting.reads.Load() == before {
		t.Error("the rows were not asked for")
	}
}

// TestDeletesGoByTheRowAsItIs: a slot that the cached row does not know holds nothing of what was deleted.
func TestDeletesGoByTheRowAsItIs(t *testing.T) {
	s := newStale(t, nil, 2, 7, 11)
	if s.shards() == 0 {
		t.Fatal("nothing was there")
	}
	left, err := s.other.Store.Delete(t.Context(), s.written.Chunks)
	if err != nil || len(left) != 0 {
		t.Fatalf("left %d, %v", len(left), err)
	}
	if n := s.shards(); n != 0 {
		t.Fatalf("drives still hold %d shards", n)
	}
}

// TestDeletesWaitForSlotsOfTheRowAsItIs: a moved slot that does not answer keeps the chunk in the list of what is left.
func TestDeletesWaitForSlotsOfTheRowAsItIs(t *testing.T) {
	s := newStale(t, nil, 5)
	s.Drive(s.after.Slots[5]).Down(errDevice)
	left, err := s.other.Store.Delete(t.Context(), s.written.Chunks)
	if err == nil || len(left) != len(s.written.Chunks) {
		t.Fatalf("left %d of %d, %v", len(left), len(s.written.Chunks), err)
	}
	s.Drive(s.after.Slots[5]).Return()
	if left, err = s.other.Store.Delete(t.Context(), left); err != nil || len(left) != 0 {
		t.Fatalf("left %d, %v", len(left), err)
	}
	if n := s.shards(); n != 0 {
		t.Fatalf("drives still hold %d shards", n)
	}
}

func TestChecksGoByTheRowAsItIs(t *testing.T) {
	s := newStale(t, nil, everySlot...)
	r, err := s.other.Store.Check(t.Context(), s.chunk())
	if err != nil || r.Good != allMask {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestChecksSeeMovesUnderWay: a slot moves while it is checked.
func TestChecksSeeMovesUnderWay(t *testing.T) {
	s := newStale(t, nil)
	slow := s.Drive(s.Row(s.chunk().Volume).Slots[9])
	release := slow.Hang(memory.OpHeader)
	type answer struct {
		r   chunkstore.CheckResult
		err error
	}
	checked := make(chan answer, 1)
	go func() {
		r, err := s.other.Store.Check(context.WithoutCancel(t.Context()), s.chunk())
		checked <- answer{r, err}
	}()
	s.Eventually("the check waits for the drive", func() bool { return slow.Fired(memory.OpHeader) > 0 })
	s.move(4, 9)
	release()
	if a := <-checked; a.err != nil || a.r.Good != allMask {
		t.Fatalf("%+v, %v", a.r, a.err)
	}
}

// TestRestoresGoByTheRowAsItIs: repair that holds an old row neither writes nor vouches for anything.
func TestRestoresGoByTheRowAsItIs(t *testing.T) {
	s := newStale(t, nil, 3)
	puts := func() (n int) {
		for _, d := range s.Drives {
			n += d.Calls(memory.OpPut)
		}
		return n
	}
	before := puts()
	c := s.chunk()
	// Slot 3 of the old row lacks the shard; slot 4 holds it, but that is for the new row to say.
	for _, slot := range []int{3, 4} {
		err := s.other.Store.Restore(t.Context(), c, slot, s.before, s.before.Slots[slot])
		if !errors.Is(err, chunkstore.ErrStaleVolume) {
			t.Fatalf("slot %d by the old row: %v", slot, err)
		}
	}
	if n := puts(); n != before {
		t.Fatalf("%d shards were put by an old row", n-before)
	}
	if !s.Drive(s.after.Slots[3]).Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 3}) {
		t.Fatal("the moved shard is not where the row says")
	}
	if err := s.other.Store.Restore(t.Context(), c, 3, s.after, s.after.Slots[3]); err != nil {
		t.Fatal(err)
	}
	old := s.before
	old.Slots[8] = s.Drives[23].ID()
	if _, err := s.other.Store.UpdateVolume(t.Context(), old); !errors.Is(err, chunkstore.ErrStaleVolume) {
		t.Fatalf("a row of an old epoch was changed: %v", err)
	}
}

// TestRestoreDoesNotVouchForASlotThatMovedMeanwhile: the row changes between the look at it and the put.
func TestRestoreDoesNotVouchForASlotThatMovedMeanwhile(t *testing.T) {
	s := newStale(t, nil)
	c := s.chunk()
	v, err := s.other.Store.Seal(t.Context(), c.Volume)
	if err != nil {
		t.Fatal(err)
	}
	d := s.Drive(v.Slots[6])
	if !d.Lose(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 6}) {
		t.Fatal("no shard to lose")
	}
	release := d.Hang(memory.OpPut)
	restored := make(chan error, 1)
	go func() { restored <- s.other.Store.Restore(context.WithoutCancel(t.Context()), c, 6, v, v.Slots[6]) }()
	s.Eventually("the put is under way", func() bool { return d.Fired(memory.OpPut) > 0 })
	s.move(6)
	release()
	if err := <-restored; !errors.Is(err, chunkstore.ErrStaleVolume) {
		t.Fatal(err)
	}
	if n := d.Status().Shards; n != 0 {
		t.Fatalf("the drive that the slot left took %d shards by an old epoch", n)
	}
}

// TestWritersLeaveVolumesThatMoved: the owner of an open volume is thought to be gone; its volumes are sealed and moved
// while it writes on.
func TestWritersLeaveVolumesThatMoved(t *testing.T) {
	ps := storetest.NewPeers(t, 2, 24, nil)
	leader, writer := ps.All[0], ps.All[1]
	body := storetest.Body(3, 3*row)
	first := writer.Write(body)
	ps.Eventually("two volumes are open", func() bool { return openOf(ps, writer.ID) == 2 })
	err := leader.Store.SealAbandoned(t.Context(), func(owner cluster.PeerID) bool { return owner == writer.ID })
	if err != nil {
		t.Fatal(err)
	}
	if n := openOf(ps, writer.ID); n != 0 {
		t.Fatalf("%d volumes of a peer that is gone are open", n)
	}
	sealed := ps.Volumes.All()
	for _, v := range sealed {
		ps.Move(leader, v.ID, 0, 1, 2, 3, 4)
	}
	second := writer.Write(body)
	for _, v := range sealed {
		if second.Chunks[0].Volume == v.ID {
			t.Fatalf("the chunk went to sealed volume %d", v.ID)
		}
	}
	if writer.Store.Stats().Retried == 0 {
		t.Fatal("no chunk was sent again: the seal did not bite")
	}
	for _, p := range ps.All {
		p.Want(first, body)
		p.Want(second, body)
	}
}

func openOf(ps *storetest.Peers, owner cluster.PeerID) int {
	n := 0
	for _, v := range ps.Volumes.All() {
		if v.State == chunkstore.VolumeOpen && v.Owner == owner {
			n++
		}
	}
	return n
}

// TestSealsAtTheSameTimeAgree: all peers seal the same volume, one of them its owner.
func TestSealsAtTheSameTimeAgree(t *testing.T) {
	ps := storetest.NewPeers(t, 3, 12, nil)
	w := ps.All[1].Write(storetest.Body(4, row))
	answers := make(chan error, 12)
	for range 4 {
		for _, p := range ps.All {
			go func() {
				_, err := p.Store.Seal(context.WithoutCancel(t.Context()), w.Chunks[0].Volume)
				answers <- err
			}()
		}
	}
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if v := ps.Row(w.Chunks[0].Volume); v.State != chunkstore.VolumeSealed || v.Epoch != 2 {
		t.Fatalf("%+v", v)
	}
}

// TestDamageIsRecordedAgainAfterAnotherRepairedIt: the Store that found it is not told of the repair.
func TestDamageIsRecordedAgainAfterAnotherRepairedIt(t *testing.T) {
	var c clock
	s := newStale(t, func(config *chunkstore.Config) { config.Now = c.now })
	key := chunkstore.ShardKey{Volume: s.chunk().Volume, Chunk: s.chunk().ID, Shard: 1}
	d := s.Drive(s.Row(key.Volume).Slots[1])
	for round := range 2 {
		if !d.Damage(key, 7) {
			t.Fatal("no shard to damage")
		}
		s.other.Want(s.written, s.body)
		s.Eventually("the damage is recorded", func() bool { return s.Volumes.Intent(s.chunk()) == 1<<1 })
		if err := s.mover.Store.Restore(t.Context(), s.chunk(), 1, s.Row(key.Volume), d.ID()); err != nil {
			t.Fatal(round, err)
		}
		if err := s.Volumes.ResolveIntent(t.Context(), s.chunk()); err != nil {
			t.Fatal(err)
		}
		c.advance(11 * time.Minute)
	}
}

// TestPeersKeepToTheirOwnVolumes: each opens, uses again and seals at start what it opened itself, and nothing else.
func TestPeersKeepToTheirOwnVolumes(t *testing.T) {
	ps := storetest.NewPeers(t, 3, 12, nil)
	body := storetest.Body(5, row)
	for _, p := range ps.All {
		w := p.Write(body)
		if owner := ps.Row(w.Chunks[0].Volume).Owner; owner != p.ID {
			t.Fatalf("%v wrote to a volume of %v", p.ID, owner)
		}
		ps.Eventually("two volumes are open", func() bool { return openOf(ps, p.ID) == 2 })
	}
	for _, p := range ps.All {
		p.Restart()
		w := p.Write(body)
		if owner := ps.Row(w.Chunks[0].Volume).Owner; owner != p.ID {
			t.Fatalf("after its restart %v wrote to a volume of %v", p.ID, owner)
		}
		p.Want(w, body)
	}
	if n := len(ps.Volumes.All()); n != 6 {
		t.Fatalf("%d volumes after the restarts, want 6", n)
	}
	// One restarts where a drive is missing: it seals its own two, and those only.
	ps.All[0].Set.Remove(ps.Drives[4].ID())
	ps.All[0].Restart()
	w := ps.All[0].Write(body)
	ps.Eventually("its old volumes are sealed", func() bool {
		for _, v := range ps.Volumes.All() {
			if v.Owner == ps.All[0].ID && v.Slots == v.Home && v.State == chunkstore.VolumeOpen {
				return false
			}
		}
		return true
	})
	for _, p := range ps.All[1:] {
		if n := openOf(ps, p.ID); n != 2 {
			t.Fatalf("%v has %d open volumes left", p.ID, n)
		}
		p.Want(w, body)
	}
}

// TestVolumesWithoutOwnerAreSealed: rows of a time when there was one peer only. Nobody knows who still writes to them,
// and it does not matter.
func TestVolumesWithoutOwnerAreSealed(t *testing.T) {
	for _, how := range []string{"by the first write of a peer", "as abandoned"} {
		t.Run(how, func(t *testing.T) {
			ps := storetest.NewPeers(t, 2, 12, func(c *chunkstore.Config) {
				if c.Self == (cluster.PeerID{1}) {
					c.Self = cluster.PeerID{} // a process of before
				}
			})
			old, now := ps.All[0], ps.All[1]
			body := storetest.Body(6, row)
			w := old.Write(body)
			ps.Eventually("two volumes are open", func() bool { return openOf(ps, cluster.PeerID{}) == 2 })
			if how == "as abandoned" {
				asked := false
				if err := now.Store.SealAbandoned(t.Context(), func(cluster.PeerID) bool { asked = true; return false }); err != nil || asked {
					t.Fatal(asked, err)
				}
			} else {
				now.Write(body)
			}
			ps.Eventually("they are sealed", func() bool {
				row := ps.Row(w.Chunks[0].Volume)
				return row.State == chunkstore.VolumeSealed && openOf(ps, cluster.PeerID{}) == 0
			})
			now.Want(w, body)
			if again := old.Write(body); again.Chunks[0].Volume == w.Chunks[0].Volume {
				t.Fatal("the old process wrote to the sealed volume")
			}
		})
	}
}

// TestSealAbandonedSealsNothingElse: volumes of peers that live, its own ones whatever it is told, and what cannot be
// sealed now is left and named.
func TestSealAbandonedSealsNothingElse(t *testing.T) {
	ps := storetest.NewPeers(t, 3, 12, nil)
	body := storetest.Body(7, row)
	for _, p := range ps.All {
		p.Write(body)
		ps.Eventually("two volumes are open", func() bool { return openOf(ps, p.ID) == 2 })
	}
	leader := ps.All[0]
	gone := func(owner cluster.PeerID) bool { return owner != ps.All[1].ID }
	for _, l := range leader.Links[:10] {
		l.Cut(true)
	}
	if err := leader.Store.SealAbandoned(t.Context(), gone); !errors.Is(err, chunkstore.ErrDriveDown) {
		t.Fatalf("sealed with two slots: %v", err)
	}
	if n := openOf(ps, ps.All[2].ID); n != 2 {
		t.Fatalf("%d rows are open after drives refused to seal two", n)
	}
	for _, l := range leader.Links {
		l.Cut(false)
	}
	if err := leader.Store.SealAbandoned(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 2, 0} {
		if n := openOf(ps, ps.All[i].ID); n != want {
			t.Errorf("peer %d has %d open volumes, want %d", i+1, n, want)
		}
	}
	w, err := ps.All[2].Store.Write(t.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: row})
	if err != nil {
		t.Fatal(err)
	}
	leader.Want(w, body)
}
