package metadata_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		router := route.New(route.Config{
			Self:     self,
			Leader:   func() (cluster.PeerID, bool, bool) { return other, false, true },
			Local:    func() metadata.Names { return nil },
			Remote:   func(cluster.PeerID) metadata.Names { return wire },
			Patience: -1,
		})
		t.Cleanup(func() {
			if err := router.Close(); err != nil {
				t.Error(err)
			}
		})
		return router
	})
	for name, test := range metadata.Suite {
		t.Run(name, test)
	}
}

// TestWritesHappenOnceThoughAnswersAreLost cuts connections before and after the call, under concurrent writers at a
// router: every write happens once, with an Op of its own and without.
func TestWritesHappenOnceThoughAnswersAreLost(t *testing.T) {
	const writers, each = 8, 25
	c, bucket := metadata.VersionedCatalog(t)
	session, err := c.OpenSession(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	inner := remote.Handler(c)
	var asked, cut atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) % 4 {
		case 0:
			inner.ServeHTTP(httptest.NewRecorder(), r)
			cut.Add(1)
			panic(http.ErrAbortHandler)
		case 1:
			cut.Add(1)
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	leader := cluster.PeerID{1}
	wire := remote.New(server.Client(), server.URL, remote.Options{})
	router := route.New(route.Config{
		Leader: func() (cluster.PeerID, bool, bool) { return leader, false, true },
		Local:  func() metadata.Names { return nil },
		Remote: func(cluster.PeerID) metadata.Names { return wire },
		// Half of all attempts are cut: none of the writes may run out of them.
		Patience: time.Minute,
	})
	var g sync.WaitGroup
	for i := range writers {
		g.Go(func() {
			for n := range each {
				p := metadata.Put{Bucket: bucket, Version: metadata.Version{Key: fmt.Sprint(i), ETag: "e"}}
				if n%2 == 0 {
					p.Op = metadata.Op{Session: session, Seq: uint64(i*each + n + 1)}
				}
				if _, err := router.Put(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	u, err := c.Usage(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	if made := u.Objects + u.Versions; made != writers*each {
		t.Fatalf("%d versions of %d writes", made, writers*each)
	}
	if cut.Load() < writers*each/4 {
		t.Fatalf("%d answers were cut", cut.Load())
	}
	if err := router.Close(); err != nil {
		t.Fatal(err)
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
