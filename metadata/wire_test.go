package metadata_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
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

// BenchmarkWire puts 4 KiB inline and looks, at the Catalog itself and through HTTP on loopback. The groups apply at once:
// what is measured is what the wire adds.
func BenchmarkWire(b *testing.B) {
	for _, over := range []string{"direct", "loopback"} {
		c, bucket := metadata.BenchCatalog(b)
		n := metadata.Names(c)
		if over == "loopback" {
			n = client(b, c)
		}
		body := make([]byte, 4<<10)
		b.Run("put/"+over, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				p := metadata.Put{Bucket: bucket, Version: metadata.Version{
					Key: fmt.Sprintf("dir/%08d", i%1000), Size: 4 << 10, ETag: strings.Repeat("a", 32), Inline: body,
					Headers: map[string]string{"content-type": "application/octet-stream"},
				}}
				if _, err := n.Put(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("look/"+over, func(b *testing.B) {
			for b.Loop() {
				if found, err := n.Look(b.Context(), bucket, "dir/00000001"); err != nil || found.Object == nil {
					b.Fatal(err)
				}
			}
		})
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
