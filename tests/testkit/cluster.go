package testkit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"
)

// ClusterOptions say how a cluster begins.
type ClusterOptions struct {
	Peers  int // that it begins with
	Drives int // of each peer
	Zones  int // peer i stands in zone i mod Zones; 0: no zones are named
	// DriveSize, when not 0, makes each of these drives a file system of its own with so many bytes, in memory, so that how
	// full it is means something. It needs root; the test is skipped without.
	DriveSize int64
	// Args are added to the command line of every peer.
	Args []string
	// Place, when not nil, gives the host of peer i and the words to put before its command line: a network namespace.
	// Nil is an address of the loopback network for each.
	Place func(i int) (host string, before []string)
}

// Cluster is several peers, each a `holdfast server` process with an address, a directory and drives of its own.
type Cluster struct {
	t       testing.TB
	options ClusterOptions
	dir     string
	network string // first three bytes of the hosts' addresses

	all []*Node // those that were forgotten too

	mu    sync.Mutex
	nodes []*Node
}

// StartCluster starts a cluster and waits until it is whole. Everything is gone when the test ends.
func StartCluster(t testing.TB, options ClusterOptions) *Cluster {
	t.Helper()
	c := &Cluster{t: t, options: options, dir: t.TempDir(), network: fmt.Sprintf("127.%d.%d", 1+rand.IntN(250), 1+rand.IntN(250))}
	t.Cleanup(c.cleanup)
	for range options.Peers {
		c.Add(options.Drives)
	}
	c.WaitWhole(2 * time.Minute)
	return c
}

// Add starts one more peer, with a token of its own, and waits until it takes part. The first one makes the cluster.
func (c *Cluster) Add(drives int) *Node {
	c.t.Helper()
	return c.AddSized(drives, c.options.DriveSize)
}

// AddSized is Add with drives of a size (ClusterOptions.DriveSize).
func (c *Cluster) AddSized(drives int, size int64) *Node {
	c.t.Helper()
	n := c.newNode(drives)
	if size > 0 {
		n.mountDrives(size)
	}
	if len(c.Nodes()) > 0 {
		n.token = c.token()
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	c.all = append(c.all, n)
	n.Start()
	Poll(c.t, time.Minute, n.Name+" to take part", func() bool {
		n.mustRun()
		st, err := n.Status()
		return err == nil && len(st.Peers) == len(c.members())
	})
	return n
}

// members are the nodes that were started and not removed.
func (c *Cluster) members() []*Node {
	var list []*Node
	for _, n := range c.Nodes() {
		if n.process != nil {
			list = append(list, n)
		}
	}
	return list
}

func (c *Cluster) newNode(drives int) *Node {
	i := len(c.Nodes())
	n := &Node{c: c, Name: fmt.Sprintf("p%d", i+1), Host: fmt.Sprintf("%s.%d", c.network, i+1), down: true}
	if c.options.Place != nil {
		n.Host, n.before = c.options.Place(i)
	}
	if c.options.Zones > 0 {
		n.Zone = fmt.Sprintf("z%d", i%c.options.Zones+1)
	}
	n.Endpoint = "http://" + net.JoinHostPort(n.Host, "9000")
	n.Dir = filepath.Join(c.dir, n.Name, "state")
	for d := range drives {
		n.Drives = append(n.Drives, filepath.Join(c.dir, n.Name, fmt.Sprintf("d%d", d+1)))
	}
	return n
}

// token asks the nodes that run for a token until one gives it.
func (c *Cluster) token() string {
	c.t.Helper()
	var last string
	for _, n := range c.Up() {
		out, all, err := n.run(30*time.Second, "cluster", "token")
		if err == nil {
			return strings.TrimSpace(out)
		}
		last = fmt.Sprintf("%v: %s", err, all)
	}
	c.t.Fatalf("no peer gives a token: %s", last)
	return ""
}

// Nodes are all nodes, in the order in which they came.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Up are the nodes that run.
func (c *Cluster) Up() []*Node {
	var up []*Node
	for _, n := range c.Nodes() {
		if n.Alive() {
			up = append(up, n)
		}
	}
	return up
}

// Named finds a node.
func (c *Cluster) Named(name string) *Node {
	c.t.Helper()
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("no peer is named %q", name)
	return nil
}

// Forget takes a node that was removed from the cluster out of the list. It must not run.
func (c *Cluster) Forget(n *Node) {
	c.t.Helper()
	if n.Alive() {
		c.t.Fatalf("%s still runs", n.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.nodes {
		if other == n {
			c.nodes = append(c.nodes[:i:i], c.nodes[i+1:]...)
			return
		}
	}
}

// WaitWhole waits until every node runs, says that all is as it should be, and each group has its voters.
func (c *Cluster) WaitWhole(limit time.Duration) {
	c.t.Helper()
	why := ""
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		if why = c.notWhole(); why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("after %v the cluster is not whole: %s", limit, why)
		}
	}
}

// notWhole says what is missing, nothing when the cluster is whole.
func (c *Cluster) notWhole() string {
	nodes := c.Nodes()
	for _, n := range nodes {
		n.mustRun()
		st, err := n.Status()
		if err != nil {
			return fmt.Sprintf("%s gives no status: %v", n.Name, err)
		}
		if !st.Whole() || len(st.Peers) != len(nodes) {
			text, _, _ := n.run(10*time.Second, "status") // for people; it fails when something is wrong
			return fmt.Sprintf("%s, of %d peers, says:\n%s", n.Name, len(nodes), text)
		}
		for _, g := range st.Groups {
			if len(g.Voters) != g.Target || len(g.Learners) > 0 {
				return fmt.Sprintf("%s: the %s has %d voters and %d learners, and should have %d", n.Name, g.Name, len(g.Voters), len(g.Learners), g.Target)
			}
		}
	}
	return ""
}

// Leader waits for a group, "root" or "tablet", to have a leader that runs, and returns it.
func (c *Cluster) Leader(group string) *Node {
	c.t.Helper()
	var leader *Node
	Poll(c.t, time.Minute, "a leader of the "+group, func() bool {
		for _, n := range c.Up() {
			g, err := n.Group(group)
			if err == nil && g.Leader != "" && c.Named(g.Leader).Alive() {
				leader = c.Named(g.Leader)
				return true
			}
		}
		return false
	})
	return leader
}

// MakeBucket makes a bucket through the first node that runs.
func (c *Cluster) MakeBucket(name string) {
	c.t.Helper()
	client := c.Up()[0].S3()
	Poll(c.t, 30*time.Second, "bucket "+name, func() bool {
		_, err := client.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: &name})
		return err == nil || strings.Contains(err.Error(), "BucketAlreadyOwnedByYou")
	})
}

// cleanup kills what still runs, and shows what the nodes said when the test failed.
func (c *Cluster) cleanup() {
	for _, n := range c.Nodes() {
		if n.process != nil {
			n.setDown(true)
			n.process.kill(c.t)
		}
	}
	for _, n := range c.all {
		for _, dir := range n.mounts {
			if err := unix.Unmount(dir, 0); err != nil {
				c.t.Errorf("unmount %s: %v", dir, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)))
			}
		}
	}
	if !c.t.Failed() {
		return
	}
	for _, n := range c.Nodes() {
		c.t.Logf("output of %s:\n%s", n.Name, tail(n.Output(), 32<<10))
	}
}
