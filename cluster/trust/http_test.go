package trust

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// TestCallsOverHTTPKnowTheirCaller puts net/http on top, as a transport does: one long connection, each call judged.
func TestCallsOverHTTPKnowTheirCaller(t *testing.T) {
	for protocols, want := range map[string]int{"http/1.1": 1, "h2": 2} {
		t.Run(protocols, func(t *testing.T) {
			r := newRealm(t)
			a, b := newPeer(), newPeer()
			var stores []*Store
			for _, identity := range []Identity{a, b} {
				store, err := NewStore(Config{
					Credentials: issue(t, r.authority, identity, dawn), List: r.list, Now: r.clock.Now, Protocols: []string{protocols},
				})
				if err != nil {
					t.Fatal(err)
				}
				stores = append(stores, store)
			}
			address := serveCalls(t, stores[0])
			client, dials := httpClient(t, stores[1].ClientConfig(a.Peer))
			call := func(method string) (int, string) {
				answer, err := client.Get("https://" + address + method)
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				if err != nil {
					t.Fatal(err)
				}
				if answer.ProtoMajor != want {
					t.Errorf("spoken: %s, want HTTP/%d", answer.Proto, want)
				}
				return answer.StatusCode, string(body)
			}
			if status, body := call("/read"); status != 200 || body != b.String() {
				t.Errorf("read: %d %s", status, body)
			}
			if status, _ := call("/drain"); status != 403 {
				t.Errorf("drain: %d", status)
			}
			if err := stores[0].SetList(r.list.Revoke(b.Peer)); err != nil {
				t.Fatal(err)
			}
			if status, _ := call("/read"); status != 403 {
				t.Errorf("read, revoked: %d", status)
			}
			if n := dials(); n != 1 {
				t.Errorf("%d connections: the calls were to share one", n)
			}
		})
	}
}

// serveCalls serves two methods, to peers and to operators.
func serveCalls(t *testing.T, store *Store) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	policy := Policy{"/read": RolePeer, "/drain": RoleAdmin}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := store.Authorize(*r.TLS, policy, r.URL.Path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprint(w, caller)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(store.Listener(inner, store.ServerConfig())) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return inner.Addr().String()
}

func httpClient(t *testing.T, config *tls.Config) (*http.Client, func() int) {
	var mu sync.Mutex
	dials := 0
	dialer := &tls.Dialer{Config: config}
	transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		return dialer.DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}, func() int {
		mu.Lock()
		defer mu.Unlock()
		return dials
	}
}
