package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// How a connection is kept.
const (
	// probePause and probeTimeout: a peer that does not answer is found out within 5 s, a broken connection at once.
	probePause   = time.Second
	probeTimeout = 4 * time.Second
	// firstPause and longPause are those after failed dials. The long one is two Raft elections: a peer that returns is
	// needed by then.
	firstPause = 50 * time.Millisecond
	longPause  = 2 * time.Second
	// retiredAge is how long calls on a connection that was replaced may go on.
	retiredAge = 10 * time.Minute
	// bulkIdle is how long a bulk connection is kept for the next body. Servers keep theirs for longer.
	bulkIdle = idleTimeout / 2
)

// Peer is one other peer: the calls to it, its bodies and its streams. It may be used concurrently.
type Peer struct {
	peers  *Peers
	id     cluster.PeerID
	ctx    context.Context
	cancel context.CancelFunc
	// dialling is held by who dials: one at a time.
	dialling chan struct{}
	bulk     *bulkPool
	// kick ends a pause after failed dials.
	kick chan struct{}

	mu      sync.Mutex
	address string
	// calls is the connection for calls, nil when there is none. failed is why; while it is nil too, the first dial is
	// still under way and calls wait for it.
	calls  *link
	failed error
	// moved: the address has changed since calls was made.
	moved bool
	since time.Time
	trip  time.Duration
	// refused is why the last dial for a body or a stream failed; until refusedUntil there is no other. The keeper has
	// its own pauses.
	refused      error
	refusedUntil time.Time
	streams      map[string]*Stream
	closed       bool
	// changed is closed and replaced when calls or failed change.
	changed chan struct{}
}

func newPeer(p *Peers, id cluster.PeerID, address string) *Peer {
	peer := &Peer{
		peers: p, id: id, address: address, dialling: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		since: time.Now(), streams: map[string]*Stream{}, changed: make(chan struct{}),
	}
	peer.ctx, peer.cancel = context.WithCancel(p.ctx)
	peer.bulk = newBulkPool(peer, p.config.MaxBulk)
	return peer
}

// ID is who the peer is.
func (p *Peer) ID() cluster.PeerID { return p.id }

func (p *Peer) wrap(err error) error { return fmt.Errorf("peer %v: %w", p.id, err) }

// moveTo says where the peer is now.
func (p *Peer) moveTo(address string) {
	p.mu.Lock()
	if p.address != address && !p.closed {
		p.address, p.moved = address, true
		if p.calls == nil {
			p.setState(nil, nil) // calls wait for a dial to the new address
		}
	}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// setState needs mu.
func (p *Peer) setState(calls *link, failed error) {
	p.calls, p.failed = calls, failed
	close(p.changed)
	p.changed = make(chan struct{})
}

// close ends everything; Peers.Close waits for what ran.
func (p *Peer) close() {
	p.cancel()
	p.bulk.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.calls != nil {
		p.calls.close()
	}
	p.setState(nil, ErrClosed)
}

// judge closes the connections when the peer is trusted no more.
func (p *Peer) judge() {
	p.mu.Lock()
	calls := p.calls
	p.mu.Unlock()
	if calls != nil && p.peers.config.Trust.Callee(calls.state, p.id) != nil {
		calls.close()
	}
	p.bulk.judge()
}

// keep holds one connection for calls, from the first dial until the peer is closed.
func (p *Peer) keep() {
	pause, reachable := firstPause, false
	for p.ctx.Err() == nil {
		calls, err := p.connect()
		if err != nil {
			p.down(err, reachable)
			reachable = false
			pause = p.rest(pause)
			continue
		}
		p.up(calls, reachable)
		reachable = true
		err = p.watch(calls)
		if errors.Is(err, errAged) {
			p.peers.running.Go(func() { p.retire(calls) })
			continue
		}
		if errors.Is(err, ErrStopping) {
			p.peers.running.Go(func() { p.retire(calls) }) // calls under way are still answered
		} else {
			calls.close()
		}
		p.down(err, reachable)
		reachable = false
		if time.Since(calls.since) > longPause {
			pause = firstPause
		} else {
			pause = p.rest(pause) // who takes connections and drops them is dialled no faster than who takes none
		}
	}
}

// rest waits after a failed dial, half of the pause at least: peers that lost the same one do not all return at once. It
// gives the next pause.
func (p *Peer) rest(pause time.Duration) time.Duration {
	timer := time.NewTimer(pause/2 + rand.N(pause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.kick:
	case <-p.ctx.Done():
	}
	return min(2*pause, longPause)
}

// connect makes a connection for calls, and proves by a first answer that the peer takes it: in TLS 1.3 a client is
// done before the server has judged its certificate.
func (p *Peer) connect() (*link, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	calls, err := p.dial(ctx, p.peers.calls, "h2")
	if err != nil {
		return nil, err
	}
	trip, err := p.probe(ctx, calls)
	if err != nil {
		calls.close()
		return nil, err
	}
	p.measured(trip)
	return calls, nil
}

// dial makes one connection with HTTP on it.
func (p *Peer) dial(ctx context.Context, transport *http.Transport, protocol string) (*link, error) {
	conn, err := p.dialConn(ctx, protocol)
	if err != nil {
		return nil, err
	}
	return newLink(ctx, transport, conn)
}

// dialConn makes one connection, when nobody else does.
func (p *Peer) dialConn(ctx context.Context, protocol string) (*tls.Conn, error) {
	select {
	case p.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.dialling }()
	p.mu.Lock()
	address, keeper := p.address, protocol == "h2"
	p.moved = p.moved && !keeper // the keeper dials where the peer is now
	refused, until := p.refused, p.refusedUntil
	p.mu.Unlock()
	if !keeper && time.Now().Before(until) {
		return nil, refused
	}
	conn, err := p.dialTLS(ctx, address, protocol)
	if err != nil && !keeper {
		p.mu.Lock()
		p.refused, p.refusedUntil = err, time.Now().Add(firstPause)
		p.mu.Unlock()
	}
	return conn, err
}

// up says that calls can go.
func (p *Peer) up(calls *link, already bool) {
	p.mu.Lock()
	if p.closed {
		calls.close()
	} else {
		p.setState(calls, nil)
	}
	if !already {
		p.since = time.Now()
	}
	p.mu.Unlock()
	if changed := p.peers.config.Changed; changed != nil && !already {
		changed(p.id, true, nil)
	}
}

// down says that they cannot. After a connection that was good the next dial may help at once, so calls wait for it;
// after a dial that failed they do not wait.
func (p *Peer) down(why error, was bool) {
	p.mu.Lock()
	if !p.closed {
		failed := why
		if was {
			failed = nil
		}
		p.setState(nil, failed)
	}
	if was {
		p.since = time.Now()
	}
	p.mu.Unlock()
	if changed := p.peers.config.Changed; changed != nil && was && p.ctx.Err() == nil {
		changed(p.id, false, p.wrap(why))
	}
}

// errAged says that a connection has lived long enough.
var errAged = errors.New("the connection is old")

// watch asks the peer again and again whether it is there. The error says why the connection is of no use any more.
func (p *Peer) watch(calls *link) error {
	ticker := time.NewTicker(probePause)
	defer ticker.Stop()
	for {
		select {
		case <-calls.ended:
			return fmt.Errorf("%w: %w", ErrBroken, calls.Err())
		case <-p.kick:
			if p.hasMoved() {
				return errors.New("the peer has moved")
			}
		case <-ticker.C:
			p.bulk.tidy()
			if time.Since(calls.since) > p.peers.config.MaxAge {
				return errAged
			}
			ctx, cancel := context.WithTimeoutCause(p.ctx, probeTimeout, ErrStalled)
			trip, err := p.probe(ctx, calls)
			cancel()
			if err != nil {
				return err
			}
			p.measured(trip)
		case <-p.ctx.Done():
			return ErrClosed
		}
	}
}

func (p *Peer) hasMoved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}

// probe measures one round trip.
func (p *Peer) probe(ctx context.Context, calls *link) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.id.String()+pingPath, http.NoBody)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	response, err := calls.RoundTrip(request)
	if err != nil {
		return 0, broken(ctx, err)
	}
	trip := time.Since(begin)
	if err := p.refusal(response); err != nil {
		return 0, errors.Join(err, response.Body.Close())
	}
	return trip, response.Body.Close()
}

// measured takes a round trip into the average: an eighth counts, as in TCP.
func (p *Peer) measured(trip time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trip == 0 {
		p.trip = trip
		return
	}
	p.trip += (trip - p.trip) / 8
}

// retire lets calls on a connection that was replaced end.
func (p *Peer) retire(calls *link) {
	defer calls.close()
	ticker := time.NewTicker(probePause / 10)
	defer ticker.Stop()
	for begin := time.Now(); calls.InFlight() > 0 && time.Since(begin) < retiredAge; {
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			return
		}
	}
}

// connected is the connection for calls. While the first dial is under way, or the first after a connection that
// broke, it waits; else the error is ErrUnreachable at once, with what the last dial failed with.
func (p *Peer) connected(ctx context.Context) (*link, error) {
	for {
		p.mu.Lock()
		calls, failed, changed := p.calls, p.failed, p.changed
		p.mu.Unlock()
		switch {
		case failed != nil:
			return nil, fmt.Errorf("peer %v: %w: %w", p.id, ErrUnreachable, failed)
		case calls != nil && calls.Err() == nil:
			if err := p.peers.config.Trust.Callee(calls.state, p.id); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			return calls, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("peer %v: %w: %w", p.id, ErrUnreachable, context.Cause(ctx))
		}
	}
}

// Status is what can be said of a peer.
type Status struct {
	Peer    cluster.PeerID
	Address string
	// Reachable says whether calls go through; Since is since when that is so, Err why they do not.
	Reachable bool
	Since     time.Time
	Err       error
	// RoundTrip is the average of late.
	RoundTrip time.Duration
	// Bulk is how many bodies are under way.
	Bulk int
	// Streams tells of the streams to the peer, by name.
	Streams map[string]StreamStatus
}

// Status tells of the peer.
func (p *Peer) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := Status{
		Peer: p.id, Address: p.address, Reachable: p.calls != nil, Since: p.since, Err: p.failed,
		RoundTrip: p.trip, Bulk: len(p.bulk.slots), Streams: map[string]StreamStatus{},
	}
	for name, stream := range p.streams {
		status.Streams[name] = stream.Status()
	}
	return status
}
