package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// callsOf are all requests that a pattern could take: its method and others, its path and what lies below.
func callsOf(pattern string) (calls [][2]string) {
	method, path, found := strings.Cut(pattern, " ")
	if !found {
		method, path = http.MethodPost, pattern
	}
	paths := []string{path}
	if strings.HasSuffix(path, "/") {
		paths = append(paths, path+"status", path+"1/read")
	}
	for _, path := range paths {
		for _, m := range []string{method, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if call := [2]string{m, path}; !slices.Contains(calls, call) {
				calls = append(calls, call)
			}
		}
	}
	return calls
}

// newCall makes a request, with the signature of the root access key when there is one.
func newCall(t *testing.T, base string, call [2]string, key *Credentials) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), call[0], base+call[1], bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	if key == nil {
		return request
	}
	signed, err := sigv4.FromClient(request)
	if err != nil {
		t.Fatal(err)
	}
	sigv4.Sign(signed, sigv4.Credentials{AccessKey: key.AccessKey, SecretKey: string(key.Secret)}, "us-east-1", time.Now())
	return request
}

// certified puts a certificate for 127.0.0.1 and its key into files, and returns a pool that trusts it.
func certified(t *testing.T, config *Config) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config.TLSCert, config.TLSKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(
		os.WriteFile(config.TLSCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(config.TLSKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) {
		t.Fatal("the certificate cannot be read")
	}
	return pool
}

// TestNoListenerServesWhatIsAnothers asks each of the two listeners of a peer for all that is registered at the other,
// as who may call it there.
func TestNoListenerServesWhatIsAnothers(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %v", secure), func(t *testing.T) {
			config := testConfig()
			client := &http.Transport{}
			if secure {
				client.TLSClientConfig = &tls.Config{RootCAs: certified(t, &config)}
			}
			p, err := Start(t.Context(), config, testSeams(vfs.NewMemory(1)))
			if err != nil {
				t.Fatal(err)
			}
			defer stop(t, p)
			ready(t, p)
			if strings.HasPrefix(p.Endpoint(), "https") != secure {
				t.Fatalf("it serves at %s", p.Endpoint())
			}
			other := joinTo(t, p, 2, vfs.NewMemory(2))
			defer stop(t, other)
			if secure { // a peer shows who it is there too, in vain
				peerTLS := other.core.Load().links.trust.ClientConfig(p.id())
				client.TLSClientConfig.GetClientCertificate = peerTLS.GetClientCertificate
			}
			defer client.CloseIdleConnections()
			peersAtTheGateway(t, p, &http.Client{Transport: client})
			clientsAtThePeer(t, p, other)
		})
	}
}

// peersAtTheGateway makes every call of peers on the S3 listener, which takes it for S3: a bucket's name, or nothing.
func peersAtTheGateway(t *testing.T, p *Peer, client *http.Client) {
	routes := p.core.Load().links.server.Routes()
	if len(routes) < 8 {
		t.Fatalf("only the routes %q", routes)
	}
	for _, route := range routes {
		for _, call := range callsOf(route) {
			for _, key := range []*Credentials{nil, {AccessKey: p.RootKey().AccessKey, Secret: "not the secret of it"}, p.RootKey()} {
				response, err := client.Do(newCall(t, p.Endpoint(), call, key))
				if err != nil {
					t.Fatalf("%s: %v", call, err)
				}
				body, err := io.ReadAll(response.Body)
				if err := errors.Join(err, response.Body.Close()); err != nil {
					t.Fatal(err)
				}
				what := fmt.Sprintf("%s with %v: %s %q", call, key, response.Status, body)
				switch {
				case response.Header.Get(transport.ErrorHeader) != "" || response.Header.Get("X-Amz-Request-Id") == "":
					t.Errorf("who answers is not S3: %s", what)
				case key != p.RootKey() && response.StatusCode != http.StatusForbidden:
					t.Errorf("without the key: %s", what)
				case key == p.RootKey() && response.StatusCode < 300 && len(body) == 0 && strings.Count(strings.Trim(call[1], "/"), "/") == 0:
					// It is the name of a bucket, which was made or deleted: what S3 was asked for.
				case key == p.RootKey() && (response.StatusCode < 400 || response.StatusCode >= 500 || !strings.Contains(string(body), "<Code>")):
					t.Errorf("with the key: %s", what)
				}
			}
		}
	}
}

// clientsAtThePeer makes the calls of clients on the listener for peers, as a peer of the cluster, and with the root key.
func clientsAtThePeer(t *testing.T, p, other *Peer) {
	c := p.core.Load()
	routes, reserved := c.links.server.Routes(), c.face.Reserved()
	for _, prefix := range []string{admin.Prefix, metricsPath, livePath, readyPath} {
		if !slices.Contains(reserved, prefix) {
			t.Fatalf("the S3 listener has %q, and not %s", reserved, prefix)
		}
	}
	for _, route := range routes {
		_, path, found := strings.Cut(route, " ")
		if !found {
			path = route
		}
		for _, prefix := range append(reserved, "/") {
			if strings.TrimSuffix(path, "/") == strings.TrimSuffix(prefix, "/") || strings.HasSuffix(prefix, "/") && prefix != "/" && strings.HasPrefix(path, prefix) {
				t.Errorf("the route %q of peers lies in %q of the S3 listener", route, prefix)
			}
		}
	}
	to, err := other.core.Load().links.peers.Peer(p.id())
	if err != nil {
		t.Fatal(err)
	}
	calls := [][2]string{
		{"GET", "/"}, {"PUT", "/bucket"}, {"GET", "/bucket"}, {"PUT", "/bucket/key"}, {"GET", "/bucket/key"}, {"HEAD", "/bucket/key"},
		{"DELETE", "/bucket/key"}, {"POST", "/bucket/key?uploads"}, {"POST", "/bucket?delete"}, {"OPTIONS", "/bucket/key"},
		{"POST", "/-/admin/peer?peer=peer2&do=remove&force=true"}, {"GET", "/-/admin/drives"}, {"POST", "/-/admin/token"},
	}
	for _, prefix := range reserved {
		calls = append(calls, callsOf(prefix)...)
	}
	before := c.links.trust.Refusals().Of(trust.ErrWrongRole)
	for _, call := range calls {
		response, err := to.Do(newCall(t, base, call, p.RootKey()))
		if err == nil {
			t.Errorf("%s is answered with %s", call, response.Status)
			if err := response.Body.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, trust.ErrWrongRole) {
			t.Errorf("%s is refused with %v", call, err)
		}
	}
	if counted := c.links.trust.Refusals().Of(trust.ErrWrongRole) - before; counted != uint64(len(calls)) {
		t.Errorf("of %d calls %d were counted as refused", len(calls), counted)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if response, err := plain.Do(newCall(t, "http://"+c.links.server.Addr(), [2]string{"GET", "/"}, p.RootKey())); err == nil {
		t.Errorf("plain text is answered with %s: %v", response.Status, response.Body.Close())
	}
}
