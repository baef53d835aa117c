package transport_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// patience bounds what must happen.
const patience = 30 * time.Second

// realm is a cluster as far as certificates go.
type realm struct {
	t         testing.TB
	authority *trust.Authority
	list      trust.List
}

func newRealm(t testing.TB) *realm {
	t.Helper()
	authority, err := trust.NewAuthority(cluster.ClusterID(cluster.NewID()), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &realm{t: t, authority: authority, list: trust.List{}.Trust(authority.Certificate())}
}

func newIdentity(roles trust.Roles) trust.Identity {
	return trust.Identity{Peer: cluster.PeerID(cluster.NewID()), Roles: roles}
}

// clock is a clock that tests set ahead.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// credentials of an identity, signed at now.
func (r *realm) credentials(identity trust.Identity, now time.Time) *trust.Credentials {
	r.t.Helper()
	request, err := trust.NewRequest()
	if err != nil {
		r.t.Fatal(err)
	}
	certificate, err := r.authority.Issue(request.Bytes(), identity, now)
	if err != nil {
		r.t.Fatal(err)
	}
	credentials, err := request.Complete(certificate)
	if err != nil {
		r.t.Fatal(err)
	}
	return credentials
}

func (r *realm) store(identity trust.Identity) *trust.Store {
	r.t.Helper()
	return r.storeBy(new(clock), identity)
}

// storeBy is a store with a clock of its own.
func (r *realm) storeBy(c *clock, identity trust.Identity) *trust.Store {
	r.t.Helper()
	store, err := trust.NewStore(trust.Config{
		Credentials: r.credentials(identity, time.Now()), List: r.list, Protocols: transport.Protocols(), Now: c.now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return store
}

// site is one peer with both sides of its transport.
type site struct {
	t        testing.TB
	realm    *realm
	identity trust.Identity
	network  transport.Network
	trust    *trust.Store
	// clock is what certificates are judged by.
	clock  *clock
	server *transport.Server
	peers  *transport.Peers
	events *events
	log    *logLines
}

// options are what tests change of a site.
type options struct {
	roles  trust.Roles
	routes []transport.Route
	inlets []transport.Inlet
	server func(*transport.ServerConfig)
	peers  func(*transport.PeersConfig)
}

// start makes a site that listens at address and ends with the test.
func (r *realm) start(network transport.Network, address string, o options) *site {
	r.t.Helper()
	if o.roles == 0 {
		o.roles = trust.RolePeer
	}
	s := &site{t: r.t, realm: r, identity: newIdentity(o.roles), network: network, clock: &clock{}, events: &events{}, log: &logLines{}}
	s.trust = r.storeBy(s.clock, s.identity)
	config := transport.ServerConfig{
		Network: network, Address: address, Trust: s.trust, Sentinels: testSentinels, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	if o.server != nil {
		o.server(&config)
	}
	server, err := transport.Listen(config, o.routes, o.inlets)
	if err != nil {
		r.t.Fatal(err)
	}
	s.server = server
	peers := transport.PeersConfig{Network: network, Trust: s.trust, Sentinels: testSentinels, Changed: s.events.add}
	if o.peers != nil {
		o.peers(&peers)
	}
	if s.peers, err = transport.NewPeers(peers); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		s.peers.Close()
		s.stop()
	})
	return s
}

// stop ends the server; calls that are still there are cut off.
func (s *site) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.server.Stop(ctx); err != nil {
		s.t.Logf("stop: %v", err)
	}
}

// to is the way to another site.
func (s *site) to(other *site) *transport.Peer {
	s.t.Helper()
	s.peers.Set(other.identity.Peer, other.server.Addr())
	peer, err := s.peers.Peer(other.identity.Peer)
	if err != nil {
		s.t.Fatal(err)
	}
	return peer
}

// events are what Changed was told.
type events struct {
	mu  sync.Mutex
	all []event
}

type event struct {
	at        time.Time
	peer      cluster.PeerID
	reachable bool
	why       error
}

func (e *events) add(peer cluster.PeerID, reachable bool, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event{time.Now(), peer, reachable, why})
}

func (e *events) last() (event, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) == 0 {
		return event{}, 0
	}
	return e.all[len(e.all)-1], len(e.all)
}

// logLines is what was logged.
type logLines struct{ expect.Buffer }

func (l *logLines) lines(with string) int {
	count := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, with) {
			count++
		}
	}
	return count
}

var (
	errGone  = errors.New("it is gone")
	errStale = errors.New("it is stale")

	testSentinels = transport.Sentinels{"test.gone": errGone, "test.stale": errStale}
)

// echo answers with the body and who sent it.
func echo(w http.ResponseWriter, r *http.Request) error {
	caller, ok := transport.Caller(r.Context())
	if !ok {
		return errors.New("nobody calls")
	}
	w.Header().Set("Caller", caller.String())
	_, err := io.Copy(w, r.Body)
	return err
}

// peerRoute is a route that peers may call, with a body of up to 128 MiB.
func peerRoute(pattern string, handler transport.HandlerFunc) transport.Route {
	return transport.Route{Pattern: pattern, Roles: trust.RolePeer, MaxBody: 128 << 20, Handler: handler}
}

// doer is one of the two ways to call.
type doer func(*http.Request) (*http.Response, error)

// post makes a call and reads its answer.
func post(ctx context.Context, do doer, path string, body io.Reader) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://peer"+path, body)
	if err != nil {
		return "", err
	}
	response, err := do(request)
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", response.Status)
	}
	return string(answer), nil
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// wantTook fails unless it is within a twentieth of want since begin: bubbles have exact clocks, and a little happens
// beside.
func wantTook(t testing.TB, begin time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(begin); took < want-want/20 || took > want+want/20 {
		t.Errorf("it took %v, want %v", took, want)
	}
}

// world is two sites in a bubble: a calls b over a network of memory.
type world struct {
	*testing.T
	net   *transport.Simulation
	realm *realm
	a, b  *site
	// toB is a's way to b.
	toB *transport.Peer
}

// bubble runs body with two sites whose network has a latency of 1 ms.
func bubble(t *testing.T, a, b options, body func(w *world)) {
	t.Helper()
	bubbleSeeded(t, 1, a, b, body)
}

// bubbleSeeded is bubble with the seed of its network.
func bubbleSeeded(t *testing.T, seed uint64, a, b options, body func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: transport.NewSimulation(seed), realm: newRealm(t)}
		w.net.Shape("", "", transport.Shape{Latency: time.Millisecond})
		w.a = w.realm.start(w.net.Host("a"), "a:1", a)
		w.b = w.realm.start(w.net.Host("b"), "b:1", b)
		w.toB = w.a.to(w.b)
		body(w)
	})
}

// bubbleOf is bubble as a subtest.
func bubbleOf(t *testing.T, name string, a, b options, body func(w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { bubble(t, a, b, body) })
}

// wantReachable waits until a's news of b is this, and tells how long it took.
func (w *world) wantReachable(reachable bool, within time.Duration) time.Duration {
	w.Helper()
	begin := time.Now()
	for {
		if last, count := w.a.events.last(); count > 0 && last.reachable == reachable {
			return last.at.Sub(begin)
		}
		if time.Since(begin) > within {
			w.Fatalf("after %v b's reachability is not %v: %+v", within, reachable, w.toB.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

// newRealmOf is another authority that takes a cluster's name.
func newRealmOf(t testing.TB, id cluster.ClusterID) *realm {
	t.Helper()
	authority, err := trust.NewAuthority(id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &realm{t: t, authority: authority, list: trust.List{}.Trust(authority.Certificate())}
}

func newReader(conn io.Reader) *bufio.Reader { return bufio.NewReader(conn) }

// foreign is what a peer of another realm dials with: it takes whoever answers.
func foreign(r *realm, to *site) *tls.Config {
	config := clientConfig(r.store(newIdentity(trust.RolePeer)), to)
	config.VerifyConnection = nil
	return config
}

// waitForEnd answers when the caller has gone.
func waitForEnd(w http.ResponseWriter, r *http.Request) error {
	<-r.Context().Done()
	return r.Context().Err()
}

// group runs functions and keeps their errors.
type group struct {
	running sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

func (g *group) start(f func() error) {
	g.running.Go(func() {
		err := f()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.errs = append(g.errs, err)
	})
}

// wait gives all errors, nil ones too.
func (g *group) wait() []error {
	g.running.Wait()
	return g.errs
}

// pause sleeps, in a bubble: there it takes no time, and nothing races with it.
func pause(d time.Duration) { time.Sleep(d) }

func tlsClient(raw net.Conn, config *tls.Config) *tls.Conn { return tls.Client(raw, config) }

// writes counts the writes on a network's connections.
type writes struct {
	transport.Network
	count atomic.Int64
}

func (n *writes) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := n.Network.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return countedConn{conn, &n.count}, nil
}

type countedConn struct {
	net.Conn
	count *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.count.Add(1)
	return c.Conn.Write(p)
}

// settle waits until all that can happen in a bubble at this moment has happened.
func settle() { synctest.Wait() }
