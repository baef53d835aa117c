package raft

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// groupLog is what the log says about one group.
type groupLog struct {
	id      GroupID
	replica uint64
	members members
	hard    hardState
	// begun and stamp are those of groupPoint.
	begun, stamp uint64
	// fresh tells that the log that is kept has the beginning of the replica or its last snapshot: a state without the
	// group can be made from it.
	fresh bool
	// snapshot numbers the file with the state at base, when base came from a snapshot; else 0.
	snapshot uint64
	// base is a point whose hash is known; points are the entries after it, without their content.
	base   applied
	points []entryPoint
	// state is what the state has of the group, as far as it was asked. entries are those after the index keep, with
	// content: those that the state lacks, and for other voters some before them.
	state   heldState
	keep    uint64
	bytes   int
	entries []*raftpb.Entry
}

type entryPoint struct {
	term uint64
	hash digest
}

// heldState is what the state database has of a group: entries up to an index, of the replica with a stamp. retain is
// how many bytes of them are wanted nevertheless, for followers that lack them.
type heldState struct {
	index, stamp uint64
	retain       int
}

// newGroupLog begins a group from a checkpoint or at its beginning.
func newGroupLog(p groupPoint, held heldState) *groupLog {
	if held.stamp != p.stamp {
		held = heldState{} // it is of an earlier replica
	}
	g := &groupLog{id: p.group, replica: p.replica, members: p.members, hard: p.hard, begun: p.begun, stamp: p.stamp, base: p.applied, state: held}
	g.keep = g.base.index
	return g
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
	if r.index <= g.keep || r.index <= g.state.index && g.state.retain == 0 {
		g.entries, g.bytes = g.entries[:0], 0 // those after a replaced entry come again
		g.keep = max(g.keep, r.index)
		return nil
	}
	kept := r.index - g.keep - 1
	for _, e := range g.entries[kept:] {
		g.bytes -= len(e.GetData())
	}
	index, term, typ := r.index, r.term, raftpb.EntryType(r.entryType)
	g.entries = append(g.entries[:kept], &raftpb.Entry{
		Index: &index, Term: &term, Type: &typ, Data: append([]byte(nil), r.payload...),
	})
	g.bytes += len(r.payload)
	g.shed(g.state.index, g.state.retain)
	return nil
}

// shed drops the content of entries up to an index until no more than some bytes are kept.
func (g *groupLog) shed(index uint64, bytes int) {
	n := 0
	for n < len(g.entries) && g.keep < index && (g.bytes > bytes || bytes == 0) {
		g.bytes -= len(g.entries[n].GetData())
		g.keep++
		n++
	}
	g.entries = g.entries[n:]
}

// install begins the log again behind a snapshot. What was before it, applied or not, is of no meaning any more.
func (g *groupLog) install(seq uint64, at applied, m members, number uint64) {
	if at.index <= g.base.index {
		return // a checkpoint has it already
	}
	g.base, g.members, g.snapshot = at, m, number
	g.begun, g.fresh = seq, true
	g.points, g.entries, g.bytes = nil, nil, 0
	g.keep = at.index
	g.hard.commit = max(g.hard.commit, at.index)
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

// before is the index and term of the entry before the first that is kept with content.
func (g *groupLog) before() applied {
	if g.keep == g.base.index {
		return g.base
	}
	return applied{index: g.keep, term: g.points[g.keep-g.base.index-1].term}
}

// collector gathers the groups' logs while the log is walked.
type collector struct {
	groups map[GroupID]*groupLog
	tombs  map[GroupID]tombstone
	held   map[GroupID]heldState // what is in the state already
	newest mirrorSet             // of those noted in the log
	// snapshots are the files that records of the log name, by number; their sizes are not known.
	snapshots map[uint64]heldFile
}

// firstFrame is the one that a bootstrap writes.
const firstFrame = 1

// over tells whether a record is of a replica that is gone, or of a log that a snapshot replaced.
func (c *collector) over(seq uint64, group GroupID) bool {
	if t, gone := c.tombs[group]; gone && seq <= t.seq {
		return true
	}
	g := c.groups[group]
	return g != nil && seq < g.begun
}

func (c *collector) visit(seq uint64, r record) error {
	if c.over(seq, r.group) {
		return nil
	}
	g := c.groups[r.group]
	switch r.kind {
	case kindMembership, kindCreated:
		if g != nil {
			return nil // the checkpoint knows it
		}
		return c.begin(seq, r)
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
	case kindInstalled:
		if g == nil {
			return fmt.Errorf("%w: snapshot of group %d without its beginning", ErrLogDamaged, r.group)
		}
		at, m, number, err := decodeInstalled(r)
		if err != nil {
			return err
		}
		c.snapshots[number] = heldFile{seq: seq}
		g.install(seq, at, m, number)
		return nil
	case kindRemoved:
		c.tombs[r.group] = tombstone{replica: max(r.term, c.tombs[r.group].replica), seq: seq}
		delete(c.groups, r.group)
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

// begin takes the first record of a replica.
func (c *collector) begin(seq uint64, r record) error {
	p := groupPoint{group: r.group, replica: r.term}
	if r.kind == kindMembership {
		voters, _, err := decodeVoters(r.payload)
		if err != nil {
			return err
		}
		p.members.voters = voters
		p.applied, p.hard = firstPoint, hardState{term: firstPoint.term, commit: firstPoint.index}
	}
	if seq != firstFrame {
		p.begun, p.stamp = seq, p.replica
	}
	g := newGroupLog(p, c.held[r.group])
	g.fresh = true
	c.groups[r.group] = g
	return nil
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
