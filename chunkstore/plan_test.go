package chunkstore

import (
	"math/rand/v2"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// simulated is a cluster of drives that volumes fill.
type simulated struct {
	groups []Group
	drives []placement.Drive
	stored map[cluster.DriveID]int64
	rng    *rand.Rand
}

func (s *simulated) used() map[cluster.DriveID]float64 {
	used := make(map[cluster.DriveID]float64)
	for _, d := range s.drives {
		used[d.ID] = float64(s.stored[d.ID]) / float64(d.Weight)
	}
	return used
}

// fill opens and fills volumes of 1 GiB a slot until this part of all space is used.
func (s *simulated) fill(part float64, choose func([]Group, map[cluster.DriveID]float64, []int) Group) {
	var total, stored float64
	for _, d := range s.drives {
		total += float64(d.Weight)
		stored += float64(s.stored[d.ID])
	}
	for ; stored < part*total; stored += Shards * DefaultVolumeSize {
		g := choose(s.groups, s.used(), s.rng.Perm(len(s.groups)))
		for _, id := range g.Slots {
			s.stored[id] += DefaultVolumeSize
		}
	}
}

func (s *simulated) spread() (least, most float64) {
	least = 1
	for _, part := range s.used() {
		least, most = min(least, part), max(most, part)
	}
	return least, most
}

func simulate(t *testing.T, peers, perPeer int, sizes ...uint64) *simulated {
	t.Helper()
	s := &simulated{stored: make(map[cluster.DriveID]int64), rng: rand.New(rand.NewPCG(1, 2))}
	for p := range peers {
		for i := range perPeer {
			s.drives = append(s.drives, placement.Drive{
				ID: cluster.DriveID{byte(p), byte(i)}, Peer: cluster.PeerID{byte(p + 1)}, Device: uint64(i), Weight: sizes[i%len(sizes)],
			})
		}
	}
	s.regroup(t)
	return s
}

func (s *simulated) regroup(t *testing.T) {
	t.Helper()
	slots, err := placement.Groups(s.drives, placement.Count(len(s.drives)))
	if err != nil {
		t.Fatal(err)
	}
	s.groups = nil
	for i, g := range slots {
		s.groups = append(s.groups, Group{ID: uint32(i), Slots: g})
	}
}

// single takes the first group of a random order: what a new volume would do without a choice.
func single(groups []Group, _ map[cluster.DriveID]float64, order []int) Group {
	return groups[order[0]]
}

// TestDrivesOfTwoSizesFillAlike: 24 drives of 500 GiB and 1,000 GiB are filled to the same part at every time, within 2
// points, where volumes on groups at random would be several apart.
func TestDrivesOfTwoSizesFillAlike(t *testing.T) {
	for _, c := range []struct{ peers, perPeer int }{{1, 24}, {3, 8}, {4, 6}, {12, 2}} {
		s := simulate(t, c.peers, c.perPeer, 500<<30, 1000<<30)
		for _, part := range []float64{0.1, 0.5, 0.8} {
			s.fill(part, chooseGroup)
			if least, most := s.spread(); most-least > 0.02 {
				t.Errorf("%+v: of the drives %.3f..%.3f is used", c, least, most)
			}
		}
		random := simulate(t, c.peers, c.perPeer, 500<<30, 1000<<30)
		random.fill(0.8, single)
		if least, most := random.spread(); most-least < 0.05 {
			t.Errorf("%+v: at random %.3f..%.3f is used: the choice proves nothing", c, least, most)
		}
	}
}

// TestNewDrivesFillSooner: when two empty drives come to 24 half full ones, new volumes prefer the groups that they are in,
// as far as the choice of two goes; the rest is for moves.
func TestNewDrivesFillSooner(t *testing.T) {
	grown := func(choose func([]Group, map[cluster.DriveID]float64, []int) Group) float64 {
		s := simulate(t, 12, 2, 500<<30)
		s.fill(0.5, choose)
		for i := range 2 {
			s.drives = append(s.drives, placement.Drive{
				ID: cluster.DriveID{12, byte(i)}, Peer: cluster.PeerID{13}, Device: uint64(i), Weight: 500 << 30,
			})
		}
		s.regroup(t)
		s.fill(0.7, choose)
		least, _ := s.spread()
		return least
	}
	chosen, random := grown(chooseGroup), grown(single)
	if chosen < 1.05*random {
		t.Errorf("%.3f of the new drives is used, %.3f at random", chosen, random)
	}
}

func TestGroupsWithDeadDrivesAreTheLastChoice(t *testing.T) {
	s := simulate(t, 12, 2, 1<<40)
	used := s.used()
	for _, dead := range []int{0, 7, 13, 20} {
		delete(used, s.drives[dead].ID)
		used[s.drives[dead^1].ID] = 0.9 // and its groups look the emptier for it
	}
	for range 200 {
		order := s.rng.Perm(len(s.groups))
		g := chooseGroup(s.groups, used, order)
		var whole []Group
		most := 0
		for _, at := range order {
			healthy := healthySlots(s.groups[at], used)
			most = max(most, healthy)
			if healthy == Shards && len(whole) < 2 {
				whole = append(whole, s.groups[at])
			}
		}
		switch {
		case len(whole) == 2:
			if g.ID != whole[0].ID && g.ID != whole[1].ID || fillOf(g, used) > min(fillOf(whole[0], used), fillOf(whole[1], used)) {
				t.Fatalf("group %d of whole groups %d and %d", g.ID, whole[0].ID, whole[1].ID)
			}
		case healthySlots(g, used) != most:
			t.Fatalf("a group with %d healthy drives where one has %d", healthySlots(g, used), most)
		}
	}
}
