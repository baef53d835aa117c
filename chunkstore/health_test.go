package chunkstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// place says where drive i of a cluster lies.
type place struct {
	peer       int
	device     uint64
	rack, zone string
}

func (p place) domains() chunkstore.Domains {
	return chunkstore.Domains{Peer: cluster.PeerID{byte(p.peer + 1)}, Rack: p.rack, Zone: p.zone}
}

// TestHealthTellsTheLossesOfEveryDomainTruly kills sets of as many drives, devices, peers, racks or zones as Health
// says may be lost, and reads everything; with one more, some set must be fatal.
func TestHealthTellsTheLossesOfEveryDomainTruly(t *testing.T) {
	for _, drives := range []int{6, 7, 8, 10, 11, 12, 15} {
		for _, peers := range []int{1, 2, 3, 4, 5, 8, 12} {
			if peers > drives {
				continue
			}
			t.Run(fmt.Sprintf("%d drives on %d peers", drives, peers), func(t *testing.T) {
				places := make([]place, drives)
				for i := range places {
					p := i % peers
					places[i] = place{p, uint64(i / peers / 2), fmt.Sprint("r", p%4), fmt.Sprint("z", p%3)}
				}
				healthIsTrue(t, places)
			})
		}
	}
}

func healthIsTrue(t *testing.T, places []place) {
	k := storetest.New(t, len(places), func(c *chunkstore.Config) {
		c.Domains = func(id cluster.DriveID) chunkstore.Domains { return places[id[0]].domains() }
	})
	for i, d := range k.Drives {
		d.SetPlace("", places[i].device)
	}
	empty, err := k.Store.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body := storetest.Body(1, 8*4096) // bytes on all eight data shards
	stored := oneInEveryVolume(k, body)
	h, err := k.Store.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if empty.DriveLosses != h.DriveLosses || empty.PeerLosses < 0 {
		t.Errorf("a write gets %d drive losses, was told %d", h.DriveLosses, empty.DriveLosses)
	}
	for _, level := range []struct {
		name string
		told int
		of   func(i int) string
	}{
		{"drives", h.DriveLosses, func(i int) string { return fmt.Sprint(i) }},
		{"devices", h.DeviceLosses, func(i int) string { return fmt.Sprint(places[i].peer, places[i].device) }},
		{"peers", h.PeerLosses, func(i int) string { return fmt.Sprint(places[i].peer) }},
		{"racks", h.RackLosses, func(i int) string { return places[i].zone + places[i].rack }},
		{"zones", h.ZoneLosses, func(i int) string { return places[i].zone }},
	} {
		in := make(map[string][]int)
		var names []string
		for i := range places {
			if in[level.of(i)] == nil {
				names = append(names, level.of(i))
			}
			in[level.of(i)] = append(in[level.of(i)], i)
		}
		if len(names) == 1 && level.told != 0 {
			t.Errorf("there is one of the %s and %d may be lost", level.name, level.told)
		}
		fatal := 0
		for _, mask := range setsOf(len(names), level.told, level.told+1) {
			var lost []int
			for i, name := range names {
				if mask>>i&1 != 0 {
					lost = append(lost, in[name]...)
				}
			}
			k.Remove(lost...)
			err := readAll(k, stored, body)
			k.Return(lost...)
			switch {
			case errors.Is(err, errWrongBytes):
				t.Fatal(err)
			case err != nil && bits.OnesCount(uint(mask)) == level.told:
				t.Fatalf("%d %s may be lost, and without drives %v: %v", level.told, level.name, lost, err)
			case err != nil:
				fatal++
			}
		}
		if fatal == 0 {
			t.Errorf("%d %s may be lost, and %d as well", level.told, level.name, level.told+1)
		}
	}
}

// maxSets keeps the test short where there are thousands of sets; the fatal ones of those are a good part.
const maxSets = 250

// setsOf returns the sets of n things, as masks, that have one of two sizes: all, or every so many.
func setsOf(n int, sizes ...int) []int {
	var sets []int
	for mask := range 1 << n {
		if slices.Contains(sizes, bits.OnesCount(uint(mask))) {
			sets = append(sets, mask)
		}
	}
	step := 1 + len(sets)/maxSets
	var some []int
	for i := 0; i < len(sets); i += step {
		some = append(some, sets[i])
	}
	return some
}

var errWrongBytes = errors.New("wrong bytes")

func readAll(k *storetest.Kit, stored []chunkstore.Written, body []byte) error {
	for _, w := range stored {
		got, err := k.Read(w.Chunks, 0, w.Size)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, body) {
			return errWrongBytes
		}
	}
	return nil
}

// oneInEveryVolume writes a body of one chunk until there is one in each of the volumes that are open together.
func oneInEveryVolume(k *storetest.Kit, body []byte) []chunkstore.Written {
	k.T.Helper()
	k.Write(body)
	k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	var mu sync.Mutex
	in := make(map[chunkstore.VolumeID]chunkstore.Written)
	k.Eventually("chunks are in both", func() bool {
		var wait sync.WaitGroup
		for range 4 { // at once, for the least busy volume takes the next chunk
			wait.Go(func() {
				w, err := k.Store.Write(k.T.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: -1})
				if err != nil {
					k.T.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				in[w.Chunks[0].Volume] = w
			})
		}
		wait.Wait()
		return len(in) == 2
	})
	return slices.Collect(maps.Values(in))
}

// TestVolumesSpreadOverDomains: the drives that stand in for dead ones are chosen by the domains that the Store is told.
func TestVolumesSpreadOverDomains(t *testing.T) {
	// Twelve drives on six peers; two of each peer would be even, and peers 0 and 1 lose one each.
	k := storetest.New(t, 12, func(c *chunkstore.Config) {
		c.Domains = func(id cluster.DriveID) chunkstore.Domains {
			return chunkstore.Domains{Peer: cluster.PeerID{1 + id[0]/2}}
		}
	})
	k.Remove(0, 2)
	w := k.Write(storetest.Body(1, 1000))
	slots := make(map[byte]int)
	for _, id := range k.Volumes.All()[0].Slots {
		slots[id[0]/2]++
	}
	for peer, n := range slots {
		if n != 2 {
			t.Errorf("peer %d holds %d of the slots: %v", peer, n, slots)
		}
	}
	h, err := k.Store.Health(t.Context())
	if err != nil || h.PeerLosses != 2 || len(w.Chunks) != 1 {
		t.Errorf("peer losses %d, %v", h.PeerLosses, err)
	}
}
