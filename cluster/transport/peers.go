package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/trust"
)

// Defaults of PeersConfig.
const (
	// DefaultStall is how long nothing may move before a call is given up: longer than the pause of a drive that
	// answers at all, shorter than a person's patience.
	DefaultStall = 10 * time.Second
	// DefaultMaxBulk is how many bodies may be under way to one peer: some chunk writes with a few shards each. A
	// connection costs both sides about 200 KiB, and 128 KiB more while it sends or takes bytes.
	DefaultMaxBulk = 64
	// DefaultQueue is how many bytes of messages wait for one stream: two of the longest.
	DefaultQueue = 2 * MaxFrame
	// DefaultMaxAge is far less than the two weeks between the renewal of a certificate and the end of the one before.
	DefaultMaxAge = 12 * time.Hour
)

// PeersConfig makes a directory of peers.
type PeersConfig struct {
	Network Network
	// Trust was made with Protocols.
	Trust *trust.Store
	// Sentinels are the errors to find again in what peers answer, beside those of this package.
	Sentinels Sentinels
	// Stall is how long a call may wait without any byte moving. Zero means DefaultStall; negative means for ever.
	Stall time.Duration
	// MaxBulk is how many Transfers to one peer may be under way; others wait. Zero means DefaultMaxBulk.
	MaxBulk int
	// Queue bounds the messages that wait in one stream, in bytes. Zero means DefaultQueue.
	Queue int64
	// MaxAge is how long a connection lives before it is made anew, with the certificates of then; nothing under way is
	// lost by it. Zero means DefaultMaxAge.
	MaxAge time.Duration
	// Changed, when it is not nil, is told when a peer becomes reachable, or ceases to be, and then why. The calls for
	// one peer come one after another; it must return soon, and must not close the Peers.
	Changed func(peer cluster.PeerID, reachable bool, why error)
}

// Peers is the directory of the other peers and the connections to them. It may be used concurrently.
type Peers struct {
	config    PeersConfig
	sentinels Sentinels
	// calls and bulk speak HTTP/2 and HTTP/1.1 over connections that were dialled before.
	calls, bulk *http.Transport

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	peers  map[cluster.PeerID]*Peer
	closed bool
}

// NewPeers makes an empty directory. Close ends it.
func NewPeers(config PeersConfig) (*Peers, error) {
	sentinels, err := Merge(ours(), config.Sentinels)
	if err != nil {
		return nil, err
	}
	if config.Stall == 0 {
		config.Stall = DefaultStall
	}
	if config.MaxBulk <= 0 {
		config.MaxBulk = DefaultMaxBulk
	}
	if config.Queue <= 0 {
		config.Queue = DefaultQueue
	}
	if config.MaxAge <= 0 {
		config.MaxAge = DefaultMaxAge
	}
	p := &Peers{config: config, sentinels: sentinels, calls: newHTTPTransport(true), bulk: newHTTPTransport(false), peers: map[cluster.PeerID]*Peer{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// dialledKey is where a context holds the connection that an http.Transport shall take.
type dialledKey struct{}

func newHTTPTransport(calls bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!calls)
	protocols.SetHTTP2(calls)
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(dialledKey{}).(*tls.Conn), nil
		},
		Protocols:              protocols,
		DisableCompression:     true, // shards do not compress, and calls are small
		MaxResponseHeaderBytes: maxHeader,
		ReadBufferSize:         64 << 10,
		WriteBufferSize:        64 << 10,
	}
}

// Set says where a peer is. It is added, or moved: then its connections are made anew. The same address again ends a
// pause after failed dials, so a hint that the peer is back is worth giving.
func (p *Peers) Set(id cluster.PeerID, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if known := p.peers[id]; known != nil {
		known.moveTo(address)
		return
	}
	peer := newPeer(p, id, address)
	p.peers[id] = peer
	p.running.Go(peer.keep)
}

// Remove forgets a peer and ends everything with it. The Peer that was got before fails from now on.
func (p *Peers) Remove(id cluster.PeerID) {
	p.mu.Lock()
	peer := p.peers[id]
	delete(p.peers, id)
	p.mu.Unlock()
	if peer != nil {
		peer.close()
	}
}

// Peer is what calls go through. The error is ErrUnknownPeer.
func (p *Peers) Peer(id cluster.PeerID) (*Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if peer := p.peers[id]; peer != nil {
		return peer, nil
	}
	return nil, fmt.Errorf("peer %v: %w", id, ErrUnknownPeer)
}

// all are the peers, by id.
func (p *Peers) all() []*Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.peers), func(a, b *Peer) int { return bytes.Compare(a.id[:], b.id[:]) })
}

// Status tells of all peers, by id.
func (p *Peers) Status() []Status {
	var all []Status
	for _, peer := range p.all() {
		all = append(all, peer.Status())
	}
	return all
}

// TrustChanged closes the connections to peers that are trusted no more. Whoever gives the Store a new list calls it;
// calls to them are refused without it too.
func (p *Peers) TrustChanged() {
	for _, peer := range p.all() {
		peer.judge()
	}
}

// Close ends every call and stream, and waits for all that runs here.
func (p *Peers) Close() {
	p.mu.Lock()
	p.closed = true
	peers := p.peers
	p.peers = map[cluster.PeerID]*Peer{}
	p.mu.Unlock()
	p.cancel()
	for _, peer := range peers {
		peer.close()
	}
	p.running.Wait()
}
