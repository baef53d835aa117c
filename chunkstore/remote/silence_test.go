package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
)

// wire lies between two ends of a connection. It takes up to room reads at once, as the buffers of a network do, and
// passes them on in steps.
type wire struct {
	room  int           // reads of up to 32 KiB that are taken before they are passed on
	step  int           // bytes passed on at a time, zero: all
	delay time.Duration // before each whole step
	// up and down are after how many bytes the direction stalls; negative: never.
	up, down int64
	stalled  atomic.Int64
	done     chan struct{}
	pumps    sync.WaitGroup
}

func newWire(t testing.TB) *wire {
	w := &wire{room: 4096, up: -1, down: -1, done: make(chan struct{})}
	t.Cleanup(func() {
		close(w.done)
		w.pumps.Wait()
	})
	return w
}

// wrap returns the server's end of a connection whose other end was c's.
func (w *wire) wrap(c net.Conn) net.Conn {
	near, far := net.Pipe()
	w.pump(c, near, w.up)
	w.pump(near, c, w.down)
	return far
}

// pump moves bytes until one of the ends is closed, or stalls to the end of the test.
func (w *wire) pump(source, target net.Conn, limit int64) {
	queue := make(chan []byte, w.room)
	w.pumps.Go(func() {
		defer close(queue)
		for {
			p := make([]byte, 32<<10)
			n, err := source.Read(p)
			if err != nil {
				return
			}
			select {
			case queue <- p[:n]:
			case <-w.done:
				return
			}
		}
	})
	w.pumps.Go(func() {
		moved, open := int64(0), true
		for p := range queue {
			for len(p) > 0 && open {
				n := len(p)
				if w.step > 0 {
					n = min(n, w.step)
				}
				if moved += int64(n); limit >= 0 && moved > limit {
					w.stalled.Add(1)
					<-w.done
					open = false
				}
				if w.step > 0 {
					time.Sleep(w.delay * time.Duration(n) / time.Duration(w.step))
				}
				if _, err := target.Write(p[:n]); err != nil {
					open = false
				}
				p = p[n:]
			}
		}
		_ = source.Close()
		_ = target.Close()
	})
}

// inBubble runs a test over pipes with HTTP/1.1 and HTTP/2 and a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, n network)) {
	for _, n := range pipesOnly() {
		t.Run(n.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, n) }) })
	}
}

const silence = 5 * time.Second

// wantDownAfterSilence fails unless the call ends with ErrDriveDown when nothing moved for silence.
func wantDownAfterSilence(t *testing.T, call func(context.Context) error) {
	t.Helper()
	begun := time.Now()
	err := call(t.Context())
	took := time.Since(begun)
	if !errors.Is(err, chunkstore.ErrDriveDown) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if took < silence || took > silence+time.Second {
		t.Errorf("it took %v: %v", took, err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun = time.Now()
	if err := call(short); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, chunkstore.ErrDriveDown) || time.Since(begun) != time.Second {
		t.Errorf("with a deadline of its own: %v after %v", err, time.Since(begun))
	}
}

func TestHungDriveAtThePeer(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		m := memory.New(driveID)
		l := n.newLink(t, serve(func() chunkstore.Drive { return m }), nil)
		d := l.drive(t)
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
		must(t, s.Put(t.Context(), d))
		defer m.Hang(memory.Any)()
		for _, call := range []func(context.Context) error{
			func(ctx context.Context) error { return s.Put(ctx, d) },
			func(ctx context.Context) error { _, err := s.Read(ctx, d); return err },
			func(ctx context.Context) error { _, err := d.Header(ctx, s.Header.Key); return err },
			func(ctx context.Context) error { return d.Delete(ctx, nil) },
			func(ctx context.Context) error { return d.Seal(ctx, 1, 1) },
			func(ctx context.Context) error { _, err := d.Shards(ctx, 1); return err },
			func(ctx context.Context) error { _, err := d.Volumes(ctx); return err },
			func(ctx context.Context) error { return d.Check(ctx, s.Header.Key) },
		} {
			wantDownAfterSilence(t, call)
		}
		// The peer itself answers, so what its drive says of itself is known.
		time.Sleep(2 * time.Second)
		if s := d.Status(); s.Down != nil {
			t.Errorf("status: %v", s.Down)
		}
	})
}

func TestHungPeer(t *testing.T) {
	for name, stall := range map[string]func(w *wire){
		"from the first byte": func(w *wire) { w.up = 0 },
		"in mid put":          func(w *wire) { w.up = 300 << 10 },
		"in mid answer":       func(w *wire) { w.down = 300 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n network) {
				m := memory.New(driveID)
				s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
				must(t, s.Put(t.Context(), m))
				w := newWire(t)
				stall(w)
				l := n.newLink(t, serve(func() chunkstore.Drive { return m }), w.wrap)
				d := l.drive(t)
				wantDownAfterSilence(t, func(ctx context.Context) error {
					if w.down >= 0 {
						_, err := s.Read(ctx, d)
						return err
					}
					return s.Put(ctx, d)
				})
				if w.stalled.Load() == 0 {
					t.Error("nothing stalled")
				}
			})
		})
	}
}

func TestPeerThatCannotBeDialled(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		l := n.newLink(t, http.NotFoundHandler(), nil)
		l.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		d := l.drive(t)
		wantDownAfterSilence(t, func(ctx context.Context) error { return d.Check(ctx, drivetest.Key(1, 1, 1)) })
	})
}

// TestSlowPeerIsWaitedFor: a link of 4 KiB a second, whose buffers take a whole shard at once, carries it both ways.
func TestSlowPeerIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		m := memory.New(driveID)
		w := newWire(t)
		w.step, w.delay = 4<<10, time.Second
		l := n.newLink(t, serve(func() chunkstore.Drive { return m }), w.wrap)
		d := l.drive(t)
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
		for name, call := range map[string]func() error{
			"put": func() error { return s.Put(t.Context(), d) },
			"read": func() error {
				must(t, s.Put(t.Context(), m))
				_, err := s.Read(t.Context(), d)
				return err
			},
		} {
			begun := time.Now()
			must(t, call())
			if took := time.Since(begun); took < 20*silence {
				t.Errorf("%s took %v: the link was not slow", name, took)
			}
		}
		drivetest.WantRead(t, m, s)
	})
}

// TestSilentCallersAreHungUp: callers that stop in the middle of a Put, or of taking an answer, lose what they hold at the
// peer, here all of its memory.
func TestSilentCallersAreHungUp(t *testing.T) {
	t.Run("Put", func(t *testing.T) {
		inBubble(t, func(t *testing.T, n network) {
			w := newWire(t)
			w.up = 300 << 10
			silentCaller(t, n, w, 0, func(ctx context.Context, s *drivetest.Shard, d chunkstore.Drive) error { return s.Put(ctx, d) })
		})
	})
	t.Run("Read", func(t *testing.T) {
		inBubble(t, func(t *testing.T, n network) {
			if n.http2 {
				t.Skip("calls on a stuck HTTP/2 connection wait on mutexes, which holds the clock of a bubble")
			}
			w := newWire(t)
			w.room, w.down = 1, 300<<10
			// For 5 s TLS tries to tell the caller that it closes.
			silentCaller(t, n, w, 5*time.Second, func(ctx context.Context, s *drivetest.Shard, d chunkstore.Drive) error {
				_, err := s.Read(ctx, d)
				return err
			})
		})
	})
}

// silentCaller makes a call over a wire that stalls, by a caller that would wait for ever, and one over another that
// waits for the memory of the first, for silence at most, once that was silent for a while.
func silentCaller(t *testing.T, n network, w *wire, while time.Duration,
	call func(context.Context, *drivetest.Shard, chunkstore.Drive) error) {
	m := memory.New(driveID)
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
	must(t, s.Put(t.Context(), m))
	h := remote.Handler(func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID },
		remote.HandlerOptions{Cluster: here, Memory: 1, Silence: silence})
	patient := func(o *remote.Options) { o.Silence = time.Hour }
	healthy := n.newLink(t, h, nil).drive(t, patient)
	silent := n.newLink(t, h, w.wrap).drive(t, patient)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- call(ctx, s, silent) }()
	synctest.Wait()
	if w.stalled.Load() == 0 {
		t.Error("nothing stalled")
	}
	time.Sleep(time.Second + while)
	if err := s.Put(t.Context(), healthy); err != nil {
		t.Errorf("memory is held by a caller that is silent: %v", err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the call over the wire that stalls succeeded")
	}
}

// TestPeerWithoutMemoryRefuses: a call that finds no room at the peer is told so in time.
func TestPeerWithoutMemoryRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		m := memory.New(driveID)
		h := remote.Handler(func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID },
			remote.HandlerOptions{Cluster: here, Memory: 1, Silence: silence})
		d := n.newLink(t, h, nil).drive(t, func(o *remote.Options) { o.Silence = time.Minute })
		release := m.Hang(memory.OpPut)
		first := make(chan error, 1)
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
		go func() { first <- s.Put(t.Context(), d) }()
		synctest.Wait()
		begun := time.Now()
		wantIs(t, drivetest.NewShard(drivetest.Key(1, 2, 0), 1, chunkstore.MaxChunk).Put(t.Context(), d), chunkstore.ErrDriveDown)
		if took := time.Since(begun); took < silence || took > silence+time.Second {
			t.Errorf("it took %v", took)
		}
		release()
		must(t, <-first)
		must(t, s.Put(t.Context(), d))
	})
}

func TestStatusFollowsThePeer(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		m := memory.New(driveID)
		m.SetPlace("d7", 2049)
		w := newWire(t)
		l := n.newLink(t, serve(func() chunkstore.Drive { return m }), w.wrap)
		d := l.drive(t)
		if s := d.Status(); !errors.Is(s.Down, chunkstore.ErrDriveDown) || s.ID != driveID {
			t.Errorf("before the first answer: %+v", s)
		}
		if _, ever := d.Age(); ever {
			t.Error("it was heard of already")
		}
		synctest.Wait()
		if s := d.Status(); s.Down != nil || s.Name != "d7" || s.Total != 1<<40 || s.Device == 2049 || s.Device == 0 {
			t.Errorf("status: %+v", s)
		}
		other := l.drive(t, func(o *remote.Options) { o.Peer[0]++ })
		synctest.Wait()
		if other.Status().Device == d.Status().Device {
			t.Error("devices of two peers are taken for one")
		}
		must(t, m.Delete(t.Context(), nil))
		m.Down(io.ErrNoProgress)
		m.SetFull(true)
		time.Sleep(1100 * time.Millisecond)
		if s := d.Status(); !errors.Is(s.Down, chunkstore.ErrDriveDown) || !s.Full {
			t.Errorf("status of a drive that is down: %+v", s)
		}
		m.Return()
		time.Sleep(1100 * time.Millisecond)
		if s := d.Status(); s.Down != nil {
			t.Errorf("status of a drive that returned: %+v", s)
		}
		if age, ever := d.Age(); !ever || age > time.Second {
			t.Errorf("age is %v", age)
		}
		l.close()
		time.Sleep(1100 * time.Millisecond)
		if s := d.Status(); !errors.Is(s.Down, chunkstore.ErrDriveDown) || s.Name != "d7" {
			t.Errorf("status of a peer that is gone: %+v", s)
		}
	})
}

// TestStaleStatusIsDown: a peer from which nothing is heard any more counts as down before its silence ends a call.
func TestStaleStatusIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, n network) {
		m := memory.New(driveID)
		var hung atomic.Bool
		release := make(chan struct{})
		inner := serve(func() chunkstore.Drive { return m })
		l := n.newLink(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hung.Load() {
				<-release
			}
			inner.ServeHTTP(w, r)
		}), nil)
		defer close(release)
		d := l.drive(t, func(o *remote.Options) { o.Stale, o.Silence = 3*time.Second, time.Hour })
		synctest.Wait()
		hung.Store(true)
		for range 40 {
			time.Sleep(100 * time.Millisecond)
			age, _ := d.Age()
			if down := d.Status().Down != nil; down != (age > 3*time.Second) {
				t.Fatalf("at the age of %v down is %v", age, down)
			}
		}
		if d.Status().Down == nil {
			t.Fatal("it never went stale")
		}
	})
}
