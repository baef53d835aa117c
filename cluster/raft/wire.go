package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster"
)

// The boxes of a batch are in FORMAT.md.
const (
	batchMagic  = "HFRAFTM1"
	batchHeader = 32

	// maxBatch is the size after which a batch is sent; another message may follow in the next. MaxBatch bounds what a
	// receiver believes: a target, and one message with one entry.
	maxBatch = 4 << 20
	// maxCarried bounds the messages of a batch.
	maxCarried = 1 << 20
)

// MaxBatch is the longest batch in bytes that Transport.Send gets.
const MaxBatch = 16 << 20

// What an item of a batch is.
const (
	itemMessage   = 1
	itemHeartbeat = 2
	itemBeatReply = 3
)

// maxBeatContext bounds the context of a heartbeat in its short form.
const maxBeatContext = 64

var (
	errBatch   = errors.New("batch of raft messages is damaged")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// GroupMessage is a message of Raft to a replica of a group.
type GroupMessage struct {
	Group   GroupID
	Message *raftpb.Message
}

// carried tells the messages that go from peer to peer. Snapshots go as streams; the rest is local.
func carried(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
		return true
	}
	return false
}

// batch gathers encoded messages.
type batch struct {
	cluster cluster.ClusterID
	data    []byte
	count   uint32
}

func newBatch(id cluster.ClusterID) *batch { return &batch{cluster: id} }

// add appends a message: heartbeats, of which there are many, without protobuf.
func (b *batch) add(m GroupMessage) error {
	if b.count == 0 {
		b.data = append(make([]byte, 0, batchHeader+512), make([]byte, batchHeader)...)
	}
	if kind := beatKind(m.Message); kind != 0 {
		b.data = appendBeat(append(b.data, kind), m)
		b.count++
		return nil
	}
	encoded, err := proto.Marshal(m.Message)
	if err != nil {
		return err
	}
	b.data = binary.AppendUvarint(append(b.data, itemMessage), uint64(m.Group))
	b.data = append(binary.AppendUvarint(b.data, uint64(len(encoded))), encoded...)
	b.count++
	return nil
}

// take seals the batch and empties it.
func (b *batch) take() []byte {
	data := b.data
	copy(data, batchMagic)
	binary.LittleEndian.PutUint32(data[12:], b.count)
	copy(data[16:], b.cluster[:])
	binary.LittleEndian.PutUint32(data[8:], crc32.Checksum(data[12:], castagnoli))
	b.data, b.count = nil, 0
	return data
}

// beatKind is the kind of a heartbeat's short form, 0 for anything that it has no place for.
func beatKind(m *raftpb.Message) byte {
	if len(m.GetContext()) > maxBeatContext || len(m.GetEntries()) > 0 || m.GetIndex() != 0 || m.GetLogTerm() != 0 || m.GetReject() {
		return 0
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		return itemHeartbeat
	case raftpb.MsgHeartbeatResp:
		return itemBeatReply
	}
	return 0
}

func appendBeat(buf []byte, m GroupMessage) []byte {
	for _, n := range []uint64{uint64(m.Group), m.Message.GetFrom(), m.Message.GetTo(), m.Message.GetTerm(), m.Message.GetCommit()} {
		buf = binary.AppendUvarint(buf, n)
	}
	return append(append(buf, byte(len(m.Message.GetContext()))), m.Message.GetContext()...)
}

// decodeBatch reads a batch of this cluster. The messages share no memory with data.
func decodeBatch(data []byte, id cluster.ClusterID) ([]GroupMessage, error) {
	if len(data) < batchHeader || len(data) > MaxBatch || string(data[:8]) != batchMagic ||
		crc32.Checksum(data[12:], castagnoli) != binary.LittleEndian.Uint32(data[8:]) {
		return nil, errBatch
	}
	if cluster.ClusterID(data[16:32]) != id {
		return nil, fmt.Errorf("%w: it is of cluster %s", errBatch, cluster.ClusterID(data[16:32]))
	}
	count := binary.LittleEndian.Uint32(data[12:])
	rest := data[batchHeader:]
	if count > maxCarried || int(count) > len(rest) {
		return nil, errBatch
	}
	list := make([]GroupMessage, 0, count)
	for range count {
		m, after, err := decodeItem(rest)
		if err != nil {
			return nil, err
		}
		list, rest = append(list, m), after
	}
	if len(rest) > 0 {
		return nil, errBatch
	}
	return list, nil
}

func decodeItem(data []byte) (m GroupMessage, rest []byte, err error) {
	if len(data) == 0 {
		return m, nil, errBatch
	}
	switch kind := data[0]; kind {
	case itemHeartbeat, itemBeatReply:
		return decodeBeat(kind, data[1:])
	case itemMessage:
	default:
		return m, nil, fmt.Errorf("%w: item of unknown kind %d", errBatch, kind)
	}
	var n [2]uint64
	if rest, err = decodeUvarints(data[1:], n[:]); err != nil || n[1] > uint64(len(rest)) {
		return m, nil, errBatch
	}
	m = GroupMessage{Group: GroupID(n[0]), Message: new(raftpb.Message)}
	if err := proto.Unmarshal(rest[:n[1]], m.Message); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errBatch, err)
	}
	return m, rest[n[1]:], checkMessage(m.Message)
}

// checkMessage refuses what Raft would take for a broken invariant.
func checkMessage(m *raftpb.Message) error {
	if !carried(m.GetType()) || m.GetTerm() == 0 || m.GetFrom() == 0 || m.GetTo() == 0 || m.GetSnapshot() != nil || len(m.GetResponses()) > 0 {
		return fmt.Errorf("%w: a message of type %v", errBatch, m.GetType())
	}
	if len(m.GetEntries()) > 0 && m.GetType() != raftpb.MsgApp {
		return fmt.Errorf("%w: entries in a message of type %v", errBatch, m.GetType())
	}
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if e.GetIndex() != m.GetIndex()+1+uint64(i) || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("%w: entry %d of term %d after entry %d", errBatch, e.GetIndex(), e.GetTerm(), m.GetIndex())
		}
		term = e.GetTerm()
	}
	return nil
}

func decodeBeat(kind byte, data []byte) (m GroupMessage, rest []byte, err error) {
	var n [5]uint64
	if rest, err = decodeUvarints(data, n[:]); err != nil || len(rest) == 0 {
		return m, nil, errBatch
	}
	length := int(rest[0])
	if rest = rest[1:]; length > maxBeatContext || length > len(rest) || n[1] == 0 || n[2] == 0 || n[3] == 0 {
		return m, nil, errBatch
	}
	t := raftpb.MsgHeartbeat
	if kind == itemBeatReply {
		t = raftpb.MsgHeartbeatResp
	}
	m = GroupMessage{Group: GroupID(n[0]), Message: &raftpb.Message{Type: t.Enum(), From: &n[1], To: &n[2], Term: &n[3], Commit: &n[4]}}
	if length > 0 {
		m.Message.Context = append([]byte(nil), rest[:length]...)
	}
	return m, rest[length:], nil
}

func decodeUvarints(data []byte, into []uint64) (rest []byte, err error) {
	for i := range into {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return nil, errBatch
		}
		into[i], data = v, data[n:]
	}
	return data, nil
}
