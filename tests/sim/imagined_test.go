package sim

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// imagined draws the calls of a key that a register could have answered: each takes effect at some time after it was
// invoked, and before it returned unless its outcome is unknown; then at any later time, or never.
func imagined(random *rand.Rand, count, clients int, unknowns float64) (calls []*call) {
	type effect struct {
		at int64
		c  *call
	}
	var effects []effect
	free := make([]int64, clients)
	for i := range count {
		client := random.IntN(clients)
		c := &call{kind: kind(random.IntN(int(remove) + 1)), client: client, expect: "none"}
		c.invoked = free[client] + 1 + random.Int64N(20)
		c.returned = c.invoked + 1 + random.Int64N(40)
		free[client] = c.returned
		if c.kind != get && c.kind != remove {
			c.value = fmt.Sprint("v", i)
		}
		at := c.invoked + random.Int64N(c.returned-c.invoked)
		if c.kind != get && random.Float64() < unknowns {
			c.status = unknown
			if at += random.Int64N(200); random.IntN(3) == 0 {
				at = -1
			}
		}
		calls = append(calls, c)
		if at >= 0 {
			effects = append(effects, effect{at, c})
		}
	}
	slices.SortFunc(effects, func(a, b effect) int { return int(a.at - b.at) })
	now, met := "", []string{"none"} // what clients know of
	for _, e := range effects {
		c := e.c
		if c.kind == exchange {
			c.expect = now
			if !slices.Contains(met, now) || random.IntN(3) == 0 {
				c.expect = met[random.IntN(len(met))]
			}
		}
		switch {
		case c.kind == get:
			c.got = now
		case c.kind == remove:
			c.found = now != ""
		case c.status != unknown && (c.kind == create && now != "" || c.kind == exchange && now != c.expect):
			c.status = failed
		}
		if now = c.after(now); now != "" && c.status == done {
			met = append(met, now)
		}
	}
	// No two stamps are the same.
	var stamps []*int64
	for _, c := range calls {
		stamps = append(stamps, &c.invoked, &c.returned)
	}
	slices.SortStableFunc(stamps, func(a, b *int64) int { return cmp.Compare(*a, *b) })
	for i, at := range stamps {
		*at = int64(i + 1)
	}
	slices.SortFunc(calls, func(a, b *call) int { return cmp.Compare(a.invoked, b.invoked) })
	return calls
}

// reference is a register whose calls of unknown outcome are done when nothing speaks against it: porcupine may put
// them behind everything else, where they mean nothing.
var reference = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		now, c := state.(string), input.(*call)
		return c.status == unknown || c.explains(now), c.after(now)
	},
	Equal: func(a, b any) bool { return a == b },
}

// TestOrderIsThatOfAllCalls: what order leaves out changes no verdict.
func TestOrderIsThatOfAllCalls(t *testing.T) {
	verdicts := map[porcupine.CheckResult]int{}
	for seed := range uint64(5000) {
		random := rand.New(rand.NewPCG(seed, 1))
		calls := imagined(random, 14, 4, 0.4)
		if seed%2 == 1 {
			spoil(random, calls)
		}
		var all []porcupine.Operation
		for i, c := range calls {
			returned := c.returned
			if c.status == unknown {
				returned = math.MaxInt64
			}
			all = append(all, porcupine.Operation{ClientId: i, Input: c, Call: c.invoked, Output: c, Return: returned})
		}
		want := porcupine.CheckOperationsTimeout(reference, all, search)
		if got := order(calls); got != want || seed%2 == 0 && got != porcupine.Ok {
			t.Fatalf("seed %d: %v, want %v:\n%s", seed, got, want, describe(calls))
		}
		verdicts[want]++
	}
	if verdicts[porcupine.Ok] < 2500 || verdicts[porcupine.Illegal] < 500 {
		t.Errorf("verdicts are all alike: %v", verdicts)
	}
}

// spoil has one call see what it may not have seen.
func spoil(random *rand.Rand, calls []*call) {
	c, other := calls[random.IntN(len(calls))], calls[random.IntN(len(calls))]
	switch {
	case c.kind == get && slices.ContainsFunc(calls, func(e *call) bool { return e.kind == exchange && e.expect == c.got }):
		// who expects a value has met it
	case c.kind == get:
		c.got = other.value
	case c.kind == remove:
		c.found = !c.found
	case c.status == failed:
		c.status = done
	case c.status == done && c.kind != put:
		c.status = failed
	}
}

// TestWideHistoriesAreDecided: hundreds of calls of which a third have no known end.
func TestWideHistoriesAreDecided(t *testing.T) {
	for seed := range uint64(20) {
		calls := imagined(rand.New(rand.NewPCG(seed, 2)), 300, 8, 0.3)
		if got := order(calls); got != porcupine.Ok {
			t.Errorf("seed %d: %v", seed, got)
		}
	}
}
