package replicas

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
)

// Place is a replica and where it is.
type Place struct {
	Replica   uint64
	Peer      cluster.PeerID
	Name      string // of the peer; empty when the map does not know it yet
	Reachable bool
	// Lost says that the peer was found not to hold the replica; the leader's peer finds it out. It is not Reachable then.
	Lost bool
}

// Status is what can be said of a group on this peer.
type Status struct {
	Group            raft.GroupID
	Voters, Learners []Place
	// Leader leads as far as this peer knows; its Replica is 0 when nobody does.
	Leader Place
	// Target is how many voters there should be for the peers that there are.
	Target int
	Losses Losses
}

// Status tells of every group that has a replica here, as far as is known here; its leader knows best.
func (w *Worker) Status() ([]Status, error) {
	hosted, err := HostedBy(w.config.Host)
	if err != nil {
		return nil, err
	}
	m := w.config.Map()
	active := 0
	for _, peer := range m.Peers {
		if peer.State == topology.Active {
			active++
		}
	}
	var list []Status
	for _, h := range hosted {
		member := w.config.Host.Group(h.Group)
		if member == nil {
			continue // it was removed meanwhile
		}
		s := Status{Group: h.Group, Target: w.config.Settings().Target(h.Group, active)}
		voters, learners := member.Members()
		s.Voters, s.Learners = w.places(&m, h.Group, voters), w.places(&m, h.Group, learners)
		if leader := member.Leader(); leader.Replica != 0 {
			s.Leader = w.place(&m, h.Group, leader.Replica)
		}
		s.Losses = losses(&m, s.Voters)
		list = append(list, s)
	}
	return list, nil
}

func (w *Worker) places(m *topology.Map, group raft.GroupID, replicas []uint64) (list []Place) {
	for _, id := range replicas {
		list = append(list, w.place(m, group, id))
	}
	slices.SortFunc(list, func(a, b Place) int {
		return cmp.Or(cmp.Compare(PeerNumber(a.Replica), PeerNumber(b.Replica)), cmp.Compare(a.Replica, b.Replica))
	})
	return list
}

func (w *Worker) place(m *topology.Map, group raft.GroupID, replica uint64) Place {
	peer, known := m.ByNumber(PeerNumber(replica))
	if !known {
		return Place{Replica: replica}
	}
	lost := (*w.lost.Load())[lostReplica{group, replica}]
	return Place{Replica: replica, Peer: peer.ID, Name: peer.Name, Reachable: !lost && w.reaches(peer.ID), Lost: lost}
}

func (w *Worker) reaches(peer cluster.PeerID) bool {
	if peer == w.config.Self {
		return true
	}
	reachable, _ := w.config.Reachable(peer)
	return reachable
}

// losses are those that a group with these voters tolerates. A voter on a peer that is removed counts as lost.
func losses(m *topology.Map, voters []Place) Losses {
	var peers []topology.Peer
	here := map[uint16]bool{}
	for i, v := range voters {
		peer, _ := m.ByNumber(PeerNumber(v.Replica)) // the zero Peer for one that is not known: it is not reachable
		peer.Number = uint16(i)                      // a peer may have a lost voter beside its own
		here[peer.Number] = v.Reachable && peer.State != topology.Removed
		peers = append(peers, peer)
	}
	return Tolerated(peers, func(p topology.Peer) bool { return here[p.Number] })
}

// ErrNeeded says that a group cannot do without a peer.
var ErrNeeded = errors.New("the peer is needed for a majority")

// CanLose tells whether every group of a Status can agree on what follows when a peer is gone for ever: nil, or an error that
// wraps ErrNeeded and names the group. Ask the Status of peers that lead: others may not know the newest members.
func CanLose(groups []Status, peer cluster.PeerID) error {
	for _, s := range groups {
		left, needed := 0, false
		for _, v := range s.Voters {
			needed = needed || v.Peer == peer
			if v.Reachable && v.Peer != peer {
				left++
			}
		}
		if all := len(s.Voters); needed && left < majority(all) {
			return fmt.Errorf("group %d: without it %d of %d voters can be reached, and %d must agree: %w", s.Group, left, all, majority(all), ErrNeeded)
		}
	}
	return nil
}

// CanLose is the function of this name for the groups that have a replica on this peer.
func (w *Worker) CanLose(peer cluster.PeerID) error {
	groups, err := w.Status()
	if err != nil {
		return err
	}
	return CanLose(groups, peer)
}
