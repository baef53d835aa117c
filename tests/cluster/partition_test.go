package cluster

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// Peers lose each other, but not their clients: one way, then in two halves. Work goes on, nothing is lost, and after it
// everybody is there again.
func TestPartitionsUnderLoad(t *testing.T) {
	chaosOnly(t)
	const peers = 6 // of five, two may hold six of the twelve shards of a chunk
	network := testkit.NewNetwork(t, peers)
	c, l := begin(t, testkit.ClusterOptions{Peers: peers, Drives: 2, Place: network.Place})
	index := func(n *testkit.Node) int {
		for i, other := range c.Nodes() {
			if other == n {
				return i
			}
		}
		t.Fatalf("%s is no peer", n.Name)
		return 0
	}
	if !network.Reaches(0, 1) {
		t.Fatal("the peers do not reach each other: no cut would be seen")
	}
	w := startLoad(t, c, l, 4, 150)

	// What the leader sends to one peer is lost.
	leader := index(c.Leader("tablet"))
	other := (leader + 1) % peers
	at := w.strike(func() { network.Cut(leader, other) })
	mustBeCut(t, network, leader, other)
	wantGap(t, "the leader cut off from one peer one way", w.goesOn(at), 10*time.Second)
	network.Heal(leader, other)
	c.WaitWhole(wholeLimit)

	// The leader and another are on the side of two.
	leader = index(c.Leader("tablet"))
	minority, majority := []int{leader, (leader + 1) % peers}, []int{}
	for i := 2; i < peers; i++ {
		majority = append(majority, (leader+i)%peers)
	}
	at = w.strike(func() { network.Between(minority, majority, network.Cut) })
	mustBeCut(t, network, minority[0], majority[0])
	wantGap(t, "halves", w.goesOn(at), 10*time.Second)
	lasts := time.NewTimer(time.Until(at.Add(time.Duration(pick(15, 90)) * time.Second)))
	<-lasts.C
	network.Between(minority, majority, network.Heal)
	healed := time.Now()
	testkit.Poll(t, wholeLimit, "full membership", func() bool { return allSeeAll(c) })
	wantGap(t, "full membership after the halves met", time.Since(healed), 15*time.Second)
	w.progress(l.acknowledged(), 20)
	w.stop(oneInAThousand)
	c.WaitWhole(wholeLimit)
	l.check(t, c)
}

func mustBeCut(t *testing.T, network *testkit.Network, from, to int) {
	t.Helper()
	if network.Reaches(from, to) {
		t.Fatal("the network is not cut")
	}
}

// allSeeAll tells whether every peer reaches every other.
func allSeeAll(c *testkit.Cluster) bool {
	for _, n := range c.Nodes() {
		st, err := n.Status()
		if err != nil || len(st.Peers) != len(c.Nodes()) {
			return false
		}
		for _, p := range st.Peers {
			if !p.Up {
				return false
			}
		}
	}
	return true
}
