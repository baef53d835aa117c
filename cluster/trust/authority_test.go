package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

func requestOf(t *testing.T, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestOnlyTheKeyIsTakenFromARequest(t *testing.T) {
	r := newRealm(t)
	mine, king := newPeer(), newPeer()
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	greedy := requestOf(t, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: king.String(), Organization: []string{"system:masters"}},
		URIs:        append(king.names(r.authority.Cluster()), authorityName(r.authority.Cluster())),
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{{127, 0, 0, 1}},
		ExtraExtensions: []pkix.Extension{ // basic constraints: an authority
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},
		},
	}, request.key())
	der, err := r.authority.Issue(greedy, mine, dawn)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := request.Complete(der)
	if err != nil {
		t.Fatal(err)
	}
	c := credentials.Certificate()
	if credentials.Identity() != mine || c.IsCA || len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses) != 0 {
		t.Errorf("identity %v, authority %v, names %v %v %v", credentials.Identity(), c.IsCA, c.URIs, c.DNSNames, c.IPAddresses)
	}
	if strings.Contains(c.Subject.String(), king.Peer.String()) || len(c.Subject.Organization) != 0 {
		t.Errorf("subject %v", c.Subject)
	}
	if len(c.Extensions) != len(issue(t, r.authority, mine, dawn).Certificate().Extensions) {
		t.Errorf("extensions %v", c.Extensions)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	r := newRealm(t)
	good, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	unproved := good.Bytes()
	unproved[len(unproved)-1] ^= 1 // the end of the signature
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long := &x509.CertificateRequest{}
	for i := range 100 {
		long.DNSNames = append(long.DNSNames, fmt.Sprintf("%060d.example", i))
	}
	for name, request := range map[string][]byte{
		"nothing":           nil,
		"no request":        []byte("hello"),
		"no proof of a key": unproved,
		"cut short":         good.Bytes()[:100],
		"more behind":       append(good.Bytes(), 0),
		"P-256":             requestOf(t, &x509.CertificateRequest{}, p256),
		"too long":          requestOf(t, long, good.key()),
	} {
		der, err := r.authority.Issue(request, newPeer(), dawn)
		if wantErr(t, err, ErrBadRequest); der != nil || t.Failed() {
			t.Fatal(name)
		}
	}
	for name, identity := range map[string]Identity{
		"nobody": {Roles: RolePeer}, "no role": {Peer: newID()}, "unknown role": {Peer: newID(), Roles: 1<<7 | RolePeer},
	} {
		if _, err := r.authority.Issue(good.Bytes(), identity, dawn); err == nil {
			t.Errorf("a certificate for %s", name)
		}
	}
}

func TestCertificatesLieWithinTheirAuthoritysLife(t *testing.T) {
	r := newRealm(t)
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Time{dawn.Add(-2 * time.Hour), dawn.Add(authorityValidity)} {
		if _, err := r.authority.Issue(request.Bytes(), newPeer(), now); err == nil {
			t.Errorf("issued at %v", now)
		}
	}
	for _, now := range []time.Time{dawn.Add(-time.Minute), dawn, dawn.Add(authorityValidity - time.Hour)} {
		c := issue(t, r.authority, newPeer(), now).Certificate()
		if c.NotBefore.Before(r.authority.certificate.NotBefore) || c.NotAfter.After(r.authority.certificate.NotAfter) {
			t.Errorf("issued at %v: from %v to %v", now, c.NotBefore, c.NotAfter)
		}
		if _, err := holder(c, r.authority.Cluster(), mustView(t, r.list).roots); err != nil {
			t.Errorf("issued at %v: %v", now, err)
		}
	}
}

func mustView(t *testing.T, list List) *view {
	t.Helper()
	v, err := newView(list)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRequestTakesOnlyItsOwnCertificate(t *testing.T) {
	r := newRealm(t)
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	_, err = request.Complete(issue(t, r.authority, newPeer(), dawn).Certificate().Raw)
	wantErr(t, err, ErrBadCertificate)
	_, err = request.Complete([]byte("hello"))
	wantErr(t, err, ErrBadCertificate)
}

func TestAuthorityAndCredentialsAreReadAsWritten(t *testing.T) {
	r := newRealm(t)
	authority, err := ParseAuthority(r.authority.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if authority.Cluster() != r.authority.Cluster() || authority.Pin() != r.authority.Pin() {
		t.Error("another authority was read")
	}
	mine := Identity{Peer: newID(), Roles: RolePeer | RoleAdmin}
	credentials, err := ParseCredentials(issue(t, authority, mine, dawn).Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if credentials.Identity() != mine || credentials.Cluster() != authority.Cluster() {
		t.Errorf("credentials of %v", credentials.Identity())
	}
	if _, err := NewStore(Config{Credentials: credentials, List: r.list}); err != nil {
		t.Error(err)
	}
	// Neither passes for the other: a peer's file must never be signed with.
	if _, err := ParseAuthority(credentials.Marshal()); err == nil {
		t.Error("credentials were read as an authority")
	}
	if _, err := ParseCredentials(authority.Marshal()); err == nil {
		t.Error("an authority was read as credentials")
	}
}

func TestDamagedPairsAreRefused(t *testing.T) {
	r := newRealm(t)
	good := r.authority.Marshal()
	second := bytes.Index(good, []byte("-----BEGIN CERTIFICATE"))
	other := newRealm(t).authority.Marshal()
	for name, data := range map[string][]byte{
		"nothing":                 nil,
		"no certificate":          good[:second],
		"no key":                  good[second:],
		"the other way round":     append(bytes.Clone(good[second:]), good[:second]...),
		"something before":        append([]byte("x\n"), good...),
		"something after":         append(bytes.Clone(good), '\n'),
		"the key of another":      append(bytes.Clone(other[:bytes.Index(other, []byte("-----BEGIN CERTIFICATE"))]), good[second:]...),
		"too long":                append(bytes.Clone(good), make([]byte, maxPair)...),
		"a certificate cut short": good[:len(good)-40],
	} {
		if _, err := ParseAuthority(data); err == nil {
			t.Errorf("an authority with %s was read", name)
		} else if wantErr(t, err, ErrBadPair); t.Failed() {
			t.Fatal(name)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if got, err := ParseAuthority(bad); err == nil && got.Pin() == r.authority.Pin() && bytes.Equal(got.Marshal(), good) {
			t.Fatalf("byte %d of an authority may be anything", i)
		}
	}
}

func TestKeysAndSecretsDoNotPrint(t *testing.T) {
	r := newRealm(t)
	token, err := NewToken(r.authority.Pin(), []string{"a:1"}, 0, dawn)
	if err != nil {
		t.Fatal(err)
	}
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	credentials := issue(t, r.authority, newPeer(), dawn)
	secret := token.secret()
	secrets := [][]byte{secret[:], token.key().Seed(), r.authority.key().Seed(), request.key().Seed(), credentials.key().Seed()}
	for _, value := range []any{r.authority, *r.authority, credentials, *credentials, request, *request, token, *token,
		[]*Token{token}, struct{ T Token }{*token}, struct{ t *Token }{token}, struct{ C *Credentials }{credentials}, struct{ c *Credentials }{credentials}} {
		var said bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&said, verb+"\n", value)
		}
		slog.New(slog.NewTextHandler(&said, nil)).Info("value", "value", value)
		slog.New(slog.NewJSONHandler(&said, nil)).Info("value", "value", value)
		encoded, err := json.Marshal(value)
		if err != nil {
			encoded = []byte(err.Error())
		}
		said.Write(encoded)
		for _, secret := range secrets {
			decimal, source := strings.Trim(fmt.Sprint(secret), "[]"), fmt.Sprintf("%#v", secret)
			for _, form := range []string{
				string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), decimal, strings.ReplaceAll(decimal, " ", ","),
				strings.Trim(strings.TrimPrefix(source, "[]byte"), "{}"),
			} {
				if strings.Contains(said.String(), form) {
					t.Errorf("%T prints its secret", value)
				}
			}
		}
	}
}

func TestRolesAreWords(t *testing.T) {
	for roles, want := range map[Roles]string{RolePeer: "peer", RoleAdmin: "admin", RolePeer | RoleAdmin: "peer+admin", 0: "roles(0x0)", 8: "roles(0x8)"} {
		if got := roles.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (Identity{Peer: cluster.PeerID{1}, Roles: RolePeer}).names(cluster.ClusterID{2}); len(got) != 1 ||
		got[0].String() != "holdfast://02"+strings.Repeat("0", 30)+"/peer/01"+strings.Repeat("0", 30) {
		t.Errorf("names %v", got)
	}
	labels := map[string]bool{}
	for reason := range new(Refusals).All() {
		if labels[reason.Label()] || reason.Label() == "" || reason.Error() == "" {
			t.Errorf("reason %d has the label %q", reason, reason.Label())
		}
		labels[reason.Label()] = true
	}
	if len(labels) != 9 {
		t.Errorf("%d reasons", len(labels))
	}
}
