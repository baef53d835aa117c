package trust

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"
)

// TestRotationUnderHandshakes replaces the authority and every certificate of two peers that keep connecting to each
// other: no handshake may fail, and in the end nothing of the old is left.
func TestRotationUnderHandshakes(t *testing.T) {
	r := newRealm(t)
	a, b := newPeer(), newPeer()
	server, client := r.store(a), r.store(b)
	next, err := NewAuthority(r.authority.Cluster(), dawn)
	if err != nil {
		t.Fatal(err)
	}
	renew := func(authority *Authority) func() error {
		return func() error {
			if err := server.SetCredentials(issue(t, authority, a, dawn)); err != nil {
				return err
			}
			return client.SetCredentials(issue(t, authority, b, dawn))
		}
	}
	trust := func(authorities ...*x509.Certificate) func() error {
		return func() error {
			list := server.List().Trust(authorities...)
			if err := server.SetList(list); err != nil {
				return err
			}
			return client.SetList(list)
		}
	}
	phases := []func() error{
		renew(r.authority),
		trust(r.authority.Certificate(), next.Certificate()),
		renew(next),
		trust(next.Certificate()),
		renew(next),
	}

	const callers = 3
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := server.Listener(inner, server.ServerConfig())
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveAll(t, listener, callers)
	}()
	config := client.ClientConfig(a.Peer)
	stop, results := make(chan struct{}), make(chan result)
	for i := range callers {
		go connectUntil(stop, results, i, inner.Addr().String(), config)
	}

	// Twice from each caller: the first may have been under way before the phase began.
	settle := func() {
		var seen [callers]int
		for seen[0] < 2 || seen[1] < 2 || seen[2] < 2 {
			got := <-results
			if got.err != nil {
				t.Errorf("handshake: %v", got.err)
			}
			seen[got.caller]++
		}
	}
	settle()
	for i, phase := range phases {
		if err := phase(); err != nil {
			t.Errorf("phase %d: %v", i, err)
		}
		settle()
	}
	close(stop)
	for running := callers; running > 0; {
		if got := <-results; got.ended {
			running--
		}
	}
	_ = listener.Close()
	<-served

	m := meet(t, server, server.ServerConfig(), config).want(t)
	for _, state := range []tls.ConnectionState{m.server, m.client} {
		if err := state.PeerCertificates[0].CheckSignatureFrom(next.Certificate()); err != nil {
			t.Errorf("a certificate of the old authority is shown: %v", err)
		}
	}
}

type result struct {
	caller int
	err    error
	ended  bool
}

func connectUntil(stop <-chan struct{}, results chan<- result, caller int, address string, config *tls.Config) {
	defer func() { results <- result{caller: caller, ended: true} }()
	for {
		_, err := dialOne(address, config)
		select {
		case <-stop:
			return
		case results <- result{caller: caller, err: err}:
		}
	}
}

// serveAll serves connections, width at a time, until the listener is closed.
func serveAll(t *testing.T, listener net.Listener, width int) {
	done := make(chan struct{})
	for range width {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				if _, err := serveOne(conn.(*tls.Conn)); err != nil {
					t.Errorf("serve: %v", err)
				}
				_ = conn.Close()
			}
		}()
	}
	for range width {
		<-done
	}
}

func TestStoreTakesOnlyWhatFollows(t *testing.T) {
	r := newRealm(t)
	a := newPeer()
	store := r.store(a)
	second := r.list.Revoke(newID())
	third := second.Revoke(newID())
	for _, list := range []List{second, third, third} {
		if err := store.SetList(list); err != nil {
			t.Fatal(err)
		}
	}
	other := newRealm(t)
	for name, test := range map[string]struct {
		list List
		want error
	}{
		"a list before":                {second, ErrOldList},
		"another of the same epoch":    {second.Revoke(newID()), ErrOldList},
		"a list of another cluster":    {List{Epoch: 99, Authorities: other.list.Authorities}, ErrOtherHolder},
		"a list that trusts nobody":    {List{Epoch: 99}, ErrBadList},
		"a holder as an authority":     {List{Epoch: 99, Authorities: []*x509.Certificate{store.Credentials().Certificate()}}, ErrBadList},
		"the authority of two twice":   {third.Trust(r.authority.certificate, r.authority.certificate), ErrBadList},
		"authorities of two clusters":  {third.Trust(r.authority.certificate, other.authority.certificate), ErrBadList},
		"an authority that can be two": {third.Trust(forgeAuthority(t, r)), ErrBadList},
	} {
		if wantErr(t, store.SetList(test.list), test.want); t.Failed() {
			t.Fatal(name)
		}
	}
	if got := store.List().Epoch; got != third.Epoch {
		t.Errorf("list %d is in use, want %d", got, third.Epoch)
	}

	wantErr(t, store.SetCredentials(issue(t, r.authority, newPeer(), dawn)), ErrOtherHolder)
	wantErr(t, store.SetCredentials(issue(t, other.authority, a, dawn)), ErrOtherHolder)
	twin := newRealmOf(t, r.authority.Cluster())
	wantErr(t, store.SetCredentials(issue(t, twin.authority, a, dawn)), ErrUnknownAuthority)
	_, err := NewStore(Config{Credentials: issue(t, twin.authority, a, dawn), List: r.list})
	wantErr(t, err, ErrUnknownAuthority)
	if _, err := NewStore(Config{List: r.list}); err == nil {
		t.Error("a store without credentials")
	}
}

// forgeAuthority is an authority of the cluster that may sign further authorities.
func forgeAuthority(t *testing.T, r *realm) *x509.Certificate {
	t.Helper()
	forged := forge(t, nil, func(c *x509.Certificate) {
		c.URIs = r.authority.certificate.URIs
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	certificate, err := x509.ParseCertificate(forged.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// What a peer holds of a list that leaves its own authority out still counts: it trusts whom the others trust.
func TestAListWithoutOnesOwnAuthorityIsTaken(t *testing.T) {
	r := newRealm(t)
	store := r.store(newPeer())
	next := newRealmOf(t, r.authority.Cluster()).authority
	if err := store.SetList(r.list.Revoke(newID()).Trust(next.Certificate())); err != nil {
		t.Fatal(err)
	}
	if store.List().Epoch != r.list.Epoch+2 || len(store.List().Revoked) != 1 {
		t.Errorf("list %v", store.List())
	}
}

func TestMemoryOfCertificatesIsBounded(t *testing.T) {
	var m memory
	m.known = map[[32]byte]Identity{}
	for i := range maxMemory {
		m.known[[32]byte{byte(i), byte(i >> 8), 1}] = Identity{}
	}
	leaf := &x509.Certificate{Raw: []byte("certificate")}
	asked := 0
	for range 2 {
		identity, err := m.holder(leaf, func() (Identity, error) { asked++; return Identity{Roles: RoleAdmin}, nil })
		if err != nil || identity.Roles != RoleAdmin {
			t.Fatal(identity, err)
		}
	}
	if asked != 1 || len(m.known) != 1 {
		t.Errorf("verified %d times, %d certificates known", asked, len(m.known))
	}
	for range 2 {
		_, err := m.holder(&x509.Certificate{Raw: []byte("bad")}, func() (Identity, error) { asked++; return Identity{}, ErrBadCertificate })
		wantErr(t, err, ErrBadCertificate)
	}
	if asked != 3 {
		t.Error("a bad certificate is remembered")
	}
}

func TestCertificatesAreRenewedAtTwoThirds(t *testing.T) {
	r := newRealm(t)
	c := issue(t, r.authority, newPeer(), dawn)
	if got := c.RenewAt().Sub(dawn); got < Validity*2/3-clockSkew || got > Validity*2/3 {
		t.Errorf("renewed after %v of %v", got, Validity)
	}
	if left := c.Certificate().NotAfter.Sub(c.RenewAt()); left < 13*24*time.Hour {
		t.Errorf("%v are left to renew in", left)
	}
}
