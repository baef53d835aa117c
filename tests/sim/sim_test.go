// Handshakes are many and secret from nobody: they leave out what makes them safe from quantum computers.
//go:debug tlsmlkem=0

package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	// seedsShort are what `make test` runs; SIM_SEEDS asks for more, SIM_FIRST for others, and SIM_SEED for a single one.
	seedsShort = 12
	// eagerEvery says which seeds have eager clients, that meet on one key: they cost twice as much.
	eagerEvery = 10
	// roundsEach is how many faults a run has.
	roundsEach = 3
	// recovery is how long a healed cluster may take until every object reads from every gateway, and nothing is missing.
	recovery = 2 * time.Minute
)

// TestMain lets the heap grow: bubbles make much garbage and keep little.
func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(m.Run())
}

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
		rounds := roundsEach
		if b != nil && b.rounds > 0 {
			rounds = b.rounds
		}
		for i := range rounds {
			f := pickFault(random, seed, i, chosen)
			out.rounds = append(out.rounds, f.name)
			if os.Getenv("SIM_LOG") != "" {
				fmt.Fprintln(os.Stderr, "--", time.Since(h.begun), f.name)
			}
			c.hurt(h, random, f)
			pause(time.Second + time.Duration(random.IntN(3000))*time.Millisecond)
		}
		l.stop()
		end := time.Now().Add(recovery)
		c.lastReads(h, end)
		if b == nil || b.seams == nil {
			c.lastChecks(random, end)
		}
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

// saidEvery is after how many seeds a long run says how far it is.
const saidEvery = 100

// say prints at once: what a parallel test logs is shown when all are done, an hour later in a long run.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// TestClustersKeepEveryPromise runs seeds of faults on whole clusters. A seed that fails prints how to run it again.
func TestClustersKeepEveryPromise(t *testing.T) {
	first, count := number(t, "SIM_FIRST", 0), number(t, "SIM_SEEDS", seedsShort)
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
				var none *bug
				if seed%eagerEvery == eagerEvery-1 {
					none = &bug{eager: 120 * time.Millisecond, rounds: 2}
				}
				out := run(t, seed, none, nil)
				if done := runs.Add(1); done%saidEvery == 0 {
					say("%d of %d seeds, %v", done, count, time.Since(begun).Round(time.Second))
				}
				acknowledged.Add(int64(out.acknowledged))
				seen.Add(int64(out.seen))
				if len(out.complaints)+len(out.invalids) > 0 {
					say("seed %d: FAIL", seed)
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
