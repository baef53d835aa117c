package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testCluster = cluster.ClusterID{0xc1}
	testKey     = Key{1, 2, 3}
)

func peerID(i int) cluster.PeerID { return cluster.PeerID{0xbe, byte(i)} }

// group is a cluster whose root group knows the ids 1 to n, each by the first address it had.
type group struct {
	t     *testing.T
	wire  *wire
	peers []*Membership // by id-1, nil when closed

	mu    sync.Mutex
	known []Address
}

func (g *group) list() []Address {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.known)
}

func (g *group) knows(id cluster.PeerID) bool {
	return slices.ContainsFunc(g.list(), func(a Address) bool { return a.ID == id })
}

func (g *group) config(i int, p *port) Config {
	return Config{
		Cluster: testCluster, Self: peerID(i), Keys: []Key{testKey}, Transport: p,
		Data:  Data{Name: fmt.Sprintf("n%d", i), Zone: "z", Rack: "r", Peer: fmt.Sprintf("n%d:7001", i), S3: fmt.Sprintf("n%d:9000", i), Format: 1, Command: 2},
		Known: g.list, Allowed: g.knows, Log: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// newGroup starts n peers; adjust may change each config.
func newGroup(t *testing.T, n int, adjust func(*Config)) *group {
	t.Helper()
	g := &group{t: t, wire: newWire()}
	var ports []*port
	for i := 1; i <= n; i++ {
		p := g.wire.port()
		ports = append(ports, p)
		g.known = append(g.known, Address{peerID(i), p.addr.String()})
	}
	for i, p := range ports {
		config := g.config(i+1, p)
		if adjust != nil {
			adjust(&config)
		}
		g.peers = append(g.peers, start(t, config))
	}
	t.Cleanup(g.close)
	return g
}

func (g *group) close() {
	for i := range g.peers {
		g.kill(i + 1)
	}
}

// kill ends a peer without a word.
func (g *group) kill(i int) {
	if g.peers[i-1] != nil {
		if err := g.peers[i-1].Close(); err != nil {
			g.t.Error(err)
		}
		g.peers[i-1] = nil
	}
}

func start(t *testing.T, config Config) *Membership {
	t.Helper()
	m, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// bubble runs f in virtual time. What memberlist does not wait for when it shuts down ends within the last minute.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { <-time.After(time.Minute) })
		f(t)
	})
}

func states(m *Membership) string {
	var out []string
	for _, member := range m.Members() {
		out = append(out, fmt.Sprintf("%s %s", member.Name, member.State))
	}
	return strings.Join(out, ", ")
}

// await polls in the time of the bubble, or real time outside.
func await(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(within / 500)
	}
	return time.Since(began)
}

func (g *group) whole() bool {
	for _, m := range g.peers {
		if m != nil && m.Stats().Alive != len(g.list()) {
			return false
		}
	}
	return true
}

func (g *group) awaitWhole(within time.Duration) time.Duration {
	g.t.Helper()
	return await(g.t, within, "all members alive everywhere", g.whole)
}

func TestPeersFindEachOther(t *testing.T) {
	for _, n := range []int{1, 3, 5} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, n, nil)
			g.awaitWhole(5 * time.Second)
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
		g.awaitWhole(5 * time.Second)
		g.kill(2)
		suspected := false
		await(t, 15*time.Second, "dead everywhere", func() bool {
			one, three := states(g.peers[0]), states(g.peers[2])
			suspected = suspected || strings.Contains(one+three, "n2 suspect")
			return strings.Contains(one, "n2 dead") && strings.Contains(three, "n2 dead")
		})
		if !suspected {
			t.Error("nobody suspected it: memberlist words its line in another way")
		}
		s := g.peers[0].Stats()
		if s.Alive != 2 || s.Dead != 1 || s.Joins == 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestASuspectThatAnswersIsAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 2, nil)
		g.awaitWhole(5 * time.Second)
		g.wire.setCut(func(_, to string) bool { return to == g.known[1].Gossip })
		await(t, 10*time.Second, "suspect", func() bool { return strings.Contains(states(g.peers[0]), "n2 suspect") })
		g.wire.setCut(nil)
		await(t, 10*time.Second, "alive", func() bool { return strings.Contains(states(g.peers[0]), "n2 alive") })
	})
}

func TestLeaveIsToldFromDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 4, nil)
		g.awaitWhole(5 * time.Second)
		if err := g.peers[1].Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		g.kill(2)
		g.kill(3)
		await(t, 20*time.Second, "n2 left, n3 dead", func() bool { return states(g.peers[0]) == "n1 alive, n2 left, n3 dead, n4 alive" })
		<-time.After(time.Minute)
		if got := states(g.peers[3]); got != "n1 alive, n2 left, n3 dead, n4 alive" {
			t.Error(got)
		}
		// Who left may come back, at once and at the same address.
		g.comeBack(2, g.known[1].Gossip)
		await(t, 10*time.Second, "n2 back", func() bool { return states(g.peers[0]) == "n1 alive, n2 alive, n3 dead, n4 alive" })
	})
}

// comeBack starts a peer again at an address, or at a new one when that is "".
func (g *group) comeBack(i int, addr string) {
	g.t.Helper()
	p := g.wire.port()
	if addr != "" {
		g.wire.mu.Lock()
		delete(g.wire.ports, p.addr.String())
		p.addr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
		g.wire.ports[addr] = p
		g.wire.mu.Unlock()
	}
	g.peers[i-1] = start(g.t, g.config(i, p))
}

func TestAQuickRestartIsNoLoss(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(5 * time.Second)
		before := g.peers[0].Members()[1].Incarnation
		for range 5 {
			g.kill(2)
			<-time.After(2 * time.Second)
			g.comeBack(2, g.known[1].Gossip)
		}
		await(t, 15*time.Second, "newest incarnation everywhere", func() bool {
			return g.whole() && g.peers[0].Members()[1].Incarnation > before+9_000
		})
	})
}

func TestAStrangerIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(5 * time.Second)
		config := g.config(9, g.wire.port())
		config.Allowed = func(cluster.PeerID) bool { return true }
		stranger := start(t, config)
		await(t, 10*time.Second, "refused", func() bool { return g.peers[0].Stats().Strangers > 0 && g.peers[2].Stats().Strangers > 0 })
		for i, m := range g.peers {
			if len(m.Members()) != 3 {
				t.Errorf("n%d sees %s", i+1, states(m))
			}
		}
		// Once the root group knows it, it is one of them.
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(9), stranger.Gossip().String()})
		g.mu.Unlock()
		g.awaitWhole(10 * time.Second)
		if err := stranger.Close(); err != nil {
			t.Error(err)
		}
		// And when it is taken out, it is gone.
		g.mu.Lock()
		g.known = g.known[:3]
		g.mu.Unlock()
		for i, m := range g.peers {
			if len(m.Members()) != 3 {
				t.Errorf("n%d sees %s", i+1, states(m))
			}
		}
		await(t, 20*time.Second, "forgotten", func() bool {
			m := g.peers[0]
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.members) == 3
		})
	})
}

func TestADuplicateIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(5 * time.Second)
		second := start(t, g.config(2, g.wire.port()))
		for range 60 {
			<-time.After(time.Second)
			for i, m := range g.peers {
				if got := m.Members()[1]; len(m.Members()) != 3 || got.Gossip.String() != g.known[1].Gossip || got.State == Dead {
					t.Fatalf("n%d took the second: %+v", i+1, got)
				}
			}
		}
		if g.peers[0].Stats().Duplicates == 0 || g.peers[2].Stats().Duplicates == 0 || second.Stats().Duplicates == 0 {
			t.Error("the duplicate was not counted")
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestKeysRotateUnderTraffic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 5, nil)
		g.awaitWhole(5 * time.Second)
		steps := []func(*Membership, Key, Key) error{
			func(m *Membership, _, key Key) error { return m.AddKey(key) },
			func(m *Membership, _, key Key) error { return m.UseKey(key) },
			func(m *Membership, old, _ Key) error { return m.RemoveKey(old) },
		}
		old := testKey
		for round := byte(1); round <= 3; round++ {
			key := Key{9, round}
			for _, step := range steps {
				for _, m := range g.peers {
					if err := step(m, old, key); err != nil {
						t.Fatal(err)
					}
					// Peers are seconds apart, and everybody probes and exchanges meanwhile.
					for range 20 {
						<-time.After(100 * time.Millisecond)
						if !g.whole() {
							t.Fatal("a member was lost: ", states(g.peers[0]))
						}
					}
				}
			}
			old = key
		}
		for i, m := range g.peers {
			if s := m.Stats(); s.WrongKey != 0 || s.Malformed != 0 {
				t.Errorf("n%d dropped %+v", i+1, s)
			}
		}
		// The rotation took place: the first key opens nothing any more.
		outside := start(t, g.config(2, g.wire.port()))
		<-time.After(10 * time.Second)
		if outside.Stats().Alive != 1 || g.peers[0].Stats().WrongKey == 0 {
			t.Error("the old key still works")
		}
		if err := outside.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestRingRefuses(t *testing.T) {
	r, err := newRing([]Key{{1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		got  error
		want error
	}{
		{"use of an unknown key", r.use(Key{2}), ErrNoKey},
		{"a zero key", r.add(Key{}), ErrNoKey},
		{"a second key", r.add(Key{2}), nil},
		{"a key twice", r.add(Key{2}), nil},
		{"a third key", r.add(Key{3}), ErrRingFull},
		{"removal of the key in use", r.remove(Key{1}), ErrKeyInUse},
		{"removal of an unknown key", r.remove(Key{7}), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", c.what, c.got)
		}
	}
}

func TestASlowSubscriberBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		slow, cancel := g.peers[0].Subscribe()
		ended, cancelEnded := g.peers[0].Subscribe()
		cancelEnded()
		g.awaitWhole(5 * time.Second)
		for range 3 {
			g.kill(2)
			await(t, 30*time.Second, "dead", func() bool { return g.peers[0].Stats().Dead == 1 })
			g.comeBack(2, g.known[1].Gossip)
			g.awaitWhole(15 * time.Second)
		}
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
	g := &group{t: t}
	quick := Timing{Probe: 100 * time.Millisecond, ProbeTimeout: 50 * time.Millisecond, Gossip: 20 * time.Millisecond, Rejoin: 200 * time.Millisecond, Stream: time.Second}
	for i := 1; i <= 3; i++ {
		config := g.config(i, nil)
		config.Transport, config.Timing = nil, quick
		config.Bind = netip.MustParseAddrPort("127.0.0.1:0")
		config.Allowed = func(id cluster.PeerID) bool { return id[1] <= 3 }
		m := start(t, config)
		g.peers = append(g.peers, m)
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(i), m.Gossip().String()})
		g.mu.Unlock()
	}
	t.Cleanup(g.close)
	g.awaitWhole(10 * time.Second)
	config := g.config(1, nil)
	config.Transport, config.Bind = nil, g.peers[0].Gossip()
	if _, err := Start(config); err == nil || !strings.Contains(err.Error(), config.Bind.String()) {
		t.Errorf("a second peer on one port: %v", err)
	}
	g.kill(2)
	await(t, 15*time.Second, "dead", func() bool { return g.peers[0].Stats().Dead == 1 && g.peers[2].Stats().Dead == 1 })
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
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestKeysNeverShow(t *testing.T) {
	var out strings.Builder
	key := Key{0xab, 0xcd, 0xef}
	fmt.Fprintf(&out, "%v %+v %#v %x %s %d %q", key, Config{Keys: []Key{key}}, key, key, key, key, []Key{key})
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "key", key, "config", struct{ Keys []Key }{[]Key{key}})
	for _, secret := range []string{"abcd", "171", "0xab", "q83v"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("shows %s: %s", secret, out.String())
		}
	}
}
