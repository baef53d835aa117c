package placement_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// topology draws 1..5 zones, 1..12 peers in them and 1..12 drives on each, in racks and on devices, with weights.
func topology(t *rapid.T) []placement.Drive {
	zones := rapid.IntRange(1, 5).Draw(t, "zones")
	racks := rapid.IntRange(1, 3).Draw(t, "racks")
	peers := rapid.IntRange(1, 12).Draw(t, "peers")
	weighted := rapid.Bool().Draw(t, "weighted")
	var all []placement.Drive
	for p := range peers {
		zone := rapid.IntRange(0, zones-1).Draw(t, "zone")
		rack := rapid.IntRange(0, racks-1).Draw(t, "rack")
		n := rapid.IntRange(1, 12).Draw(t, "drives")
		devices := rapid.IntRange(1, n).Draw(t, "devices")
		for i := range n {
			d := placement.Drive{
				ID: cluster.DriveID{byte(len(all)), byte(p)}, Peer: cluster.PeerID{byte(p + 1)}, Device: uint64(i % devices),
				Rack: fmt.Sprint("r", rack), Zone: fmt.Sprint("z", zone), Weight: 4 << 40,
			}
			if weighted {
				d.Weight = rapid.SampledFrom([]uint64{1 << 40, 2 << 40, 3 << 40, 8 << 40}).Draw(t, "weight")
			}
			all = append(all, d)
		}
	}
	return all
}

// The domains of a drive, each named with the wider ones that it lies in.
var levels = []struct {
	name       string
	wider, own func(placement.Drive) string
}{
	{"zone", func(placement.Drive) string { return "" }, zone},
	{"rack", zone, rack},
	{"peer", rack, peer},
	{"device", peer, device},
	{"drive", device, func(d placement.Drive) string { return d.ID.String() }},
}

func zone(d placement.Drive) string   { return d.Zone }
func rack(d placement.Drive) string   { return d.Zone + "/" + d.Rack }
func peer(d placement.Drive) string   { return rack(d) + "/" + d.Peer.String() }
func device(d placement.Drive) string { return fmt.Sprint(peer(d), "/", d.Device) }

// usage is how many drives a domain has and how many slots of one group.
type usage struct{ drives, slots int }

// TestEveryGroupKeepsTheRules: a drive has a second slot only when all have one, and of two domains side by side one
// has two slots more than the other only when the other's drives are all taken, or its own must be.
func TestEveryGroupKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := topology(t)
		if len(all) < placement.Least {
			t.Skip("too few drives")
		}
		groups, err := placement.Groups(all, 24)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			checkRules(t, all, g)
			if !placement.Acknowledge(g, 1<<placement.Width-1) {
				t.Fatalf("a whole chunk on %v may not be acknowledged", g)
			}
		}
	})
}

func checkRules(t interface {
	Helper()
	Fatalf(string, ...any)
}, all []placement.Drive, g placement.Slots) {
	t.Helper()
	held := counts(g, self)
	each := placement.Width / len(all) // slots that every drive has at least
	for _, level := range levels {
		side := make(map[string]map[string]usage)
		for _, d := range all {
			at, name := level.wider(d), level.own(d)
			if side[at] == nil {
				side[at] = make(map[string]usage)
			}
			u := side[at][name]
			side[at][name] = usage{u.drives + 1, u.slots + held[d.ID]}
		}
		for at, domains := range side {
			for a, ua := range domains {
				for b, ub := range domains {
					if ua.slots > ub.slots+1 && ub.slots < ub.drives*(each+1) && ua.slots > ua.drives*each {
						t.Fatalf("%s %s has %+v, %s %+v beside it in %q", level.name, a, ua, b, ub, at)
					}
				}
			}
		}
	}
}

// TestLoadFollowsWeight: of two drives on one device, which no rule tells apart, the lighter never holds more for its
// weight than the heavier, to within two slots, but where the heavier is in all groups that the device is in, two at most excepted.
func TestLoadFollowsWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := topology(t)
		if len(all) < placement.Width {
			t.Skip("slots double up")
		}
		groups, err := placement.Groups(all, placement.Count(len(all)))
		if err != nil {
			t.Fatal(err)
		}
		load, of := make(map[cluster.DriveID]int), make(map[string]int)
		byID := make(map[cluster.DriveID]placement.Drive)
		for _, d := range all {
			byID[d.ID] = d
		}
		for _, g := range groups {
			for _, name := range uniqueDevices(g, byID) {
				of[name]++
			}
			for _, id := range g {
				load[id]++
			}
		}
		for _, a := range all {
			for _, b := range all {
				if device(a) != device(b) || a.ID == b.ID {
					continue
				}
				la, lb := float64(load[a.ID]), float64(load[b.ID])
				wa, wb := float64(a.Weight), float64(b.Weight)
				if (la-2)/wa > (lb+2)/wb && load[b.ID] < of[device(a)]-2 {
					t.Fatalf("weights %v and %v hold %v and %v slots; their device is in %d groups", wa, wb, la, lb, of[device(a)])
				}
			}
		}
	})
}

// TestGroupsMixDrivesOfAllSizes: drives of one size do not keep to themselves, so that many others hold the rest of what
// a drive holds, and rebuild it together.
func TestGroupsMixDrivesOfAllSizes(t *testing.T) {
	for _, sizes := range [][]uint64{{1}, {1, 2}, {1, 2, 4}, {1, 1, 10}} {
		all := drives(36, 36, 1)
		for i := range all {
			all[i].Weight = sizes[i%len(sizes)]
		}
		groups, err := placement.Groups(all, placement.Count(len(all)))
		if err != nil {
			t.Fatal(err)
		}
		partners := make(map[cluster.DriveID]map[cluster.DriveID]bool)
		sets := make(map[[placement.Width]cluster.DriveID]bool)
		for _, g := range groups {
			set := g
			slices.SortFunc(set[:], func(a, b cluster.DriveID) int { return slices.Compare(a[:], b[:]) })
			sets[set] = true
			for _, a := range g {
				if partners[a] == nil {
					partners[a] = make(map[cluster.DriveID]bool)
				}
				for _, b := range g {
					partners[a][b] = true
				}
			}
		}
		if len(sets) < len(groups)/2 {
			t.Errorf("sizes %v: %d groups are on %d sets of drives", sizes, len(groups), len(sets))
		}
		for _, d := range all {
			if n := len(partners[d.ID]); n < 30 {
				t.Errorf("sizes %v: a drive of %d shares groups with %d of 36", sizes, d.Weight, n)
			}
		}
	}
}

func uniqueDevices(g placement.Slots, byID map[cluster.DriveID]placement.Drive) []string {
	var names []string
	for _, id := range g {
		names = append(names, device(byID[id]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestEvenDomainsServeEveryWeightAlike: where the domains are alike, each drive of 1, 2 or 4 TB has its part of the slots
// to within 3 %.
func TestEvenDomainsServeEveryWeightAlike(t *testing.T) {
	for _, c := range []struct {
		zones, peers, perPeer int // of each zone, of each peer
		sizes                 []uint64
	}{
		{1, 1, 36, []uint64{1, 2}}, {1, 3, 12, []uint64{1, 2}}, {3, 4, 6, []uint64{1, 2, 4}}, {1, 12, 4, []uint64{1, 2}},
		{5, 2, 8, []uint64{1, 4}}, {1, 5, 9, []uint64{1, 2, 4}}, {2, 6, 6, []uint64{2, 1}}, {4, 3, 12, []uint64{1, 1, 4}},
	} {
		var all []placement.Drive
		var total uint64
		for z := range c.zones {
			for p := range c.peers {
				for i := range c.perPeer {
					d := placement.Drive{Zone: fmt.Sprint(z), Weight: c.sizes[i%len(c.sizes)] << 40, Device: uint64(i)}
					d.Peer = cluster.PeerID{byte(z + 1), byte(p)}
					d.ID = cluster.DriveID{byte(z), byte(p), byte(i)}
					all = append(all, d)
					total += d.Weight
				}
			}
		}
		groups, err := placement.Groups(all, placement.Count(len(all)))
		if err != nil {
			t.Fatal(err)
		}
		load := make(map[cluster.DriveID]int)
		for _, g := range groups {
			for _, id := range g {
				load[id]++
			}
		}
		for _, d := range all {
			want := float64(placement.Width*len(groups)) * float64(d.Weight) / float64(total)
			if got := float64(load[d.ID]); math.Abs(got-want) > max(1, 0.03*want) {
				t.Errorf("%+v: a drive of %d TB has %v slots, its part is %.1f", c, d.Weight>>40, got, want)
			}
		}
	}
}

// TestUnequalZonesShareAlike states what the rule of domains costs: each of two zones takes half of the slots as long as
// it has the drives.
func TestUnequalZonesShareAlike(t *testing.T) {
	for _, c := range []struct {
		zones []int // drives of each
		worst float64
	}{
		{[]int{12, 12}, 1}, {[]int{8, 16}, 1.5}, {[]int{4, 20}, 2}, {[]int{2, 22}, 2}, {[]int{12, 12, 24}, 1.333}, {[]int{1, 30, 29}, 5},
	} {
		var all []placement.Drive
		for z, n := range c.zones {
			for i := range n {
				all = append(all, placement.Drive{ID: cluster.DriveID{byte(z), byte(i)}, Peer: cluster.PeerID{byte(z), byte(i)}, Zone: fmt.Sprint(z)})
			}
		}
		groups, err := placement.Groups(all, placement.Count(len(all)))
		if err != nil {
			t.Fatal(err)
		}
		load := make(map[cluster.DriveID]int)
		most := 0
		for _, g := range groups {
			for _, id := range g {
				load[id]++
				most = max(most, load[id])
			}
		}
		mean := float64(placement.Width*len(groups)) / float64(len(all))
		if got := float64(most) / mean; math.Abs(got-c.worst) > 0.05*c.worst {
			t.Errorf("zones of %v drives: the fullest drive has %.2f times the mean, want %v", c.zones, got, c.worst)
		}
	}
}

// TestFewDrivesTolerateTheMost compares with every way to put twelve slots on the drives of a few peers.
func TestFewDrivesTolerateTheMost(t *testing.T) {
	check := func(t *testing.T, perPeer []int) {
		t.Helper()
		var all []placement.Drive
		for p, n := range perPeer {
			for i := range n {
				all = append(all, placement.Drive{ID: cluster.DriveID{byte(p), byte(i)}, Peer: cluster.PeerID{byte(p + 1)}, Device: uint64(i)})
			}
		}
		if len(all) < placement.Least || len(all) > placement.Width {
			return
		}
		groups, err := placement.Groups(all, placement.Width)
		if err != nil {
			t.Fatal(err)
		}
		each := placement.Width / len(all)
		best := most(perPeer, each, placement.Width, nil)
		var single []int
		for range all {
			single = append(single, 1)
		}
		bestDrives := most(single, each, placement.Width, nil)
		for _, g := range groups {
			peers, drives := onPeers(g), placement.Tolerates(g, 1<<placement.Width-1)
			if got := placement.Tolerates(peers, 1<<placement.Width-1); got != best || drives != bestDrives {
				t.Fatalf("peers with %v drives: survives %d peers and %d drives, could survive %d and %d", perPeer, got, drives, best, bestDrives)
			}
		}
	}
	for _, peers := range []int{1, 2, 3, 4, 5, 8, 12} {
		perPeer := make([]int, peers)
		for i := range placement.Width {
			perPeer[i%peers]++
		}
		check(t, perPeer)
	}
	rapid.Check(t, func(r *rapid.T) {
		perPeer := rapid.SliceOfN(rapid.IntRange(1, 6), 1, 11).Draw(r, "drives of each peer")
		check(t, perPeer)
	})
}

func onPeers(g placement.Slots) (peers [placement.Width]byte) {
	for i, id := range g {
		peers[i] = id[0]
	}
	return peers
}

// most returns the most losses of peers that some way to give each drive each or each+1 of left slots tolerates.
func most(perPeer []int, each, left int, given []int) int {
	if len(perPeer) == 0 {
		if left != 0 {
			return -1
		}
		var domains [placement.Width]int
		at := 0
		for p, n := range given {
			for range n {
				domains[at] = p
				at++
			}
		}
		return placement.Tolerates(domains, 1<<placement.Width-1)
	}
	best := -1
	for n := each * perPeer[0]; n <= min(left, (each+1)*perPeer[0]); n++ {
		best = max(best, most(perPeer[1:], each, left-n, append(slices.Clone(given), n)))
	}
	return best
}

// TestShardsTurnOverTheDrives: the shards of each drive are all numbers alike, so none has only parity or only the
// much-read first ones.
func TestShardsTurnOverTheDrives(t *testing.T) {
	for _, c := range []struct{ drives, peers int }{{12, 1}, {24, 3}, {24, 24}, {36, 12}, {7, 7}, {50, 5}} {
		all := drives(c.drives, c.peers, c.drives)
		groups, err := placement.Groups(all, placement.Count(c.drives))
		if err != nil {
			t.Fatal(err)
		}
		held := make(map[cluster.DriveID][placement.Width]int)
		for _, g := range groups {
			for shard, id := range g {
				h := held[id]
				h[shard]++
				held[id] = h
			}
		}
		for id, h := range held {
			if least, most := slices.Min(h[:]), slices.Max(h[:]); most-least > 2 {
				t.Errorf("%+v: drive %v holds shards %v times", c, id, h)
			}
		}
	}
}

// TestSubstituteFavoursHeavyDrives: of drives that may both stand in, one of three times the weight does so three times
// as often; less so as the heavy ones are taken (2.49 times as often for 12 of 36).
func TestSubstituteFavoursHeavyDrives(t *testing.T) {
	all := drives(60, 60, 1)
	for i := range all {
		all[i].Weight = 1 << 40
		if i%2 == 1 {
			all[i].Weight = 3 << 40
		}
	}
	groups, err := placement.Groups(all[:24], 1000)
	if err != nil {
		t.Fatal(err)
	}
	stood := make(map[uint64]int)
	for _, g := range groups {
		slots, err := placement.Substitute(g, all[24:])
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range slots {
			stood[all[id[0]].Weight>>40]++
		}
	}
	if ratio := float64(stood[3]) / float64(stood[1]); ratio < 2.3 || ratio > 2.7 {
		t.Fatalf("heavy drives stood in %d times, light ones %d times", stood[3], stood[1])
	}
}
