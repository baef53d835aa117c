package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// both runs a test by each way to call, over TCP.
func both(t *testing.T, routes []transport.Route, body func(t *testing.T, b *site, do doer)) {
	t.Helper()
	r := newRealm(t)
	a := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	b := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: routes})
	peer := a.to(b)
	t.Run("call", func(t *testing.T) { body(t, b, peer.Do) })
	t.Run("transfer", func(t *testing.T) { body(t, b, peer.Transfer) })
}

func TestABodyIsBoundedWhereTheRouteSaysSo(t *testing.T) {
	count := func(w http.ResponseWriter, r *http.Request) error {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			_, err = fmt.Fprint(w, n)
		}
		return err
	}
	const bound = 100_000
	routes := []transport.Route{
		{Pattern: "POST /bounded", Roles: trust.RolePeer, MaxBody: bound, Handler: transport.HandlerFunc(count)},
		{Pattern: "POST /none", Roles: trust.RolePeer, Handler: transport.HandlerFunc(count)},
		{Pattern: "POST /unbounded", Roles: trust.RolePeer, MaxBody: -1, Handler: transport.HandlerFunc(count)},
	}
	both(t, routes, func(t *testing.T, _ *site, do doer) {
		for _, test := range []struct {
			path   string
			length int
			fits   bool
		}{
			{"/none", 0, true}, {"/none", 1, false},
			{"/bounded", 0, true}, {"/bounded", bound - 1, true}, {"/bounded", bound, true}, {"/bounded", bound + 1, false}, {"/bounded", 10 * bound, false},
			{"/unbounded", 10 * bound, true},
		} {
			data := make([]byte, test.length)
			for known, body := range map[string]io.Reader{"known": bytes.NewReader(data), "unknown": io.MultiReader(bytes.NewReader(data))} {
				answer, err := post(t.Context(), do, test.path, body)
				if test.fits && (err != nil || answer != fmt.Sprint(test.length)) {
					t.Errorf("%s, %d bytes of %s length: %q, %v", test.path, test.length, known, answer, err)
				}
				// A server that reads no further may break the connection before its answer is read.
				if !test.fits && !errors.Is(err, transport.ErrTooLarge) && (test.length <= bound+1 || !errors.Is(err, transport.ErrBroken)) {
					t.Errorf("%s, %d bytes of %s length: %q, %v", test.path, test.length, known, answer, err)
				}
			}
		}
	})
}

func TestAHeaderIsBounded(t *testing.T) {
	both(t, []transport.Route{peerRoute("POST /echo", echo)}, func(t *testing.T, _ *site, do doer) {
		for length, fits := range map[int]bool{15 << 10: true, 21 << 10: false, 1 << 20: false} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://peer/echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Long", strings.Repeat("x", length))
			response, err := do(request)
			if err == nil {
				if err := response.Body.Close(); err != nil {
					t.Error(err)
				}
			}
			if taken := err == nil && response.StatusCode == http.StatusOK; taken != fits {
				t.Errorf("a header of %d bytes: %v, %v", length, response, err)
			}
		}
	})
}

func TestAHandlerThatPanicsFailsItsCallOnly(t *testing.T) {
	routes := []transport.Route{
		peerRoute("POST /echo", echo),
		peerRoute("POST /panic", func(http.ResponseWriter, *http.Request) error { panic([]string{"a bug"}) }),
		peerRoute("POST /late", func(w http.ResponseWriter, _ *http.Request) error {
			if _, err := io.WriteString(w, "half"); err != nil {
				return err
			}
			panic("a bug")
		}),
	}
	both(t, routes, func(t *testing.T, b *site, do doer) {
		before := b.log.lines("a call crashed")
		_, err := post(t.Context(), do, "/panic", nil)
		wantErr(t, err, transport.ErrCrashed)
		_, err = post(t.Context(), do, "/late", nil)
		wantErr(t, err, transport.ErrBroken)
		if lines := b.log.lines("a call crashed") - before; lines != 2 {
			t.Errorf("%d lines about 2 crashes", lines)
		}
		if answer, err := post(t.Context(), do, "/echo", strings.NewReader("x")); err != nil || answer != "x" {
			t.Errorf("afterwards: %q, %v", answer, err)
		}
	})
}

func TestAnErrorAfterTheBeginningBreaksTheAnswer(t *testing.T) {
	routes := []transport.Route{peerRoute("POST /half", func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			return err
		}
		return errGone
	})}
	both(t, routes, func(t *testing.T, _ *site, do doer) {
		answer, err := post(t.Context(), do, "/half", nil)
		if !errors.Is(err, transport.ErrBroken) {
			t.Errorf("half an answer of %d bytes: %v", len(answer), err)
		}
	})
}

func TestAServerNeedsATrustThatSpeaksHTTP(t *testing.T) {
	r := newRealm(t)
	identity := newIdentity(trust.RolePeer)
	store, err := trust.NewStore(trust.Config{Credentials: r.credentials(identity, time.Now()), List: r.list})
	if err != nil {
		t.Fatal(err)
	}
	config := transport.ServerConfig{Network: transport.TCP{}, Address: "127.0.0.1:0", Trust: store}
	if _, err := transport.Listen(config, nil, nil); err == nil {
		t.Error("net/http would hang up on every peer")
	}
	config.Trust = r.store(identity)
	route := peerRoute("POST /x", echo)
	if _, err := transport.Listen(config, []transport.Route{route, route}, nil); err == nil {
		t.Error("two routes have one pattern")
	}
	config.Address = "nowhere"
	if _, err := transport.Listen(config, nil, nil); err == nil {
		t.Error("it listens nowhere")
	}
}

func TestStopWaitsForCallsUnderWay(t *testing.T) {
	bubble(t, options{}, options{routes: []transport.Route{peerRoute("POST /slow", slowEcho)}}, func(w *world) {
		var calls group
		for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
			calls.start(func() error {
				answer, err := post(w.Context(), do, "/slow", strings.NewReader("x"))
				if err == nil && answer != "x" {
					err = errors.New(answer)
				}
				return err
			})
		}
		pause(time.Second)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		var late group
		late.start(func() error {
			pause(time.Second)
			_, err := post(w.Context(), w.toB.Do, "/slow", strings.NewReader("x"))
			return err
		})
		if err := w.b.server.Stop(ctx); err != nil {
			w.Error(err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			w.Errorf("it took %v", took)
		}
		for _, err := range calls.wait() {
			wantErr(w, err, nil)
		}
		for _, err := range late.wait() {
			if !errors.Is(err, transport.ErrStopping) && !errors.Is(err, transport.ErrUnreachable) {
				w.Errorf("a call to who stops: %v", err)
			}
		}
		if err := w.b.server.Stop(ctx); err != nil {
			w.Errorf("again: %v", err)
		}
	})
}

func TestStopIsBoundedInTime(t *testing.T) {
	release := make(chan struct{})
	var started atomic.Int64
	stubborn := peerRoute("POST /stubborn", func(http.ResponseWriter, *http.Request) error {
		started.Add(1)
		<-release
		return nil
	})
	r := newRealm(t)
	a := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	wait := peerRoute("POST /wait", func(w http.ResponseWriter, r *http.Request) error {
		started.Add(1)
		return waitForEnd(w, r)
	})
	b := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{stubborn, wait}})
	peer := a.to(b)
	var calls group
	for _, path := range []string{"/stubborn", "/wait"} {
		for _, do := range []doer{peer.Do, peer.Transfer} {
			calls.start(func() error {
				_, err := post(t.Context(), do, path, nil)
				return err
			})
		}
	}
	expect.Soon(t, "the calls are under way", func() bool { return started.Load() == 4 })
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := b.server.Stop(ctx)
	if err == nil || !strings.Contains(err.Error(), "2 of them do not end") {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, err := range calls.wait() {
		if !errors.Is(err, transport.ErrBroken) {
			t.Errorf("a call that was cut off: %v", err)
		}
	}
	close(release)
}

// TestConnectionsAreCutThatSayNothing is about who connects and leaves it at that, or at half of a header.
func TestConnectionsAreCutThatSayNothing(t *testing.T) {
	bubble(t, options{}, options{}, func(w *world) {
		network := w.net.Host("a")
		for name, say := range map[string]string{"nothing": "", "the beginning of TLS": "\x16\x03\x01"} {
			conn, err := network.Dial(w.Context(), w.b.server.Addr())
			if err != nil {
				w.Fatal(err)
			}
			if _, err := io.WriteString(conn, say); err != nil {
				w.Fatal(err)
			}
			begin := time.Now()
			if err := conn.SetDeadline(begin.Add(time.Minute)); err != nil {
				w.Fatal(err)
			}
			if _, err := io.ReadAll(conn); err != nil {
				w.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begin); took > 6*time.Second {
				w.Errorf("%s: cut after %v", name, took)
			}
			if err := conn.Close(); err != nil {
				w.Error(err)
			}
		}
	})
}

func TestACallerThatStopsInMidBodyIsCut(t *testing.T) {
	for _, name := range []string{"call", "transfer"} {
		bubbleOf(t, name, options{peers: func(c *transport.PeersConfig) { c.Stall = -1 }}, options{}, func(w *world) {
			ended := make(chan error, 1)
			read := peerRoute("POST /read", func(_ http.ResponseWriter, r *http.Request) error {
				_, err := io.Copy(io.Discard, r.Body)
				ended <- err
				return err
			})
			c := w.realm.start(w.net.Host("c"), "c:1", options{routes: []transport.Route{read}})
			peer := w.a.to(c)
			source, sink := io.Pipe()
			var calls group
			calls.start(func() error {
				do := map[string]doer{"call": peer.Do, "transfer": peer.Transfer}[name]
				_, err := post(w.Context(), do, "/read", source)
				return err
			})
			if _, err := sink.Write(make([]byte, 100_000)); err != nil {
				w.Fatal(err)
			}
			begin := time.Now()
			wantErr(w, <-ended, transport.ErrStalled)
			wantTook(w, begin, transport.DefaultServerStall)
			if err := sink.Close(); err != nil {
				w.Error(err)
			}
			for _, err := range calls.wait() {
				if err == nil {
					w.Error("the call came to an end")
				}
			}
		})
	}
}

func TestACallerThatDoesNotReadItsAnswerIsCut(t *testing.T) {
	for _, name := range []string{"call", "transfer"} {
		bubbleOf(t, name, options{}, options{}, func(w *world) {
			ended := make(chan error, 1)
			route := peerRoute("POST /source", func(out http.ResponseWriter, _ *http.Request) error {
				_, err := out.Write(make([]byte, 64<<20))
				ended <- err
				return err
			})
			c := w.realm.start(w.net.Host("c"), "c:1", options{routes: []transport.Route{route}})
			peer := w.a.to(c)
			request, err := http.NewRequestWithContext(w.Context(), http.MethodPost, "https://peer/source", nil)
			if err != nil {
				w.Fatal(err)
			}
			begin := time.Now()
			response, err := map[string]doer{"call": peer.Do, "transfer": peer.Transfer}[name](request)
			if err != nil {
				w.Fatal(err)
			}
			wantErr(w, <-ended, transport.ErrStalled)
			wantTook(w, begin, transport.DefaultServerStall)
			_, err = io.Copy(io.Discard, response.Body)
			wantErr(w, err, transport.ErrBroken)
			if err := response.Body.Close(); err != nil {
				w.Error(err)
			}
		})
	}
}

// TestManyStrangersCostLittle connects without a certificate, again and again.
func TestManyStrangersCostLittle(t *testing.T) {
	r := newRealm(t)
	to := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{peerRoute("POST /echo", echo)}})
	before := runtime.NumGoroutine()
	const count = 200
	for range count {
		conn, err := net.Dial("tcp", to.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(conn) // it ends, by whatever error
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	expect.Soon(t, "all were refused", func() bool { return to.trust.Refusals().Of(trust.ErrOtherProtocol) == count })
	expect.Soon(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
	if lines := to.log.lines("level=WARN"); lines != 1 {
		t.Errorf("%d lines about one stranger, want 1", lines)
	}
}
