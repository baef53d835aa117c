// Package topology is the map of a cluster: its peers, their drives, and the placement groups over them. It lives as
// rows of the root group, under one number, the epoch: whoever changes any of it changes the epoch in the same command,
// so a Map is always of one moment, and two changes never mix.
//
//	join, drain, drive add ─ Change(edit) ─ rows of one command ─► root group ─► Watcher on every peer ─ Map
//
// Placement groups follow from the rest: when a change adds or takes drives that may hold shards, new groups over all of
// them replace the old ones in the same command. Volumes keep the drives that they were made on (their rows name them).
package topology

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// Errors of changes.
var (
	// ErrUnknownPeer says that the cluster has no such peer.
	ErrUnknownPeer = errors.New("no such peer")
	// ErrUnknownDrive says that the cluster has no such drive.
	ErrUnknownDrive = errors.New("no such drive")
	// ErrNameTaken says that another peer has that name.
	ErrNameTaken = errors.New("another peer has that name")
	// ErrFull says that the cluster has as many peers as it can number.
	ErrFull = errors.New("the cluster has no number left for another peer")
)

// State says what a peer or a drive is for.
type State string

// The states, in the only order they are passed through. Active may be drained and be active again.
const (
	// Active takes part.
	Active State = "active"
	// Draining gives away what it holds: no new shard and no replica goes there.
	Draining State = "draining"
	// Removed is gone for ever. The row of a peer stays, so that its number is never given out again.
	Removed State = "removed"
)

// Peer is one peer of the cluster.
type Peer struct {
	ID cluster.PeerID
	// Number is the peer's short name in ids of replicas. It counts from 1 and is never given out again.
	Number uint16
	// Name is unique among the peers that are not removed.
	Name       string
	Zone, Rack string
	// Peer, Gossip and S3 are where it listens for other peers, for gossip and for clients, as host:port.
	Peer, Gossip, S3 string
	// TLS says that S3 is served over TLS.
	TLS   bool
	State State
	// Out says that it was silent for so long that its shards are made again elsewhere. It is in again when it is back.
	Out bool
	// Key is the public key of its certificate, which verifies what it tells of itself.
	Key ed25519.PublicKey
	// Command is the newest format of commands that it knows.
	Command uint32
}

// Drive is one drive of the cluster.
type Drive struct {
	ID   cluster.DriveID
	Name string // unique on its peer: d1 … d12
	Path string // where it was last seen
	Peer cluster.PeerID
	// Device is st_dev of what it lies on, unique on its peer.
	Device uint64
	// Size is the size of its file system in bytes: its weight. 0: not known.
	Size  int64
	State State
	// Out says that it has not worked for so long that its shards are made again elsewhere.
	Out bool
}

// Group is a placement group: a set of twelve slots.
type Group struct {
	Number uint32
	Slots  placement.Slots
}

// Settings are what an operator may choose for the whole cluster. The zero Settings are the defaults.
type Settings struct {
	// Voters and RootVoters are how many voters a tablet and the root group have; 0: as many as suit the peers.
	Voters     int `json:"voters,omitempty"`
	RootVoters int `json:"root_voters,omitempty"`
}

// Map is the cluster at one epoch. Lists are in order: peers by number, drives by id, groups by number.
type Map struct {
	Epoch  cluster.Epoch
	Peers  []Peer
	Drives []Drive
	Groups []Group
	// Settings are what an operator chose for the whole cluster.
	Settings Settings

	revisions map[rowName]uint64 // of the rows it was read from
}

// Peer finds a peer that is not removed.
func (m *Map) Peer(id cluster.PeerID) (Peer, bool) {
	if p := m.peer(id); p != nil && p.State != Removed {
		return *p, true
	}
	return Peer{}, false
}

func (m *Map) peer(id cluster.PeerID) *Peer {
	for i := range m.Peers {
		if m.Peers[i].ID == id {
			return &m.Peers[i]
		}
	}
	return nil
}

// ByNumber finds a peer by its number, removed ones too.
func (m *Map) ByNumber(number uint16) (Peer, bool) {
	at, ok := slices.BinarySearchFunc(m.Peers, number, func(p Peer, n uint16) int { return cmp.Compare(p.Number, n) })
	if !ok {
		return Peer{}, false
	}
	return m.Peers[at], true
}

// Named finds a peer that is not removed by its name, or by its id as text.
func (m *Map) Named(name string) (Peer, error) {
	for _, p := range m.Peers {
		if p.State != Removed && (p.Name == name || p.ID.String() == name) {
			return p, nil
		}
	}
	return Peer{}, fmt.Errorf("%q: %w", name, ErrUnknownPeer)
}

// Members are the peers that are not removed.
func (m *Map) Members() []Peer {
	var list []Peer
	for _, p := range m.Peers {
		if p.State != Removed {
			list = append(list, p)
		}
	}
	return list
}

// Drive finds a drive.
func (m *Map) Drive(id cluster.DriveID) (Drive, bool) {
	at, ok := m.findDrive(id)
	if !ok {
		return Drive{}, false
	}
	return m.Drives[at], true
}

func (m *Map) findDrive(id cluster.DriveID) (int, bool) {
	return slices.BinarySearchFunc(m.Drives, id, func(d Drive, id cluster.DriveID) int { return bytes.Compare(d.ID[:], id[:]) })
}

// Domains are where a drive lies, as placement sees it. ok is false for a drive that the map does not know.
func (m *Map) Domains(id cluster.DriveID) (d placement.Drive, ok bool) {
	drive, ok := m.Drive(id)
	if !ok {
		return placement.Drive{}, false
	}
	peer := m.peer(drive.Peer)
	if peer == nil {
		return placement.Drive{}, false
	}
	return placement.Drive{ID: id, Peer: drive.Peer, Device: drive.Device, Rack: peer.Rack, Zone: peer.Zone, Weight: uint64(max(0, drive.Size))}, true
}

// Placeable are the drives that may take new shards: active ones on active peers, that are not out.
func (m *Map) Placeable() []placement.Drive {
	var list []placement.Drive
	for _, d := range m.Drives {
		peer := m.peer(d.Peer)
		if d.State != Active || d.Out || peer == nil || peer.State != Active || peer.Out {
			continue
		}
		if at, ok := m.Domains(d.ID); ok {
			list = append(list, at)
		}
	}
	return list
}

// clone copies a map so that an edit leaves the other alone. Groups and revisions are replaced, never changed.
func (m *Map) clone() Map {
	c := *m
	c.Peers, c.Drives = slices.Clone(m.Peers), slices.Clone(m.Drives)
	return c
}

// AddPeer adds a peer and gives it its number.
func (m *Map) AddPeer(p Peer) (Peer, error) {
	if m.peer(p.ID) != nil {
		return Peer{}, fmt.Errorf("add peer %v: it is known already", p.ID)
	}
	if other, err := m.Named(p.Name); err == nil {
		return Peer{}, fmt.Errorf("%q is peer %v: %w", p.Name, other.ID, ErrNameTaken)
	}
	last := uint16(0)
	if n := len(m.Peers); n > 0 {
		last = m.Peers[n-1].Number
	}
	if last == 1<<16-1 {
		return Peer{}, ErrFull
	}
	p.Number = last + 1
	if p.State == "" {
		p.State = Active
	}
	m.Peers = append(m.Peers, p)
	return p, nil
}

// SetPeer replaces what is known of a peer; its number stays.
func (m *Map) SetPeer(p Peer) error {
	old := m.peer(p.ID)
	if old == nil {
		return fmt.Errorf("peer %v: %w", p.ID, ErrUnknownPeer)
	}
	if other, err := m.Named(p.Name); err == nil && other.ID != p.ID {
		return fmt.Errorf("%q is peer %v: %w", p.Name, other.ID, ErrNameTaken)
	}
	p.Number = old.Number
	*old = p
	return nil
}

// SetDrive adds a drive or replaces what is known of it.
func (m *Map) SetDrive(d Drive) error {
	if m.peer(d.Peer) == nil {
		return fmt.Errorf("drive %s of peer %v: %w", d.Name, d.Peer, ErrUnknownPeer)
	}
	if d.State == "" {
		d.State = Active
	}
	at, ok := m.findDrive(d.ID)
	if ok {
		m.Drives[at] = d
	} else {
		m.Drives = slices.Insert(m.Drives, at, d)
	}
	return nil
}

// RemoveDrive takes a drive out of the map.
func (m *Map) RemoveDrive(id cluster.DriveID) error {
	at, ok := m.findDrive(id)
	if !ok {
		return fmt.Errorf("drive %v: %w", id, ErrUnknownDrive)
	}
	m.Drives = slices.Delete(m.Drives, at, at+1)
	return nil
}

// place makes the placement groups anew. They are numbered on from the highest there was.
func (m *Map) place() error {
	last := uint32(0)
	if n := len(m.Groups); n > 0 {
		last = m.Groups[n-1].Number
	}
	drives := m.Placeable()
	if len(drives) < placement.Least {
		m.Groups = nil
		return nil
	}
	slots, err := placement.Groups(drives, placement.Count(len(drives)))
	if err != nil {
		return err
	}
	m.Groups = make([]Group, len(slots))
	for i := range slots {
		m.Groups[i] = Group{Number: last + uint32(i) + 1, Slots: slots[i]}
	}
	return nil
}
