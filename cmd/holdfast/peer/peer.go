// Package peer is the composition root: it puts the parts of one holdfast process together and keeps them running
// while drives come and go. Nothing else knows what is connected to what.
//
//	Start ─ lock of DIR ─ listener ─ drives (slot.go) ─ first start, if it is one (first.go)
//	     └─ supervisor: when enough drives are here, opens the core (core.go): log, names, bytes, objects, faces
//
// # What is where
//
//	DIR/lock           held by the process
//	DIR/cluster        the id of the cluster, so that blank drives never look like a first start
//	DIR/forming        the plan of a first start that is not finished
//	DIR/joining        the plan of a join that is not finished
//	DIR/peer           who this peer is: its certificate, whom it trusts, where the others are; also on each drive
//	DIR/credentials    the root access key, also kept in the root group
//	DIR/metrics.token  what a Prometheus scraper presents
//	DIR/state/         the state database, a cache of the log on the drives, and the space reserved for it
//
// Everything in DIR can be made again from the drives, except the plan of an unfinished first start, in which nothing
// was acknowledged yet.
package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/multipart"
)

// Timing of a peer.
const (
	// lookEvery is how often each drive is looked at: a drive that was pulled is known before a client's patience ends.
	lookEvery = time.Second
	// lookPatience is how long Start waits for drives to answer, lookAgain how long once one of them did not. A device
	// that hangs is left to its slot.
	lookPatience = 5 * time.Second
	lookAgain    = time.Second
	// stopGrace is how long requests may take to finish once the peer is to stop, and then a step of the supervisor.
	stopGrace = 10 * time.Second
	// coreGrace is how long names and bytes may take to be closed: each waits a few seconds for a drive that hangs.
	coreGrace = 25 * time.Second
	// driveGrace is how long drives may take to be closed in the end, after everybody who used them has ended.
	driveGrace = 3 * time.Second
)

// Peer is a running holdfast process. Close stops it.
type Peer struct {
	config  Config
	seams   Seams
	log     *slog.Logger
	started time.Time
	cluster cluster.ClusterID

	lock     io.Closer
	listener net.Listener
	mark     *remote.Mark // nil where there can be none
	server   *http.Server
	scheme   string
	token    string // of /-/metrics

	// wire is there before there are connections, watcher and host are nil before there is a core.
	wire *raftWire
	self atomic.Pointer[self]
	// unusable says of each record of this peer that could not be used why. Only who loads them touches it.
	unusable []error
	// changing makes one change of self, or of DIR/cluster, wait for the other; it is held while files are written.
	changing sync.Mutex
	// adding makes one new drive wait for the other, so that they get different names; it is held while one is written.
	adding  sync.Mutex
	watcher atomic.Pointer[topology.Watcher]
	host    atomic.Pointer[raft.Host]

	drives *chunkstore.Drives // of all peers
	slots  []*slot            // of this one
	key    atomic.Pointer[Credentials]
	core   atomic.Pointer[core]
	ready  chan struct{} // closed when the core was opened for the first time

	cancel context.CancelFunc
	wait   sync.WaitGroup // for the supervisor and the listener; each slot waits for its own goroutine

	// failed is closed when the peer cannot go on; failure says why, from then on.
	failed  chan struct{}
	failure error

	mu      sync.Mutex
	reasons []string // why there is no core
	mute    bool     // a drive did not answer in time while Start looked for records
}

// Start locks the data directory, listens, finds the drives, makes a new cluster when this is a first start, and
// returns. The peer then serves as soon as enough drives are here; WaitReady waits for that. ctx bounds Start only.
func Start(ctx context.Context, config Config, seams Seams) (*Peer, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Peer{
		config: config, seams: seams, log: seams.Log, started: seams.Now(), scheme: "http",
		drives: chunkstore.NewDrives(), ready: make(chan struct{}), failed: make(chan struct{}), wire: new(raftWire),
	}
	if p.seams.Network == nil {
		p.seams.Network = transport.TCP{}
	}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(err, p.release())
	}
	life, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	for _, s := range p.slots {
		s.running.Go(func() { s.run(life) })
	}
	patience := time.NewTimer(p.lookPatience())
	defer patience.Stop()
	for _, s := range p.slots {
		select {
		case <-s.looked:
		case <-patience.C:
			patience.Reset(0) // those after it have answered by now, or are not waited for either
			if s.look().kind == "" {
				s.set(slotState{kind: slotHanging, reason: "it does not answer"})
			}
		case <-ctx.Done():
			cancel()
			return nil, errors.Join(ctx.Err(), p.release())
		}
	}
	if err := p.foreign(); err != nil {
		cancel()
		p.wait.Wait()
		return nil, errors.Join(err, p.release())
	}
	p.wait.Go(func() { p.supervise(life) })
	p.wait.Go(func() { p.serve() })
	return p, nil
}

// open takes everything that Start must have; release gives it back.
func (p *Peer) open(ctx context.Context) error {
	fsys, dir := p.seams.FS, p.config.Dir
	if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	lock, err := fsys.Lock(path.Join(dir, "lock"))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("data directory %s is %w", dir, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	p.lock = lock
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.findCluster(ctx); err != nil {
		return err
	}
	if own := p.self.Load(); p.seams.Mark && (own == nil || own.alone()) {
		// Mounts may trust the memory of this machine only while nobody else can commit.
		if p.mark, err = remote.NewMark(); err != nil {
			p.log.Info("mounts of this machine will ask for every lookup", "err", err)
		}
	}
	if err := p.loadKey(); err != nil {
		return err
	}
	p.token, err = loadToken(fsys, dir)
	return err
}

// release gives back what open took.
func (p *Peer) release() error {
	var errs []error
	if p.listener != nil {
		if err := p.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, p.closeDrives())
	if p.mark != nil {
		errs = append(errs, p.mark.Close())
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Close())
	}
	return errors.Join(errs...)
}

// closeDrives closes all drives at once, after the goroutines of their slots have ended. One that hangs in a look or a
// write is left behind: everything acknowledged is durable, and the process is about to end.
func (p *Peer) closeDrives() error {
	closed := make(chan error, len(p.slots))
	for _, s := range p.slots {
		go func() {
			s.running.Wait()
			closed <- s.close()
		}()
	}
	timer := time.NewTimer(driveGrace)
	defer timer.Stop()
	var errs []error
	for left := len(p.slots); left > 0; left-- {
		select {
		case err := <-closed:
			errs = append(errs, err)
		case <-timer.C:
			return errors.Join(append(errs, fmt.Errorf("%d drives hang and were not closed", left))...)
		}
	}
	return errors.Join(errs...)
}

// Failed is closed when the peer cannot go on, however long it waits; Err then says why. It still has to be closed.
func (p *Peer) Failed() <-chan struct{} { return p.failed }

// Err says why the peer cannot go on, nil while it can.
func (p *Peer) Err() error {
	select {
	case <-p.failed:
		return p.failure
	default:
		return nil
	}
}

// WaitReady waits until the peer serves. It ends early with the error of a peer that cannot go on, or of ctx.
func (p *Peer) WaitReady(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.failed:
		return p.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Endpoint is the URL that clients on this machine reach the peer at.
func (p *Peer) Endpoint() string {
	host, port, err := net.SplitHostPort(p.listener.Addr().String())
	if err != nil { // the address of a TCP listener always splits
		return p.scheme + "://" + p.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return p.scheme + "://" + net.JoinHostPort(host, port)
}

// Dir is the data directory.
func (p *Peer) Dir() string { return p.config.Dir }

// RootKey is the root access key, nil before it is known.
func (p *Peer) RootKey() *Credentials { return p.key.Load() }

// AccessKey is the public half of the root access key.
func (p *Peer) AccessKey() string {
	if key := p.key.Load(); key != nil {
		return key.AccessKey
	}
	return ""
}

// Objects is the object path, nil while the peer does not serve. It is for tests that need no faces.
func (p *Peer) Objects() *multipart.Store {
	if c := p.core.Load(); c != nil {
		return c.objects
	}
	return nil
}

// Admin is what operators ask of this peer.
func (p *Peer) Admin() admin.Source { return source{p, p.core.Load()} }

// Summary says in a few words how the drives are.
func (p *Peer) Summary() string {
	up := 0
	var wrong []string
	for _, s := range p.slots {
		if state := s.report(); state.kind == slotUp {
			up++
		} else {
			wrong = append(wrong, fmt.Sprintf("%s %s", path.Base(s.path), state.kind))
		}
	}
	text := fmt.Sprintf("%d of %d up", up, len(p.slots))
	if len(wrong) > 0 {
		text += " (" + strings.Join(wrong, ", ") + ")"
	}
	return text
}

// Close stops accepting requests, lets those under way finish for ten seconds, hands over what this peer leads, and
// closes everything. A drive that hangs costs some seconds more and is left behind, and an error says so: the process is
// about to end, and everything acknowledged is durable.
func (p *Peer) Close() error {
	grace, done := context.WithTimeout(context.Background(), stopGrace)
	defer done()
	err := p.server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		p.log.Warn("requests were cut off", "after", stopGrace)
		err = p.server.Close()
	}
	p.cancel()
	idle := make(chan struct{})
	go func() {
		p.wait.Wait()
		close(idle)
	}()
	patience := time.NewTimer(stopGrace)
	defer patience.Stop()
	select {
	case <-idle:
	case <-patience.C:
		// The supervisor holds what would be closed; the process is about to end anyway.
		return errors.Join(err, fmt.Errorf("a drive hangs: %s", p.Summary()))
	}
	if c := p.core.Swap(nil); c != nil {
		closed := make(chan error, 1)
		go func() { closed <- c.close() }()
		timer := time.NewTimer(coreGrace)
		defer timer.Stop()
		select {
		case closeErr := <-closed:
			err = errors.Join(err, closeErr)
		case <-timer.C:
			return errors.Join(err, fmt.Errorf("a drive hangs and holds the log up: %s", p.Summary()))
		}
	}
	return errors.Join(err, p.release())
}

// supervise opens the core when enough drives are here, and tells it of drives that come and go.
func (p *Peer) supervise(ctx context.Context) {
	changed, cancel := p.drives.Subscribe()
	defer cancel()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		p.step(ctx)
		if p.Err() != nil {
			return // also when the next look is due already
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

func (p *Peer) step(ctx context.Context) {
	if c := p.core.Load(); c != nil {
		c.reconcile()
		return
	}
	if reason := p.tooFew(); reason != "" {
		p.setReasons(reason + ": waiting for all but " + strconv.Itoa(spareDrives))
		return
	}
	c, err := p.openCore(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.setReasons(oneLine(err))
		}
		if hopeless(err) {
			p.failure = err
			close(p.failed)
		}
		return
	}
	p.setReasons()
	p.core.Store(c)
	p.log.Info("ready", "endpoint", p.Endpoint(), "drives", p.Summary())
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
}

// tooFew says why the drives that are here are not enough to start with, or to read everything; "" when they are. A peer
// among others starts with any of its drives: its log tells whether they are enough.
func (p *Peer) tooFew() string {
	here := len(p.ownDrives())
	missing := len(p.slots) - here
	if own := p.self.Load(); missing <= min(spareDrives, len(p.slots)-1) || own != nil && !own.alone() && here > 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d drives are not here (%s)", missing, len(p.slots), p.Summary())
}

// spareDrives is how many drives may be missing: the parity shards of a chunk.
const spareDrives = 4

// setReasons remembers why the peer does not serve, and says it once.
func (p *Peer) setReasons(reasons ...string) {
	p.mu.Lock()
	before := strings.Join(p.reasons, "; ")
	p.reasons = reasons
	p.mu.Unlock()
	if now := strings.Join(reasons, "; "); now != "" && now != before {
		p.log.Warn("not ready", "reason", now)
	}
}

func (p *Peer) whyNot() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.reasons...)
}
