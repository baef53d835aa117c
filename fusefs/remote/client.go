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
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/remote/mountpb/mountpbconnect"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

const (
	// defaultRetry is how long a request is repeated while no gateway answers: a restart takes 5 s at most.
	defaultRetry = 30 * time.Second
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
	// Endpoints are the URLs of gateways, for example "http://127.0.0.1:9000"; the first that answers is used.
	Endpoints []string
	// AccessKey and SecretKey sign every request.
	AccessKey, SecretKey string
	// Region goes into the signature. Empty means us-east-1.
	Region string
	// Bucket is what is mounted, Prefix the part of it: "" or ending with "/".
	Bucket, Prefix string
	// Retry is how long a request is repeated while no gateway answers. Zero means 30 s; negative means no repetition.
	Retry time.Duration
	// Transport carries the requests. Nil means a transport of this client's own.
	Transport http.RoundTripper
	// NoPipes sends every message as an HTTP request of its own. Without it a client does that only where no pipe gets
	// through.
	NoPipes bool
	// Log gets what no caller can be told. Nil means slog.Default().
	Log *slog.Logger
}

// Client is a bucket behind a gateway. It implements tree.Objects and tree.Looker.
type Client struct {
	config  Config
	session string
	bases   []string
	http    *http.Client
	// services are the clients of the service at bases.
	services []mountpbconnect.MountServiceClient
	pipes    pipes
	log      *slog.Logger
	mark     markReader
	seq      atomic.Uint64
	current  atomic.Uint64 // counts the changes of gateway

	// lifetime bounds reads, which have no context of their own, and the renewal.
	lifetime context.Context
	stop     context.CancelFunc
	done     sync.WaitGroup

	// opening is held while a session is opened again.
	opening sync.Mutex
	opened  atomic.Uint64
}

// New opens a session at the first gateway that answers. Close ends it.
func New(ctx context.Context, c Config) (*Client, error) {
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Retry == 0 {
		c.Retry = defaultRetry
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
	cl := &Client{config: c, log: c.Log, session: newSession()}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("endpoint %q is no http or https URL: %w", e, tree.ErrInvalid)
		}
		cl.bases = append(cl.bases, u.Scheme+"://"+u.Host)
	}
	transport := c.Transport
	if transport == nil {
		transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			MaxIdleConnsPerHost: connections, IdleConnTimeout: 50 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute, DisableCompression: true,
		}
	}
	cl.http = &http.Client{Transport: &signer{next: transport, config: c}}
	for _, base := range cl.bases {
		plain := mountpbconnect.NewMountServiceClient(cl.http, base+PathPrefix[:len(PathPrefix)-1],
			connect.WithReadMaxBytes(maxMessage), connect.WithAcceptCompression("gzip", nil, nil))
		cl.services = append(cl.services, piped{plain, cl, base})
	}
	cl.lifetime, cl.stop = context.WithCancel(context.Background())
	if err := cl.openSession(ctx); err != nil {
		cl.stop()
		return nil, fmt.Errorf("open bucket %s at %s: %w", c.Bucket, strings.Join(c.Endpoints, ", "), err)
	}
	cl.done.Add(1)
	go cl.renew()
	return cl, nil
}

func newSession() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

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

// base is the gateway in use, and which one that is.
func (c *Client) base() (string, uint64) {
	n := c.current.Load()
	return c.bases[n%uint64(len(c.bases))], n
}

func (c *Client) service() (mountpbconnect.MountServiceClient, uint64) {
	n := c.current.Load()
	return c.services[n%uint64(len(c.services))], n
}

// openSession begins the session, or takes it up after the gateway forgot it.
func (c *Client) openSession(ctx context.Context) error {
	was := c.opened.Load()
	c.opening.Lock()
	defer c.opening.Unlock()
	if c.opened.Load() != was {
		return nil // another request was faster
	}
	err := c.repeat(ctx, func(ctx context.Context) error {
		svc, _ := c.service()
		answer, err := svc.OpenSession(ctx, connect.NewRequest(&mountpb.OpenSessionRequest{
			Session: c.session, Bucket: c.config.Bucket, Prefix: c.config.Prefix,
		}))
		if err == nil {
			c.followMark(answer.Header().Get(markHeader))
		}
		return err
	})
	if err == nil {
		c.opened.Add(1)
	}
	return err
}

// followMark reads the gateway's mark from now on, where there is one. A mount of several gateways does not: it could
// not tell a commit of one from those of another.
func (c *Client) followMark(place string) {
	if place == "" || len(c.bases) > 1 {
		return
	}
	if err := c.mark.follow(place); err != nil {
		c.log.Debug("lookups are not remembered", "err", err)
	}
}

// Mark is a number that every commit at the gateway makes larger, in most cases by one, after the commit can be seen and
// before it is acknowledged. False: it cannot be trusted now, or the gateway is not on this machine.
func (c *Client) Mark() (uint64, bool) { return c.mark.read() }

// renew keeps the lease until Close.
func (c *Client) renew() {
	defer c.done.Done()
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.lifetime.Done():
			return
		case now := <-tick.C:
			c.expirePipes(now)
		}
		_, err := call(c.lifetime, c, func(ctx context.Context, svc mountpbconnect.MountServiceClient) (*connect.Response[mountpb.SessionResponse], error) {
			return svc.RenewSession(ctx, connect.NewRequest(&mountpb.SessionRequest{Session: c.session}))
		})
		if err != nil && c.lifetime.Err() == nil {
			c.log.Warn("lease was not renewed", "bucket", c.config.Bucket, "err", err)
		}
	}
}

// Close ends the session: what is staged and not published is published or kept by the store.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	c.done.Wait()
	err := c.repeat(ctx, func(ctx context.Context) error {
		svc, _ := c.service()
		_, err := svc.CloseSession(ctx, connect.NewRequest(&mountpb.SessionRequest{Session: c.session}))
		return err
	})
	c.dropPipes(true)
	c.http.CloseIdleConnections()
	return errors.Join(err, c.mark.close())
}

// CloseIdleConnections lets http.Client reach the transport below.
func (s *signer) CloseIdleConnections() {
	if t, ok := s.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// call makes one request of the service, repeats it while no gateway answers, and opens the session again when the
// gateway does not know it.
func call[Res any](ctx context.Context, c *Client, fn func(context.Context, mountpbconnect.MountServiceClient) (*connect.Response[Res], error)) (*Res, error) {
	var out *Res
	err := c.inSession(ctx, func(ctx context.Context) error {
		svc, _ := c.service()
		res, err := fn(ctx, svc)
		if err == nil {
			out = res.Msg
		}
		return err
	})
	return out, err
}

func (c *Client) inSession(ctx context.Context, fn func(context.Context) error) error {
	// A session can be lost once to a restart, and once more to a lease that ended while the restart was waited for.
	for range 3 {
		err := c.repeat(ctx, fn)
		if !errors.Is(err, errNoSession) {
			return err
		}
		if err := c.openSession(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errNoSession, tree.ErrIO)
}

// repeat runs fn until it is answered. Changes are numbered, so what was done is not done again.
func (c *Client) repeat(ctx context.Context, fn func(context.Context) error) error {
	deadline := time.Now().Add(c.config.Retry)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		_, at := c.base()
		attempt, cancel := context.WithTimeout(ctx, answerTimeout)
		err := fromWire(fn(attempt))
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !again(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no gateway answers: %w: %w", err, tree.ErrIO)
		}
		c.current.CompareAndSwap(at, at+1) // try the next one
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// again tells whether an error is of the way to the gateway, or of a gateway that is starting or overloaded.
func again(err error) bool {
	if errors.Is(err, errDamaged) || errors.Is(err, tree.ErrUnavailable) {
		return true
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return false
		}
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

func (c *Client) nextSeq() uint64 { return c.seq.Add(1) }
