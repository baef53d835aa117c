package metadata

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata/record"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// retryAfter is how long a write waits before it tries again what a group did not accept.
const retryAfter = 10 * time.Millisecond

// logicalClock gives the clocks of version ids. It starts each term at the tablet's high-water.
type logicalClock struct {
	mu   sync.Mutex
	term uint64
	last uint64 // the highest clock given out
}

func (l *logicalClock) next(term uint64, r kv.Reader) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != term {
		high, err := tablet.Clock(r)
		if err != nil {
			return 0, err
		}
		l.term, l.last = term, max(l.last, high)
	}
	l.last++
	return l.last, nil
}

// evaluation is one write while it is decided: what it reads, and the plan that it makes.
type evaluation struct {
	state
	plan *tablet.Plan
	term uint64
	now  time.Time
	c    *Catalog
	// freed numbers the freed rows of this plan.
	freed uint32
	// stamp is the logical clock of the freed rows, 0 until one is needed.
	stamp uint64
}

// newID returns a version id above all earlier ones of this tablet.
func (e *evaluation) newID() (*record.ID, error) {
	clock, err := e.tick()
	if err != nil {
		return nil, err
	}
	random, err := e.c.random()
	return &record.ID{Clock: clock, Random: uint32(random)}, err
}

func (e *evaluation) tick() (uint64, error) {
	clock, err := e.c.clock.next(e.term, e.r)
	if err == nil {
		e.plan.Clock(clock)
	}
	return clock, err
}

func (c *Catalog) random() (uint64, error) {
	var b [8]byte
	c.randomMu.Lock()
	defer c.randomMu.Unlock()
	if _, err := io.ReadFull(c.config.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("read randomness: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// outcome is how a write ended: its result, and whether an earlier try of the same Op had done it.
type outcome struct {
	*record.Result
	repeated bool
}

// write decides and commits one write. evaluate runs under the latches of spans, reads the state as of the last write
// on them, and fills the plan; an error of it ends the write with nothing changed. A plan without effects commits
// nothing. evaluate runs again when the term of a replica that leads alone changed.
func (c *Catalog) write(ctx context.Context, op Op, spans []latchSpan, evaluate func(*evaluation) error) (outcome, error) {
	var out outcome
	err := c.during(ctx, func(ctx context.Context) error {
		var err error
		out, err = c.latched(ctx, op, spans, evaluate)
		return err
	})
	return out, err
}

func (c *Catalog) latched(ctx context.Context, op Op, spans []latchSpan, evaluate func(*evaluation) error) (outcome, error) {
	held, err := c.latches.acquire(ctx, spans...)
	if err != nil {
		return outcome{}, err
	}
	// The place among the commands under way comes after the latches: those who wait for a latch must not keep the one
	// who has it, and who may need several commands, from going on.
	select {
	case c.inFlight <- struct{}{}:
	case <-ctx.Done():
		c.latches.release(held)
		return outcome{}, ctx.Err()
	}
	w := &writing{c: c, ctx: ctx, op: op, release: func() {
		c.latches.release(held)
		<-c.inFlight
	}}
	out, err := w.run(evaluate)
	if !w.handedOver {
		w.release()
	}
	return out, err
}

// writing is one write under its latches.
type writing struct {
	c       *Catalog
	ctx     context.Context
	op      Op
	release func()
	// handedOver is set when the outcome is unknown: settle releases the latches.
	handedOver bool
}

func (w *writing) run(evaluate func(*evaluation) error) (outcome, error) {
	for {
		out, again, err := w.try(evaluate)
		if !again {
			return out, err
		}
		if err := sleep(w.ctx, retryAfter); err != nil {
			return outcome{}, err
		}
	}
}

// try evaluates once and commits. again says that nothing was changed and another evaluation may do it.
func (w *writing) try(evaluate func(*evaluation) error) (out outcome, again bool, err error) {
	c := w.c
	term, err := c.barrier(w.ctx)
	if err != nil {
		return outcome{}, c.passes(err), err
	}
	e := &evaluation{state: state{c.tablet.State()}, plan: new(tablet.Plan), term: term, now: c.config.Now().UTC(), c: c}
	if w.op != (Op{}) {
		if done, err := w.answered(e.r); done != nil || err != nil {
			return outcome{done, true}, false, err
		}
	}
	if err := evaluate(e); err != nil {
		return outcome{}, false, err
	}
	if e.plan.Empty() {
		return outcome{Result: &e.plan.Result}, false, nil
	}
	op := w.op
	if op == (Op{}) {
		op = Op{c.session, c.seq.Add(1)}
	}
	command, err := e.plan.Encode(term, op.Session, op.Seq)
	if errors.Is(err, tablet.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if err != nil {
		return outcome{}, false, err
	}
	return w.commit(command)
}

// answered finds the answer of an earlier try of the same Op.
func (w *writing) answered(r kv.Reader) (*record.Result, error) {
	result, err := tablet.Answered(r, w.op.Session, w.op.Seq)
	if result != nil || err != nil {
		return result, translate(err)
	}
	if !w.c.sessions.alive(w.op.Session) {
		return nil, fmt.Errorf("session %d: %w", w.op.Session, ErrSessionFenced)
	}
	return nil, nil
}

// commit proposes the command. When the context ends while it may still be applied, settle finds out before the
// latches open: a later write must not be evaluated against a state that this one may still change.
func (w *writing) commit(command []byte) (out outcome, again bool, err error) {
	result, err := w.c.tablet.Propose(w.ctx, command)
	if err == nil {
		return decided(result)
	}
	if errors.Is(err, raft.ErrTooLarge) {
		return outcome{}, false, fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if !errors.Is(err, raft.ErrUnknownOutcome) {
		return outcome{}, w.c.passes(err), err
	}
	if w.c.admit() != nil {
		return outcome{}, false, err
	}
	w.handedOver = true
	settled := make(chan settlement)
	go w.settle(command, err, settled)
	select {
	case s := <-settled:
		w.handedOver = false
		return s.out, s.again, s.err
	case <-w.ctx.Done():
		return outcome{}, false, err
	}
}

type settlement struct {
	out   outcome
	again bool
	err   error
}

// settle finds out what became of a command of unknown outcome, and gives the latches back to the writer, or releases
// them when the writer has left.
func (w *writing) settle(command []byte, unknown error, settled chan<- settlement) {
	defer w.c.work.Done()
	s := w.settlement(command, unknown)
	select {
	case settled <- s:
	case <-w.ctx.Done():
		w.release()
	}
}

// settlement repeats the command until its outcome is known. The tablet applies it at most once. When the repetition
// is refused as one of an earlier term, neither was applied or will be: entries of the log never go back in terms. When
// this replica cannot find out, because the Catalog ends or another leads, the outcome stays unknown.
func (w *writing) settlement(command []byte, unknown error) settlement {
	for {
		result, err := w.c.tablet.Propose(w.c.life, command)
		switch {
		case err == nil:
			out, again, err := decided(result)
			if errors.Is(err, ErrSessionFenced) {
				// What the session did may be forgotten with it.
				err = fmt.Errorf("%w: %w", unknown, err)
			}
			return settlement{out, again, err}
		case errors.Is(err, raft.ErrStopped) || w.c.life.Err() != nil,
			errors.Is(err, raft.ErrNotLeader) && !w.c.passes(err):
			return settlement{err: fmt.Errorf("%w: %w", unknown, err)}
		}
		if sleep(w.c.life, retryAfter) != nil {
			return settlement{err: unknown}
		}
	}
}

// decided reads what Apply returned.
func decided(result any) (out outcome, again bool, err error) {
	answer, ok := result.(tablet.Answer)
	if !ok {
		return outcome{}, false, fmt.Errorf("tablet answered with %T: %w", result, ErrUnavailable)
	}
	if errors.Is(answer.Err, tablet.ErrStaleTerm) || errors.Is(answer.Err, tablet.ErrStaleEpoch) {
		return outcome{}, true, ErrUnavailable
	}
	if answer.Err != nil {
		return outcome{}, false, translate(answer.Err)
	}
	return outcome{answer.Result, answer.Repeated}, false, nil
}

// translate gives the tablet's errors the names of this package.
func translate(err error) error {
	if errors.Is(err, tablet.ErrFenced) || errors.Is(err, tablet.ErrForgotten) {
		return fmt.Errorf("%w: %w", ErrSessionFenced, err)
	}
	return err
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
