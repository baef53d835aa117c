package remote_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// Gateways with TLS are trusted by the same rules, the first and those that it tells of; one that is not trusted is not
// used.
func TestGatewaysWithTLS(t *testing.T) {
	model := treetest.NewModel()
	var urls []string
	start := func() *httptest.Server {
		_, s := remote.NewService(remote.ServiceConfig{
			Log: quiet(), Gateways: func() []string { return urls },
			Open: func(context.Context, string, string, string) (tree.Objects, error) { return model, nil },
		})
		server := httptest.NewUnstartedServer(s)
		server.EnableHTTP2 = true
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
		server.StartTLS()
		urls = append(urls, server.URL)
		t.Cleanup(func() {
			server.CloseClientConnections()
			server.Close()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return server
	}
	first := start()
	start()
	pool := x509.NewCertPool()
	pool.AddCert(first.Certificate())
	for _, version := range []string{"HTTP/1", "HTTP/2"} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(version == "HTTP/2")
		c, err := remote.New(t.Context(), remote.Config{
			Endpoints: []string{first.URL}, AccessKey: "k", SecretKey: secret, Bucket: "bucket", Retry: 2 * time.Second, Stall: stall,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: protocols}, Log: quiet(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(t.Context(), tree.File{Key: version, Data: []byte("x")}); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if version == "HTTP/2" { // the last one
			if err := first.Listener.Close(); err != nil {
				t.Fatal(err)
			}
			first.CloseClientConnections()
		}
		if _, err := c.Stat(t.Context(), version); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	conf := remote.Config{Endpoints: urls[1:], AccessKey: "k", SecretKey: secret, Bucket: "bucket", Retry: -1}
	if _, err := remote.New(t.Context(), conf); err == nil {
		t.Error("a certificate that nobody vouches for is trusted")
	}
}
