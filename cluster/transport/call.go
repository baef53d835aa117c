package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// Do makes a call. The scheme and the host of the request's URL do not matter. It shares one connection with all other
// calls to the peer, so its bodies should be small; large ones go by Transfer.
//
// The answer's body must be closed. Until then, or until Do fails, the request's body is read; never after it. The
// error is a RemoteError when the peer answered with one, or ErrUnreachable when nothing was sent; with ErrBroken,
// ErrStalled and the context's error the peer may have done what was asked. Nothing is tried twice.
func (p *Peer) Do(request *http.Request) (*http.Response, error) {
	calls, err := p.connected(request.Context())
	if err != nil {
		return nil, err
	}
	return p.exchange(request, calls, func(bool) {})
}

// Transfer is Do for large bodies: it has a connection of its own while it lasts. It waits while MaxBulk others are
// under way.
func (p *Peer) Transfer(request *http.Request) (*http.Response, error) {
	l, err := p.bulk.take(request.Context())
	if err != nil {
		return nil, err
	}
	return p.exchange(request, l, func(good bool) { p.bulk.give(l, good) })
}

// exchange is one request and its answer on a connection; after is called once, when both are over, with whether both
// bodies went to their ends.
func (p *Peer) exchange(request *http.Request, l *link, after func(good bool)) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	dog := &watchdog{limit: p.peers.config.Stall, bite: func() { cancel(ErrStalled) }}
	sent := request.WithContext(ctx)
	sent.URL = &url.URL{Scheme: "https", Host: p.id.String(), Path: request.URL.Path, RawPath: request.URL.RawPath, RawQuery: request.URL.RawQuery}
	sent.Host, sent.GetBody = "", nil
	body := &sentBody{dog: dog, done: true, turn: make(chan struct{}, 1)}
	if request.Body != nil && request.Body != http.NoBody {
		body.inner, body.done = request.Body, false
		sent.Body = body
	}
	over := sync.OnceValue(func() error {
		err := body.closeInner() // lets a source go that is read and waits
		good := body.seal()
		cancel(nil)
		after(good)
		return err
	})
	dog.enter()
	response, err := l.RoundTrip(sent)
	dog.leave()
	if err == nil {
		err = p.refusal(response)
		if err != nil {
			err = errors.Join(err, response.Body.Close())
		}
	} else {
		err = p.wrap(broken(ctx, err))
	}
	if err != nil {
		body.failed = true
		return nil, errors.Join(err, over())
	}
	response.Body = &receivedBody{inner: response.Body, ctx: ctx, dog: dog, sent: body, over: over, peer: p}
	return response, nil
}

// refusal is the error that an answer is, nil when it is none.
func (p *Peer) refusal(response *http.Response) error {
	value := response.Header.Get(ErrorHeader)
	if value == "" {
		return nil
	}
	remote, err := p.peers.sentinels.Decode(p.id, value)
	if err != nil {
		return p.wrap(fmt.Errorf("%s: %w", response.Status, err))
	}
	return remote
}

// sentBody is the body of a request. The watchdog sleeps while its source is read: who is slow there is the caller.
type sentBody struct {
	dog *watchdog
	// failed: the exchange has failed, so the connection cannot carry another.
	failed bool

	// turn is held by who reads or seals, and guards what follows. It is no mutex because a source may take its time.
	turn   chan struct{}
	inner  io.ReadCloser
	sealed bool
	// done: it went to its end.
	done bool
}

// errSealed is what HTTP reads after the end of the call.
var errSealed = errors.New("the call is over")

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	if b.sealed {
		return 0, errSealed
	}
	b.dog.leave()
	n, err := b.inner.Read(p)
	b.dog.enter()
	if err == io.EOF {
		b.done = true
	}
	return n, err
}

// Close is HTTP's word that it reads no more. The source is closed at the end of the call.
func (b *sentBody) Close() error { return nil }

// seal lets nobody read the source any more, and says whether the connection can carry another exchange. It waits for
// a read under way.
func (b *sentBody) seal() bool {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	b.sealed = true
	return b.done && !b.failed
}

func (b *sentBody) closeInner() error {
	if b.inner == nil {
		return nil
	}
	return b.inner.Close()
}

// receivedBody is the body of an answer. The watchdog is awake while it is read.
type receivedBody struct {
	inner io.ReadCloser
	ctx   context.Context
	dog   *watchdog
	sent  *sentBody
	over  func() error
	peer  *Peer
	ended bool
}

// Read implements io.Reader.
func (b *receivedBody) Read(p []byte) (int, error) {
	b.dog.enter()
	n, err := b.inner.Read(p)
	b.dog.leave()
	if err == io.EOF {
		b.ended = true
		return n, io.EOF
	}
	if err != nil {
		return n, b.peer.wrap(broken(b.ctx, err))
	}
	return n, nil
}

// Close ends the call.
func (b *receivedBody) Close() error {
	b.sent.failed = b.sent.failed || !b.ended
	err := b.inner.Close()
	return errors.Join(err, b.over())
}
