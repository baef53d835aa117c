package cluster

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// Two of six peers die at once, then others one after another, and drives of several peers; nothing is lost and work
// goes on. (Of five, two may hold six of the twelve shards of a chunk: status then says that one may go.)
func TestPeersAndDrivesDieUnderLoad(t *testing.T) {
	chaosOnly(t)
	c, l := begin(t, testkit.ClusterOptions{Peers: 6, Drives: 2})
	nodes := c.Nodes()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })

	w := startLoad(t, c, l, 4, 150)
	w.progress(l.acknowledged(), 40)
	at := w.strike(func() { kill(nodes[:2]...) })
	wantGap(t, "two peers killed at once", w.goesOn(at), 5*time.Second)
	w.progress(l.acknowledged(), 60)
	w.stop(oneInAThousand)
	if up := len(c.Up()); up != 4 {
		t.Fatalf("%d peers are up", up)
	}
	l.check(t, c)
	start(nodes[:2]...)
	c.WaitWhole(wholeLimit)

	w = startLoad(t, c, l, 4, 150)
	for _, n := range nodes[:pick(1, 4)] {
		at := w.strike(func() { kill(n) })
		wantGap(t, n.Name+" killed", w.goesOn(at), 3*time.Second)
		start(n)
		c.WaitWhole(wholeLimit)
	}
	var back []func()
	at = w.strike(func() {
		back = append(back, nodes[0].RemoveDrives(0, 1), nodes[1].RemoveDrives(0), nodes[2].RemoveDrives(1))
	})
	wantGap(t, "four drives gone", w.goesOn(at), 5*time.Second)
	testkit.Poll(t, wholeLimit, "the loss of four drives to be seen", func() bool {
		st, err := nodes[4].Status()
		return err == nil && st.DrivesUp == 8
	})
	w.progress(l.acknowledged(), 40)
	w.stop(oneInAThousand)
	l.check(t, c)
	for _, b := range back {
		b()
	}
	c.WaitWhole(wholeLimit)
	l.check(t, c)
}

// Leaders are killed one after another: of the names, and of the root.
func TestLeadersAreKilledUnderLoad(t *testing.T) {
	c, l := begin(t, testkit.ClusterOptions{Peers: 3, Drives: 4})
	w := startLoad(t, c, l, 6, 0)
	var gaps []time.Duration
	for i := range pick(3, 30) {
		leader := c.Leader([]string{"tablet", "root"}[i%2])
		at := w.strike(func() { kill(leader) })
		gap := w.goesOn(at)
		t.Logf("%s killed: no write for %v", leader.Name, gap.Round(time.Millisecond))
		gaps = append(gaps, gap)
		start(leader)
		c.WaitWhole(wholeLimit)
	}
	w.stop(oneInAThousand)
	wantGap(t, "leaders killed, 99th percentile", percentile(gaps, 99), 3*time.Second)
	l.check(t, c)
}

func kill(nodes ...*testkit.Node) {
	for _, n := range nodes {
		n.Kill()
	}
}

func start(nodes ...*testkit.Node) {
	for _, n := range nodes {
		n.Start()
	}
}
