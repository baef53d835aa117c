package trust

import (
	"crypto/tls"
	"fmt"
	"net"
)

// Listener speaks TLS by config, which is ServerConfig or JoinConfig, on connections of inner. What does not begin as
// TLS does is closed without a word: net/http would answer it in plain HTTP. How long a handshake may take is the
// server's to limit.
func (s *Store) Listener(inner net.Listener, config *tls.Config) net.Listener {
	return tls.NewListener(gate{inner, s}, config)
}

type gate struct {
	net.Listener
	store *Store
}

func (g gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guarded{Conn: conn, store: g.store}, nil
}

// tlsStart is how the first record of every TLS connection begins: a handshake, of major version 3.
var tlsStart = [...]byte{22, 3}

// guarded is a connection whose first bytes must be TLS's. Only its one reader touches seen.
type guarded struct {
	net.Conn
	store *Store
	// seen counts the bytes of tlsStart that came; -1 when others came.
	seen int
}

func (c *guarded) Read(p []byte) (int, error) {
	if c.seen == len(tlsStart) {
		return c.Conn.Read(p)
	}
	if c.seen < 0 {
		return 0, ErrOtherProtocol
	}
	n, err := c.Conn.Read(p)
	for _, b := range p[:n] {
		if c.seen == len(tlsStart) {
			break
		}
		if b != tlsStart[c.seen] {
			c.seen = -1
			return 0, c.store.refusals.count(fmt.Errorf("%v: %w", c.RemoteAddr(), ErrOtherProtocol))
		}
		c.seen++
	}
	return n, err
}
