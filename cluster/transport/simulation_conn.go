package transport

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// simulatedConn is one end of a connection. The Simulation's mutex guards its fields.
type simulatedConn struct {
	s             *Simulation
	local, remote address
	in, out       *pipe
	far           *simulatedConn

	closed bool
	// gone: this end's machine lost power, and knows nothing of the connection any more.
	gone bool
	// broken: the other end said that there is no such connection.
	broken bool

	readBy, writeBy time.Time
	// changed is closed and replaced when a blocked operation should look again.
	changed chan struct{}
}

// roomy is how much of a full window must be free before more is sent: or each read would have one small write follow
// it, for ever.
const roomy = window / 4

// pipe is one direction of a connection.
type pipe struct {
	path     path
	segments []segment
	// under is how many bytes are under way or unread; free is what the reader took, but the writer was not told of,
	// because the way back is cut.
	under, free int
	// full: a writer waits until the window is roomy.
	full bool
	// last is when the last segment arrives: none arrives before it.
	last time.Time
	// budget is after how many bytes the connection breaks; negative means never.
	budget int64
}

// segment is what one write sent, or the end of the stream.
type segment struct {
	data    []byte
	end     bool
	arrives time.Time
	// landed: it had arrived before the path was cut.
	landed bool
}

// wake needs mu.
func (c *simulatedConn) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// until waits for a change, and no longer than until at, when that is not zero.
func until(changed <-chan struct{}, at time.Time) {
	if at.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// sooner is the earlier of two times; the zero time is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (c *simulatedConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "simulated", Source: c.local, Addr: c.remote, Err: err}
}

func past(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// Read implements net.Conn.
func (c *simulatedConn) Read(p []byte) (int, error) {
	for {
		c.s.mu.Lock()
		n, arrives, err := c.tryRead(p)
		changed, deadline := c.changed, c.readBy
		c.s.mu.Unlock()
		if err == io.EOF {
			return 0, io.EOF
		}
		if err != nil {
			return 0, c.fail("read", err)
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		until(changed, sooner(arrives, deadline))
	}
}

// tryRead takes what has arrived. When nothing has, arrives says when something will, if that is known. It needs mu.
func (c *simulatedConn) tryRead(p []byte) (n int, arrives time.Time, err error) {
	switch {
	case c.closed:
		return 0, arrives, net.ErrClosed
	case past(c.readBy):
		return 0, arrives, os.ErrDeadlineExceeded
	case c.gone:
		return 0, arrives, syscall.ECONNRESET
	case c.s.host(c.in.path.to).paused:
		return 0, arrives, nil
	}
	open := c.s.open(c.in.path)
	for n < len(p) && len(c.in.segments) > 0 {
		first := &c.in.segments[0]
		if !first.landed && (!open || first.arrives.After(time.Now())) {
			if open {
				arrives = first.arrives
			}
			break
		}
		if first.end {
			if n == 0 {
				err = io.EOF
			}
			break
		}
		taken := copy(p[n:], first.data)
		n += taken
		if first.data = first.data[taken:]; len(first.data) == 0 {
			c.in.segments = c.in.segments[1:]
		}
	}
	if n > 0 {
		c.in.free += n
		if c.in.full && window-c.in.under+c.in.free >= roomy {
			c.far.wake()
		}
	} else if err == nil && c.broken {
		err = syscall.ECONNRESET
	}
	return n, arrives, err
}

// Write implements net.Conn.
func (c *simulatedConn) Write(p []byte) (int, error) {
	written := 0
	for {
		c.s.mu.Lock()
		n, err := c.tryWrite(p[written:])
		changed, deadline := c.changed, c.writeBy
		c.s.mu.Unlock()
		written += n
		if err != nil {
			return written, c.fail("write", err)
		}
		if written == len(p) {
			return written, nil
		}
		if n == 0 {
			until(changed, deadline)
		}
	}
}

// tryWrite sends what the window takes. It needs mu.
func (c *simulatedConn) tryWrite(p []byte) (int, error) {
	there := c.out.path
	open, back := c.s.open(there), c.s.open(there.reverse())
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case past(c.writeBy):
		return 0, os.ErrDeadlineExceeded
	case c.gone:
		return 0, syscall.ECONNRESET
	case c.s.host(there.from).paused:
		return 0, nil
	case open && back && (c.far.closed || c.far.gone):
		c.broken = true
		c.wake()
	}
	if c.broken {
		return 0, syscall.ECONNRESET
	}
	if back {
		c.out.under -= c.out.free
		c.out.free = 0
	}
	n := min(len(p), window-c.out.under)
	if c.out.full = n < min(len(p), roomy); c.out.full {
		return 0, nil
	}
	if c.out.budget >= 0 {
		if c.out.budget -= int64(n); c.out.budget < 0 {
			c.breakBoth()
			return 0, syscall.ECONNRESET
		}
	}
	c.send(segment{data: append([]byte(nil), p[:n]...)})
	return n, nil
}

// send puts a segment on its way. It needs mu.
func (c *simulatedConn) send(sent segment) {
	there := c.out.path
	state, shape := c.s.path(there), c.s.shape(there)
	leaves := time.Now()
	if shape.Bandwidth > 0 {
		if state.busy.After(leaves) {
			leaves = state.busy
		}
		leaves = leaves.Add(time.Duration(float64(len(sent.data)) / float64(shape.Bandwidth) * float64(time.Second)))
		state.busy = leaves
	}
	sent.arrives = leaves.Add(c.s.travel(there))
	if sent.arrives.Before(c.out.last) {
		sent.arrives = c.out.last
	}
	c.out.last = sent.arrives
	c.out.under += len(sent.data)
	c.out.segments = append(c.out.segments, sent)
	c.far.wake()
}

// breakBoth ends the connection for both ends. It needs mu.
func (c *simulatedConn) breakBoth() {
	for _, end := range []*simulatedConn{c, c.far} {
		end.broken, end.in.segments = true, nil
		delete(c.s.conns, end)
		end.wake()
	}
}

// Close implements net.Conn.
func (c *simulatedConn) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	delete(c.s.conns, c)
	if !c.gone && !c.broken {
		c.send(segment{end: true})
	}
	c.wake()
	return nil
}

// LocalAddr implements net.Conn.
func (c *simulatedConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *simulatedConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *simulatedConn) SetDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.readBy, c.writeBy = t, t })
}

// SetReadDeadline implements net.Conn.
func (c *simulatedConn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.readBy = t })
}

// SetWriteDeadline implements net.Conn.
func (c *simulatedConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.writeBy = t })
}

func (c *simulatedConn) setDeadlines(set func()) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	set()
	c.wake()
	return nil
}
