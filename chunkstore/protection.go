package chunkstore

import (
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// The failure domains that losses are counted for, the narrowest first.
const (
	levelDrive = iota
	levelDevice
	levelPeer
	levelRack
	levelZone
	levels
)

// domainNames numbers the domains of every drive that takes part, so that a volume is told by small numbers.
type domainNames struct {
	of    map[cluster.DriveID][levels]uint16
	known [levels]map[domainName]uint16
}

// domainName names a domain of any level, the wider ones that it lies in included.
type domainName struct {
	zone, rack string
	peer       cluster.PeerID
	device     uint64
	drive      cluster.DriveID
}

func newDomainNames() *domainNames {
	n := &domainNames{of: make(map[cluster.DriveID][levels]uint16)}
	for i := range n.known {
		n.known[i] = make(map[domainName]uint16)
	}
	return n
}

// add makes a drive take part.
func (n *domainNames) add(id cluster.DriveID, device uint64, in Domains) {
	var numbers [levels]uint16
	for level, name := range [levels]domainName{
		levelDrive:  {drive: id},
		levelDevice: {peer: in.Peer, device: device},
		levelPeer:   {peer: in.Peer},
		levelRack:   {zone: in.Zone, rack: in.Rack},
		levelZone:   {zone: in.Zone},
	} {
		number, ok := n.known[level][name]
		if !ok {
			number = uint16(len(n.known[level]))
			n.known[level][name] = number
		}
		numbers[level] = number
	}
	n.of[id] = numbers
}

// protection is what the slots of a volume lie on, by number, as far as their drives take part (bit i of up: slot i).
type protection struct {
	on [levels][Shards]uint16
	up uint16
}

func (n *domainNames) protect(slots DriveIDs) protection {
	var p protection
	for i, id := range slots {
		numbers, ok := n.of[id]
		if !ok {
			continue
		}
		p.up |= 1 << i
		for level, number := range numbers {
			p.on[level][i] = number
		}
	}
	return p
}

// losses are how many more domains of each level may be lost.
type losses [levels]int

// count lowers the losses to those of a chunk with these shards.
func (l *losses) count(p *protection, shards uint16) {
	for level := range l {
		l[level] = min(l[level], placement.Tolerates(p.on[level], p.up&shards))
	}
}

func allLosses(n int) (l losses) {
	for level := range l {
		l[level] = n
	}
	return l
}

// losses sets what Health tells.
func (h *Health) losses(l losses) {
	h.DriveLosses, h.DeviceLosses = l[levelDrive], l[levelDevice]
	h.PeerLosses, h.RackLosses, h.ZoneLosses = l[levelPeer], l[levelRack], l[levelZone]
}
