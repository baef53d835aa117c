package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// bodies are routes that move bodies, and what became of the handlers' ends of them.
func bodies(ended chan<- error) []transport.Route {
	return []transport.Route{
		peerRoute("POST /echo", echo),
		peerRoute("POST /wait", waitForEnd),
		peerRoute("POST /sink", func(_ http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(io.Discard, r.Body)
			if ended != nil {
				ended <- err
			}
			return err
		}),
		peerRoute("POST /source", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write(make([]byte, 32<<20))
			if ended != nil {
				ended <- err
			}
			return err
		}),
		peerRoute("POST /drip", func(w http.ResponseWriter, _ *http.Request) error {
			for range 10 {
				if _, err := io.WriteString(w, "x"); err != nil {
					return err
				}
				w.(http.Flusher).Flush()
				pause(transport.DefaultStall - time.Second)
			}
			return nil
		}),
	}
}

// each runs a test by each way to call, in bubbles.
func each(t *testing.T, a options, body func(w *world, do doer)) {
	t.Helper()
	for _, name := range []string{"call", "transfer"} {
		bubbleOf(t, name, a, options{routes: bodies(nil)}, func(w *world) {
			body(w, map[string]doer{"call": w.toB.Do, "transfer": w.toB.Transfer}[name])
		})
	}
}

func TestAPeerThatDoesNotAnswerStalls(t *testing.T) {
	each(t, options{}, func(w *world, do doer) {
		begin := time.Now()
		_, err := post(w.Context(), do, "/wait", nil)
		wantErr(w, err, transport.ErrStalled)
		wantTook(w, begin, transport.DefaultStall)
		if errors.Is(err, context.Canceled) {
			w.Errorf("a stall looks as if the caller had given up: %v", err)
		}
		// That one handler is slow says nothing of the peer.
		if _, err := post(w.Context(), do, "/echo", nil); err != nil {
			w.Error(err)
		}
	})
}

func TestStallCanBeSet(t *testing.T) {
	for limit, want := range map[time.Duration]error{time.Second: transport.ErrStalled, -1: context.DeadlineExceeded} {
		each(t, options{peers: func(c *transport.PeersConfig) { c.Stall = limit }}, func(w *world, do doer) {
			ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
			defer cancel()
			begin := time.Now()
			_, err := post(ctx, do, "/wait", nil)
			wantErr(w, err, want)
			wantTook(w, begin, map[bool]time.Duration{true: time.Minute, false: limit}[limit < 0])
		})
	}
}

// TestSlowIsNotStalled: what moves is not given up, and neither is who waits for its own caller.
func TestSlowIsNotStalled(t *testing.T) {
	each(t, options{}, func(w *world, do doer) {
		answer, err := post(w.Context(), do, "/drip", nil)
		if err != nil || answer != strings.Repeat("x", 10) {
			w.Errorf("an answer that drips: %q, %v", answer, err)
		}
	})
	each(t, options{}, func(w *world, do doer) {
		source, sink := io.Pipe()
		var writing group
		writing.start(func() error {
			for range 3 {
				if _, err := sink.Write(make([]byte, 1000)); err != nil {
					return err
				}
				pause(transport.DefaultStall * 2)
			}
			return sink.Close()
		})
		if _, err := post(w.Context(), do, "/sink", source); err != nil {
			w.Errorf("a source that drips: %v", err)
		}
		wantErr(w, errors.Join(writing.wait()...), nil)
	})
	each(t, options{}, func(w *world, do doer) {
		request, err := http.NewRequestWithContext(w.Context(), http.MethodPost, "https://peer/source", nil)
		if err != nil {
			w.Fatal(err)
		}
		response, err := do(request)
		if err != nil {
			w.Fatal(err)
		}
		pause(transport.DefaultStall * 2) // the server would wait for 30 s
		if n, err := io.Copy(io.Discard, response.Body); n != 32<<20 || err != nil {
			w.Errorf("a reader that thinks: %d bytes, %v", n, err)
		}
		if err := response.Body.Close(); err != nil {
			w.Error(err)
		}
	})
}

func TestAContextEndsACall(t *testing.T) {
	each(t, options{}, func(w *world, do doer) {
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := post(ctx, do, "/wait", nil)
		wantErr(w, err, context.DeadlineExceeded)
		wantTook(w, begin, 3*time.Second)
	})
}

// TestANetworkThatIsCutInMidBody cuts one direction, or both, while a body is under way in one direction or the other.
func TestANetworkThatIsCutInMidBody(t *testing.T) {
	for _, path := range []string{"/sink", "/source"} {
		for name, cut := range map[string]func(*transport.Simulation){
			"there": func(s *transport.Simulation) { s.Cut("a", "b") },
			"back":  func(s *transport.Simulation) { s.Cut("b", "a") },
			"both":  func(s *transport.Simulation) { s.Partition("a") },
			"pause": func(s *transport.Simulation) { s.Pause("b") },
			"power": func(s *transport.Simulation) { s.PowerOff("b") },
		} {
			bubbleOf(t, path+" "+name, options{}, options{routes: bodies(nil)}, func(w *world) {
				w.net.Shape("", "", transport.Shape{Latency: time.Millisecond, Bandwidth: 10 << 20})
				var calls group
				calls.start(func() error { return w.move(w.toB.Transfer, path, 32<<20) })
				pause(time.Second)
				if w.toB.Status().Bulk != 1 {
					w.Fatal("nothing is under way")
				}
				begin := time.Now()
				cut(w.net)
				for _, err := range calls.wait() {
					wantErr(w, err, transport.ErrStalled)
				}
				if took := time.Since(begin); took > transport.DefaultStall+time.Second {
					w.Errorf("given up after %v", took)
				}
			})
		}
	}
}

func TestAResetInMidBodyIsNoticedAtOnce(t *testing.T) {
	for _, path := range []string{"/sink", "/source"} {
		each(t, options{}, func(w *world, do doer) {
			w.net.Shape("", "", transport.Shape{Latency: time.Millisecond, Bandwidth: 10 << 20})
			var calls group
			calls.start(func() error { return w.move(do, path, 32<<20) })
			pause(time.Second)
			begin := time.Now()
			if w.net.Reset("a", "b") == 0 {
				w.Fatal("there was nothing to reset")
			}
			for _, err := range calls.wait() {
				wantErr(w, err, transport.ErrBroken)
			}
			wantTook(w, begin, 0)
			settle()
			last, _ := w.a.events.last()
			if last.at != begin || last.reachable {
				w.Errorf("the peer is called reachable: %+v", last)
			}
			if _, err := post(w.Context(), do, "/echo", strings.NewReader("x")); err != nil {
				w.Errorf("the next call: %v", err)
			}
		})
	}
}

// move sends or fetches a body and checks its length.
func (w *world) move(do doer, path string, length int64) error {
	var body io.Reader
	if path == "/sink" {
		body = io.LimitReader(zeros{}, length)
	}
	request, err := http.NewRequestWithContext(w.Context(), http.MethodPost, "https://peer"+path, body)
	if err != nil {
		return err
	}
	response, err := do(request)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && path == "/source" && n != length {
		err = fmt.Errorf("%d bytes, want %d", n, length)
	}
	return errors.Join(err, response.Body.Close())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReachabilityIsToldInTime hurts the network in every way and asks how long it takes until the callback knows, and
// until it knows that all is well again.
func TestReachabilityIsToldInTime(t *testing.T) {
	for name, test := range map[string]struct {
		hurt   func(w *world)
		within time.Duration
	}{
		"reset and refused": {func(w *world) { w.net.Refuse("b"); w.net.Reset("a", "b") }, 0},
		"cut there":         {func(w *world) { w.net.Cut("a", "b") }, 5 * time.Second},
		"cut back":          {func(w *world) { w.net.Cut("b", "a") }, 5 * time.Second},
		"partition":         {func(w *world) { w.net.Partition("a") }, 5 * time.Second},
		"pause":             {func(w *world) { w.net.Pause("b") }, 5 * time.Second},
		"slow":              {func(w *world) { w.net.Shape("", "", transport.Shape{Latency: 10 * time.Second}) }, 6 * time.Second},
	} {
		bubbleOf(t, name, options{}, options{routes: bodies(nil)}, func(w *world) {
			w.wantReachable(true, time.Second)
			if _, err := post(w.Context(), w.toB.Do, "/echo", nil); err != nil {
				w.Fatal(err)
			}
			pause(500 * time.Millisecond)
			test.hurt(w)
			if took := w.wantReachable(false, test.within+10*time.Millisecond); took > test.within {
				w.Errorf("told after %v, want %v", took, test.within)
			}
			last, _ := w.a.events.last()
			if last.why == nil || last.peer != w.b.identity.Peer {
				w.Errorf("it does not say who and why: %+v", last)
			}
			pause(20 * time.Second)
			begin := time.Now()
			for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
				_, err := post(w.Context(), do, "/echo", nil)
				wantErr(w, err, transport.ErrUnreachable)
			}
			wantTook(w, begin, 0) // nobody waits for a peer that is known to be gone
			if status := w.toB.Status(); status.Reachable || status.Err == nil || time.Since(status.Since) < 20*time.Second {
				w.Errorf("status %+v", status)
			}
			w.net.Heal()
			w.net.Shape("", "", transport.Shape{Latency: time.Millisecond})
			w.wantReachable(true, 8*time.Second)
			if _, err := post(w.Context(), w.toB.Do, "/echo", nil); err != nil {
				w.Error(err)
			}
		})
	}
}

// TestAPeerThatLostPowerLeavesHalfOpenConnections: its server is gone and back without a word.
func TestAPeerThatLostPowerLeavesHalfOpenConnections(t *testing.T) {
	bubble(t, options{}, options{routes: bodies(nil)}, func(w *world) {
		w.wantReachable(true, time.Second)
		w.net.PowerOff("b")
		w.net.Heal()
		took := w.wantReachable(false, 2*time.Second)
		if took == 0 {
			w.Error("a half-open connection was noticed before anything was sent")
		}
		w.b.stop()
		w.realm.start(w.net.Host("b"), "b:1", options{routes: bodies(nil)})
		// It has another identity, so it is not the peer that was meant.
		pause(5 * time.Second)
		_, err := post(w.Context(), w.toB.Do, "/echo", nil)
		wantErr(w, err, trust.ErrWrongPeer)
	})
}

func TestDialsAreOneAtATimeAndWait(t *testing.T) {
	bubble(t, options{}, options{routes: bodies(nil)}, func(w *world) {
		network := &counting{Network: w.net.Host("a")}
		peers, err := transport.NewPeers(transport.PeersConfig{Network: network, Trust: w.a.trust})
		if err != nil {
			w.Fatal(err)
		}
		defer peers.Close()
		w.net.Refuse("b")
		w.a.peers.Close()
		w.a.peers = peers
		peer := w.a.to(w.b)
		var calls group
		for range 100 {
			for _, do := range []doer{peer.Do, peer.Transfer} {
				calls.start(func() error {
					_, err := post(w.Context(), do, "/echo", nil)
					return err
				})
			}
		}
		for _, err := range calls.wait() {
			wantErr(w, err, transport.ErrUnreachable)
		}
		pause(time.Minute)
		// 50 ms, doubling to 2 s, each between a half and the whole: about 7 dials, then one each 1 to 2 s.
		if dials := network.dials.Load(); dials < 30 || dials > 70 {
			w.Errorf("%d dials in a minute", dials)
		}
		// A hint that the peer is back is taken.
		w.net.Heal()
		peer = w.a.to(w.b)
		begin := time.Now()
		for !peer.Status().Reachable && time.Since(begin) < time.Minute {
			pause(time.Millisecond)
		}
		if took := time.Since(begin); took > 50*time.Millisecond {
			w.Errorf("a hint was taken after %v", took)
		}
		for range 100 {
			calls.start(func() error {
				_, err := post(w.Context(), peer.Transfer, "/echo", bytes.NewReader(make([]byte, 100_000)))
				return err
			})
		}
		calls.wait()
		if most := network.most.Load(); most != 1 {
			w.Errorf("%d dials at a time", most)
		}
	})
}

// TestAPeerThatDropsConnectionsIsDialledSlowly: it takes them, answers, and drops them.
func TestAPeerThatDropsConnectionsIsDialledSlowly(t *testing.T) {
	bubble(t, options{}, options{}, func(w *world) {
		network := &counting{Network: w.net.Host("a")}
		changes := &events{}
		peers, err := transport.NewPeers(transport.PeersConfig{Network: network, Trust: w.a.trust, Changed: changes.add})
		if err != nil {
			w.Fatal(err)
		}
		defer peers.Close()
		w.a.peers.Close()
		w.a.peers = peers
		peer := w.a.to(w.b)
		for begin := time.Now(); time.Since(begin) < time.Minute; pause(time.Millisecond) {
			if peer.Status().Reachable {
				w.net.Reset("a", "b")
			}
		}
		if dials := network.dials.Load(); dials < 20 || dials > 70 {
			w.Errorf("%d dials in a minute", dials)
		}
		if _, count := changes.last(); count < 40 {
			w.Errorf("reachability changed %d times", count)
		}
	})
}

func TestABulkPoolIsBounded(t *testing.T) {
	var now, most atomic.Int64
	slow := peerRoute("POST /slow", func(w http.ResponseWriter, r *http.Request) error {
		count := now.Add(1)
		defer now.Add(-1)
		for seen := most.Load(); count > seen && !most.CompareAndSwap(seen, count); seen = most.Load() {
		}
		return slowEcho(w, r)
	})
	bubble(t, options{peers: func(c *transport.PeersConfig) { c.MaxBulk = 3 }}, options{routes: []transport.Route{slow}}, func(w *world) {
		var calls group
		begin := time.Now()
		for range 10 {
			calls.start(func() error {
				_, err := post(w.Context(), w.toB.Transfer, "/slow", strings.NewReader("x"))
				return err
			})
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		pause(100 * time.Millisecond)
		_, err := post(ctx, w.toB.Transfer, "/slow", strings.NewReader("x"))
		wantErr(w, err, context.DeadlineExceeded)
		wantErr(w, err, transport.ErrUnreachable) // nothing was sent
		for _, err := range calls.wait() {
			wantErr(w, err, nil)
		}
		wantTook(w, begin, 12*time.Second) // four rounds of 3 s
		if most.Load() != 3 {
			w.Errorf("%d bodies at a time, want 3", most.Load())
		}
		if bulk := w.toB.Status().Bulk; bulk != 0 {
			w.Errorf("%d bodies are under way in the end", bulk)
		}
	})
}

// TestBulkDoesNotStarveCalls fills the path with bodies and asks how long a small call takes.
func TestBulkDoesNotStarveCalls(t *testing.T) {
	bubble(t, options{}, options{routes: bodies(nil)}, func(w *world) {
		const bandwidth = 100 << 20
		w.net.Shape("", "", transport.Shape{Latency: time.Millisecond, Bandwidth: bandwidth})
		var transfers group
		for range 4 {
			for _, path := range []string{"/sink", "/source"} {
				transfers.start(func() error { return w.move(w.toB.Transfer, path, 32<<20) }) // the length that the route has
			}
		}
		pause(100 * time.Millisecond)
		var worst time.Duration
		calls := 0
		for ; w.toB.Status().Bulk == 8; calls++ {
			begin := time.Now()
			if _, err := post(w.Context(), w.toB.Do, "/echo", strings.NewReader("x")); err != nil {
				w.Fatal(err)
			}
			worst = max(worst, time.Since(begin))
		}
		for _, err := range transfers.wait() {
			wantErr(w, err, nil)
		}
		// Each of 4 bodies may have a window of 256 KiB under way before the call, there and back.
		if worst > 40*time.Millisecond || calls < 10 {
			w.Errorf("the slowest of %d calls took %v", calls, worst)
		}
	})
}

func TestAPeerThatMovesIsFollowed(t *testing.T) {
	bubble(t, options{}, options{routes: bodies(nil)}, func(w *world) {
		w.wantReachable(true, time.Second)
		// The same peer, at another address.
		config := transport.ServerConfig{Network: w.net.Host("c"), Address: "c:9", Trust: w.b.trust}
		moved, err := transport.Listen(config, []transport.Route{peerRoute("POST /moved", echo)}, nil)
		if err != nil {
			w.Fatal(err)
		}
		defer func() {
			w.a.peers.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := moved.Stop(ctx); err != nil {
				w.Error(err)
			}
		}()
		w.a.peers.Set(w.b.identity.Peer, "c:9")
		pause(time.Second)
		for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
			if _, err := post(w.Context(), do, "/moved", nil); err != nil {
				w.Error(err)
			}
		}
		if status := w.a.peers.Status(); len(status) != 1 || status[0].Address != "c:9" || !status[0].Reachable {
			w.Errorf("status %+v", status)
		}
	})
}

func TestAPeerThatIsRemovedIsCalledNoMore(t *testing.T) {
	bubble(t, options{}, options{routes: bodies(nil)}, func(w *world) {
		w.wantReachable(true, time.Second)
		var calls group
		for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
			calls.start(func() error {
				_, err := post(w.Context(), do, "/wait", nil)
				return err
			})
		}
		pause(time.Second)
		w.a.peers.Remove(w.b.identity.Peer)
		for _, err := range calls.wait() {
			wantErr(w, err, transport.ErrBroken)
		}
		_, err := post(w.Context(), w.toB.Do, "/echo", nil)
		wantErr(w, err, transport.ErrClosed)
		wantErr(w, err, transport.ErrUnreachable)
		_, err = w.a.peers.Peer(w.b.identity.Peer)
		wantErr(w, err, transport.ErrUnknownPeer)
		if w.toB.Stream("m").Send([]byte("x")) {
			w.Error("a stream to a removed peer takes messages")
		}
	})
}

// poisoned fails the test when it is read after the call is over, as it is when a buffer went to somebody else.
type poisoned struct {
	t    testing.TB
	over atomic.Bool
	slow time.Duration
}

func (p *poisoned) Read(b []byte) (int, error) {
	pause(p.slow)
	if p.over.Load() {
		p.t.Error("the body was read after the call")
	}
	return len(b), nil
}

func TestTheSourceIsNotReadAfterTheCall(t *testing.T) {
	each(t, options{}, func(w *world, do doer) {
		for _, path := range []string{"/sink", "/wait", "/unheard-of"} {
			source := &poisoned{t: w, slow: time.Millisecond}
			ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
			_, err := post(ctx, do, path, source)
			source.over.Store(true)
			cancel()
			if err == nil {
				w.Errorf("%s: the call ended well", path)
			}
			pause(time.Minute)
		}
	})
}

func TestRoundTripsAreMeasured(t *testing.T) {
	bubble(t, options{}, options{}, func(w *world) {
		w.net.Shape("", "", transport.Shape{Latency: 20 * time.Millisecond})
		pause(time.Minute)
		if trip := w.toB.Status().RoundTrip; trip < 39*time.Millisecond || trip > 42*time.Millisecond {
			w.Errorf("a round trip of %v, want 40 ms", trip)
		}
		w.net.Shape("", "", transport.Shape{Latency: 40 * time.Millisecond})
		pause(3 * time.Second)
		if trip := w.toB.Status().RoundTrip; trip < 45*time.Millisecond || trip > 75*time.Millisecond {
			w.Errorf("on the way from 40 to 80 ms it says %v", trip)
		}
	})
}
