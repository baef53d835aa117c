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
	// Root asks the root group, wherever it is led.
	Root *root.Client
	// Tablet is the replica of the one tablet, whose machine is a tablet.Machine. It should be a raft.Member: one with
	// several voters has the Catalog end with the term in which it was made.
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
//
// It lives as long as its replica leads the tablet in the term in which New found it. When that is over every call ends
// with an error that matches ErrUnavailable, and raft.ErrNotLeader, or raft.ErrUnknownOutcome where a command may still
// be applied; so do the calls under way when it is closed, and those after that need the tablet. Two Catalogs on two peers, one of which does
// not know yet that it was deposed, do no harm: the tablet refuses commands that were decided in another term, and what
// is in memory alone (latches, leases) the deposed one cannot turn into a command. A replica that is the only voter
// leads again by itself, and nobody did meanwhile: there a Catalog waits and goes on.
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

	term    uint64        // in which New found this replica leading
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

// New opens the name space over its groups, on the peer that leads the tablet; raft.ErrNotLeader where that is another.
// It ends the sessions of earlier Catalogs, takes up what was under way when the last one ended (prefix renames, bucket
// deletions), and returns; Run must then run for the background work.
func New(ctx context.Context, config Config) (*Catalog, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Catalog{
		config: config, root: config.Root, tablet: config.Tablet, log: config.Log,
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

// start reads nothing before the tablet has applied everything of earlier terms: what an earlier leader acknowledged is
// there, and what it does from now on is refused.
func (c *Catalog) start(ctx context.Context) error {
	var err error
	if c.term, err = c.tablet.Barrier(ctx); err != nil {
		return unavailable(err)
	}
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

// Close ends the calls under way and refuses new ones. It waits for what the Catalog itself does, and for no caller. The
// groups stay open. Sessions stay as they are: the next Catalog finds them.
func (c *Catalog) Close() error {
	c.closing.Lock()
	c.closed = true
	c.closing.Unlock()
	c.cancel()
	c.work.Wait()
	return nil
}

var (
	errClosed  = fmt.Errorf("catalog is closed: %w: %w", ErrUnavailable, raft.ErrNotLeader)
	errDeposed = fmt.Errorf("catalog of an earlier term: %w: %w", ErrUnavailable, raft.ErrNotLeader)
)

// admit counts a piece of work, refused after Close.
func (c *Catalog) admit() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return errClosed
	}
	c.work.Add(1)
	return nil
}

// during runs what changes something, refused after Close. Its context ends with the Catalog's life too.
func (c *Catalog) during(ctx context.Context, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err // its caller has gone, and may have been answered elsewhere
	}
	if err := c.admit(); err != nil {
		return err
	}
	defer c.work.Done()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(c.life, cancel)
	defer stop()
	err := do(inner)
	if errors.Is(err, context.Canceled) && c.life.Err() != nil && (ctx.Err() == nil || ctx == c.life) {
		err = fmt.Errorf("%w: %w", errClosed, err)
	}
	return unavailable(err)
}

// shared tells that other replicas may lead the tablet, so that what this Catalog knows is of its own term alone.
func (c *Catalog) shared() bool {
	m, ok := c.tablet.(raft.Member)
	if !ok {
		return false
	}
	voters, _ := m.Members()
	return len(voters) > 1
}

// barrier is the tablet's, in the term of this Catalog.
func (c *Catalog) barrier(ctx context.Context) (uint64, error) {
	if c.life.Err() != nil {
		return 0, errClosed
	}
	term, err := c.tablet.Barrier(ctx)
	if err == nil && term != c.term && c.shared() {
		err = errDeposed
	}
	return term, err
}

// passes tells of an error that nothing was accepted and that this replica will lead again, as nobody else can.
func (c *Catalog) passes(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrStopped) && !c.shared() && c.life.Err() == nil
}

// Root is the client of the root group: topology, placement groups, users and keys are rows there.
func (c *Catalog) Root() *root.Client { return c.root }

// LeaseBlock returns a number for chunk ids that was never returned before; its upper 16 bits are the incarnation.
func (c *Catalog) LeaseBlock(ctx context.Context) (uint64, error) {
	block, err := c.root.LeaseBlock(ctx)
	return block, unavailable(err)
}

// unsure is the error of a change of the root group, or of what follows one: unless the group said no, it may have
// happened, or will by the next Catalog.
func unsure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, root.ErrConflict), errors.Is(err, root.ErrTooLarge):
		return err
	}
	return fmt.Errorf("%w: %w: %w", ErrUnavailable, raft.ErrUnknownOutcome, err)
}

// read returns the applied state, with everything acknowledged before the call.
func (c *Catalog) read(ctx context.Context) (state, error) {
	if _, err := c.barrier(ctx); err != nil {
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
