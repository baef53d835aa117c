package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// Two peers die at once, then others one after another, and drives of several peers; nothing is lost and work goes on.
// (Of five peers, two may hold six of the twelve shards of a chunk: status then says that one may go.)
func TestPeersAndDrivesDieUnderLoad(t *testing.T) {
	chaosOnly(t)
	peers := pick(6, 12)
	c, l := begin(t, testkit.ClusterOptions{Peers: peers, Drives: 12 / peers, Zones: pick(0, 3)})
	nodes := c.Nodes()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })

	w := startLoad(t, c, l, 4, 150)
	w.progress(l.acknowledged(), 40)
	at := w.strike(func() { kill(nodes[:2]...) })
	wantGap(t, "two peers killed at once", w.goesOn(at), 5*time.Second)
	w.progress(l.acknowledged(), 60)
	w.stop(oneInAThousand)
	if up := len(c.Up()); up != peers-2 {
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
	st, err := nodes[0].Status()
	if err != nil {
		t.Fatal(err)
	}
	if st.Losses.Names.Drives < 4 || st.Losses.Root.Drives < 4 || st.Losses.Bytes.Drives < 4 {
		t.Errorf("bytes survive %+v, names %+v, root %+v", st.Losses.Bytes, st.Losses.Names, st.Losses.Root)
	}
	hit := named(c, worst(st)) // the drives of those that vote
	at = w.strike(func() {
		for _, n := range hit[:4] {
			back = append(back, n.RemoveDrives(0))
		}
	})
	wantGap(t, "four drives gone", w.goesOn(at), 5*time.Second)
	testkit.Poll(t, wholeLimit, "the loss of four drives to be seen", func() bool {
		st, err := hit[5].Status()
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

// With nine voters, any four of twelve peers may die at once: eight are left, which hold the shards that it takes.
func TestFourOfNineVotersDieUnderLoad(t *testing.T) {
	chaosOnly(t)
	const voting = 9
	c, l := begin(t, testkit.ClusterOptions{Peers: 12, Drives: 1, Zones: 3})
	first := c.Nodes()[0]
	first.Holdfast(time.Minute, "cluster", "set", "--voters", fmt.Sprint(voting), "--root-voters", fmt.Sprint(voting))
	testkit.PollEvery(t, time.Second, 2*wholeLimit, "nine voters", func() bool { return voters(t, first) == voting })
	c.WaitWhole(wholeLimit)
	st := agreed(t, c)
	t.Logf("bytes %+v, names %+v, root %+v", st.Losses.Bytes, st.Losses.Names, st.Losses.Root)
	if got := [3]int{st.Losses.Bytes.Peers, st.Losses.Names.Peers, st.Losses.Root.Peers}; got != [3]int{4, 4, 4} {
		t.Errorf("bytes, names and root survive the loss of %v peers", got)
	}

	w := startLoad(t, c, l, 4, 150)
	w.progress(l.acknowledged(), 40)
	var gone []*testkit.Node
	for _, name := range worst(st)[:4] {
		gone = append(gone, c.Named(name))
	}
	at := w.strike(func() { kill(gone...) })
	wantGap(t, "four of nine voters killed at once", w.goesOn(at), 5*time.Second)
	w.progress(l.acknowledged(), 60)
	w.stop(oneInAThousand)
	l.check(t, c)
	start(gone...)
	c.WaitWhole(2 * wholeLimit)
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
