package transport

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// bulkPool are the connections for bodies: each carries one at a time, so that neither a body nor its end waits for
// another, and none of them stands in the way of calls.
type bulkPool struct {
	peer *Peer
	// slots has one token for each body under way.
	slots chan struct{}

	mu sync.Mutex
	// open are all connections, idle those that have nothing to do, the one used last at the end.
	open   map[*link]struct{}
	idle   []*link
	closed bool
}

func newBulkPool(peer *Peer, most int) *bulkPool {
	return &bulkPool{peer: peer, slots: make(chan struct{}, most), open: map[*link]struct{}{}}
}

// take gives a connection, which goes back by give. It waits while too many bodies are under way.
func (b *bulkPool) take(ctx context.Context) (*link, error) {
	// Whether the peer is there is the keeper's to find out: one dial fails, not one for each body.
	if _, err := b.peer.connected(ctx); err != nil {
		return nil, err
	}
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, b.peer.wrap(fmt.Errorf("wait for a connection: %w: %w", ErrUnreachable, context.Cause(ctx)))
	}
	if l := b.pop(); l != nil {
		return l, nil
	}
	l, err := b.dial(ctx)
	if err != nil {
		<-b.slots
		return nil, b.peer.wrap(fmt.Errorf("%w: %w", ErrUnreachable, err))
	}
	return l, nil
}

func (b *bulkPool) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := b.peer.dial(ctx, b.peer.peers.bulk, "http/1.1")
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		l.close()
		return nil, ErrClosed
	}
	b.open[l] = struct{}{}
	return l, nil
}

// pop gives the idle connection that was used last, and closes those that are of no use any more.
func (b *bulkPool) pop() *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.idle) > 0 {
		l := b.idle[len(b.idle)-1]
		b.idle = b.idle[:len(b.idle)-1]
		if l.Err() == nil && time.Since(l.since) < b.peer.peers.config.MaxAge && b.peer.peers.config.Trust.Callee(l.state, b.peer.id) == nil {
			return l
		}
		b.remove(l)
	}
	return nil
}

// remove needs mu.
func (b *bulkPool) remove(l *link) {
	delete(b.open, l)
	l.close()
}

// give takes a connection back. It is kept when both bodies went to their ends.
func (b *bulkPool) give(l *link, good bool) {
	defer func() { <-b.slots }()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !good || b.closed || l.Err() != nil {
		b.remove(l)
		return
	}
	l.idle = time.Now()
	b.idle = append(b.idle, l)
}

// tidy closes what was idle for long.
func (b *bulkPool) tidy() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.idle) > 0 && time.Since(b.idle[0].idle) > bulkIdle {
		b.remove(b.idle[0])
		b.idle = b.idle[1:]
	}
}

// close closes all connections, those under way too, for good.
func (b *bulkPool) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for l := range b.open {
		l.close()
	}
}

// judge closes the connections to a peer that is trusted no more.
func (b *bulkPool) judge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.open {
		if b.peer.peers.config.Trust.Callee(l.state, b.peer.id) != nil {
			l.close()
		}
	}
}
