package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
)

// Defaults of Config.
const (
	// DefaultFreeAfter is how long freed chunks wait for readers that began before the commit that freed them.
	DefaultFreeAfter = 15 * time.Minute
	// DefaultResultsFor is how long a completed upload answers a retry.
	DefaultResultsFor = 7 * 24 * time.Hour
	// maxInFlight bounds the commands under way: half the write slots of a session, so that no slot is used twice by
	// commands that are under way at once.
	maxInFlight = 2048
)

// Config says what a Catalog stands on.
type Config struct {
	// Root is the root group's replica, whose machine is a root.Machine.
	Root raft.Group
	// Tablet is the replica of the one tablet, whose machine is a tablet.Machine.
	Tablet raft.Group
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Rand gives the randomness of version and upload ids; nil means crypto/rand.
	Rand io.Reader
	// Log takes events; nil means none.
	Log *slog.Logger
	// FreeAfter is how long freed chunks are kept for readers. Zero means DefaultFreeAfter, negative means no time.
	FreeAfter time.Duration
	// ResultsFor is how long a completed upload answers a retry. Zero means DefaultResultsFor.
	ResultsFor time.Duration
}

// Catalog is the name space: every face uses this one type. All methods may be called concurrently; every write is
// durable and visible to all when it returns nil. A write whose context ends early may still happen: repeat it with
// the same Op.
type Catalog struct {
	config Config
	root   *root.Client
	tablet raft.Group
	log    *slog.Logger

	latches  latches
	inFlight chan struct{}

	// life ends with Close; work counts the commands and jobs under way.
	life   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// closing guards closed: no work is added after it is set.
	closing sync.Mutex
	closed  bool

	session uint64        // of the Catalog itself
	seq     atomic.Uint64 // of its last own write

	clock    logicalClock
	sessions sessionTable

	randomMu sync.Mutex // guards reads of config.Rand
}

func (c Config) withDefaults() (Config, error) {
	if c.Root == nil || c.Tablet == nil {
		return c, errors.New("metadata: Config needs Root and Tablet")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.FreeAfter == 0:
		c.FreeAfter = DefaultFreeAfter
	case c.FreeAfter < 0:
		c.FreeAfter = 0
	}
	if c.ResultsFor == 0 {
		c.ResultsFor = DefaultResultsFor
	}
	return c, nil
}

// New opens the name space over its groups. It ends the sessions that an earlier Catalog left, takes up what was under
// way when the process died (prefix renames, bucket deletions), and returns; Run must then run for the background work.
func New(ctx context.Context, config Config) (*Catalog, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Catalog{
		config: config, root: root.NewClient(config.Root), tablet: config.Tablet, log: config.Log,
		inFlight: make(chan struct{}, maxInFlight),
	}
	c.life, c.cancel = context.WithCancel(context.Background())
	if err := c.start(ctx); err != nil {
		c.cancel()
		c.work.Wait()
		return nil, fmt.Errorf("open the name space: %w", err)
	}
	return c, nil
}

func (c *Catalog) start(ctx context.Context) error {
	if err := c.loadSessions(ctx); err != nil {
		return err
	}
	session, err := c.openSession(ctx, ownSession, "", 0)
	if err != nil {
		return err
	}
	c.session = session
	if err := c.finishBuckets(ctx); err != nil {
		return err
	}
	return c.resumeRenames(ctx)
}

// Close waits for the commands under way and refuses new ones. The groups stay open. Sessions stay as they are: the
// next Catalog finds them.
func (c *Catalog) Close() error {
	c.closing.Lock()
	c.closed = true
	c.closing.Unlock()
	c.cancel()
	c.work.Wait()
	return nil
}

// enter counts a piece of work, refused after Close.
func (c *Catalog) enter() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return fmt.Errorf("catalog is closed: %w", ErrUnavailable)
	}
	c.work.Add(1)
	return nil
}

// Root is the client of the root group: topology, placement groups, users and keys are rows there.
func (c *Catalog) Root() *root.Client { return c.root }

// LeaseBlock returns a number for chunk ids that was never returned before; its upper 16 bits are the incarnation.
func (c *Catalog) LeaseBlock(ctx context.Context) (uint64, error) {
	block, err := c.root.LeaseBlock(ctx)
	return block, unavailable(err)
}

// read returns the applied state, with everything acknowledged before the call.
func (c *Catalog) read(ctx context.Context) (state, error) {
	if _, err := c.tablet.Barrier(ctx); err != nil {
		return state{}, unavailable(err)
	}
	return state{c.tablet.State()}, nil
}

// unavailable marks the errors of the groups and of their state as ErrUnavailable; the others pass.
func unavailable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrStopped), errors.Is(err, raft.ErrLogLost),
		errors.Is(err, raft.ErrUnknownOutcome), errors.Is(err, kv.ErrBroken), errors.Is(err, root.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
