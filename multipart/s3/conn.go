package s3

import "net"

// readAhead holds the head of a request and the body of a small one.
const readAhead = 8 << 10

// ReadAhead makes a listener whose connections read a small request with one system call. The HTTP server alone takes
// four: one byte, by which it notices that the request begins, its head, the rest of its body, and the look for more.
// For listeners without TLS, which reads ahead by itself.
func ReadAhead(l net.Listener) net.Listener { return aheadListener{l} }

type aheadListener struct{ net.Listener }

// Accept implements net.Listener.
func (l aheadListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &aheadConn{Conn: c}, nil
}

// aheadConn is read by one goroutine at a time, as http.Server does.
type aheadConn struct {
	net.Conn
	buffer      [readAhead]byte
	first, last int // what is read and not taken yet
}

// Read implements net.Conn.
func (c *aheadConn) Read(p []byte) (int, error) {
	if c.first == c.last {
		if len(p) >= len(c.buffer) {
			return c.Conn.Read(p) // a large body needs no copy
		}
		n, err := c.Conn.Read(c.buffer[:])
		c.first, c.last = 0, n
		if n == 0 {
			return 0, err
		}
		// An error that came with bytes comes again without them.
	}
	n := copy(p, c.buffer[c.first:c.last])
	c.first += n
	return n, nil
}

// CloseWrite lets the HTTP server end an answer while the client still sends what nobody will read: a connection that is
// closed at once is reset, and takes the answer with it.
func (c *aheadConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
