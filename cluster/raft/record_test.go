package raft

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/cluster"
)

func FuzzDecodeFrame(f *testing.F) {
	id := cluster.ClusterID{9}
	at := place{3, 1024}
	good, _ := appendFrame(nil, id, at, 7, digest{1}, []record{
		{kind: kindEntry, group: 1, index: 5, term: 2, payload: []byte("command")},
		hardState{term: 2, vote: 1, commit: 4}.record(1),
		{kind: kindMirrors, payload: mirrorSet{epoch: 3, members: []cluster.DriveID{{1}}}.append(nil)},
	})
	f.Add(good)
	f.Add(segmentHead{number: 3, first: 7}.encode(id))
	f.Add(ballotPaper{promised: 1, set: mirrorSet{epoch: 1, members: []cluster.DriveID{{1}, {2}}}}.encode(id))
	head := checkpointHead{seq: 9, groups: []groupPoint{{group: 1, members: members{voters: []uint64{1}}}}}
	first, _ := head.encode()
	f.Add(first)
	head.tombs = map[GroupID]tombstone{3: {2, 5}}
	second, _ := head.encode()
	f.Add(second)
	snapshot := snapshotHead{group: 7, from: 1, to: 3, term: 4, at: applied{index: 5, term: 2}, members: members{voters: []uint64{1}, learners: []uint64{3}}}
	f.Add(snapshot.encode())
	f.Add((&installation{head: snapshot, number: 5}).record(7).payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		if fr, err := decodeFrame(data, id, at); err == nil {
			var list []record
			if err := fr.records(func(r record) error { list = append(list, r); return nil }); err == nil {
				again, sum := appendFrame(nil, id, at, fr.seq, fr.prev, list)
				if decoded, err := decodeFrame(again, id, at); err != nil || len(decoded.body) != len(fr.body) || sum != decoded.digest {
					t.Fatalf("a frame does not survive encoding: %v", err)
				}
			}
		}
		if s, err := decodeSegmentHead(data, id, 3); err == nil && !bytes.Equal(s.encode(id)[:104], data[:104]) {
			t.Fatal("a segment header does not survive encoding")
		}
		if p, err := decodePaper(data, id); err == nil {
			if q, err := decodePaper(p.encode(id), id); err != nil || !q.set.equal(p.set) || q.promised != p.promised {
				t.Fatalf("a paper does not survive encoding: %v", err)
			}
		}
		for _, magic := range []string{blockMagic, headMagic} {
			h, err := decodeHead(1, magic, data)
			if err != nil {
				continue
			}
			payload, magic := h.encode()
			if again, err := decodeHead(1, magic, payload); err != nil || len(again.groups) != len(h.groups) || len(again.tombs) != len(h.tombs) {
				t.Fatalf("a checkpoint head does not survive encoding: %v", err)
			}
		}
		if h, err := decodeSnapshotHead(snapshotMagic, data); err == nil && !bytes.Equal(h.encode(), data) {
			t.Fatal("the head of a snapshot does not survive encoding")
		}
		if _, m, number, err := decodeInstalled(record{payload: data}); err == nil && (len(m.voters) > maxVoters || number != binary.LittleEndian.Uint64(data)) {
			t.Fatal("the record of a snapshot does not survive decoding")
		}
		if _, _, rest, err := decodePair(data); err == nil && len(rest) > len(data)-8 {
			t.Fatal("a pair took nothing")
		}
	})
}

func TestSpareIsAMinorityOfAtMostFour(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 8: 3, 9: 4, 12: 4, 40: 4} {
		if got := spare(n); got != want {
			t.Errorf("spare(%d) = %d, want %d", n, got, want)
		}
	}
}

// TestJudgeNeverMissesASetThatCounted makes random histories of set changes, some of which never counted, hides drives
// at random, and checks that judge gives the newest set that counted, or one begun after it, or an error.
func TestJudgeNeverMissesASetThatCounted(t *testing.T) {
	ids := make([]cluster.DriveID, 12)
	for i := range ids {
		ids[i] = driveID(i)
	}
	judged := 0
	for seed := range uint64(30_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		papers := map[cluster.DriveID]ballotPaper{}
		for _, d := range ids {
			papers[d] = ballotPaper{promised: 1, set: mirrorSet{ballot: 1, epoch: 1, members: ids[:5], electorate: ids, previous: ids}}
		}
		counted := papers[ids[0]].set
		// The first member's id carries the serial number of a set; begun tells which set counted when it was begun.
		serial, begun := uint64(0), map[uint64]uint64{}
		number := func(s mirrorSet) uint64 {
			if len(s.members) != 1 {
				return 0
			}
			return binary.LittleEndian.Uint64(s.members[0][:])
		}
		for range 1 + r.IntN(5) { // processes, one after another
			here := map[cluster.DriveID]ballotPaper{}
			for _, d := range ids {
				if r.IntN(4) > 0 {
					here[d] = papers[d]
				}
			}
			set, err := judge(here)
			if err != nil {
				continue
			}
			judged++
			if n := number(set); n != number(counted) && begun[n] != number(counted) {
				t.Fatalf("seed %d: set %d.%d was judged newest, %d.%d counted", seed, set.ballot, set.epoch, counted.ballot, counted.epoch)
			}
			ballot := uint64(0)
			var electorate []cluster.DriveID
			for _, d := range ids {
				if p, ok := here[d]; ok {
					ballot = max(ballot, p.promised, p.set.ballot)
					electorate = append(electorate, d)
				}
			}
			ballot++
			promised := 0
			for _, d := range electorate {
				if r.IntN(8) > 0 { // it may crash before it tells every drive
					papers[d] = ballotPaper{promised: ballot, set: papers[d].set}
					if slices.Contains(set.electorate, d) {
						promised++
					}
				}
			}
			if promised <= spare(len(set.electorate)) {
				continue
			}
			for epoch := set.epoch + 1; epoch < set.epoch+4; epoch++ {
				next := mirrorSet{ballot: ballot, epoch: epoch, electorate: electorate, previous: set.electorate}
				if common(electorate, set.electorate) <= spare(len(set.electorate)) || len(electorate) == 0 {
					break
				}
				serial++
				begun[serial] = number(counted)
				name := cluster.DriveID{}
				binary.LittleEndian.PutUint64(name[:], serial)
				next.members = []cluster.DriveID{name}
				var took []cluster.DriveID
				rare := r.IntN(7) // of 6: how few drives hear of this set
				for _, d := range electorate {
					if r.IntN(6) >= rare {
						papers[d] = ballotPaper{promised: ballot, set: next}
						took = append(took, d)
					}
				}
				if len(took) == len(electorate) {
					set, counted = next, next
					electorate = took[:max(1, len(took)-r.IntN(3))]
					continue
				}
				electorate = took
			}
		}
	}
	if judged < 10_000 {
		t.Fatalf("only %d judgements", judged)
	}
}
