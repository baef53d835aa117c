package cluster

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// A whole zone of three goes dark.
func TestAZoneGoesDarkUnderLoad(t *testing.T) {
	chaosOnly(t)
	c, l := begin(t, testkit.ClusterOptions{Peers: pick(6, 12), Drives: 2, Zones: 3})
	st, err := c.Nodes()[0].Status()
	if err != nil {
		t.Fatal(err)
	}
	if got := [3]int{st.Losses.Bytes.Zones, st.Losses.Names.Zones, st.Losses.Root.Zones}; got != [3]int{1, 1, 1} {
		t.Errorf("bytes, names and root survive the loss of %v zones", got)
	}
	w := startLoad(t, c, l, 4, 150)
	w.progress(l.acknowledged(), 40)
	dark := c.Leader("tablet").Zone
	var gone []*testkit.Node
	for _, n := range c.Nodes() {
		if n.Zone == dark {
			gone = append(gone, n)
		}
	}
	at := w.strike(func() { kill(gone...) })
	if len(gone) != len(c.Nodes())/3 {
		t.Fatalf("%d peers of zone %s were killed", len(gone), dark)
	}
	wantGap(t, "zone "+dark+" gone", w.goesOn(at), 5*time.Second)
	w.progress(l.acknowledged(), 60)
	w.stop(oneInAThousand)
	l.check(t, c)
	start(gone...)
	c.WaitWhole(wholeLimit)
	l.check(t, c)
}
