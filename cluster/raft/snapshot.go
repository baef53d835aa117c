package raft

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster/kv"
)

// snapshotHead says what a stream or a file holds: the state of a group at an applied index, from one replica to another.
type snapshotHead struct {
	group    GroupID
	from, to uint64
	term     uint64 // of the leader that sends it
	at       applied
	members  members
}

func (h snapshotHead) encode() []byte {
	var buf []byte
	for _, n := range []uint64{uint64(h.group), h.from, h.to, h.term, h.at.index, h.at.term} {
		buf = binary.LittleEndian.AppendUint64(buf, n)
	}
	return h.members.append(append(buf, h.at.hash[:]...))
}

func decodeSnapshotHead(magic string, data []byte) (snapshotHead, error) {
	const fixed = 6*8 + sha256.Size
	if magic != snapshotMagic || len(data) < fixed {
		return snapshotHead{}, errBlock
	}
	var n [6]uint64
	for i := range n {
		n[i] = binary.LittleEndian.Uint64(data[8*i:])
	}
	h := snapshotHead{
		group: GroupID(n[0]), from: n[1], to: n[2], term: n[3],
		at: applied{index: n[4], term: n[5], hash: digest(data[48:fixed])},
	}
	var rest []byte
	var err error
	if h.members, rest, err = decodeMembers(data[fixed:]); err != nil {
		return h, err
	}
	sound := h.from != 0 && h.to != 0 && h.at.index > 0 && h.at.term > 0 && h.at.term <= h.term && len(h.members.voters) > 0
	if !sound || len(rest) > 0 || !h.members.has(h.to) {
		return h, errBlock
	}
	return h, nil
}

// message is the snapshot as Raft knows it.
func (h snapshotHead) message() *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: &h.from, To: &h.to, Term: &h.term,
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &h.at.index, Term: &h.at.term, ConfState: h.members.conf()}},
	}
}

// snapshotMetadata is what a snapshot taken now would be of; nil when none can be sent.
func (r *replica) snapshotMetadata() *raftpb.SnapshotMetadata {
	if !r.sendable || r.filling || r.point.index == 0 {
		return nil
	}
	index, term := r.point.index, r.point.term
	return &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: r.members.conf()}
}

// SnapshotTransport carries the state of groups to the replicas of other peers.
type SnapshotTransport interface {
	// Send carries a stream to Host.Install of a peer and returns what that returned, or why the stream did not arrive
	// whole. It reads as fast as the peer takes it, and returns soon after ctx ends.
	Send(ctx context.Context, to PeerReplica, stream io.Reader) error
}

// sendOrder is a replica that needs the state of its group, as the leader of a term found.
type sendOrder struct {
	group    GroupID
	to, term uint64
}

// sendQueue holds the replicas that wait for a snapshot. Each stands in it once.
type sendQueue struct {
	mu   sync.Mutex
	list []sendOrder
	wake chan struct{} // something was added; room for one
}

func (q *sendQueue) add(o sendOrder) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range q.list {
		if other.group == o.group && other.to == o.to {
			q.list[i] = o
			return
		}
	}
	q.list = append(q.list, o)
	q.notify()
}

func (q *sendQueue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next takes the first; false means that ctx ended.
func (q *sendQueue) next(ctx context.Context) (sendOrder, bool) {
	for {
		q.mu.Lock()
		if len(q.list) > 0 {
			o := q.list[0]
			q.list = q.list[1:]
			if len(q.list) > 0 {
				q.notify() // another sender may take it
			}
			q.mu.Unlock()
			return o, true
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return sendOrder{}, false
		}
	}
}

const (
	// sendsAtOnce is how many snapshots a host sends at a time, and how many it takes.
	sendsAtOnce = 2
	// snapshotPatience is how long a stream may stand still.
	snapshotPatience = time.Minute
)

// sendSnapshots sends one snapshot after another until ctx ends.
func (c *core) sendSnapshots(ctx context.Context) {
	for {
		o, ok := c.sends.next(ctx)
		if !ok {
			return
		}
		log := c.host.config.Log.With("group", uint64(o.group), "replica", o.to)
		begun := time.Now()
		size, err := c.sendSnapshot(ctx, o)
		if err != nil && ctx.Err() == nil {
			log.Warn("snapshot not sent", "err", err)
		} else if err == nil {
			log.Info("snapshot sent", "bytes", size, "took", time.Since(begun))
		}
		if err := c.ask(ctx, func() error { c.sent(o, err == nil); return nil }); err != nil {
			return
		}
	}
}

// errNoLongerLeads ends the sending of a snapshot that another leader may have to send.
var errNoLongerLeads = errors.New("the replica leads no longer")

// sendSnapshot exports the state of a group, as it is now, to a replica.
func (c *core) sendSnapshot(ctx context.Context, o sendOrder) (size int64, err error) {
	var head snapshotHead
	var spans []kv.Span
	var snap *kv.Snapshot
	err = c.ask(ctx, func() (err error) {
		r := c.find(o.group)
		if r == nil || !r.leader || r.term != o.term || r.filling {
			return errNoLongerLeads
		}
		head = snapshotHead{group: r.id, from: r.replica, to: o.to, term: r.term, at: r.point, members: r.members}
		spans = r.machine.Spans()
		if snap, err = c.db.Snapshot(); err == nil {
			r.holds[o.to] = r.point.index
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	defer snap.Close()
	peer, known := c.peerOf(o.group, o.to)
	if !known {
		return 0, fmt.Errorf("replica %d: %w", o.to, ErrNoReplica)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := time.AfterFunc(snapshotPatience, cancel)
	defer watch.Stop()
	s := &snapshotStream{
		ctx: ctx, at: blockAt{cluster: c.host.config.Cluster}, head: head, pairs: pairSource{reader: snap, spans: spans}, pace: c.host.pace, watch: watch,
	}
	defer s.pairs.close()
	err = c.host.config.Snapshots.Send(ctx, PeerReplica{Peer: peer, Group: o.group, Replica: o.to}, s)
	return s.size, err
}

// sent tells Raft how the sending of a snapshot ended.
func (c *core) sent(o sendOrder, whole bool) {
	r := c.find(o.group)
	if r == nil || !r.leader || r.term != o.term {
		return
	}
	delete(r.holds, o.to)
	status := etcd.SnapshotFinish
	if !whole {
		status = etcd.SnapshotFailure
	}
	r.node.ReportSnapshot(o.to, status)
	c.touch(r)
}

// snapshotStream is a snapshot as it is sent: a head, then pairs, in sealed blocks.
type snapshotStream struct {
	ctx   context.Context // of the one call that reads the stream
	at    blockAt
	prev  digest
	head  snapshotHead
	pairs pairSource
	pace  *pacer
	watch *time.Timer
	rest  []byte // of the block under way
	done  bool
	size  int64
}

// Read implements io.Reader.
func (s *snapshotStream) Read(p []byte) (int, error) {
	s.watch.Reset(snapshotPatience)
	if len(s.rest) == 0 {
		if s.done {
			return 0, io.EOF
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *snapshotStream) next() error {
	magic, payload := blockMagic, []byte(nil)
	if s.at.index == 0 {
		magic, payload = snapshotMagic, s.head.encode()
	} else {
		var err error
		if payload, err = s.pairs.next(); err != nil {
			return err
		}
		s.done = len(payload) == 0
	}
	s.rest, s.prev = encodeBlock(s.at, magic, s.done, s.prev, payload)
	s.at.index++
	s.size += int64(len(s.rest))
	return s.pace.wait(s.ctx, len(s.rest))
}

// pacer bounds the bytes a second of all who share it.
type pacer struct {
	rate int64

	mu   sync.Mutex
	next time.Time // when the bytes asked for so far have had their time
}

// wait waits until n bytes may go.
func (p *pacer) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	pause := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(int64(n) * int64(time.Second) / p.rate))
	p.mu.Unlock()
	if pause == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
