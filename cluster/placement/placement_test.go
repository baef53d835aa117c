package placement_test

import (
	"errors"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// drives returns n drives, spread over peers and devices in turn.
func drives(n, peers, devices int) []placement.Drive {
	all := make([]placement.Drive, n)
	for i := range all {
		all[i].ID[0], all[i].ID[1] = byte(i), byte(i>>8)
		all[i].Peer[0] = byte(1 + i%peers)
		all[i].Device = uint64(i % devices)
	}
	return all
}

func counts[D comparable](slots placement.Slots, of func(cluster.DriveID) D) map[D]int {
	n := make(map[D]int)
	for _, id := range slots {
		n[of(id)]++
	}
	return n
}

func self(id cluster.DriveID) cluster.DriveID { return id }

func spread[D comparable](n map[D]int) (least, most int) {
	least = placement.Width
	for _, c := range n {
		least, most = min(least, c), max(most, c)
	}
	return least, most
}

func TestTwelveDrivesHoldOneSlotEachAndEveryShardEvenly(t *testing.T) {
	all := drives(12, 1, 1)
	groups, err := placement.Groups(all, placement.Count(12))
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 100 {
		t.Fatalf("%d groups", len(groups))
	}
	held := make(map[cluster.DriveID][placement.Width]int)
	distinct := make(map[placement.Slots]bool)
	for _, g := range groups {
		if n := counts(g, self); len(n) != 12 {
			t.Fatalf("a group on %d drives", len(n))
		}
		distinct[g] = true
		for shard, id := range g {
			h := held[id]
			h[shard]++
			held[id] = h
		}
	}
	if len(distinct) < placement.Width {
		t.Fatalf("%d different groups", len(distinct))
	}
	for id, h := range held {
		if slices.Max(h[:])-slices.Min(h[:]) > 1 {
			t.Fatalf("drive %v holds shards %v times", id, h)
		}
	}
}

func TestGroupsSpreadOverDomains(t *testing.T) {
	for _, c := range []struct{ drives, peers, devices, perPeer int }{
		{24, 3, 24, 4}, {36, 12, 36, 1}, {40, 5, 40, 3}, {12, 2, 12, 6}, {60, 6, 4, 2},
	} {
		all := drives(c.drives, c.peers, c.devices)
		peer := make(map[cluster.DriveID]cluster.PeerID)
		for _, d := range all {
			peer[d.ID] = d.Peer
		}
		groups, err := placement.Groups(all, placement.Count(c.drives))
		if err != nil {
			t.Fatal(err)
		}
		load := make(map[cluster.DriveID]int)
		for _, g := range groups {
			if _, most := spread(counts(g, self)); most > 1 {
				t.Fatalf("%+v: two slots on a drive while others are free", c)
			}
			if _, most := spread(counts(g, func(id cluster.DriveID) cluster.PeerID { return peer[id] })); most > c.perPeer {
				t.Fatalf("%+v: %d slots on one peer", c, most)
			}
			for _, id := range g {
				load[id]++
			}
		}
		if least, most := spread64(load); len(load) != c.drives || most-least > 2 {
			t.Fatalf("%+v: drives hold %d..%d slots", c, least, most)
		}
	}
}

func spread64(n map[cluster.DriveID]int) (least, most int) {
	least = 1 << 30
	for _, c := range n {
		least, most = min(least, c), max(most, c)
	}
	return least, most
}

func TestGroupsAreTheSameEverywhere(t *testing.T) {
	all := drives(20, 4, 20)
	a, err := placement.Groups(all, 50)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(all)
	b, err := placement.Groups(all, 50)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a, b) {
		t.Fatal("the order of the drives changes the groups")
	}
}

func TestFewDrivesDoubleUpEvenly(t *testing.T) {
	for n := placement.Least; n < placement.Width; n++ {
		groups, err := placement.Groups(drives(n, 1, 1), 24)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			if least, most := spread(counts(g, self)); least < 1 || most > 2 {
				t.Fatalf("%d drives: %d..%d slots on a drive", n, least, most)
			}
			if !placement.Acknowledge(g, 1<<placement.Width-1) {
				t.Fatalf("%d drives: a whole chunk may not be acknowledged", n)
			}
		}
	}
	if _, err := placement.Groups(drives(placement.Least-1, 1, 1), 1); !errors.Is(err, placement.ErrTooFewDrives) {
		t.Fatal(err)
	}
}

// TestSubstituteForEveryLoss goes through every set of drives of twelve that may be gone.
func TestSubstituteForEveryLoss(t *testing.T) {
	all := drives(12, 1, 1)
	groups, err := placement.Groups(all, 12)
	if err != nil {
		t.Fatal(err)
	}
	home := groups[5]
	for gone := range 1 << 12 {
		var healthy []placement.Drive
		for i, d := range all {
			if gone>>i&1 == 0 {
				healthy = append(healthy, d)
			}
		}
		slots, err := placement.Substitute(home, healthy)
		if len(healthy) < placement.Least {
			if !errors.Is(err, placement.ErrTooFewDrives) {
				t.Fatalf("%d healthy: %v", len(healthy), err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range slots {
			up := slices.ContainsFunc(healthy, func(d placement.Drive) bool { return d.ID == id })
			home := slices.ContainsFunc(healthy, func(d placement.Drive) bool { return d.ID == home[i] })
			if !up {
				t.Fatalf("slot %d is on a drive that is gone", i)
			}
			if home && id != groups[5][i] {
				t.Fatalf("slot %d left its home without need", i)
			}
		}
		if n := counts(slots, self); len(n) != len(healthy) {
			t.Fatalf("%d healthy drives, %d used", len(healthy), len(n))
		} else if _, most := spread(n); most > 2 {
			t.Fatalf("%d slots on a drive", most)
		}
		if got := placement.Tolerates(slots, 1<<placement.Width-1); got < placement.Spare {
			t.Fatalf("%d healthy: %d losses tolerated", len(healthy), got)
		}
	}
}

func TestSubstitutePrefersFreeDrives(t *testing.T) {
	all := drives(15, 15, 15)
	home, err := placement.Groups(all[:12], 1)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := placement.Substitute(home[0], all[3:])
	if err != nil {
		t.Fatal(err)
	}
	if n := counts(slots, self); len(n) != 12 {
		t.Fatalf("doubled up on %d drives while 12 are free", len(n))
	}
}

// TestToleratesIsTheTruth compares with trying every set of losses.
func TestToleratesIsTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var domains [placement.Width]int
		for i := range domains {
			domains[i] = rapid.IntRange(0, 7).Draw(t, "domain")
		}
		durable := uint16(rapid.IntRange(0, 1<<placement.Width-1).Draw(t, "durable"))
		want := -1
		for losses := 0; losses <= 8; losses++ {
			if !survives(domains, durable, losses) {
				break
			}
			want = losses
		}
		if got := placement.Tolerates(domains, durable); got != want {
			t.Fatalf("%v with %012b: %d, want %d", domains, durable, got, want)
		}
	})
}

// survives says whether Data shards are left whichever of the eight domains are lost.
func survives(domains [placement.Width]int, durable uint16, losses int) bool {
	for lost := range 1 << 8 {
		if bits.OnesCount(uint(lost)) != losses {
			continue
		}
		left := 0
		for i, d := range domains {
			if durable>>i&1 != 0 && lost>>d&1 == 0 {
				left++
			}
		}
		if left < placement.Data {
			return false
		}
	}
	return true
}

func TestAckRule(t *testing.T) {
	groups, err := placement.Groups(drives(12, 1, 1), 1)
	if err != nil {
		t.Fatal(err)
	}
	for durable := range 1 << 12 {
		want := bits.OnesCount(uint(durable)) >= 10
		if got := placement.Acknowledge(groups[0], uint16(durable)); got != want {
			t.Fatalf("%012b on twelve drives: %v", durable, got)
		}
	}
	doubled, err := placement.Groups(drives(8, 1, 1), 1)
	if err != nil {
		t.Fatal(err)
	}
	for durable := range 1 << 12 {
		if got := placement.Acknowledge(doubled[0], uint16(durable)); got != (durable == 1<<12-1) {
			t.Fatalf("%012b on eight drives: %v", durable, got)
		}
	}
}
