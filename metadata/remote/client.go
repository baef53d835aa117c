package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/wire"
	"github.com/holdfast/holdfast/metadata"
)

// Options are what a Client may be told.
type Options struct {
	// Stall is how long the client waits for a sign of the other side. Zero means DefaultStall; the handler gives one
	// every two seconds.
	Stall time.Duration
}

// Client asks the Handler of one peer. It implements metadata.Names and repeats nothing by itself. It may be used
// concurrently.
type Client struct {
	http  *http.Client
	base  string
	stall time.Duration
}

var _ metadata.Names = (*Client)(nil)

// New returns a client of the peer at base, for example "https://10.0.0.2:7000". The http.Client brings the certificate;
// it must have no Timeout of its own, because a Survey may take hours, and should keep many idle connections.
func New(client *http.Client, base string, o Options) *Client {
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	return &Client{http: client, base: strings.TrimSuffix(base, "/"), stall: o.Stall}
}

// exchange is one question and what comes back.
type exchange struct {
	c      *Client
	name   string
	writes bool
	// caller is the context that the call came with; cancel ends the exchange alone.
	caller context.Context
	cancel context.CancelCauseFunc
	ctx    context.Context
	// watch gives the exchange up when nothing moves for the client's stall.
	watch *wire.Watch
	// sent is set once a connection has the question.
	sent atomic.Bool
	body io.ReadCloser
	buf  []byte
}

// begin sends a question, which is a whole frame, and returns when the answer begins.
func (c *Client) begin(ctx context.Context, name string, writes bool, frame []byte) (*exchange, error) {
	x := &exchange{c: c, name: name, writes: writes, caller: ctx}
	if len(frame) > maxQuestion+frameHead {
		return nil, fmt.Errorf("%s: question of %d bytes, at most %d: %w", name, len(frame), maxQuestion, metadata.ErrTooLarge)
	}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.watch = wire.NewWatch(c.stall, func() { x.cancel(ErrStalled) })
	traced := httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { x.sent.Store(true) }})
	r, err := http.NewRequestWithContext(traced, http.MethodPost, c.base+PathPrefix+name, nil)
	if err != nil {
		x.end()
		return nil, fmt.Errorf("%s at %s: %w: %w: %w", name, c.base, metadata.ErrUnavailable, ErrNotSent, err)
	}
	r.ContentLength = int64(len(frame))
	// The transport asks for the body again only when it wrote nothing of it to a connection that had gone stale.
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(x.watch.Reader(bytes.NewReader(frame))), nil }
	r.Body, _ = r.GetBody() // never fails
	r.Header.Set("Content-Type", "application/octet-stream")
	response, err := c.http.Do(r)
	if err != nil {
		x.end()
		return nil, x.failure(err)
	}
	x.body = response.Body
	if response.StatusCode != http.StatusOK {
		err := x.refused(response)
		x.end()
		return nil, err
	}
	return x, nil
}

// end frees what the exchange holds.
func (x *exchange) end() {
	x.watch.End()
	x.cancel(nil)
	if x.body != nil {
		_ = x.body.Close() // read to its end or given up
	}
}

// refused reads a status that is not 200. The handler gives these before it calls anything.
func (x *exchange) refused(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxText)) // the status says enough without it
	err := fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
		x.sent.Store(false)
	}
	return x.failure(err)
}

// failure says what became of a call without an answer.
func (x *exchange) failure(err error) error {
	if cause := context.Cause(x.ctx); cause != nil && errors.Is(cause, ErrStalled) {
		err = ErrStalled
	}
	gaveUp := x.caller.Err()
	if gaveUp != nil {
		err = gaveUp
	}
	fate := ErrLost
	if !x.sent.Load() {
		fate = ErrNotSent
	}
	switch {
	case x.writes && fate == ErrLost:
		return fmt.Errorf("%s at %s: %w: %w: %w: %w", x.name, x.c.base, metadata.ErrUnavailable, raft.ErrUnknownOutcome, fate, err)
	case gaveUp != nil:
		return fmt.Errorf("%s at %s: %w: %w", x.name, x.c.base, fate, err)
	}
	return fmt.Errorf("%s at %s: %w: %w: %w", x.name, x.c.base, metadata.ErrUnavailable, fate, err)
}

// next reads the next frame that is more than a sign of life.
func (x *exchange) next() (kind byte, d *decoder, err error) {
	for {
		kind, x.buf, err = frameFormat.Read(x.watch.Reader(x.body), x.buf, maxAnswer)
		switch {
		case errors.Is(err, io.EOF):
			return 0, nil, x.failure(io.ErrUnexpectedEOF)
		case err != nil:
			return 0, nil, x.failure(err)
		case kind == kindItems || kind == kindAnswer:
			return kind, newDecoder(x.buf), nil
		case kind != kindAlive:
			return 0, nil, x.failure(fmt.Errorf("%w: an answer of kind %d", wire.ErrMalformed, kind))
		}
	}
}

// fault reads what an answer begins with.
func (x *exchange) fault(d *decoder) (error, error) {
	var f fault
	if err := faults.read(d, &f); err != nil {
		return nil, x.failure(err)
	}
	return f.error(), nil
}

// drain reads the end of the body, so that the connection can be used again.
func (x *exchange) drain() {
	var b [1]byte
	_, _ = x.body.Read(b[:]) // whatever it says, the answer is here
}

// frame makes the frame of a question in buf. A write takes the Op of its context along.
func (p *procedure[Q, A]) frame(ctx context.Context, buf []byte, q *Q) []byte {
	frame, kind := beginFrame(buf), byte(kindQuestion)
	if op := metadata.OpFrom(ctx); p.writes && op != (metadata.Op{}) {
		frame, kind = ops.append(frame, &op), kindWrite
	}
	frame = p.question.append(frame, q)
	frameFormat.End(frame, kind)
	return frame
}

// ask calls a procedure at the other side.
func ask[Q, A any](ctx context.Context, c *Client, p *procedure[Q, A], q *Q) (answer A, err error) {
	kept := buffers.Get().(*[]byte)
	frame := p.frame(ctx, *kept, q)
	x, err := c.begin(ctx, p.name, p.writes, frame)
	if err != nil {
		return answer, err // a transport that failed may still read the frame: it is not used again
	}
	defer x.end()
	kind, d, err := x.next()
	if err == nil && kind != kindAnswer {
		err = x.failure(fmt.Errorf("%w: an answer of kind %d", wire.ErrMalformed, kind))
	}
	if err != nil {
		return answer, err
	}
	remoteErr, err := x.fault(d)
	if err != nil {
		return answer, err
	}
	if err := p.answer.read(d, &answer); err != nil {
		return answer, x.failure(err)
	}
	if err := d.end(); err != nil {
		return answer, x.failure(err)
	}
	x.drain()
	recycle(kept, frame)
	return answer, remoteErr
}

// each calls fn with every item of a stream. An error of fn ends it and is returned as it is. fn may take its time.
func each[Q, T any](ctx context.Context, c *Client, s *stream[Q, T], q *Q, fn func(*T) error) error {
	frame := s.question.append(beginFrame(nil), q)
	frameFormat.End(frame, kindQuestion)
	x, err := c.begin(ctx, s.name, false, frame)
	if err != nil {
		return err
	}
	defer x.end()
	for {
		kind, d, err := x.next()
		if err != nil {
			return err
		}
		if kind == kindAnswer {
			remoteErr, err := x.fault(d)
			if err == nil && d.end() != nil {
				err = x.failure(d.err)
			}
			if err != nil {
				return err
			}
			x.drain()
			return remoteErr
		}
		x.watch.Pause()
		for len(d.b) > 0 {
			item := new(T)
			if err := s.item.read(d, item); err != nil {
				return x.failure(err)
			}
			if err := fn(item); err != nil {
				return err
			}
		}
		x.watch.Moved()
	}
}

// collect makes a slice of a stream; nil when there is nothing.
func collect[Q, T any](ctx context.Context, c *Client, s *stream[Q, T], q *Q) (items []T, err error) {
	err = each(ctx, c, s, q, func(item *T) error {
		items = append(items, *item)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// do calls a procedure that answers with nothing.
func do[Q any](ctx context.Context, c *Client, p *procedure[Q, nothing], q *Q) error {
	_, err := ask(ctx, c, p, q)
	return err
}
