package membership

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// healing cuts peer 1 and 2 from the rest for so long and returns how long it takes until all see each other again.
func healing(t *testing.T, cut, within time.Duration, adjust func(*Config)) time.Duration {
	t.Helper()
	g := newGroup(t, 5, adjust)
	g.awaitWhole(5 * time.Second)
	minority := func(addr string) bool { return addr == g.known[0].Gossip || addr == g.known[1].Gossip }
	g.wire.setCut(func(from, to string) bool { return minority(from) != minority(to) })
	<-time.After(cut)
	if cut > 30*time.Second {
		for i, m := range g.peers {
			if s := m.Stats(); s.Alive != 2 && s.Alive != 3 {
				t.Fatalf("the partition did not part: n%d sees %s", i+1, states(m))
			}
		}
	}
	g.wire.setCut(nil)
	return g.awaitWhole(within)
}

func TestAPartitionOfAnyLengthHeals(t *testing.T) {
	for _, cut := range []time.Duration{5 * time.Second, 20 * time.Second, 31 * time.Second, 35 * time.Second, 90 * time.Second, time.Hour} {
		bubble(t, func(t *testing.T) {
			took := healing(t, cut, 15*time.Second, nil)
			t.Logf("cut for %v: whole after %v", cut, took)
		})
	}
}

func TestOtherCutsHeal(t *testing.T) {
	for name, cut := range map[string]func(a, b bool) bool{
		"one alone":                         func(from, to bool) bool { return from != to },
		"one is not heard":                  func(from, _ bool) bool { return from },
		"one hears nothing":                 func(_, to bool) bool { return to },
		"on and off every 200 ms":           func(from, to bool) bool { return from != to && time.Now().UnixMilli()/200%2 == 0 },
		"on for a minute, off for a second": func(from, to bool) bool { return from != to && time.Now().Unix()%61 != 0 },
	} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 3, nil)
			g.awaitWhole(5 * time.Second)
			one := g.known[0].Gossip
			cuts := 0 // under the lock of the wire
			g.wire.setCut(func(from, to string) bool {
				is := cut(from == one, to == one)
				if is {
					cuts++
				}
				return is
			})
			<-time.After(5 * time.Minute)
			g.wire.setCut(nil)
			if cuts == 0 {
				t.Errorf("%s: nothing was cut", name)
			}
			t.Logf("%s: whole after %v", name, g.awaitWhole(15*time.Second))
		})
	}
}

// TestWithoutRejoinNothingHeals shows that the test above can fail.
func TestWithoutRejoinNothingHeals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// Joined by hand, once.
		g := newGroup(t, 3, func(c *Config) { c.Timing.Rejoin = -1 })
		for _, a := range g.known {
			if err := g.peers[0].exchange(a); err != nil {
				t.Fatal(err)
			}
		}
		g.awaitWhole(5 * time.Second)
		alone := g.known[0].Gossip
		g.wire.setCut(func(from, to string) bool { return (from == alone) != (to == alone) })
		<-time.After(90 * time.Second)
		g.wire.setCut(nil)
		<-time.After(10 * time.Minute)
		if s := g.peers[0].Stats(); s.Alive != 1 {
			t.Errorf("memberlist heals by itself: %s", states(g.peers[0]))
		}
	})
}

// TestOneJoinIsEnough: both sides are alive to each other when a join has returned, though each held the other dead and
// no gossip follows. Else the next round would have to come, and two of them do not fit into 15 s.
func TestOneJoinIsEnough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 2, func(c *Config) { c.Timing.Rejoin, c.Timing.Forget = -1, time.Hour })
		g.peers[0].join(g.known[1])
		g.awaitWhole(5 * time.Second)
		g.wire.setCut(func(string, string) bool { return true })
		await(t, time.Minute, "both dead to each other", func() bool { return g.peers[0].Stats().Dead+g.peers[1].Stats().Dead == 2 })
		g.wire.setCut(nil)
		g.wire.mu.Lock()
		g.wire.mute = true
		g.wire.mu.Unlock()
		g.peers[0].join(g.known[1])
		synctest.Wait()
		if !g.whole() {
			t.Errorf("%s; %s", states(g.peers[0]), states(g.peers[1]))
		}
	})
}

func TestManyPeersHeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 24, nil)
		t.Logf("together after %v", g.awaitWhole(10*time.Second))
		half := func(addr string) bool {
			return slices.ContainsFunc(g.known[:12], func(a Address) bool { return a.Gossip == addr })
		}
		g.wire.setCut(func(from, to string) bool { return half(from) != half(to) })
		<-time.After(2 * time.Minute)
		if s := g.peers[0].Stats(); s.Alive != 12 {
			t.Fatal(states(g.peers[0]))
		}
		g.wire.setCut(nil)
		t.Logf("whole after %v", g.awaitWhole(15*time.Second))
	})
}

func TestHungAddressesDelayNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 2, func(c *Config) {
			known := c.Known
			c.Known = func() []Address {
				list := known()
				for i := 10; i < 110; i++ {
					list = append(list, Address{peerID(i), fmt.Sprintf("10.9.9.%d:7000", i)})
				}
				return list
			}
		})
		await(t, time.Second, "joined", func() bool { return g.peers[0].Stats().Alive == 2 && g.peers[1].Stats().Alive == 2 })
		began := time.Now()
		g.kill(1)
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v while joins hung", took)
		}
	})
}

func TestPeersThatMovedAreFound(t *testing.T) {
	for _, pause := range []time.Duration{0, 3 * time.Second, 20 * time.Second, 2 * time.Minute} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 5, nil)
			g.awaitWhole(5 * time.Second)
			for i := 2; i <= 5; i++ {
				g.kill(i)
			}
			<-time.After(pause)
			for i := 2; i <= 5; i++ {
				g.comeBack(i, "") // the root group still has the old addresses of all but the first
			}
			took := await(t, 30*time.Second, "all at their new addresses", func() bool {
				for _, m := range g.peers {
					for i, member := range m.Members() {
						if member.State != Alive || member.Gossip != g.peers[i].Gossip() || len(m.Members()) != 5 {
							return false
						}
					}
				}
				return true
			})
			t.Logf("down for %v: found after %v", pause, took)
		})
	}
}
