package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/cluster"
)

// Peers are several Stores over one set of memory drives and one set of rows, as the gateways of a cluster are.
type Peers struct {
	T       testing.TB
	Drives  []*memory.Drive
	Volumes *Volumes
	All     []*Peer
}

// Peer is one of them. It reaches each drive by a link of its own.
type Peer struct {
	ID     cluster.PeerID
	Set    *chunkstore.Drives
	Links  []*Link
	Config chunkstore.Config
	Store  *chunkstore.Store

	t testing.TB
}

// NewPeers returns so many Stores over n memory drives and closes them when the test ends. change, when not nil, edits
// the configuration of each before its Store is made.
func NewPeers(t testing.TB, peers, n int, change func(*chunkstore.Config)) *Peers {
	t.Helper()
	ps := &Peers{T: t}
	drives, groups := memoryDrives(t, n)
	ps.Drives = drives
	ps.Volumes = NewVolumes(groups)
	for i := range peers {
		p := &Peer{ID: cluster.PeerID{0: byte(i + 1)}, Set: chunkstore.NewDrives(), t: t}
		for _, d := range drives {
			l := &Link{Drive: d}
			p.Links = append(p.Links, l)
			if err := p.Set.Add(l); err != nil {
				t.Fatal(err)
			}
		}
		p.Config = chunkstore.Config{
			Volumes: ps.Volumes, Drives: p.Set, Self: p.ID, Memory: 48 << 20, Log: slog.New(slog.DiscardHandler),
			PutDeadline: patient, ReadDeadline: patient,
		}
		if change != nil {
			change(&p.Config)
		}
		p.Restart()
		ps.All = append(ps.All, p)
	}
	t.Cleanup(func() {
		for _, p := range ps.All {
			p.close()
		}
		for _, d := range drives {
			if err := d.Close(); err != nil {
				t.Errorf("close drive: %v", err)
			}
		}
	})
	return ps
}

// Restart closes the Store and makes a new one, as a restart of the process does.
func (p *Peer) Restart() {
	p.t.Helper()
	if p.Store != nil {
		p.close()
	}
	s, err := chunkstore.NewStore(p.Config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Store = s
}

func (p *Peer) close() {
	p.t.Helper()
	if err := p.Store.Close(); err != nil {
		p.t.Errorf("close store: %v", err)
	}
}

// Write stores a body and fails the test when that fails.
func (p *Peer) Write(body []byte) chunkstore.Written {
	p.t.Helper()
	w, err := p.Store.Write(p.t.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: int64(len(body))})
	if err != nil {
		p.t.Fatalf("write %d bytes: %v", len(body), err)
	}
	return w
}

// Verify reads all of a body back. The error says why it could not, or that it differs.
func (p *Peer) Verify(ctx context.Context, chunks []chunkstore.Chunk, body []byte) error {
	r := p.Store.Read(ctx, Refs(chunks), 0, int64(len(body)))
	got, err := io.ReadAll(r)
	if e := r.Close(); err == nil {
		err = e
	}
	if err == nil && !bytes.Equal(got, body) {
		err = fmt.Errorf("%d bytes differ from what was written", len(body))
	}
	return err
}

// Want reads all of a body back and fails the test when it differs.
func (p *Peer) Want(w chunkstore.Written, body []byte) {
	p.t.Helper()
	if err := p.Verify(p.t.Context(), w.Chunks, body); err != nil {
		p.t.Fatal(err)
	}
}

// Row returns the row of a volume as it is.
func (ps *Peers) Row(id chunkstore.VolumeID) chunkstore.Volume {
	ps.T.Helper()
	v, err := ps.Volumes.Volume(context.Background(), id)
	if err != nil {
		ps.T.Fatal(err)
	}
	return v
}

// Drive returns the drive of that id.
func (ps *Peers) Drive(id cluster.DriveID) *memory.Drive {
	ps.T.Helper()
	at := slices.IndexFunc(ps.Drives, func(d *memory.Drive) bool { return d.ID() == id })
	if at < 0 {
		ps.T.Fatalf("no drive %v", id)
	}
	return ps.Drives[at]
}

// Move lets a peer move slots of a volume to drives that have none, as repair and rebalance do: it seals the volume,
// copies what the slots hold, changes the row and deletes the copies at the old places. It returns the new row.
func (ps *Peers) Move(p *Peer, id chunkstore.VolumeID, slots ...int) chunkstore.Volume {
	ps.T.Helper()
	ctx := ps.T.Context()
	before, err := p.Store.Seal(ctx, id)
	if err != nil {
		ps.T.Fatal(err)
	}
	target := before
	for _, slot := range slots {
		at := slices.IndexFunc(ps.Drives, func(d *memory.Drive) bool {
			return !slices.Contains(target.Slots[:], d.ID()) && !slices.Contains(before.Slots[:], d.ID())
		})
		if at < 0 {
			ps.T.Fatal("no drive is free")
		}
		target.Slots[slot] = ps.Drives[at].ID()
		infos, err := p.Store.ShardsOn(ctx, before.Slots[slot], id)
		if err != nil {
			ps.T.Fatal(err)
		}
		for _, info := range infos {
			c := chunkstore.Chunk{Volume: id, ID: info.Key.Chunk, Size: info.Size, Digest: info.Digest}
			if err := p.Store.Restore(ctx, c, slot, before, target.Slots[slot]); err != nil {
				ps.T.Fatal(err)
			}
		}
	}
	after, err := p.Store.UpdateVolume(ctx, target)
	if err != nil {
		ps.T.Fatal(err)
	}
	for _, slot := range slots {
		infos, err := p.Store.ShardsOn(ctx, before.Slots[slot], id)
		if err != nil {
			ps.T.Fatal(err)
		}
		var old []chunkstore.ShardKey
		for _, info := range infos {
			old = append(old, info.Key)
		}
		if err := p.Store.DeleteOn(ctx, before.Slots[slot], old); err != nil {
			ps.T.Fatal(err)
		}
	}
	return after
}

// Eventually polls ok until it holds, and fails the test when it does not within ten seconds.
func (ps *Peers) Eventually(what string, ok func() bool) {
	ps.T.Helper()
	(&Kit{T: ps.T}).Eventually(what, ok)
}
