package rebalance_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

const gib = 1 << 30

// world is a cluster of values in which plans are carried out at once.
type world struct {
	t interface {
		Helper()
		Fatal(...any)
		Fatalf(string, ...any)
	}
	drives  []rebalance.Drive
	volumes []rebalance.Volume
	refused func(repair.Place) bool
	last    int
	known   *[4]int // fresh, until the topology changes
	moved   int64
	slots   int
}

func driveID(n int) (id cluster.DriveID) {
	id[0], id[1], id[15] = byte(n>>8), byte(n), 1
	return id
}

// add adds drives to a peer, each of a device of its own.
func (w *world) add(zone string, peer, drives int, size int64) {
	w.known = nil
	for range drives {
		w.last++
		w.drives = append(w.drives, rebalance.Drive{
			Drive: placement.Drive{ID: driveID(w.last), Peer: cluster.PeerID{byte(peer)}, Device: uint64(w.last), Zone: zone},
			State: rebalance.Takes, Size: size,
		})
	}
}

func (w *world) takers() []placement.Drive {
	var list []placement.Drive
	for _, d := range w.drives {
		if d.State == rebalance.Takes {
			list = append(list, d.Drive)
		}
	}
	return list
}

// write makes sealed volumes over the present topology, all of whose slots have these bytes.
func (w *world) write(volumes int, bytes int64) {
	w.t.Helper()
	groups, err := placement.Groups(w.takers(), volumes)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, g := range groups {
		v := rebalance.Volume{Volume: chunkstore.Volume{
			ID: chunkstore.VolumeID(len(w.volumes) + 1), Epoch: 1, State: chunkstore.VolumeSealed, Home: g, Slots: g,
		}, Bytes: bytes}
		w.volumes = append(w.volumes, v)
		w.use(v, g, 1)
	}
}

func (w *world) use(v rebalance.Volume, slots chunkstore.DriveIDs, sign int64) {
	for _, id := range slots {
		if d := w.drive(id); d != nil {
			d.Used += sign * v.Bytes
		}
	}
}

func (w *world) drive(id cluster.DriveID) *rebalance.Drive {
	at := slices.IndexFunc(w.drives, func(d rebalance.Drive) bool { return d.ID == id })
	if at < 0 {
		return nil
	}
	return &w.drives[at]
}

func (w *world) state(state rebalance.State, drives ...int) {
	w.known = nil
	for _, n := range drives {
		w.drive(driveID(n)).State = state
	}
}

func (w *world) make(limit int) rebalance.Plan {
	return rebalance.Make(rebalance.Cluster{Drives: w.drives, Volumes: w.volumes, Refused: w.refused}, limit)
}

// settle carries plans out until there is nothing to do, and fails when that does not end.
func (w *world) settle(limit int) rebalance.Plan {
	w.t.Helper()
	for range 20 * (len(w.volumes) + 1) {
		plan := w.make(limit)
		if len(plan.Changes) == 0 {
			return plan
		}
		if len(plan.Changes) > limit {
			w.t.Fatalf("%d changes, %d were asked for", len(plan.Changes), limit)
		}
		for _, c := range plan.Changes {
			w.apply(c)
		}
	}
	w.t.Fatal("it does not end")
	return rebalance.Plan{}
}

func (w *world) apply(c rebalance.Change) {
	w.t.Helper()
	v := &w.volumes[c.Row.ID-1]
	before := w.strength(v.Slots)
	var bytes int64
	for i := range v.Slots {
		if (c.Row.Home[i] != v.Home[i]) != (c.Slots>>i&1 != 0) {
			w.t.Fatalf("volume %d: slots %012b do not tell what changes", v.ID, c.Slots)
		}
		to := w.drive(c.Row.Home[i])
		if to == nil || c.Slots>>i&1 != 0 && to.State != rebalance.Takes {
			w.t.Fatalf("volume %d: slot %d goes to a drive that takes none", v.ID, i)
		}
		if c.Row.Home[i] != v.Slots[i] {
			bytes += v.Bytes
			w.slots++
		}
	}
	if bytes != c.Bytes || c.Slots == 0 {
		w.t.Fatalf("volume %d: %d bytes move for slots %012b, the plan says %d", v.ID, bytes, c.Slots, c.Bytes)
	}
	w.use(*v, v.Slots, -1)
	w.use(*v, c.Row.Home, 1)
	w.moved += bytes
	v.Home, v.Slots = c.Row.Home, c.Row.Home
	fresh := w.fresh()
	for level, now := range w.strength(v.Slots) {
		if now < min(before[level], fresh[level]) {
			w.t.Fatalf("volume %d (%v): %s losses fall from %d to %d; a fresh one survives %d", v.ID, c.Reason, levels[level], before[level], now, fresh[level])
		}
	}
}

var levels = []string{"drive", "device", "peer", "zone"}

// strength is what a layout survives, slots on drives that leave counted as gone.
func (w *world) strength(slots chunkstore.DriveIDs) [4]int {
	var keys [4][placement.Width]string
	var there uint16
	for i, id := range slots {
		d := w.drive(id)
		if d == nil || d.State == rebalance.Leaves {
			continue
		}
		there |= 1 << i
		keys[0][i], keys[1][i] = d.ID.String(), fmt.Sprint(d.Peer, d.Device)
		keys[2][i], keys[3][i] = d.Peer.String(), d.Zone
	}
	var losses [4]int
	for level := range keys {
		losses[level] = placement.Tolerates(keys[level], there)
	}
	return losses
}

// fresh is what the weakest of new volumes would survive.
func (w *world) fresh() [4]int {
	w.t.Helper()
	if w.known != nil {
		return *w.known
	}
	groups, err := placement.Groups(w.takers(), 24)
	if err != nil {
		w.t.Fatal(err)
	}
	worst := [4]int{math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt}
	for _, g := range groups {
		for level, losses := range w.strength(g) {
			worst[level] = min(worst[level], losses)
		}
	}
	w.known = &worst
	return worst
}

// wantSettled fails unless no home is on a drive that leaves and every volume survives what a new one would.
func (w *world) wantSettled() {
	w.t.Helper()
	fresh := w.fresh()
	for _, v := range w.volumes {
		for i, id := range v.Home {
			if d := w.drive(id); d == nil || d.State == rebalance.Leaves {
				w.t.Fatalf("volume %d: slot %d is on a drive that leaves", v.ID, i)
			}
		}
		for level, losses := range w.strength(v.Home) {
			if losses < fresh[level] {
				w.t.Fatalf("volume %d survives %d losses of a %s, a fresh one %d", v.ID, losses, levels[level], fresh[level])
			}
		}
	}
}

// spread returns how far the emptiest drive lies below the mean, and the fullest above it, in hundredths.
func (w *world) spread() (below, above float64) {
	used, size := 0.0, 0.0
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, d := range w.drives {
		if d.State == rebalance.Takes {
			used, size = used+float64(d.Used), size+float64(d.Size)
			fill := 100 * float64(d.Used) / float64(d.Size)
			lowest, highest = min(lowest, fill), max(highest, fill)
		}
	}
	return 100*used/size - lowest, highest - 100*used/size
}

func TestNothingMovesInAClusterThatDidNotChange(t *testing.T) {
	for _, peers := range []int{1, 2, 3, 5, 12} {
		w := &world{t: t}
		for peer := range peers {
			w.add("", peer, 12, 100*gib)
		}
		w.write(40*peers, gib)
		if plan := w.make(10); len(plan.Changes) != 0 || plan.Volumes != 0 || plan.Bytes != 0 {
			t.Fatalf("%d peers: %+v", peers, plan)
		}
	}
}

func TestADrainMovesWhatIsThereAndNothingElse(t *testing.T) {
	w := &world{t: t}
	for peer := range 4 {
		w.add("", peer, 6, 500*gib)
	}
	w.write(240, gib)
	var must int64
	w.state(rebalance.Leaves, 2, 9)
	for _, n := range []int{2, 9} {
		must += w.drive(driveID(n)).Used
	}
	if plan := w.make(4); plan.Bytes != must || plan.Volumes == 0 {
		t.Fatalf("%d bytes in %d volumes to move, want %d", plan.Bytes, plan.Volumes, must)
	}
	w.settle(4)
	w.wantSettled()
	if w.moved != must {
		t.Fatalf("%d bytes moved, %d had to", w.moved, must)
	}
	if below, above := w.spread(); below+above > 5 {
		t.Fatalf("drives lie from -%.1f to +%.1f points about the mean", below, above)
	}
}

// TestAClusterThatGrowsToThreePeersSpreadsItsVolumes: of twelve slots on one peer, eight have to go, four to each other.
func TestAClusterThatGrowsToThreePeersSpreadsItsVolumes(t *testing.T) {
	w := &world{t: t}
	w.add("", 1, 12, 1000*gib)
	w.write(150, gib)
	w.add("", 2, 12, 1000*gib)
	w.add("", 3, 12, 1000*gib)
	const must = 150 * 8 * gib
	if plan := w.make(5); plan.Bytes != must || plan.Volumes != 150 || len(plan.Changes) != 5 {
		t.Fatalf("%d bytes in %d volumes to move, want %d in 150", plan.Bytes, plan.Volumes, int64(must))
	}
	w.settle(5)
	w.wantSettled()
	if w.moved > must*11/10 {
		t.Fatalf("%d bytes moved, %d had to", w.moved, int64(must))
	}
	if below, above := w.spread(); below+above > 5 {
		t.Fatalf("drives lie from -%.1f to +%.1f points about the mean", below, above)
	}
}

// evenOut has volumes move until no plan moves any: each drive is within two points of the mean then, and little more
// than must was moved.
func (w *world) evenOut(must int64) {
	w.t.Helper()
	w.settle(40)
	w.wantSettled()
	if below, above := w.spread(); below > 2 || above > 2 {
		w.t.Fatalf("drives lie from -%.1f to +%.1f points about the mean", below, above)
	}
	if w.moved < must || w.moved > must*11/10 {
		w.t.Fatalf("%d bytes moved, %d had to", w.moved, must)
	}
}

// TestNewDrivesAreFilledWithoutMoreMovesThanItTakes adds a third drive to each of twelve peers.
func TestNewDrivesAreFilledWithoutMoreMovesThanItTakes(t *testing.T) {
	w := &world{t: t}
	for peer := range 12 {
		w.add("", peer, 2, 500*gib)
	}
	w.write(500, gib)
	for peer := range 12 {
		w.add("", peer, 1, 500*gib)
	}
	mean := 12 * 500 * gib / int64(len(w.drives))
	must := 12 * (mean - 10*gib) // until each new drive is within two points
	w.evenOut(must)
}

func TestARefusedHomeIsReplaced(t *testing.T) {
	w := &world{t: t}
	w.add("", 1, 14, 1000*gib)
	w.write(20, gib)
	v := w.volumes[3]
	bad := repair.Place{Volume: v.ID, Slot: 5, Drive: v.Home[5]}
	w.refused = func(p repair.Place) bool { return p == bad }
	plan := w.make(10)
	if len(plan.Changes) != 1 || plan.Changes[0].Slots != 1<<5 || plan.Changes[0].Row.Home[5] == v.Home[5] {
		t.Fatalf("%+v", plan)
	}
	// A slot that has not moved yet stays where it is: nothing has to be copied.
	var free cluster.DriveID
	for _, d := range w.drives {
		if !slices.Contains(v.Home[:], d.ID) {
			free = d.ID
		}
	}
	w.volumes[3].Home[5] = free
	bad.Drive = free
	if plan = w.make(10); len(plan.Changes) != 1 || plan.Changes[0].Row.Home != v.Slots || plan.Changes[0].Bytes != 0 {
		t.Fatalf("%+v", plan)
	}
}

func TestWithTooFewDrivesNothingMoves(t *testing.T) {
	w := &world{t: t}
	w.add("", 1, 8, 1000*gib)
	w.write(10, gib)
	w.state(rebalance.Leaves, 1, 2, 3)
	if plan := w.make(10); len(plan.Changes) != 0 || plan.Homeless != 10 {
		t.Fatalf("%+v", plan)
	}
	// Nor with drives that have no room.
	w = &world{t: t}
	w.add("", 1, 13, 20*gib)
	w.write(20, gib)
	w.state(rebalance.Leaves, 1)
	before := slices.Clone(w.drives)
	if plan := w.settle(10); plan.Homeless == 0 {
		t.Fatalf("full drives took all: %+v", plan)
	}
	for i, d := range w.drives {
		if d.Used > before[i].Used && d.Used > d.Size*90/100 {
			t.Fatalf("drive %v was filled to %d of %d", d.ID, d.Used, d.Size)
		}
	}
}

// TestPlansLeadToAnEvenSafeClusterAndEnd: whatever drives come and go.
func TestPlansLeadToAnEvenSafeClusterAndEnd(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := &world{t: r}
		zones := rapid.IntRange(1, 4).Draw(r, "zones")
		grow := func(peer int) {
			zone := fmt.Sprint(peer % zones)
			w.add(zone, peer, rapid.IntRange(1, 8).Draw(r, "drives"), 1000*gib)
		}
		peers := rapid.IntRange(1, 8).Draw(r, "peers")
		for peer := range peers {
			grow(peer)
		}
		for len(w.drives) < placement.Least {
			grow(0)
		}
		w.write(rapid.IntRange(1, 25).Draw(r, "volumes"), gib)
		for range rapid.IntRange(1, 3).Draw(r, "times") {
			for range rapid.IntRange(0, 4).Draw(r, "new peers") {
				grow(peers)
				peers++
			}
			for _, n := range rapid.SliceOfN(rapid.IntRange(1, w.last), 0, 4).Draw(r, "draining") {
				w.state(rebalance.Leaves, n)
			}
			if len(w.takers()) < placement.Least {
				grow(0)
				for len(w.takers()) < placement.Least {
					w.add("0", 0, 1, 1000*gib)
				}
			}
			plan := w.settle(rapid.IntRange(2, 20).Draw(r, "limit"))
			if plan.Homeless != 0 || plan.Volumes != 0 {
				r.Fatalf("%+v", plan)
			}
			w.wantSettled()
			again := w.moved
			if w.settle(100); w.moved != again {
				r.Fatal("it moves on after it had settled")
			}
		}
	})
}

// TestWhileDrivesComeOnlyWhatMustMoves: the rest is known, and waits.
func TestWhileDrivesComeOnlyWhatMustMoves(t *testing.T) {
	w := &world{t: t}
	w.add("", 1, 12, 1000*gib)
	w.write(30, gib)
	w.add("", 2, 12, 1000*gib)
	w.add("", 3, 12, 1000*gib)
	restless := func() rebalance.Plan {
		return rebalance.Make(rebalance.Cluster{Drives: w.drives, Volumes: w.volumes, Restless: true}, 100)
	}
	if plan := restless(); len(plan.Changes) != 0 || plan.Volumes != 30 || plan.Bytes == 0 {
		t.Fatalf("%d changes, %d volumes and %d bytes to move", len(plan.Changes), plan.Volumes, plan.Bytes)
	}
	w.state(rebalance.Leaves, 3)
	plan := restless()
	for _, c := range plan.Changes {
		if c.Reason != rebalance.Leaving {
			t.Errorf("volume %d moves because it is %v", c.Row.ID, c.Reason)
		}
	}
	if len(plan.Changes) != 30 {
		t.Errorf("%d volumes move, 30 have to", len(plan.Changes))
	}
}

// TestAFewFullDrivesAreClearedByManyEmptyOnes: none of the many lies far below the mean.
func TestAFewFullDrivesAreClearedByManyEmptyOnes(t *testing.T) {
	w := &world{t: t}
	w.add("", 1, 12, 500*gib)
	w.write(100, gib) // a fifth of each
	w.add("", 1, 150, 500*gib)
	mean := 12 * 100 * gib / int64(len(w.drives))
	must := 12 * (100*gib - mean - 10*gib)
	w.evenOut(must)
}

// TestFullDrivesGiveSlots: what takes no bytes any more is what has to be relieved first.
func TestFullDrivesGiveSlots(t *testing.T) {
	w := &world{t: t}
	for peer := range 12 {
		w.add("", peer, 1, 100*gib)
	}
	w.write(96, gib)
	for i := range w.drives {
		w.drives[i].Full = true
	}
	for peer := range 12 {
		w.add("", peer, 1, 100*gib)
	}
	plan := w.make(4)
	if len(plan.Changes) == 0 {
		t.Fatal("no slot moves from drives at 96 % to empty ones")
	}
	for _, c := range plan.Changes {
		for i, id := range c.Row.Home {
			if c.Slots>>i&1 != 0 && slices.ContainsFunc(w.drives[:12], func(d rebalance.Drive) bool { return d.ID == id }) {
				t.Errorf("volume %d moves to a full drive", c.Row.ID)
			}
		}
	}
	for i := range w.drives {
		w.drives[i].Full = false // as they are when they were relieved
	}
	w.evenOut(12 * (48 - 2) * gib)
}

// TestDrivesOfAnySizeGetEven: on one peer only the rule of one slot per drive can stand against a move. When plans end,
// a drive that is too empty or too full still is so because no single move would help it.
func TestDrivesOfAnySizeGetEven(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := &world{t: r}
		size := func() int64 { return rapid.SampledFrom([]int64{100, 200, 400}).Draw(r, "size") * gib }
		for range rapid.IntRange(12, 20).Draw(r, "drives") {
			w.add("", 1, 1, size())
		}
		w.write(rapid.IntRange(1, 60).Draw(r, "volumes"), rapid.Int64Range(1, 2*gib).Draw(r, "bytes"))
		for range rapid.IntRange(0, 8).Draw(r, "new") {
			w.add("", 1, 1, size())
		}
		w.settle(rapid.IntRange(1, 20).Draw(r, "limit"))
		w.wantSettled()
		var used, all float64
		for _, d := range w.drives {
			used, all = used+float64(d.Used), all+float64(d.Size)
		}
		mean := 100 * used / all
		fill := func(d *rebalance.Drive, more int64) float64 { return 100 * float64(d.Used+more) / float64(d.Size) }
		for i := range w.drives {
			to := &w.drives[i]
			low := fill(to, 0) < mean-2
			if fill(to, 0) >= mean {
				continue
			}
			for _, v := range w.volumes {
				if slices.Contains(v.Home[:], to.ID) {
					continue
				}
				for _, id := range v.Home {
					from := w.drive(id)
					if !low && fill(from, 0) <= mean+2 {
						continue
					}
					closer := fill(to, 0)+fill(to, v.Bytes) < fill(from, 0)+fill(from, -v.Bytes)
					if fill(from, 0) > mean && fill(from, -v.Bytes) >= mean-2 && fill(to, v.Bytes) <= min(90, fill(from, 0)) && closer {
						r.Fatalf("drive %v at %.1f of a mean of %.1f could have a slot of volume %d from drive %v at %.1f", to.ID, fill(to, 0), mean, v.ID, id, fill(from, 0))
					}
				}
			}
		}
	})
}
