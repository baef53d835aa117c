package transport_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/cluster/transport"
)

// benchSites are two sites on loopback.
func benchSites(b *testing.B) (peer *transport.Peer) {
	b.Helper()
	r := newRealm(b)
	routes := []transport.Route{
		peerRoute("POST /echo", echo),
		peerRoute("POST /sink", func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(io.Discard, r.Body)
			return err
		}),
		peerRoute("POST /source", func(w http.ResponseWriter, r *http.Request) error {
			_, err := w.Write(benchBody)
			return err
		}),
	}
	near := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	far := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: routes})
	return near.to(far)
}

var benchBody = make([]byte, 64<<20)

// BenchmarkCalls sends 1 KiB there and back.
func BenchmarkCalls(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			peer := benchSites(b)
			body := make([]byte, 1024)
			work := make(chan struct{})
			var running sync.WaitGroup
			b.ResetTimer()
			for range callers {
				running.Go(func() {
					for range work {
						if answer, err := post(b.Context(), peer.Do, "/echo", bytes.NewReader(body)); err != nil || len(answer) != len(body) {
							b.Errorf("%d bytes, %v", len(answer), err)
						}
					}
				})
			}
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkBodies moves 64 MiB one way, by both ways to call, beside plain TCP.
func BenchmarkBodies(b *testing.B) {
	b.Run("tcp", func(b *testing.B) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer listener.Close()
		var serving sync.WaitGroup
		serving.Go(func() {
			conn, err := listener.Accept()
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			buffer := make([]byte, 256<<10)
			for {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
			}
		})
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(benchBody)))
		for b.Loop() {
			if _, err := conn.Write(benchBody); err != nil {
				b.Fatal(err)
			}
		}
		if err := conn.Close(); err != nil {
			b.Error(err)
		}
		serving.Wait()
	})
	for _, path := range []string{"/sink", "/source"} {
		for _, way := range []string{"transfer", "call"} {
			b.Run(way+path, func(b *testing.B) {
				peer := benchSites(b)
				do := map[string]doer{"transfer": peer.Transfer, "call": peer.Do}[way]
				b.SetBytes(int64(len(benchBody)))
				for b.Loop() {
					if err := moveBody(b, do, path); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func moveBody(b *testing.B, do doer, path string) error {
	var body io.Reader
	if path == "/sink" {
		body = bytes.NewReader(benchBody)
	}
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "https://peer"+path, body)
	if err != nil {
		return err
	}
	response, err := do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
