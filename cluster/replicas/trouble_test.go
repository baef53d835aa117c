package replicas_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/topology"
)

// long tells whether the long forms of the tests run, as in `make crash`.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// TestClustersEndAsTheyShould lets peers come, drain, be cut off, crash, lose what they hold and return while answers are
// lost, under a load: what was acknowledged is there, every group has the voters that it should, and nothing is left behind.
// HOLDFAST_REPLICAS_SEEDS asks for more seeds, HOLDFAST_REPLICAS_SEED for one of them alone.
func TestClustersEndAsTheyShould(t *testing.T) {
	t.Parallel()
	first, count := uint64(0), uint64(6)
	switch {
	case long():
		count = 24
	case testing.Short():
		count = 4
	}
	number := func(name string) (n uint64, ok bool) {
		text := os.Getenv(name)
		if text == "" {
			return 0, false
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n, true
	}
	if n, ok := number("HOLDFAST_REPLICAS_SEEDS"); ok {
		count = n
	}
	if seed, ok := number("HOLDFAST_REPLICAS_SEED"); ok {
		first, count = seed, 1
	}
	var total tally
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { trouble(t, seed, &total) })
		})
	}
	t.Logf("%d clusters: %+v", count, total)
	if count >= 4 && (total.lost == 0 || total.crashes == 0 || total.cuts == 0 || total.drains == 0 || total.wipes == 0 || total.cleaned == 0 || total.replaced == 0) {
		t.Error("something was not exercised")
	}
}

// tally counts what happened.
type tally struct {
	lost, crashes, cuts, drains, joins, wipes, cleaned, replaced int
}

// dice is a random source for many goroutines.
type dice struct {
	mu     sync.Mutex
	random *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(n)
}

func trouble(t *testing.T, seed uint64, total *tally) {
	dice := &dice{random: rand.New(rand.NewPCG(seed, 3))}
	k := grown(t, 5, 5, replicas.Settings{Down: time.Minute, Spread: 30 * time.Second, Settle: 5 * time.Second})
	k.pause = 400 * time.Millisecond
	before := k.did("add")
	k.setHook(func(h hooked) error {
		if (h.moment == "created" || h.moment == "removed" || h.moment == "listed") && dice.n(4) == 0 {
			k.mu.Lock()
			total.lost++
			k.mu.Unlock()
			return errLost
		}
		return nil
	})
	l := k.load()
	for range 8 {
		p := k.peers[dice.n(len(k.peers))]
		if dice.n(2) == 0 {
			p = k.leader(tablet)
		}
		away := time.Duration(1+dice.n(120)) * time.Second
		switch dice.n(6) {
		case 0: // one at a time: two of three voters may be all there are
			total.crashes++
			p.kill()
			time.Sleep(away)
			p.start()
		case 1:
			total.cuts++
			p.isolate()
			time.Sleep(away)
			p.heal()
		case 2:
			if k.active() > 3 {
				total.drains++
				p.set(topology.Draining)
			}
		case 3:
			p.set(topology.Active)
		case 4:
			if len(k.peers) < 8 {
				total.joins++
				k.join(fmt.Sprintf("%c", 'a'+dice.n(4)))
			}
		case 5: // one at a time, of many: what a majority has lost is lost
			if k.active() >= 3 {
				k.wantSettled("all is well before a peer loses all", k.set.Target(tablet, k.active()))
				total.wipes++
				p.wipe()
				k.wantSettled("it is replaced before another goes", k.set.Target(tablet, k.active()))
			}
		}
		time.Sleep(time.Duration(dice.n(20_000)) * time.Millisecond)
	}
	k.wantSettled("all ends well", k.set.Target(tablet, k.active()))
	if k.active() >= 3 {
		k.eventually("the groups have two leaders", func() bool { return k.leader(rootGroup) != k.leader(tablet) })
	}
	total.cleaned += k.did("clean")
	total.replaced += k.did("add") - before
	l.end()
	k.close()
}

// active counts the peers that may have replicas.
func (k *kit) active() (n int) {
	for _, p := range k.current().Peers {
		if p.State == topology.Active {
			n++
		}
	}
	return n
}
