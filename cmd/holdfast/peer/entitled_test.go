package peer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	chunkremote "github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// driveOn is a drive of one peer as another has it.
func driveOn(t *testing.T, owner, caller *Peer, id cluster.DriveID) *chunkremote.Drive {
	t.Helper()
	d := chunkremote.New(callsTo(caller.core.Load().links.peers, owner.id()), base, id, chunkremote.Options{Cluster: owner.cluster, Peer: owner.id()})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// held is a shard on a drive.
type held struct {
	drive  cluster.DriveID
	header *chunkstore.Header
	cells  [][]byte
}

// heldOn finds a shard on a peer, in a volume that another one opened.
func heldOn(t *testing.T, on, opener *Peer) (found held) {
	t.Helper()
	err := chunkstore.EachVolume(t.Context(), on.core.Load().volumes(), func(v chunkstore.Volume) error {
		for _, slot := range v.Slots {
			d, here := on.ownDrive(slot)
			if v.Owner != opener.id() || !here || found.header != nil {
				continue
			}
			list, err := d.Shards(t.Context(), v.ID)
			if err != nil || len(list) == 0 {
				return err
			}
			if found.header, err = d.Header(t.Context(), list[0].Key); err != nil {
				return err
			}
			found.drive = slot
			chunk := chunkstore.Chunk{Volume: v.ID, ID: list[0].Key.Chunk, Size: list[0].Size, Digest: list[0].Digest}
			layout := found.header.Layout
			for row := range int64(layout.Rows) {
				cell := make([]byte, layout.Cell)
				if err := d.Read(t.Context(), chunk, list[0].Key.Shard, row*layout.Cell, cell); err != nil {
					return err
				}
				found.cells = append(found.cells, cell)
			}
		}
		return nil
	})
	if err != nil || found.header == nil {
		t.Fatalf("no shard of a volume of %s on %s: %v", opener.config.Name, on.config.Name, err)
	}
	return found
}

// TestAPeerChangesItsOwnVolumesOnly lets three peers change a volume that the second opened, on a drive of the first: the
// owner may, and who leads the names; the third may read it, and nothing else.
func TestAPeerChangesItsOwnVolumesOnly(t *testing.T) {
	t.Parallel()
	peers := []*Peer{start(t, vfs.NewMemory(1))}
	for n := 2; n <= 3; n++ {
		peers = append(peers, joinTo(t, peers[0], n, vfs.NewMemory(uint64(n))))
	}
	for _, p := range peers {
		defer stop(t, p)
	}
	voters(t, peers[0], 3)
	leader := peers[0]
	expect.Soon(t, "the first peer to lead the names", func() bool { return leader.core.Load().leadsNames(leader.id()) })
	owner, stranger := peers[1], peers[2]
	keep(t, owner, "a", testBody)

	// On a drive of the leader: its owner may, the stranger may not.
	shard := heldOn(t, leader, owner)
	header, cells, key := shard.header, shard.cells, shard.header.Key
	far := driveOn(t, leader, stranger, shard.drive)
	refusals := &leader.core.Load().entitled.refusals
	before := refusals.NotEntitled.Load()
	for call, err := range map[string]error{
		"put":    far.Put(t.Context(), header, cells),
		"delete": far.Delete(t.Context(), []chunkstore.ShardKey{key}),
		"seal":   far.Seal(t.Context(), key.Volume, header.Epoch+1),
	} {
		if !errors.Is(err, chunkremote.ErrNotEntitled) || !errors.Is(err, chunkstore.ErrDriveDown) {
			t.Errorf("%s of a stranger: %v", call, err)
		}
	}
	if got := refusals.NotEntitled.Load() - before; got != 3 {
		t.Errorf("%d refusals were counted", got)
	}
	if err := far.Check(t.Context(), key); err != nil {
		t.Errorf("the shard after that: %v", err)
	}
	unknown := *header
	unknown.Key.Volume = 1 << 60
	if err := far.Put(t.Context(), &unknown, cells); !errors.Is(err, chunkremote.ErrNotEntitled) {
		t.Errorf("a put into a volume that there is not: %v", err)
	}
	near := driveOn(t, leader, owner, shard.drive)
	if err := near.Put(t.Context(), header, cells); err != nil {
		t.Errorf("a put of the owner: %v", err)
	}
	stale := refusals.Stale.Load()
	if err := near.Seal(t.Context(), key.Volume, header.Epoch+1); err != nil {
		t.Errorf("a seal of the owner: %v", err)
	}
	late := *header
	late.Key.Chunk.Seq += 1000
	if err := near.Put(t.Context(), &late, cells); !errors.Is(err, chunkstore.ErrStaleVolume) {
		t.Errorf("a put of the owner with the epoch of before: %v", err)
	}
	if got := refusals.Stale.Load() - stale; got != 1 {
		t.Errorf("%d stale puts were counted", got)
	}

	// On a drive of the stranger who leads may, although the volume is another's.
	shard = heldOn(t, stranger, owner)
	theirs := driveOn(t, stranger, leader, shard.drive)
	for call, err := range map[string]error{
		"put":  theirs.Put(t.Context(), shard.header, shard.cells),
		"seal": theirs.Seal(t.Context(), shard.header.Key.Volume, shard.header.Epoch),
	} {
		if err != nil {
			t.Errorf("%s of the leader: %v", call, err)
		}
	}
	wantRead(t, stranger, "a", testBody)
}

// TestOwnersAreReadOnce counts how often the row of a volume is read, and what happens while it cannot be.
func TestOwnersAreReadOnce(t *testing.T) {
	reads := 0
	var trouble error
	e := &entitled{leads: func(cluster.PeerID) bool { return false }}
	if _, err := e.ownerOf(t.Context(), 7); !errors.Is(err, errNoNames) {
		t.Errorf("before there are names: %v", err)
	}
	read := func(context.Context, chunkstore.VolumeID) (cluster.PeerID, error) {
		reads++
		return cluster.PeerID{5}, trouble
	}
	e.owner.Store(&read)
	trouble = errors.New("nobody leads")
	for range 2 {
		if _, err := e.ownerOf(t.Context(), 7); !errors.Is(err, trouble) {
			t.Errorf("while nobody leads: %v", err)
		}
	}
	trouble = nil
	for range 3 {
		if owner, err := e.ownerOf(t.Context(), 7); err != nil || owner != (cluster.PeerID{5}) {
			t.Errorf("owner %v, %v", owner, err)
		}
	}
	if reads != 3 {
		t.Errorf("the row was read %d times", reads)
	}
	for id := range chunkstore.VolumeID(maxOwners + 10) {
		if _, err := e.ownerOf(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(e.owners); n > maxOwners {
		t.Errorf("%d owners are kept", n)
	}
}

// TestANewLeaderIsHeardOfBeforeItIsRefused has a peer do its work a second before this one hears that it leads.
func TestANewLeaderIsHeardOfBeforeItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		for after, want := range map[time.Duration]bool{time.Second: true, 3 * time.Second: false} {
			e := &entitled{leads: func(id cluster.PeerID) bool { return id == cluster.PeerID{1} && time.Since(begun) >= after }}
			begun = time.Now()
			if got := e.soonLeads(t.Context(), cluster.PeerID{1}); got != want || time.Since(begun) > leadPatience {
				t.Errorf("who leads after %v is heard of: %v, in %v", after, got, time.Since(begun))
			}
		}
		if got := fmt.Sprint(chunkremote.Put, chunkremote.Delete, chunkremote.Seal); got != "put delete seal" {
			t.Errorf("the changes are %s", got)
		}
	})
}
