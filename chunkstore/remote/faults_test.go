package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/tests/expect"
)

// breaking is the server's end of connections that break after a number of bytes, while on is set.
type breaking struct {
	on          atomic.Bool
	read, write int64 // bytes after which a connection breaks; zero: never
	broken      atomic.Int64
}

func (b *breaking) wrap(c net.Conn) net.Conn { return &breakingConn{Conn: c, rule: b} }

type breakingConn struct {
	net.Conn
	rule     *breaking
	in, out  atomic.Int64
	breaking sync.Once
}

func (c *breakingConn) count(sum *atomic.Int64, n int, limit int64) {
	if sum.Add(int64(n)) > limit && limit > 0 && c.rule.on.Load() {
		c.breaking.Do(func() {
			c.rule.broken.Add(1)
			_ = c.Close()
		})
	}
}

func (c *breakingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.count(&c.in, n, c.rule.read)
	return n, err
}

func (c *breakingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), 16<<10)])
	c.count(&c.out, n, c.rule.write)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := c.Write(p[n:])
	return n + m, err
}

func pipesOnly() []network { return []network{networks[2], networks[3]} }

func TestServerKilledInMidPut(t *testing.T) {
	for _, n := range pipesOnly() {
		t.Run(n.name, func(t *testing.T) {
			m := memory.New(driveID)
			rule := &breaking{read: 300 << 10}
			rule.on.Store(true)
			l := n.newLink(t, serve(func() chunkstore.Drive { return m }), rule.wrap)
			d := l.drive(t)
			s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
			wantIs(t, s.Put(t.Context(), d), chunkstore.ErrDriveDown)
			if rule.broken.Load() == 0 {
				t.Fatal("no connection broke")
			}
			if m.Calls(memory.OpPut) != 0 {
				t.Fatal("a shard that did not arrive whole reached the drive")
			}
			rule.on.Store(false)
			must(t, s.Put(t.Context(), d))
			drivetest.WantRead(t, d, s)
		})
	}
}

func TestServerKilledInMidRead(t *testing.T) {
	for _, n := range pipesOnly() {
		t.Run(n.name, func(t *testing.T) {
			m := memory.New(driveID)
			rule := &breaking{write: 300 << 10}
			l := n.newLink(t, serve(func() chunkstore.Drive { return m }), rule.wrap)
			d := l.drive(t)
			s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
			must(t, s.Put(t.Context(), d))
			rule.on.Store(true)
			_, err := s.Read(t.Context(), d)
			wantIs(t, err, chunkstore.ErrDriveDown)
			if rule.broken.Load() == 0 {
				t.Fatal("no connection broke")
			}
			rule.on.Store(false)
			drivetest.WantRead(t, d, s)
		})
	}
}

// afterPut is a drive that does something between a durable Put and its answer.
type afterPut struct {
	chunkstore.Drive
	do func()
}

func (a afterPut) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	err := a.Drive.Put(ctx, h, cells)
	a.do()
	return err
}

// TestLostAnswerOfADurablePut: the caller is told that it does not know, finds the shard there, and may put it again.
func TestLostAnswerOfADurablePut(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			m := memory.New(driveID)
			var l *link
			var cut atomic.Bool
			var cuts atomic.Int64
			cut.Store(true)
			l = n.newLink(t, serve(func() chunkstore.Drive {
				return afterPut{m, func() {
					if cut.Load() {
						cuts.Add(1)
						l.server.CloseClientConnections()
					}
				}}
			}), nil)
			d := l.drive(t)
			s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
			wantIs(t, s.Put(t.Context(), d), chunkstore.ErrDriveDown)
			if cuts.Load() == 0 {
				t.Fatal("no answer was lost")
			}
			cut.Store(false)
			// A connection that was being made may have been cut too.
			expect.Soon(t, "the peer answers", func() bool { return d.Check(t.Context(), s.Header.Key) == nil })
			drivetest.WantRead(t, d, s)
			must(t, s.Put(t.Context(), d))
			list, err := d.Shards(t.Context(), 1)
			if err != nil || len(list) != 1 {
				t.Fatalf("shards %v: %v", list, err)
			}
		})
	}
}

// TestLatePutDoesNotUndoADelete: a Put that the caller gave up is still under way at the peer when the shard is deleted
// and its volume sealed. It comes to nothing.
func TestLatePutDoesNotUndoADelete(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			m := memory.New(driveID)
			l := n.newLink(t, serve(func() chunkstore.Drive { return m }), nil)
			d := l.drive(t)
			deleted := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
			sealed := drivetest.NewShard(drivetest.Key(2, 1, 0), 1, 1<<20)
			release := m.Hang(memory.OpPut)
			defer release()
			ctx, cancel := context.WithCancel(t.Context())
			var puts sync.WaitGroup
			for _, s := range []*drivetest.Shard{deleted, sealed} {
				puts.Go(func() {
					if err := s.Put(ctx, d); !errors.Is(err, context.Canceled) {
						t.Errorf("put: %v", err)
					}
				})
			}
			expect.Soon(t, "both puts are at the drive", func() bool { return m.Fired(memory.OpPut) == 2 })
			cancel()
			puts.Wait()
			must(t, d.Delete(t.Context(), []chunkstore.ShardKey{deleted.Header.Key}))
			must(t, d.Seal(t.Context(), 2, 2))
			release()
			l.close() // waits for the calls that are served
			if n := m.Status().Shards; n != 0 {
				t.Fatalf("%d shards came back", n)
			}
		})
	}
}

// tamper changes the answers of a peer, whole, on their way.
type tamper struct {
	inner http.RoundTripper
	mu    sync.Mutex
	edit  func([]byte) []byte
}

func (r *tamper) RoundTrip(q *http.Request) (*http.Response, error) {
	a, err := r.inner.RoundTrip(q)
	r.mu.Lock()
	edit := r.edit
	r.mu.Unlock()
	if err != nil || edit == nil || q.URL.Path == remote.Prefix+"status" {
		return a, err
	}
	b, err := io.ReadAll(a.Body)
	if e := a.Body.Close(); err != nil || e != nil {
		return nil, errors.Join(err, e)
	}
	a.Body = io.NopCloser(bytes.NewReader(edit(b)))
	return a, nil
}

func (r *tamper) set(edit func([]byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.edit = edit
}

// newTamper returns a drive whose answers go through a tamper. It has no status calls of its own to be hit by it.
func newTamper(t *testing.T, m chunkstore.Drive) (*remote.Drive, *tamper) {
	l := networks[0].newLink(t, serve(func() chunkstore.Drive { return m }), nil)
	r := &tamper{inner: l.client.Transport}
	l.client.Transport = r
	d := l.drive(t)
	t.Cleanup(func() { r.inner.(*http.Transport).CloseIdleConnections() })
	return d, r
}

// TestEveryFlippedBitOfAnAnswer flips a bit in each byte of an answer and cuts it off there. Nothing of it is taken for
// true, and no answer that was only cut off or garbled on the way makes a shard count as damaged but the one whose
// payload was.
func TestEveryFlippedBitOfAnAnswer(t *testing.T) {
	m := memory.New(driveID)
	d, r := newTamper(t, m)
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1000)
	must(t, s.Put(t.Context(), d))
	calls := map[string]func() error{
		"read": func() error {
			got, err := s.Read(t.Context(), d)
			if err == nil && !bytes.Equal(got, s.Payload) {
				t.Fatal("wrong bytes")
			}
			return err
		},
		"header": func() error { _, err := d.Header(t.Context(), s.Header.Key); return err },
		"shards": func() error { _, err := d.Shards(t.Context(), 1); return err },
		"delete": func() error { return d.Delete(t.Context(), nil) },
		"check":  func() error { return d.Check(t.Context(), drivetest.Key(9, 9, 9)) },
	}
	for name, call := range calls {
		length := 0
		r.set(func(b []byte) []byte { length = len(b); return b })
		honest := call()
		if length == 0 || (honest != nil) != (name == "check") {
			t.Fatalf("%s: answer of %d bytes: %v", name, length, honest)
		}
		step := 1
		if length > 1000 {
			step = 7
		}
		for at := 0; at < length; at += step {
			r.set(func(b []byte) []byte { b[at] ^= 1 << (at % 8); return b })
			err := call()
			inPayload := name == "read" && at >= length-len(s.Payload)
			if inPayload != errors.Is(err, chunkstore.ErrDamaged) || inPayload == errors.Is(err, chunkstore.ErrDriveDown) {
				t.Fatalf("%s: byte %d of %d flipped: %v", name, at, length, err)
			}
			r.set(func(b []byte) []byte { return b[:at] })
			wantIs(t, call(), chunkstore.ErrDriveDown)
		}
		r.set(nil)
	}
}

// garble flips a bit of the requests of a Put.
type garble struct {
	inner http.RoundTripper
	at    int // of the whole request
}

func (g *garble) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Path == remote.Prefix+"put" {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			return nil, err
		}
		b[g.at] ^= 1
		q.Body = io.NopCloser(bytes.NewReader(b))
	}
	return g.inner.RoundTrip(q)
}

// TestGarbledPutsDoNotReachTheDrive: what arrives is verified before the drive sees it.
func TestGarbledPutsDoNotReachTheDrive(t *testing.T) {
	for _, n := range networks[:2] {
		m := memory.New(driveID)
		l := n.newLink(t, serve(func() chunkstore.Drive { return m }), nil)
		g := &garble{inner: l.client.Transport}
		l.client.Transport = g
		t.Cleanup(g.inner.(*http.Transport).CloseIdleConnections)
		d := l.drive(t)
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
		for at, want := range map[int]error{
			3: chunkstore.ErrDriveDown, 30: chunkstore.ErrDriveDown, 400: chunkstore.ErrDriveDown,
			5000: chunkstore.ErrDamaged, 600_000: chunkstore.ErrDamaged, 1 << 20: chunkstore.ErrDamaged,
		} {
			g.at = at
			if err := s.Put(t.Context(), d); !errors.Is(err, want) {
				t.Errorf("%s: byte %d flipped: %v, want %v", n.name, at, err, want)
			}
		}
		if m.Calls(memory.OpPut) > 0 {
			t.Errorf("%s: a garbled shard reached the drive", n.name)
		}
	}
}

func TestForeignPeersAreRefused(t *testing.T) {
	m := memory.New(driveID)
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
	must(t, s.Put(t.Context(), m))
	drives := func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID }
	var elsewhere atomic.Int64
	for name, c := range map[string]struct {
		handler http.Handler
		want    error
	}{
		"another cluster": {remote.Handler(drives, remote.HandlerOptions{Cluster: cluster.ClusterID{9}}), remote.ErrForeign},
		"another drive": {remote.Handler(func(cluster.DriveID) (chunkstore.Drive, bool) { return nil, false },
			remote.HandlerOptions{Cluster: here}), remote.ErrForeign},
		"another server": {http.NotFoundHandler(), remote.ErrProtocol},
		"a page": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, err := io.WriteString(w, "welcome"); err != nil {
				t.Error(err)
			}
		}), remote.ErrProtocol},
		"a redirect": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				elsewhere.Add(1)
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}), remote.ErrProtocol},
	} {
		for _, n := range networks[:2] {
			t.Run(name+n.name, func(t *testing.T) {
				l := n.newLink(t, c.handler, nil)
				d := l.drive(t)
				key := s.Header.Key
				_, readErr := s.Read(t.Context(), d)
				_, listErr := d.Shards(t.Context(), 1)
				for call, err := range map[string]error{
					"put": s.Put(t.Context(), d), "read": readErr, "list": listErr, "check": d.Check(t.Context(), key),
					"delete": d.Delete(t.Context(), []chunkstore.ShardKey{key}), "seal": d.Seal(t.Context(), 1, 9),
				} {
					if !errors.Is(err, chunkstore.ErrDriveDown) || !errors.Is(err, c.want) || errors.Is(err, chunkstore.ErrNotFound) {
						t.Errorf("%s: %v", call, err)
					}
				}
				expect.Soon(t, "the status tells why", func() bool { return errors.Is(d.Status().Down, c.want) })
			})
		}
	}
	if elsewhere.Load() > 0 {
		t.Error("a redirect was followed")
	}
	drivetest.WantRead(t, m, s)
}

func TestUnreachablePeerTellsTheCause(t *testing.T) {
	l := networks[0].newLink(t, http.NotFoundHandler(), nil)
	d := l.drive(t)
	l.close()
	err := d.Check(t.Context(), drivetest.Key(1, 1, 1))
	var cause *net.OpError
	if !errors.Is(err, chunkstore.ErrDriveDown) || !errors.As(err, &cause) {
		t.Fatalf("error is %v", err)
	}
}

// TestStaleConnectionsLoseNoCall: a server may close an idle connection in the moment in which the next call takes it.
// The call is made again on another one.
func TestStaleConnectionsLoseNoCall(t *testing.T) {
	m := memory.New(driveID)
	inner := serve(func() chunkstore.Drive { return m })
	var mu sync.Mutex
	used, closed := map[string]bool{}, 0
	l := networks[0].newLink(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		stale := used[r.RemoteAddr] && r.URL.Path != remote.Prefix+"status"
		used[r.RemoteAddr] = true
		mu.Unlock()
		if !stale {
			inner.ServeHTTP(w, r)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			err = conn.Close()
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		closed++
		mu.Unlock()
	}), nil)
	d := l.drive(t)
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
	for range 20 {
		must(t, s.Put(t.Context(), d))
		drivetest.WantRead(t, d, s)
	}
	if mu.Lock(); closed == 0 {
		t.Error("no connection was stale")
	}
	mu.Unlock()
}

// TestConnectionsAreUsedAgain: calls one after the other share a connection, whatever their answers look like.
func TestConnectionsAreUsedAgain(t *testing.T) {
	m := memory.New(driveID)
	inner := serve(func() chunkstore.Drive { return m })
	var used sync.Map
	l := networks[0].newLink(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		used.Store(r.RemoteAddr, true)
		inner.ServeHTTP(w, r)
	}), nil)
	d := l.drive(t)
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
	for range 20 {
		must(t, s.Put(t.Context(), d))
		drivetest.WantRead(t, d, s)
		wantIs(t, d.Check(t.Context(), drivetest.Key(1, 2, 0)), chunkstore.ErrNotFound)
		if _, err := d.Shards(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	count := 0
	used.Range(func(any, any) bool { count++; return true })
	if count > 4 { // the status is asked for beside
		t.Errorf("%d connections for calls one after the other", count)
	}
}

func TestDeleteGoesInBoundedPieces(t *testing.T) {
	m := memory.New(driveID)
	l := networks[1].newLink(t, serve(func() chunkstore.Drive { return m }), nil)
	d := l.drive(t)
	var keys []chunkstore.ShardKey
	for i := range uint32(2500) {
		keys = append(keys, drivetest.Key(1, i, 0))
	}
	must(t, d.Delete(t.Context(), keys))
	if n := m.Calls(memory.OpDelete); n != 3 {
		t.Fatalf("%d calls for %d shards", n, len(keys))
	}
	for _, at := range []uint32{0, 1023, 1024, 2499} {
		wantIs(t, drivetest.NewShard(drivetest.Key(1, at, 0), 1, 1).Put(t.Context(), d), chunkstore.ErrDeleted)
	}
	must(t, drivetest.NewShard(drivetest.Key(1, 2500, 0), 1, 1).Put(t.Context(), d))
}

func TestLongListsComeWhole(t *testing.T) {
	m := memory.New(driveID)
	l := networks[0].newLink(t, serve(func() chunkstore.Drive { return m }), nil)
	d := l.drive(t)
	for i := range uint32(2500) {
		must(t, drivetest.NewShard(drivetest.Key(chunkstore.VolumeID(1+i%2*i), i, 0), 1, 1).Put(t.Context(), m))
	}
	want, err := m.Shards(t.Context(), 1)
	must(t, err)
	got, err := d.Shards(t.Context(), 1)
	must(t, err)
	if len(got) != 1250 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%d shards, want %d", len(got), len(want))
	}
	volumes, err := m.Volumes(t.Context())
	must(t, err)
	gotVolumes, err := d.Volumes(t.Context())
	must(t, err)
	if len(gotVolumes) < 1024 || fmt.Sprint(gotVolumes) != fmt.Sprint(volumes) {
		t.Fatalf("%d volumes, want %d", len(gotVolumes), len(volumes))
	}
}
