package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/wire"
)

// call is one request to the peer and the frames of its answer.
type call struct {
	drive *Drive
	ctx   context.Context // the caller's
	inner context.Context // ends also with the silence of the peer and with Close
	end   func()
	watch *wire.Watch

	kind   kind
	reused atomic.Bool // the connection of the request was used before
	body   io.Closer   // of the answer
	frames frames
}

// begin makes a call. The caller calls end.
func (d *Drive) begin(ctx context.Context, k kind) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	c := &call{drive: d, ctx: ctx, kind: k}
	inner, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(d.life, func() { cancel(errClosed) })
	c.inner = inner
	c.watch = wire.NewWatch(d.o.Silence, func() { cancel(fmt.Errorf("%w for %v", errSilent, d.o.Silence)) })
	c.end = func() {
		c.watch.End()
		stop()
		cancel(nil)
		if c.body != nil {
			_ = c.body.Close() // nothing more is read of it, and what was read was verified
		}
		d.wait.Done()
	}
	return c, nil
}

// request returns the frame that a call begins with.
func (c *call) request(message []byte) []byte {
	b := beginFrame(make([]byte, 0, frameHead+callSize+len(message)))
	b = appendCaller(b, caller{cluster: c.drive.o.Cluster, drive: c.drive.id, silence: c.drive.o.Silence})
	return endFrame(append(b, message...), 0, c.kind)
}

// maxTries is how often a call is sent that idle connections lose: the peer may have been restarted since, and some of
// its connections not be known as closed yet.
const maxTries = 3

// send sends the request and waits for the beginning of the answer. open gives its body, as often as it is sent. A call
// that was lost with a connection that had been idle is sent again: every call may be made twice.
func (c *call) send(size int64, open func() io.ReadCloser) error {
	var response *http.Response
	for try := 1; ; try++ {
		c.reused.Store(false)
		r, err := http.NewRequestWithContext(c.traced(), http.MethodPost, c.drive.base+c.kind.String(), open())
		if err != nil {
			return err
		}
		r.ContentLength = size
		r.GetBody = func() (io.ReadCloser, error) { return open(), nil }
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Accept-Encoding", "identity")
		if response, err = c.drive.client.Do(r); err == nil {
			break
		}
		if !c.reused.Load() || c.inner.Err() != nil || try == maxTries {
			return err
		}
	}
	c.watch.Moved()
	c.body = response.Body
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != contentType {
		return fmt.Errorf("peer answers %s with %q: %w", response.Status, response.Header.Get("Content-Type"), ErrProtocol)
	}
	c.frames.r = c.watch.Reader(response.Body)
	return nil
}

// traced returns the context of the request, by which the transport tells of steps before the first byte that count as
// bytes: each of them may take its time.
func (c *call) traced() context.Context {
	return httptrace.WithClientTrace(c.inner, &httptrace.ClientTrace{
		ConnectDone:      func(string, string, error) { c.watch.Moved() },
		TLSHandshakeDone: func(tls.ConnectionState, error) { c.watch.Moved() },
		GotConn: func(info httptrace.GotConnInfo) {
			c.reused.Store(info.Reused)
			c.watch.Moved()
		},
	})
}

// next reads a frame of the answer. One of kindAnswer is taken apart: r is what stands behind it, and an error that the
// peer tells is returned as what it is.
func (c *call) next() (k kind, r *reader, err error) {
	for {
		k, body, err := c.frames.next()
		if err != nil {
			return 0, nil, err
		}
		r := &reader{b: body}
		switch k {
		case kindAlive:
			continue
		case kindAnswer:
			a := r.answer()
			if r.failed {
				return 0, nil, r.end("answer")
			}
			c.drive.hear(a.report)
			if err := fault(a.fault, a.text); err != nil {
				return 0, nil, told{err}
			}
		}
		return k, r, nil
	}
}

// told marks an error of the drive at the peer, which is no fault of the way there.
type told struct{ error }

func (e told) Unwrap() error { return e.error }

// answer reads the frame that ends a call.
func (c *call) answer() (*reader, error) {
	k, r, err := c.next()
	if err == nil && k != kindAnswer {
		err = fmt.Errorf("%v where an answer should be: %w", k, ErrProtocol)
	}
	return r, err
}

// drain reads the end of an answer of which all that matters is here, so that its connection can be used again.
func (c *call) drain() {
	var probe [1]byte
	_, _ = c.frames.r.Read(probe[:]) // whatever it says, the answer is here
}

// explain makes an error of the contract of what befell a call.
func (c *call) explain(err error) error {
	var fromDrive told
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fromDrive):
		return fromDrive.error
	case errors.Is(err, chunkstore.ErrDamaged):
		return err
	}
	if ended := c.ctx.Err(); ended != nil {
		return ended
	}
	if cause := context.Cause(c.inner); cause != nil {
		err = cause
	}
	c.drive.doubtful()
	return down(err)
}

// lie is what a peer sends that cannot be true.
func lie(format string, args ...any) error {
	return fmt.Errorf("peer sent "+format+": %w", append(args, chunkstore.ErrDamaged)...)
}

// ask makes a call whose request is one frame, and hands the call to use once the answer begins.
func (d *Drive) ask(ctx context.Context, k kind, message []byte, use func(*call) error) error {
	c, err := d.begin(ctx, k)
	if err != nil {
		return err
	}
	defer c.end()
	request := c.request(message)
	err = c.send(int64(len(request)), func() io.ReadCloser { return io.NopCloser(bytes.NewReader(request)) })
	if err == nil {
		err = use(c)
	}
	return c.explain(err)
}

// simple makes a call that gives nothing but its success.
func (d *Drive) simple(ctx context.Context, k kind, message []byte) error {
	return d.ask(ctx, k, message, func(c *call) error {
		r, err := c.answer()
		if err != nil {
			return err
		}
		c.drain()
		return r.end("answer")
	})
}

func (d *Drive) put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	if err := checkPut(h, cells); err != nil {
		return err
	}
	c, err := d.begin(ctx, kindPut)
	if err != nil {
		return err
	}
	defer c.end()
	l := newLease(c.watch, c.request(appendHeader(nil, h)), cells)
	defer l.end()
	if err := c.send(l.size, l.open); err != nil {
		return c.explain(err)
	}
	r, err := c.answer()
	if err == nil {
		c.drain()
		err = r.end("answer")
	}
	return c.explain(err)
}
