package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/remote/mountpb/mountpbconnect"
	"github.com/holdfast/holdfast/fusefs/tree"
)

const (
	// maxLearned bounds the gateways that a mount remembers beside those it was given.
	maxLearned = 64
	// openTimeout is how long a gateway may take to open a session: it waits for an election of the names, if need be.
	openTimeout = 10 * time.Second
	// headStart is what a gateway has before the next one is asked too, so that one that hangs holds nobody back.
	headStart = 250 * time.Millisecond
	// shunned is how long a gateway that failed comes after all others.
	shunned = 10 * time.Second
)

// gateway is one that can be asked.
type gateway struct {
	base    string // scheme://host
	service service
	// failed is when it was given up last, in nanoseconds since the process began; 0: never.
	failed atomic.Int64
}

func (g *gateway) avoided() bool {
	at := g.failed.Load()
	return at != 0 && time.Since(began)-time.Duration(at) < shunned
}

// gateways are those that a client knows: the ones it was given, in their order, and then the others.
type gateways struct {
	mu         sync.Mutex
	configured []*gateway
	learned    []*gateway
	ignored    map[string]bool // addresses that a warning was given for
}

func (g *gateways) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.configured) + len(g.learned)
}

// after is all of them in the order in which to ask when one failed: those behind it, then those before it, then those
// that failed just now, and itself in the end.
func (g *gateways) after(failed *gateway) []*gateway {
	g.mu.Lock()
	all := append(slices.Clone(g.configured), g.learned...)
	g.mu.Unlock()
	if i := slices.Index(all, failed); i >= 0 {
		all = append(all[i+1:], all[:i]...)
	}
	var avoided []*gateway
	all = slices.DeleteFunc(all, func(g *gateway) bool {
		if g.avoided() {
			avoided = append(avoided, g)
			return true
		}
		return false
	})
	all = append(all, avoided...)
	if failed != nil {
		all = append(all, failed)
	}
	return all
}

// stay is the time at one gateway.
type stay struct {
	*gateway
	// life ends when the gateway is given up: every request that is under way there is asked elsewhere.
	life context.Context
	end  context.CancelCauseFunc
	// opened counts how often the session was opened here.
	opened atomic.Uint64
	// asking counts the requests under way; heard is when the last sign of life came while there was one, in nanoseconds
	// since the process began.
	asking atomic.Int64
	heard  atomic.Int64
	// probing: somebody waits for a sign of life.
	probing atomic.Bool
}

func newStay(g *gateway) *stay {
	s := &stay{gateway: g}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.opened.Store(1)
	return s
}

func (s *stay) hear() { s.heard.Store(int64(time.Since(began))) }

func (s *stay) ask() {
	if s.asking.Add(1) == 1 {
		s.hear()
	}
}

func (s *stay) answered() { s.asking.Add(-1) }

// silent is how long no byte came from the gateway, or went there, while it was asked for something.
func (s *stay) silent() time.Duration {
	if s.asking.Load() == 0 {
		return 0
	}
	return time.Since(began) - time.Duration(s.heard.Load())
}

// baseOf is an endpoint without what does not belong to it.
func baseOf(endpoint string) (base, scheme string, err error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", "", fmt.Errorf("endpoint %q is no http or https URL: %w", endpoint, tree.ErrInvalid)
	}
	return u.Scheme + "://" + u.Host, u.Scheme, nil
}

func (c *Client) newGateway(base string) *gateway {
	plain := mountpbconnect.NewMountServiceClient(c.http, base+PathPrefix[:len(PathPrefix)-1],
		connect.WithReadMaxBytes(maxMessage), connect.WithAcceptCompression("gzip", nil, nil))
	return &gateway{base: base, service: piped{plain, c, base}}
}

// configure takes the endpoints that a mount was given.
func (c *Client) configure(endpoints []string) error {
	first := ""
	for _, e := range endpoints {
		base, scheme, err := baseOf(e)
		if err != nil {
			return err
		}
		if first == "" {
			first = scheme
		}
		if scheme != first {
			return fmt.Errorf("endpoints %q: http and https are not mixed: %w", endpoints, tree.ErrInvalid)
		}
		if !slices.ContainsFunc(c.known.configured, func(g *gateway) bool { return g.base == base }) {
			c.known.configured = append(c.known.configured, c.newGateway(base))
		}
	}
	return nil
}

// learn takes the gateways that one of them told of, in place of those of the last time. Those that would be reached in
// another way than the mount was told to, http or https, are left out.
func (c *Client) learn(endpoints []string) {
	if len(endpoints) == 0 {
		return // it knows none
	}
	// Each mount in an order of its own: the mounts of a gateway that dies spread over the others.
	endpoints = slices.Clone(endpoints)
	rand.Shuffle(len(endpoints), func(i, k int) { endpoints[i], endpoints[k] = endpoints[k], endpoints[i] })
	_, scheme, err := baseOf(c.config.Endpoints[0])
	k := &c.known
	k.mu.Lock()
	defer k.mu.Unlock()
	var learned []*gateway
	for _, e := range endpoints {
		base, kind, baseErr := baseOf(e)
		if err := errors.Join(err, baseErr); err != nil || kind != scheme {
			k.warnLocked(c, e)
			continue
		}
		same := func(g *gateway) bool { return g.base == base }
		if slices.ContainsFunc(k.configured, same) || slices.ContainsFunc(learned, same) || len(learned) == maxLearned {
			continue
		}
		if i := slices.IndexFunc(k.learned, same); i >= 0 {
			learned = append(learned, k.learned[i])
		} else {
			learned = append(learned, c.newGateway(base))
		}
	}
	k.learned = learned
}

func (g *gateways) warnLocked(c *Client, endpoint string) {
	if g.ignored[endpoint] || len(g.ignored) == maxLearned {
		return
	}
	if g.ignored == nil {
		g.ignored = map[string]bool{}
	}
	g.ignored[endpoint] = true
	c.log.Warn("a gateway is not used: its address is not of the kind that this mount was given", "gateway", endpoint)
}

// welcome is what a gateway says to a session that is opened.
type welcome struct {
	gateway  *gateway
	mark     string
	gateways []string
}

// open opens the session at a gateway, which takes it up where another one left it.
func (c *Client) open(ctx context.Context, g *gateway) (welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	res, err := g.service.OpenSession(ctx, connect.NewRequest(&mountpb.OpenSessionRequest{
		Session: c.session, Bucket: c.config.Bucket, Prefix: c.config.Prefix,
	}))
	if err != nil {
		return welcome{}, fromWire(err)
	}
	return welcome{g, res.Header().Get(markHeader), res.Msg.GetGateways()}, nil
}

// race opens the session at the first of the gateways that answers; each has a head start before the next. An error
// that is an answer comes before those of the way.
func (c *Client) race(ctx context.Context, order []*gateway) (welcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		welcome
		err error
	}
	results := make(chan result, len(order))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failure error
	for started, ended := 0, 0; ended < len(order); {
		var next <-chan time.Time
		if started < len(order) {
			next = timer.C
		}
		select {
		case <-next:
			g := order[started]
			started++
			running.Go(func() {
				w, err := c.open(ctx, g)
				results <- result{w, err}
			})
			timer.Reset(headStart)
		case r := <-results:
			ended++
			if r.err == nil {
				return r.welcome, nil
			}
			if failure == nil || again(failure) && !again(r.err) {
				failure = r.err
			}
			timer.Reset(0)
		}
	}
	return welcome{}, failure
}

// settle opens the session for the first time.
func (c *Client) settle(ctx context.Context) error {
	r := repetition{c: c, began: time.Now(), pause: firstPause}
	for {
		w, err := c.race(ctx, c.known.after(nil))
		if err == nil {
			c.arrive(w)
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !again(err):
			return err
		case c.config.Retry < 0 || time.Since(r.began) > c.config.Retry:
			return fmt.Errorf("no gateway answers: %w: %w", err, tree.ErrIO)
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// arrive uses a gateway from now on.
func (c *Client) arrive(w welcome) {
	c.allowPipes()
	c.at.Store(newStay(w.gateway))
	c.followMark(w.mark)
	c.learn(w.gateways)
}

// followMark reads the gateway's mark from now on, where there is one.
func (c *Client) followMark(place string) {
	if place == "" {
		return
	}
	if err := c.mark.follow(place); err != nil {
		c.log.Debug("lookups are not remembered", "err", err)
	}
}

// dropMark stops trusting what the mark says.
func (c *Client) dropMark() {
	if err := c.mark.close(); err != nil {
		c.log.Debug("mark was not unmapped", "err", err)
	}
}

// enter takes the place of the one who may change the gateway in use.
func (c *Client) enter(ctx context.Context) error {
	select {
	case c.moving <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) exit() { <-c.moving }

// reopen opens the session again at a gateway that forgot it.
func (c *Client) reopen(ctx context.Context, at *stay, opened uint64) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.exit()
	if c.at.Load() != at || at.opened.Load() != opened {
		return nil // another request was faster
	}
	c.dropMark() // of the gateway before its restart
	w, err := c.open(ctx, at.gateway)
	if err != nil {
		return err
	}
	at.opened.Add(1)
	at.hear()
	c.followMark(w.mark)
	c.learn(w.gateways)
	return nil
}

// move leaves a gateway that failed for the first other one that answers. The mark goes first: it says nothing of what
// is done elsewhere. After an error no gateway is in use, and the next attempt comes here again.
func (c *Client) move(ctx context.Context, from *stay) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.exit()
	if c.at.Load() != from {
		return nil // another request was faster
	}
	c.dropMark()
	from.failed.Store(int64(time.Since(began)))
	from.end(errLeft)
	c.dropPipes(false)
	c.http.CloseIdleConnections() // those that go nowhere would be used when the mount comes back
	w, err := c.race(ctx, c.known.after(from.gateway))
	if err != nil {
		return err
	}
	c.arrive(w)
	if w.gateway != from.gateway {
		c.log.Info("the mount uses another gateway", "bucket", c.config.Bucket, "before", from.base, "now", w.gateway.base)
	}
	return nil
}

var errLeft = errors.New("the gateway was given up")
