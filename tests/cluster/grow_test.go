package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/testkit"
)

// A machine with twelve drives becomes a cluster while clients work, and shrinks again, with no request failing.
func TestOneMachineGrowsAndShrinksUnderLoad(t *testing.T) {
	chaosOnly(t)
	c, l := begin(t, testkit.ClusterOptions{Peers: 1, Drives: 12})
	first := c.Nodes()[0]
	pid, began := first.PID(), time.Now()
	reached := func(what string) { t.Logf("after %v: %s", time.Since(began).Round(time.Second), what) }
	w := startLoad(t, c, l, 4, 150)
	w.progress(l.acknowledged(), 100)
	for _, step := range growth() {
		start := l.acknowledged()
		for len(c.Nodes()) < step.peers {
			w.strike(func() { c.Add(step.drives) })
		}
		testkit.Poll(t, wholeLimit, "the voters", func() bool { return voters(t, first) == step.voters })
		w.progress(start, 20)
		reached(fmt.Sprintf("%d peers, %d voters", step.peers, step.voters))
	}
	testkit.Poll(t, wholeLimit, "bytes to spread", func() bool { return spread(t, c) })
	reached("bytes are spread")
	c.WaitWhole(wholeLimit)
	leaving := c.Nodes()[1:pick(2, 3)]
	for _, n := range leaving {
		w.strike(func() { first.Holdfast(time.Minute, "peer", "drain", n.Name) })
	}
	for _, n := range leaving {
		testkit.Poll(t, 2*wholeLimit, n.Name+" to be empty and removed", func() bool { return remove(t, first, n.Name) })
		reached(n.Name + " is removed")
		n.Stop()
		c.Forget(n)
	}
	w.progress(l.acknowledged(), 20)
	w.stop(0)
	c.WaitWhole(wholeLimit)
	reached("whole")
	if now := first.PID(); now != pid {
		t.Errorf("the first peer was restarted: process %d, was %d", now, pid)
	}
	l.check(t, c)
}

type growthStep struct{ peers, drives, voters int }

func growth() []growthStep {
	if long() {
		return []growthStep{{3, 4, 3}, {5, 4, 5}, {12, 4, 5}}
	}
	return []growthStep{{3, 2, 3}, {5, 2, 5}}
}

// voters is how many voters both groups have, 0 when they differ.
func voters(t *testing.T, n *testkit.Node) int {
	t.Helper()
	st, err := n.Status()
	if err != nil || len(st.Groups) != 2 || len(st.Groups[0].Voters) != len(st.Groups[1].Voters) {
		return 0
	}
	return len(st.Groups[0].Voters)
}

// spread tells whether everything survives the loss of a peer, as new objects do in a cluster of three or more, and
// every peer holds a part.
func spread(t *testing.T, c *testkit.Cluster) bool {
	t.Helper()
	st, err := c.Up()[0].Status()
	if err != nil || st.Losses.Bytes.Peers < 1 || st.Protection.Chunks > 0 || st.Protection.Volumes > 0 {
		return false
	}
	for _, n := range c.Nodes() {
		if bytesOn(st, n.Name) == 0 {
			return false
		}
	}
	return true
}

// bytesOn is what the drives of a peer hold.
func bytesOn(st *admin.Status, peer string) int64 {
	var sum int64
	for _, d := range st.Drives {
		if d.Peer == peer {
			sum += d.Bytes
		}
	}
	return sum
}

// remove removes a drained peer when it is empty.
func remove(t *testing.T, at *testkit.Node, name string) bool {
	t.Helper()
	out, err := at.Try(time.Minute, "peer", "rm", name)
	if err != nil {
		return false
	}
	t.Logf("%s", out)
	return true
}
