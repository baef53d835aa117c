package raft

import (
	"fmt"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// entryStore is what etcd's Raft reads of a group's log: the entries that are not applied yet, and some applied ones
// for followers that are behind. The log itself is the mirroredLog. It is used by the worker alone.
type entryStore struct {
	hard hardState
	conf *raftpb.ConfState
	// entries[0] only tells the index and term of the entry before the first.
	entries []*raftpb.Entry
	bytes   int
	// snapshot says what a snapshot of the replica would be of; nil when there is none now.
	snapshot func() *raftpb.SnapshotMetadata
}

// newEntryStore begins behind an entry of which only index and term are known.
func newEntryStore(before applied, hard hardState, conf *raftpb.ConfState, entries []*raftpb.Entry) *entryStore {
	s := &entryStore{
		hard:    hard,
		conf:    conf,
		entries: []*raftpb.Entry{{Index: &before.index, Term: &before.term}},
	}
	s.append(entries)
	return s
}

// InitialState implements etcd's Storage.
func (s *entryStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	h := s.hard
	return &raftpb.HardState{Term: &h.term, Vote: &h.vote, Commit: &h.commit}, s.conf, nil
}

func (s *entryStore) first() uint64 { return s.entries[0].GetIndex() + 1 }

func (s *entryStore) lastIndex() uint64 { return s.entries[len(s.entries)-1].GetIndex() }

// Entries implements etcd's Storage.
func (s *entryStore) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo < s.first() {
		return nil, etcd.ErrCompacted
	}
	if hi > s.lastIndex()+1 {
		return nil, etcd.ErrUnavailable
	}
	from := lo - s.first() + 1
	var size uint64
	var list []*raftpb.Entry
	for _, e := range s.entries[from : from+hi-lo] {
		size += uint64(len(e.GetData()) + 16)
		if len(list) > 0 && size > maxSize {
			break
		}
		list = append(list, e)
	}
	return list, nil
}

// Term implements etcd's Storage.
func (s *entryStore) Term(i uint64) (uint64, error) {
	if i < s.first()-1 {
		return 0, etcd.ErrCompacted
	}
	if i > s.lastIndex() {
		return 0, etcd.ErrUnavailable
	}
	return s.entries[i-s.first()+1].GetTerm(), nil
}

// LastIndex implements etcd's Storage.
func (s *entryStore) LastIndex() (uint64, error) { return s.lastIndex(), nil }

// FirstIndex implements etcd's Storage.
func (s *entryStore) FirstIndex() (uint64, error) { return s.first(), nil }

// Snapshot implements etcd's Storage: it announces one, whose content is read when it is sent.
func (s *entryStore) Snapshot() (*raftpb.Snapshot, error) {
	if meta := s.snapshot(); meta != nil {
		return &raftpb.Snapshot{Metadata: meta}, nil
	}
	return nil, etcd.ErrSnapshotTemporarilyUnavailable
}

// reset begins again behind a snapshot.
func (s *entryStore) reset(at applied) {
	s.entries, s.bytes = []*raftpb.Entry{{Index: &at.index, Term: &at.term}}, 0
}

// append adds entries; those with the same or a higher index than the first of them are replaced.
func (s *entryStore) append(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	at := entries[0].GetIndex()
	if at < s.first() || at > s.lastIndex()+1 {
		panic(fmt.Sprintf("entries from %d do not fit a log of %d to %d", at, s.first(), s.lastIndex()))
	}
	keep := at - s.first() + 1
	for _, e := range s.entries[keep:] {
		s.bytes -= len(e.GetData())
	}
	s.entries = append(s.entries[:keep:keep], entries...)
	for _, e := range entries {
		s.bytes += len(e.GetData())
	}
}

// compact forgets entries up to an applied index, but keeps some bytes of them.
func (s *entryStore) compact(index uint64, keep int) {
	n := 0
	for n+1 < len(s.entries) && s.entries[n+1].GetIndex() <= index && s.bytes > keep {
		n++
		s.bytes -= len(s.entries[n].GetData())
	}
	if n == 0 {
		return
	}
	rest := make([]*raftpb.Entry, 0, len(s.entries)-n)
	before := s.entries[n]
	rest = append(rest, &raftpb.Entry{Index: before.Index, Term: before.Term})
	s.entries = append(rest, s.entries[n+1:]...)
}
