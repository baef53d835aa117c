package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster/kv"
)

// The driver's own rows in the state DB. Keys that begin with a zero byte belong to it, machines use others.
const (
	appliedRow = "\x00applied/"
	votersRow  = "\x00voters/"
)

func rowKey(prefix string, group GroupID) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), uint64(group))
}

// rowGroup reads the group of a row's key.
func rowGroup(key []byte) (GroupID, error) {
	if len(key) < 8 {
		return 0, fmt.Errorf("row key of %d bytes", len(key))
	}
	return GroupID(binary.BigEndian.Uint64(key[len(key)-8:])), nil
}

// putApplied writes how far a group is, in the batch that brings it there.
func putApplied(b kv.Batch, group GroupID, a applied) {
	value := binary.LittleEndian.AppendUint64(nil, a.index)
	value = binary.LittleEndian.AppendUint64(value, a.term)
	b.Put(rowKey(appliedRow, group), append(value, a.hash[:]...))
}

// getApplied returns kv.ErrNotFound when the group is not in the state.
func getApplied(r kv.Reader, group GroupID) (applied, error) {
	value, err := r.Get(rowKey(appliedRow, group))
	if err != nil {
		return applied{}, err
	}
	if len(value) != 16+sha256.Size {
		return applied{}, fmt.Errorf("applied row of group %d has %d bytes", group, len(value))
	}
	return applied{
		index: binary.LittleEndian.Uint64(value),
		term:  binary.LittleEndian.Uint64(value[8:]),
		hash:  digest(value[16:]),
	}, nil
}

// putVoters writes the voters of a group as of the same batch's applied index.
func putVoters(b kv.Batch, group GroupID, voters []uint64) {
	b.Put(rowKey(votersRow, group), appendVoters(nil, voters))
}

func getVoters(r kv.Reader, group GroupID) ([]uint64, error) {
	value, err := r.Get(rowKey(votersRow, group))
	if err != nil {
		return nil, err
	}
	voters, rest, err := decodeVoters(value)
	if err != nil || len(rest) > 0 {
		return nil, errors.Join(fmt.Errorf("voters row of group %d is damaged", group), err)
	}
	return voters, nil
}

// entryDigest covers everything that makes an entry what it is.
func entryDigest(index, term uint64, entryType uint8, data []byte) digest {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[:], index)
	binary.LittleEndian.PutUint64(head[8:], term)
	head[16] = entryType
	h := sha256.New()
	h.Write(head[:])
	h.Write(data)
	var sum digest
	h.Sum(sum[:0])
	return sum
}

// after is the applied point after one more entry.
func (a applied) after(index, term uint64, entry digest) applied {
	var both [2 * sha256.Size]byte
	copy(both[:], a.hash[:])
	copy(both[sha256.Size:], entry[:])
	return applied{index: index, term: term, hash: sha256.Sum256(both[:])}
}

// The first entry of every group is never written: a group begins as if it had applied entry 1 of term 1, so that a
// replica that is added later cannot take an empty log for the whole of it.
var firstPoint = applied{index: 1, term: 1}

// groupLog is what the log says about one group.
type groupLog struct {
	id      GroupID
	replica uint64
	voters  []uint64
	hard    hardState
	// base is a point whose hash is known; points are the entries after it, without their content.
	base   applied
	points []entryPoint
	// entries are those after the index keep, with content.
	keep    uint64
	entries []*raftpb.Entry
}

type entryPoint struct {
	term uint64
	hash digest
}

// newGroupLog begins a group from a checkpoint or at its bootstrap.
func newGroupLog(p groupPoint, keep uint64) *groupLog {
	return &groupLog{id: p.group, replica: p.replica, voters: p.voters, hard: p.hard, base: p.applied, keep: max(keep, p.applied.index)}
}

// add takes one entry; one with an index that was there already replaces it and everything after it.
func (g *groupLog) add(r record) error {
	if r.index <= g.base.index {
		return nil
	}
	at := r.index - g.base.index - 1
	if at > uint64(len(g.points)) {
		return fmt.Errorf("%w: group %d has entry %d after %d", ErrLogDamaged, g.id, r.index, g.last())
	}
	g.points = append(g.points[:at], entryPoint{r.term, entryDigest(r.index, r.term, r.entryType, r.payload)})
	if r.index <= g.keep {
		g.entries = g.entries[:0] // those after a replaced entry come again
		return nil
	}
	kept := r.index - g.keep - 1
	index, term, typ := r.index, r.term, raftpb.EntryType(r.entryType)
	g.entries = append(g.entries[:kept], &raftpb.Entry{
		Index: &index, Term: &term, Type: &typ, Data: append([]byte(nil), r.payload...),
	})
	return nil
}

// last is the index of the last entry.
func (g *groupLog) last() uint64 { return g.base.index + uint64(len(g.points)) }

// point computes the applied point at an index.
func (g *groupLog) point(index uint64) (applied, bool) {
	if index < g.base.index || index > g.last() {
		return applied{}, false
	}
	a := g.base
	for _, p := range g.points[:index-g.base.index] {
		a = a.after(a.index+1, p.term, p.hash)
	}
	return a, true
}

// trim drops the content of entries up to an index.
func (g *groupLog) trim(index uint64) {
	if index > g.keep {
		n := min(index-g.keep, uint64(len(g.entries)))
		g.entries, g.keep = g.entries[n:], index
	}
}

// collector gathers the groups' logs while the log is walked.
type collector struct {
	groups map[GroupID]*groupLog
	keep   map[GroupID]uint64 // entries up to these are in the state already
	newest mirrorSet          // of those noted in the log
}

func (c *collector) visit(_ uint64, r record) error {
	g := c.groups[r.group]
	switch r.kind {
	case kindMembership:
		if g != nil {
			return nil // the checkpoint knows it
		}
		voters, _, err := decodeVoters(r.payload)
		if err != nil {
			return err
		}
		c.groups[r.group] = newGroupLog(groupPoint{
			group: r.group, replica: r.term, voters: voters, applied: firstPoint,
			hard: hardState{term: firstPoint.term, commit: firstPoint.index},
		}, c.keep[r.group])
		return nil
	case kindEntry:
		if g == nil {
			return fmt.Errorf("%w: entry of group %d without its beginning", ErrLogDamaged, r.group)
		}
		return g.add(r)
	case kindHardState:
		if g == nil {
			return fmt.Errorf("%w: state of group %d without its beginning", ErrLogDamaged, r.group)
		}
		vote, err := decodeVote(r.payload)
		if err != nil {
			return err
		}
		g.hard = hardState{term: r.term, vote: vote, commit: max(r.index, g.hard.commit)}
		return nil
	case kindMirrors:
		set, _, err := decodeSet(r.payload)
		if err != nil {
			return err
		}
		if set.newer(c.newest) {
			c.newest = set
		}
		return nil
	case kindCheckpoint, kindSettle:
		return nil
	default:
		return fmt.Errorf("record of unknown kind %d: written by a later holdfast", r.kind)
	}
}

func decodeVote(payload []byte) (uint64, error) {
	if len(payload) != 8 {
		return 0, fmt.Errorf("vote of %d bytes", len(payload))
	}
	return binary.LittleEndian.Uint64(payload), nil
}

func (h hardState) record(group GroupID) record {
	return record{kind: kindHardState, group: group, index: h.commit, term: h.term, payload: binary.LittleEndian.AppendUint64(nil, h.vote)}
}
