package raft

import (
	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Who asks for votes, or refuses one, says which entry it knows to be committed, and hears what the others know: see the
// package's doc. Raft's library has no place for that in these messages, so it stands in two fields that they do not use:
// the index in Commit, the term in RejectHint.

// electoral tells the messages that do so. A vote that is given does not: its election must not be disturbed.
func electoral(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		return true
	case raftpb.MsgPreVoteResp, raftpb.MsgVoteResp:
		return m.GetReject()
	}
	return false
}

// tell adds to a message of an election which entry this replica knows to be committed.
func (r *replica) tell(m *raftpb.Message) {
	if !electoral(m) {
		return
	}
	index := r.hard.commit
	term, err := r.store.Term(index)
	if err != nil {
		return // its own log does not have it yet
	}
	m.Commit, m.RejectHint = &index, &term
}

// hear takes up what the sender of an election's message knows to be committed, when that is news about the members. Other
// news can wait for a leader.
func (c *core) hear(r *replica, m *raftpb.Message) {
	index := m.GetCommit()
	if !electoral(m) || index <= r.hard.commit || index > r.durable || r.filling || r.install != nil {
		return
	}
	if term, err := r.store.Term(index); err != nil || term != m.GetRejectHint() {
		return // it is of another entry
	}
	if !r.store.changesMembers(r.hard.commit+1, index) {
		return
	}
	status := r.node.BasicStatus()
	now := status.HardState.GetTerm()
	if status.RaftState == etcd.StateLeader {
		return
	}
	// Raft believes a heartbeat of its leader. If it has none, this one makes none, and a candidate begins anew.
	beat := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: &status.Lead, To: &r.replica, Term: &now, Commit: &index,
	}
	log := c.host.config.Log.With("group", uint64(r.id), "replica", r.replica, "index", index, "from", m.GetFrom())
	if err := r.node.Step(beat); err != nil {
		log.Debug("committed entry not taken up", "err", err)
		return
	}
	log.Info("a change of the members is known to be committed")
}

// changesMembers tells whether one of the entries from first to last changes the members of the group.
func (s *entryStore) changesMembers(first, last uint64) bool {
	for i := max(first, s.first()); i <= last; i++ {
		if t := s.entries[i-s.first()+1].GetType(); t == raftpb.EntryConfChange || t == raftpb.EntryConfChangeV2 {
			return true
		}
	}
	return false
}
