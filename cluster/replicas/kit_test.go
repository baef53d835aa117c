package replicas_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	rootGroup raft.GroupID = 1
	tablet    raft.GroupID = 2
	// patience bounds, in virtual time, what must happen.
	patience = 15 * time.Minute
	// stateLingers is how long goleveldb keeps a goroutine after the close of a DB: a bubble must wait for it.
	stateLingers = 2 * time.Second
)

// set is a machine that keeps every command that it ever saw.
type set struct{}

const setPrefix = "m/"

func (set) Apply(_, _ uint64, command []byte, _ kv.Reader, b kv.Batch) any {
	b.Put(append([]byte(setPrefix), command...), nil)
	return nil
}
func (set) Spans() []kv.Span { return []kv.Span{{Start: []byte(setPrefix), End: []byte("m0")}} }
func (set) Restored()        {}

// kit is a cluster in a bubble.
type kit struct {
	t   *testing.T
	set replicas.Settings
	// split, when it is not nil, tells between which peers batches are lost.
	split func(from, to cluster.PeerID) bool
	// pause is that of a client of the load between two commands; zero means 20 ms, in which one is always in flight.
	pause time.Duration
	// tick is that of Raft; zero means 100 ms.
	tick time.Duration
	// hook is called before and after calls to other peers and after steps; see hooks.
	hook func(h hooked) error

	mu    sync.Mutex
	peers []*peer
	m     topology.Map
	cut   map[cluster.PeerID]time.Time // since when a peer is cut off
	steps []string                     // every step that was carried out, without an error
}

// hooked is a moment in which a test may intervene.
type hooked struct {
	peer   *peer  // whose worker it is
	moment string // "create", "created", "remove", "removed", "list", and "step " with the kind of one that was done
	to     cluster.PeerID
}

// peer is one peer of a kit.
type peer struct {
	kit    *kit
	number uint16
	id     cluster.PeerID
	// The rest is guarded by the kit's mu; host is nil while the peer is down.
	f      *vfs.Memory
	host   *raft.Host
	worker *replicas.Worker
	stop   context.CancelFunc
	ended  chan struct{}
}

// newKit is a cluster of one peer.
func newKit(t *testing.T, settings replicas.Settings) *kit {
	k := &kit{t: t, set: settings, cut: map[cluster.PeerID]time.Time{}, m: topology.Map{Epoch: 1}}
	k.join("a")
	return k
}

// newSlowKit is one whose Raft has a slow clock: a leader without followers learns of it after 10 to 20 s.
func newSlowKit(t *testing.T) *kit {
	k := &kit{t: t, cut: map[cluster.PeerID]time.Time{}, m: topology.Map{Epoch: 1}, tick: time.Second}
	k.join("a")
	return k
}

// join adds a peer. The first one has the groups.
func (k *kit) join(zone string) *peer {
	k.t.Helper()
	k.mu.Lock()
	n := uint16(len(k.peers) + 1)
	p := &peer{kit: k, number: n, id: cluster.PeerID{byte(n)}, f: vfs.NewMemory(uint64(n))}
	k.peers = append(k.peers, p)
	k.m = topology.Map{Epoch: k.m.Epoch + 1, Peers: append(slices.Clone(k.m.Peers),
		topology.Peer{ID: p.id, Number: n, Name: fmt.Sprint("p", n), Zone: zone, State: topology.Active})}
	k.mu.Unlock()
	var groups []raft.GroupID
	if n == 1 {
		groups = []raft.GroupID{rootGroup, tablet}
	}
	h, err := raft.Bootstrap(k.t.Context(), p.config(p.f), groups...)
	if err != nil {
		k.t.Fatal(err)
	}
	p.run(h, p.f)
	return p
}

func (p *peer) config(f *vfs.Memory) raft.Config {
	c := raft.Config{
		FS: f, StateDir: "/main/raft", Cluster: cluster.ClusterID{1, 2, 3}, Replica: uint64(p.number),
		Machines: func(g raft.GroupID) raft.Machine {
			if g == rootGroup {
				return root.New()
			}
			return set{}
		},
		SegmentSize: 64 << 10, WriteBuffer: 64 << 10, BlockCache: 1 << 20, Tick: cmp.Or(p.kit.tick, 100*time.Millisecond), SlowMirror: 5 * time.Second,
		Transport: wires{p}, Snapshots: freight{p},
		PeerOf: func(_ raft.GroupID, replica uint64) (cluster.PeerID, bool) {
			return cluster.PeerID{byte(replicas.PeerNumber(replica))}, true
		},
	}
	for i := range 3 {
		dir := fmt.Sprintf("/drives/d%d", i)
		if err := vfs.MkdirAll(f, dir, 0o700); err != nil {
			p.kit.t.Fatal(err)
		}
		c.Mirrors = append(c.Mirrors, raft.Mirror{Drive: cluster.DriveID{byte(p.number), byte(i + 1)}, Dir: dir})
	}
	return c
}

// run starts the worker over an open host.
func (p *peer) run(h *raft.Host, f *vfs.Memory) {
	k := p.kit
	w := replicas.New(replicas.Config{
		Host: h, Self: p.id, Map: k.current, Reachable: func(to cluster.PeerID) (bool, time.Time) { return k.reachable(p.id, to) },
		Generation: func(ctx context.Context) (uint64, error) { return root.NewClient(routed{p}).Allocate(ctx, root.Any) },
		Peers:      calls{p}, Settings: func() replicas.Settings { return k.set }, Log: slog.New(&stepLog{p: p}),
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	k.mu.Lock()
	p.f, p.host, p.worker, p.stop, p.ended = f, h, w, stop, ended
	k.mu.Unlock()
	go func() {
		defer close(ended)
		_ = w.Run(ctx) // it ends with ctx, without an error
	}()
}

// kill ends a peer's process and keeps what it left on its drives.
func (p *peer) kill() {
	k := p.kit
	k.mu.Lock()
	h, stop, ended := p.host, p.stop, p.ended
	p.host = nil
	if h != nil {
		p.f = p.f.Kill()
		k.cut[p.id] = time.Now()
	}
	k.mu.Unlock()
	if h == nil {
		return
	}
	stop()
	_ = h.Close() // its file system is gone
	<-ended
}

// start starts a peer again.
func (p *peer) start() {
	p.kit.t.Helper()
	h, err := raft.Open(context.Background(), p.config(p.f))
	if err != nil {
		p.kit.t.Fatalf("peer %d: %v", p.number, err)
	}
	p.run(h, p.f)
	p.heal()
}

// wipe kills a peer, which returns with other drives: it holds nothing.
func (p *peer) wipe() {
	p.kit.t.Helper()
	p.kill()
	f := vfs.NewMemory(1000 + uint64(p.number))
	h, err := raft.Bootstrap(context.Background(), p.config(f))
	if err != nil {
		p.kit.t.Fatalf("peer %d: %v", p.number, err)
	}
	p.run(h, f)
	p.heal()
}

// isolate cuts a peer off; heal ends it.
func (p *peer) isolate() {
	p.kit.mu.Lock()
	defer p.kit.mu.Unlock()
	p.kit.cut[p.id] = time.Now()
}

func (p *peer) heal() {
	p.kit.mu.Lock()
	defer p.kit.mu.Unlock()
	delete(p.kit.cut, p.id)
}

// set changes what the map says of a peer.
func (p *peer) set(state topology.State) {
	p.kit.mu.Lock()
	defer p.kit.mu.Unlock()
	m := topology.Map{Epoch: p.kit.m.Epoch + 1, Peers: slices.Clone(p.kit.m.Peers)}
	m.Peers[p.number-1].State = state
	p.kit.m = m
}

func (k *kit) current() topology.Map {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.m
}

func (k *kit) reachable(from, to cluster.PeerID) (bool, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	since, cut := k.cut[to]
	if own, off := k.cut[from]; off && !cut {
		since, cut = own, true
	}
	return !cut, since
}

// hostOf is a host that can be reached from a peer, nil when it cannot.
func (k *kit) hostOf(from, to cluster.PeerID) *raft.Host {
	if ok, _ := k.reachable(from, to); !ok && from != to {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if int(to[0]) > len(k.peers) {
		return nil
	}
	return k.peers[to[0]-1].host
}

// hosts are all that are up, in the order of their peers.
func (k *kit) hosts() (list []*raft.Host) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.peers {
		if _, cut := k.cut[p.id]; p.host != nil && !cut {
			list = append(list, p.host)
		}
	}
	return list
}

type wires struct{ from *peer }

// latency is how long a batch is under way: without it nothing is ever in flight when something happens.
const latency = 5 * time.Millisecond

func (w wires) Send(to cluster.PeerID, batch []byte) {
	batch = slices.Clone(batch)
	time.AfterFunc(latency, func() {
		k := w.from.kit
		h := k.hostOf(w.from.id, to)
		if h == nil || k.splits(w.from.id, to) {
			return
		}
		if err := h.Receive(batch); err != nil {
			panic(err)
		}
	})
}

// splits tells whether batches between two peers are lost although both can be reached.
func (k *kit) splits(from, to cluster.PeerID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.split != nil && k.split(from, to)
}

type freight struct{ from *peer }

func (f freight) Send(ctx context.Context, to raft.PeerReplica, stream io.Reader) error {
	h := f.from.kit.hostOf(f.from.id, to.Peer)
	if h == nil {
		return errCut
	}
	return h.Install(ctx, to.Group, stream)
}

// routed is the root group through whoever leads it.
type routed struct{ from *peer }

func (r routed) ID() raft.GroupID { return rootGroup }

func (r routed) Propose(ctx context.Context, command []byte) (any, error) {
	err := error(raft.ErrNotLeader)
	for _, p := range r.from.kit.current().Peers {
		h := r.from.kit.hostOf(r.from.id, p.ID)
		if h == nil || r.from.kit.splits(r.from.id, p.ID) {
			continue
		}
		g := h.Group(rootGroup)
		if g == nil {
			continue
		}
		var result any
		if result, err = g.Propose(ctx, command); !errors.Is(err, raft.ErrNotLeader) {
			return result, err
		}
	}
	return nil, err
}

func (r routed) Barrier(context.Context) (uint64, error) { return 0, raft.ErrNotLeader }
func (r routed) State() kv.Reader                        { return nil }
func (r routed) Snapshot() (raft.Snapshot, error)        { return nil, raft.ErrNotLeader }

var (
	errCut  = errors.New("cut off")
	errLost = errors.New("the answer was lost")
)

// calls reaches other peers' hosts directly.
type calls struct{ from *peer }

func (c calls) call(to cluster.PeerID, before, after string, do func(h *raft.Host) error) error {
	k := c.from.kit
	if err := k.hooked(hooked{c.from, before, to}); err != nil {
		return err
	}
	h := k.hostOf(c.from.id, to)
	if h == nil {
		return errCut
	}
	if err := do(h); err != nil {
		return err
	}
	return k.hooked(hooked{c.from, after, to})
}

func (k *kit) hooked(h hooked) error {
	k.mu.Lock()
	hook := k.hook
	k.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(h)
}

func (k *kit) setHook(hook func(hooked) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hook = hook
}

func (c calls) Create(ctx context.Context, to cluster.PeerID, group raft.GroupID, replica uint64) error {
	return c.call(to, "create", "created", func(h *raft.Host) error { return h.Create(ctx, group, replica) })
}

func (c calls) Remove(ctx context.Context, to cluster.PeerID, group raft.GroupID, replica uint64) error {
	return c.call(to, "remove", "removed", func(h *raft.Host) error { return h.Remove(ctx, group, replica) })
}

func (c calls) List(_ context.Context, to cluster.PeerID) (list []replicas.Hosted, err error) {
	err = c.call(to, "list", "listed", func(h *raft.Host) (err error) { list, err = replicas.HostedBy(h); return err })
	return list, err
}

// stepLog hears of the steps of a worker.
type stepLog struct {
	slog.Handler
	p *peer
}

func (*stepLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *stepLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *stepLog) WithGroup(string) slog.Handler          { return l }

func (l *stepLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "replicas" {
		return nil
	}
	var kind, line string
	done := true
	r.Attrs(func(a slog.Attr) bool {
		switch {
		case a.Key == "step":
			kind = a.Value.String()
		case a.Key == "err":
			done = a.Value.Any() == nil
		}
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	k := l.p.kit
	k.mu.Lock()
	if done {
		k.steps = append(k.steps, fmt.Sprintf("by peer %d:%s", l.p.number, line))
	}
	k.mu.Unlock()
	if r.Level >= slog.LevelInfo {
		k.t.Logf("%s peer %d:%s", time.Now().Format(time.TimeOnly), l.p.number, line)
	}
	if done {
		_ = k.hooked(hooked{l.p, "step " + kind, cluster.PeerID{}}) // the step is done whatever the hook says
	}
	return nil
}

// did counts the steps of a kind so far.
func (k *kit) did(kind string) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, line := range k.steps {
		if strings.Contains(line, " step="+kind+" ") {
			n++
		}
	}
	return n
}

func (k *kit) eventually(what string, condition func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("never: %s; %s", what, k.describe())
		}
	}
}

func (k *kit) describe() string {
	var b strings.Builder
	for _, g := range []raft.GroupID{rootGroup, tablet} {
		leader, voters, learners := k.members(g)
		fmt.Fprintf(&b, "group %d: leader on peer %d, voters %x, learners %x; ", g, leader, voters, learners)
	}
	return b.String()
}

// members asks the leader of a group; leader is the number of its peer, 0 when there is none.
func (k *kit) members(g raft.GroupID) (leader uint16, voters, learners []uint64) {
	for _, h := range k.hosts() {
		m := h.Group(g)
		if m == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := m.Barrier(ctx)
		cancel()
		if err != nil {
			continue
		}
		ids, err := h.Replicas()
		if err != nil {
			continue
		}
		voters, learners = m.Members()
		return replicas.PeerNumber(ids[g]), voters, learners
	}
	return 0, nil, nil
}

func (k *kit) leader(g raft.GroupID) (p *peer) {
	k.t.Helper()
	k.eventually("somebody leads", func() bool {
		n, _, _ := k.members(g)
		if n != 0 {
			p = k.peers[n-1]
		}
		return n != 0
	})
	return p
}

// settled tells whether a group has so many voters, no learner, and no voter on a peer that is leaving, and whether nobody
// else has a replica of it.
func (k *kit) settled(g raft.GroupID, voters int) bool {
	_, have, learners := k.members(g)
	if len(have) != voters || len(learners) > 0 {
		return false
	}
	m := k.current()
	for _, id := range have {
		if p, ok := m.ByNumber(replicas.PeerNumber(id)); !ok || p.State != topology.Active {
			return false
		}
	}
	held := 0
	for _, h := range k.hosts() {
		ids, err := h.Replicas()
		if err != nil {
			return false
		}
		if id, here := ids[g]; here {
			if !slices.Contains(have, id) {
				return false
			}
			held++
		}
	}
	return held == voters
}

// wantSettled waits until both groups are settled.
func (k *kit) wantSettled(what string, voters int) {
	k.t.Helper()
	k.eventually(what, func() bool { return k.settled(rootGroup, voters) && k.settled(tablet, voters) })
}

// grown is a kit with so many peers, in zones of their own, and so many voters.
func grown(t *testing.T, peers, voters int, settings replicas.Settings) *kit {
	k := newKit(t, settings)
	for i := 1; i < peers; i++ {
		k.join(fmt.Sprintf("%c", 'a'+i))
	}
	k.wantSettled("the cluster has grown", voters)
	synctest.Wait() // the last step is done and logged: no hook hears of it
	return k
}

// close ends all peers; leaders hand over to those who are left, the last has nobody.
func (k *kit) close() {
	k.t.Helper()
	for _, p := range k.peers {
		k.mu.Lock()
		h, stop, ended := p.host, p.stop, p.ended
		k.mu.Unlock()
		if h == nil {
			continue
		}
		stop()
		<-ended
		if err := h.Close(); err != nil {
			k.t.Errorf("close peer %d: %v", p.number, err)
		}
		k.mu.Lock()
		p.host = nil
		k.mu.Unlock()
	}
	time.Sleep(stateLingers)
	synctest.Wait()
}

// load proposes to the tablet until it is ended.
type load struct {
	kit    *kit
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	acked   []string
	retries int
}

const loadClients = 4

// load starts a load.
func (k *kit) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{kit: k, cancel: cancel}
	for client := range loadClients {
		l.wait.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.propose(fmt.Sprintf("client %d command %d", client, i))
				time.Sleep(cmp.Or(k.pause, 20*time.Millisecond))
			}
		})
	}
	return l
}

// propose tries until somebody accepts it; the same command twice is one.
func (l *load) propose(command string) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.kit.t.Errorf("never accepted: %s; %s", command, l.kit.describe())
			return
		}
		for _, h := range l.kit.hosts() {
			m := h.Group(tablet)
			if m == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			_, err := m.Propose(ctx, []byte(command))
			cancel()
			l.mu.Lock()
			if err == nil {
				l.acked = append(l.acked, command)
			} else if !errors.Is(err, raft.ErrNotLeader) {
				l.retries++
			}
			l.mu.Unlock()
			if err == nil {
				return
			}
		}
	}
}

// count is how many commands were acknowledged so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// end ends the load and looks for everything that was acknowledged, at every voter.
func (l *load) end() {
	k := l.kit
	k.t.Helper()
	l.cancel()
	l.wait.Wait()
	if len(l.acked) < 10 {
		k.t.Errorf("only %d commands were acknowledged: there was no load", len(l.acked))
	}
	k.t.Logf("%d commands acknowledged, %d retries", len(l.acked), l.retries)
	_, voters, _ := k.members(tablet)
	for _, h := range k.hosts() {
		ids, err := h.Replicas()
		if err != nil || !slices.Contains(voters, ids[tablet]) {
			continue
		}
		k.eventually("everything acknowledged is there", func() bool {
			state := h.Group(tablet).State()
			for _, command := range l.acked {
				if _, err := state.Get([]byte(setPrefix + command)); err != nil {
					return false
				}
			}
			return true
		})
	}
}
