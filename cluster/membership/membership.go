package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast/holdfast/cluster"
)

// Config says who this peer is and whom it may meet. The functions may not block and not call the Membership: Known,
// Allowed and Verify are asked for messages about members.
type Config struct {
	Cluster cluster.ClusterID
	Self    cluster.PeerID
	Data    Data

	// Keys are the gossip keys, one or two. The first seals what is sent, all open what comes.
	Keys []Key

	// Bind is where gossip is taken, by UDP and TCP. Port 0 takes a free one. Not used with a Transport.
	Bind netip.AddrPort
	// Advertise is what the others are told. Zero means Bind, which must then be one address; port 0 means Bind's.
	Advertise netip.AddrPort

	// Known returns the peers that the root group knows, with the addresses it has for them. They are joined whenever
	// they are not alive.
	Known func() []Address
	// Allowed says whether the id is in the cluster. Nobody else becomes a member.
	Allowed func(cluster.PeerID) bool

	// Transport carries the gossip. Nil means UDP and TCP on Bind. Membership shuts it down.
	Transport memberlist.Transport

	// Sign signs bytes with this peer's own key, at Start, Renew and Leave. A signature may have up to 255 bytes, as far
	// as there is room beside the texts of Data. Verify returns nil when the signature of the bytes is that peer's; it is
	// asked for what is new of a member, and gets bytes from outside.
	Sign   func(data []byte) (signature []byte, err error)
	Verify func(peer cluster.PeerID, data, signature []byte) error

	// Log gets what changes. Nil means slog's default.
	Log *slog.Logger

	Timing Timing
}

// Membership is this peer's part in the gossip. Close ends it.
type Membership struct {
	config Config
	name   nodeName
	ring   *ring
	gate   *gate
	list   *memberlist.Memberlist
	log    *slog.Logger

	ctx    context.Context // ends the rejoin loop
	cancel context.CancelFunc
	wait   sync.WaitGroup
	joins  joining

	strangers, duplicates, forged, unreadable atomic.Uint64

	// gossip is what the others are told. It does not change.
	gossip netip.AddrPort
	// own is what this peer tells of itself, encoded and signed.
	own atomic.Pointer[[]byte]

	// leave keeps Renew, Leave and Close apart: memberlist panics when it leaves after its end.
	leave           sync.Mutex
	leaving, closed bool // under leave

	mu      sync.Mutex
	peers   map[cluster.PeerID]lives
	readers map[chan struct{}]struct{}
	// When a duplicate and a forgery were last told of.
	toldDuplicate, toldForged time.Time
}

// Start takes part in the gossip of the cluster. The peer joins the known peers in the background, so Start succeeds
// when it is alone.
func Start(config Config) (*Membership, error) {
	m, err := newMembership(config)
	if err != nil {
		return nil, fmt.Errorf("gossip of peer %s: %w", config.Self, err)
	}
	inner := config.Transport
	if inner == nil {
		if inner, err = listen(config.Bind, m.logger()); err != nil {
			m.cancel()
			return nil, fmt.Errorf("gossip of peer %s on %s: %w", config.Self, config.Bind, err)
		}
	}
	m.gate = newGate(inner, &envelope{label: label(config.Cluster), ring: m.ring}, m.config.Timing.Stream)
	if err := m.begin(); err != nil {
		m.cancel()
		return nil, errors.Join(fmt.Errorf("gossip of peer %s: %w", config.Self, err), m.gate.Shutdown())
	}
	if m.config.Timing.Rejoin > 0 {
		m.wait.Go(m.rejoin)
	}
	return m, nil
}

// begin settles the address, signs what is told of it, and lets memberlist run.
func (m *Membership) begin() error {
	settings := m.settings()
	ip, port, err := m.gate.FinalAdvertiseAddr(settings.AdvertiseAddr, settings.AdvertisePort)
	if err != nil {
		return err
	}
	m.gossip = address(&memberlist.Node{Addr: ip, Port: uint16(port)})
	if err := m.announce(); err != nil {
		return err
	}
	m.list, err = memberlist.Create(settings)
	return err
}

// announce signs what this peer tells of itself from now on.
func (m *Membership) announce() error {
	body, err := announcement{Data: m.config.Data, gossip: m.gossip, leaving: m.leaving}.body()
	if err != nil {
		return err
	}
	signature, err := m.config.Sign(statement(m.config.Cluster, m.config.Self, body))
	if err != nil {
		return fmt.Errorf("sign member data: %w", err)
	}
	own, err := pack(body, signature)
	if err != nil {
		return err
	}
	m.own.Store(&own)
	return nil
}

func newMembership(config Config) (*Membership, error) {
	config.Timing = config.Timing.withDefaults()
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Data.Incarnation == 0 {
		config.Data.Incarnation = uint64(time.Now().UnixMilli())
	}
	switch {
	case config.Cluster == cluster.ClusterID{} || config.Self == cluster.PeerID{}:
		return nil, errors.New("cluster id or peer id is zero")
	case config.Known == nil || config.Allowed == nil:
		return nil, errors.New("nobody says who is in the cluster")
	case config.Sign == nil || config.Verify == nil:
		return nil, errors.New("nobody signs or verifies member data")
	case config.Transport == nil && !config.Bind.IsValid():
		return nil, errors.New("no bind address")
	case config.Transport == nil && config.Bind.Addr().IsUnspecified() && !config.Advertise.IsValid():
		return nil, errors.New("gossip on all addresses needs an advertised address")
	}
	ring, err := newRing(config.Keys)
	if err != nil {
		return nil, err
	}
	// The keys live in the ring alone from here on.
	config.Keys = nil
	m := &Membership{
		config: config, name: nodeName{config.Self, config.Data.Incarnation}, ring: ring, log: config.Log.With("peer", config.Self.String()),
		peers: map[cluster.PeerID]lives{}, readers: map[chan struct{}]struct{}{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// label is bound into every sealed message, so that the gossip of two clusters never mixes, not even with one key.
func label(id cluster.ClusterID) string { return "holdfast/" + id.String() }

// Members returns everybody who was ever alive and is still in the cluster, this peer too, in order of their ids.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	list := make([]Member, 0, len(m.peers))
	for id := range m.peers {
		list = append(list, m.shown(id).look())
	}
	m.mu.Unlock()
	list = slices.DeleteFunc(list, func(member Member) bool { return !m.allowed(member.ID) })
	slices.SortFunc(list, func(a, b Member) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list
}

func (m *Membership) allowed(id cluster.PeerID) bool {
	return id == m.config.Self || m.config.Allowed(id)
}

// shown is the process that stands for the peer, nil when none was heard of. This peer stands for itself. m.mu is held.
func (m *Membership) shown(id cluster.PeerID) *life {
	if id == m.config.Self {
		return m.peers[id][m.name.incarnation]
	}
	return m.peers[id].shown()
}

// change applies f to the lives of a peer under m.mu, and tells of it when the peer looks different then.
func (m *Membership) change(id cluster.PeerID, f func(lives)) {
	m.mu.Lock()
	before := m.shown(id).look()
	if m.peers[id] == nil {
		m.peers[id] = lives{}
	}
	f(m.peers[id])
	after := m.shown(id).look()
	if len(m.peers[id]) == 0 {
		delete(m.peers, id)
	}
	if before != after {
		m.changed()
	}
	m.mu.Unlock()
	// A suspicion that comes to nothing is no news for an operator.
	news := before.State.settled() != after.State.settled() || before.Incarnation != after.Incarnation
	if news && after.State != Unseen {
		m.log.Info("peer is "+after.State.String(), "member", id.String(), "name", after.Name, "gossip", after.Gossip.String())
	}
}

// Gossip returns the address that the others are told.
func (m *Membership) Gossip() netip.AddrPort { return m.gossip }

// Subscribe returns a channel that gets a value after Members has changed, one for all the changes since the last value
// was taken, and a function that ends it. Close closes no channel.
func (m *Membership) Subscribe() (changes <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.readers[c] = struct{}{}
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.readers, c)
	}
}

// changed tells the subscribers. m.mu is held.
func (m *Membership) changed() {
	for c := range m.readers {
		select {
		case c <- struct{}{}:
		default: // one is waiting there already
		}
	}
}
