package membership

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist asks and tells. NotifyAlive, NotifyConflict and the events are called under memberlist's
// lock, and log there: few lines, and in the order of what happened.
type delegate struct{ m *Membership }

var (
	errStranger = errors.New("not a peer of this cluster")
	errForged   = errors.New("not what the peer says of itself")
	errCrowded  = errors.New("too many processes of one peer")
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
	m := d.m
	name, err := parseName(node.Name)
	if err != nil || !m.allowed(name.id) {
		m.strangers.Add(1)
		return errStranger
	}
	// What others tell of this very process memberlist refutes.
	if name == m.name && address(node) == m.gossip || m.verified(name, node) {
		return nil
	}
	err = m.verify(name, node)
	switch {
	case errors.Is(err, errForged):
		m.forged.Add(1)
		if m.due(&m.toldForged) {
			m.log.Warn("somebody with the gossip key claims to be another peer, or a peer signs with a key that is not known here; if it goes on, rotate the gossip key",
				"member", name.id.String(), "gossip", node.Address(), "err", err)
		}
	case errors.Is(err, errCrowded):
		m.duplicate(name.id.String(), node.Address(), "many")
	case err != nil:
		m.unreadable.Add(1)
	}
	return err
}

// verified says whether these very bytes were found good before: most news is.
func (m *Membership) verified(name nodeName, node *memberlist.Node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.peers[name.id][name.incarnation]
	return l != nil && l.member.Gossip == address(node) && bytes.Equal(l.meta, node.Meta)
}

// verify says whether the peer itself has told what memberlist was told of it.
func (m *Membership) verify(name nodeName, node *memberlist.Node) error {
	body, signature, err := unpack(node.Meta)
	if err != nil {
		return err
	}
	told, err := parse(body)
	if err != nil {
		return err
	}
	if told.Incarnation != name.incarnation {
		return fmt.Errorf("data of incarnation %x: %w", told.Incarnation, errForged)
	}
	if at := address(node); !at.IsValid() || told.gossip != at {
		return fmt.Errorf("data of who takes gossip on %s: %w", told.gossip, errForged)
	}
	if err := m.config.Verify(name.id, statement(m.config.Cluster, name.id, body), signature); err != nil {
		return fmt.Errorf("%w: %w", errForged, err)
	}
	return m.room(name)
}

// room says whether one more process of the peer may be heard of.
func (m *Membership) room(name nodeName) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ls := m.peers[name.id]; ls[name.incarnation] == nil && len(ls) >= livesLimit {
		return errCrowded
	}
	return nil
}

// NotifyMerge implements memberlist.MergeDelegate: a peer that brings nobody of this cluster is not merged with. Of the
// others NotifyAlive refuses each stranger by itself, so that one peer which was removed from the cluster a moment ago
// does not keep apart those who still have it in their tables. Who is just starting brings nobody at all, and is no
// stranger for that.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	if len(nodes) == 0 {
		return nil
	}
	for _, node := range nodes {
		if name, err := parseName(node.Name); err == nil && d.m.allowed(name.id) {
			return nil
		}
	}
	d.m.strangers.Add(1)
	return errStranger
}

// NotifyConflict implements memberlist.ConflictDelegate: one incarnation at two addresses. memberlist has kept the first.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.m.duplicate(existing.Name, existing.Address(), other.Address())
}

// duplicate tells of one peer that runs twice.
func (m *Membership) duplicate(member, one, two string) {
	m.duplicates.Add(1)
	if m.due(&m.toldDuplicate) {
		m.log.Warn("one peer runs at two addresses; one of the two has a copy of its drives and must be stopped",
			"member", member, "gossip", one, "other", two)
	}
}

// tellPause keeps what comes again with every gossip from filling the log.
const tellPause = time.Minute

// due says whether it is time to tell again what was told then.
func (m *Membership) due(told *time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !told.IsZero() && time.Since(*told) < tellPause {
		return false
	}
	*told = time.Now()
	return true
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(node *memberlist.Node) { d.m.heard(node) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(node *memberlist.Node) { d.m.heard(node) }

func (m *Membership) heard(node *memberlist.Node) {
	name, err := parseName(node.Name)
	if err != nil {
		return
	}
	told, err := decode(node.Meta)
	if err != nil {
		return
	}
	m.change(name.id, func(ls lives) { ls.hear(name.id, told, bytes.Clone(node.Meta), time.Now()) })
}

func address(node *memberlist.Node) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(node.Addr)
	return netip.AddrPortFrom(ip.Unmap(), node.Port)
}

// NotifyLeave implements memberlist.EventDelegate. It is called for the dead too.
func (d delegate) NotifyLeave(node *memberlist.Node) {
	if name, err := parseName(node.Name); err == nil {
		d.m.change(name.id, func(ls lives) { ls.die(name.incarnation, time.Now()) })
	}
}

// AckPayload implements memberlist.PingDelegate.
func (delegate) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate: the process has answered this peer.
func (d delegate) NotifyPingComplete(node *memberlist.Node, took time.Duration, _ []byte) {
	m := d.m
	name, err := parseName(node.Name)
	if err != nil {
		return
	}
	sent := time.Now().Add(-took)
	var shown Member
	twice := false
	m.change(name.id, func(ls lives) {
		ls.suspect(name.incarnation, time.Time{})
		shown, twice = m.shown(name.id).look(), name.id == m.config.Self || ls.outlived(name.incarnation, sent)
	})
	if twice {
		m.duplicate(name.id.String(), node.Address(), shown.Gossip.String())
	}
}
