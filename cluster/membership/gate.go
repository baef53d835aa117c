package membership

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// admitLimit is how many streams are read at once before it is known that their senders have a key. What they hold
// together is limited too.
const admitLimit = 32

var errGateClosed = errors.New("gossip is closed")

// gate is the transport that memberlist sees: the real one behind it, the checks of envelope between. Its Shutdown ends
// everything that is under way, hung dials too.
type gate struct {
	inner    memberlist.Transport
	envelope *envelope
	timeout  time.Duration
	refused  [refusals]atomic.Uint64

	packets chan *memberlist.Packet
	streams chan net.Conn
	// ctx ends first: nothing more reaches memberlist, while the loops still drain inner, whose Shutdown may wait for a
	// reader. stopped is closed when it has returned.
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}
	wait    sync.WaitGroup
	slots   chan struct{}

	mu     sync.Mutex
	conns  map[*stream]struct{} // nil when closed
	closed bool
}

func newGate(inner memberlist.Transport, e *envelope, timeout time.Duration) *gate {
	g := &gate{
		inner: inner, envelope: e, timeout: timeout,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		stopped: make(chan struct{}), slots: make(chan struct{}, admitLimit), conns: map[*stream]struct{}{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.wait.Go(g.passPackets)
	g.wait.Go(g.passStreams)
	return g
}

func (g *gate) count(why refusal) { g.refused[why].Add(1) }

func (g *gate) passPackets() {
	for {
		select {
		case packet := <-g.inner.PacketCh():
			if packet == nil || g.ctx.Err() != nil {
				continue
			}
			if why := g.envelope.packet(packet.Buf); why != none {
				g.count(why)
				continue
			}
			select {
			case g.packets <- packet:
			case <-g.ctx.Done():
			}
		case <-g.stopped:
			return
		}
	}
}

func (g *gate) passStreams() {
	for {
		select {
		case conn := <-g.inner.StreamCh():
			if conn == nil {
				continue
			}
			select {
			case g.slots <- struct{}{}:
				g.wait.Go(func() { g.admit(conn) })
			default:
				g.count(busy)
				_ = conn.Close() // nothing was said on it
			}
		case <-g.stopped:
			return
		}
	}
}

// admit reads the whole message of a stream before memberlist sees any of it.
func (g *gate) admit(conn net.Conn) {
	defer func() { <-g.slots }()
	s, err := g.track(conn)
	if err != nil {
		return
	}
	_ = s.SetDeadline(time.Now().Add(g.timeout)) // a connection that takes none is broken, and the read says so
	message, err := g.envelope.request(s.Conn)
	if err != nil {
		why, ok := refused(err)
		if !ok {
			why = malformed // it did not come in time
		}
		if err != io.EOF && g.ctx.Err() == nil {
			g.count(why)
		}
		_ = s.Close() // it was refused
		return
	}
	s.message = bytes.NewReader(message)
	select {
	case g.streams <- s:
	case <-g.ctx.Done():
		_ = s.Close() // nobody takes it any more
	}
}

// stream is a connection of one message each way. What is read from it was opened before.
type stream struct {
	net.Conn
	gate *gate
	// message is what may still be read, nil before the answer to our own request has come.
	message *bytes.Reader
}

// track closes conn and returns an error when the gate is closed.
func (g *gate) track(conn net.Conn) (*stream, error) {
	s := &stream{Conn: conn, gate: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		_ = conn.Close() // nothing was said on it
		return nil, errGateClosed
	}
	g.conns[s] = struct{}{}
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	if s.message == nil {
		message, err := s.gate.envelope.answer(s.Conn)
		if why, ok := refused(err); ok && s.gate.ctx.Err() == nil {
			s.gate.count(why)
		}
		if err != nil {
			return 0, err
		}
		s.message = bytes.NewReader(message)
	}
	if s.message.Len() == 0 {
		return 0, io.EOF
	}
	return s.message.Read(p)
}

func (s *stream) Close() error {
	s.gate.mu.Lock()
	delete(s.gate.conns, s)
	s.gate.mu.Unlock()
	return s.Conn.Close()
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (g *gate) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return g.inner.FinalAdvertiseAddr(ip, port)
}

// WriteTo implements memberlist.Transport.
func (g *gate) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (g *gate) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if g.ctx.Err() != nil {
		return time.Time{}, errGateClosed
	}
	if aware, ok := g.inner.(memberlist.NodeAwareTransport); ok {
		return aware.WriteToAddress(b, a)
	}
	return g.inner.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (g *gate) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh implements memberlist.Transport.
func (g *gate) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout implements memberlist.Transport.
func (g *gate) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (g *gate) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, timeout)
	defer cancel()
	conn, err := g.dial(ctx, a, timeout)
	if err != nil {
		return nil, err
	}
	s, err := g.track(conn)
	if err != nil {
		return nil, err
	}
	// memberlist writes the label before it sets a deadline. Where that fails so does the write.
	_ = s.SetDeadline(time.Now().Add(timeout))
	return s, nil
}

// contextDialer is a transport whose dials can be given up.
type contextDialer interface {
	DialContext(ctx context.Context, a memberlist.Address) (net.Conn, error)
}

func (g *gate) dial(ctx context.Context, a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if dialer, ok := g.inner.(contextDialer); ok {
		return dialer.DialContext(ctx, a)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	// Another transport's dial cannot be given up. It ends with its timeout, and nobody waits for it longer than ctx.
	done := make(chan result)
	go func() {
		var r result
		if aware, ok := g.inner.(memberlist.NodeAwareTransport); ok {
			r.conn, r.err = aware.DialAddressTimeout(a, timeout)
		} else {
			r.conn, r.err = g.inner.DialTimeout(a.Addr, timeout)
		}
		select {
		case done <- r:
		case <-ctx.Done():
			if r.conn != nil {
				_ = r.conn.Close() // nobody waits for it any more
			}
		}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Shutdown implements memberlist.Transport.
func (g *gate) Shutdown() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	open := g.conns
	g.conns = nil
	g.mu.Unlock()
	g.cancel()
	for s := range open {
		_ = s.Conn.Close() // what was under way on it is given up
	}
	err := g.inner.Shutdown()
	close(g.stopped)
	g.wait.Wait()
	return err
}
