package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/kv/kvtest"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// patience bounds what must happen.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	// goleveldb notices within a second that it was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

// group is a root group of one replica that applies at once.
type group struct {
	db      *kv.DB
	machine *root.Machine
	mu      sync.Mutex
	index   uint64
	// after is called when a command was applied, before its proposer hears of it. Its error is what the proposer hears.
	after atomic.Pointer[func(ctx context.Context, command []byte) error]
	// stopped: it takes no command.
	stopped atomic.Bool
}

func (g *group) ID() raft.GroupID { return 1 }

func (g *group) Propose(ctx context.Context, command []byte) (any, error) {
	if g.stopped.Load() {
		return nil, raft.ErrStopped
	}
	result, err := g.apply(command)
	if after := g.after.Load(); after != nil && err == nil {
		err = (*after)(ctx, command)
	}
	return result, err
}

func (g *group) apply(command []byte) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	b := g.db.NewBatch()
	result := g.machine.Apply(g.index, 1, command, g.db, b)
	return result, g.db.Write(b)
}

func (g *group) Barrier(context.Context) (uint64, error) { return 1, nil }
func (g *group) State() kv.Reader                        { return g.db }
func (g *group) Snapshot() (raft.Snapshot, error)        { return g.db.Snapshot() }

// onAdmission calls what once, when a peer's admission was applied: before the admitting peer knows.
func (g *group) onAdmission(what func(ctx context.Context) error) (fired *atomic.Bool) {
	fired = new(atomic.Bool)
	after := func(ctx context.Context, command []byte) error {
		if !bytes.Contains(command, []byte(tokenMagic)) || !bytes.Contains(command, []byte(`"number"`)) || fired.Swap(true) {
			return nil
		}
		return what(ctx)
	}
	g.after.Store(&after)
	return fired
}

// clock is the machines' clock, which tests set ahead.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// realm is a cluster: its root group and its peers.
type realm struct {
	*testing.T
	id       cluster.ClusterID
	group    *group
	client   *root.Client
	clock    clock
	founding *Founding
	network  func(host string) transport.Network
	// first is the peer that made the cluster.
	first *site
	log   expect.Buffer
}

func (r *realm) logger() *slog.Logger { return slog.New(slog.NewTextHandler(&r.log, nil)) }

// tcp is the machine's own network, whatever the host.
func tcp(string) transport.Network { return transport.TCP{} }

// newGroup makes a root group without rows.
func newGroup(t *testing.T) *group {
	t.Helper()
	return &group{db: kvtest.Open(t), machine: root.New()}
}

// newRealm makes a cluster of one peer with twelve drives, called first, which admits.
func newRealm(t *testing.T, network func(host string) transport.Network) *realm {
	t.Helper()
	r := &realm{T: t, id: cluster.ClusterID(cluster.NewID()), group: newGroup(t), network: network}
	r.client = root.NewClient(r.group)
	self := cluster.PeerID(cluster.NewID())
	founding, err := Found(r.id, self, r.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	r.founding = founding
	m := topology.Map{}
	if _, err := m.AddPeer(topology.Peer{ID: self, Name: "first", Zone: "z1", Peer: "first:1", Key: founding.Credentials.PublicKey(), Command: 3}); err != nil {
		t.Fatal(err)
	}
	for _, d := range drives(12) {
		d.Peer = self
		if err := m.SetDrive(d); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := topology.FoundingRows(m)
	if err == nil {
		_, err = r.client.PutRows(t.Context(), append(rows, founding.Rows...))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.first = r.start("first", founding.Credentials, founding.List, nil)
	return r
}

// drives are new ones, d1 and on.
func drives(n int) []topology.Drive {
	var list []topology.Drive
	for i := range n {
		list = append(list, topology.Drive{
			ID: cluster.DriveID(cluster.NewID()), Name: fmt.Sprintf("d%d", i+1), Path: fmt.Sprintf("/mnt/d%d", i+1), Device: uint64(i + 1), Size: 1 << 40,
		})
	}
	return list
}

// site is a running peer, as far as this package goes.
type site struct {
	r      *realm
	name   string
	id     cluster.PeerID
	trust  *trust.Store
	join   *Server
	server *transport.Server
	peers  *transport.Peers
	// alive is who seems to run.
	alive sync.Map
}

// start runs a peer until the test ends.
func (r *realm) start(name string, credentials *trust.Credentials, list trust.List, change func(*transport.ServerConfig)) *site {
	r.Helper()
	s := &site{r: r, name: name, id: credentials.Identity().Peer}
	var err error
	s.trust, err = trust.NewStore(trust.Config{Credentials: credentials, List: list, Protocols: transport.Protocols(), Now: r.clock.now})
	if err != nil {
		r.Fatal(err)
	}
	s.join = NewServer(Config{
		Root: r.client, IntegrityKey: [32]byte{7}, Now: r.clock.now, Log: r.logger(),
		Alive: func(id cluster.PeerID) bool { _, ok := s.alive.Load(id); return ok },
	})
	issuer := &Issuer{Root: r.client, Now: r.clock.now}
	address := "127.0.0.1:0"
	if _, real := r.network(name).(transport.TCP); !real {
		address = name + ":1"
	}
	config := transport.ServerConfig{
		Network: r.network(name), Address: address, Trust: s.trust, Join: s.join.Serve, Sentinels: Sentinels(), Log: r.logger(),
	}
	if change != nil {
		change(&config)
	}
	if s.server, err = transport.Listen(config, []transport.Route{issuer.Route()}, nil); err != nil {
		r.Fatal(err)
	}
	s.peers, err = transport.NewPeers(transport.PeersConfig{Network: config.Network, Trust: s.trust, Sentinels: Sentinels()})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		s.peers.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.server.Stop(ctx); err != nil {
			r.Error(err)
		}
	})
	return s
}

// token makes one that leads to these peers, or to the first, and takes it over a terminal.
func (r *realm) token(sites ...*site) *trust.Token {
	r.Helper()
	if len(sites) == 0 {
		sites = []*site{r.first}
	}
	var addresses []string
	for _, s := range sites {
		addresses = append(addresses, s.server.Addr())
	}
	made, err := NewToken(r.Context(), r.client, addresses, 0, r.clock.now())
	if err != nil {
		r.Fatal(err)
	}
	token, err := trust.ParseToken(made.Encode())
	if err != nil {
		r.Fatal(err)
	}
	return token
}

// ask is what a new peer of that name says.
func (r *realm) ask(name string, n int) Ask {
	return Ask{
		Name: name, Zone: "z2", Rack: "r1", PeerAddress: name + ":1", Gossip: name + ":2", S3: name + ":3", Drives: drives(n), Command: 3, Now: r.clock.now,
	}
}

// join lets a peer in, and starts it.
func (r *realm) join(name string, n int) (*site, *Answer) {
	r.Helper()
	answer, err := Join(r.Context(), r.network(name), r.token(), r.ask(name, n))
	if err != nil {
		r.Fatal(err)
	}
	return r.start(name, answer.Credentials, answer.List, nil), answer
}

func (r *realm) topology() topology.Map {
	r.Helper()
	m, err := topology.Load(r.Context(), r.client)
	if err != nil {
		r.Fatal(err)
	}
	return m
}

// kept is what the cluster keeps of a token.
func (r *realm) kept(token *trust.Token) Token {
	r.Helper()
	_, kept, err := readToken(r.Context(), r.client, token.ID)
	if err != nil {
		r.Fatal(err)
	}
	return kept
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "%!")) {
		t.Errorf("not one sentence: %q", err)
	}
}
