package raft

import (
	"bytes"
	"encoding/hex"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster"
)

func ptr(n uint64) *uint64 { return &n }

func appMessage(entries ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5), Index: ptr(7), LogTerm: ptr(4), Commit: ptr(6), Entries: entries}
}

func TestBatchesCarryMessagesWhole(t *testing.T) {
	id := cluster.ClusterID{1, 2}
	want := []GroupMessage{
		{3, appMessage(&raftpb.Entry{Index: ptr(8), Term: ptr(5), Type: raftpb.EntryNormal.Enum(), Data: []byte("data")})},
		{4, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5), Commit: ptr(6), Context: []byte("12345678")}},
		{5, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: ptr(1 << 60), To: ptr(2), Term: ptr(5), Commit: ptr(0)}},
		{6, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5), Context: bytes.Repeat([]byte("c"), maxBeatContext+1)}},
	}
	b := newBatch(id)
	for _, m := range want {
		if err := b.add(m); err != nil {
			t.Fatal(err)
		}
	}
	data := b.take()
	got, err := decodeBatch(data, id)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	for i, m := range got {
		if m.Group != want[i].Group || !proto.Equal(m.Message, want[i].Message) {
			t.Errorf("message %d came as %v of group %d, want %v of %d", i, m.Message, m.Group, want[i].Message, want[i].Group)
		}
	}
	if _, err := decodeBatch(data, cluster.ClusterID{2}); err == nil {
		t.Error("a batch of another cluster was taken")
	}
	for i := range data {
		hurt := bytes.Clone(data)
		hurt[i] ^= 4
		if _, err := decodeBatch(hurt, id); err == nil {
			t.Fatalf("a batch with a bit of byte %d flipped was taken", i)
		}
	}
	if b.add(want[1]); len(b.data) > batchHeader+32 {
		t.Errorf("a heartbeat takes %d bytes", len(b.data)-batchHeader)
	}
}

func TestMessagesThatBreakRaftAreRefused(t *testing.T) {
	for name, m := range map[string]*raftpb.Message{
		"snapshot outside of a stream":  {Type: raftpb.MsgSnap.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5)},
		"local message":                 {Type: raftpb.MsgHup.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5)},
		"no term":                       {Type: raftpb.MsgVote.Enum(), From: ptr(1), To: ptr(2)},
		"no sender":                     {Type: raftpb.MsgVote.Enum(), To: ptr(2), Term: ptr(5)},
		"gap before the first entry":    appMessage(&raftpb.Entry{Index: ptr(9), Term: ptr(5)}),
		"terms go down":                 appMessage(&raftpb.Entry{Index: ptr(8), Term: ptr(3)}),
		"entry of a term to come":       appMessage(&raftpb.Entry{Index: ptr(8), Term: ptr(6)}),
		"entries in another message":    {Type: raftpb.MsgVote.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5), Entries: []*raftpb.Entry{{}}},
		"responses to a storage thread": {Type: raftpb.MsgVote.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5), Responses: []*raftpb.Message{{}}},
	} {
		b := newBatch(cluster.ClusterID{})
		if err := b.add(GroupMessage{1, m}); err != nil {
			t.Fatal(err)
		}
		if _, err := decodeBatch(b.take(), cluster.ClusterID{}); err == nil {
			t.Errorf("taken: %s", name)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	id := cluster.ClusterID{9}
	b := newBatch(id)
	for _, m := range []*raftpb.Message{appMessage(&raftpb.Entry{Index: ptr(8), Term: ptr(5)}), {Type: raftpb.MsgHeartbeat.Enum(), From: ptr(1), To: ptr(2), Term: ptr(5)}} {
		if err := b.add(GroupMessage{3, m}); err != nil {
			f.Fatal(err)
		}
	}
	good := b.take()
	f.Add(good[batchHeader:], uint32(2))
	f.Fuzz(func(t *testing.T, items []byte, count uint32) {
		// The checksum is made right, so that the items are reached.
		sealed := batch{cluster: id, data: append(make([]byte, batchHeader), items...), count: count}
		list, err := decodeBatch(sealed.take(), id)
		if err != nil {
			return
		}
		again := newBatch(id)
		for _, m := range list {
			if err := again.add(m); err != nil {
				t.Fatal(err)
			}
		}
		if len(list) == 0 {
			return
		}
		same, err := decodeBatch(again.take(), id)
		if err != nil || len(same) != len(list) {
			t.Fatalf("%s: %d messages, then %d, %v", hex.EncodeToString(items), len(list), len(same), err)
		}
	})
}
