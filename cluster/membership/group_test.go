package membership

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/cluster"
)

// soon is long enough for whatever must happen sometime: virtual time costs nothing, and real time is only spent when
// something is wrong.
const soon = 2 * time.Minute

// TestMain looks for goroutines left behind. What memberlist does not wait for ends by itself, on a busy machine late.
func TestMain(m *testing.M) {
	code := m.Run()
	err := goleak.Find()
	for end := time.Now().Add(soon); err != nil && time.Now().Before(end); {
		err = goleak.Find()
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	testCluster = cluster.ClusterID{0xc1}
	testKey     = Key{1, 2, 3}
)

func peerID(i int) cluster.PeerID { return cluster.PeerID{0xbe, byte(i)} }

// firstKey is the key that a peer signs with at first.
func firstKey(id cluster.PeerID) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(id[:], id[:]...))
}

// group is a cluster whose root group knows the ids 1 to n, each by the first address it had.
type group struct {
	t      *testing.T
	wire   *wire
	adjust func(*Config)
	peers  []*Membership // by id-1, nil when closed

	mu    sync.Mutex
	known []Address
	keys  map[cluster.PeerID]ed25519.PrivateKey // where they are not the first
}

func (g *group) list() []Address {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.known)
}

func (g *group) knows(id cluster.PeerID) bool {
	return slices.ContainsFunc(g.list(), func(a Address) bool { return a.ID == id })
}

func (g *group) key(id cluster.PeerID) ed25519.PrivateKey {
	g.mu.Lock()
	defer g.mu.Unlock()
	if key, ok := g.keys[id]; ok {
		return key
	}
	return firstKey(id)
}

var errTestSignature = errors.New("signed by another")

func (g *group) verify(id cluster.PeerID, data, signature []byte) error {
	if !ed25519.Verify(g.key(id).Public().(ed25519.PublicKey), data, signature) {
		return errTestSignature
	}
	return nil
}

func (g *group) config(i int, p *port) Config {
	config := Config{
		Cluster: testCluster, Self: peerID(i), Keys: []Key{testKey}, Transport: p,
		Data:  Data{Name: fmt.Sprintf("n%d", i), Zone: "z", Rack: "r", Peer: fmt.Sprintf("n%d:7001", i), S3: fmt.Sprintf("n%d:9000", i), Format: 1, Command: 2},
		Known: g.list, Allowed: g.knows, Verify: g.verify,
		Sign: func(data []byte) ([]byte, error) { return ed25519.Sign(g.key(peerID(i)), data), nil },
		Log:  slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if g.adjust != nil {
		g.adjust(&config)
	}
	return config
}

// newGroup starts n peers; adjust may change each config.
func newGroup(t *testing.T, n int, adjust func(*Config)) *group {
	t.Helper()
	g := &group{t: t, wire: newWire(), adjust: adjust}
	var ports []*port
	for i := 1; i <= n; i++ {
		p := g.wire.port()
		ports = append(ports, p)
		g.known = append(g.known, Address{peerID(i), p.addr.String()})
	}
	for i, p := range ports {
		g.peers = append(g.peers, start(t, g.config(i+1, p)))
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
		stop(g.t, g.peers[i-1])
		g.peers[i-1] = nil
	}
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

func start(t *testing.T, config Config) *Membership {
	t.Helper()
	m, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func stop(t *testing.T, m *Membership) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
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

// seen is how a peer sees peer i, zero when not at all.
func seen(m *Membership, i int) Member {
	id := peerID(i)
	for _, member := range m.Members() {
		if bytes.Equal(member.ID[:], id[:]) {
			return member
		}
	}
	return Member{}
}

// everywhere says whether all running peers see what ok says.
func (g *group) everywhere(ok func(*Membership) bool) bool {
	for _, m := range g.peers {
		if m != nil && !ok(m) {
			return false
		}
	}
	return true
}

// await polls in the time of the bubble, or real time outside.
func await(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(min(within/500, 50*time.Millisecond))
	}
	return time.Since(began)
}

func (g *group) whole() bool {
	n := len(g.list())
	return g.everywhere(func(m *Membership) bool { return m.Stats().Alive == n })
}

func (g *group) awaitWhole(within time.Duration) time.Duration {
	g.t.Helper()
	return await(g.t, within, "all members alive everywhere", g.whole)
}
