package remote

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

const (
	// defaultRetry is how long a request is repeated while no gateway answers: a restart takes 5 s at most.
	defaultRetry = 30 * time.Second
	// defaultStall is longer than a gateway that works is silent while it is asked for the session.
	defaultStall = 3 * time.Second
	// firstPause and lastPause are the waits between attempts.
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
	// answerTimeout is how long one attempt of a message may take.
	answerTimeout = 30 * time.Second
	// connections is how many idle connections are kept: as many as the kernel sends requests at once.
	connections = 128
)

// Config is how to reach a bucket.
type Config struct {
	// Endpoints are the URLs of gateways of one cluster, for example "http://127.0.0.1:9000", all with http or all with
	// https. The first that answers is used until it fails, and then the next. Those that the gateways tell of are added.
	Endpoints []string
	// AccessKey and SecretKey sign every request.
	AccessKey, SecretKey string
	// Region goes into the signature. Empty means us-east-1.
	Region string
	// Bucket is what is mounted, Prefix the part of it: "" or ending with "/".
	Bucket, Prefix string
	// Retry is how long a request is repeated while no gateway answers. Zero means 30 s; negative means no repetition.
	Retry time.Duration
	// Stall is how long a gateway may be silent, while it is asked for something, before it is asked for a sign of life. It
	// is given up, where there is another one, when it is silent for as long again. Zero means 3 s.
	Stall time.Duration
	// Transport carries the requests. Nil means a transport of this client's own.
	Transport http.RoundTripper
	// NoPipes sends every message as an HTTP request of its own. Without it a client does that only where no pipe gets
	// through.
	NoPipes bool
	// Log gets what no caller can be told. Nil means slog.Default().
	Log *slog.Logger
}

// Client is a bucket behind gateways. It implements tree.Objects and tree.Looker.
type Client struct {
	config  Config
	session string
	http    *http.Client
	pipes   pipes
	log     *slog.Logger
	mark    markReader
	seq     atomic.Uint64

	// at is the gateway in use. Only who has the place in moving changes it.
	at     atomic.Pointer[stay]
	moving chan struct{}
	known  gateways

	// lifetime bounds reads, which have no context of their own, and the renewal.
	lifetime context.Context
	stop     context.CancelFunc
	done     sync.WaitGroup
	// unwatch ends the watch, which lasts as long as anything may be asked.
	unwatch context.CancelFunc
	watched sync.WaitGroup
}

// New opens a session at the first gateway that answers. Close ends it.
func New(ctx context.Context, c Config) (*Client, error) {
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Retry == 0 {
		c.Retry = defaultRetry
	}
	if c.Stall == 0 {
		c.Stall = defaultStall
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Prefix != "" && !strings.HasSuffix(c.Prefix, "/") {
		c.Prefix += "/"
	}
	if len(c.Endpoints) == 0 || c.Bucket == "" {
		return nil, fmt.Errorf("a mount needs an endpoint and a bucket: %w", tree.ErrInvalid)
	}
	transport := c.Transport
	if transport == nil {
		transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			MaxIdleConnsPerHost: connections, IdleConnTimeout: 50 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute, DisableCompression: true,
		}
	}
	cl := &Client{config: c, log: c.Log, session: newSession(), moving: make(chan struct{}, 1)}
	cl.http = &http.Client{Transport: &signer{next: transport, config: c}}
	if err := cl.configure(c.Endpoints); err != nil {
		return nil, err
	}
	if err := cl.settle(ctx); err != nil {
		return nil, fmt.Errorf("open bucket %s at %s: %w", c.Bucket, strings.Join(c.Endpoints, ", "), err)
	}
	cl.lifetime, cl.stop = context.WithCancel(context.Background())
	watching, unwatch := context.WithCancel(context.Background())
	cl.unwatch = unwatch
	cl.done.Go(cl.renew)
	cl.watched.Go(func() { cl.watch(watching) })
	return cl, nil
}

func newSession() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Mark is a number that every commit at the gateway makes larger, in most cases by one, after the commit can be seen and
// before it is acknowledged, and the page that it stands on. False: it cannot be trusted now, or the gateway is not on
// this machine.
func (c *Client) Mark() (page, index uint64, trusted bool) { return c.mark.read() }

// Close ends the session: what is staged and not published is published or kept by the store.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	c.done.Wait()
	err := c.repeat(ctx, func(ctx context.Context, at *stay) error {
		_, err := at.service.CloseSession(ctx, connect.NewRequest(&mountpb.SessionRequest{Session: c.session}))
		return err
	})
	c.unwatch()
	c.watched.Wait()
	c.at.Load().end(errClosed)
	c.dropPipes(true)
	c.http.CloseIdleConnections()
	return errors.Join(err, c.mark.close())
}

var errClosed = errors.New("the mount is closed")

// signer signs every attempt of a request.
type signer struct {
	next   http.RoundTripper
	config Config
}

// RoundTrip implements http.RoundTripper.
func (s *signer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	req, err := sigv4.FromClient(r)
	if err != nil {
		return nil, err
	}
	sigv4.Sign(req, sigv4.Credentials{AccessKey: s.config.AccessKey, SecretKey: s.config.SecretKey}, s.config.Region, time.Now())
	return s.next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client reach the transport below.
func (s *signer) CloseIdleConnections() {
	if t, ok := s.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (c *Client) nextSeq() uint64 { return c.seq.Add(1) }
