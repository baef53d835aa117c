package membership

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

func TestPeersFindEachOther(t *testing.T) {
	for _, n := range []int{1, 3, 5} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, n, nil)
			g.awaitWhole(soon)
			for i, m := range g.peers {
				for j, member := range m.Members() {
					want := g.config(j+1, nil).Data
					want.Incarnation = member.Incarnation
					if member.ID != peerID(j+1) || member.Data != want || member.Incarnation == 0 || member.Gossip.String() != g.known[j].Gossip {
						t.Errorf("n%d sees %+v", i+1, member)
					}
				}
			}
		})
	}
}

func TestADeadPeerIsSuspectThenDead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		g.kill(2)
		suspected := false
		await(t, soon, "dead everywhere", func() bool {
			suspected = suspected || seen(g.peers[0], 2).State == Suspect || seen(g.peers[2], 2).State == Suspect
			return g.everywhere(func(m *Membership) bool { return seen(m, 2).State == Dead })
		})
		if !suspected {
			t.Error("nobody suspected it: memberlist words its line in another way")
		}
		before := g.peers[0].Stats()
		await(t, soon, "joined again and again, in vain", func() bool {
			s := g.peers[0].Stats()
			return s.Alive == 2 && s.Dead == 1 && s.Joins > before.Joins+2 && s.JoinsFailed > before.JoinsFailed
		})
	})
}

func TestASuspectThatAnswersIsAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 2, nil)
		g.awaitWhole(soon)
		g.wire.setCut(func(_, to string) bool { return to == g.known[1].Gossip })
		await(t, soon, "suspect", func() bool { return seen(g.peers[0], 2).State == Suspect })
		g.wire.setCut(nil)
		await(t, soon, "alive", func() bool { return seen(g.peers[0], 2).State == Alive })
	})
}

func TestLeaveIsToldFromDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 4, nil)
		g.awaitWhole(soon)
		if err := g.peers[1].Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		g.kill(2)
		g.kill(3)
		all := func(want string) func() bool {
			return func() bool { return states(g.peers[0]) == want && states(g.peers[3]) == want }
		}
		await(t, soon, "n2 left, n3 dead", all("n1 alive, n2 left, n3 dead, n4 alive"))
		// It stays so when memberlist has forgotten them.
		<-time.After(time.Minute)
		await(t, soon, "n2 left, n3 dead", all("n1 alive, n2 left, n3 dead, n4 alive"))
		// Who left may come back, at the same address.
		g.comeBack(2, g.known[1].Gossip)
		await(t, soon, "n2 back", all("n1 alive, n2 alive, n3 dead, n4 alive"))
	})
}

func TestAStrangerIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		config := g.config(9, g.wire.port())
		config.Allowed = func(cluster.PeerID) bool { return true }
		stranger := start(t, config)
		await(t, soon, "refused", func() bool { return g.peers[0].Stats().Strangers > 0 && g.peers[2].Stats().Strangers > 0 })
		for i, m := range g.peers {
			if len(m.Members()) != 3 {
				t.Errorf("n%d sees %s", i+1, states(m))
			}
		}
		// Once the root group knows it, it is one of them.
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(9), stranger.Gossip().String()})
		g.mu.Unlock()
		g.awaitWhole(soon)
		stop(t, stranger)
		// And when it is taken out, it is gone.
		g.mu.Lock()
		g.known = g.known[:3]
		g.mu.Unlock()
		for i, m := range g.peers {
			if len(m.Members()) != 3 {
				t.Errorf("n%d sees %s", i+1, states(m))
			}
		}
		await(t, soon, "forgotten", func() bool { return g.everywhere(func(m *Membership) bool { return len(m.ids()) == 3 }) })
	})
}

func TestASlowSubscriberBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		slow, cancel := g.peers[0].Subscribe()
		ended, cancelEnded := g.peers[0].Subscribe()
		cancelEnded()
		select {
		case <-ended: // of before it ended
		default:
		}
		g.awaitWhole(soon)
		for range 3 {
			g.kill(2)
			await(t, soon, "dead", func() bool { return seen(g.peers[0], 2).State == Dead })
			g.comeBack(2, g.known[1].Gossip)
			g.awaitWhole(soon)
		}
		synctest.Wait()
		<-slow // all that happened, as one
		select {
		case <-slow:
			t.Error("changes are not coalesced")
		default:
		}
		g.kill(3)
		<-slow
		cancel()
		if len(ended) > 0 {
			t.Error("an ended subscription got a change")
		}
	})
}

func TestStartRefuses(t *testing.T) {
	g := &group{t: t, wire: newWire()}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no key":       {func(c *Config) { c.Keys = nil }, "no gossip key"},
		"zero key":     {func(c *Config) { c.Keys = []Key{{}} }, "no gossip key"},
		"three keys":   {func(c *Config) { c.Keys = []Key{{1}, {2}, {3}} }, "full"},
		"no cluster":   {func(c *Config) { c.Cluster = cluster.ClusterID{} }, "zero"},
		"no self":      {func(c *Config) { c.Self = cluster.PeerID{} }, "zero"},
		"no authority": {func(c *Config) { c.Allowed = nil }, "nobody says"},
		"long name":    {func(c *Config) { c.Data.Name = strings.Repeat("n", 300) }, "too long"},
		"long data":    {func(c *Config) { c.Data.Name, c.Data.Zone = strings.Repeat("n", 250), strings.Repeat("n", 250) }, "at most 512"},
		"no signer":    {func(c *Config) { c.Sign = nil }, "signs"},
		"no verifier":  {func(c *Config) { c.Verify = nil }, "verifies"},
		"bad signer":   {func(c *Config) { c.Sign = func([]byte) ([]byte, error) { return nil, errTestSignature } }, "signed by another"},
		"odd name":     {func(c *Config) { c.Data.Name = "a\x1b[31m" }, "printable"},
		"nowhere":      {func(c *Config) { c.Transport = nil }, "bind"},
		"everywhere":   {func(c *Config) { c.Transport, c.Bind = nil, netip.MustParseAddrPort("0.0.0.0:0") }, "advertised"},
	} {
		config := g.config(1, g.wire.port())
		c.change(&config)
		m, err := Start(config)
		if err == nil {
			t.Errorf("%s: started", name)
			_ = m.Close()
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAfterTheEnd(t *testing.T) {
	g := newGroup(t, 1, nil)
	m := g.peers[0]
	late, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Leave(late); !errors.Is(err, context.Canceled) {
		t.Errorf("leave with a context that has ended: %v", err)
	}
	g.kill(1)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Leave(context.Background()); err == nil {
		t.Error("left after its end")
	}
	if len(m.Members()) != 1 {
		t.Error("no members")
	}
}

func TestOnRealSockets(t *testing.T) {
	g := newRealGroup(t, 3)
	g.awaitWhole(soon)
	config := g.realConfig(1)
	config.Bind = g.peers[0].Gossip()
	if _, err := Start(config); err == nil || !strings.Contains(err.Error(), config.Bind.String()) {
		t.Errorf("a second peer on one port: %v", err)
	}
	g.kill(2)
	await(t, soon, "dead", func() bool {
		return g.everywhere(func(m *Membership) bool { return seen(m, 2).State == Dead && m.Stats().Alive == 2 })
	})
}

func TestCloseDuringAHungJoinReturns(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	g := &group{t: t, known: []Address{{peerID(2), silent.Addr().String()}}}
	config := g.config(1, nil)
	config.Transport, config.Bind = nil, netip.MustParseAddrPort("127.0.0.1:0")
	config.Timing.Stream = time.Minute
	m := start(t, config)
	conn, err := silent.Accept() // the join has begun
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > config.Timing.Stream/2 {
		t.Errorf("Close took %v", took)
	}
}
