package chunkstore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// TestNewVolumesGoAroundDrivesThatLeave: as long as six others are healthy, a drive that is drained gets no slot, not
// even to double up on for one that is down. Its place in the group is no reason to replace the volume again and again.
func TestNewVolumesGoAroundDrivesThatLeave(t *testing.T) {
	var c clock
	var leaving []cluster.DriveID
	k := storetest.New(t, 12, func(config *chunkstore.Config) {
		config.Now = c.now
		config.Leaving = func(id cluster.DriveID) bool { return slices.Contains(leaving, id) }
	})
	for _, d := range k.Drives[:3] {
		leaving = append(leaving, d.ID())
	}
	k.Drives[3].Down(errors.New("cable"))
	body := storetest.Body(1, row)
	avoids := func(w chunkstore.Written) chunkstore.VolumeID {
		t.Helper()
		k.Want(w, body)
		v, err := k.Volumes.Volume(t.Context(), w.Chunks[0].Volume)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range append(leaving, k.Drives[3].ID()) {
			if slices.Contains(v.Slots[:], id) {
				t.Fatalf("drive %v got a slot of %+v", id, v)
			}
		}
		return v.ID
	}
	avoids(k.Write(body))
	k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	k.Drives[3].Return()
	for range 5 { // the volumes make way for one that has a slot on the drive which is back; that one stays
		c.advance(time.Minute)
		k.Write(body)
		k.Eventually("two volumes are open", func() bool { return open(k) == 2 })
	}
	rows := len(k.Volumes.All())
	for range 5 {
		c.advance(time.Minute)
		k.Want(k.Write(body), body)
	}
	if n := len(k.Volumes.All()); n != rows {
		t.Fatalf("%d volumes were opened although nothing changed", n-rows)
	}
	// Where too few stay, writing to a drive that leaves is better than not to write.
	for _, d := range k.Drives[3:9] {
		d.Down(errors.New("cable"))
	}
	k.Want(k.Write(body), body)
}

// TestAVolumeThatWaitsToMoveIsNotUnderProtected, and one that is doubled up is.
func TestAVolumeThatWaitsToMoveIsNotUnderProtected(t *testing.T) {
	k := storetest.New(t, 13, nil)
	under := func() int {
		t.Helper()
		h, err := k.Store.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h.UnderVolumes
	}
	w := k.Write(storetest.Body(2, row))
	v, err := k.Store.Seal(t.Context(), w.Chunks[0].Volume)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range k.Drives {
		if !slices.Contains(v.Slots[:], d.ID()) {
			v.Home[3] = d.ID()
		}
	}
	if v, err = k.Store.UpdateVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if n := under(); n != 0 || v.Slots == v.Home {
		t.Fatalf("%d volumes are under-protected, want none", n)
	}
	v.Slots[3] = v.Slots[4]
	if _, err = k.Store.UpdateVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if n := under(); n != 1 {
		t.Fatalf("%d volumes are under-protected, want the one that is doubled up", n)
	}
}
