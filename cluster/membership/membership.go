package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast/holdfast/cluster"
)

// Config says who this peer is and whom it may meet. The functions may not block and not call the Membership: they are
// asked for every message about a member.
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

	// Log gets what changes. Nil means slog's default.
	Log *slog.Logger

	Timing Timing
}

// Timing is how soon things are noticed. The zero value is right for the peers of one site; tests and far sites may set
// more. The defaults are memberlist's for a local network, except where said.
type Timing struct {
	// Probe is how often one member is probed, ProbeTimeout how long it may take to answer. Zero means 1 s and 500 ms.
	Probe, ProbeTimeout time.Duration
	// Gossip is how often news is sent on. Zero means 200 ms.
	Gossip time.Duration
	// Forget is how long a dead member still gets gossip and stays in memberlist's table. Zero means 30 s.
	Forget time.Duration
	// Exchange is how often memberlist exchanges all it knows with one member. Zero means 30 s.
	Exchange time.Duration
	// Rejoin is the longest pause between two rounds that join who is not alive. Zero means 5 s, which leaves room for
	// an attempt that is under way when a partition heals; negative means never.
	Rejoin time.Duration
	// Stream is how long a dial, and then an exchange, may take. Zero means 5 s: a lost SYN is sent again after 1 s and
	// after 3 s.
	Stream time.Duration
}

func (t Timing) withDefaults() Timing {
	for field, value := range map[*time.Duration]time.Duration{
		&t.Probe: time.Second, &t.ProbeTimeout: 500 * time.Millisecond, &t.Gossip: 200 * time.Millisecond,
		&t.Forget: 30 * time.Second, &t.Exchange: 30 * time.Second, &t.Rejoin: 5 * time.Second, &t.Stream: 5 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return t
}

// How long a suspect has to prove itself, in probes: 4 of them in a small cluster, twice as many when no third peer
// confirms. And how much slower a peer probes that does not trust itself, twice. memberlist's 6 and 8 make a peer that
// loses most others take up to a minute to find them dead, and so to take them at new addresses. They spare slow peers a
// false death, which here is a wrong hint until the next round of rejoin.
const (
	suspicionFactor = 4
	suspicionMost   = 2
	awarenessMost   = 2
)

// Membership is this peer's part in the gossip. Close ends it.
type Membership struct {
	config Config
	ring   *ring
	gate   *gate
	list   *memberlist.Memberlist
	log    *slog.Logger

	ctx    context.Context // ends the rejoin loop
	cancel context.CancelFunc
	wait   sync.WaitGroup
	joins  joining

	strangers, duplicates, unreadable atomic.Uint64

	// own is what this peer tells of itself, encoded.
	own atomic.Pointer[[]byte]

	// leave keeps Leave and Close apart: memberlist panics when it leaves after its end.
	leave  sync.Mutex
	closed bool // under leave

	mu      sync.Mutex
	members map[cluster.PeerID]*entry
	readers map[chan struct{}]struct{}
	warned  time.Time // when a duplicate was last told of
}

// entry is a Member as it is kept. member.State is never Suspect: that is told by suspected.
type entry struct {
	member    Member
	suspected time.Time // zero: not
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
	if m.list, err = memberlist.Create(m.settings()); err != nil {
		m.cancel()
		return nil, errors.Join(fmt.Errorf("gossip of peer %s: %w", config.Self, err), m.gate.Shutdown())
	}
	if m.config.Timing.Rejoin > 0 {
		m.wait.Go(m.rejoin)
	}
	return m, nil
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
	own, err := announcement{Data: config.Data}.encode()
	if err != nil {
		return nil, err
	}
	m := &Membership{
		config: config, ring: ring, log: config.Log.With("peer", config.Self.String()),
		members: map[cluster.PeerID]*entry{}, readers: map[chan struct{}]struct{}{},
	}
	m.own.Store(&own)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// label is bound into every sealed message, so that the gossip of two clusters never mixes, not even with one key.
func label(id cluster.ClusterID) string { return "holdfast/" + id.String() }

func (m *Membership) settings() *memberlist.Config {
	timing := m.config.Timing
	s := memberlist.DefaultLANConfig()
	s.Name = m.config.Self.String()
	s.Label = m.gate.envelope.label
	s.Transport = m.gate
	s.BindAddr, s.BindPort = m.config.Bind.Addr().String(), int(m.config.Bind.Port())
	if n, ok := m.gate.inner.(network); ok {
		s.BindPort = n.GetAutoBindPort()
	}
	if m.config.Advertise.IsValid() {
		s.AdvertiseAddr, s.AdvertisePort = m.config.Advertise.Addr().String(), int(m.config.Advertise.Port())
		if s.AdvertisePort == 0 {
			s.AdvertisePort = s.BindPort
		}
	}
	s.Keyring = m.ring.shared
	s.GossipVerifyIncoming, s.GossipVerifyOutgoing = true, true
	s.EnableCompression = false
	s.RequireNodeNames = true
	s.ProbeInterval, s.ProbeTimeout = timing.Probe, timing.ProbeTimeout
	s.GossipInterval, s.GossipToTheDeadTime = timing.Gossip, timing.Forget
	s.PushPullInterval, s.TCPTimeout = timing.Exchange, timing.Stream
	s.SuspicionMult, s.SuspicionMaxTimeoutMult = suspicionFactor, suspicionMost
	s.AwarenessMaxMultiplier = awarenessMost
	// A dead peer may come back at another address, and has been silent for several probes already.
	s.DeadNodeReclaimTime = timing.Probe
	d := delegate{m}
	s.Delegate, s.Events, s.Conflict, s.Merge, s.Alive, s.Ping = d, d, d, d, d, d
	s.Logger = m.logger()
	return s
}

func (m *Membership) logger() *log.Logger { return log.New(logBridge{m}, "", 0) }

// network is UDP and TCP, with dials that can be given up.
type network struct{ *memberlist.NetTransport }

func listen(bind netip.AddrPort, logger *log.Logger) (memberlist.Transport, error) {
	settings := &memberlist.NetTransportConfig{BindAddrs: []string{bind.Addr().String()}, BindPort: int(bind.Port()), Logger: logger}
	// A port that is free for TCP may be taken for UDP. Only with port 0 is there another to try.
	tries := 1
	if bind.Port() == 0 {
		tries = 10
	}
	for {
		t, err := memberlist.NewNetTransport(settings)
		tries--
		if err == nil {
			return network{t}, nil
		}
		if tries == 0 {
			return nil, err
		}
	}
}

// DialContext implements contextDialer.
func (network) DialContext(ctx context.Context, a memberlist.Address) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", a.Addr)
}

// Members returns everybody who was ever alive and is still in the cluster, this peer too, in order of their ids.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	list := make([]Member, 0, len(m.members))
	for _, e := range m.members {
		member := e.member
		if member.State == Alive && !e.suspected.IsZero() {
			member.State, member.Since = Suspect, e.suspected
		}
		list = append(list, member)
	}
	m.mu.Unlock()
	list = slices.DeleteFunc(list, func(member Member) bool { return !m.allowed(member.ID) })
	slices.SortFunc(list, func(a, b Member) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list
}

func (m *Membership) allowed(id cluster.PeerID) bool {
	return id == m.config.Self || m.config.Allowed(id)
}

// Gossip returns the address that the others are told.
func (m *Membership) Gossip() netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.members[m.config.Self].member.Gossip
}

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

// leaveLimit is how long Leave takes at most: each of its two messages is sent on a handful of times.
const leaveLimit = 5 * time.Second

// Leave tells the others that this peer goes, so that they take it as left and not as dead. Call Close afterwards. It
// takes until ctx's deadline at most, or 5 s.
func (m *Membership) Leave(ctx context.Context) error {
	m.leave.Lock()
	defer m.leave.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	if m.closed {
		return errGateClosed
	}
	m.cancel()
	data := announcement{Data: m.config.Data, leaving: true}
	own, err := data.encode()
	if err != nil {
		return err
	}
	m.own.Store(&own)
	end := time.Now().Add(leaveLimit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	// First the word that it goes, then memberlist's: that one alone looks like death to those who are told.
	for _, step := range []func(time.Duration) error{m.list.UpdateNode, m.list.Leave} {
		left := time.Until(end)
		err := ctx.Err()
		if err == nil && left <= 0 {
			err = context.DeadlineExceeded
		}
		if err != nil {
			return fmt.Errorf("leave gossip: %w", err)
		}
		if err := step(left); err != nil {
			return fmt.Errorf("leave gossip: %w", err)
		}
	}
	return nil
}

// Close ends the gossip without a word; the others find this peer dead unless it left. Joins that hang are given up.
func (m *Membership) Close() error {
	m.leave.Lock()
	defer m.leave.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	m.cancel()
	err := m.list.Shutdown()
	m.wait.Wait()
	if err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}
