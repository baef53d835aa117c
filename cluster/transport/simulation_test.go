package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// wire is one connection from a to b in a bubble.
type wire struct {
	*testing.T
	net       *transport.Simulation
	listener  net.Listener
	near, far net.Conn
}

func wired(t *testing.T, shape transport.Shape, body func(w *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := transport.NewSimulation(1)
		s.Shape("", "", shape)
		listener, err := s.Host("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{T: t, net: s, listener: listener}
		w.near = w.dial(t.Context())
		if w.far, err = listener.Accept(); err != nil {
			t.Fatal(err)
		}
		body(w)
		for _, closer := range []io.Closer{w.near, w.far, listener} {
			_ = closer.Close() // some are closed already
		}
	})
}

func (w *wire) dial(ctx context.Context) net.Conn {
	w.Helper()
	conn, err := w.net.Host("a").Dial(ctx, "b:1")
	if err != nil {
		w.Fatal(err)
	}
	return conn
}

func (w *wire) send(conn net.Conn, text string) {
	w.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		w.Fatal(err)
	}
}

// wantRead reads what is there within a second.
func (w *wire) wantRead(conn net.Conn, want string) {
	w.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		w.Fatal(err)
	}
	got := make([]byte, len(want)+1)
	n, err := io.ReadAtLeast(conn, got, len(want)+1)
	if string(got[:n]) != want || !errors.Is(err, os.ErrDeadlineExceeded) {
		w.Fatalf("read %q, %v, want %q and no more", got[:n], err, want)
	}
}

func TestACutPathHangsAndHeals(t *testing.T) {
	wired(t, transport.Shape{Latency: time.Millisecond}, func(w *wire) {
		w.send(w.near, "before ")
		pause(time.Second)
		w.send(w.near, "under way ")
		w.net.Cut("a", "b")
		w.send(w.near, "after")
		w.wantRead(w.far, "before ") // what had arrived is there, and nothing else
		w.send(w.far, "the other direction")
		w.wantRead(w.near, "the other direction")
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := w.net.Host("a").Dial(ctx, "b:1")
		wantErr(w, err, context.DeadlineExceeded)
		wantTook(w, begin, time.Minute)
		w.net.Heal()
		w.wantRead(w.far, "under way after")
	})
}

func TestACloseDuringACutIsNotHeardOf(t *testing.T) {
	wired(t, transport.Shape{}, func(w *wire) {
		w.net.Cut("a", "b")
		if err := w.near.Close(); err != nil {
			w.Fatal(err)
		}
		w.wantRead(w.far, "")
		w.net.Heal()
		if err := w.far.SetReadDeadline(time.Time{}); err != nil {
			w.Fatal(err)
		}
		if _, err := w.far.Read(make([]byte, 1)); err != io.EOF {
			w.Errorf("after the cut: %v", err)
		}
	})
}

func TestWritersHangWhenNobodyAcknowledges(t *testing.T) {
	wired(t, transport.Shape{}, func(w *wire) {
		w.net.Cut("b", "a") // bytes arrive, their acknowledgements do not
		if err := w.near.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			w.Fatal(err)
		}
		var reading group
		reading.start(func() error {
			_, err := io.CopyN(io.Discard, w.far, 256<<10)
			return err
		})
		n, err := w.near.Write(make([]byte, 1<<20))
		if n != 256<<10 || !errors.Is(err, os.ErrDeadlineExceeded) {
			w.Errorf("wrote %d, %v", n, err)
		}
		wantErr(w, errors.Join(reading.wait()...), nil)
		w.net.Heal()
		if err := w.near.SetWriteDeadline(time.Time{}); err != nil {
			w.Fatal(err)
		}
		w.send(w.near, strings.Repeat("x", 256<<10))
	})
}

func TestAHostWithoutPowerLeavesHalfOpenConnections(t *testing.T) {
	wired(t, transport.Shape{}, func(w *wire) {
		w.net.PowerOff("b")
		_, err := w.far.Read(make([]byte, 1))
		wantErr(w, err, syscall.ECONNRESET)
		_, err = w.listener.Accept()
		wantErr(w, err, net.ErrClosed)
		w.wantRead(w.near, "")
		w.send(w.near, "into the void")
		w.net.Heal()
		w.wantRead(w.near, "") // half open: nobody tells
		_, err = w.near.Write([]byte("x"))
		wantErr(w, err, syscall.ECONNRESET)
		_, err = w.net.Host("a").Dial(w.Context(), "b:1")
		wantErr(w, err, syscall.ECONNREFUSED)
	})
}

func TestAPausedHostTakesConnectionsAndNothingElse(t *testing.T) {
	wired(t, transport.Shape{}, func(w *wire) {
		w.net.Pause("b")
		w.send(w.near, "hello")
		second := w.dial(w.Context())
		w.wantRead(w.far, "")
		if err := w.far.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			w.Fatal(err)
		}
		_, err := w.far.Write([]byte("x"))
		wantErr(w, err, os.ErrDeadlineExceeded)
		var accepting group
		accepted := time.Time{}
		accepting.start(func() error {
			conn, err := w.listener.Accept()
			accepted = time.Now()
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		pause(time.Minute)
		healed := time.Now()
		w.net.Heal()
		wantErr(w, errors.Join(accepting.wait()...), nil)
		if accepted.Before(healed) {
			w.Error("a paused host accepted")
		}
		w.wantRead(w.far, "hello")
		if err := second.Close(); err != nil {
			w.Error(err)
		}
	})
}

func TestAResetAndARefusalAreTold(t *testing.T) {
	wired(t, transport.Shape{}, func(w *wire) {
		w.send(w.near, "lost")
		if count := w.net.Reset("b", "a"); count != 1 {
			w.Errorf("%d connections were reset, want 1", count)
		}
		for _, conn := range []net.Conn{w.near, w.far} {
			_, err := conn.Read(make([]byte, 1))
			wantErr(w, err, syscall.ECONNRESET)
			_, err = conn.Write([]byte("x"))
			wantErr(w, err, syscall.ECONNRESET)
		}
		w.net.Refuse("b")
		_, err := w.net.Host("a").Dial(w.Context(), "b:1")
		wantErr(w, err, syscall.ECONNREFUSED)
		w.net.Heal()
		if err := w.dial(w.Context()).Close(); err != nil {
			w.Error(err)
		}
	})
}

func TestAPathHasItsShape(t *testing.T) {
	wired(t, transport.Shape{Latency: 10 * time.Millisecond, Bandwidth: 1 << 20}, func(w *wire) {
		begin := time.Now()
		w.send(w.near, "x")
		if _, err := io.ReadFull(w.far, make([]byte, 1)); err != nil {
			w.Fatal(err)
		}
		wantTook(w, begin, 10*time.Millisecond)
		begin = time.Now()
		var sending group
		sending.start(func() error {
			_, err := w.near.Write(make([]byte, 4<<20))
			return err
		})
		if _, err := io.CopyN(io.Discard, w.far, 4<<20); err != nil {
			w.Fatal(err)
		}
		wantErr(w, errors.Join(sending.wait()...), nil)
		wantTook(w, begin, 4*time.Second)
	})
	wired(t, transport.Shape{ResetAfter: 1 << 20}, func(w *wire) {
		sent := 0
		var reading group
		reading.start(func() error {
			_, err := io.Copy(io.Discard, w.far)
			return err
		})
		for {
			n, err := w.near.Write(make([]byte, 1000))
			sent += n
			if err != nil {
				wantErr(w, err, syscall.ECONNRESET)
				break
			}
		}
		wantErr(w, errors.Join(reading.wait()...), syscall.ECONNRESET)
		if sent == 0 || sent > 20<<20 {
			w.Errorf("broken after %d bytes", sent)
		}
	})
}

// TestTheSeedDecides: the same seed shakes the same way, and in time every way comes.
func TestTheSeedDecides(t *testing.T) {
	shake := func(seed uint64) (said []string) {
		s := transport.NewSimulation(seed)
		for _, name := range []string{"a", "b", "c"} {
			s.Host(name)
		}
		for range 200 {
			said = append(said, s.Shake())
		}
		return said
	}
	if !slices.Equal(shake(7), shake(7)) {
		t.Error("the same seed shook in two ways")
	}
	if slices.Equal(shake(7), shake(8)) {
		t.Error("two seeds shook in one way")
	}
	all := strings.Join(shake(7), "\n")
	for _, what := range []string{"cut", "partition", "reset", "refuses", "pause", "heal"} {
		if !strings.Contains(all, what) {
			t.Errorf("200 shakes without %q", what)
		}
	}
}

// TestPeersRideOutAShakenNetwork makes calls, bodies and messages while the network is shaken by a seed. Whatever
// happens nothing hangs and nothing comes twice or out of order; in the end all is well.
func TestPeersRideOutAShakenNetwork(t *testing.T) {
	for seed := range uint64(3) {
		box := &mailbox{}
		far := options{routes: bodies(nil), inlets: []transport.Inlet{box.inlet(trust.RolePeer)}}
		bubbleSeeded(t, seed, options{}, far, func(w *world) {
			stream := w.toB.Stream("m")
			var calls group
			failed := 0
			for step := range 150 {
				w.net.Shake()
				for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
					calls.start(func() error {
						answer, err := post(w.Context(), do, "/echo", strings.NewReader(strings.Repeat("x", 100_000)))
						if err == nil && len(answer) != 100_000 {
							w.Errorf("an answer of %d bytes", len(answer))
						}
						return err
					})
				}
				stream.Send(numbered(step, 10_000))
				pause(500 * time.Millisecond)
			}
			w.net.Heal()
			for _, err := range calls.wait() {
				if err != nil {
					failed++
				}
				if err != nil && !errors.Is(err, transport.ErrBroken) && !errors.Is(err, transport.ErrStalled) && !errors.Is(err, transport.ErrUnreachable) {
					w.Errorf("seed %d: an error of no kind: %v", seed, err)
				}
			}
			if failed == 0 || failed == 300 {
				w.Errorf("seed %d: %d of 300 calls failed", seed, failed)
			}
			pause(10 * time.Second)
			for _, do := range []doer{w.toB.Do, w.toB.Transfer} {
				if _, err := post(w.Context(), do, "/echo", nil); err != nil {
					w.Errorf("seed %d, in the end: %v", seed, err)
				}
			}
			if !stream.Send(numbered(150, 10)) {
				w.Errorf("seed %d: the stream is not back: %+v", seed, stream.Status())
			}
			pause(time.Second)
			if got := box.wantAscending(w); got < 10 || got > 151 {
				w.Errorf("seed %d: %d messages", seed, got)
			}
		})
	}
}
