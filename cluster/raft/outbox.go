package raft

import (
	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
)

// outbox gathers what a round has to say to each peer, so that the heartbeats of all groups go as one batch.
type outbox map[cluster.PeerID]*batch

// peerOf is the peer of a replica.
func (c *core) peerOf(group GroupID, replica uint64) (cluster.PeerID, bool) {
	if c.host.config.PeerOf == nil {
		return cluster.PeerID{}, false
	}
	return c.host.config.PeerOf(group, replica)
}

// post sends the messages of a round: first those of leaders, which need not wait for the log here, then the others.
func (c *core) post(readies []groupReady, first bool) {
	transport := c.host.config.Transport
	if transport == nil {
		return
	}
	for i := range readies {
		r := readies[i].r
		for _, m := range readies[i].ready.Messages {
			switch {
			case m.GetType() == raftpb.MsgSnap:
				if first {
					c.sends.add(sendOrder{group: r.id, to: m.GetTo(), term: m.GetTerm()})
				}
			case leads(m.GetType()) == first:
				r.tell(m)
				c.address(r.id, m)
			}
		}
	}
	for peer, b := range c.out {
		if b.count > 0 {
			transport.Send(peer, b.take())
		}
	}
}

// leads tells the messages that only a leader sends. They speak of nothing that its own log must have first.
func leads(t raftpb.MessageType) bool {
	return t == raftpb.MsgApp || t == raftpb.MsgHeartbeat || t == raftpb.MsgTimeoutNow
}

// address adds a message to the batch of its peer.
func (c *core) address(group GroupID, m *raftpb.Message) {
	if m.GetTo() == etcd.None {
		return // see hear
	}
	peer, known := c.peerOf(group, m.GetTo())
	if !known || !carried(m.GetType()) {
		return // Raft repeats what matters
	}
	b := c.out[peer]
	if b == nil {
		b = newBatch(c.host.config.Cluster)
		c.out[peer] = b
	}
	if err := b.add(GroupMessage{group, m}); err != nil {
		c.host.config.Log.Error("raft message cannot be encoded", "group", uint64(group), "err", err)
		return
	}
	if len(b.data) >= maxBatch {
		c.host.config.Transport.Send(peer, b.take())
	}
}
