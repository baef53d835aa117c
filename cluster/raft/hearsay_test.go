package raft

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// scene is a leader A, two followers B and C, and a replica D whose part in the group changes, between which a test decides
// about every message.
type scene struct {
	t          *testing.T
	net        *network
	a, b, c, d *Host
	// before is the last entry of all of them; the change is the next one, and a command follows it.
	before uint64

	mu   sync.Mutex
	held []GroupMessage // answers to A that are held back
}

// newScene begins with D as a learner that has everything.
func newScene(t *testing.T) *scene {
	s := &scene{t: t, net: newNetwork()}
	hosts := threeHosts(t, s.net, 1)
	s.a = say(t, 1, "first", hosts...)
	others := otherThan(hosts, s.a)
	s.b, s.c = others[0], others[1]
	_, s.d = s.net.alone(t, vfs.NewMemory(4), 4)
	ctx := testContext(t)
	if err := errors.Join(s.d.Create(ctx, 1, 104), s.a.Group(1).AddLearner(ctx, 104)); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "the learner has caught up", func() bool { return s.a.CaughtUp(ctx, 1, 104) == nil })
	t.Cleanup(s.close)
	return s
}

func (s *scene) all() []*Host { return []*Host{s.a, s.b, s.c, s.d} }

// peer is that of a host.
func (s *scene) peer(h *Host) cluster.PeerID {
	if h == s.d {
		return peerID(104)
	}
	return peerID(h.config.Replica)
}

// durable is the last entry that a host has.
func (s *scene) durable(h *Host) (index uint64) {
	s.t.Helper()
	c := h.core.Load()
	if err := c.ask(testContext(s.t), func() error { index = c.find(1).durable; return nil }); err != nil {
		s.t.Fatal(err)
	}
	return index
}

// votes tells whether D is a voter as a host knows it.
func (s *scene) votes(h *Host) bool {
	voters, _ := h.Group(1).Members()
	return slices.Contains(voters, 104)
}

// play lets A make the change, and a command after it, while nobody's answer arrives: D gets both entries, whoever of B and C
// is in half the change alone, who is in neither nothing.
func (s *scene) play(half *Host, change func(ctx context.Context) error) (changed <-chan error) {
	s.t.Helper()
	wantAlike(s.t, 1, s.all()...)
	s.before = s.durable(s.a)
	s.net.setRule(func(from, to cluster.PeerID, m GroupMessage) bool {
		last := m.Message.GetIndex() + uint64(len(m.Message.GetEntries()))
		switch {
		case m.Message.GetType() == raftpb.MsgAppResp:
			s.mu.Lock()
			defer s.mu.Unlock()
			if !m.Message.GetReject() && (from == s.peer(half) || from == s.peer(s.d)) {
				s.held = append(s.held, m)
			}
			return false
		case m.Message.GetType() != raftpb.MsgApp || to == s.peer(s.d):
			return true
		case to == s.peer(half):
			return last <= s.before+1
		}
		return last <= s.before
	})
	ctx, cancel := context.WithCancel(testContext(s.t))
	s.t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- change(ctx) }()
	expect.Soon(s.t, "the change is in the log", func() bool { return s.durable(s.a) == s.before+1 })
	go func() { _, _ = s.a.Group(1).Propose(ctx, []byte("second")) }() // its leader is lost
	expect.Soon(s.t, "D has both", func() bool { return s.durable(s.d) == s.before+2 && s.durable(half) == s.before+1 })
	return done
}

// release lets the answers of some hosts arrive that were held back. From then on A only reaches whom it may.
func (s *scene) release(reaches func(to cluster.PeerID, m *raftpb.Message) bool, hosts ...*Host) {
	s.t.Helper()
	s.net.setRule(func(from, to cluster.PeerID, m GroupMessage) bool {
		return from != s.peer(s.a) || reaches(to, m.Message)
	})
	b := newBatch(s.a.config.Cluster)
	for _, m := range s.held {
		if !slices.ContainsFunc(hosts, func(h *Host) bool { return s.peer(h) == peerID(m.Message.GetFrom()) }) {
			continue
		}
		if err := b.add(m); err != nil {
			s.t.Fatal(err)
		}
	}
	if b.count == 0 {
		s.t.Fatal("no answer was held back")
	}
	if err := s.a.Receive(b.take()); err != nil {
		s.t.Fatal(err)
	}
}

// end cuts a host off. The others must elect a leader among them.
func (s *scene) end(gone *Host) {
	s.t.Helper()
	away, others := s.peer(gone), otherThan(s.all(), gone)
	s.net.setRule(func(from, to cluster.PeerID, _ GroupMessage) bool { return from != away && to != away })
	begun := time.Now()
	say(s.t, 1, "third", others...)
	s.t.Logf("another led after %v", time.Since(begun))
	s.net.setRule(nil)
	say(s.t, 1, "fourth", others...)
}

// close ends all hosts.
func (s *scene) close() {
	s.t.Helper()
	for _, h := range s.all() {
		closeHost(s.t, h)
	}
	time.Sleep(stateLingers)
}

// TestAVoterThatDoesNotKnowItMayHaveTheLongestLog promotes D and loses the leader when B alone knows it. D has more entries
// than B and C and refuses them, they need its vote, and as a learner it does not stand for election itself.
func TestAVoterThatDoesNotKnowItMayHaveTheLongestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		changed := s.play(s.b, func(ctx context.Context) error { return s.a.Group(1).Promote(ctx, 104) })
		// B hears by heartbeats what is committed; D and C hear nothing.
		s.release(func(to cluster.PeerID, m *raftpb.Message) bool {
			return to == s.peer(s.b) && m.GetType() == raftpb.MsgHeartbeat
		}, s.b)
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "B knows the voters", func() bool { return s.votes(s.b) })
		if s.votes(s.c) || s.votes(s.d) || s.durable(s.d) != s.before+2 || s.durable(s.b) != s.before+1 || s.durable(s.c) != s.before {
			t.Fatal("the scene is not what it should be")
		}
		s.end(s.a)
		wantAlike(t, 1, s.all()...)
	})
}

// TestARemovedReplicaMayHaveTheLongestLog removes the voter D and loses the leader when D alone knows it. C, which has the
// change, needs three of four votes until it knows that too; D has more entries and refuses.
func TestARemovedReplicaMayHaveTheLongestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		if err := s.a.Group(1).Promote(testContext(t), 104); err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "all know the voters", func() bool { return s.votes(s.b) && s.votes(s.c) && s.votes(s.d) })
		changed := s.play(s.c, func(ctx context.Context) error { return s.a.Group(1).Remove(ctx, 104) })
		s.release(func(to cluster.PeerID, _ *raftpb.Message) bool { return to == s.peer(s.d) }, s.c, s.d)
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "D knows that it is out", func() bool { return !s.votes(s.d) })
		if !s.votes(s.b) || !s.votes(s.c) || s.durable(s.d) != s.before+2 || s.durable(s.c) != s.before+1 || s.durable(s.b) != s.before {
			t.Fatal("the scene is not what it should be")
		}
		s.end(s.a)
		wantAlike(t, 1, s.a, s.b, s.c)
	})
}

// TestALearnerMayHaveTheFirstEntryOfANewLeader promotes D and loses the leader A when C alone knows it. B leads next, without
// knowing it, and gives its first entry to D only, which it never commits. When A is back and B is gone, D has the longest log.
func TestALearnerMayHaveTheFirstEntryOfANewLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		wantAlike(t, 1, s.all()...)
		s.before = s.durable(s.a)
		a, b, c := s.peer(s.a), s.peer(s.b), s.peer(s.c)
		s.net.setRule(func(from, to cluster.PeerID, m GroupMessage) bool {
			news := m.Message.GetType() == raftpb.MsgApp || m.Message.GetType() == raftpb.MsgHeartbeat
			return !news || to == c || to == b && m.Message.GetCommit() <= s.before
		})
		if err := s.a.Group(1).Promote(testContext(t), 104); err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "C knows the voters, B has them", func() bool { return s.votes(s.c) && s.durable(s.b) == s.before+1 })
		s.net.setRule(func(from, to cluster.PeerID, m GroupMessage) bool {
			kind := m.Message.GetType()
			return from != a && to != a && (from != c || kind != raftpb.MsgPreVote) && (to != c || kind != raftpb.MsgApp)
		})
		s.b.Unreachable(a)
		s.c.Unreachable(a)
		expect.Soon(t, "D has the first entry of B", func() bool { return s.durable(s.d) == s.before+2 })
		expect.Soon(t, "A leads no more", func() bool { return s.a.Group(1).Leader().Replica == 0 })
		if s.votes(s.b) || s.votes(s.d) || !s.votes(s.a) || s.durable(s.a) != s.before+1 || s.durable(s.c) != s.before+1 {
			t.Fatal("the scene is not what it should be")
		}
		s.end(s.b)
		wantAlike(t, 1, s.all()...)
	})
}

// TestHearsayMustBeOfTheSameEntry tells D that the change that promotes it is committed, in words that are wrong before
// those that are right.
func TestHearsayMustBeOfTheSameEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.play(s.b, func(ctx context.Context) error { return s.a.Group(1).Promote(ctx, 104) })
		s.net.setRule(func(from, to cluster.PeerID, _ GroupMessage) bool { return false })
		term := s.a.Group(1).Leader().Term
		say := func(kind raftpb.MessageType, refused bool, index, of uint64) {
			m := &raftpb.Message{Type: kind.Enum(), Reject: &refused, From: &s.b.config.Replica, To: ptr(104), Term: ptr(term), Commit: &index, RejectHint: &of}
			b := newBatch(s.d.config.Cluster)
			if err := errors.Join(b.add(GroupMessage{1, m}), s.d.Receive(b.take())); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		change := s.before + 1
		for _, wrong := range [][2]uint64{{change, term + 1}, {change, 0}, {change + 2, term}, {1 << 60, term}, {s.before, term}} {
			say(raftpb.MsgPreVote, false, wrong[0], wrong[1])
		}
		say(raftpb.MsgAppResp, true, change, term)
		say(raftpb.MsgPreVoteResp, false, change, term)
		if s.votes(s.d) {
			t.Error("D believed something that is wrong")
		}
		say(raftpb.MsgPreVoteResp, true, change, term)
		expect.Soon(t, "D knows that it votes", func() bool { return s.votes(s.d) })
		s.net.setRule(nil)
		wantAlike(t, 1, s.all()...)
	})
}
