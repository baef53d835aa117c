package membership

import (
	"errors"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast/holdfast/cluster"
)

// delegate is what memberlist asks and tells. NotifyAlive, NotifyConflict and the events are called under memberlist's
// lock, and log there: few lines, and in the order of what happened.
type delegate struct{ m *Membership }

var (
	errStranger  = errors.New("not a peer of this cluster")
	errNoAddress = errors.New("no address")
)

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte { return *d.m.own.Load() }

// NotifyMsg implements memberlist.Delegate: there are no messages of our own.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: an error keeps the node out.
func (d delegate) NotifyAlive(node *memberlist.Node) error {
	id, err := d.m.admit(node)
	if err != nil {
		return err
	}
	if id == d.m.config.Self {
		return nil
	}
	_, err = decode(node.Meta)
	if err == nil && !address(node).IsValid() {
		err = errNoAddress
	}
	if err != nil {
		d.m.unreadable.Add(1)
	}
	return err
}

// admit refuses a node whose name is not the id of a peer of the cluster.
func (m *Membership) admit(node *memberlist.Node) (cluster.PeerID, error) {
	id, err := cluster.ParseID(node.Name)
	// The name must be the one form of the id, else one peer could appear twice.
	if err != nil || id.String() != node.Name || !m.allowed(cluster.PeerID(id)) {
		m.strangers.Add(1)
		return cluster.PeerID{}, errStranger
	}
	return cluster.PeerID(id), nil
}

// NotifyMerge implements memberlist.MergeDelegate: a peer that brings nobody of this cluster is not merged with. Of the
// others NotifyAlive refuses each stranger by itself, so that one peer which was removed from the cluster a moment ago
// does not keep apart those who still have it in their tables.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	for _, node := range nodes {
		if id, err := cluster.ParseID(node.Name); err == nil && d.m.allowed(cluster.PeerID(id)) {
			return nil
		}
	}
	d.m.strangers.Add(1)
	return errStranger
}

// duplicatePause keeps a duplicate, which gossips without end, from filling the log.
const duplicatePause = time.Minute

// NotifyConflict implements memberlist.ConflictDelegate: memberlist has kept the first.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	m := d.m
	m.duplicates.Add(1)
	m.mu.Lock()
	quiet := !m.warned.IsZero() && time.Since(m.warned) < duplicatePause
	if !quiet {
		m.warned = time.Now()
	}
	m.mu.Unlock()
	if quiet {
		return
	}
	m.log.Warn("a peer's id is used at two addresses; unless it has just moved, one of the two has a copy of its drives and must be stopped",
		"member", existing.Name, "kept", existing.Address(), "refused", other.Address())
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(node *memberlist.Node) { d.m.heard(node) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(node *memberlist.Node) { d.m.heard(node) }

func (m *Membership) heard(node *memberlist.Node) {
	id, err := cluster.ParseID(node.Name)
	if err != nil {
		return
	}
	told, err := decode(node.Meta)
	if err != nil {
		return
	}
	member := Member{ID: cluster.PeerID(id), Data: told.Data, Gossip: address(node), State: Alive, Since: time.Now()}
	if told.leaving {
		member.State = Left
	}
	m.mu.Lock()
	before := m.members[member.ID]
	if before != nil && before.member.State == member.State {
		member.Since = before.member.Since
	}
	m.members[member.ID] = &entry{member: member}
	m.changed()
	m.mu.Unlock()
	if before == nil || before.member.State != member.State {
		m.log.Info("peer is "+member.State.String(), "member", node.Name, "name", member.Name, "gossip", member.Gossip.String())
	}
}

func address(node *memberlist.Node) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(node.Addr)
	return netip.AddrPortFrom(ip.Unmap(), node.Port)
}

// NotifyLeave implements memberlist.EventDelegate. It is called for the dead too.
func (d delegate) NotifyLeave(node *memberlist.Node) {
	m := d.m
	id, err := cluster.ParseID(node.Name)
	if err != nil {
		return
	}
	if name, ok := m.died(cluster.PeerID(id)); ok {
		m.log.Info("peer is dead", "member", node.Name, "name", name, "gossip", node.Address())
	}
}

// died returns the name of who died, false when nobody did: who said that it goes has left.
func (m *Membership) died(id cluster.PeerID) (name string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.members[id]
	if e == nil || e.member.State == Left {
		return "", false
	}
	e.member.State, e.member.Since, e.suspected = Dead, time.Now(), time.Time{}
	m.changed()
	return e.member.Name, true
}

// AckPayload implements memberlist.PingDelegate.
func (delegate) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate: the node has answered this peer.
func (d delegate) NotifyPingComplete(node *memberlist.Node, _ time.Duration, _ []byte) {
	if id, err := cluster.ParseID(node.Name); err == nil {
		d.m.suspect(cluster.PeerID(id), time.Time{})
	}
}

// suspect notes since when a member has not answered; zero takes the suspicion away.
func (m *Membership) suspect(id cluster.PeerID, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.members[id]
	if e == nil || e.member.State != Alive || e.suspected.IsZero() == since.IsZero() {
		return
	}
	e.suspected = since
	m.changed()
}
