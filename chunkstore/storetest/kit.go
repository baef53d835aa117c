package storetest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// patient is a deadline that a busy machine does not miss. Tests of drives that hang set a shorter one.
const patient = 20 * time.Second

// Kit is a Store over memory drives.
type Kit struct {
	T       testing.TB
	Drives  []*memory.Drive
	Set     *chunkstore.Drives
	Volumes *Volumes
	Config  chunkstore.Config
	Store   *chunkstore.Store
}

// New returns a Store over n memory drives and closes it when the test ends. change, when not nil, edits the
// configuration before the Store is made.
func New(t testing.TB, n int, change func(*chunkstore.Config)) *Kit {
	t.Helper()
	k := &Kit{T: t, Set: chunkstore.NewDrives()}
	drives, groups := memoryDrives(t, n)
	k.Drives = drives
	for _, d := range drives {
		if err := k.Set.Add(d); err != nil {
			t.Fatal(err)
		}
	}
	k.Volumes = NewVolumes(groups)
	k.Config = chunkstore.Config{
		Volumes: k.Volumes, Drives: k.Set, Memory: 64 << 20, Log: slog.New(slog.DiscardHandler),
		PutDeadline: patient, ReadDeadline: patient,
	}
	if change != nil {
		change(&k.Config)
	}
	k.Restart()
	t.Cleanup(func() {
		k.closeStore()
		for _, d := range k.Drives {
			if err := d.Close(); err != nil {
				t.Errorf("close drive: %v", err)
			}
		}
	})
	return k
}

// memoryDrives returns n empty drives and the placement groups over them.
func memoryDrives(t testing.TB, n int) ([]*memory.Drive, []chunkstore.Group) {
	t.Helper()
	var drives []*memory.Drive
	var places []placement.Drive
	for i := range n {
		id := cluster.DriveID{0: byte(i), 15: 1}
		drives = append(drives, memory.New(id))
		places = append(places, placement.Drive{ID: id})
	}
	slots, err := placement.Groups(places, placement.Count(n))
	if err != nil {
		t.Fatal(err)
	}
	var groups []chunkstore.Group
	for i, s := range slots {
		groups = append(groups, chunkstore.Group{ID: uint32(i), Slots: s})
	}
	return drives, groups
}

// Restart closes the Store and makes a new one over the same drives and rows, as a restart of the process does.
func (k *Kit) Restart() {
	k.T.Helper()
	if k.Store != nil {
		k.closeStore()
	}
	s, err := chunkstore.NewStore(k.Config)
	if err != nil {
		k.T.Fatal(err)
	}
	k.Store = s
}

func (k *Kit) closeStore() {
	k.T.Helper()
	if err := k.Store.Close(); err != nil {
		k.T.Errorf("close store: %v", err)
	}
}

// Body returns size bytes that depend on seed.
func Body(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	body := make([]byte, size)
	rand.NewChaCha8(key).Read(body)
	return body
}

// Write stores a body and fails the test when that fails.
func (k *Kit) Write(body []byte) chunkstore.Written {
	k.T.Helper()
	w, err := k.Store.Write(k.T.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: int64(len(body))})
	if err != nil {
		k.T.Fatalf("write %d bytes: %v", len(body), err)
	}
	return w
}

// Refs returns references to whole chunks.
func Refs(chunks []chunkstore.Chunk) []chunkstore.Ref {
	refs := make([]chunkstore.Ref, len(chunks))
	for i, c := range chunks {
		refs[i] = chunkstore.Ref{Chunk: c, Len: c.Size}
	}
	return refs
}

// Read reads a span of the chunks.
func (k *Kit) Read(chunks []chunkstore.Chunk, off, n int64) ([]byte, error) {
	r := k.Store.Read(k.T.Context(), Refs(chunks), off, n)
	body, err := io.ReadAll(r)
	if e := r.Close(); err == nil {
		err = e
	}
	return body, err
}

// Want reads all of a body back and fails the test when it differs.
func (k *Kit) Want(w chunkstore.Written, body []byte) {
	k.T.Helper()
	got, err := k.Read(w.Chunks, 0, int64(len(body)))
	if err != nil {
		k.T.Fatalf("read %d bytes: %v", len(body), err)
	}
	if !bytes.Equal(got, body) {
		k.T.Fatalf("read %d bytes: they differ from what was written", len(body))
	}
}

// Remove takes drives out of the registry; Return brings them back.
func (k *Kit) Remove(drives ...int) {
	k.T.Helper()
	for _, i := range drives {
		if k.Set.Remove(k.Drives[i].ID()) == nil {
			k.T.Fatalf("drive %d was not registered", i)
		}
	}
}

// Return brings removed drives back.
func (k *Kit) Return(drives ...int) {
	k.T.Helper()
	for _, i := range drives {
		if err := k.Set.Add(k.Drives[i]); err != nil {
			k.T.Fatal(err)
		}
	}
}

// Drive returns the drive of that id.
func (k *Kit) Drive(id cluster.DriveID) *memory.Drive {
	k.T.Helper()
	for _, d := range k.Drives {
		if d.ID() == id {
			return d
		}
	}
	k.T.Fatalf("no drive %v", id)
	return nil
}

// Slots returns the drives that hold the shards of a chunk now.
func (k *Kit) Slots(c chunkstore.Chunk) [chunkstore.Shards]*memory.Drive {
	k.T.Helper()
	v, err := k.Volumes.Volume(context.Background(), c.Volume)
	if err != nil {
		k.T.Fatal(err)
	}
	var drives [chunkstore.Shards]*memory.Drive
	for i, id := range v.Slots {
		drives[i] = k.Drive(id)
	}
	return drives
}

// Eventually polls ok until it holds, and fails the test when it does not within ten seconds.
func (k *Kit) Eventually(what string, ok func() bool) {
	k.T.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			k.T.Fatalf("not within 10 s: %s", what)
		}
	}
}
