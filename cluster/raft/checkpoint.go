package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// groupPoint is where a group stood when a checkpoint was taken.
type groupPoint struct {
	group   GroupID
	replica uint64
	voters  []uint64
	applied applied
	hard    hardState
}

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
}

func (h checkpointHead) encode() []byte {
	buf := binary.LittleEndian.AppendUint64(nil, h.seq)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(h.groups)))
	for _, g := range h.groups {
		for _, n := range []uint64{uint64(g.group), g.replica, g.applied.index, g.applied.term, g.hard.term, g.hard.vote, g.hard.commit} {
			buf = binary.LittleEndian.AppendUint64(buf, n)
		}
		buf = append(buf, g.applied.hash[:]...)
		buf = appendVoters(buf, g.voters)
	}
	return buf
}

func appendVoters(buf []byte, voters []uint64) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(voters)))
	for _, v := range voters {
		buf = binary.LittleEndian.AppendUint64(buf, v)
	}
	return buf
}

// maxVoters bounds a decoded list of voters.
const maxVoters = 64

func decodeVoters(data []byte) (voters []uint64, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, errBlock
	}
	count := int(binary.LittleEndian.Uint32(data))
	if data = data[4:]; count > maxVoters || len(data) < 8*count {
		return nil, nil, errBlock
	}
	for i := range count {
		voters = append(voters, binary.LittleEndian.Uint64(data[8*i:]))
	}
	return voters, data[8*count:], nil
}

func decodeHead(number uint64, data []byte) (checkpointHead, error) {
	const fixed = 7*8 + sha256.Size
	if len(data) < 12 {
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
		if g.voters, data, err = decodeVoters(data[fixed:]); err != nil {
			return checkpointHead{}, err
		}
		h.groups = append(h.groups, g)
	}
	return h, nil
}

// group finds a group's point.
func (h checkpointHead) group(id GroupID) (groupPoint, bool) {
	for _, g := range h.groups {
		if g.group == id {
			return g, true
		}
	}
	return groupPoint{}, false
}

// readCheckpoint reads a checkpoint block by block, each from any member that has it whole, and tells which copies are
// hurt as far as it looked: with every it looks at all copies, else only until a whole block is found.
func (l *mirroredLog) readCheckpoint(drives []*drive, number uint64, every bool, visit func(index uint64, b block) error) (hurt []*drive, err error) {
	files := make([]vfs.File, len(drives))
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	bad := make([]bool, len(drives))
	for i, d := range drives {
		files[i], err = d.fs.OpenFile(d.checkpointPath(number), os.O_RDONLY, 0)
		if err != nil {
			files[i], bad[i] = nil, true
		}
	}
	var prev digest
	off := int64(0)
	for index := uint64(0); ; index++ {
		var found *block
		for i, f := range files {
			if f == nil || found != nil && !every {
				continue
			}
			b, err := readBlock(f, off, l.cluster, number, index, prev)
			if err != nil {
				bad[i] = true
			} else if found == nil {
				found = &b
			}
		}
		if found == nil {
			return nil, fmt.Errorf("%w: block %d of checkpoint %d is whole on none of %d mirrors", ErrLogDamaged, index, number, len(drives))
		}
		if err := visit(index, *found); err != nil {
			return nil, err
		}
		prev, off = found.digest, off+int64(len(found.raw))
		if found.last {
			break
		}
	}
	for i, d := range drives {
		if bad[i] {
			hurt = append(hurt, d)
		}
	}
	return hurt, nil
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
		_, err := l.readCheckpoint(drives, n, false, func(_ uint64, b block) (err error) {
			if head, err = decodeHead(n, b.payload); err == nil {
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
	_, err := l.readCheckpoint(drives, head.number, false, func(index uint64, b block) error {
		if index == 0 {
			return nil
		}
		batch := db.NewBatch()
		for rest := b.payload; len(rest) > 0; {
			key, value, after, err := decodePair(rest)
			if err != nil {
				return err
			}
			batch.Put(key, value)
			rest = after
		}
		return db.Write(batch)
	})
	if err != nil {
		return err
	}
	batch := db.NewBatch()
	for _, g := range head.groups {
		putApplied(batch, g.group, g.applied)
		putVoters(batch, g.group, g.voters)
	}
	return db.Write(batch)
}
