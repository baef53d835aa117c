// Package sim runs whole clusters in synctest bubbles, over a network and drives in memory: seeds draw what breaks, and
// checkers look at what the clients saw.
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	numbers "github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// layout is the cluster of every run: 5 peers, 12 drives, 3 zones.
var layout = []struct {
	zone   string
	drives int
}{{"z1", 3}, {"z2", 3}, {"z3", 2}, {"z1", 2}, {"z2", 2}}

const (
	memory      = 64 << 20
	logSegment  = 256 << 10
	stateBuffer = 256 << 10
	bucketName  = "sim"
	// grown is how long a new cluster takes, in the time of its bubble, until five peers vote.
	grown = 5 * time.Minute
)

// node is one machine: its drives survive it, its peer comes and goes.
type node struct {
	c    *cluster
	name string
	zone string
	// drives are the paths.
	drives []string
	// skew is what its clock is off by, in nanoseconds; asked counts how often somebody looked.
	skew, asked atomic.Int64
	// idle: its clients ask for nothing.
	idle atomic.Bool
	// gate, when not nil, stops what the tablet's replica here is asked to propose.
	gate atomic.Pointer[gate]

	mu     sync.Mutex
	fs     *vfs.Memory
	peer   *peer.Peer
	member raft.Member // of the tablet, as it is here
}

// cluster is five nodes in a bubble.
type cluster struct {
	seed  uint64
	net   *transport.Simulation
	nodes []*node
	bug   *bug
	// fences outlive the peers: what a drive refuses it refuses after a crash too.
	fences fences
	// skewed is set once a clock was wrong.
	skewed atomic.Bool

	mu         sync.Mutex
	complaints []string
	invalids   []string
}

// complain notes what the cluster did wrong.
func (c *cluster) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complaints = append(c.complaints, fmt.Sprintf(format, args...))
}

// bug is a rule that peers break on purpose.
type bug struct {
	name  string
	seams func(n *node, s *peer.Seams)
	// eager, when not zero, makes clients do much to one key, with pauses up to this: for what shows for moments only.
	eager time.Duration
	// chunked: every body has chunks.
	chunked bool
	// rounds is how many faults a run has; zero means roundsEach.
	rounds int
}

func newCluster(seed uint64, b *bug, files func(i int) *vfs.Memory) *cluster {
	c := &cluster{seed: seed, net: transport.NewSimulation(seed), bug: b}
	c.fences.c, c.fences.sealed = c, map[fence]numbers.Epoch{}
	c.net.Shape("", "", transport.Shape{Latency: 500 * time.Microsecond, Jitter: time.Millisecond})
	for i, at := range layout {
		n := &node{c: c, name: fmt.Sprintf("p%d", i+1), zone: at.zone, fs: files(i)}
		for d := range at.drives {
			n.drives = append(n.drives, fmt.Sprintf("/mnt/%s-d%d", n.name, d+1))
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

// invalid notes why a run proves nothing.
func (c *cluster) invalid(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.invalids = append(c.invalids, fmt.Sprintf(format, args...))
}

// now is the node's clock.
func (n *node) now() time.Time {
	n.asked.Add(1)
	return time.Now().Add(time.Duration(n.skew.Load()))
}

// start starts the node's peer. A token is for its first start.
func (n *node) start(token string) error {
	n.mu.Lock()
	fsys := n.fs
	n.mu.Unlock()
	seams := peer.Seams{
		FS: fsys, Now: n.now, Log: n.logger(), Network: n.c.net.Host(n.name), NoGossip: true, LogSegment: logSegment, StateBuffer: stateBuffer,
		RepairEvery: 5 * time.Second, Tablet: n.watch, Drive: n.c.fences.on,
	}
	if n.c.bug != nil && n.c.bug.seams != nil {
		n.c.bug.seams(n, &seams)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := peer.Start(ctx, peer.Config{
		Dir: "/data", Drives: n.drives, Name: n.name, Zone: n.zone, Listen: n.name + ":9000", Peer: n.name + ":9001",
		Join: token, Memory: memory, Version: "sim",
	}, seams)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.mu.Lock()
	n.peer = p
	n.mu.Unlock()
	return nil
}

// logger shows what peers say when SIM_LOG is set.
func (n *node) logger() *slog.Logger {
	if os.Getenv("SIM_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	level := slog.LevelInfo
	if os.Getenv("SIM_LOG") == "debug" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("at", n.name)
}

// watch remembers the tablet's replica.
func (n *node) watch(m raft.Member) raft.Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member = m
	return gated{m, n}
}

// gate is where proposals wait until it is opened.
type gate struct {
	opened  chan struct{}
	waiting atomic.Int64
}

// gated is a replica whose process can be stopped between deciding a write and proposing it.
type gated struct {
	raft.Member
	n *node
}

// Propose implements raft.Group. A process that was stopped after it had looked at the context goes on without.
func (m gated) Propose(ctx context.Context, command []byte) (any, error) {
	if g := m.n.gate.Load(); g != nil {
		g.waiting.Add(1)
		<-g.opened
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
	}
	return m.Member.Propose(ctx, command)
}

// lead makes another node lead the tablet in the place of this one.
func (n *node) lead(other *node) error {
	m := n.replica()
	if m == nil {
		return fmt.Errorf("%s is down", n.name)
	}
	voters, _ := m.Members()
	at := slices.IndexFunc(voters, func(id uint64) bool { return n.c.numbered(id) == other })
	if at < 0 {
		return fmt.Errorf("%s is no voter", other.name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := m.Transfer(ctx, voters[at]); err != nil {
		return fmt.Errorf("%s hands over to %s: %w", n.name, other.name, err)
	}
	return nil
}

// up is the running peer, nil while there is none.
func (n *node) up() *peer.Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peer
}

// files are the node's drives as they are now.
func (n *node) files() *vfs.Memory {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fs
}

// store is the object path of the node, nil while it does not serve.
func (n *node) store() *multipart.Store {
	if p := n.up(); p != nil {
		return p.Objects()
	}
	return nil
}

// replica is the tablet's on this node, nil before there is one.
func (n *node) replica() raft.Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.peer == nil {
		return nil
	}
	return n.member
}

// take ends the node's running and gives the peer that ran.
func (n *node) take() *peer.Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peer
	n.peer, n.member = nil, nil
	return p
}

// crash cuts the power of a node: what was not synced is lost, connections are forgotten.
func (n *node) crash() {
	p := n.take()
	if p == nil {
		return
	}
	n.c.net.PowerOff(n.name)
	n.mu.Lock()
	n.fs = n.fs.Crash()
	n.mu.Unlock()
	_ = p.Close() // its file system is gone: the errors say so
}

// stop ends a peer as an operator does.
func (n *node) stop() error {
	p := n.take()
	if p == nil {
		return nil
	}
	if err := p.Close(); err != nil {
		return fmt.Errorf("close %s: %w", n.name, err)
	}
	return nil
}

// leader is the node that leads the tablet, as most know it; a drawn one when nobody does.
func (c *cluster) leader(random *rand.Rand) *node {
	var best *node
	var term uint64
	for _, n := range c.nodes {
		m := n.replica()
		if m == nil {
			continue
		}
		if l := m.Leader(); l.Replica != 0 && l.Term >= term {
			if n := c.numbered(l.Replica); n != nil && n.up() != nil {
				best, term = n, l.Term
			}
		}
	}
	if best == nil {
		return c.nodes[random.IntN(len(c.nodes))]
	}
	return best
}

// numbered is the node that a replica is on, nil when there is none.
func (c *cluster) numbered(replica uint64) *node {
	if number := int(replica & 0xffff); number >= 1 && number <= len(c.nodes) {
		return c.nodes[number-1]
	}
	return nil
}

// eventually repeats what until it works, in the time of the bubble.
func eventually(limit time.Duration, what func() error) error {
	for end := time.Now().Add(limit); ; {
		err := what()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// found makes the cluster: the first peer, and the others by a token each.
func (c *cluster) found() error {
	for i, n := range c.nodes {
		token := ""
		if i > 0 {
			if err := eventually(time.Minute, func() error {
				answer, err := c.nodes[0].up().Admin().Token(context.Background(), 0)
				if err == nil {
					token = answer.Token
				}
				return err
			}); err != nil {
				return fmt.Errorf("token for %s: %w", n.name, err)
			}
		}
		if err := n.start(token); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := n.up().WaitReady(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s is not ready: %w", n.name, err)
		}
	}
	if err := eventually(grown, c.whole); err != nil {
		return err
	}
	return eventually(time.Minute, func() error {
		_, err := c.nodes[1].store().CreateBucket(context.Background(), bucketName, "sim")
		if errors.Is(err, metadata.ErrBucketExists) {
			return nil
		}
		return err
	})
}

// whole says why the cluster is not yet what it should be.
func (c *cluster) whole() error {
	for _, n := range c.nodes {
		m := n.replica()
		if n.store() == nil || m == nil {
			return fmt.Errorf("%s has no replica of the tablet", n.name)
		}
		if voters, learners := m.Members(); len(voters) != len(c.nodes) || len(learners) > 0 {
			return fmt.Errorf("%s knows of %d voters and %d learners", n.name, len(voters), len(learners))
		}
	}
	return nil
}

// stopAll ends every peer at once.
func (c *cluster) stopAll() error {
	errs := make([]error, len(c.nodes))
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		wait.Go(func() { errs[i] = n.stop() })
	}
	wait.Wait()
	time.Sleep(lingering)
	return errors.Join(errs...)
}

// lingering is how long goroutines of the database may outlive it: it empties a pool a second after it was closed.
const lingering = 5 * time.Second

// template is a cluster that was founded once: every run begins with copies of its drives.
type template struct {
	once  sync.Once
	files [5]*vfs.Memory
	age   time.Duration // how long its bubble lived
}

var golden template

// of founds the template the first time.
func (g *template) of(t *testing.T) *template {
	g.once.Do(func() {
		var files [5]*vfs.Memory
		for i := range files {
			files[i] = vfs.NewMemory(uint64(i))
		}
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			c := newCluster(1, nil, func(i int) *vfs.Memory { return files[i] })
			if err := c.found(); err != nil {
				t.Errorf("found the cluster: %v", err)
			}
			if err := c.stopAll(); err != nil {
				t.Error(err)
			}
			for i, n := range c.nodes {
				files[i] = n.files()
			}
			g.age = time.Since(begun)
		})
		if !t.Failed() {
			g.files = files
		}
	})
	if g.files[0] == nil {
		t.Fatal("there is no cluster to begin with")
	}
	return g
}

// open starts a copy of the template's cluster and waits until all of it serves.
func (g *template) open(seed uint64, b *bug) *cluster {
	time.Sleep(g.age + time.Second) // certificates and rows are not of the future
	c := newCluster(seed, b, func(i int) *vfs.Memory { return g.files[i].Copy(seed<<3 | uint64(i)) })
	var wait sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		wait.Go(func() { errs[i] = n.start("") })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		c.complain("%s", oneLine(err))
	} else if err := eventually(time.Minute, c.whole); err != nil {
		c.complain("the cluster does not start: %s", oneLine(err))
	}
	return c
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// pause lets the time of the bubble go on.
func pause(d time.Duration) { time.Sleep(d) }
