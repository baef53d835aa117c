package trust

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// TestANewPeerJoins goes all the way from a token to a connection between peers, but for what the root group does.
func TestANewPeerJoins(t *testing.T) {
	r := newRealm(t)
	a := newPeer()
	old := r.store(a)
	made, err := NewToken(r.authority.Pin(), []string{"10.0.0.1:9443"}, 0, dawn)
	if err != nil {
		t.Fatal(err)
	}
	verifier := made.Verifier()

	token, err := ParseToken(made.Encode())
	if err != nil {
		t.Fatal(err)
	}
	meet(t, old, old.JoinConfig(), PinnedConfig(token.Pin, r.clock.Now)).want(t)
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Accepts(request.Bytes(), token.Prove(request.Bytes()), dawn); err != nil {
		t.Fatal(err)
	}
	b := newPeer()
	certificate, err := r.authority.Issue(request.Bytes(), b, dawn)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := request.Complete(certificate)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseList(old.List().Marshal())
	if err != nil || !list.Pinned(token.Pin) || list.Pinned(Pin{}) {
		t.Fatal(list, err)
	}
	joined, err := NewStore(Config{Credentials: credentials, List: list, Now: r.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	m := meet(t, old, old.ServerConfig(), joined.ClientConfig(a.Peer)).want(t)
	if caller, err := old.Caller(m.server); err != nil || caller != b {
		t.Errorf("caller %v %v", caller, err)
	}
}

// Somebody between the joining peer and the cluster has to have a certificate of the pinned authority.
func TestJoiningPeerTakesOnlyThePinnedCluster(t *testing.T) {
	r := newRealm(t)
	peer, admin := newPeer(), Identity{Peer: newID(), Roles: RoleAdmin}
	honest := r.store(peer)
	pinned := r.authority.certificate.Raw
	chain := func(certificate *tls.Certificate, more ...[]byte) *tls.Certificate {
		certificate.Certificate = append(certificate.Certificate, more...)
		return certificate
	}
	twin := newRealmOf(t, r.authority.Cluster())
	twins := chain(pairOf(issue(t, twin.authority, peer, dawn)), twin.authority.certificate.Raw)
	for name, test := range map[string]struct {
		shown *tls.Certificate
		now   time.Time
		want  error
	}{
		"a peer":                            {chain(pairOf(issue(t, r.authority, peer, dawn)), pinned), dawn, nil},
		"another authority":                 {twins, dawn, ErrUnknownAuthority},
		"another with the pinned behind":    {chain(pairOf(issue(t, twin.authority, peer, dawn)), twin.authority.certificate.Raw, pinned), dawn, ErrUnknownAuthority},
		"self-signed, the pinned behind":    {chain(forge(t, nil, named(r, peer)), pinned), dawn, ErrUnknownAuthority},
		"signed by a peer":                  {chain(signedByHolder(t, r, named(r, peer)), pinned), dawn, ErrUnknownAuthority},
		"a peer that shows no authority":    {pairOf(issue(t, r.authority, peer, dawn)), dawn, ErrUnknownAuthority},
		"an operator":                       {chain(pairOf(issue(t, r.authority, admin, dawn)), pinned), dawn, ErrWrongRole},
		"a certificate of no names":         {chain(forge(t, r.authority, func(*x509.Certificate) {}), pinned), dawn, ErrBadCertificate},
		"a certificate of another time":     {chain(pairOf(issue(t, r.authority, peer, dawn)), pinned), dawn.Add(Validity + time.Second), ErrExpired},
		"a clock that is far behind":        {chain(pairOf(issue(t, r.authority, peer, dawn)), pinned), dawn.Add(-2 * time.Hour), ErrNotYetValid},
		"a leaf of the pinned key, no root": {chain(pairOf(issue(t, r.authority, peer, dawn)), leafOfTheAuthoritysKey(t, r)), dawn, ErrBadCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			config := honest.JoinConfig()
			config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return test.shown, nil }
			now := &clock{now: test.now}
			m := meet(t, honest, config, PinnedConfig(r.authority.Pin(), now.Now))
			if wantErr(t, m.clientErr, test.want); test.want != nil && m.serverErr == nil {
				t.Error("the server got a byte")
			}
		})
	}
	m := meet(t, honest, honest.JoinConfig(), PinnedConfig(Pin{1}, r.clock.Now))
	wantErr(t, m.clientErr, ErrUnknownAuthority)
	// The pinned authority, at a listener that speaks something else.
	config := honest.JoinConfig()
	config.NextProtos = nil
	wantErr(t, meet(t, honest, config, PinnedConfig(r.authority.Pin(), r.clock.Now)).clientErr, ErrOtherProtocol)
}

// leafOfTheAuthoritysKey has the pinned key and is not an authority.
func leafOfTheAuthoritysKey(t *testing.T, r *realm) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: serial(), NotBefore: dawn, NotAfter: dawn.Add(time.Hour), URIs: r.authority.certificate.URIs}
	der, err := x509.CreateCertificate(nil, template, template, r.authority.key().Public(), r.authority.key())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The door of those without a certificate leads nowhere else.
func TestJoiningIsNoWayIn(t *testing.T) {
	r := newRealm(t)
	a := newPeer()
	for name, test := range map[string]struct {
		server func(*Store) *tls.Config
		client *tls.Config
	}{
		"a joining peer at the listener of peers": {(*Store).ServerConfig, PinnedConfig(r.authority.Pin(), r.clock.Now)},
		"a peer at the listener of joins":         {(*Store).JoinConfig, r.store(newPeer()).ClientConfig(a.Peer)},
		"a stranger at the listener of joins":     {(*Store).JoinConfig, &tls.Config{InsecureSkipVerify: true}},
	} {
		t.Run(name, func(t *testing.T) {
			store := r.store(a)
			if m := meet(t, store, test.server(store), test.client); m.serverErr == nil || m.clientErr == nil {
				t.Errorf("server: %v; client: %v", m.serverErr, m.clientErr)
			}
			wantCount(t, store, ErrOtherProtocol)
		})
	}
	store := r.store(a)
	m := meet(t, store, store.JoinConfig(), PinnedConfig(r.authority.Pin(), r.clock.Now)).want(t)
	_, err := store.Caller(m.server)
	wantErr(t, err, ErrOtherProtocol)
	_, err = store.Authorize(m.server, Policy{"read": RolePeer}, "read")
	wantErr(t, err, ErrOtherProtocol)
}
