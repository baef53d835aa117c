package cluster

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// A cluster is restarted one peer after another while clients work, as for an upgrade, then all at once, and peers lose
// their own directories meanwhile.
func TestRestarts(t *testing.T) {
	chaosOnly(t)
	c, l := begin(t, testkit.ClusterOptions{Peers: 3, Drives: 4})
	w := startLoad(t, c, l, 4, 150)
	for _, n := range c.Nodes() {
		at := w.strike(n.Stop)
		w.goesOn(at)
		n.Start()
		c.WaitWhole(wholeLimit)
		wantGap(t, n.Name+" restarted", w.l.gap(at, time.Now()), 3*time.Second)
	}
	w.stop(oneInAThousand)
	l.check(t, c)

	// All stop at once: nobody is left to hand leadership to.
	stopAll(c)
	start(c.Nodes()...)
	c.WaitWhole(wholeLimit)
	l.check(t, c)

	// All die at once, under load, and one of them comes back without its own state.
	w = startLoad(t, c, l, 4, 150)
	w.strike(func() { kill(c.Nodes()...) })
	w.end() // what it saw is failures
	if w.failed.Load()+w.retried.Load() == 0 {
		t.Error("the clients did not see the death of all peers")
	}
	loseState(t, c.Nodes()[1])
	start(c.Nodes()...)
	c.WaitWhole(wholeLimit)
	l.check(t, c)

	// Every peer loses its own state, one after another, under load.
	w = startLoad(t, c, l, 4, 150)
	for _, n := range c.Nodes() {
		w.strike(n.Kill)
		loseState(t, n)
		n.Start()
		c.WaitWhole(wholeLimit)
	}
	w.progress(l.acknowledged(), 20)
	w.stop(oneInAThousand)
	l.check(t, c)
}

func stopAll(c *testkit.Cluster) {
	var wait sync.WaitGroup
	for _, n := range c.Nodes() {
		wait.Go(n.Stop)
	}
	wait.Wait()
}

// loseState removes everything that a peer keeps beside its drives.
func loseState(t *testing.T, n *testkit.Node) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(n.Dir, "peer")); err != nil {
		t.Fatalf("%s keeps no record of itself: nothing would be lost: %v", n.Name, err)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		t.Fatal(err)
	}
}
