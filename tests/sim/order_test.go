package sim

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// search is how long the search for an order of a key's calls may take. What is not decided proves nothing.
const search = 2 * time.Minute

// linearize asks porcupine for an order of every key's calls. It must not run in a bubble: its time is real.
func (h *history) linearize() (undecided int, complaints []string) {
	for key, calls := range h.byKey() {
		switch order(calls) {
		case porcupine.Unknown:
			undecided++
		case porcupine.Illegal:
			complaints = append(complaints, "no order explains "+key+":\n"+describe(calls))
		}
	}
	return undecided, complaints
}

// order says whether one key's calls have an order that a register explains.
//
// A call of unknown outcome may be done at any later time, so each doubles the orders there are, and some faults leave
// dozens. But no two calls write one value, and none expects what its client has not met: what another call met was
// done, and before that call ended. The rest, which nobody met, need a place only where they explain what else had no
// explanation (a condition that was not met, say), and they are as good as each other there; a place that is not needed
// can be given up. So porcupine orders the calls whose window is known, and the model takes of the others as it needs
// them, the oldest of a kind first.
func order(calls []*call) porcupine.CheckResult {
	seen := firstSeen(calls)
	var known []porcupine.Operation
	var spare spares
	for i, c := range calls {
		if c.status == unknown {
			at, ok := seen[c.value]
			if !ok {
				spare.add(c)
				continue
			}
			was := *c
			was.status, was.returned = done, at
			c = &was
		}
		known = append(known, porcupine.Operation{ClientId: i, Input: c, Call: c.invoked, Output: c, Return: c.returned})
	}
	model := porcupine.NondeterministicModel{
		Init:  func() []any { return []any{register{}} },
		Step:  func(now, c, _ any) []any { return spare.step(now.(register), c.(*call)) },
		Equal: func(a, b any) bool { return a == b },
	}
	return porcupine.CheckOperationsTimeout(model.ToModel(), known, search)
}

// firstSeen says of each value when the first call had ended that can only have met it.
func firstSeen(calls []*call) map[string]int64 {
	seen := map[string]int64{}
	for _, c := range calls {
		value := c.got
		if c.kind == exchange && c.status == done {
			value = c.expect
		}
		if at, ok := seen[value]; value != "" && (!ok || c.returned < at) {
			seen[value] = c.returned
		}
	}
	return seen
}

// register is one key in the middle of an order.
type register struct {
	value string // the ETag of its object; "" is none
	// puts, creates and removes count the spares that were taken.
	puts, creates, removes int
	// floor is when the newest of those was invoked: what comes after it in the order cannot have ended before.
	floor int64
}

// unmet is the value of a spare write.
const unmet = "unmet"

// spares are when calls were invoked that may have been done or not: nobody met their values.
type spares struct {
	puts, creates, removes []int64
	// exchanges are by what they expect. One of each is enough: a value that was replaced does not return.
	exchanges map[string]int64
}

// add takes a call; they come in order of invocation.
func (s *spares) add(c *call) {
	switch c.kind {
	case put:
		s.puts = append(s.puts, c.invoked)
	case create:
		s.creates = append(s.creates, c.invoked)
	case remove:
		s.removes = append(s.removes, c.invoked)
	case exchange:
		if s.exchanges == nil {
			s.exchanges = map[string]int64{}
		}
		if _, ok := s.exchanges[c.expect]; !ok {
			s.exchanges[c.expect] = c.invoked
		}
	}
}

// step gives what a key can be after a call.
func (s *spares) step(now register, c *call) (next []any) {
	before := []register{now}
	if !c.explains(now.value) {
		before = s.taken(now)
	}
	for _, r := range before {
		if c.explains(r.value) && c.returned > r.floor {
			r.value = c.after(r.value)
			next = append(next, r)
		}
	}
	return next
}

// taken gives what a key can be after one spare.
func (s *spares) taken(now register) (all []register) {
	if n := now.puts; n < len(s.puts) {
		r := now.by(s.puts[n], unmet)
		r.puts++
		all = append(all, r)
	}
	if n := now.creates; n < len(s.creates) && now.value == "" {
		r := now.by(s.creates[n], unmet)
		r.creates++
		all = append(all, r)
	}
	if n := now.removes; n < len(s.removes) && now.value != "" {
		r := now.by(s.removes[n], "")
		r.removes++
		all = append(all, r)
	}
	if at, ok := s.exchanges[now.value]; ok {
		all = append(all, now.by(at, unmet))
	}
	return all
}

// by is the key after a spare that was invoked at some time.
func (r register) by(invoked int64, value string) register {
	r.value, r.floor = value, max(r.floor, invoked)
	return r
}
