package chunkstore

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// gather is one round of reads that a fetch waits for together. A read that is late may be left behind: when the others
// are enough to rebuild its shard, nobody waits for it, and it ends by itself or with its deadline.
type gather struct {
	f       *fetch
	ctx     context.Context    // of the reads
	stop    context.CancelFunc // ends it
	unhook  func() bool        // it does not end with the request any more
	wait    time.Duration      // for an answer
	begun   time.Time
	reads   []*shardRead
	answers chan *shardRead // has room for all of them
	pending int
	class   int
	hedged  bool
	// open counts the reads that did not return, and the gathering itself. The last one calls stop.
	open atomic.Int32
}

// shardRead is one call of Drive.Read. state decides whether its answer or its deadline came first.
type shardRead struct {
	shard  int
	span   piece
	off    int64    // of the span in the payload
	memory [][]byte // where the span goes; fixed before the call, for an abandoned one must not see newer memory
	member *member
	state  atomic.Int32
	err    error
	limit  *time.Timer // of a read that was left behind; set before its state is
}

const (
	readRunning int32 = iota
	readDone
	readHung // its deadline came first
	readLeft // the whole fetch ended first, or went on without it
)

// read asks for the shards at once: for what each is needed for, and for columns. What came is in f.have and what did
// not is in f.fault afterwards, except for reads that were left behind, of which neither tells; an error is the end of
// ctx or of the Store. Unless last is set, drives that are suspect are not asked, and remembered in f.around, and late
// drives are gone around.
func (f *fetch) read(ctx context.Context, shards []int, columns piece, wait time.Duration, last bool) error {
	g := &gather{f: f, wait: wait, begun: time.Now(), answers: make(chan *shardRead, 2*Shards)}
	// A read that is left behind goes on when the request has ended, so that it is known how slow its drive is.
	g.ctx, g.stop = context.WithCancel(f.store.life)
	g.unhook = context.AfterFunc(ctx, g.stop)
	g.open.Store(1)
	defer g.drop()
	for _, i := range shards {
		if err := g.ask(i, columns, last); err != nil {
			g.stop()
			return err
		}
	}
	var bytes, longest int64
	for _, r := range g.reads {
		bytes, longest = bytes+r.span.size(), max(longest, r.span.size())
	}
	f.store.allowance.earn(int64(len(g.reads)), bytes)
	g.class = paceClass(longest)
	behind, err := g.collect(ctx, last)
	if !behind || err != nil {
		g.stop()
	}
	g.unhook()
	return err
}

// drop ends one use of the reads' context.
func (g *gather) drop() {
	if g.open.Add(-1) == 0 {
		g.stop()
	}
}

// ask begins one read.
func (g *gather) ask(i int, columns piece, last bool) error {
	f := g.f
	m := f.store.config.Drives.member(f.volume.Slots[i])
	f.around &^= 1 << i
	switch {
	case m == nil:
		f.fault[i] = fmt.Errorf("drive %v is missing: %w", f.volume.Slots[i], ErrDriveDown)
		return nil
	case !last && !m.readable(f.store.config.Now()):
		f.fault[i] = errAround
		f.around |= 1 << i
		return nil
	}
	r := &shardRead{shard: i, member: m, span: f.have[i].hull(columns)}
	if i < dataCells {
		r.span = r.span.hull(f.geo.need(i))
	}
	f.have[i], f.fault[i] = piece{}, nil
	r.off = f.geo.base() + r.span.lo
	r.memory = f.memory(r.shard, r.span)
	store, chunk, w := f.store, f.chunk, f.window
	w.retain()
	g.open.Add(1)
	ok := store.spawn(func() {
		defer w.release()
		defer g.drop()
		r.run(g.ctx, store, chunk, g.answers)
	})
	if !ok {
		g.open.Add(-1)
		w.release()
		return ErrClosed
	}
	g.reads = append(g.reads, r)
	g.pending++
	return nil
}

// run runs in a goroutine of its own and touches nothing of the fetch.
func (r *shardRead) run(ctx context.Context, s *Store, c Chunk, answers chan<- *shardRead) {
	begun, off := time.Now(), r.off
	for _, dst := range r.memory {
		if r.err = r.member.drive.Read(ctx, c, uint8(r.shard), off, dst); r.err != nil {
			break
		}
		off += int64(len(dst))
	}
	s.stats.shardBytes.Add(r.span.size())
	if r.err == nil {
		s.pace(r.member, r.span.size(), time.Since(begun))
	}
	switch {
	case r.state.CompareAndSwap(readRunning, readDone):
		answers <- r
	case r.state.CompareAndSwap(readLeft, readDone):
		if r.limit != nil {
			r.limit.Stop()
		}
	default:
		r.member.returnRead()
	}
}

// memory returns where a span of a shard goes.
func (f *fetch) memory(shard int, span piece) [][]byte {
	var pieces [][]byte
	for off := span.lo; off < span.hi; {
		p := f.window.slice(shard, off, span.hi-off)
		pieces = append(pieces, p)
		off += int64(len(p))
	}
	return pieces
}

// collect waits for answers. Reads that have none after wait are abandoned: their drives are gone around from now on.
// It tells whether reads were left behind.
func (g *gather) collect(ctx context.Context, last bool) (behind bool, err error) {
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	var late <-chan time.Time
	if after := g.f.store.hedgeAfter(g.class); after > 0 && !last && g.pending > 0 {
		hedge := time.NewTimer(after)
		defer hedge.Stop()
		late = hedge.C
	}
	for g.pending > 0 {
		select {
		case r := <-g.answers:
			g.take(r)
			if g.hedged && g.enough() {
				return g.leave(), nil
			}
		case <-late:
			if err := g.hedge(); err != nil {
				return false, err
			}
			if g.hedged && g.enough() {
				return g.leave(), nil
			}
		case <-timer.C:
			g.expire(last)
			return false, nil
		case <-ctx.Done():
			for _, r := range g.reads {
				r.state.CompareAndSwap(readRunning, readLeft)
			}
			return false, ctx.Err()
		}
	}
	return false, nil
}

// expire abandons what has no answer yet.
func (g *gather) expire(last bool) {
	f := g.f
	for _, r := range g.reads {
		for f.have[r.shard] != r.span && f.fault[r.shard] == nil {
			if r.state.CompareAndSwap(readRunning, readHung) {
				f.hung(r, g.wait)
				if !last { // when the others are too few it is asked once more, and waited for longer
					f.around |= 1 << r.shard
				}
			} else {
				g.take(<-g.answers) // of r or of another one: each that is done answers once
			}
		}
	}
}

// hung goes on without a read: its drive is gone around from now on, and keeps the memory that it may still write to.
func (f *fetch) hung(r *shardRead, wait time.Duration) {
	f.store.stats.around.Add(1)
	r.member.hangRead(f.store.config.Now())
	f.window.abandon(r.shard)
	f.fault[r.shard] = fmt.Errorf("drive %v: no answer for %v: %w", f.volume.Slots[r.shard], wait, ErrDriveDown)
}

func (g *gather) take(r *shardRead) {
	f := g.f
	g.pending--
	if r.err != nil {
		f.fault[r.shard] = fmt.Errorf("drive %v: %w", f.volume.Slots[r.shard], r.err)
		return
	}
	f.have[r.shard] = r.span
}

// asked are the shards of the reads without an answer.
func (g *gather) asked() uint16 {
	var mask uint16
	for _, r := range g.reads {
		if g.f.have[r.shard] != r.span && g.f.fault[r.shard] == nil {
			mask |= 1 << r.shard
		}
	}
	return mask
}

// enough says that what came is all that is needed, or that the rest can be rebuilt from it.
func (g *gather) enough() bool {
	lost := g.f.lost()
	return lost == 0 || bits.OnesCount16(g.f.sources(lost, g.f.columns(lost))) >= dataCells
}

// hedge asks for as many other shards as it takes to rebuild those that are late, where reads may take so much beyond
// what they need and memory is not scarce.
func (g *gather) hedge() error {
	f := g.f
	lost, asked := f.lost(), g.asked()
	columns := f.columns(lost)
	need := dataCells - bits.OnesCount16(f.sources(lost, columns))
	var ask []int
	now := f.store.config.Now()
	for _, i := range f.candidates(lost, columns, Shards) {
		// What was read of a shard for itself is not read again, for it would be lost if that read is late as well.
		if m := f.store.config.Drives.member(f.volume.Slots[i]); asked>>i&1 != 0 || !f.have[i].empty() || m == nil || !m.readable(now) {
			continue
		}
		ask = append(ask, i)
	}
	if need <= 0 {
		g.hedged = true // all that is waited for are others that were asked already
		return nil
	}
	if len(ask) < need || !f.store.hedges() || !f.store.allowance.spend(int64(need), int64(need)*columns.size()) {
		return nil
	}
	g.hedged = true
	f.store.stats.hedges.Add(1)
	f.store.stats.hedgeReads.Add(int64(need))
	for _, i := range ask[:need] {
		if err := g.ask(i, columns, false); err != nil {
			return err
		}
	}
	return nil
}

// leave goes on without the reads that have no answer. Each keeps the memory that it may still write to, and until its
// deadline counts as slow and no more. It tells whether there were any.
func (g *gather) leave() (behind bool) {
	f, store := g.f, g.f.store
	won := f.lost() != 0
	for _, r := range g.reads {
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
	if !s.paces.uneven[class].Load() || !s.hedges() {
		return want, piece{}
	}
	for i, id := range f.volume.Slots {
		if s.slow(s.config.Drives.member(id), class) {
			f.slow |= 1 << i
		}
	}
	var skip uint16
	var fast []int
	for _, i := range want {
		if f.slow>>i&1 != 0 && !s.config.Drives.member(f.volume.Slots[i]).probe() {
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
		m := s.config.Drives.member(f.volume.Slots[i])
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
