package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/remote"
	"github.com/holdfast/holdfast/metadata/route"
	"github.com/holdfast/holdfast/metadata/tablet"
	"github.com/holdfast/holdfast/tests/expect"
)

const (
	rootGroup   = 1
	tabletGroup = 2
	peers       = 3
)

func peerID(n uint64) cluster.PeerID { return cluster.PeerID{byte(n)} }

// trio is three peers that vote on the tablet, and a fourth that has the root group alone.
type trio struct {
	t    *testing.T
	root *raft.Host
	// peers by number, from 1.
	peers [peers + 1]*member

	mu  sync.Mutex
	cut [peers + 1]bool
}

// member is one of the three.
type member struct {
	trio *trio
	n    uint64
	host *raft.Host
	// up is host, for those who send to it before all are there.
	up     atomic.Pointer[raft.Host]
	seat   *route.Seat
	router *route.Router
	server *httptest.Server

	mu    sync.Mutex
	conns map[net.Conn]bool // of others to this peer
}

// newTrio starts the hosts, and where seated, a Seat and a Router on each.
func newTrio(t *testing.T, seated bool) *trio {
	t.Helper()
	x := &trio{t: t, root: bootHost(t, raft.Config{Replica: 100}, rootGroup)}
	for n := uint64(1); n <= peers; n++ {
		x.peers[n] = &member{trio: x, n: n, conns: map[net.Conn]bool{}}
	}
	for _, m := range x.members() {
		m.host = bootHost(t, raft.Config{
			Replica: m.n, Voters: []uint64{1, 2, 3}, Transport: m, Tick: 10 * time.Millisecond,
			PeerOf: func(_ raft.GroupID, replica uint64) (cluster.PeerID, bool) { return peerID(replica), true },
		}, tabletGroup)
		m.up.Store(m.host)
	}
	if seated {
		for _, m := range x.members() {
			m.sit()
		}
	}
	return x
}

func (x *trio) members() []*member { return x.peers[1:] }

func bootHost(t *testing.T, c raft.Config, group raft.GroupID) *raft.Host {
	t.Helper()
	c.FS, c.StateDir, c.Cluster = vfs.NewMemory(c.Replica), "/state", cluster.ClusterID{1}
	c.WriteBuffer, c.BlockCache, c.SlowMirror = 64<<10, 1<<20, 10*time.Second
	c.Machines = func(id raft.GroupID) raft.Machine {
		if id == rootGroup {
			return root.New()
		}
		return tablet.New()
	}
	for i := range 3 {
		dir := fmt.Sprintf("/d%d", i+1)
		if err := vfs.MkdirAll(c.FS, dir, 0o700); err != nil {
			t.Fatal(err)
		}
		c.Mirrors = append(c.Mirrors, raft.Mirror{Drive: cluster.DriveID{byte(i + 1), byte(c.Replica)}, Dir: dir})
	}
	h, err := raft.Bootstrap(t.Context(), c, group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// apart tells whether nothing passes between two peers; 0 is the peer with the root group, which is never cut off.
func (x *trio) apart(a, b uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cut[a] || x.cut[b]
}

// setCut cuts a peer off from all others, or brings it back. Its connections break, and what is in them is lost.
func (x *trio) setCut(n uint64, cut bool) {
	x.mu.Lock()
	x.cut[n] = cut
	x.mu.Unlock()
	if cut {
		for _, m := range x.members() {
			m.breakConns(n)
		}
	}
}

// breakConns breaks what a peer has to this one, or all when it is this one.
func (m *member) breakConns(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if n == m.n || c.(*conn).from == n {
			_ = c.Close() // broken on purpose
			delete(m.conns, c)
		}
	}
}

// Send implements raft.Transport.
func (m *member) Send(to cluster.PeerID, batch []byte) {
	n := uint64(to[0])
	host := m.trio.peers[n].up.Load()
	if m.trio.apart(m.n, n) || host == nil {
		return
	}
	if err := host.Receive(slices.Clone(batch)); err != nil {
		panic(err)
	}
}

func (m *member) tablet() raft.Member { return m.host.Group(tabletGroup) }

// leads tells whether this peer takes itself for the leader.
func (m *member) leads() bool { return m.tablet().Leader().Replica == m.n }

// rootClient asks the root group over the network.
func (m *member) rootClient() *root.Client {
	return root.NewClient(farGroup{m.trio.root.Group(rootGroup), m})
}

// farGroup is a group that a peer reaches while it is not cut off.
type farGroup struct {
	raft.Group
	from *member
}

var errCutOff = errors.New("cut off")

func (g farGroup) refused() error {
	if g.from.trio.apart(g.from.n, 0) {
		return fmt.Errorf("%w: %w", raft.ErrNotLeader, errCutOff)
	}
	return nil
}

func (g farGroup) Propose(ctx context.Context, command []byte) (any, error) {
	if err := g.refused(); err != nil {
		return nil, err
	}
	result, err := g.Group.Propose(ctx, command)
	if cut := g.refused(); err == nil && cut != nil {
		return nil, fmt.Errorf("%w: %w", raft.ErrUnknownOutcome, errCutOff)
	}
	return result, err
}

func (g farGroup) Barrier(ctx context.Context) (uint64, error) {
	if err := g.refused(); err != nil {
		return 0, err
	}
	return g.Group.Barrier(ctx)
}

// State is that of the root's own peer: it is read right after Barrier.
func (g farGroup) State() kv.Reader { return g.Group.State() }

// open makes a Catalog on this peer.
func (m *member) open(ctx context.Context) (*metadata.Catalog, error) {
	return metadata.New(ctx, metadata.Config{Root: m.rootClient(), Tablet: m.tablet()})
}

// conn is a connection between peers.
type conn struct {
	net.Conn
	from uint64
}

// names asks another peer as this one.
func (m *member) names(to *member) metadata.Names {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if m.trio.apart(m.n, to.n) {
			return nil, errCutOff
		}
		raw, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &conn{raw, m.n}
		to.mu.Lock()
		to.conns[c] = true
		to.mu.Unlock()
		if m.trio.apart(m.n, to.n) {
			to.breakConns(m.n)
		}
		return c, nil
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}
	m.trio.t.Cleanup(transport.CloseIdleConnections)
	return remote.New(&http.Client{Transport: transport}, to.server.URL, remote.Options{})
}

// sit starts a Seat, a Router, and what others ask.
func (m *member) sit() {
	t := m.trio.t
	m.seat = &route.Seat{
		Member: func() raft.Member { return m.tablet() }, Self: peerID(m.n), Open: m.open,
		PeerOf: func(replica uint64) (cluster.PeerID, bool) { return peerID(replica), true },
	}
	config := route.Config{Self: peerID(m.n), Leader: m.seat.Leader, Local: m.seat.Local, Patience: 30 * time.Second}
	m.server = httptest.NewUnstartedServer(remote.Handler(route.Local(config)))
	m.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.server.Start()
	t.Cleanup(m.server.Close)
	others := map[cluster.PeerID]metadata.Names{}
	var mu sync.Mutex
	config.Remote = func(id cluster.PeerID) metadata.Names {
		mu.Lock()
		defer mu.Unlock()
		if others[id] == nil && id != peerID(m.n) {
			others[id] = m.names(m.trio.peers[id[0]])
		}
		return others[id]
	}
	m.router = route.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.seat.Run(ctx) }()
	t.Cleanup(func() {
		if err := m.router.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if m.seat.Catalog() != nil {
			t.Error("a Catalog is left open")
		}
	})
}

// leader waits until one of the members, and no other one of them, takes itself for the leader, and can read.
func (x *trio) leader(among ...*member) *member {
	x.t.Helper()
	var found *member
	expect.Soon(x.t, "a leader", func() bool {
		found = nil
		for _, m := range among {
			if m.leads() {
				ctx, cancel := context.WithTimeout(x.t.Context(), 100*time.Millisecond)
				_, err := m.tablet().Barrier(ctx)
				cancel()
				if err == nil {
					found = m
				}
			}
		}
		return found != nil
	})
	return found
}

// moveTo makes a member lead.
func (x *trio) moveTo(m *member) {
	x.t.Helper()
	expect.Soon(x.t, fmt.Sprintf("peer %d leads", m.n), func() bool {
		now := x.leader(x.members()...)
		if now == m {
			return true
		}
		ctx, cancel := context.WithTimeout(x.t.Context(), time.Second)
		defer cancel()
		_ = now.tablet().Transfer(ctx, m.n) // looked at again
		return false
	})
}
