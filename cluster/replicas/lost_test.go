package replicas_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/replicas"
)

// TestAPeerThatLostItsReplicasGetsOthers gives a peer new drives. It is reachable, and a voter that will never vote again.
func TestAPeerThatLostItsReplicasGetsOthers(t *testing.T) {
	t.Parallel()
	for _, peers := range []int{3, 4} {
		for _, leads := range []bool{false, true} {
			t.Run(fmt.Sprint(peers, "peers,leads", leads), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { lostReplicas(t, peers, leads) })
			})
		}
	}
}

func lostReplicas(t *testing.T, peers int, leads bool) {
	k := grown(t, peers, 3, replicas.Settings{})
	k.pause = 100 * time.Millisecond
	l := k.load()
	victim := k.follower()
	if leads {
		victim = k.leader(tablet)
	}
	before, err := victim.host.Replicas()
	if err != nil || len(before) != 2 {
		t.Fatalf("it holds %v, %v", before, err)
	}
	begun := time.Now()
	victim.wipe()
	var status []replicas.Status
	k.eventually("it is known that they are lost", func() bool {
		if status, err = k.leader(tablet).worker.Status(); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(status[1].Voters, func(p replicas.Place) bool { return p.Lost })
	})
	tabletStatus := status[1:]
	for _, v := range tabletStatus[0].Voters {
		if v.Lost != (v.Replica == before[tablet]) || v.Reachable == v.Lost {
			t.Errorf("voter %+v, lost is %x", v, before[tablet])
		}
		if err := replicas.CanLose(tabletStatus, v.Peer); errors.Is(err, replicas.ErrNeeded) == v.Lost {
			t.Errorf("may voter %+v be lost: %v", v, err)
		}
	}
	if losses := tabletStatus[0].Losses; losses.Peers != 0 {
		t.Errorf("losses tolerated with a lost voter of three: %+v", losses)
	}
	k.wantSettled("there are three voters again", 3)
	if took := time.Since(begun); took > 2*time.Minute {
		t.Errorf("it took %v", took)
	}
	after, err := victim.host.Replicas()
	if err != nil || peers == 3 && len(after) != 2 || after[tablet] == before[tablet] || after[rootGroup] == before[rootGroup] {
		t.Errorf("it holds %v, before %v; %v", after, before, err)
	}
	l.end()
	k.close()
}

// TestLeadersAreSpreadAfterTrouble takes the majority away and gives it back. No leadership is given away meanwhile; then the
// groups have two leaders, and keep them.
func TestLeadersAreSpreadAfterTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 3, 3, replicas.Settings{})
		k.eventually("the groups have two leaders", func() bool { return k.leader(rootGroup) != k.leader(tablet) })
		before := k.did("spread")
		for _, away := range []int{1, 2, 3} { // of the peers; with 3 all have lost each other
			for _, p := range k.peers[:away] {
				p.isolate()
			}
			time.Sleep(3 * time.Minute)
			if n := k.did("spread"); n != before {
				t.Errorf("%d peers away: leaderships were given away %d times", away, n-before)
			}
			for _, p := range k.peers[:away] {
				p.heal()
			}
			k.eventually("the groups have two leaders again", func() bool { return k.leader(rootGroup) != k.leader(tablet) })
			again := k.did("spread")
			if again > before+1 {
				t.Errorf("%d peers were away: leaderships were given away %d times", away, again-before)
			}
			rootLeader, tabletLeader := k.leader(rootGroup), k.leader(tablet)
			time.Sleep(time.Hour)
			if n := k.did("spread"); n != again || k.leader(rootGroup) != rootLeader || k.leader(tablet) != tabletLeader {
				t.Errorf("%d peers were away: the leaders did not stay", away)
			}
			before = again
		}
		k.wantSettled("nothing else has changed", 3)
		k.close()
	})
}

// TestWhoIsNeededCannotBeLost asks for groups of one, three and four voters.
func TestWhoIsNeededCannotBeLost(t *testing.T) {
	t.Parallel()
	place := func(n byte, reachable bool) replicas.Place {
		return replicas.Place{Replica: uint64(n), Peer: cluster.PeerID{n}, Reachable: reachable}
	}
	for _, test := range []struct {
		away   []byte
		voters byte
		can    []byte // be lost
	}{
		{nil, 1, []byte{9}},
		{nil, 2, []byte{9}},
		{nil, 3, []byte{1, 2, 3, 9}},
		{[]byte{2}, 3, []byte{2, 9}},
		{[]byte{2, 3}, 3, []byte{9}},
		{nil, 4, []byte{1, 2, 3, 4, 9}},
		{[]byte{1}, 4, []byte{1, 9}},
		{[]byte{1}, 5, []byte{1, 2, 3, 4, 5, 9}},
		{[]byte{1, 2}, 5, []byte{1, 2, 9}},
	} {
		s := replicas.Status{Group: tablet}
		for n := byte(1); n <= test.voters; n++ {
			s.Voters = append(s.Voters, place(n, !slices.Contains(test.away, n)))
		}
		for _, n := range []byte{1, 2, 3, 4, 5, 9} {
			if n > test.voters && n != 9 {
				continue
			}
			err := replicas.CanLose([]replicas.Status{{Group: rootGroup}, s}, cluster.PeerID{n})
			if want := slices.Contains(test.can, n); want != (err == nil) || !want && !errors.Is(err, replicas.ErrNeeded) {
				t.Errorf("%d voters, away %v: peer %d: %v", test.voters, test.away, n, err)
			}
		}
	}
}
