package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	// seedsShort are what `make test` runs; SIM_SEEDS asks for more, and SIM_SEED for a single one.
	seedsShort = 12
	// roundsEach is how many faults a run has.
	roundsEach = 3
	// recovery is how long a healed cluster may take until every object reads from every gateway.
	recovery = 2 * time.Minute
)

func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// result is what a run came to.
type result struct {
	rounds             []string
	acknowledged, seen int
	// complaints are what the cluster did wrong, invalids why the run proves nothing.
	complaints, invalids []string
}

// run is one seed: a cluster, its clients, its faults, and what the checkers say.
func run(t *testing.T, seed uint64, b *bug, chosen []fault) (out result) {
	g := golden.of(t)
	var h *history
	synctest.Test(t, func(t *testing.T) {
		h = newHistory()
		c := g.open(seed, b)
		random := rand.New(rand.NewPCG(seed, 3))
		l := startLoad(c, h)
		pause(2 * time.Second)
		for i := range roundsEach {
			f := pickFault(random, seed, i, chosen)
			out.rounds = append(out.rounds, f.name)
			if os.Getenv("SIM_LOG") != "" {
				fmt.Fprintln(os.Stderr, "--", time.Since(h.begun), f.name)
			}
			c.hurt(h, random, f)
			pause(time.Second + time.Duration(random.IntN(3000))*time.Millisecond)
		}
		l.stop()
		c.lastReads(h)
		if err := c.stopAll(); err != nil {
			c.complain("stop: %s", oneLine(err))
		}
		out.complaints, out.invalids = c.complaints, c.invalids
	})
	out.complaints = append(append(out.complaints, h.strange...), h.ledger()...)
	if b == nil || len(out.complaints) == 0 { // the search adds nothing to a bug that was noticed
		undecided, complaints := h.linearize()
		out.complaints = append(out.complaints, complaints...)
		if undecided > 0 {
			out.invalids = append(out.invalids, fmt.Sprintf("%d histories are too wide to decide", undecided))
		}
	}
	for _, c := range h.calls {
		switch {
		case c.kind == get:
			out.seen++
		case c.status == done:
			out.acknowledged++
		}
	}
	return out
}

// pickFault goes through all faults as seeds go on, and draws the others of a run.
func pickFault(random *rand.Rand, seed uint64, i int, chosen []fault) fault {
	if len(chosen) > 0 {
		return chosen[i%len(chosen)]
	}
	if i == 0 {
		return faults[seed%uint64(len(faults))]
	}
	return faults[random.IntN(len(faults))]
}

// lastReads reads every key at every gateway after everything has healed, and lists there.
func (c *cluster) lastReads(h *history) {
	end := time.Now().Add(recovery)
	for _, n := range c.nodes {
		u := &client{h: h, n: n, id: 1000, last: map[string]string{}}
		retry := func(what func(ctx context.Context) error) {
			err := eventually(max(time.Second, time.Until(end)), func() error {
				store := n.store()
				if store == nil {
					return fmt.Errorf("%s does not serve", n.name)
				}
				if err := u.ensureBucket(store); err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				return what(ctx)
			})
			if err != nil {
				c.complain("not readable %v after everything healed: %s", recovery, oneLine(err))
			}
		}
		for k := range keys {
			retry(func(ctx context.Context) error { return u.read(ctx, n.store(), keyName(k), final) })
		}
		retry(func(ctx context.Context) error { return u.list(ctx, n.store(), final) })
	}
}

// TestClustersKeepEveryPromise runs seeds of faults on whole clusters. A seed that fails prints how to run it again.
func TestClustersKeepEveryPromise(t *testing.T) {
	first, count := uint64(0), number(t, "SIM_SEEDS", seedsShort)
	if os.Getenv("SIM_SEED") != "" {
		first, count = number(t, "SIM_SEED", 0), 1
	}
	golden.of(t)
	begun := time.Now()
	var runs, acknowledged, seen atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				out := run(t, seed, nil, nil)
				runs.Add(1)
				acknowledged.Add(int64(out.acknowledged))
				seen.Add(int64(out.seen))
				if len(out.complaints)+len(out.invalids) > 0 {
					t.Errorf("%s\nfaults: %s\nagain: SIM_SEED=%d go test -count=1 -run TestClustersKeepEveryPromise ./tests/sim",
						strings.Join(append(out.complaints, out.invalids...), "\n"), strings.Join(out.rounds, ", "), seed)
				}
			})
		}
	})
	if acknowledged.Load() < 20*runs.Load() || seen.Load() < 20*runs.Load() {
		t.Errorf("%d writes were acknowledged and %d reads answered in %d runs: there was no load", acknowledged.Load(), seen.Load(), runs.Load())
	}
	t.Logf("%d seeds, %d acknowledged writes, %d reads, %.0f seeds a minute", runs.Load(), acknowledged.Load(), seen.Load(),
		float64(runs.Load())/time.Since(begun).Minutes())
}
