package transport

import (
	"net"
	"sync"
	"time"
)

const (
	// gatherSize is how much is given to the kernel, and taken from it, at a time: eight records of TLS. A system call
	// on a record costs as much as encrypting it; of eight together the call is a small part.
	gatherSize = 128 << 10
	// fullRecord is what a full record of TLS has at least, in bytes: its payload.
	fullRecord = 16 << 10
	// gatherPause is how long a full record may wait for the next. It is waited for only behind a message that ends just
	// where a record does.
	gatherPause = time.Millisecond
)

// gathered is the connection below TLS, which writes record by record and reads little more than one. Full records
// wait for those that follow; one that is not full ends what TLS was asked to write, so it goes on its way at once
// with all before it. Idle connections hold no memory here.
//
// Only one goroutine reads at a time, as TLS sees to.
type gathered struct {
	net.Conn

	// mu is held over the write to the network: what comes later must go later, and the network's deadline ends it.
	mu      sync.Mutex
	waiting *chunk
	late    *time.Timer // sends what waits; nil until something waited
	failed  error       // of a write that nobody waited for

	// unread is what came beyond what was asked for, in memory of arrived.
	arrived *chunk
	unread  []byte
	// more: the last read was filled to its end, so more is there.
	more bool
}

// chunk is memory for what is gathered.
type chunk struct {
	bytes [gatherSize]byte
	n     int
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func newGathered(conn net.Conn) *gathered { return &gathered{Conn: conn} }

// Write implements net.Conn. What fails after it returned the next Write tells.
func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil {
		return 0, g.failed
	}
	if g.waiting != nil && g.waiting.n+len(p) > gatherSize {
		g.flush()
	}
	if g.failed != nil {
		return 0, g.failed
	}
	if len(p) > gatherSize || g.waiting == nil && len(p) < fullRecord {
		return g.Conn.Write(p)
	}
	if g.waiting == nil {
		g.waiting = chunks.Get().(*chunk)
		g.wait()
	}
	g.waiting.n += copy(g.waiting.bytes[g.waiting.n:], p)
	if len(p) < fullRecord {
		g.flush()
	}
	return len(p), g.failed
}

// wait needs mu.
func (g *gathered) wait() {
	if g.late != nil {
		g.late.Reset(gatherPause)
		return
	}
	g.late = time.AfterFunc(gatherPause, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.flush() // of what began to wait a moment ago it is too early, and does no harm
	})
}

// flush needs mu.
func (g *gathered) flush() {
	if g.waiting == nil {
		return
	}
	g.late.Stop()
	if g.failed == nil {
		_, g.failed = g.Conn.Write(g.waiting.bytes[:g.waiting.n])
	}
	g.waiting.n = 0
	chunks.Put(g.waiting)
	g.waiting = nil
}

// Read implements net.Conn.
func (g *gathered) Read(p []byte) (int, error) {
	if len(g.unread) == 0 {
		if !g.more || len(p) >= gatherSize {
			n, err := g.Conn.Read(p)
			g.more = n == len(p)
			return n, err
		}
		if err := g.fill(); err != nil || len(g.unread) == 0 {
			return 0, err
		}
	}
	n := copy(p, g.unread)
	if g.unread = g.unread[n:]; len(g.unread) == 0 {
		chunks.Put(g.arrived)
		g.arrived, g.unread = nil, nil
	}
	return n, nil
}

// fill takes what is there from the network.
func (g *gathered) fill() error {
	c := chunks.Get().(*chunk)
	n, err := g.Conn.Read(c.bytes[:])
	g.more = n == len(c.bytes)
	if n == 0 {
		chunks.Put(c)
		return err
	}
	// An error that came with bytes comes again when they are read.
	g.arrived, g.unread = c, c.bytes[:n]
	return nil
}

// gatherConns is a listener of gathered connections.
type gatherConns struct{ net.Listener }

// Accept implements net.Listener.
func (g gatherConns) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newGathered(conn), nil
}
