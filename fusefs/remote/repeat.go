package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// maxLost is how often in a row one gateway may say that it does not know the session: once after a restart, and once
// more after a lease that ended while the restart was waited for.
const maxLost = 3

// call makes one request of the service; repeat says how.
func call[Res any](ctx context.Context, c *Client, fn func(context.Context, service) (*connect.Response[Res], error)) (*Res, error) {
	var out *Res
	err := c.repeat(ctx, func(ctx context.Context, at *stay) error {
		res, err := fn(ctx, at.service)
		if err == nil {
			out = res.Msg
		}
		return err
	})
	return out, err
}

// repeat runs fn until it is answered: again at the same gateway, at another one when that fails, and in a session that
// is opened again when the gateway does not know it. Changes are numbered in the session, which every gateway finds in
// the names, so what was done is not done again.
func (c *Client) repeat(ctx context.Context, fn func(ctx context.Context, at *stay) error) error {
	r := repetition{c: c, began: time.Now(), pause: firstPause}
	for {
		at, opened := c.here()
		err := c.attempt(ctx, at, fn)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.next(ctx, at, opened, err); err != nil {
			return err
		}
	}
}

// here is the gateway in use, and how often the session was opened there.
func (c *Client) here() (at *stay, opened uint64) {
	at = c.at.Load()
	return at, at.opened.Load()
}

// attempt asks a gateway once. It ends early when the gateway is given up.
func (c *Client) attempt(ctx context.Context, at *stay, fn func(context.Context, *stay) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer context.AfterFunc(at.life, cancel)()
	at.ask()
	defer at.answered()
	err := fromWire(fn(ctx, at))
	if err == nil || spoken(err) {
		at.hear()
	}
	return err
}

// repetition decides how one request goes on after a failed attempt.
type repetition struct {
	c     *Client
	began time.Time
	pause time.Duration
	tries int
	moves int
	at    *stay // where the last attempt was, and what follows happened
	lost  int   // how often the session was not known
	cut   bool  // a connection broke
	// refused is when the gateway in use first answered that it cannot do it now.
	refused time.Time
}

// next returns nil when the request may be tried again, after whatever had to be done or waited for.
func (r *repetition) next(ctx context.Context, at *stay, opened uint64, err error) error {
	c := r.c
	r.tries++
	if r.at != at {
		r.at, r.lost, r.cut, r.refused = at, 0, false, time.Time{}
	}
	if errors.Is(err, errNoSession) {
		if r.lost++; r.lost > maxLost {
			return fmt.Errorf("%w: %w", err, tree.ErrIO)
		}
		if err = c.reopen(ctx, at, opened); err == nil {
			return nil
		}
	}
	if !again(err) {
		return err
	}
	// Each gateway gets its chance, also where the first of them took all the time.
	if c.config.Retry < 0 || time.Since(r.began) > c.config.Retry && r.tries > c.known.count() {
		return fmt.Errorf("no gateway answers: %w: %w", err, tree.ErrIO)
	}
	if r.leaves(err) {
		err := c.move(ctx, at)
		if r.moves++; err == nil && r.moves <= c.known.count() {
			return nil // at once
		}
		if err != nil && !again(err) {
			return err
		}
	}
	return r.wait(ctx)
}

// leaves tells whether an error is a reason to go to another gateway. A connection may break for other reasons than the
// death of the gateway, which refuses the next one; and one that says that it cannot do it now is given a moment, because
// the others may wait for the same election.
func (r *repetition) leaves(err error) bool {
	switch {
	case r.c.known.count() < 2:
		return false
	case r.at.life.Err() != nil:
		return true
	case spoken(err):
		if r.refused.IsZero() {
			r.refused = time.Now()
		}
		return time.Since(r.refused) > r.c.config.Stall/2
	case broken(err) && !r.cut:
		r.cut = true
		return false
	}
	return true
}

// broken tells whether a connection ended under a request.
func broken(err error) bool {
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

func (r *repetition) wait(ctx context.Context) error {
	timer := time.NewTimer(r.pause)
	defer timer.Stop()
	r.pause = min(2*r.pause, lastPause)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spoken tells whether an error is the answer of a gateway that works, and not of the way to it.
func spoken(err error) bool {
	if errors.Is(err, errStopping) {
		return false
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return true
		}
	}
	return false
}

// again tells whether an error is of the way to the gateway, or of a gateway that is starting, stopping or overloaded.
func again(err error) bool {
	switch {
	case errors.Is(err, errDamaged), errors.Is(err, tree.ErrUnavailable), errors.Is(err, errStopping):
		return true
	case spoken(err):
		return false
	}
	var e *connect.Error
	if errors.As(err, &e) {
		switch e.Code() {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted, connect.CodeAborted,
			connect.CodeUnknown, connect.CodeCanceled:
			return true
		}
		return false
	}
	return true
}
