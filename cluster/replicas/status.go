package replicas

import (
	"cmp"
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
		s.Voters, s.Learners = w.places(&m, voters), w.places(&m, learners)
		if leader := member.Leader(); leader.Replica != 0 {
			s.Leader = w.place(&m, leader.Replica)
		}
		s.Losses = w.losses(&m, s.Voters)
		list = append(list, s)
	}
	return list, nil
}

func (w *Worker) places(m *topology.Map, replicas []uint64) (list []Place) {
	for _, id := range replicas {
		list = append(list, w.place(m, id))
	}
	slices.SortFunc(list, func(a, b Place) int { return cmp.Compare(PeerNumber(a.Replica), PeerNumber(b.Replica)) })
	return list
}

func (w *Worker) place(m *topology.Map, replica uint64) Place {
	peer, known := m.ByNumber(PeerNumber(replica))
	if !known {
		return Place{Replica: replica}
	}
	return Place{Replica: replica, Peer: peer.ID, Name: peer.Name, Reachable: w.reaches(peer.ID)}
}

func (w *Worker) reaches(peer cluster.PeerID) bool {
	if peer == w.config.Self {
		return true
	}
	reachable, _ := w.config.Reachable(peer)
	return reachable
}

// losses are those that a group with these voters tolerates. A voter on a peer that is removed counts as lost.
func (w *Worker) losses(m *topology.Map, voters []Place) Losses {
	var peers []topology.Peer
	for _, v := range voters {
		peer, _ := m.ByNumber(PeerNumber(v.Replica)) // the zero Peer for one that is not known: it is not reachable
		peers = append(peers, peer)
	}
	return Tolerated(peers, func(p topology.Peer) bool {
		return p.Number != 0 && p.State != topology.Removed && w.reaches(p.ID)
	})
}
