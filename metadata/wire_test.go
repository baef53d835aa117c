package metadata_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/remote"
	"github.com/holdfast/holdfast/metadata/route"
)

// TestSuiteThroughARouterAndTheWire runs every test of the name space at a peer that has to ask another one: router,
// client and handler change no answer and no error.
func TestSuiteThroughARouterAndTheWire(t *testing.T) {
	self, other := cluster.PeerID{1}, cluster.PeerID{2}
	metadata.Serve(t, func(t testing.TB, c *metadata.Catalog) metadata.Names {
		leader := func() (cluster.PeerID, bool, bool) { return other, true, true }
		wire := client(t, route.Local(route.Config{Self: other, Leader: leader, Local: func() metadata.Names { return c }}))
		return route.New(route.Config{
			Self:     self,
			Leader:   func() (cluster.PeerID, bool, bool) { return other, false, true },
			Local:    func() metadata.Names { return nil },
			Remote:   func(cluster.PeerID) metadata.Names { return wire },
			Patience: -1,
		})
	})
	for name, test := range metadata.Suite {
		t.Run(name, test)
	}
}

// client is n behind a handler on loopback.
func client(t testing.TB, n metadata.Names) metadata.Names {
	t.Helper()
	server := httptest.NewServer(remote.Handler(n))
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	return remote.New(&http.Client{Transport: transport}, server.URL, remote.Options{})
}
