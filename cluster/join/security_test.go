package join

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestNobodyComesInWithoutTheRight goes through the ways to come to a peer's port without the right to, over loopback:
// no certificate is given out, each is counted, and the peer serves on.
func TestNobodyComesInWithoutTheRight(t *testing.T) {
	r, other := newRealm(t, tcp), newRealm(t, tcp)
	peer := func(authority *trust.Authority, roles trust.Roles, at time.Time) *tls.Certificate {
		return certificate(t, authority, trust.Identity{Peer: r.first.id, Roles: roles}, at)
	}
	removed, err := Join(t.Context(), transport.TCP{}, r.token(), r.ask("removed", 1))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := Revoke(t.Context(), r.client, removed.Peer, true); err != nil || r.refresh() != nil {
		t.Fatal(m.Epoch, err)
	}
	for _, test := range []struct {
		name string
		// shown is the client's certificate, nil for none; header is what it sends besides.
		shown  *tls.Certificate
		header http.Header
		want   trust.Reason
	}{
		{"no certificate", nil, nil, trust.ErrNoCertificate},
		{"self-signed", selfSigned(t), nil, trust.ErrUnknownAuthority},
		{"another cluster's", peer(other.founding.Authority, trust.RolePeer, time.Now()), nil, trust.ErrUnknownAuthority},
		{"expired", peer(r.founding.Authority, trust.RolePeer, time.Now()), nil, trust.ErrExpired},
		{"not yet valid", peer(r.founding.Authority, trust.RolePeer, time.Now().Add(trust.Validity)), nil, trust.ErrNotYetValid},
		{"revoked", shown(t, removed.Credentials), nil, trust.ErrRevoked},
		{"an access key of S3", nil, http.Header{"Authorization": {"AWS4-HMAC-SHA256 Credential=AKIA/20300102/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"}}, trust.ErrNoCertificate},
		{"a client's certificate of the web", selfSigned(t, x509.ExtKeyUsageClientAuth), nil, trust.ErrUnknownAuthority},
		{"an operator, who may not renew as a peer", peer(r.founding.Authority, trust.RoleAdmin, time.Now()), nil, trust.ErrWrongRole},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == trust.ErrExpired {
				r.clock.ahead.Store(int64(trust.Validity + time.Minute))
				defer r.clock.ahead.Store(0)
			}
			before := r.first.trust.Refusals().Of(test.want)
			got, err := renewOverTLS(r.first, test.shown, test.header)
			if err == nil && got != http.StatusForbidden {
				t.Errorf("answer %d", got)
			}
			expect.Soon(t, "it is counted", func() bool { return r.first.trust.Refusals().Of(test.want) == before+1 })
		})
	}
	t.Run("plain text", func(t *testing.T) {
		before := r.first.trust.Refusals().Of(trust.ErrOtherProtocol)
		conn, err := net.Dial("tcp", r.first.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, magic+"POST "+RenewPath+" HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("answered: %d %v", n, err)
		}
		if r.first.trust.Refusals().Of(trust.ErrOtherProtocol) != before+1 {
			t.Error("it is not counted")
		}
	})
	second, _ := r.join("second", 1)
	meet(t, second, r.first)
	if text := r.log.String(); strings.Contains(text, "panic") || strings.Contains(text, "crashed") {
		t.Errorf("log: %s", text)
	}
}

// refresh has the first peer read the list.
func (r *realm) refresh() error {
	return (&Lists{Root: r.client, Trust: r.first.trust}).Refresh(r.Context())
}

// renewOverTLS asks for a certificate as somebody else would, without a look at who answers.
func renewOverTLS(to *site, shown *tls.Certificate, header http.Header) (int, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if shown != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	own, err := trust.NewRequest()
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequest(http.MethodPost, "https://"+to.server.Addr()+RenewPath, strings.NewReader(string(own.Bytes())))
	if err != nil {
		return 0, err
	}
	request.Header = header.Clone()
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// certificate is one that an authority issued at a time, with its key.
func certificate(t *testing.T, authority *trust.Authority, identity trust.Identity, at time.Time) *tls.Certificate {
	t.Helper()
	request, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	der, err := authority.Issue(request.Bytes(), identity, at)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := request.Complete(der)
	if err != nil {
		t.Fatal(err)
	}
	return shown(t, credentials)
}

// shown are credentials as TLS takes them.
func shown(t *testing.T, credentials *trust.Credentials) *tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(credentials.Marshal(), credentials.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func selfSigned(t *testing.T, usages ...x509.ExtKeyUsage) *tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
