package membership

import (
	"testing"
	"testing/synctest"
	"time"
)

// notYetDead is less than it takes at least to find a peer dead that does not answer.
const notYetDead = suspicionFactor * time.Second

// isNow says whether the peer sees i as the process that runs.
func (g *group) isNow(i int) func(*Membership) bool {
	own := g.peers[i-1]
	return func(m *Membership) bool {
		got := seen(m, i)
		return got.State == Alive && got.Gossip == own.Gossip() && got.Incarnation == own.name.incarnation
	}
}

// TestAPeerThatMovesWithinSecondsIsFoundAtOnce: nobody waits until its old address is found dead.
func TestAPeerThatMovesWithinSecondsIsFoundAtOnce(t *testing.T) {
	for name, address := range map[string]func(*group) string{
		"to a new address":    func(*group) string { return "" },
		"to the same address": func(g *group) string { return g.known[1].Gossip },
	} {
		for _, pause := range []time.Duration{time.Millisecond, time.Second, 3 * time.Second} {
			bubble(t, func(t *testing.T) {
				g := newGroup(t, 5, nil)
				g.awaitWhole(soon)
				g.kill(2)
				<-time.After(pause)
				g.comeBack(2, address(g))
				took := await(t, notYetDead-pause, name+", seen everywhere", func() bool { return g.everywhere(g.isNow(2)) })
				t.Logf("%s after %v: found after %v", name, pause, took)
				// That its old process is found dead later changes nothing.
				for range 60 {
					<-time.After(time.Second)
					if !g.everywhere(g.isNow(2)) {
						t.Fatalf("%s: lost again: %+v", name, seen(g.peers[0], 2))
					}
				}
				if s := g.peers[0].Stats(); s.Duplicates != 0 || s.Forged != 0 || s.Unreadable != 0 {
					t.Errorf("%s: stats %+v", name, s)
				}
			})
		}
	}
}

// TestManyQuickRestarts is a supervisor that starts a peer again and again, by turns at two addresses.
func TestManyQuickRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		for range 30 {
			g.kill(2)
			<-time.After(2 * time.Second)
			g.comeBack(2, "")
			await(t, notYetDead-2*time.Second, "seen everywhere", func() bool { return g.everywhere(g.isNow(2)) })
		}
		// What is remembered of them goes when memberlist finds them dead.
		await(t, soon, "only the last remembered", func() bool {
			return g.everywhere(func(m *Membership) bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				return len(m.peers[peerID(2)]) == 1
			})
		})
		await(t, soon, "forgotten by memberlist", func() bool { return g.peers[0].list.NumMembers() == 3 })
	})
}

func TestPeersThatMovedTogetherAreFound(t *testing.T) {
	for _, pause := range []time.Duration{time.Millisecond, 3 * time.Second, 20 * time.Second, 2 * time.Minute} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 5, nil)
			g.awaitWhole(soon)
			for i := 2; i <= 5; i++ {
				g.kill(i)
			}
			<-time.After(pause)
			for i := 2; i <= 5; i++ {
				g.comeBack(i, "") // the root group still has the old addresses of all but the first
			}
			took := await(t, healLimit, "all at their new addresses", func() bool {
				for i := range g.peers {
					if !g.everywhere(g.isNow(i + 1)) {
						return false
					}
				}
				return true
			})
			t.Logf("down for %v: found after %v", pause, took)
		})
	}
}

// TestAPeerThatMovesInAPartitionIsFound: nobody on the other side has ever heard of its new address.
func TestAPeerThatMovesInAPartitionIsFound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 5, nil)
		g.awaitWhole(soon)
		rest := map[string]bool{}
		for _, a := range g.known[1:] {
			rest[a.Gossip] = true
		}
		g.wire.setCut(func(from, to string) bool { return rest[from] != rest[to] })
		g.kill(1)
		g.comeBack(1, "")
		await(t, soon, "dead", func() bool { return seen(g.peers[1], 1).State == Dead })
		<-time.After(90 * time.Second)
		if s := g.peers[0].Stats(); s.Alive != 1 {
			t.Fatalf("not cut: %+v", s)
		}
		g.wire.setCut(nil)
		g.awaitWhole(healLimit)
		if !g.everywhere(g.isNow(1)) {
			t.Errorf("%+v", seen(g.peers[1], 1))
		}
	})
}

// TestTheNumberIsTheCallers: the number decides, not the clock and not who came last.
func TestTheNumberIsTheCallers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		number := uint64(7)
		g := newGroup(t, 3, func(c *Config) {
			if c.Self == peerID(2) {
				c.Data.Incarnation = number
			}
		})
		g.awaitWhole(soon)
		g.kill(2)
		number++
		g.comeBack(2, "")
		await(t, notYetDead, "8 instead of 7", func() bool { return g.everywhere(g.isNow(2)) })

		// Its clock has gone back: it waits until its predecessor is dead, and is found then.
		g.kill(2)
		number = 3
		g.comeBack(2, "")
		<-time.After(time.Second)
		if got := seen(g.peers[0], 2); got.Incarnation != 8 {
			t.Errorf("3 was believed while 8 was not dead: %+v", got)
		}
		await(t, soon, "3 when 8 is dead", func() bool { return g.everywhere(g.isNow(2)) })
	})
}

// TestOfTwoThatRunTheNewerIsShown: somebody has copied a peer's drives. All agree on one of them, all count it, and when
// the copy ends the first is found again.
func TestOfTwoThatRunTheNewerIsShown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		first := g.peers[1]
		g.comeBack(2, "")
		others := []*Membership{g.peers[0], g.peers[2]}
		all := func(m *Membership) bool {
			for _, other := range others {
				if got := seen(other, 2); got.State != Alive || got.Gossip != m.Gossip() {
					return false
				}
			}
			return true
		}
		await(t, soon, "the newer everywhere", func() bool { return all(g.peers[1]) })
		await(t, soon, "counted by all", func() bool {
			return g.everywhere(func(m *Membership) bool { return m.Stats().Duplicates > 0 }) && first.Stats().Duplicates > 0
		})
		for range 60 {
			<-time.After(time.Second)
			if !all(g.peers[1]) {
				t.Fatalf("they take turns: %+v", seen(g.peers[0], 2))
			}
		}
		if got := seen(first, 2); got.Gossip != first.Gossip() {
			t.Errorf("a peer does not know itself: %+v", got)
		}
		g.kill(2)
		g.peers[1] = first
		await(t, soon, "the first again", func() bool { return all(first) })
		if len(g.peers[0].Members()) != 3 {
			t.Error(states(g.peers[0]))
		}
	})
}

// TestOneIncarnationAtTwoAddresses: the number was copied too. Who came first stays.
func TestOneIncarnationAtTwoAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, func(c *Config) {
			if c.Self == peerID(2) {
				c.Data.Incarnation = 7
			}
		})
		g.awaitWhole(soon)
		second := start(t, g.config(2, g.wire.port()))
		await(t, soon, "counted", func() bool {
			return g.peers[0].Stats().Duplicates > 0 && g.peers[2].Stats().Duplicates > 0 && second.Stats().Duplicates > 0
		})
		if !g.everywhere(g.isNow(2)) {
			t.Errorf("the second was taken: %+v", seen(g.peers[0], 2))
		}
		stop(t, second)
		synctest.Wait()
	})
}
