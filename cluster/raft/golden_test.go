package raft

import (
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster"
)

var update = flag.Bool("update", false, "write the golden files")

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
		group: 1, replica: 1, voters: []uint64{1}, applied: applied{index: 5, term: 2, hash: sum}, hard: hardState{2, 1, 5},
	}}}
	block, _ := encodeBlock(id, 4, 0, false, digest{}, head.encode())
	for name, data := range map[string][]byte{
		"frame":      frame,
		"segment":    segmentHead{number: 2, first: 9, prev: digest{7}}.encode(id),
		"mirrors":    ballotPaper{promised: 2, set: set}.encode(id),
		"checkpoint": block,
	} {
		path := "testdata/" + name + ".golden"
		got := hex.Dump(data)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.EqualFold(got, string(want)) {
			t.Errorf("%s differs from its golden file", name)
		}
	}
}
