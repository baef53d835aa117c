package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
)

// members are the replicas of a group: voters count for a majority, learners only follow.
type members struct {
	voters, learners []uint64
}

// maxVoters bounds a decoded list of voters, and one of learners.
const maxVoters = 64

func appendVoters(buf []byte, voters []uint64) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(voters)))
	for _, v := range voters {
		buf = binary.LittleEndian.AppendUint64(buf, v)
	}
	return buf
}

func decodeVoters(data []byte) (voters []uint64, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, errBlock
	}
	count := binary.LittleEndian.Uint32(data)
	if data = data[4:]; count > maxVoters || len(data) < 8*int(count) {
		return nil, nil, errBlock
	}
	for i := range int(count) {
		voters = append(voters, binary.LittleEndian.Uint64(data[8*i:]))
	}
	return voters, data[8*count:], nil
}

// append appends both lists.
func (m members) append(buf []byte) []byte {
	return appendVoters(appendVoters(buf, m.voters), m.learners)
}

func decodeMembers(data []byte) (m members, rest []byte, err error) {
	if m.voters, rest, err = decodeVoters(data); err == nil {
		m.learners, rest, err = decodeVoters(rest)
	}
	return m, rest, err
}

// only tells whether a replica is the only voter: what is durable there is committed.
func (m members) only(replica uint64) bool { return len(m.voters) == 1 && m.voters[0] == replica }

// has tells whether a replica is a voter or a learner.
func (m members) has(replica uint64) bool {
	return slices.Contains(m.voters, replica) || slices.Contains(m.learners, replica)
}

func (m members) conf() *raftpb.ConfState {
	return &raftpb.ConfState{Voters: m.voters, Learners: m.learners}
}

func membersOf(conf *raftpb.ConfState) members {
	return members{voters: conf.GetVoters(), learners: conf.GetLearners()}
}

// putMembers writes the members of a group as of the same batch's applied index. stamp is the id of a replica that was
// created at run time, zero for one that began with its peer: it tells a state that belongs to an earlier replica.
func putMembers(b kv.Batch, group GroupID, m members, stamp uint64) {
	value := appendVoters(nil, m.voters)
	if len(m.learners) > 0 || stamp != 0 {
		value = binary.LittleEndian.AppendUint64(appendVoters(value, m.learners), stamp)
	}
	b.Put(rowKey(votersRow, group), value)
}

func getMembers(r kv.Reader, group GroupID) (m members, stamp uint64, err error) {
	value, err := r.Get(rowKey(votersRow, group))
	if err != nil {
		return members{}, 0, err
	}
	m.voters, value, err = decodeVoters(value)
	if err == nil && len(value) > 0 {
		if m.learners, value, err = decodeVoters(value); err == nil && len(value) == 8 {
			stamp, value = binary.LittleEndian.Uint64(value), nil
		}
	}
	if err != nil || len(value) > 0 {
		return members{}, 0, errors.Join(fmt.Errorf("voters row of group %d is damaged", group), err)
	}
	return m, stamp, nil
}

// reconfigure applies a change of a group's members.
func (c *core) reconfigure(r *replica, e *raftpb.Entry, a *application) error {
	change, err := decodeConfChange(e)
	if err != nil {
		return err
	}
	r.setMembers(membersOf(r.node.ApplyConfChange(change)))
	putMembers(a.batch, r.id, r.members, r.stamp)
	c.log.setWant(c.wantMirrors())
	if waiter := c.claimChange(r, change); waiter != nil {
		a.answers = append(a.answers, answer{to: waiter})
	}
	return nil
}

// setMembers notes who the members are as of what is applied.
func (r *replica) setMembers(m members) {
	r.members = m
	r.shown.Store(&m)
	r.store.conf = m.conf()
	if r.alone = m.only(r.replica); !r.alone {
		r.lease.Store(0)
	}
}

// decodeConfChange reads an entry that changes a group's members.
func decodeConfChange(e *raftpb.Entry) (raftpb.ConfChangeI, error) {
	if e.GetType() == raftpb.EntryConfChange {
		change := new(raftpb.ConfChange)
		return change, proto.Unmarshal(e.GetData(), change)
	}
	change := new(raftpb.ConfChangeV2)
	return change, proto.Unmarshal(e.GetData(), change)
}

// wantMirrors is how many mirrors the groups of this peer ask for: as many as the one with the fewest voters.
func (c *core) wantMirrors() int {
	if c.host.config.WantMirrors != 0 {
		return c.host.config.WantMirrors
	}
	want := 0
	for _, r := range c.order {
		if len(r.members.voters) > 0 {
			want = max(want, MirrorsFor(len(r.members.voters)))
		}
	}
	if want == 0 {
		want = MirrorsFor(len(c.host.config.Voters))
	}
	return want
}
