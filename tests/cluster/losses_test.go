package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/testkit"
)

// Clusters of many shapes say how many peers and drives they may lose. As many are taken from them as that, the worst
// ones, and everything is read; one more peer, and something must fail, but never with a lie.
func TestStatusTellsTheLossesTruly(t *testing.T) {
	shapes := [][2]int{{3, 4}}
	if long() {
		shapes = [][2]int{{1, 12}, {2, 6}, {3, 4}, {4, 3}, {5, 3}, {3, 12}, {6, 2}, {8, 2}, {12, 1}}
	}
	for _, shape := range shapes {
		t.Run(fmt.Sprintf("%d peers with %d drives", shape[0], shape[1]), func(t *testing.T) {
			lossesAreTrue(t, shape[0], shape[1])
		})
	}
}

func lossesAreTrue(t *testing.T, peers, drives int) {
	c, l := begin(t, testkit.ClusterOptions{Peers: peers, Drives: drives})
	w := startLoad(t, c, l, 4, 0)
	w.progress(l.acknowledged(), 60)
	w.stop(0)
	c.WaitWhole(wholeLimit)
	st := agreed(t, c)
	t.Logf("bytes %+v, names %+v, root %+v", st.Losses.Bytes, st.Losses.Names, st.Losses.Root)
	for _, tolerance := range []admin.Tolerance{st.Losses.Bytes, st.Losses.Names, st.Losses.Root} {
		if tolerance.Devices != tolerance.Peers { // each peer has one device
			t.Errorf("%d devices and %d peers may be lost, and every peer has one device", tolerance.Devices, tolerance.Peers)
		}
	}
	order := worst(st)

	may := least(st, func(t admin.Tolerance) int { return t.Peers })
	gone := named(c, order[:may])
	kill(gone...)
	l.check(t, c)
	writes(t, c, l)
	if may+1 < peers {
		next := named(c, order[may:may+1])
		kill(next...)
		gone = append(gone, next...)
		if failing(t, c, l) == 0 {
			t.Errorf("%d peers may be lost, and without %d everything works", may, may+1)
		}
	}
	start(gone...)
	c.WaitWhole(wholeLimit)
	l.check(t, c)

	st = agreed(t, c)
	may = least(st, func(t admin.Tolerance) int { return t.Drives })
	if may < 1 {
		t.Fatalf("no drive may be lost: %+v", st.Losses)
	}
	var back []func()
	for left := may; left > 0; order = order[1:] {
		n := c.Named(order[0])
		numbers := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}[:min(left, drives)]
		back = append(back, n.RemoveDrives(numbers...))
		left -= len(numbers)
	}
	testkit.Poll(t, wholeLimit, "the loss of drives to be seen", func() bool {
		st, err := c.Nodes()[peers-1].Status()
		return err == nil && st.DrivesUp == peers*drives-may
	})
	l.check(t, c)
	writes(t, c, l)
	for _, b := range back {
		b()
	}
	c.WaitWhole(wholeLimit)
	l.check(t, c)
}

// agreed is the status, which must be the same wherever it is asked.
func agreed(t *testing.T, c *testkit.Cluster) *admin.Status {
	t.Helper()
	var first *admin.Status
	for _, n := range c.Nodes() {
		st, err := n.Status()
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = st
		}
		if st.Losses != first.Losses {
			t.Errorf("%s says %+v, %s says %+v", c.Nodes()[0].Name, first.Losses, n.Name, st.Losses)
		}
	}
	return first
}

// least is what all of bytes, names and root survive.
func least(st *admin.Status, of func(admin.Tolerance) int) int {
	return max(0, min(of(st.Losses.Bytes), of(st.Losses.Names), of(st.Losses.Root)))
}

// worst are the names of the peers, those first whose loss is the worst: leaders, then voters, then by shards.
func worst(st *admin.Status) []string {
	weight := make(map[string]int64)
	for _, d := range st.Drives {
		weight[d.Peer] += d.Shards
	}
	var names []string
	for _, p := range st.Peers {
		names = append(names, p.Name)
		for _, g := range st.Groups {
			if slices.Contains(g.Voters, p.Name) {
				weight[p.Name] += 1 << 40
			}
			if g.Leader == p.Name {
				weight[p.Name] += 1 << 42
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(weight[b], weight[a]) })
	return names
}

func named(c *testkit.Cluster, names []string) []*testkit.Node {
	var nodes []*testkit.Node
	for _, name := range names {
		nodes = append(nodes, c.Named(name))
	}
	return nodes
}

// writes writes through every gateway that is left.
func writes(t *testing.T, c *testkit.Cluster, l *ledger) {
	t.Helper()
	w := startLoad(t, c, l, 4, 0)
	w.progress(l.acknowledged(), 20)
	w.stop(oneInAThousand)
}

// failing reads a part of everything and writes, with more gone than status allows, and counts what fails. What is
// answered must still be right.
func failing(t *testing.T, c *testkit.Cluster, l *ledger) int {
	t.Helper()
	client := c.Up()[0].S3()
	failed := 0
	for i, key := range l.withPrefix("") {
		if i%8 > 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		got, err := read(ctx, client, l.bucket, key)
		cancel()
		may, _ := l.known(key)
		switch {
		case err != nil:
			failed++
		case !slices.Contains(may, got):
			t.Errorf("with too few peers %s holds %v, and may hold %v", key, got, may)
		}
		if failed > 2 {
			break
		}
	}
	return failed
}
