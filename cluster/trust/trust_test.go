package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

var dawn = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// realm is a cluster as far as this package goes.
type realm struct {
	t         *testing.T
	authority *Authority
	list      List
	clock     *clock
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	return newRealmOf(t, cluster.ClusterID(cluster.NewID()))
}

func newRealmOf(t *testing.T, c cluster.ClusterID) *realm {
	t.Helper()
	authority, err := NewAuthority(c, dawn)
	if err != nil {
		t.Fatal(err)
	}
	return &realm{t: t, authority: authority, list: List{}.Trust(authority.Certificate()), clock: &clock{now: dawn}}
}

func newID() cluster.PeerID { return cluster.PeerID(cluster.NewID()) }

func newPeer() Identity { return Identity{Peer: newID(), Roles: RolePeer} }

func issue(t *testing.T, authority *Authority, identity Identity, now time.Time) *Credentials {
	t.Helper()
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Issue(request.Bytes(), identity, now)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := request.Complete(certificate)
	if err != nil {
		t.Fatal(err)
	}
	return credentials
}

func (r *realm) store(identity Identity) *Store {
	r.t.Helper()
	store, err := NewStore(Config{Credentials: issue(r.t, r.authority, identity, r.clock.Now()), List: r.list, Now: r.clock.Now})
	if err != nil {
		r.t.Fatal(err)
	}
	return store
}

// forge makes a certificate that Issue would not make, signed by the authority, or by itself when that is nil.
func forge(t *testing.T, authority *Authority, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: dawn, NotAfter: dawn.Add(Validity), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(template)
	signer, parent := key, template
	if authority != nil {
		signer, parent = authority.key(), authority.certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// met is what came of two sides that met: nil errors when each took the other.
type met struct {
	server, client       tls.ConnectionState
	serverErr, clientErr error
}

// meet makes one connection over loopback. In TLS 1.3 a client is done before the server has looked at its certificate:
// so a byte goes there and back.
func meet(t *testing.T, store *Store, server, client *tls.Config) met {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := store.Listener(inner, server)
	defer listener.Close()
	var m met
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			m.serverErr = err
			return
		}
		defer conn.Close()
		m.server, m.serverErr = serveOne(conn.(*tls.Conn))
	})
	m.client, m.clientErr = dialOne(inner.Addr().String(), client)
	serving.Wait()
	return m
}

const patience = 10 * time.Second

func serveOne(conn *tls.Conn) (tls.ConnectionState, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := conn.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err := conn.Write(b[:])
	return conn.ConnectionState(), err
}

func dialOne(address string, config *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	b := []byte{'x'}
	if _, err := conn.Write(b); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = io.ReadFull(conn, b)
	return conn.ConnectionState(), err
}

// wantMet fails unless each side took the other.
func (m met) want(t *testing.T) met {
	t.Helper()
	if m.serverErr != nil || m.clientErr != nil {
		t.Fatalf("server: %v; client: %v", m.serverErr, m.clientErr)
	}
	return m
}

// wantCount fails unless the store refused once, for this reason.
func wantCount(t *testing.T, store *Store, want Reason) {
	t.Helper()
	for reason, count := range store.Refusals().All() {
		if reason == want && count != 1 || reason != want && count != 0 {
			t.Errorf("refused %d times for %s, want one refusal for %s", count, reason.Label(), want.Label())
		}
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func mustParse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
