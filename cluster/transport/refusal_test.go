package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// knock says what came of a call with a client's configuration: an answer, or the error.
func knock(t *testing.T, address string, config *tls.Config) (*http.Response, error) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, "https://peer/echo", strings.NewReader("x"))
	if err != nil {
		return nil, err
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(newReader(conn), request)
}

// clientConfig is what a peer with this store would dial with, by HTTP/1.1.
func clientConfig(store *trust.Store, to *site) *tls.Config {
	config := store.ClientConfig(to.identity.Peer)
	config.NextProtos = []string{"http/1.1"}
	return config
}

// showing makes a configuration show this certificate.
func showing(config *tls.Config, certificate *tls.Certificate) *tls.Config {
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	return config
}

// selfSigned is a certificate with all the names of identity that nobody but itself signed.
func selfSigned(t *testing.T, r *realm, identity trust.Identity) *tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Scheme: "holdfast", Host: r.authority.Cluster().String(), Path: "/peer/" + identity.Peer.String()}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// wantCounts fails unless the site's refusals are these and no others.
func (s *site) wantCounts(t *testing.T, want map[trust.Reason]uint64) {
	t.Helper()
	for reason, count := range s.trust.Refusals().All() {
		if count != want[reason] {
			t.Errorf("refused %d times for %s, want %d", count, reason.Label(), want[reason])
		}
	}
}

// TestServerRefusesWhoMayNotCall covers every way to come without the right to: no answer of a handler, a count each,
// and a server that goes on.
func TestServerRefusesWhoMayNotCall(t *testing.T) {
	r := newRealm(t)
	twin, other := newRealmOf(t, r.authority.Cluster()), newRealm(t)
	routes := []transport.Route{peerRoute("POST /echo", echo)}
	for _, test := range []struct {
		name string
		// config is what the client dials with.
		config func(t *testing.T, to *site) *tls.Config
		want   trust.Reason
		// answered: the client is known, and told no.
		answered bool
	}{
		{"no certificate", func(t *testing.T, to *site) *tls.Config {
			config := clientConfig(r.store(newIdentity(trust.RolePeer)), to)
			config.GetClientCertificate = nil
			return config
		}, trust.ErrNoCertificate, false},
		{"self-signed", func(t *testing.T, to *site) *tls.Config {
			identity := newIdentity(trust.RolePeer)
			return showing(clientConfig(r.store(identity), to), selfSigned(t, r, identity))
		}, trust.ErrUnknownAuthority, false},
		{"another cluster's authority", func(t *testing.T, to *site) *tls.Config {
			return foreign(other, to)
		}, trust.ErrUnknownAuthority, false},
		{"another authority of the same name", func(t *testing.T, to *site) *tls.Config {
			return foreign(twin, to)
		}, trust.ErrUnknownAuthority, false},
		{"expired", func(t *testing.T, to *site) *tls.Config {
			config := clientConfig(r.store(newIdentity(trust.RolePeer)), to)
			to.clock.ahead.Store(int64(trust.Validity + time.Hour))
			return config
		}, trust.ErrExpired, false},
		{"revoked", func(t *testing.T, to *site) *tls.Config {
			identity := newIdentity(trust.RolePeer)
			config := clientConfig(r.store(identity), to)
			if err := to.trust.SetList(r.list.Revoke(identity.Peer)); err != nil {
				t.Fatal(err)
			}
			return config
		}, trust.ErrRevoked, false},
		{"a role that may not", func(t *testing.T, to *site) *tls.Config {
			return clientConfig(r.store(newIdentity(trust.RoleAdmin)), to)
		}, trust.ErrWrongRole, true},
		{"TLS 1.2", func(t *testing.T, to *site) *tls.Config {
			config := clientConfig(r.store(newIdentity(trust.RolePeer)), to)
			config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return config
		}, trust.ErrOtherProtocol, false},
		{"the protocol of joining", func(t *testing.T, to *site) *tls.Config {
			config := clientConfig(r.store(newIdentity(trust.RolePeer)), to)
			config.NextProtos = []string{trust.JoinProtocol}
			return config
		}, trust.ErrOtherProtocol, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: routes})
			response, err := knock(t, to.server.Addr(), test.config(t, to))
			switch {
			case test.answered && (err != nil || response.StatusCode != http.StatusForbidden || response.Header.Get(transport.ErrorHeader) == ""):
				t.Errorf("answer %+v, %v, want 403", response, err)
			case !test.answered && err == nil:
				t.Errorf("answer %s", response.Status)
			}
			to.wantCounts(t, map[trust.Reason]uint64{test.want: 1})
			expect.Soon(t, "the refusal is logged", func() bool { return to.log.lines("level=WARN") == 1 })
			to.clock.ahead.Store(0)
			wantServes(t, r, to)
		})
	}
}

// wantServes fails unless the site serves who may call.
func wantServes(t *testing.T, r *realm, to *site) {
	t.Helper()
	friend := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	answer, err := post(t.Context(), friend.to(to).Do, "/echo", strings.NewReader("still here"))
	if err != nil || answer != "still here" {
		t.Errorf("afterwards: %q, %v", answer, err)
	}
}

func TestPlainTextIsCutOffWithoutAWord(t *testing.T) {
	r := newRealm(t)
	to := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{peerRoute("POST /echo", echo)}})
	for count, text := range []string{
		"GET / HTTP/1.1\r\nHost: peer\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x00\x00\x00\x00",
		strings.Repeat("A", 1<<20),
	} {
		conn, err := net.Dial("tcp", to.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		// A reset may come before all is written.
		_, _ = io.WriteString(conn, text)
		said, _ := io.ReadAll(conn)
		if len(said) != 0 {
			t.Errorf("%.10q: the server said %q", text, said)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		want := uint64(count + 1)
		expect.Soon(t, "it is counted", func() bool { return to.trust.Refusals().Of(trust.ErrOtherProtocol) == want })
	}
	to.wantCounts(t, map[trust.Reason]uint64{trust.ErrOtherProtocol: 4})
	wantServes(t, r, to)
}

// TestEachRouteAsksForItsRoles crosses every role with every route.
func TestEachRouteAsksForItsRoles(t *testing.T) {
	r := newRealm(t)
	route := func(pattern string, roles trust.Roles) transport.Route {
		return transport.Route{Pattern: pattern, Roles: roles, MaxBody: 10, Handler: transport.HandlerFunc(echo)}
	}
	to := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{
		route("POST /peers", trust.RolePeer), route("POST /admins", trust.RoleAdmin),
		route("POST /both", trust.RolePeer|trust.RoleAdmin), route("POST /nobody", 0),
	}})
	may := map[string]trust.Roles{"/peers": trust.RolePeer, "/admins": trust.RoleAdmin, "/both": trust.RolePeer | trust.RoleAdmin, "/nobody": 0, "/unheard-of": 0, "/": 0}
	refused := uint64(0)
	for _, roles := range []trust.Roles{trust.RolePeer, trust.RoleAdmin} {
		from := r.start(transport.TCP{}, "127.0.0.1:0", options{roles: roles})
		for path, allowed := range may {
			for name, do := range map[string]doer{"call": from.to(to).Do, "transfer": from.to(to).Transfer} {
				_, err := post(t.Context(), do, path, strings.NewReader("x"))
				if allowed.Any(roles) {
					if err != nil {
						t.Errorf("%v %s %s: %v", roles, name, path, err)
					}
					continue
				}
				refused++
				var remote *transport.RemoteError
				if !errors.Is(err, trust.ErrWrongRole) || !errors.As(err, &remote) {
					t.Errorf("%v %s %s: %v, want a refusal", roles, name, path, err)
				}
			}
		}
	}
	to.wantCounts(t, map[trust.Reason]uint64{trust.ErrWrongRole: refused})
	if all := to.server.Routes(); !slices.Equal(all, []string{"GET /-/ping", "POST /admins", "POST /both", "POST /nobody", "POST /peers"}) {
		t.Errorf("the routes are %q", all)
	}
}

// TestAnotherPeerAtTheAddressIsRefused is about the other end: who answers must be the peer that was meant.
func TestAnotherPeerAtTheAddressIsRefused(t *testing.T) {
	r := newRealm(t)
	from := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	to := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{peerRoute("POST /echo", echo)}})
	operator := r.start(transport.TCP{}, "127.0.0.1:0", options{roles: trust.RoleAdmin, routes: []transport.Route{peerRoute("POST /echo", echo)}})
	stranger := newRealm(t).start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{peerRoute("POST /echo", echo)}})
	meant := newIdentity(trust.RolePeer).Peer
	for name, test := range map[string]struct {
		address string
		want    error
	}{
		"another peer":    {to.server.Addr(), trust.ErrWrongPeer},
		"an operator":     {operator.server.Addr(), trust.ErrWrongRole},
		"another cluster": {stranger.server.Addr(), trust.ErrUnknownAuthority},
	} {
		from.peers.Set(meant, test.address)
		peer, err := from.peers.Peer(meant)
		if err != nil {
			t.Fatal(err)
		}
		for _, do := range []doer{peer.Do, peer.Transfer} {
			_, err = post(t.Context(), do, "/echo", strings.NewReader("x"))
			if !errors.Is(err, test.want) || !errors.Is(err, transport.ErrUnreachable) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
		if from.trust.Refusals().Of(test.want.(trust.Reason)) == 0 {
			t.Errorf("%s: not counted", name)
		}
	}
}

func TestRefusalsAreLoggedOnceAMinute(t *testing.T) {
	bubble(t, options{}, options{}, func(w *world) {
		call := func() { _, _ = post(w.Context(), w.toB.Do, "/forbidden", nil) }
		for range 100 {
			call()
		}
		if lines := w.b.log.lines("a call was refused"); lines != 1 {
			t.Errorf("%d lines for 100 refusals, want 1", lines)
		}
		pause(time.Minute)
		call()
		if lines := w.b.log.lines("left_out=99"); lines != 1 || w.b.log.lines("a call was refused") != 2 {
			t.Errorf("%d lines say how many were left out: %s", lines, w.b.log.String())
		}
		if w.b.log.lines(w.a.identity.Peer.String()) != 2 {
			t.Error("the log does not say who called")
		}
		w.b.wantCounts(w.T, map[trust.Reason]uint64{trust.ErrWrongRole: 101})
	})
}

func TestARevokedPeerLosesItsConnections(t *testing.T) {
	bubble(t, options{}, options{
		routes: []transport.Route{peerRoute("POST /wait", waitForEnd)},
		inlets: []transport.Inlet{{Name: "m", Roles: trust.RolePeer, Receive: func(trust.Identity, []byte) {}}},
	}, func(w *world) {
		stream := w.toB.Stream("m")
		stream.Send([]byte("x"))
		var calls group
		for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
			calls.start(func() error {
				_, err := post(w.Context(), do, "/wait", nil)
				return err
			})
		}
		pause(time.Second)
		if !stream.Status().Connected || w.toB.Status().Bulk != 1 {
			w.Fatalf("not under way: %+v", w.toB.Status())
		}
		if err := w.b.trust.SetList(w.realm.list.Revoke(w.a.identity.Peer)); err != nil {
			w.Fatal(err)
		}
		begin := time.Now()
		w.b.server.TrustChanged()
		for _, err := range calls.wait() {
			wantErr(w, err, transport.ErrBroken)
		}
		wantTook(w, begin, time.Millisecond)
		pause(2 * time.Second)
		if stream.Status().Connected {
			w.Error("the stream goes on")
		}
		_, err := post(w.Context(), w.toB.Do, "/wait", nil)
		wantErr(w, err, transport.ErrUnreachable)
	})
}

// TestARevokedPeerIsCalledNoMore is the same from the other side.
func TestARevokedPeerIsCalledNoMore(t *testing.T) {
	bubble(t, options{}, options{routes: []transport.Route{peerRoute("POST /wait", waitForEnd), peerRoute("POST /echo", echo)}}, func(w *world) {
		var calls group
		calls.start(func() error {
			_, err := post(w.Context(), w.toB.Do, "/wait", nil)
			return err
		})
		pause(time.Second)
		if err := w.a.trust.SetList(w.realm.list.Revoke(w.b.identity.Peer)); err != nil {
			w.Fatal(err)
		}
		_, err := post(w.Context(), w.toB.Do, "/echo", strings.NewReader("x"))
		wantErr(w, err, trust.ErrRevoked)
		w.a.peers.TrustChanged()
		for _, err := range calls.wait() {
			wantErr(w, err, transport.ErrBroken)
		}
	})
}

func TestACertificateThatExpiresEndsItsConnections(t *testing.T) {
	bubble(t, options{}, options{routes: []transport.Route{peerRoute("POST /echo", echo)}}, func(w *world) {
		if _, err := post(w.Context(), w.toB.Do, "/echo", strings.NewReader("x")); err != nil {
			w.Fatal(err)
		}
		w.b.clock.ahead.Store(int64(trust.Validity + time.Hour))
		pause(15 * time.Second)
		if last, _ := w.a.events.last(); last.reachable {
			w.Error("the connection is still there")
		}
		_, err := post(w.Context(), w.toB.Do, "/echo", strings.NewReader("x"))
		wantErr(w, err, transport.ErrUnreachable)
		if w.b.trust.Refusals().Of(trust.ErrExpired) == 0 {
			w.Errorf("not counted: %v", err)
		}
		if err := w.a.trust.SetCredentials(w.realm.credentials(w.a.identity, w.b.clock.now())); err != nil {
			w.Fatal(err)
		}
		pause(5 * time.Second)
		if _, err := post(w.Context(), w.toB.Do, "/echo", strings.NewReader("x")); err != nil {
			w.Errorf("with a new certificate: %v", err)
		}
	})
}

// TestConnectionsAreRenewedWithoutALoss replaces every connection again and again under calls, bodies and messages.
func TestConnectionsAreRenewedWithoutALoss(t *testing.T) {
	var got atomic.Int64
	inlet := transport.Inlet{Name: "m", Roles: trust.RolePeer, Receive: func(trust.Identity, []byte) { got.Add(1) }}
	far := options{routes: []transport.Route{peerRoute("POST /slow", slowEcho)}, inlets: []transport.Inlet{inlet}}
	near := options{peers: func(c *transport.PeersConfig) { c.MaxAge = 10 * time.Second }}
	bubble(t, near, far, func(w *world) {
		network := &counting{Network: w.net.Host("a")}
		w.a.peers.Close()
		peers, err := transport.NewPeers(transport.PeersConfig{Network: network, Trust: w.a.trust, MaxAge: 10 * time.Second, Changed: w.a.events.add})
		if err != nil {
			w.Fatal(err)
		}
		defer peers.Close()
		w.a.peers, w.a.events.all = peers, nil
		peer := w.a.to(w.b)
		for begin := time.Now(); time.Since(begin) < 5*time.Minute; {
			var calls group
			for _, do := range []doer{peer.Do, peer.Transfer} {
				calls.start(func() error {
					_, err := post(w.Context(), do, "/slow", strings.NewReader("x"))
					return err
				})
			}
			for _, err := range calls.wait() {
				wantErr(w, err, nil)
			}
		}
		if _, changes := w.a.events.last(); changes != 1 {
			w.Errorf("reachability changed %d times", changes)
		}
		if dials := network.dials.Load(); dials < 40 {
			w.Errorf("%d dials: connections were not renewed", dials)
		}
	})
}

// slowEcho takes longer than a connection's probe.
func slowEcho(w http.ResponseWriter, r *http.Request) error {
	pause(3 * time.Second)
	return echo(w, r)
}

// counting counts dials, and how many are under way at a time.
type counting struct {
	transport.Network
	dials, now, most atomic.Int64
}

func (c *counting) Dial(ctx context.Context, address string) (net.Conn, error) {
	c.dials.Add(1)
	now := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	return c.Network.Dial(ctx, address)
}
