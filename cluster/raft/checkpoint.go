package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/holdfast/holdfast/cluster/kv"
)

// groupPoint is where a group stood when a checkpoint was taken.
type groupPoint struct {
	group   GroupID
	replica uint64
	members members
	applied applied
	hard    hardState
	// begun is the frame since which records of the group count: that of the replica's creation at run time, or of its
	// last snapshot. stamp is replica, if that was created at run time. Both are zero for a replica that began with its
	// peer.
	begun, stamp uint64
}

// tombstone says that the replicas of a group up to an id are gone from this peer for ever. Records of the group up to
// a frame are theirs.
type tombstone struct{ replica, seq uint64 }

// hardState is what Raft must remember of a group beside its entries.
type hardState struct{ term, vote, commit uint64 }

// applied is how far a group's commands are in the state, with a hash over all of them.
type applied struct {
	index, term uint64
	hash        digest
}

// checkpointHead is the first block of a checkpoint.
type checkpointHead struct {
	number uint64
	// seq is the last frame whose entries are all in the checkpoint.
	seq    uint64
	groups []groupPoint
	tombs  map[GroupID]tombstone
}

// encode returns the head and the magic of its block. A head that holds what the first form has no place for is of the
// second, which earlier versions refuse.
func (h checkpointHead) encode() (payload []byte, magic string) {
	magic = blockMagic
	buf := binary.LittleEndian.AppendUint64(nil, h.seq)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(h.groups)))
	var more []byte
	for _, g := range h.groups {
		for _, n := range []uint64{uint64(g.group), g.replica, g.applied.index, g.applied.term, g.hard.term, g.hard.vote, g.hard.commit} {
			buf = binary.LittleEndian.AppendUint64(buf, n)
		}
		buf = append(buf, g.applied.hash[:]...)
		buf = appendVoters(buf, g.members.voters)
		more = appendVoters(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(more, g.begun), g.stamp), g.members.learners)
		if len(g.members.learners) > 0 || g.begun != 0 || g.stamp != 0 {
			magic = headMagic
		}
	}
	if len(h.tombs) > 0 {
		magic = headMagic
	}
	if magic == blockMagic {
		return buf, magic
	}
	buf = binary.LittleEndian.AppendUint32(append(buf, more...), uint32(len(h.tombs)))
	for _, id := range slices.Sorted(maps.Keys(h.tombs)) {
		for _, n := range []uint64{uint64(id), h.tombs[id].replica, h.tombs[id].seq} {
			buf = binary.LittleEndian.AppendUint64(buf, n)
		}
	}
	return buf, magic
}

func decodeHead(number uint64, magic string, data []byte) (checkpointHead, error) {
	const fixed = 7*8 + sha256.Size
	if magic != blockMagic && magic != headMagic || len(data) < 12 {
		return checkpointHead{}, errBlock
	}
	h := checkpointHead{number: number, seq: binary.LittleEndian.Uint64(data)}
	count := int(binary.LittleEndian.Uint32(data[8:]))
	data = data[12:]
	for range count {
		if len(data) < fixed {
			return checkpointHead{}, errBlock
		}
		var n [7]uint64
		for i := range n {
			n[i] = binary.LittleEndian.Uint64(data[8*i:])
		}
		g := groupPoint{
			group: GroupID(n[0]), replica: n[1],
			applied: applied{index: n[2], term: n[3], hash: digest(data[56:88])},
			hard:    hardState{term: n[4], vote: n[5], commit: n[6]},
		}
		var err error
		if g.members.voters, data, err = decodeVoters(data[fixed:]); err != nil {
			return checkpointHead{}, err
		}
		h.groups = append(h.groups, g)
	}
	if magic == headMagic {
		return h, h.decodeMore(data)
	}
	return h, nil
}

// decodeMore reads what the second form has after the first.
func (h *checkpointHead) decodeMore(data []byte) (err error) {
	for i := range h.groups {
		g := &h.groups[i]
		if len(data) < 16 {
			return errBlock
		}
		g.begun, g.stamp = binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
		if g.members.learners, data, err = decodeVoters(data[16:]); err != nil {
			return err
		}
	}
	if len(data) < 4 {
		return errBlock
	}
	count := int(binary.LittleEndian.Uint32(data))
	if data = data[4:]; len(data) != 24*count {
		return errBlock
	}
	h.tombs = map[GroupID]tombstone{}
	for ; len(data) > 0; data = data[24:] {
		h.tombs[GroupID(binary.LittleEndian.Uint64(data))] = tombstone{binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:])}
	}
	return nil
}

// errEnough ends a reading after the head.
var errEnough = errors.New("enough was read")

// checkpoints lists the checkpoints whose head is readable on any of the drives, oldest first.
func (l *mirroredLog) checkpoints(drives []*drive) ([]checkpointHead, error) {
	var numbers []uint64
	for _, d := range drives {
		list, err := d.numbers(checkpointDir, checkpointSuffix)
		if err != nil {
			l.log.Warn("checkpoint directory cannot be read", "drive", d.String(), "err", err)
		}
		numbers = append(numbers, list...)
	}
	slices.Sort(numbers)
	var heads []checkpointHead
	for _, n := range slices.Compact(numbers) {
		var head checkpointHead
		_, err := l.readBlocks(drives, checkpointFile(n), false, func(_ uint64, b block) (err error) {
			if head, err = decodeHead(n, b.magic, b.payload); err == nil {
				err = errEnough
			}
			return err
		})
		switch {
		case errors.Is(err, errEnough):
			heads = append(heads, head)
		default:
			l.log.Warn("checkpoint cannot be read", "number", n, "err", err)
		}
	}
	return heads, nil
}

// restore puts the keys of a checkpoint into an empty DB, and last the applied rows, which make it count.
func (l *mirroredLog) restore(drives []*drive, head checkpointHead, db *kv.DB) error {
	_, err := l.readBlocks(drives, checkpointFile(head.number), false, func(index uint64, b block) error {
		if index == 0 {
			return nil
		}
		batch := db.NewBatch()
		if err := putPairs(batch, b.payload); err != nil {
			return err
		}
		return db.Write(batch)
	})
	if err != nil {
		return err
	}
	batch := db.NewBatch()
	for _, g := range head.groups {
		putApplied(batch, g.group, g.applied)
		putMembers(batch, g.group, g.members, g.stamp)
	}
	return db.Write(batch)
}
