package chunkstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// plan makes the row of a new volume: on a group whose home drives are all healthy, of two such the emptier one; else
// on the group with most of them healthy, doubled up on healthy drives. A drive that leaves does not count as healthy.
// slow says that drives which were slow, or leave, had to be taken for healthy, because the others are too few.
func (vs *volumeSet) plan(ctx context.Context) (row Volume, slow bool, err error) {
	groups, err := vs.store.config.Volumes.Groups(ctx)
	if err != nil {
		return Volume{}, false, fmt.Errorf("open a volume: %w", err)
	}
	if len(groups) == 0 {
		return Volume{}, false, fmt.Errorf("open a volume: there are no placement groups: %w", ErrSlowDown)
	}
	drives, used := vs.store.places(vs.store.lasting)
	if len(drives) < placement.Least {
		drives, used = vs.store.places(vs.store.staying)
		slow = true
	}
	if len(drives) < placement.Least {
		drives, used = vs.store.places((*member).usable)
	}
	best := chooseGroup(groups, used, rand.Perm(len(groups)))
	row = Volume{Group: best.ID, State: VolumeOpen, Owner: vs.store.config.Self, Home: best.Slots, Slots: best.Slots}
	if healthySlots(best, used) < Shards {
		slots, err := placement.Substitute(best.Slots, drives)
		if err != nil {
			return Volume{}, false, fmt.Errorf("open a volume: %w: %w", err, ErrSlowDown)
		}
		row.Slots = slots
	}
	return row, slow, nil
}

// lasting says that a drive can take a volume for good.
func (s *Store) lasting(m *member, now time.Time) bool { return m.writable(now) && !s.leaving(m) }

// staying says that a drive can take chunks now, and does not leave.
func (s *Store) staying(m *member, now time.Time) bool { return m.usable(now) && !s.leaving(m) }

func (s *Store) leaving(m *member) bool {
	return s.config.Leaving != nil && s.config.Leaving(m.drive.ID())
}

// places returns the drives that ok holds for, and what part of each is used, 0..1.
func (s *Store) places(ok func(*member, time.Time) bool) ([]placement.Drive, map[cluster.DriveID]float64) {
	used := make(map[cluster.DriveID]float64)
	now := s.config.Now()
	var drives []placement.Drive
	for _, m := range s.config.Drives.all() {
		if !ok(m, now) {
			continue
		}
		status, in := m.drive.Status(), s.config.Domains(m.drive.ID())
		drives = append(drives, placement.Drive{
			ID: m.drive.ID(), Device: status.Device, Peer: in.Peer, Rack: in.Rack, Zone: in.Zone, Weight: uint64(max(status.Total, 0)),
		})
		used[m.drive.ID()] = 1 - float64(status.Free)/float64(max(status.Total, 1))
	}
	return drives, used
}

// chooseGroup returns, of the first two groups in this order whose drives are all healthy, the one on emptier drives;
// where there are none, the group with most healthy drives. used holds the healthy drives.
//
// Groups have more slots on larger drives, so volumes at random fill all to the same part but for chance; the second
// choice keeps chance from adding up (the power of two choices). A new drive it fills a tenth sooner, no more.
func chooseGroup(groups []Group, used map[cluster.DriveID]float64, order []int) Group {
	best, bestHealthy, whole := Group{}, -1, 0
	var bestFill float64
	for _, at := range order {
		g := groups[at]
		healthy := healthySlots(g, used)
		fill := fillOf(g, used)
		if healthy > bestHealthy || healthy == Shards && fill < bestFill {
			best, bestHealthy, bestFill = g, healthy, fill
		}
		if healthy == Shards {
			whole++
		}
		if whole == 2 {
			break
		}
	}
	return best
}

func healthySlots(g Group, used map[cluster.DriveID]float64) int {
	n := 0
	for _, id := range g.Slots {
		if _, ok := used[id]; ok {
			n++
		}
	}
	return n
}

// fillOf is the used part of all drives of a group together. A single full one is not what it tells: most groups of a
// small cluster have a slot on the fullest drive.
func fillOf(g Group, used map[cluster.DriveID]float64) float64 {
	var sum float64
	for _, id := range g.Slots {
		sum += used[id]
	}
	return sum
}
