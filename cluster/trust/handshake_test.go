package trust

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestPeersMeet(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), Identity{Peer: newID(), Roles: RolePeer | RoleAdmin}
	server, client := r.store(a), r.store(b)
	config := client.ClientConfig(a.Peer)
	// A client that would resume a session, by the same name at the same listener.
	config.ClientSessionCache, config.ServerName, config.SessionTicketsDisabled = tls.NewLRUClientSessionCache(4), "peer", false
	listening := server.ServerConfig()
	for range 2 {
		m := meet(t, server, listening, config).want(t)
		if m.server.Version != tls.VersionTLS13 || m.server.NegotiatedProtocol != Protocol {
			t.Errorf("%s, protocol %q", tls.VersionName(m.server.Version), m.server.NegotiatedProtocol)
		}
		if m.server.DidResume || m.client.DidResume {
			t.Error("a session was resumed")
		}
		if caller, err := server.Caller(m.server); err != nil || caller != b {
			t.Errorf("caller %v %v, want %v", caller, err, b)
		}
		if err := client.Callee(m.client, a.Peer); err != nil {
			t.Errorf("callee: %v", err)
		}
		wantErr(t, client.Callee(m.client, newID()), ErrWrongPeer)
	}
	for reason, count := range server.Refusals().All() {
		if count != 0 {
			t.Errorf("server refused %d times: %v", count, reason)
		}
	}
}

func TestPeersMeetByAProtocolOfTheTransport(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	var stores []*Store
	for _, identity := range []Identity{a, b} {
		store, err := NewStore(Config{
			Credentials: issue(t, r.authority, identity, dawn), List: r.list, Now: r.clock.Now, Protocols: []string{"h2", "http/1.1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		stores = append(stores, store)
	}
	m := meet(t, stores[0], stores[0].ServerConfig(), stores[1].ClientConfig(a.Peer)).want(t)
	if m.server.NegotiatedProtocol != "h2" {
		t.Errorf("protocol %q", m.server.NegotiatedProtocol)
	}
	if _, err := NewStore(Config{Credentials: stores[0].Credentials(), List: r.list, Protocols: []string{JoinProtocol}}); err == nil {
		t.Error("peers may speak the protocol of who has no certificate")
	}
}

// show makes a client's configuration show this certificate.
func show(config *tls.Config, certificate *tls.Certificate) *tls.Config {
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	return config
}

func pairOf(c *Credentials) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.certificate.Raw}, PrivateKey: c.key()}
}

// The names of holder in a forged certificate of r's cluster.
func named(r *realm, holder Identity) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = holder.names(r.authority.Cluster()) }
}

// stranger is a certificate that neither a server nor a client may take, whoever it says it is of.
type stranger struct {
	certificate *tls.Certificate
	want        Reason
}

func strangers(t *testing.T, r *realm, holder Identity) map[string]stranger {
	t.Helper()
	names := named(r, holder)
	uri := func(text string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			parsed, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{parsed}
		}
	}
	and := func(more func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) { names(c); more(c) }
	}
	unknown := func(c *tls.Certificate) stranger { return stranger{c, ErrUnknownAuthority} }
	bad := func(change func(*x509.Certificate)) stranger {
		return stranger{forge(t, r.authority, change), ErrBadCertificate}
	}
	root := "holdfast://" + r.authority.Cluster().String()
	twin := newRealmOf(t, r.authority.Cluster()) // another authority that takes the cluster's name
	return map[string]stranger{
		"self-signed": unknown(forge(t, nil, names)),
		"self-signed and expired": unknown(forge(t, nil, and(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = dawn.Add(-2*time.Hour), dawn.Add(-time.Hour)
		}))),
		"an authority of the same name": unknown(pairOf(issue(t, twin.authority, holder, dawn))),
		"another cluster":               unknown(pairOf(issue(t, newRealm(t).authority, holder, dawn))),
		"signed by a holder":            unknown(signedByHolder(t, r, names)),
		"no names":                      bad(func(*x509.Certificate) {}),
		"a host name instead":           bad(func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} }),
		"a host name beside":            bad(and(func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })),
		"an address beside":             bad(and(func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} })),
		"names of another cluster":      bad(named(newRealm(t), holder)),
		"names of two peers": bad(and(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, newPeer().names(r.authority.Cluster())...)
		})),
		"a role twice":            bad(and(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs...) })),
		"a role nobody knows":     bad(uri(root + "/king/" + holder.Peer.String())),
		"no role":                 bad(uri(root + "/" + holder.Peer.String())),
		"a query after the name":  bad(uri(root + "/peer/" + holder.Peer.String() + "?x")),
		"a port in the name":      bad(uri(root + ":1/peer/" + holder.Peer.String())),
		"an escape in the name":   bad(uri(root + "/%70eer/" + holder.Peer.String())),
		"the id nobody has":       bad(uri(root + "/peer/" + Identity{}.Peer.String())),
		"an authority in between": bad(and(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })),
		"the authority's own":     {&tls.Certificate{Certificate: [][]byte{r.authority.certificate.Raw}, PrivateKey: r.authority.key()}, ErrBadCertificate},
		"a certificate before ours": {forge(t, r.authority, and(func(c *x509.Certificate) {
			c.NotBefore = r.authority.certificate.NotBefore.Add(-time.Second)
		})), ErrBadCertificate},
	}
}

// signedByHolder is a certificate that a peer signed with its own key and shows with its own behind it.
func signedByHolder(t *testing.T, r *realm, names func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	peer := issue(t, r.authority, newPeer(), dawn)
	forged := forge(t, &Authority{key: peer.key, certificate: peer.certificate}, names)
	forged.Certificate = append(forged.Certificate, peer.certificate.Raw)
	return forged
}

func TestServerRefusesStrangers(t *testing.T) {
	r := newRealm(t)
	server, client := newPeer(), newPeer()
	for name, stranger := range strangers(t, r, client) {
		t.Run(name, func(t *testing.T) {
			store := r.store(server)
			m := meet(t, store, store.ServerConfig(), show(r.store(client).ClientConfig(server.Peer), stranger.certificate))
			wantErr(t, m.serverErr, stranger.want)
			if m.clientErr == nil {
				t.Error("the client got an answer")
			}
			wantCount(t, store, stranger.want)
		})
	}
}

func TestClientRefusesStrangers(t *testing.T) {
	r := newRealm(t)
	server, client := newPeer(), newPeer()
	for name, stranger := range strangers(t, r, server) {
		t.Run(name, func(t *testing.T) {
			honest, store := r.store(server), r.store(client)
			config := honest.ServerConfig()
			config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return stranger.certificate, nil }
			m := meet(t, honest, config, store.ClientConfig(server.Peer))
			wantErr(t, m.clientErr, stranger.want)
			wantCount(t, store, stranger.want)
		})
	}
}

func TestServerTakesNobodyWithoutACertificateOrTLS13(t *testing.T) {
	r := newRealm(t)
	server, client := newPeer(), newPeer()
	for _, test := range []struct {
		name   string
		change func(*tls.Config)
		want   Reason
	}{
		{"no certificate", func(c *tls.Config) { c.GetClientCertificate = nil }, ErrNoCertificate},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, ErrOtherProtocol},
		{"a client of S3", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, ErrOtherProtocol},
		{"no protocol", func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }, ErrOtherProtocol},
		{"the protocol of joining", func(c *tls.Config) { c.NextProtos = []string{JoinProtocol} }, ErrOtherProtocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := r.store(server)
			config := r.store(client).ClientConfig(server.Peer)
			test.change(config)
			m := meet(t, store, store.ServerConfig(), config)
			if m.serverErr == nil || m.clientErr == nil {
				t.Errorf("server: %v; client: %v", m.serverErr, m.clientErr)
			}
			wantCount(t, store, test.want)
		})
	}
}

// A client must not talk to what is not a listener of peers, even where it shows a good certificate.
func TestClientTakesOnlyThePeerItMeant(t *testing.T) {
	r := newRealm(t)
	meant, other, admin := newPeer(), newPeer(), Identity{Peer: newID(), Roles: RoleAdmin}
	same := func(*tls.Config) {}
	for _, test := range []struct {
		name   string
		server Identity
		peer   Identity
		change func(*tls.Config)
		want   Reason
	}{
		{"another peer", other, meant, same, ErrWrongPeer},
		{"an operator as a server", admin, admin, same, ErrWrongRole},
		{"a listener of no protocol", meant, meant, func(c *tls.Config) { c.NextProtos = nil }, ErrOtherProtocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, client := r.store(test.server), r.store(newPeer())
			config := store.ServerConfig()
			test.change(config)
			m := meet(t, store, config, client.ClientConfig(test.peer.Peer))
			wantErr(t, m.clientErr, test.want)
			if m.serverErr == nil {
				t.Error("the server got a byte")
			}
			wantCount(t, client, test.want)
		})
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2":              func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"the listener of S3":   func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} },
		"the listener of join": func(c *tls.Config) { c.NextProtos = []string{JoinProtocol} },
	} {
		store := r.store(meant)
		config := store.ServerConfig()
		change(config)
		if m := meet(t, store, config, r.store(other).ClientConfig(meant.Peer)); m.clientErr == nil {
			t.Errorf("the client took %s", name)
		}
	}
}

// Every certificate is judged by the clock of who looks at it.
func TestCertificatesAreOfTheirTime(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	server, client := r.store(a), r.store(b)
	for _, test := range []struct {
		name string
		now  time.Time
		want error
	}{
		{"too early", dawn.Add(-clockSkew - time.Second), ErrNotYetValid},
		{"by a clock that is late", dawn.Add(-clockSkew), nil},
		{"to the last second", dawn.Add(Validity), nil},
		{"too late", dawn.Add(Validity + time.Second), ErrExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Each in turn has the wrong clock, so that the other side is not who refuses.
			for _, side := range []*Store{server, client} {
				side.now = (&clock{now: test.now}).Now
				m := meet(t, server, server.ServerConfig(), client.ClientConfig(a.Peer))
				side.now = r.clock.Now
				got := m.serverErr
				if side == client {
					got = m.clientErr
				}
				wantErr(t, got, test.want)
			}
		})
	}
}

func TestRevokedPeersNeitherCallNorAnswer(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	server, client := r.store(a), r.store(b)
	m := meet(t, server, server.ServerConfig(), client.ClientConfig(a.Peer)).want(t)

	if err := server.SetList(r.list.Revoke(b.Peer)); err != nil {
		t.Fatal(err)
	}
	// On the connection that is open, and on the next.
	_, err := server.Caller(m.server)
	wantErr(t, err, ErrRevoked)
	_, err = server.Authorize(m.server, Policy{"read": RolePeer}, "read")
	wantErr(t, err, ErrRevoked)
	wantErr(t, meet(t, server, server.ServerConfig(), client.ClientConfig(a.Peer)).serverErr, ErrRevoked)
	if n := server.Refusals().Of(ErrRevoked); n != 3 {
		t.Errorf("%d refusals counted, want 3", n)
	}
	if !server.Revoked(b.Peer) || server.Revoked(a.Peer) {
		t.Error("the store names the wrong peers as revoked")
	}
	// A new certificate does not help: the id is out.
	if err := client.SetCredentials(issue(t, r.authority, b, dawn)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, meet(t, server, server.ServerConfig(), client.ClientConfig(a.Peer)).serverErr, ErrRevoked)

	// The same in the other direction.
	if err := client.SetList(r.list.Revoke(a.Peer)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, client.Callee(m.client, a.Peer), ErrRevoked)
	wantErr(t, meet(t, server, server.ServerConfig(), client.ClientConfig(a.Peer)).clientErr, ErrRevoked)
}

// A long connection is no way around anything that a handshake looks at.
func TestOpenConnectionsAreJudgedNow(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	server := r.store(a)
	m := meet(t, server, server.ServerConfig(), r.store(b).ClientConfig(a.Peer)).want(t)

	r.clock.Set(dawn.Add(Validity + time.Second))
	_, err := server.Caller(m.server)
	wantErr(t, err, ErrExpired)
	r.clock.Set(dawn)
	if _, err = server.Caller(m.server); err != nil {
		t.Fatal(err)
	}

	next := newRealmOf(t, r.authority.Cluster()).authority
	if err := server.SetList(server.List().Trust(next.Certificate())); err != nil {
		t.Fatal(err)
	}
	_, err = server.Caller(m.server)
	wantErr(t, err, ErrUnknownAuthority)
}

func TestCallerTakesNoOtherConnection(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	server := r.store(a)
	good := meet(t, server, server.ServerConfig(), r.store(b).ClientConfig(a.Peer)).want(t).server
	for name, test := range map[string]struct {
		change func(*tls.ConnectionState)
		want   Reason
	}{
		"plain text":            {func(s *tls.ConnectionState) { *s = tls.ConnectionState{} }, ErrOtherProtocol},
		"in the handshake":      {func(s *tls.ConnectionState) { s.HandshakeComplete = false }, ErrOtherProtocol},
		"the listener of S3":    {func(s *tls.ConnectionState) { s.NegotiatedProtocol = "h2" }, ErrOtherProtocol},
		"the listener of joins": {func(s *tls.ConnectionState) { s.NegotiatedProtocol = JoinProtocol }, ErrOtherProtocol},
		"TLS 1.2":               {func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 }, ErrOtherProtocol},
		"no certificate":        {func(s *tls.ConnectionState) { s.PeerCertificates = nil }, ErrNoCertificate},
	} {
		state := good
		test.change(&state)
		_, err := server.Caller(state)
		if wantErr(t, err, test.want); t.Failed() {
			t.Fatal(name)
		}
	}
	if _, err := server.Caller(good); err != nil {
		t.Fatal(err)
	}
}

// TestPlainBytesGetNoAnswer speaks something else to net/http, which by itself answers plain HTTP in plain HTTP.
func TestPlainBytesGetNoAnswer(t *testing.T) {
	r := newRealm(t)
	store := r.store(newPeer())
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: patience}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(store.Listener(inner, store.ServerConfig())) })
	defer serving.Wait()
	defer server.Close()

	for _, test := range []struct {
		name, text string
		counted    uint64
	}{
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1},
		{"zeros", string(make([]byte, 4096)), 1},
		{"half the start of TLS", "\x16\x47", 1},
		{"one byte", "\x00", 1},
		{"nothing", "", 0}, // a probe of the port
		{"one byte of TLS", "\x16", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := store.Refusals().Of(ErrOtherProtocol)
			if answer := sendPlain(t, inner.Addr().String(), test.text); len(answer) != 0 {
				t.Errorf("answered %q", answer)
			}
			if counted := store.Refusals().Of(ErrOtherProtocol) - before; counted != test.counted {
				t.Errorf("counted %d, want %d", counted, test.counted)
			}
		})
	}
	// What begins as TLS and goes on otherwise gets at most an alert.
	for _, text := range []string{"\x16\x03\x01\x40\x00" + string(bytes.Repeat([]byte{0xff}, 1<<14)), "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x00"} {
		if answer := sendPlain(t, inner.Addr().String(), text); len(answer) != 0 && answer[0] != 21 {
			t.Errorf("%q... was answered %q", text[:5], answer)
		}
	}
}

// sendPlain sends text and returns all that comes back until the other side closes.
func sendPlain(t *testing.T, address, text string) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, text)
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err, ok := err.(net.Error); ok && err.Timeout() {
		t.Error("the connection stays open")
	}
	return answer
}

func TestPolicyDeniesWhatItDoesNotList(t *testing.T) {
	r := newRealm(t)
	policy := Policy{"raft": RolePeer, "drain": RoleAdmin, "status": RolePeer | RoleAdmin, "nobody": 0}
	allowed := map[Roles][]string{
		RolePeer:             {"raft", "status"},
		RoleAdmin:            {"drain", "status"},
		RolePeer | RoleAdmin: {"raft", "drain", "status"},
	}
	server := newPeer()
	for roles, may := range allowed {
		store := r.store(server)
		caller := Identity{Peer: newID(), Roles: roles}
		m := meet(t, store, store.ServerConfig(), r.store(caller).ClientConfig(server.Peer)).want(t)
		refused := uint64(0)
		for _, method := range []string{"raft", "drain", "status", "nobody", "unheard of", ""} {
			got, err := store.Authorize(m.server, policy, method)
			if slices.Contains(may, method) {
				if err != nil || got != caller {
					t.Errorf("%v calls %s: %v %v", roles, method, got, err)
				}
				continue
			}
			refused++
			wantErr(t, err, ErrWrongRole)
			if got != (Identity{}) {
				t.Errorf("a caller %v comes with the refusal", got)
			}
		}
		wantErr(t, Policy(nil).Allow("raft", caller), ErrWrongRole)
		if n := store.Refusals().Of(ErrWrongRole); n != refused {
			t.Errorf("%v: %d refusals counted, want %d", roles, n, refused)
		}
	}
}
