package chunkstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// gather is one round of reads that a fetch waits for together. A read that is late may be left behind: when the others
// are enough to rebuild its shard, nobody waits for it, and it ends by itself or with its deadline.
//
// A round in which no drive is late costs one timer, one context and a goroutine a shard.
type gather struct {
	f       *fetch
	ctx     context.Context    // of the reads
	stop    context.CancelFunc // ends it
	wait    time.Duration      // for an answer
	begun   time.Time
	memory  [Shards]shardRead // a shard is asked for once in a round
	reads   int               // how many of memory are used
	answers chan *shardRead   // has room for all of them
	pending int
	hedged  bool
	// open counts the reads that did not return, and the gathering itself. The last one calls stop.
	open atomic.Int32
}

// shardRead is one call of Drive.Read. state decides whether its answer or its deadline came first.
type shardRead struct {
	shard  int
	span   piece
	off    int64     // of the span in the payload
	memory [2][]byte // where the span goes; fixed before the call, for an abandoned one must not see newer memory
	member *member
	late   time.Duration // from its beginning on; zero: never
	begun  atomic.Int64  // when its goroutine began, in time.Duration of the gathering; zero before
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
	g := &gather{f: f, wait: wait, begun: time.Now(), answers: make(chan *shardRead, Shards)}
	// Not of ctx: a read that is left behind goes on when the request has ended, so that it is known how slow its drive
	// is. collect sees to it that the others end with ctx.
	g.ctx, g.stop = context.WithCancel(f.store.life)
	g.open.Store(1)
	defer g.drop()
	for _, i := range shards {
		if err := g.ask(i, columns, last); err != nil {
			g.stop()
			return err
		}
	}
	if !last {
		g.earn()
	}
	behind, err := g.collect(ctx, last)
	if !behind || err != nil {
		g.stop()
	}
	return err
}

// earn counts what was asked for because it is needed.
func (g *gather) earn() {
	var bytes int64
	for i := range g.begunReads() {
		bytes += g.memory[i].span.size()
	}
	g.f.store.allowance.earn(int64(g.reads), bytes)
}

func (g *gather) begunReads() []shardRead { return g.memory[:g.reads] }

// drop ends one use of the reads' context.
func (g *gather) drop() {
	if g.open.Add(-1) == 0 {
		g.stop()
	}
}

// ask begins one read.
func (g *gather) ask(i int, columns piece, last bool) error {
	f := g.f
	m := f.members[i]
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
	r := &g.memory[g.reads]
	r.shard, r.member, r.span = i, m, f.have[i].hull(columns)
	if i < dataCells {
		r.span = r.span.hull(f.geo.need(i))
	}
	if !last {
		r.late = f.store.lateAfter(m, paceClass(r.span.size()))
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
		r.run(g.ctx, store, chunk, g.begun, g.answers)
	})
	if !ok {
		g.open.Add(-1)
		w.release()
		return ErrClosed
	}
	g.reads++
	g.pending++
	return nil
}

// run runs in a goroutine of its own and touches nothing of the fetch.
func (r *shardRead) run(ctx context.Context, s *Store, c Chunk, gathering time.Time, answers chan<- *shardRead) {
	begun, off := time.Now(), r.off
	r.begun.Store(int64(max(begun.Sub(gathering), 1)))
	for _, dst := range r.memory {
		if len(dst) == 0 {
			break
		}
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
func (f *fetch) memory(shard int, span piece) [2][]byte {
	var pieces [2][]byte // as windows are laid out, a data shard lies in one piece and a parity shard in at most two
	for i, off := 0, span.lo; off < span.hi; i++ {
		pieces[i] = f.window.slice(shard, off, span.hi-off)
		off += int64(len(pieces[i]))
	}
	return pieces
}

// collect waits for answers. Reads that have none after wait are abandoned: their drives are gone around from now on.
// It tells whether reads were left behind.
func (g *gather) collect(ctx context.Context, last bool) (behind bool, err error) {
	if g.pending == 0 {
		return false, nil
	}
	timer := time.NewTimer(g.firstLook())
	defer timer.Stop()
	for g.pending > 0 {
		select {
		case r := <-g.answers:
			g.take(r)
		case <-timer.C:
			since := time.Since(g.begun)
			if since >= g.wait {
				g.expire(last)
				return false, nil
			}
			next, err := g.look(since)
			if err != nil {
				return false, err
			}
			timer.Reset(min(next, g.wait-since))
		case <-ctx.Done():
			for i := range g.begunReads() {
				g.memory[i].state.CompareAndSwap(readRunning, readLeft)
			}
			return false, ctx.Err()
		}
		if g.hedged && g.enough() {
			return g.leave(), nil
		}
	}
	return false, nil
}

// expire abandons what has no answer yet.
func (g *gather) expire(last bool) {
	f := g.f
	for i := range g.begunReads() {
		r := &g.memory[i]
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
