package membership

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// rotation are the steps that change the gossip key. Each is done on every peer before the next begins.
var rotation = []func(m *Membership, old, key Key) error{
	func(m *Membership, _, key Key) error { return m.AddKey(key) },
	func(m *Membership, _, key Key) error { return m.UseKey(key) },
	func(m *Membership, old, _ Key) error { return m.RemoveKey(old) },
}

// rotate takes all running peers through a rotation; between is called after each step of each peer.
func (g *group) rotate(old, key Key, between func()) {
	g.t.Helper()
	for _, step := range rotation {
		for _, m := range g.peers {
			if m == nil {
				continue
			}
			if err := step(m, old, key); err != nil {
				g.t.Fatal(err)
			}
			between()
		}
	}
}

func TestKeysRotateUnderTraffic(t *testing.T) {
	for _, n := range []int{3, 5} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, n, nil)
			g.awaitWhole(soon)
			old := testKey
			for round := byte(1); round <= 3; round++ {
				key := Key{9, round}
				g.rotate(old, key, func() {
					// Peers are seconds apart, and everybody probes and exchanges meanwhile.
					for range 20 {
						<-time.After(100 * time.Millisecond)
						if !g.whole() {
							t.Fatal("a member was lost: ", states(g.peers[0]))
						}
					}
				})
				old = key
			}
			for i, m := range g.peers {
				if s := m.Stats(); s.WrongKey != 0 || s.Malformed != 0 {
					t.Errorf("n%d dropped %+v", i+1, s)
				}
			}
			// The rotation took place: the first key opens nothing any more.
			outside := start(t, g.config(2, g.wire.port()))
			await(t, soon, "the old key is refused", func() bool { return g.peers[0].Stats().WrongKey > 0 })
			<-time.After(10 * time.Second)
			if outside.Stats().Alive != 1 || !g.whole() {
				t.Errorf("the old key still works: %s", states(outside))
			}
			stop(t, outside)
		})
	}
}

// TestWhoMissedARotationComesBackWithTheKey: until then it is refused and counted, and does no harm.
func TestWhoMissedARotationComesBackWithTheKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		g.kill(3)
		key := Key{9}
		g.rotate(testKey, key, func() { <-time.After(time.Second) })
		g.comeBack(3, "")
		await(t, soon, "refused and counted", func() bool { return g.peers[0].Stats().WrongKey > 0 && g.peers[1].Stats().WrongKey > 0 })
		await(t, soon, "dead to the others", func() bool { return seen(g.peers[0], 3).State == Dead && seen(g.peers[1], 3).State == Dead })
		if s := g.peers[2].Stats(); s.Alive != 1 || s.JoinsFailed == 0 {
			t.Errorf("in with the old key: %+v", s)
		}
		if err := g.peers[2].AddKey(key); err != nil {
			t.Fatal(err)
		}
		if err := g.peers[2].UseKey(key); err != nil {
			t.Fatal(err)
		}
		g.awaitWhole(healLimit)
	})
}

// TestKeysRotateOnRealSockets: three members, real time, and the last key is the only one that is left.
func TestKeysRotateOnRealSockets(t *testing.T) {
	g := newRealGroup(t, 3)
	g.awaitWhole(soon)
	key := Key{9, 9}
	g.rotate(testKey, key, func() { g.awaitWhole(soon) })
	outside := g.realConfig(2)
	outside.Data.Incarnation = 1
	m := start(t, outside)
	await(t, soon, "the old key is refused", func() bool { return g.peers[0].Stats().WrongKey > 0 && m.Stats().JoinsFailed > 0 })
	stop(t, m)
	// Who comes with the new key is taken.
	g.kill(3)
	config := g.realConfig(3)
	config.Keys = []Key{key}
	g.peers[2] = start(t, config)
	await(t, soon, "back with the new key", func() bool { return g.everywhere(g.isNow(3)) })
}

// newRealGroup starts peers on sockets of this machine, which notice things soon.
func newRealGroup(t *testing.T, n int) *group {
	t.Helper()
	g := &group{t: t}
	t.Cleanup(g.close)
	for i := 1; i <= n; i++ {
		m := start(t, g.realConfig(i))
		g.peers = append(g.peers, m)
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(i), m.Gossip().String()})
		g.mu.Unlock()
	}
	return g
}

func (g *group) realConfig(i int) Config {
	config := g.config(i, nil)
	config.Transport, config.Bind = nil, netip.MustParseAddrPort("127.0.0.1:0")
	config.Allowed = func(id cluster.PeerID) bool { return id[1] <= 3 }
	config.Timing = Timing{Probe: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, Gossip: 20 * time.Millisecond, Rejoin: 200 * time.Millisecond, Stream: time.Second}
	return config
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

// TestTheRingIsSetFromAnythingToAnything goes from each ring of three keys to each other, and checks both lists of keys.
func TestTheRingIsSetFromAnythingToAnything(t *testing.T) {
	var rings [][]Key
	for a := byte(1); a <= 3; a++ {
		rings = append(rings, []Key{{a}})
		for b := byte(1); b <= 3; b++ {
			if a != b {
				rings = append(rings, []Key{{a}, {b}})
			}
		}
	}
	for _, from := range rings {
		for _, to := range rings {
			r, err := newRing(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.set(to); err != nil {
				t.Errorf("from %d keys to %d: %v", len(from), len(to), err)
				continue
			}
			var gate, shared []Key
			for _, s := range r.sealers() {
				gate = append(gate, s.key)
			}
			for _, key := range r.shared.GetKeys() {
				shared = append(shared, Key(key))
			}
			if !slices.Equal(gate, to) || !slices.Equal(shared, to) || !bytes.Equal(r.shared.GetPrimaryKey(), to[0][:]) {
				t.Errorf("from %x to %x it has %x and %x", first(from), first(to), first(gate), first(shared))
			}
		}
	}
	r, err := newRing([]Key{{1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]Key{nil, {{}}, {{1}, {}}, {{1}, {1}}, {{1}, {2}, {3}}} {
		if r.set(bad) == nil || len(r.sealers()) != 1 {
			t.Errorf("a ring of %d keys was taken", len(bad))
		}
	}
}

// first are the first bytes of keys, which show.
func first(keys []Key) (bytes []byte) {
	for _, key := range keys {
		bytes = append(bytes, key[0])
	}
	return bytes
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
