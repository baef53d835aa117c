package replicas_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/topology"
)

// TestGroupsGrowUnderLoad lets a cluster of one peer become one of three, five and nine.
func TestGroupsGrowUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t, replicas.Settings{Voters: 9, RootVoters: 9})
		l := k.load()
		for _, voters := range []int{3, 5, 9} {
			before := l.count()
			for n := len(k.peers); n < voters; n++ {
				k.join(fmt.Sprintf("%c", 'a'+n))
			}
			k.wantSettled(fmt.Sprint(voters, " voters"), voters)
			k.eventually("commands go on", func() bool { return l.count() > before })
			status, err := k.leader(tablet).worker.Status()
			if err != nil || len(status) != 2 || len(status[1].Voters) != voters || status[1].Target != voters ||
				status[1].Losses != (replicas.Losses{Peers: voters / 2, Zones: voters / 2}) {
				t.Errorf("status with %d voters: %+v, %v", voters, status, err)
			}
		}
		l.end()
		if adds := k.did("add"); adds != 16 {
			t.Errorf("%d replicas were added, want 16", adds)
		}
		k.close()
	})
}

// TestAPeerThatIsGoneIsReplaced kills a leader, waits, and lets it come back when another has its place.
func TestAPeerThatIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 4, 3, replicas.Settings{})
		k.pause = 400 * time.Millisecond // for 10 minutes
		l := k.load()
		victim := k.leader(tablet)
		killed := time.Now()
		victim.kill()
		k.wantSettled("the peer is replaced", 3)
		if took := time.Since(killed); took < 10*time.Minute || took > 11*time.Minute {
			t.Errorf("it was replaced after %v", took)
		}
		victim.start()
		if ids, err := victim.host.Replicas(); err != nil || len(ids) != 2 {
			t.Fatalf("it came back with the replicas %v, %v: nothing is to be removed", ids, err)
		}
		k.wantSettled("what it held is removed", 3)
		if n := k.did("clean"); n != 2 {
			t.Errorf("%d leftovers were removed, want 2", n)
		}
		l.end()
		k.close()
	})
}

// TestAPeerThatReturnsInTimeKeepsItsReplica is away for less than 10 minutes.
func TestAPeerThatReturnsInTimeKeepsItsReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 4, 3, replicas.Settings{})
		victim := k.leader(tablet)
		before := k.did("add")
		victim.kill()
		time.Sleep(9*time.Minute + 30*time.Second)
		victim.start()
		time.Sleep(5 * time.Minute)
		k.wantSettled("all is as it was", 3)
		if n := k.did("add"); n != before {
			t.Errorf("%d replicas were added", n-before)
		}
		k.close()
	})
}

// TestALeadersPeerIsDrained drains the peer that leads, and then makes it active again.
func TestALeadersPeerIsDrained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 5, 3, replicas.Settings{Voters: 3, RootVoters: 3})
		l := k.load()
		victim := k.leader(tablet)
		drained := time.Now()
		victim.set(topology.Draining)
		k.wantSettled("another peer has its place", 3)
		if took := time.Since(drained); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		if k.did("transfer") == 0 {
			t.Error("no leadership was transferred")
		}
		if ids, err := victim.host.Replicas(); err != nil || len(ids) != 0 {
			t.Errorf("it still holds %v, %v", ids, err)
		}
		l.end()
		k.close()
	})
}

// TestGroupsShrinkWithTheirPeers drains peers until one is left.
func TestGroupsShrinkWithTheirPeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 5, 5, replicas.Settings{})
		l := k.load()
		for i, voters := range []int{3, 3, 1, 1} {
			k.peers[i].set(topology.Draining)
			k.wantSettled(fmt.Sprint(i+1, " peers are drained"), voters)
		}
		l.end()
		k.close()
	})
}

// TestLeadersAreSpreadOnce has two groups and three peers.
func TestLeadersAreSpreadOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 3, 3, replicas.Settings{})
		if k.leader(rootGroup) != k.leader(tablet) {
			t.Fatal("the groups have two leaders before anything was done")
		}
		k.eventually("the groups have two leaders", func() bool { return k.leader(rootGroup) != k.leader(tablet) })
		time.Sleep(time.Hour)
		if n := k.did("spread"); n != 1 {
			t.Errorf("leaderships were given away %d times in an hour", n)
		}
		k.close()
	})
}

// TestLostAnswersDoNoHarm loses the first answers to every kind of call.
func TestLostAnswersDoNoHarm(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"created", "removed", "listed"} {
		for _, times := range []int64{1, 4} {
			t.Run(fmt.Sprint(moment, times), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					k := newKit(t, replicas.Settings{})
					k.pause = 100 * time.Millisecond
					var lost atomic.Int64
					k.setHook(func(h hooked) error {
						if h.moment == moment && lost.Add(1) <= times {
							return errLost
						}
						return nil
					})
					l := k.load()
					for n := 1; n < 5; n++ {
						k.join("b")
					}
					k.wantSettled("it has grown", 5)
					k.eventually("answers are lost", func() bool { return moment == "removed" || lost.Load() >= times })
					k.peers[3].set(topology.Draining)
					k.peers[4].set(topology.Draining)
					k.wantSettled("it has shrunk", 3)
					if lost.Load() < times {
						t.Errorf("%d answers were lost", lost.Load())
					}
					l.end()
					k.close()
				})
			})
		}
	}
}

// TestAStaleLeaderRemovesNothing lets a leader lose its followers without knowing it, while the next leader makes a replica
// on a peer that both reach. The old one finds it there, and it is none of the members that it knows. For how long it does
// not know depends on the phase of its clock.
func TestAStaleLeaderRemovesNothing(t *testing.T) {
	t.Parallel()
	found := 0
	for phase := range 3 {
		synctest.Test(t, func(t *testing.T) {
			if staleLeader(t, time.Duration(phase)*time.Second) {
				found++
			}
		})
	}
	t.Logf("in %d of 3 phases the old leader found a replica of the new one", found)
	if found == 0 {
		t.Error("the old leader never found a replica of the new one")
	}
}

func staleLeader(t *testing.T, phase time.Duration) (found bool) {
	k := newSlowKit(t)
	for _, zone := range []string{"b", "c", "d"} {
		k.join(zone)
	}
	k.wantSettled("the cluster has grown", 3)
	old, leaver, spare := k.leader(tablet), k.peers[2], k.peers[3]
	holds := func() bool { ids, err := spare.host.Replicas(); return err == nil && ids[tablet] != 0 }
	split, asked := make(chan struct{}), make(chan bool, 1)
	var once atomic.Bool
	k.setHook(func(h hooked) error {
		if h.peer != old || h.to != spare.id || once.Load() {
			return nil
		}
		switch h.moment {
		case "list": // it asks when the other has made its replica
			<-split
			for deadline := time.Now().Add(8 * time.Second); !holds() && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
		case "listed":
			once.Store(true)
			ids, err := old.host.Replicas()
			asked <- err == nil && old.host.Group(tablet).Leader().Replica == ids[tablet] && holds()
		}
		return nil
	})
	time.Sleep(40*time.Second + phase) // it has begun to ask
	k.mu.Lock()
	k.split = func(from, to cluster.PeerID) bool {
		return (from == old.id) != (to == old.id) && from != spare.id && to != spare.id
	}
	k.mu.Unlock()
	for _, p := range k.peers {
		if p != old {
			p.host.Unreachable(old.id)
		}
	}
	leaver.set(topology.Draining)
	close(split)
	found = <-asked
	time.Sleep(15 * time.Second)
	if found && !holds() {
		t.Error("the old leader removed a replica of the new one")
	}
	k.mu.Lock()
	k.split = nil
	k.mu.Unlock()
	k.wantSettled("all ends well", 3)
	k.close()
	return found
}

// TestALeaderMayDieAtAnyStep replaces a voter and kills the leader in the middle of it, at every moment there is. Another
// leader goes on, and the old one comes back.
func TestALeaderMayDieAtAnyStep(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"create", "created", "step add", "step promote", "remove", "removed", "step remove", "step transfer"} {
		t.Run(moment, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := grown(t, 6, 3, replicas.Settings{Voters: 3, RootVoters: 3})
				k.pause = 60 * time.Millisecond
				l := k.load()
				k.killAt(moment)
				l.end()
				k.close()
			})
		})
	}
}

// killAt drains a voter's peer and kills the leader that replaces it at a moment, once.
func (k *kit) killAt(moment string) {
	k.t.Helper()
	dead := make(chan *peer, 1)
	var fired atomic.Bool
	k.setHook(func(h hooked) error {
		if h.moment != moment || !fired.CompareAndSwap(false, true) {
			return nil
		}
		// Nothing that it does from here on is heard.
		h.peer.isolate()
		dead <- h.peer
		return errCut
	})
	victim := k.leader(tablet)
	if moment != "step transfer" {
		victim = k.follower()
	}
	victim.set(topology.Draining)
	var killed *peer
	select {
	case killed = <-dead:
	case <-time.After(patience):
		k.t.Fatalf("there was no %q", moment)
	}
	killed.kill()
	k.eventually("another goes on", func() bool {
		leader, _, _ := k.members(tablet)
		return leader != 0 && leader != killed.number
	})
	time.Sleep(40 * time.Second) // the new leader looks what the old one has left
	killed.start()
	k.wantSettled("all ends well", 3)
}

// follower is a peer with a voter of both groups that leads neither.
func (k *kit) follower() *peer {
	k.t.Helper()
	_, voters, _ := k.members(tablet)
	for _, id := range voters {
		p := k.peers[replicas.PeerNumber(id)-1]
		if p != k.leader(tablet) && p != k.leader(rootGroup) {
			return p
		}
	}
	k.t.Fatal("everybody leads")
	return nil
}

// TestALeftoverOfADeadLeaderIsRemoved lets a leader die after it created a replica, for good as far as the group is
// concerned: its peer is drained. The next leader finds the replica.
func TestALeftoverOfADeadLeaderIsRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := grown(t, 5, 3, replicas.Settings{Voters: 3, RootVoters: 3})
		l := k.load()
		var orphans atomic.Int64
		dead := make(chan *peer, 1)
		k.setHook(func(h hooked) error {
			if h.moment != "created" || orphans.Add(1) != 1 {
				return nil
			}
			h.peer.isolate()
			dead <- h.peer
			return errLost
		})
		victim := k.follower()
		victim.set(topology.Draining)
		killed := <-dead
		victim.set(topology.Active) // nobody wants the new replica any more
		orphan := func() bool {
			for _, p := range k.peers[3:] {
				if ids, err := p.host.Replicas(); err != nil || len(ids) > 0 {
					return true
				}
			}
			return false
		}
		if !orphan() {
			t.Fatal("there is no leftover")
		}
		killed.kill()
		k.eventually("the leftover is removed", func() bool { return !orphan() })
		killed.start()
		k.wantSettled("all ends well", 3)
		if k.did("clean") == 0 {
			t.Error("no leftover was removed")
		}
		l.end()
		k.close()
	})
}
