package raft

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestFormatsStayAsTheyAre compares one of each structure with its golden file. A difference is a new format: it needs
// a new magic, and this one must still be read.
func TestFormatsStayAsTheyAre(t *testing.T) {
	id := cluster.ClusterID{1, 2, 3}
	frame, sum := appendFrame(nil, id, place{2, 512}, 9, digest{7}, []record{
		{kind: kindEntry, entryType: 1, group: 1, index: 5, term: 2, payload: []byte("12345678command")},
		hardState{term: 2, vote: 1, commit: 4}.record(1),
		{kind: kindMembership, group: 1, term: 1, payload: appendVoters(nil, []uint64{1, 2})},
		{kind: kindSettle},
	})
	set := mirrorSet{ballot: 2, epoch: 3, members: []cluster.DriveID{{1}}, electorate: []cluster.DriveID{{1}, {2}}, previous: []cluster.DriveID{{1}, {3}}}
	head := checkpointHead{seq: 8, groups: []groupPoint{{
		group: 1, replica: 1, members: members{voters: []uint64{1}}, applied: applied{index: 5, term: 2, hash: sum}, hard: hardState{2, 1, 5},
	}}}
	payload, magic := head.encode()
	block, _ := encodeBlock(blockAt{id, 4, 0}, magic, false, digest{}, payload)
	later := head
	later.groups = append(later.groups, groupPoint{
		group: 7, replica: 3, members: members{voters: []uint64{1, 2}, learners: []uint64{3}}, applied: applied{index: 9, term: 4, hash: sum},
		hard: hardState{4, 2, 9}, begun: 6, stamp: 3,
	})
	later.tombs = map[GroupID]tombstone{7: {2, 5}, 9: {1, 7}}
	payload, magic = later.encode()
	second, _ := encodeBlock(blockAt{id, 4, 0}, magic, false, digest{}, payload)
	snapshot := snapshotHead{group: 7, from: 1, to: 3, term: 4, at: later.groups[1].applied, members: later.groups[1].members}
	third, _ := encodeBlock(blockAt{id, 0, 0}, snapshotMagic, false, digest{}, snapshot.encode())
	replicas, _ := appendFrame(nil, id, place{2, 512}, 9, digest{7}, []record{
		{kind: kindCreated, group: 7, term: 3},
		(&installation{head: snapshot, number: 5}).record(7),
		{kind: kindRemoved, group: 7, term: 3},
	})
	for name, data := range map[string][]byte{
		"frame":      frame,
		"segment":    segmentHead{number: 2, first: 9, prev: digest{7}}.encode(id),
		"mirrors":    ballotPaper{promised: 2, set: set}.encode(id),
		"checkpoint": block,
		// Those with replicas that come and go at run time.
		"checkpoint2": second,
		"snapshot":    third,
		"replicas":    replicas,
		"batch":       goldenBatch(t, id),
	} {
		expect.Golden(t, name+".golden", []byte(hex.Dump(data)))
	}
}

// goldenBatch has one message of each form.
func goldenBatch(t *testing.T, id cluster.ClusterID) []byte {
	n := func(v uint64) *uint64 { return &v }
	b := newBatch(id)
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgHeartbeat.Enum(), From: n(1), To: n(2), Term: n(3), Commit: n(300), Context: []byte("read")},
		{Type: raftpb.MsgHeartbeatResp.Enum(), From: n(2), To: n(1), Term: n(3)},
		{Type: raftpb.MsgVote.Enum(), From: n(2), To: n(1), Term: n(4), Index: n(9), LogTerm: n(3)},
	} {
		if err := b.add(GroupMessage{7, m}); err != nil {
			t.Fatal(err)
		}
	}
	return b.take()
}

// TestALogOfTheFirstFormOpens opens a peer's files as they were written before replicas came and went at run time: a
// drive with two segments and a checkpoint, and the state.
func TestALogOfTheFirstFormOpens(t *testing.T) {
	for _, without := range []string{"nothing", "/main/raft/state", "/main/raft/state/MANIFEST-000000", driveDir(0) + checkpointDir} {
		t.Run("without "+without, func(t *testing.T) {
			f := vfs.NewMemory(1)
			unpack(t, f, "testdata/log1.tar.gz")
			if without != "nothing" {
				if err := f.RemoveAll(without); err != nil {
					t.Fatal(err)
				}
			}
			b := newBench(t, f, 1)
			var want, other []string
			for i := range 30 {
				want, other = append(want, fmt.Sprint("golden ", i)), append(other, fmt.Sprint("other ", i))
			}
			for range 2 { // as it was, and after it went on
				h := b.open(t)
				wantItems(t, h, 1, want)
				wantItems(t, h, 2, other)
				want = append(want, "more")
				propose(t, h, 1, "more")
				if err := h.Create(testContext(t), 7, 3, 3); err != nil {
					t.Fatal(err)
				}
				if err := h.Checkpoint(testContext(t)); err != nil {
					t.Fatal(err)
				}
				closeHost(t, h)
			}
		})
	}
}

// unpack writes the files of an archive.
func unpack(t *testing.T, f vfs.FS, archive string) {
	t.Helper()
	packed, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err == nil {
			err = vfs.MkdirAll(f, path.Dir(head.Name), 0o700)
		}
		if err == nil {
			err = vfs.WriteFile(f, head.Name, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
