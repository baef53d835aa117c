package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// leaderOf finds the host that leads a group and knows it.
func leaderOf(t testing.TB, g GroupID, hosts ...*Host) (leader *Host) {
	t.Helper()
	expect.Soon(t, "somebody leads", func() bool {
		for _, h := range hosts {
			if m := h.Group(g); m != nil {
				if _, err := m.Barrier(testContext(t)); err == nil {
					leader = h
					return true
				}
			}
		}
		return false
	})
	return leader
}

func otherThan(hosts []*Host, h *Host) (list []*Host) {
	for _, other := range hosts {
		if other != h {
			list = append(list, other)
		}
	}
	return list
}

// TestMembersChangeOneAtATime begins two changes at once, and changes that a group must not make.
func TestMembersChangeOneAtATime(t *testing.T) {
	net := newNetwork()
	hosts := threeHosts(t, net, 1)
	leader := leaderOf(t, 1, hosts...)
	g := leader.Group(1)
	ctx := testContext(t)
	// Nobody answers the leader, so that its change stays under way.
	for i := range hosts {
		net.setCut(peerID(uint64(i+1)), true)
	}
	short, cancel := context.WithCancel(ctx)
	first := make(chan error, 1)
	go func() { first <- g.AddLearner(short, 104) }()
	expect.Soon(t, "the first change is under way", func() bool {
		under := false
		c := leader.core.Load()
		if err := c.ask(ctx, func() error { under = c.find(1).change != 0; return nil }); err != nil {
			t.Fatal(err)
		}
		return under
	})
	if err := g.AddLearner(ctx, 105); !errors.Is(err, ErrChangeUnderWay) {
		t.Fatalf("a second change: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("a change that was given up: %v", err)
	}
	for i := range hosts {
		net.setCut(peerID(uint64(i+1)), false)
	}
	retry := func(what string, change func(g Member) error) {
		t.Helper()
		expect.Soon(t, what, func() bool {
			err := change(leaderOf(t, 1, hosts...).Group(1))
			if err != nil && !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrChangeUnderWay) && !errors.Is(err, ErrUnknownOutcome) {
				t.Fatalf("%s: %v", what, err)
			}
			return err == nil
		})
	}
	for range 2 { // the second time there is nothing to do
		retry("add a learner", func(g Member) error { return g.AddLearner(ctx, 104) })
	}
	if err := leaderOf(t, 1, hosts...).Group(1).Promote(ctx, 104); !errors.Is(err, ErrLearnerBehind) {
		t.Fatalf("promote a learner that is nowhere: %v", err)
	}
	if err := leaderOf(t, 1, hosts...).Group(1).AddLearner(ctx, 2); !errors.Is(err, ErrMember) && !errors.Is(err, ErrNotLeader) {
		t.Fatalf("make a voter a learner: %v", err)
	}
	for range 2 {
		retry("remove the learner", func(g Member) error { return g.Remove(ctx, 104) })
	}
	wantAlike(t, 1, hosts...)
	for _, h := range hosts {
		if voters, learners := h.Group(1).Members(); len(voters) != 3 || len(learners) != 0 {
			t.Errorf("voters %v, learners %v", voters, learners)
		}
		closeHost(t, h)
	}
}

// TestMirrorsFollowTheVoters lets a group grow from one voter to five, and back to one.
func TestMirrorsFollowTheVoters(t *testing.T) {
	net := newNetwork()
	_, first := net.alone(t, vfs.NewMemory(1), 1, 1)
	ctx := testContext(t)
	g := first.Group(1)
	propose(t, first, 1, "one")
	if s := first.Mirrors(); s.Want != 5 || len(s.Members) != 5 {
		t.Fatalf("mirrors of one voter: %+v", s)
	}
	want := map[int]int{1: 5, 2: 5, 3: 3, 4: 3, 5: 2}
	hosts := []*Host{first}
	check := func(voters int) {
		t.Helper()
		expect.Soon(t, fmt.Sprintf("%d mirrors with %d voters", want[voters], voters), func() bool {
			s := first.Mirrors()
			return s.Want == want[voters] && len(s.Members) == want[voters]
		})
		propose(t, first, 1, fmt.Sprint("with ", voters))
	}
	for id := uint64(102); id <= 105; id++ {
		_, h := net.alone(t, vfs.NewMemory(id), byte(id-100))
		hosts = append(hosts, h)
		if err := errors.Join(h.Create(ctx, 1, id), g.AddLearner(ctx, id)); err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "the learner can be promoted", func() bool {
			err := g.Promote(ctx, id)
			if err != nil && !errors.Is(err, ErrLearnerBehind) {
				t.Fatal(err)
			}
			return err == nil
		})
		check(len(hosts))
	}
	wantAlike(t, 1, hosts...)
	for voters := 4; voters >= 1; voters-- {
		if err := g.Remove(ctx, uint64(101+voters)); err != nil {
			t.Fatal(err)
		}
		check(voters)
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestLeadershipIsHandedOver transfers it, and closes the leader: nobody waits for an election.
func TestLeadershipIsHandedOver(t *testing.T) {
	net := newNetwork()
	hosts := threeHosts(t, net, 1)
	leader := leaderOf(t, 1, hosts...)
	ctx := testContext(t)
	for i, h := range hosts {
		if h == leader {
			continue
		}
		if err := h.Group(1).Transfer(ctx, uint64(i+1)); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("transfer by a follower: %v", err)
		}
		expect.Soon(t, "transfer", func() bool { return leaderOf(t, 1, hosts...).Group(1).Transfer(ctx, uint64(i+1)) == nil })
		leader = h
	}
	if err := leaderOf(t, 1, hosts...).Group(1).Transfer(ctx, 77); !errors.Is(err, ErrTransfer) {
		t.Fatalf("transfer to nobody: %v", err)
	}
	leader = leaderOf(t, 1, hosts...)
	term := leader.Group(1).Leader().Term
	closeHost(t, leader)
	others := otherThan(hosts, leader)
	// Those who are left know their new leader when Close returns, or as soon as its first words arrive.
	expect.Soon(t, "another leads", func() bool {
		for _, h := range others {
			if l := h.Group(1).Leader(); l.Replica != 0 && l.Term == term+1 {
				return true
			}
		}
		return false
	})
	say(t, 1, "after", others...)
	for _, h := range others {
		closeHost(t, h)
	}
}

// TestAnUnreachableLeaderIsReplacedAtOnce cuts a leader off, and tells the others that it refuses connections.
func TestAnUnreachableLeaderIsReplacedAtOnce(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			net := newNetwork()
			hosts := threeHosts(t, net, 1)
			leader := leaderOf(t, 1, hosts...)
			others := otherThan(hosts, leader)
			begun := time.Now()
			for i, h := range hosts {
				net.setCut(peerID(uint64(i+1)), h == leader)
				for _, other := range others {
					if told && h == leader {
						other.Unreachable(peerID(uint64(i + 1)))
					}
				}
			}
			leaderOf(t, 1, others...)
			took, timeout := time.Since(begun), electionTicks*leader.config.Tick
			// A follower that is told nothing waits for an election timeout from the last heartbeat on.
			if told != (took < timeout/2) {
				t.Errorf("told %v: led again after %v, the election timeout is %v", told, took, timeout)
			}
			for _, h := range hosts {
				closeHost(t, h)
			}
			time.Sleep(stateLingers)
		})
	}
}

// stateLingers is how long goleveldb keeps a goroutine after the close of a DB: a bubble must wait for it.
const stateLingers = 2 * time.Second

// TestManyBarriersAreOneQuestion asks at once and counts what it cost.
func TestManyBarriersAreOneQuestion(t *testing.T) {
	hosts := threeHosts(t, newNetwork(), 1)
	leader := leaderOf(t, 1, hosts...)
	questions := func() (n uint64) {
		c := leader.core.Load()
		if err := c.ask(testContext(t), func() error { n = c.find(1).reads.question; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := questions()
	const readers = 1000
	var wait sync.WaitGroup
	begin := make(chan struct{})
	for range readers {
		wait.Go(func() {
			<-begin
			if _, err := leader.Group(1).Barrier(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	wait.Wait()
	asked := questions() - before
	t.Logf("%d barriers took %d questions", readers, asked)
	if asked == 0 || asked > readers/10 {
		t.Errorf("%d barriers took %d questions", readers, asked)
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestAReadOutlivesTheVotersThatItAsked: a question is on its way to two voters when both are removed. Who is left leads
// alone, and nobody will answer.
func TestAReadOutlivesTheVotersThatItAsked(t *testing.T) {
	net := newNetwork()
	hosts := threeHosts(t, net, 1)
	leader := leaderOf(t, 1, hosts...)
	g, ctx := leader.Group(1), testContext(t)
	lost := make(chan struct{}, 1)
	net.setRule(func(_, _ cluster.PeerID, m GroupMessage) bool {
		if m.Message.GetType() != raftpb.MsgHeartbeatResp || len(m.Message.GetContext()) == 0 {
			return true
		}
		select {
		case lost <- struct{}{}:
		default:
		}
		return false
	})
	answers := make(chan error, 2)
	barrier := func() {
		_, err := g.Barrier(ctx)
		answers <- err
	}
	go barrier()
	<-lost
	go barrier() // for the next question
	for i, h := range hosts {
		if h == leader {
			continue
		}
		if err := g.Remove(ctx, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		select {
		case err := <-answers:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody answers a read of a group with one voter")
		}
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestAVoteOutlivesAPowerLoss asks a voter twice in one term, and cuts its power between.
func TestAVoteOutlivesAPowerLoss(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 4)
	answers := make(answerBox, 16)
	b.config.Replica, b.config.Voters = 1, []uint64{1, 2, 3}
	b.config.Transport, b.config.PeerOf, b.config.Tick = answers, peerOf, time.Hour
	h, err := Bootstrap(testContext(t), b.config, 1)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(candidate uint64) (granted bool) {
		t.Helper()
		batch := newBatch(b.config.Cluster)
		vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: &candidate, To: ptr(1), Term: ptr(9), Index: ptr(50), LogTerm: ptr(8)}
		if err := errors.Join(batch.add(GroupMessage{1, vote}), h.Receive(batch.take())); err != nil {
			t.Fatal(err)
		}
		list, err := decodeBatch(<-answers, b.config.Cluster)
		if err != nil || len(list) != 1 || list[0].Message.GetType() != raftpb.MsgVoteResp || list[0].Message.GetTo() != candidate {
			t.Fatalf("answer %v, %v", list, err)
		}
		return !list[0].Message.GetReject()
	}
	if !ask(2) {
		t.Fatal("the first candidate got no vote")
	}
	b, h = restart(t, b, h, f.Crash)
	if ask(3) {
		t.Error("a second candidate of the term got a vote")
	}
	if !ask(2) {
		t.Error("the first candidate does not get its vote again")
	}
	closeHost(t, h)
}

// answerBox is a Transport into a channel.
type answerBox chan []byte

func (b answerBox) Send(_ cluster.PeerID, batch []byte) { b <- batch }
