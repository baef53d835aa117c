package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"
)

// dialTimeout bounds a dial with its handshake and the first answer: three lost packets in a row, and a slow handshake.
const dialTimeout = 5 * time.Second

// link is one connection to a peer.
type link struct {
	*http.ClientConn
	conn  *tls.Conn
	state tls.ConnectionState
	since time.Time
	// idle is since when a bulk connection has nothing to do.
	idle time.Time
	// ended is closed when the connection has ended.
	ended chan struct{}
}

// dialTLS connects to the peer that is meant and to nobody else, by one of Protocols.
func (p *Peer) dialTLS(ctx context.Context, address, protocol string) (*tls.Conn, error) {
	raw, err := p.peers.config.Network.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if protocol == "h2" {
		q := newQueued(raw)
		p.peers.running.Go(q.run)
		raw = q
	} else {
		raw = newGathered(raw)
	}
	config := p.peers.config.Trust.ClientConfig(p.id)
	config.NextProtos = []string{protocol}
	config.DynamicRecordSizingDisabled = true // short records at first help pages that are shown while they come
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		cut(conn) // the handshake's error says why
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

// newLink puts HTTP on a connection.
func newLink(ctx context.Context, transport *http.Transport, conn *tls.Conn) (*link, error) {
	ctx = context.WithValue(ctx, dialledKey{}, conn)
	client, err := transport.NewClientConn(ctx, "https", "peer:443")
	if err != nil {
		cut(conn)
		return nil, err
	}
	l := &link{ClientConn: client, conn: conn, state: conn.ConnectionState(), since: time.Now(), ended: make(chan struct{})}
	told := false // the hook is called by one goroutine at a time
	client.SetStateHook(func(client *http.ClientConn) {
		if !told && client.Err() != nil {
			told = true
			close(l.ended)
		}
	})
	return l, nil
}

// close ends the connection at once.
func (l *link) close() {
	cut(l.conn)
	_ = l.ClientConn.Close() // of a connection that was cut
}

// broken is what a failed round trip means. When the context ended, that is why: what HTTP made of it is for people only,
// or a stall would look as if the caller had given up.
func broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w (%v)", cause, err)
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}
