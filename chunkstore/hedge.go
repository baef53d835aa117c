package chunkstore

import (
	"context"
	"math/bits"
	"time"
)

// firstLook is when the first read may be late.
func (g *gather) firstLook() time.Duration {
	next := g.wait
	for i := range g.begunReads() {
		if late := g.memory[i].late; late > 0 {
			next = min(next, late)
		}
	}
	return next
}

// look asks others where reads are late, and returns after what time to look again. A read whose goroutine has not begun,
// or whose answer is there, waits for this machine and not for its drive: to ask others would make it busier still.
func (g *gather) look(since time.Duration) (next time.Duration, err error) {
	var late, coming uint16
	next = g.wait
	for i := range g.begunReads() {
		r := &g.memory[i]
		if g.f.have[r.shard] == r.span || g.f.fault[r.shard] != nil {
			continue // taken
		}
		left := r.late
		if begun := time.Duration(r.begun.Load()); r.late > 0 && begun > 0 && r.state.Load() == readRunning {
			if left = begun + r.late - since; left <= 0 {
				late |= 1 << r.shard
				left = r.late // others that are asked may be late as well, or there may be too few of them by now
			}
		}
		if late>>r.shard&1 == 0 {
			coming |= 1 << r.shard
		}
		if left > 0 {
			next = min(next, left)
		}
	}
	if late != 0 {
		err = g.hedge(late, coming)
	}
	return next, err
}

// enough says that what came is all that is needed, or that the rest can be rebuilt from it.
func (g *gather) enough() bool {
	lost := g.f.lost()
	return lost == 0 || bits.OnesCount16(g.f.sources(lost, g.f.columns(lost))) >= dataCells
}

// hedge asks for as many other shards as it takes, beside those that are coming, to rebuild those that are late, where
// reads may take so much beyond what they need and memory is not scarce.
func (g *gather) hedge(late, coming uint16) error {
	f := g.f
	lost := f.lost() &^ coming
	columns := f.columns(lost)
	need := dataCells - bits.OnesCount16(f.sources(lost, columns)) - g.willHold(coming, columns)
	if need <= 0 {
		g.hedged = true // all that is waited for are others that were asked already
		return nil
	}
	var memory [Shards]int
	ask := memory[:0]
	now := f.store.config.Now()
	for _, i := range f.candidates(lost, columns, Shards) {
		// What was read of a shard for itself is not read again, for it would be lost if that read is late as well.
		if m := f.members[i]; (late|coming)>>i&1 == 0 && f.have[i].empty() && m != nil && m.readable(now) {
			ask = append(ask, i)
		}
	}
	if len(ask) < need || !f.store.hedges() || !f.store.allowance.spend(int64(need), int64(need)*columns.size()) {
		return nil
	}
	if !g.hedged {
		f.store.stats.hedges.Add(1)
	}
	g.hedged = true
	f.store.stats.hedgeReads.Add(int64(need))
	for _, i := range ask[:need] {
		if err := g.ask(i, columns, false); err != nil {
			return err
		}
	}
	return nil
}

// willHold is how many of the shards that are coming will be sources of columns.
func (g *gather) willHold(coming uint16, columns piece) int {
	n := 0
	for i := range g.begunReads() {
		if r := &g.memory[i]; coming>>r.shard&1 != 0 && r.span.holds(columns) {
			n++
		}
	}
	return n
}

// leave goes on without the reads that have no answer. Each keeps the memory that it may still write to, and until its
// deadline counts as slow and no more. It tells whether there were any.
func (g *gather) leave() (behind bool) {
	f, store := g.f, g.f.store
	won := f.lost() != 0
	for i := range g.begunReads() {
		r := &g.memory[i]
		for f.have[r.shard] != r.span && f.fault[r.shard] == nil {
			left := max(g.wait-time.Since(g.begun), g.wait/4) // not before its state is set
			r.limit = time.AfterFunc(left, func() { r.expire(store, g.stop) })
			if !r.state.CompareAndSwap(readRunning, readLeft) {
				r.limit.Stop()
				g.take(<-g.answers)
				continue
			}
			behind = true
			f.window.abandon(r.shard)
			break
		}
	}
	if won && f.lost() != 0 {
		f.store.stats.hedgesWon.Add(1)
	}
	return behind
}

// expire says that a read that was left behind hangs.
func (r *shardRead) expire(s *Store, stop context.CancelFunc) {
	r.member.hangRead(s.config.Now())
	if !r.state.CompareAndSwap(readLeft, readHung) {
		r.member.returnRead() // it returned in the same moment
		return
	}
	s.stats.around.Add(1)
	stop()
}

// avoidSlow takes the shards on slow drives out of those that a fetch wants, and puts others in, to rebuild them from
// the columns that it returns. Where the chunk's other shards are wanted anyway, that costs nothing; else it takes of
// what reads may take beyond what they need.
func (f *fetch) avoidSlow(want []int) ([]int, piece) {
	s := f.store
	var longest int64
	for _, i := range want {
		longest = max(longest, f.geo.need(i).size())
	}
	class := paceClass(longest)
	for i, m := range f.members {
		if s.slow(m, class) {
			f.slow |= 1 << i
		}
	}
	if f.slow == 0 || !s.hedges() {
		return want, piece{}
	}
	var skip uint16
	var fast []int
	for _, i := range want {
		if f.slow>>i&1 != 0 && !f.members[i].probe() {
			skip |= 1 << i
		} else {
			fast = append(fast, i)
		}
	}
	if skip == 0 {
		return want, piece{}
	}
	columns := f.columns(skip)
	var others []int
	now := s.config.Now()
	for _, i := range f.candidates(skip, columns, Shards) {
		m := f.members[i]
		if f.slow>>i&1 == 0 && (i >= dataCells || f.geo.need(i).empty()) && m != nil && m.readable(now) {
			others = append(others, i)
		}
	}
	more := dataCells - len(fast)
	if more > len(others) {
		return want, piece{}
	}
	ask := append(fast, others[:more]...)
	if reads, bytes := int64(len(ask)-len(want)), f.size(ask, columns)-f.size(want, piece{}); reads > 0 || bytes > 0 {
		if !s.allowance.spend(max(reads, 0), max(bytes, 0)) {
			return want, piece{}
		}
	}
	for i := range Shards {
		if skip>>i&1 != 0 {
			f.fault[i] = errAround
		}
	}
	f.around |= skip
	s.stats.avoided.Add(int64(bits.OnesCount16(skip)))
	return ask, columns
}

// size is how many bytes it takes to read what is needed of the shards, and columns.
func (f *fetch) size(shards []int, columns piece) int64 {
	var sum int64
	for _, i := range shards {
		span := columns
		if i < dataCells {
			span = span.hull(f.geo.need(i))
		}
		sum += span.size()
	}
	return sum
}
