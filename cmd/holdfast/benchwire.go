package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// wire sends S3 requests with little more than what S3 asks for. On a machine that runs server and bench on the same
// cores an SDK takes as much of them as the server, and a bench with it would measure the SDK.
type wire struct {
	endpoint *url.URL
	keys     sigv4.Credentials
	client   http.Client
}

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
		client: http.Client{Transport: transport},
	}, nil
}

// put stores an object. Its payload is not signed, as over HTTPS.
func (w *wire) put(ctx context.Context, bucket, key string, body []byte) error {
	answer, err := w.send(ctx, http.MethodPut, bucket, key, "", bytes.NewReader(body))
	if err != nil {
		return err
	}
	_, err = discard(answer)
	return err
}

// get reads an object, or the span of it that a Range header names.
func (w *wire) get(ctx context.Context, bucket, key, span string) (io.ReadCloser, error) {
	return w.send(ctx, http.MethodGet, bucket, key, span, nil)
}

// send returns the body of an answer of success; the caller closes it.
func (w *wire) send(ctx context.Context, method, bucket, key, span string, body io.Reader) (io.ReadCloser, error) {
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
	answer, err := w.client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 == 2 {
		return answer.Body, nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, target.Path, answer.Status, text), err, answer.Body.Close())
}
