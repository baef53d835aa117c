package membership

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// healLimit is what doc.go promises, with the timing that is the default.
const healLimit = 15 * time.Second

// scaled makes everything happen so many times as fast.
func scaled(by time.Duration) func(*Config) {
	return func(c *Config) {
		t := Timing{}.withDefaults()
		for _, field := range []*time.Duration{&t.Probe, &t.ProbeTimeout, &t.Gossip, &t.Forget, &t.Exchange, &t.Rejoin, &t.Stream} {
			*field /= by
		}
		c.Timing = t
	}
}

// cutFirst parts the first few peers from the rest.
func (g *group) cutFirst(few int) {
	first := map[string]bool{}
	for _, a := range g.known[:few] {
		first[a.Gossip] = true
	}
	g.wire.setCut(func(from, to string) bool { return first[from] != first[to] })
}

// parted says whether each side sees the other dead, and nobody else.
func (g *group) parted(few int) bool {
	for i, m := range g.peers {
		for j := range g.peers {
			want := Alive
			if (i < few) != (j < few) {
				want = Dead
			}
			if seen(m, j+1).State != want {
				return false
			}
		}
	}
	return true
}

// partition cuts the first few of n peers from the rest, and returns how long it takes until all see each other again.
// If the cut is long enough for that, each side must have declared the other dead.
func partition(t *testing.T, n, few int, cut time.Duration, faster time.Duration) time.Duration {
	t.Helper()
	g := newGroup(t, n, scaled(faster))
	g.awaitWhole(soon)
	g.cutFirst(few)
	end := time.Now().Add(cut / faster)
	if cut > 30*time.Second {
		await(t, time.Until(end), "both sides dead to each other", func() bool { return g.parted(few) })
	}
	<-time.After(time.Until(end))
	if g.whole() {
		t.Fatal("the partition did not part")
	}
	g.wire.setCut(nil)
	return g.awaitWhole(healLimit / faster)
}

func TestAPartitionOfAnyLengthHeals(t *testing.T) {
	for _, cut := range []time.Duration{8 * time.Second, 20 * time.Second, 35 * time.Second, 90 * time.Second, 10 * time.Minute} {
		bubble(t, func(t *testing.T) {
			took := partition(t, 5, 2, cut, 1)
			t.Logf("cut for %v: whole after %v", cut, took)
		})
	}
}

// TestPartitionsOfTwelveHeal: 90 s, in which both sides declare each other dead and memberlist forgets them, as they are
// and ten times as fast.
func TestPartitionsOfTwelveHeal(t *testing.T) {
	for _, few := range []int{6, 1} {
		for _, faster := range []time.Duration{1, 10} {
			bubble(t, func(t *testing.T) {
				took := partition(t, 12, few, 90*time.Second, faster)
				t.Logf("%d/%d, %d times as fast: whole after %v", few, 12-few, faster, took)
			})
		}
	}
}

func TestManyPeersHeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		t.Logf("12/12: whole after %v", partition(t, 24, 12, 2*time.Minute, 1))
	})
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
			g.awaitWhole(soon)
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
			t.Logf("%s: whole after %v", name, g.awaitWhole(healLimit))
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
		g.awaitWhole(soon)
		g.cutFirst(1)
		await(t, soon, "both sides dead to each other", func() bool { return g.parted(1) })
		<-time.After(90 * time.Second)
		g.wire.setCut(nil)
		<-time.After(10 * time.Minute)
		if !g.parted(1) {
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
		g.awaitWhole(soon)
		g.wire.setCut(func(string, string) bool { return true })
		await(t, soon, "both dead to each other", func() bool { return g.parted(1) })
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
		// No dial that hangs ends within the time.
		await(t, time.Second, "joined", func() bool { return g.everywhere(func(m *Membership) bool { return m.Stats().Alive == 2 }) })
		began := time.Now()
		g.kill(1)
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v while joins hung", took)
		}
	})
}
