package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

const (
	// defaultPeerPort is where a peer listens for others when nothing else is said and the port is free. Gossip is one
	// above.
	defaultPeerPort = 9001
	// linkGrace is how long calls of other peers may take to end once this one stops.
	linkGrace = 5 * time.Second
	// leaveGrace is how long the word that this peer goes may take.
	leaveGrace = time.Second
)

// links are this peer's connections with the others: what it listens at, whom it calls, and gossip.
type links struct {
	peer   *Peer
	trust  *trust.Store
	peers  *transport.Peers
	server *transport.Server
	admit  *join.Server // lets peers in
	// lists and renewer keep what this peer trusts, and is trusted by, up to date.
	lists   *join.Lists
	renewer *join.Renewer
	keys    *join.GossipKeys
	gossip  *membership.Membership // nil where a test runs without
	// address and gossipAt are what others are told.
	address, gossipAt string
}

// openLinks connects. The routes are what other peers may ask.
func (p *Peer) openLinks(rows *root.Client, routes []transport.Route, inlets []transport.Inlet) (_ *links, err error) {
	own := p.self.Load()
	l := &links{peer: p}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	l.trust, err = trust.NewStore(trust.Config{Credentials: own.credentials, List: own.trusted, Protocols: transport.Protocols(), Now: p.seams.Now})
	if err != nil {
		return nil, fmt.Errorf("certificate of this peer: %w", err)
	}
	sentinels, err := sentinels()
	if err != nil {
		return nil, err
	}
	l.peers, err = transport.NewPeers(transport.PeersConfig{Network: p.seams.Network, Trust: l.trust, MaxBulk: maxBulk, Changed: p.linkChanged, Sentinels: sentinels})
	if err != nil {
		return nil, err
	}
	l.admit = join.NewServer(join.Config{Root: rows, IntegrityKey: p.integrityKey(), Alive: p.seemsAlive, Now: p.seams.Now, Log: p.log})
	if err := l.listen(sentinels, routes, inlets); err != nil {
		return nil, err
	}
	if err := l.follow(&own.known); err != nil {
		return nil, err
	}
	p.wire.peers.Store(l.peers)
	if p.seams.NoGossip {
		return l, nil
	}
	return l, l.startGossip(own)
}

// keepTrust makes the workers that keep certificates and the list of whom the cluster trusts up to date.
func (l *links) keepTrust(rows *root.Client, watcher *topology.Watcher) {
	p := l.peer
	l.lists = &join.Lists{
		Root: rows, Trust: l.trust, Current: watcher.Current, Log: p.log,
		Save: func(list trust.List) error { return p.changeSelf(func(s *self) { s.trusted = list }) },
		Changed: func(trust.List) {
			l.server.TrustChanged()
			l.peers.TrustChanged()
		},
	}
	l.keys = &join.GossipKeys{
		Root: rows, Held: p.self.Load().gossip, Every: p.seams.RotateEvery, Log: p.log,
		Save: func(keys []membership.Key) error { return p.changeSelf(func(s *self) { s.gossip = keys }) },
	}
	if l.gossip != nil {
		l.keys.Use = l.gossip.SetKeys
	}
	l.renewer = &join.Renewer{
		Trust: l.trust, Root: rows, Peers: l.peers, Now: p.seams.Now, Log: p.log,
		Save:    func(next *trust.Credentials) error { return p.changeSelf(func(s *self) { s.credentials = next }) },
		Renewed: l.renewed,
	}
}

// renewed tells the others anew who this peer is, signed with its new key.
func (l *links) renewed(*trust.Credentials) {
	if l.gossip == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveGrace)
	defer cancel()
	if err := l.gossip.Renew(ctx); err != nil {
		l.peer.log.Info("the others were not told of a new certificate; they will be", "err", err)
	}
}

// sentinels are the errors that survive the trip between peers, beside those that have a protocol of their own.
func sentinels() (transport.Sentinels, error) {
	return transport.Merge(replicas.Sentinels(), join.Sentinels())
}

// integrityKey is the cluster's key for records on drives, as the drives of this peer have it.
func (p *Peer) integrityKey() [32]byte {
	for _, s := range p.slots {
		if state := s.look(); state.kind == slotUp {
			return state.identity.IntegrityKey
		}
	}
	return [32]byte{}
}

// seemsAlive says whether a peer answers this one.
func (p *Peer) seemsAlive(id cluster.PeerID) bool {
	return id == p.id() || slices.Contains(p.reachable(), id)
}

// maxBulk is how many shards may be under way to one peer: all of some dozens of clients.
const maxBulk = 128

// linkChanged hears of peers that come and go.
func (p *Peer) linkChanged(id cluster.PeerID, reachable bool, why error) {
	if reachable {
		p.log.Info("peer is reachable", "peer", p.nameOf(id))
		return
	}
	p.log.Warn("peer is not reachable", "peer", p.nameOf(id), "err", why)
	if host := p.host.Load(); host != nil {
		host.Unreachable(id)
	}
}

// listen takes the address: the one that was asked for, else the one of the last time, else any that is free.
func (l *links) listen(sentinels transport.Sentinels, routes []transport.Route, inlets []transport.Inlet) error {
	var last error
	for _, address := range l.addresses() {
		server, err := transport.Listen(transport.ServerConfig{
			Network: l.peer.seams.Network, Address: address, Trust: l.trust, Join: l.admit.Serve, Log: l.peer.log, Sentinels: sentinels,
		}, routes, inlets)
		if err == nil {
			l.server = server
			if l.address, err = advertised(server.Addr()); err != nil {
				return err
			}
			l.sayAddress(server.Addr())
			return nil
		}
		last = err
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return fmt.Errorf("listen for other peers: %w", last)
}

// sayAddress tells the operator what others are told, where that is not what was asked for, or no good.
func (l *links) sayAddress(listening string) {
	p := l.peer
	if l.address != listening {
		p.log.Info("other peers are told one address of this machine; name another with --peer", "listening", listening, "told", l.address)
	}
	var others []string
	for _, other := range p.self.Load().known.Members() {
		if other.ID != p.id() && other.Peer != "" {
			others = append(others, other.Peer)
		}
	}
	p.warnOfAddress(l.address, others)
}

func (l *links) addresses() []string {
	if l.peer.config.Peer != "" {
		return []string{l.peer.config.Peer}
	}
	var list []string
	host, _, err := net.SplitHostPort(l.peer.config.Listen)
	if err != nil {
		host = "127.0.0.1"
	}
	if own, ok := l.peer.ownRow(); ok && own.Peer != "" {
		if _, port, err := net.SplitHostPort(own.Peer); err == nil {
			list = append(list, net.JoinHostPort(host, port))
		}
	}
	return append(list, net.JoinHostPort(host, strconv.Itoa(defaultPeerPort)), net.JoinHostPort(host, "0"))
}

// advertised is what others are told of an address: one that is of this machine and not of all of its networks.
func advertised(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return address, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, at := range all {
		if network, ok := at.(*net.IPNet); ok && network.IP.IsGlobalUnicast() && network.IP.To4() != nil {
			return net.JoinHostPort(network.IP.String(), port), nil
		}
	}
	return net.JoinHostPort("127.0.0.1", port), nil
}

// warnOfAddress says that others cannot reach this peer at its address, when they are on other machines.
func (p *Peer) warnOfAddress(own string, others []string) {
	far := slices.IndexFunc(others, func(at string) bool { return !onlyHere(at) })
	if far >= 0 && onlyHere(own) {
		p.log.Warn("peers on other machines cannot reach this one: give it an address of the network with --peer", "address", own, "other", others[far])
	}
}

// onlyHere says that an address leads back to the machine that uses it.
func onlyHere(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// startGossip takes part in the gossip, one port above the listener if that is free.
func (l *links) startGossip(own *self) error {
	p := l.peer
	host, port, err := net.SplitHostPort(l.address)
	if err != nil {
		return err
	}
	ip, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return fmt.Errorf("address for gossip: %w", err)
	}
	at, _ := netip.AddrFromSlice(ip.IP)
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	ports := []uint16{uint16(number) + 1, 0}
	if p.config.Gossip != "" {
		_, text, err := net.SplitHostPort(p.config.Gossip)
		if err == nil {
			number, err = strconv.ParseUint(text, 10, 16)
		}
		if err != nil {
			return fmt.Errorf("%w: --gossip: %w", ErrConfig, err)
		}
		ports = []uint16{uint16(number)}
	}
	for _, port := range ports {
		l.gossip, err = membership.Start(membership.Config{
			Cluster: p.cluster, Self: own.id, Keys: own.gossip, Bind: netip.AddrPortFrom(at.Unmap(), port), Log: p.log,
			Data:  membership.Data{Name: p.config.Name, Zone: p.config.Zone, Rack: p.config.Rack, Peer: l.address, S3: p.s3Address(), Command: commandFormat},
			Known: p.gossipAddresses, Allowed: p.isMember, Verify: p.verifyGossip,
			Sign: func(data []byte) ([]byte, error) { return l.trust.Credentials().Sign(gossipUse, data), nil },
		})
		if err == nil {
			l.gossipAt = l.gossip.Gossip().String()
			return nil
		}
	}
	return fmt.Errorf("gossip: %w", err)
}

// gossipUse is what a peer signs for when it tells of itself by gossip.
const gossipUse = "gossip"

// commandFormat is the newest format of commands that this release knows.
const commandFormat = 1

func (p *Peer) gossipAddresses() []membership.Address {
	m := p.topology()
	var list []membership.Address
	for _, other := range m.Members() {
		if other.ID != p.id() && other.Gossip != "" {
			list = append(list, membership.Address{ID: other.ID, Gossip: other.Gossip})
		}
	}
	return list
}

func (p *Peer) isMember(id cluster.PeerID) bool {
	m := p.topology()
	_, ok := m.Peer(id)
	return ok
}

var errSignature = errors.New("signature does not fit the peer's key")

func (p *Peer) verifyGossip(id cluster.PeerID, data, signature []byte) error {
	m := p.topology()
	other, ok := m.Peer(id)
	if !ok {
		return topology.ErrUnknownPeer
	}
	if !trust.Signed(other.Key, gossipUse, data, signature) {
		return errSignature
	}
	return nil
}

// follow tells the connections where the peers of the map are.
func (l *links) follow(m *topology.Map) error {
	for _, other := range m.Peers {
		switch {
		case other.ID == l.peer.id():
		case other.State == topology.Removed:
			l.peers.Remove(other.ID)
		case other.Peer != "":
			l.peers.Set(other.ID, other.Peer)
		}
	}
	return nil
}

// reachable are the peers that answer now.
func (p *Peer) reachable() []cluster.PeerID {
	peers := p.wire.peers.Load()
	if peers == nil {
		return nil
	}
	var list []cluster.PeerID
	for _, st := range peers.Status() {
		if st.Reachable {
			list = append(list, st.Peer)
		}
	}
	return list
}

// close says goodbye and ends all connections.
func (l *links) close() error {
	var errs []error
	if l.gossip != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveGrace)
		if err := l.gossip.Leave(ctx); err != nil {
			l.peer.log.Debug("the others were not told that this peer goes", "err", err)
		}
		cancel()
		errs = append(errs, l.gossip.Close())
	}
	if l.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), linkGrace)
		if err := l.server.Stop(ctx); err != nil {
			l.peer.log.Info("calls of other peers were cut off", "err", err)
		}
		cancel()
	}
	if l.peers != nil {
		l.peer.wire.peers.Store(nil)
		l.peers.Close()
	}
	return errors.Join(errs...)
}
