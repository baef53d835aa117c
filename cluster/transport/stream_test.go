package transport_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// mailbox keeps what an inlet received.
type mailbox struct {
	mu       sync.Mutex
	messages [][]byte
	callers  []trust.Identity
	// hold, when it is not nil, is what each Receive waits for.
	hold chan struct{}
	in   atomic.Int64
}

func (m *mailbox) inlet(roles trust.Roles) transport.Inlet {
	return transport.Inlet{Name: "m", Roles: roles, Receive: func(caller trust.Identity, message []byte) {
		if m.in.Add(1) > 1 {
			panic("two messages of one caller at a time")
		}
		defer m.in.Add(-1)
		if m.hold != nil {
			<-m.hold
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.messages = append(m.messages, bytes.Clone(message))
		m.callers = append(m.callers, caller)
	}}
}

func (m *mailbox) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.messages)
}

// numbered is message n, of a length.
func numbered(n, length int) []byte {
	message := make([]byte, length)
	binary.LittleEndian.PutUint32(message, uint32(n))
	return message
}

// framed is a message as it goes over a stream.
func framed(message []byte) string {
	frame := binary.LittleEndian.AppendUint32(nil, uint32(len(message)))
	sum := crc32.Checksum(append(frame[:4:4], message...), crc32.MakeTable(crc32.Castagnoli))
	return string(append(binary.LittleEndian.AppendUint32(frame, sum), message...))
}

// wantAscending fails unless the messages came in order and none twice; it returns how many there are.
func (m *mailbox) wantAscending(t testing.TB) int {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	last := -1
	for _, message := range m.messages {
		n := int(binary.LittleEndian.Uint32(message))
		if n <= last {
			t.Fatalf("message %d after %d", n, last)
		}
		last = n
	}
	return len(m.messages)
}

// posted is a bubble in which b has a mailbox.
func posted(t *testing.T, near options, body func(w *world, box *mailbox, stream *transport.Stream)) {
	t.Helper()
	box := &mailbox{}
	bubble(t, near, options{inlets: []transport.Inlet{box.inlet(trust.RolePeer)}}, func(w *world) {
		body(w, box, w.toB.Stream("m"))
	})
}

func TestMessagesArriveInOrder(t *testing.T) {
	posted(t, options{}, func(w *world, box *mailbox, stream *transport.Stream) {
		const count = 1000
		for n := range count {
			length := 4 + n
			if n%100 == 99 {
				length = 1 << 20
			}
			if !stream.Send(numbered(n, length)) {
				w.Fatalf("message %d was dropped", n)
			}
		}
		pause(time.Second)
		if got := box.wantAscending(w); got != count {
			w.Errorf("%d messages, want %d", got, count)
		}
		for n, message := range box.messages {
			if n%100 == 99 && len(message) != 1<<20 || n%100 != 99 && len(message) != 4+n {
				w.Errorf("message %d has %d bytes", n, len(message))
			}
		}
		for _, caller := range box.callers {
			if caller != w.a.identity {
				w.Fatalf("from %v, want %v", caller, w.a.identity)
			}
		}
		status := stream.Status()
		if status.Sent != count || status.Dropped != 0 || status.Waiting != 0 || !status.Connected || status.Err != nil {
			w.Errorf("status %+v", status)
		}
		if w.toB.Stream("m") != stream {
			w.Error("two streams of one name")
		}
	})
}

func TestStreamsOverTCP(t *testing.T) {
	box := &mailbox{}
	r := newRealm(t)
	a := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	b := r.start(transport.TCP{}, "127.0.0.1:0", options{inlets: []transport.Inlet{box.inlet(trust.RolePeer)}})
	stream := a.to(b).Stream("m")
	const count = 200
	for n := range count {
		if !stream.Send(numbered(n, 100_000)) {
			t.Fatalf("message %d was dropped", n)
		}
	}
	expect.Soon(t, "all arrive", func() bool { return box.count() == count })
	box.wantAscending(t)
	if !stream.Send(numbered(count, transport.MaxFrame)) {
		t.Fatal("the longest message was dropped")
	}
	expect.Soon(t, "the longest arrives", func() bool { return box.count() == count+1 })
	if stream.Send(make([]byte, transport.MaxFrame+1)) {
		t.Error("a message beyond the longest was taken")
	}
}

// TestSendNeverWaits sends to who takes nothing: the queue fills, and the newest are dropped.
func TestSendNeverWaits(t *testing.T) {
	const queue = 1 << 20
	posted(t, options{peers: func(c *transport.PeersConfig) { c.Queue = queue }}, func(w *world, box *mailbox, stream *transport.Stream) {
		box.hold = make(chan struct{})
		var taken []int
		begin := time.Now()
		for n := range 5000 {
			if stream.Send(numbered(n, 1000)) {
				taken = append(taken, n)
			}
			if n%100 == 0 {
				pause(time.Millisecond)
			}
		}
		wantTook(w, begin, 50*time.Millisecond)
		status := stream.Status()
		if len(taken) < queue/1100 || len(taken) == 5000 || status.Waiting > queue || status.Dropped != uint64(5000-len(taken)) {
			w.Fatalf("%d taken, status %+v", len(taken), status)
		}
		close(box.hold)
		pause(time.Second)
		if got := box.wantAscending(w); got != len(taken) {
			w.Errorf("%d arrived of %d that were taken", got, len(taken))
		}
		for i, message := range box.messages {
			if int(binary.LittleEndian.Uint32(message)) != taken[i] {
				w.Fatalf("message %d is not the one that was taken", i)
			}
		}
	})
}

// TestAStreamComesBackAfterEveryFault breaks the connection in each way while messages flow: order stays, nothing comes
// twice, and messages flow again.
func TestAStreamComesBackAfterEveryFault(t *testing.T) {
	for name, hurt := range map[string]func(*transport.Simulation){
		"reset":     func(s *transport.Simulation) { s.Reset("a", "b") },
		"refused":   func(s *transport.Simulation) { s.Refuse("b"); s.Reset("a", "b") },
		"cut there": func(s *transport.Simulation) { s.Cut("a", "b") },
		"cut back":  func(s *transport.Simulation) { s.Cut("b", "a") },
		"partition": func(s *transport.Simulation) { s.Partition("b") },
		"pause":     func(s *transport.Simulation) { s.Pause("b") },
	} {
		t.Run(name, func(t *testing.T) {
			posted(t, options{}, func(w *world, box *mailbox, stream *transport.Stream) {
				next := 0
				send := func(seconds int) (taken int) {
					for range seconds * 100 {
						if stream.Send(numbered(next, 1000)) {
							taken++
						}
						next++
						pause(10 * time.Millisecond)
					}
					return taken
				}
				send(2)
				before := box.count()
				if before < 190 {
					w.Fatalf("only %d messages arrived before the fault", before)
				}
				hurt(w.net)
				send(30)
				w.net.Heal()
				send(10)
				pause(time.Second)
				arrived := box.count()
				if taken := send(2); taken != 200 {
					w.Errorf("%d of 200 messages were taken in the end", taken)
				}
				pause(time.Second)
				if box.count() != arrived+200 {
					w.Errorf("%d of 200 messages arrived in the end", box.count()-arrived)
				}
				got := box.wantAscending(w)
				status := stream.Status()
				if uint64(next) != status.Sent+status.Dropped {
					w.Errorf("%d messages, %+v", next, status)
				}
				if uint64(got) > status.Sent {
					w.Errorf("%d arrived of %d that were sent", got, status.Sent)
				}
				if name != "reset" && status.Dropped == 0 {
					w.Error("nothing was dropped in 30 s without a peer")
				}
			})
		})
	}
}

func TestAStreamIsOnlyForItsRoles(t *testing.T) {
	posted(t, options{roles: trust.RoleAdmin}, func(w *world, box *mailbox, stream *transport.Stream) {
		stream.Send(numbered(1, 10))
		pause(10 * time.Second)
		if box.count() != 0 {
			w.Error("an operator's message arrived")
		}
		wantErr(w, stream.Status().Err, trust.ErrWrongRole)
		if stream.Send(numbered(1, 10)) {
			w.Error("the next message was taken")
		}
		if w.b.trust.Refusals().Of(trust.ErrWrongRole) == 0 {
			w.Error("not counted")
		}
		other := w.toB.Stream("unheard-of")
		pause(time.Second)
		wantErr(w, other.Status().Err, trust.ErrWrongRole)
	})
}

// TestAStreamCannotBeCalled and a call cannot be a stream.
func TestAStreamCannotBeCalled(t *testing.T) {
	posted(t, options{}, func(w *world, box *mailbox, stream *transport.Stream) {
		for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
			request, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "https://peer/-/stream/m", nil)
			if err != nil {
				w.Fatal(err)
			}
			_, err = do(request)
			var remote *transport.RemoteError
			if !errors.As(err, &remote) {
				w.Errorf("%v", err)
			}
		}
	})
}

// dialStream opens a stream by hand, as a peer that means no good would.
func (w *world) dialStream() io.ReadWriteCloser {
	w.Helper()
	raw, err := w.net.Host("a").Dial(w.Context(), w.b.server.Addr())
	if err != nil {
		w.Fatal(err)
	}
	conn := tlsClient(raw, clientConfig(w.a.trust, w.b))
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		w.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /-/stream/m HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: holdfast-stream\r\n\r\n"); err != nil {
		w.Fatal(err)
	}
	response, err := http.ReadResponse(newReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		w.Fatalf("%v, %v", response, err)
	}
	return conn
}

func TestABadStreamIsCut(t *testing.T) {
	for name, sent := range map[string]string{
		"another format":     "HFMSGST2",
		"a damaged message":  "HFMSGST1\x01\x00\x00\x00\x00\x00\x00\x00x",
		"a message too long": "HFMSGST1\x01\x00\x00\x01\x00\x00\x00\x00x",
		"HTTP":               "GET / HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			posted(t, options{}, func(w *world, box *mailbox, _ *transport.Stream) {
				w.a.peers.Close()
				conn := w.dialStream()
				if _, err := io.WriteString(conn, sent); err != nil {
					w.Fatal(err)
				}
				begin := time.Now()
				if n, err := io.Copy(io.Discard, conn); n != 0 {
					w.Errorf("%d bytes, %v", n, err)
				}
				if took := time.Since(begin); took > 100*time.Millisecond {
					w.Errorf("cut after %v", took)
				}
				_ = conn.Close() // of what was cut
				if box.count() != 0 {
					w.Error("a message arrived")
				}
				if w.b.log.lines("a stream was cut") != 1 {
					w.Error("not logged")
				}
			})
		})
	}
}

func TestASilentStreamIsCut(t *testing.T) {
	posted(t, options{}, func(w *world, box *mailbox, _ *transport.Stream) {
		w.a.peers.Close()
		conn := w.dialStream()
		if _, err := io.WriteString(conn, "HFMSGST1"); err != nil {
			w.Fatal(err)
		}
		begin := time.Now()
		_, _ = io.Copy(io.Discard, conn) // it ends, by whatever error
		wantTook(w, begin, 10*time.Second)
		_ = conn.Close()
	})
}

// TestANewStreamTakesTheOldOnesPlace: and waits for its last message.
func TestANewStreamTakesTheOldOnesPlace(t *testing.T) {
	posted(t, options{}, func(w *world, box *mailbox, stream *transport.Stream) {
		box.hold = make(chan struct{})
		stream.Send(numbered(0, 10))
		pause(time.Second)
		w.net.Reset("a", "b")
		pause(time.Second)
		if !stream.Send(numbered(1, 10)) {
			w.Error("the stream is not connected again")
		}
		pause(time.Second)
		if in := box.in.Load(); in != 1 {
			w.Errorf("%d messages are being received", in)
		}
		close(box.hold)
		pause(time.Second)
		if got := box.wantAscending(w); got != 2 {
			w.Errorf("%d messages, want 2", got)
		}
		if lines := w.b.log.lines("a call crashed"); lines != 0 {
			w.Error("two messages of one caller at a time")
		}
	})
}

// TestTheNewestStreamTakesThePlace: of two that wait for the end of a third the later is the sender's, whichever of the
// two looks first.
func TestTheNewestStreamTakesThePlace(t *testing.T) {
	for range 100 {
		posted(t, options{}, func(w *world, box *mailbox, _ *transport.Stream) {
			w.a.peers.Close()
			box.hold = make(chan struct{})
			const streams = 3
			for n := range streams {
				conn := w.dialStream()
				defer func() { _ = conn.Close() }() // those before the last are cut
				if _, err := io.WriteString(conn, "HFMSGST1"+framed(numbered(n, 10))); err != nil && n == streams-1 {
					w.Error(err)
				}
				pause(time.Second)
			}
			if in := box.in.Load(); in != 1 {
				w.Errorf("%d messages are being received", in)
			}
			close(box.hold)
			pause(time.Second)
			box.wantAscending(w)
			if got := box.count(); got != 2 || binary.LittleEndian.Uint32(box.messages[1]) != streams-1 {
				w.Errorf("%d messages, not those of the first and the last stream", got)
			}
		})
	}
}

// TestMessagesAreBatched counts the writes that many messages need.
func TestMessagesAreBatched(t *testing.T) {
	box := &mailbox{}
	bubble(t, options{}, options{inlets: []transport.Inlet{box.inlet(trust.RolePeer)}}, func(w *world) {
		network := &writes{Network: w.net.Host("a")}
		peers, err := transport.NewPeers(transport.PeersConfig{Network: network, Trust: w.a.trust})
		if err != nil {
			w.Fatal(err)
		}
		defer peers.Close()
		w.a.peers.Close()
		w.a.peers = peers
		stream := w.a.to(w.b).Stream("m")
		stream.Send(numbered(0, 100))
		pause(1500 * time.Millisecond)
		before := network.count.Load()
		const count = 1000
		for n := range count {
			stream.Send(numbered(n+1, 100))
		}
		pause(10 * time.Millisecond)
		if box.wantAscending(w) != count+1 {
			w.Fatalf("%d messages", box.count())
		}
		// 108 KB are 7 records of TLS; the first messages may go before the others are there.
		if writes := network.count.Load() - before; writes > 30 {
			w.Errorf("%d writes for %d messages", writes, count)
		}
	})
}
