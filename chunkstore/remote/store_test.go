package remote_test

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
)

// trouble is what befalls connections with a peer, those that are there and new ones, until it is set to another one.
type trouble int

const (
	well    trouble = iota
	mute            // bytes stop on their way to the peer
	trickle         // they come by at trickleRate
	cut             // connections break after cutAfter bytes
	dead            // connections break at once
)

const (
	trickleStep  = 512
	trickleEvery = 100 * time.Millisecond
	cutAfter     = 8 << 10
)

// way is the way to a peer that has trouble.
type way struct {
	mu      sync.Mutex
	now     trouble
	changed chan struct{} // closed when now changes
	met     int           // reads that had trouble
}

func newWay() *way { return &way{changed: make(chan struct{})} }

func (w *way) set(now trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.met = now, 0
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *way) look() (trouble, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now != well {
		w.met++
	}
	return w.now, w.changed
}

func (w *way) troubled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.met
}

func (w *way) wrap(c net.Conn) net.Conn {
	return &wayConn{Conn: c, way: w, closed: make(chan struct{})}
}

// wayConn is the server's end of a connection. One goroutine reads it at a time.
type wayConn struct {
	net.Conn
	way    *way
	came   int // bytes while the way cuts
	once   sync.Once
	closed chan struct{}
}

func (c *wayConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *wayConn) Read(p []byte) (int, error) {
	for {
		now, changed := c.way.look()
		switch now {
		case well:
			n, err := c.Conn.Read(p)
			if now, _ := c.way.look(); now == dead || now == cut && c.count(n) {
				return 0, c.Close()
			}
			return n, err
		case trickle:
			if !c.wait(changed, trickleEvery) {
				return 0, net.ErrClosed
			}
			return c.Conn.Read(p[:min(len(p), trickleStep)])
		case mute:
			if !c.wait(changed, 0) {
				return 0, net.ErrClosed
			}
		case cut:
			n, err := c.Conn.Read(p[:min(len(p), cutAfter)])
			if c.count(n) {
				_ = c.Close()
				return 0, net.ErrClosed
			}
			return n, err
		case dead:
			_ = c.Close()
			return 0, net.ErrClosed
		}
	}
}

func (c *wayConn) count(n int) bool {
	c.came += n
	return c.came > cutAfter
}

// wait waits until the way changes, or for so long if that is not zero. False: the connection was closed.
func (c *wayConn) wait(changed <-chan struct{}, most time.Duration) bool {
	var over <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-changed:
	case <-over:
	case <-c.closed:
		return false
	}
	return true
}

// mixed is a Store over ten drives here and two of another peer.
type mixed struct {
	*storetest.Kit
	way  *way
	far  []*memory.Drive // at the peer
	link *link
}

func newMixed(t *testing.T, n network) *mixed {
	m := &mixed{Kit: storetest.New(t, 12, func(c *chunkstore.Config) { c.PutDeadline, c.ReadDeadline = 0, 0 }), way: newWay()}
	m.far = m.Drives[10:]
	find := func(id cluster.DriveID) (chunkstore.Drive, bool) {
		for _, d := range m.far {
			if d.ID() == id {
				return d, true
			}
		}
		return nil, false
	}
	m.link = n.newLink(t, remote.Handler(find, remote.HandlerOptions{Cluster: here}), m.way.wrap)
	for _, d := range m.far {
		m.Set.Remove(d.ID())
		r := remote.New(m.link.client, m.link.server.URL, d.ID(), remote.Options{Cluster: here, Peer: peerID})
		t.Cleanup(func() { must(t, r.Close()) })
		must(t, m.Set.Add(r))
	}
	m.eventually("the far drives are up", func() bool {
		for _, d := range m.Set.All() {
			if d.Status().Down != nil {
				return false
			}
		}
		return true
	})
	return m
}

// eventually is for a bubble, whose time goes on by itself.
func (m *mixed) eventually(what string, ok func() bool) {
	m.T.Helper()
	for range 240 {
		if ok() {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
	m.T.Fatalf("not within a minute: %s", what)
}

// timed writes a body, which must read again, and tells how long the write took.
func (m *mixed) timed(seed uint64, size int) time.Duration {
	m.T.Helper()
	body := storetest.Body(seed, size)
	begun := time.Now()
	w := m.Write(body)
	took := time.Since(begun)
	m.Want(w, body)
	return took
}

func (m *mixed) farPuts() int64 {
	var n int64
	for _, d := range m.far {
		n += int64(d.Calls(memory.OpPut))
	}
	return n
}

// TestWritesDoNotWaitForAPeerInTrouble: ten drives answer, and two of another peer do not, in one of the ways in which
// peers fail. Every write is acknowledged within the put deadline, soon none waits at all, nothing is held, and when the
// peer is well again its drives are written to again.
func TestWritesDoNotWaitForAPeerInTrouble(t *testing.T) {
	const (
		deadline = 250 * time.Millisecond // the least that a Store waits for its slowest drives
		writes   = 40
		size     = 256 << 10
	)
	for name, begin := range map[string]func(m *mixed) (end func()){
		"Mute":    func(m *mixed) func() { m.way.set(mute); return func() {} },
		"Trickle": func(m *mixed) func() { m.way.set(trickle); return func() {} },
		"Cut":     func(m *mixed) func() { m.way.set(cut); return func() {} },
		"Dead":    func(m *mixed) func() { m.way.set(dead); return func() {} },
		"DrivesHang": func(m *mixed) func() {
			var ends []func()
			for _, d := range m.far {
				ends = append(ends, d.Hang(memory.OpPut))
			}
			return func() {
				for _, end := range ends {
					end()
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMixed(t, networks[2]) // HTTP/1.1, as peers speak it for shards
				if took := m.timed(1, size); took != 0 || m.farPuts() == 0 {
					t.Fatalf("all is well, and a write took %v; far drives were asked %d times", took, m.farPuts())
				}
				end := begin(m)
				waited := 0
				for i := range uint64(writes) {
					took := m.timed(2+i, size)
					if took > deadline+10*time.Millisecond {
						t.Errorf("write %d took %v", i, took)
					}
					if took > 0 {
						waited++
					}
					time.Sleep(50 * time.Millisecond)
				}
				if waited > 8 {
					t.Errorf("%d of %d writes in %v waited for drives that do not answer", waited, writes, writes*50*time.Millisecond)
				}
				if name != "DrivesHang" && m.way.troubled() == 0 {
					t.Error("nobody met the trouble")
				}
				end()
				m.way.set(well)
				before := m.farPuts()
				m.eventually("the far drives are written to again", func() bool {
					m.timed(100, 1)
					return m.farPuts() > before+24
				})
				if took := m.timed(101, size); took != 0 {
					t.Errorf("all is well again, and a write took %v", took)
				}
				m.eventually("the memory is free again", func() bool {
					health, err := m.Store.Health(t.Context())
					must(t, err)
					return health.MemoryUsed == 0
				})
				synctest.Wait()
			})
		})
	}
}
