// Package placement decides on which drives the twelve shards of a chunk go. It is arithmetic on values: no files,
// clocks or goroutines, and the same input gives the same answer on every peer.
//
// The rules, in order: never two slots on one drive while another drive is free; then zones, racks, peers and devices
// share the slots as evenly as they can; then drives share the load by weight, so that of two drives that may both take
// a slot one of twice the size gets twice as many. Which shard goes to which of the chosen drives turns from group to
// group, so data and parity, and the much-read first shards, spread evenly.
//
// What the second rule costs where domains are unequal: of Z zones each gets 12/Z slots of a group, or one for each of
// its drives if those are fewer, whatever its size. A drive in a zone of z drives out of n thus holds n/(Z·z) times the
// mean, and never more than n/12 times; where the smallest zone is full, so is the cluster, but for the volumes that
// double up elsewhere. With 4 and 20 drives in two zones, each of the 4 holds twice the mean. The same goes for racks in
// a zone, peers in a rack and devices in a peer. Two zones cannot lose one, however even they are: to call them racks, or
// nothing, costs no safety.
package placement

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// Width is the number of slots of a group: the shards of a chunk in the default scheme, 8 data + 4 parity.
	Width = 12
	// Data is how many shards it takes to read.
	Data = 8
	// Least is the fewest drives that a group can be spread on: two slots on each, so a chunk survives the loss of
	// any two.
	Least = 6
	// GroupsPerDrive bounds the number of sets of drives whose loss together is fatal, and is enough for an even load.
	GroupsPerDrive = 100
	// Spare is how many drives a write must survive from the moment it is acknowledged.
	Spare = 2
)

// ErrTooFewDrives says that fewer drives than Least are there to place slots on.
var ErrTooFewDrives = errors.New("too few drives to place twelve shards on")

// Drive is what placement knows of a drive. Device is st_dev, which is unique on one peer only; empty Zone and Rack
// are one zone and one rack.
type Drive struct {
	ID     cluster.DriveID
	Peer   cluster.PeerID
	Device uint64
	Rack   string
	Zone   string
	// Weight says how much the drive can take beside others, such as its size in bytes. Zero stands for the mean of
	// those that have one; where none has, all weigh the same.
	Weight uint64
}

// Slots are the drives of shards 0..11.
type Slots [Width]cluster.DriveID

// domains of a drive from the widest to the narrowest; each name holds the wider ones in it.
type domains struct {
	zone   string
	rack   [2]string
	peer   cluster.PeerID
	device deviceKey
}

type deviceKey struct {
	peer   cluster.PeerID
	device uint64
}

func (d Drive) domains() domains {
	return domains{d.Zone, [2]string{d.Zone, d.Rack}, d.Peer, deviceKey{d.Peer, d.Device}}
}

// Groups returns count groups of twelve slots over the drives; ErrTooFewDrives when there are fewer than Least. A
// cluster wants GroupsPerDrive·len(drives)/Width of them, and at least Width.
func Groups(drives []Drive, count int) ([]Slots, error) {
	if len(drives) < Least {
		return nil, fmt.Errorf("%d drives: %w", len(drives), ErrTooFewDrives)
	}
	sorted := slices.Clone(drives)
	slices.SortFunc(sorted, func(a, b Drive) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	load := make(map[cluster.DriveID]int, len(drives))
	turn := make(turns, len(drives))
	groups := make([]Slots, count)
	for g := range groups {
		p := newPicker(sorted, uint64(g), load)
		chosen := make([]cluster.DriveID, 0, Width)
		for range Width {
			d := p.pick()
			load[d.ID]++
			chosen = append(chosen, d.ID)
		}
		slices.SortFunc(chosen, func(a, b cluster.DriveID) int { return bytes.Compare(a[:], b[:]) })
		for i := range chosen {
			groups[g][(i+g)%Width] = chosen[i]
		}
		turn.settle(&groups[g])
	}
	return groups, nil
}

// turns counts how often each drive has each shard.
type turns map[cluster.DriveID]*[Width]int

// settle swaps the shards of a group among its drives as long as that gives them to drives which had them less often.
func (t turns) settle(slots *Slots) {
	var had [Width]*[Width]int
	for i, id := range slots {
		if t[id] == nil {
			t[id] = new([Width]int)
		}
		had[i] = t[id]
	}
	for again := true; again; { // each swap lowers the sum of had[i][i], so this ends
		again = false
		for i := range slots {
			for j := range i {
				if had[j][i]+had[i][j] < had[i][i]+had[j][j] {
					slots[i], slots[j] = slots[j], slots[i]
					had[i], had[j] = had[j], had[i]
					again = true
				}
			}
		}
	}
	for i := range slots {
		had[i][i]++
	}
}

// Count returns how many groups a cluster of so many drives wants.
func Count(drives int) int {
	return max(Width, drives*GroupsPerDrive/Width)
}

// Substitute returns home with every slot on a drive that is not among healthy put on one that is. Slots at home stay
// there. It fails with ErrTooFewDrives when fewer than Least drives are healthy.
func Substitute(home Slots, healthy []Drive) (Slots, error) {
	if len(healthy) < Least {
		return Slots{}, fmt.Errorf("%d healthy drives: %w", len(healthy), ErrTooFewDrives)
	}
	sorted := slices.Clone(healthy)
	slices.SortFunc(sorted, func(a, b Drive) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	seed := sha256.New()
	for i := range home {
		seed.Write(home[i][:])
	}
	p := newPicker(sorted, binary.LittleEndian.Uint64(seed.Sum(nil)), nil)
	slots := home
	var away []int
	for i, id := range home {
		at := slices.IndexFunc(sorted, func(d Drive) bool { return d.ID == id })
		if at < 0 {
			away = append(away, i)
			continue
		}
		p.count(sorted[at])
	}
	for _, i := range away {
		slots[i] = p.pick().ID
	}
	return slots, nil
}

// picker chooses drives for the slots of one group, one after another.
type picker struct {
	drives []Drive
	order  []uint64 // a fixed random number of each drive in this group, the last tie-break; a heavy drive's is small
	load   map[cluster.DriveID]int

	weights []uint64 // relative, 1..maxWeight
	part    []uint32 // of a slot, in 2³², that each drive's share counts beside its load: random

	byDrive  map[cluster.DriveID]int
	byZone   map[string]int
	byRack   map[[2]string]int
	byPeer   map[cluster.PeerID]int
	byDevice map[deviceKey]int
}

func newPicker(drives []Drive, seed uint64, load map[cluster.DriveID]int) *picker {
	p := &picker{
		drives: drives, load: load, order: make([]uint64, len(drives)), weights: relative(drives),
		part:    make([]uint32, len(drives)),
		byDrive: make(map[cluster.DriveID]int), byZone: make(map[string]int), byRack: make(map[[2]string]int),
		byPeer: make(map[cluster.PeerID]int), byDevice: make(map[deviceKey]int),
	}
	for i, d := range drives {
		var text [24]byte
		binary.LittleEndian.PutUint64(text[:], seed)
		copy(text[8:], d.ID[:])
		sum := sha256.Sum256(text[:])
		p.part[i] = binary.LittleEndian.Uint32(sum[8:])
		p.order[i] = race(binary.LittleEndian.Uint64(sum[:]), p.weights[i])
	}
	return p
}

// rank is what a drive is judged by; the least rank, compared field by field, is chosen.
func (p *picker) rank(i int) [7]uint64 {
	d := p.drives[i]
	n := d.domains()
	return [7]uint64{
		uint64(p.byDrive[d.ID]), uint64(p.byZone[n.zone]), uint64(p.byRack[n.rack]), uint64(p.byPeer[n.peer]),
		uint64(p.byDevice[n.device]), p.share(i), p.order[i],
	}
}

// share is how much of its weight a drive would hold with a part of a slot more: whoever has the least is served next,
// which gives each its part of the slots to within one. The part is random for each drive and group, for with the same
// for all (half a slot is Webster's method) drives of one size would be served together, group after group of the same
// twelve. Without loads to balance all shares are equal.
func (p *picker) share(i int) uint64 {
	if p.load == nil {
		return 0
	}
	return (uint64(p.load[p.drives[i].ID])<<32 | uint64(p.part[i])) / p.weights[i]
}

func (p *picker) pick() Drive {
	best, bestRank := 0, p.rank(0)
	for i := 1; i < len(p.drives); i++ {
		if r := p.rank(i); slices.Compare(r[:], bestRank[:]) < 0 {
			best, bestRank = i, r
		}
	}
	p.count(p.drives[best])
	return p.drives[best]
}

func (p *picker) count(d Drive) {
	n := d.domains()
	p.byDrive[d.ID]++
	p.byZone[n.zone]++
	p.byRack[n.rack]++
	p.byPeer[n.peer]++
	p.byDevice[n.device]++
}

// Tolerates returns how many more domains may be lost, whichever they are, before fewer than Data of the durable
// shards (bit i: shard i) are left. domains[i] is what shard i lies on: its drive, or a name of its device or peer. It
// is negative when fewer than Data are durable now.
func Tolerates[D comparable](domains [Width]D, durable uint16) int {
	left := 0
	counts := make([]int, 0, Width)
	at := make(map[D]int, Width)
	for i, domain := range domains {
		if durable>>i&1 == 0 {
			continue
		}
		left++
		k, ok := at[domain]
		if !ok {
			k = len(counts)
			at[domain] = k
			counts = append(counts, 0)
		}
		counts[k]++
	}
	if left < Data {
		return -1
	}
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	losses := 0
	for left -= counts[0]; left >= Data; left -= counts[losses] {
		losses++
	}
	return losses
}

// Acknowledge is the ack rule: a chunk may be acknowledged when the durable shards, less those on the two drives that
// hold most of them, are enough to read it.
func Acknowledge(slots Slots, durable uint16) bool {
	return Tolerates(slots, durable) >= Spare
}
