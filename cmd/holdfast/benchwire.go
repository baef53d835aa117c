package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// wire sends S3 requests with little more than what S3 asks for. On a machine that runs server and bench on the same
// cores an SDK takes as much of them as the server, and a bench with it would measure the SDK.
type wire struct {
	endpoint  *url.URL
	keys      sigv4.Credentials
	transport *http.Transport

	mu   sync.Mutex // guards idle
	idle []*line
}

// lineIdle is how long a connection may wait for the next request: less than the minute after which servers close it.
const lineIdle = 20 * time.Second

// lineBuffer holds the head of a request and the body of a small one: one system call sends both.
const lineBuffer = 8 << 10

// wireClient makes the wire of the client commands' options.
func (s *session) wireClient(o *clientOptions) (*wire, error) {
	key, transport, err := s.access(o)
	if err != nil {
		return nil, err
	}
	endpoint, err := url.Parse(o.endpoint)
	if err != nil {
		return nil, usageError(err)
	}
	return &wire{
		endpoint: endpoint, keys: sigv4.Credentials{AccessKey: key.AccessKey, SecretKey: string(key.Secret)},
		transport: transport,
	}, nil
}

// put stores an object. Its payload is not signed, as over HTTPS.
func (w *wire) put(ctx context.Context, bucket, key string, body []byte) error {
	r, err := w.request(ctx, http.MethodPut, bucket, key, "", bytes.NewReader(body))
	if err != nil {
		return err
	}
	l, err := w.line(ctx)
	if err != nil {
		return err
	}
	answer, err := l.ask(r)
	if err != nil {
		return errors.Join(err, l.conn.Close())
	}
	if answer.StatusCode/100 != 2 {
		return errors.Join(refusal(answer), l.conn.Close())
	}
	if _, err := discard(answer.Body); err != nil || answer.Close {
		return errors.Join(err, l.conn.Close())
	}
	l.used = time.Now()
	w.mu.Lock()
	w.idle = append(w.idle, l)
	w.mu.Unlock()
	return nil
}

// line is a connection that carries one request at a time, by the goroutine that asks: what the standard client adds,
// two goroutines a connection, doubles what a small request costs the client.
type line struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
	used time.Time // last
}

// line returns an idle connection or a new one.
func (w *wire) line(ctx context.Context) (*line, error) {
	w.mu.Lock()
	var old []*line
	for len(w.idle) > 0 {
		l := w.idle[len(w.idle)-1]
		if time.Since(l.used) < lineIdle {
			w.idle = w.idle[:len(w.idle)-1]
			w.mu.Unlock()
			return l, nil
		}
		// The one that was used last is too old, so all are.
		old, w.idle = w.idle, nil
	}
	w.mu.Unlock()
	for _, l := range old {
		if err := l.conn.Close(); err != nil {
			return nil, err
		}
	}
	conn, err := w.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &line{conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriterSize(conn, lineBuffer)}, nil
}

func (w *wire) dial(ctx context.Context) (net.Conn, error) {
	address := w.endpoint.Host
	if w.endpoint.Port() == "" {
		address = net.JoinHostPort(w.endpoint.Hostname(), w.endpoint.Scheme)
	}
	if w.endpoint.Scheme == "https" {
		dialer := tls.Dialer{Config: w.transport.TLSClientConfig}
		return dialer.DialContext(ctx, "tcp", address)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", address)
}

// ask sends a request and reads the head of its answer. The end of the request's context ends it.
func (l *line) ask(r *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(r.Context(), func() { _ = l.conn.SetDeadline(time.Unix(0, 0)) }) // the calls that fail say it
	defer stop()
	if err := r.Write(l.out); err != nil {
		return nil, err
	}
	if err := l.out.Flush(); err != nil {
		return nil, err
	}
	return http.ReadResponse(l.in, r)
}

// close closes the idle connections.
func (w *wire) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	for _, l := range w.idle {
		err = errors.Join(err, l.conn.Close())
	}
	w.idle = nil
	return err
}

// get reads an object, or the span of it that a Range header names. The caller closes the body.
func (w *wire) get(ctx context.Context, bucket, key, span string) (io.ReadCloser, error) {
	r, err := w.request(ctx, http.MethodGet, bucket, key, span, nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: w.transport}).Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		return nil, refusal(answer)
	}
	return answer.Body, nil
}

func (w *wire) request(ctx context.Context, method, bucket, key, span string, body io.Reader) (*http.Request, error) {
	target := *w.endpoint
	target.Path = "/" + bucket + "/" + key
	r, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if span != "" {
		r.Header.Set("Range", span)
	}
	signed, err := sigv4.FromClient(r)
	if err != nil {
		return nil, err
	}
	sigv4.Sign(signed, w.keys, region, time.Now())
	return r, nil
}

// refusal is the error of an answer that is none of success.
func refusal(answer *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	return errors.Join(fmt.Errorf("%s %s: %s: %s", answer.Request.Method, answer.Request.URL.Path, answer.Status, text), err, answer.Body.Close())
}
