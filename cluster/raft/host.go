package raft

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Host runs the groups of one peer. It survives the loss of its state DB, which it rebuilds, and the loss of all its
// mirrors: then it refuses proposals until enough drives are back.
//
// Lock order: core's locks, then mu; nothing is called under mu.
type Host struct {
	config Config
	lock   io.Closer
	slots  *semaphore.Weighted // bounds waiting proposals
	bytes  *semaphore.Weighted // bounds their commands

	kick chan struct{} // tells the worker that something waits; room for one
	core atomic.Pointer[core]
	stop chan struct{} // closed by Close
	done chan struct{} // closed when the supervisor has ended

	reserved atomic.Bool // space is set aside beside the state
	scarce   atomic.Bool // it was given up, or there was never enough

	mu       sync.Mutex
	closed   bool
	known    map[GroupID]bool           // the groups of this peer
	serving  bool                       // proposals may go to the worker
	mirrors  map[cluster.DriveID]Mirror // the drives that are here
	left     []*drive                   // of logs that were given up: operations hang on them
	waiting  inbox
	pending  map[uint64]*proposal // handed to Raft, not applied yet
	nextID   uint64
	failure  error
	news     chan struct{} // closed and replaced at every change that somebody may wait for
	returned chan struct{} // tells the supervisor that a drive came; room for one
	closeErr error
}

// inbox is what waits for the worker.
type inbox struct {
	proposals []*proposal
	messages  []groupMessage
}

type groupMessage struct {
	group   GroupID
	message *raftpb.Message
}

// proposal is a command or a read on its way.
type proposal struct {
	id    uint64
	group GroupID
	data  []byte
	read  bool
	index uint64 // of a read, once it is known
	done  chan proposalResult
	ctx   context.Context // tells a waiting read that nobody waits for it
}

type proposalResult struct {
	value any
	term  uint64
	err   error
}

// proposalHeader is the id before the command in an entry; by it the proposer is found again after a restart of the
// core too.
const proposalHeader = 8

// finish answers the proposer. Only the first answer counts.
func (p *proposal) finish(r proposalResult) {
	select {
	case p.done <- r:
	default:
	}
}

func (p *proposal) abandoned() bool { return p.ctx.Err() != nil }

// Bootstrap is the first start of a peer: it writes a new log with the given groups and opens it. All configured
// drives must be here, and none may hold a log.
func Bootstrap(ctx context.Context, c Config, groups ...GroupID) (*Host, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := createLog(c, groups); err != nil {
		return nil, err
	}
	return Open(ctx, c)
}

// Open opens the log and the state of a peer and serves its groups: it returns when every group without other voters
// leads and has applied all that was acknowledged. The error wraps ErrNotBootstrapped when the drives that are here
// are blank, ErrLogLost when too many are missing, ErrLogDamaged when all copies of something are hurt; nothing was
// changed then.
func Open(ctx context.Context, c Config) (*Host, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := vfs.MkdirAll(c.FS, c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("raft host: %w", err)
	}
	lock, err := c.FS.Lock(c.StateDir + hostLockName)
	if err != nil {
		return nil, fmt.Errorf("raft host: %s: %w", c.StateDir, err)
	}
	h := &Host{
		config: c, lock: lock,
		slots: semaphore.NewWeighted(maxWaiting), bytes: semaphore.NewWeighted(maxWaitingBytes),
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		mirrors: map[cluster.DriveID]Mirror{}, pending: map[uint64]*proposal{},
		news: make(chan struct{}), returned: make(chan struct{}, 1),
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	h.nextID = binary.LittleEndian.Uint64(seed[:])
	for _, m := range c.Mirrors {
		h.mirrors[m.Drive] = m
	}
	first, err := openCore(h, c.Mirrors, false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft host: %w", err), lock.Close())
	}
	opened := make(chan error, 1)
	go h.supervise(ctx, first, opened)
	if err := <-opened; err != nil {
		return nil, errors.Join(fmt.Errorf("raft host: %w", err), h.Close())
	}
	return h, nil
}

// supervise runs one core after another until the host closes.
func (h *Host) supervise(ctx context.Context, c *core, opened chan<- error) {
	defer close(h.done)
	for {
		err := h.serve(ctx, c, opened)
		ctx, opened = context.Background(), nil
		closing := errors.Is(err, errEnd)
		if !closing {
			h.config.Log.Error("raft host interrupted", "err", err)
		}
		broken := errors.Is(err, errStateBroken)
		spent := isNoSpace(err) && h.spendReserve()
		// Without space the next state will break as well: nobody waits for it, and it is not tried at once.
		again := broken && !spent && isNoSpace(err)
		if broken && !again {
			h.pause()
		} else {
			h.fail(err)
		}
		h.core.Store(nil)
		closeErr := c.close()
		if closing {
			h.mu.Lock()
			h.closeErr = closeErr
			h.mu.Unlock()
			return
		}
		h.leave(c.log)
		if closeErr != nil {
			h.config.Log.Warn("raft host closed its log with an error", "err", closeErr)
		}
		if again && !h.rest() {
			return
		}
		if c = h.reopen(broken); c == nil {
			return
		}
	}
}

// serve runs a core to its end. It tells opened when the core is ready.
func (h *Host) serve(ctx context.Context, c *core, opened chan<- error) error {
	h.core.Store(c)
	keeperCtx, stopKeeper := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var result error
	var keeper sync.WaitGroup
	go func() {
		defer close(ended)
		result = c.run(h.stop)
	}()
	keeper.Go(func() { c.keep(keeperCtx, ended) })
	h.wakeWorker() // groups that are alone campaign at once
	h.changed()
	err := c.waitReady(ctx, ended)
	if err == nil {
		h.resume(c)
	}
	if opened != nil {
		opened <- err
	}
	<-ended
	stopKeeper()
	keeper.Wait()
	if errors.Is(result, errEnd) {
		c.closeCheckpoint()
	}
	return result
}

// resume proposes again what was on its way to Raft when the last core ended and is not in the log: all that is in the
// log has been applied and answered by now. Only a host without other voters knows that; others do not know the outcome.
func (h *Host) resume(c *core) {
	h.mu.Lock()
	h.failure, h.known = nil, map[GroupID]bool{}
	for id := range c.groups {
		h.known[id] = true
	}
	var again, unknown []*proposal
	for id, p := range h.pending {
		if r := c.groups[p.group]; r == nil || !r.alone {
			unknown = append(unknown, p)
			delete(h.pending, id)
		} else {
			again = append(again, p)
			delete(h.pending, id)
		}
	}
	h.serving = true
	h.waiting.proposals = append(again, h.waiting.proposals...)
	h.mu.Unlock()
	for _, p := range unknown {
		p.finish(proposalResult{err: ErrUnknownOutcome})
	}
	h.changed()
	h.wakeWorker()
}

// reopen opens the next core, after a broken state at once, after the loss of the log as soon as drives allow. It
// returns nil when the host closes first.
func (h *Host) reopen(broken bool) *core {
	for {
		c, err := openCore(h, h.here(), broken)
		if err == nil {
			return c
		}
		h.config.Log.Warn("raft host cannot open its log yet", "err", err)
		h.fail(err)
		if isNoSpace(err) && h.spendReserve() {
			continue
		}
		if !h.rest() {
			return nil
		}
	}
}

// rest pauses until a drive returns, or for reopenPause. False: the host closes.
func (h *Host) rest() bool {
	select {
	case <-h.stop:
		return false
	case <-h.returned:
	case <-time.After(reopenPause):
	}
	return true
}

// here lists the drives that are here and on which nothing hangs.
func (h *Host) here() []Mirror {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Mirror
	for _, m := range h.mirrors {
		if !h.hangs(m.Drive) {
			list = append(list, m)
		}
	}
	return list
}

// leave notes the drives of a log that was given up on which an operation hangs. A write that comes late would replace
// what the next log has written there, so that one does without them until they have answered.
func (h *Host) leave(l *mirroredLog) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range l.drives {
		if d.retireHandle() != nil {
			h.left = append(h.left, d)
			h.config.Log.Warn("drive is left out until it answers", "drive", d.String(), "err", errHangs)
		}
	}
}

// hangs tells whether an operation of a log that was given up hangs on a drive. Caller holds mu; nothing here waits,
// and what is closed is at most the segment of a drive that has just answered.
func (h *Host) hangs(id cluster.DriveID) bool {
	h.left = slices.DeleteFunc(h.left, func(d *drive) bool { return d.id == id && d.retireHandle() == nil })
	return slices.ContainsFunc(h.left, func(d *drive) bool { return d.id == id })
}

// fail refuses everything that waits. Commands in Raft's hands may still be applied later.
func (h *Host) fail(err error) {
	h.mu.Lock()
	h.failure, h.serving = err, false
	waiting := h.waiting.proposals
	h.waiting = inbox{}
	h.mu.Unlock()
	for _, p := range waiting {
		p.finish(proposalResult{err: fmt.Errorf("%w: %w", ErrStopped, err)})
	}
	h.giveUp(func(*proposal) bool { return true }, errors.Join(ErrUnknownOutcome, ErrStopped))
	h.changed()
}

// pause keeps proposals waiting until the next core is ready.
func (h *Host) pause() {
	h.mu.Lock()
	h.serving = false
	h.mu.Unlock()
}

// giveUp answers proposals in Raft's hands whose outcome is unknown.
func (h *Host) giveUp(which func(*proposal) bool, err error) {
	h.mu.Lock()
	var list []*proposal
	for id, p := range h.pending {
		if which(p) {
			list = append(list, p)
			delete(h.pending, id)
		}
	}
	h.mu.Unlock()
	for _, p := range list {
		p.finish(proposalResult{err: err})
	}
}

// take takes what waits, at most one round's worth of commands.
func (h *Host) take() inbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	work := h.waiting
	if !h.serving {
		h.waiting.messages = nil
		return inbox{messages: work.messages}
	}
	size := 0
	for n, p := range work.proposals {
		if size += len(p.data); size > maxRound && n > 0 {
			h.waiting = inbox{proposals: work.proposals[n:]}
			work.proposals = work.proposals[:n]
			return work
		}
	}
	h.waiting = inbox{}
	return work
}

// adopt notes a proposal that goes to Raft.
func (h *Host) adopt(p *proposal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending[p.id] = p
}

// claim takes the proposal with an id out of those in Raft's hands; nil when it is of another peer or process.
func (h *Host) claim(id uint64) *proposal {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pending[id]
	delete(h.pending, id)
	return p
}

func (h *Host) wakeWorker() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// changed wakes everybody who watches.
func (h *Host) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.news)
	h.news = make(chan struct{})
}

// watch returns a channel that is closed at the next change.
func (h *Host) watch() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.news
}

// Deliver hands a message of another peer to a group. It does not block.
func (h *Host) Deliver(group GroupID, message *raftpb.Message) {
	h.mu.Lock()
	if !h.closed && len(h.waiting.messages) < maxWaiting {
		h.waiting.messages = append(h.waiting.messages, groupMessage{group, message})
	}
	h.mu.Unlock()
	h.wakeWorker()
}

// Mirrors tells where the log is and how many further drive losses the names survive.
func (h *Host) Mirrors() MirrorStatus {
	if c := h.core.Load(); c != nil {
		return c.log.status()
	}
	return MirrorStatus{Want: h.config.WantMirrors, Failure: h.Failed()}
}

// Failed tells why proposals are refused; nil while they are not.
func (h *Host) Failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure
}

// DriveDown says that a drive is gone or must not be used. If it held the log another drive takes its place.
func (h *Host) DriveDown(id cluster.DriveID) {
	h.mu.Lock()
	delete(h.mirrors, id)
	h.mu.Unlock()
	if c := h.core.Load(); c != nil {
		if err := c.log.driveDown(id); err != nil {
			h.config.Log.Error("log mirrors cannot be changed", "drive", id.String(), "err", err)
			h.wakeWorker()
		}
	}
}

// DriveUp says that a drive is here. It may come to hold the log.
func (h *Host) DriveUp(m Mirror) {
	h.mu.Lock()
	h.mirrors[m.Drive] = m
	hangs := h.hangs(m.Drive)
	h.mu.Unlock()
	select {
	case h.returned <- struct{}{}:
	default:
	}
	c := h.core.Load()
	if c == nil || hangs {
		return // the keeper asks again
	}
	d, err := newDrive(h.config.FS, m)
	if err == nil {
		err = c.log.driveUp(d)
	}
	if err != nil {
		h.config.Log.Warn("drive cannot come up", "drive", m.Drive.String(), "err", err)
	}
}

// Checkpoint takes a checkpoint now.
func (h *Host) Checkpoint(ctx context.Context) error {
	c := h.core.Load()
	if c == nil {
		return ErrStopped
	}
	return c.checkpoint(ctx, false)
}

// Close ends the host. Proposals in flight get ErrUnknownOutcome.
func (h *Host) Close() error {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	h.mu.Unlock()
	if again {
		<-h.done
		return nil
	}
	close(h.stop)
	<-h.done
	h.fail(ErrStopped)
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.closeErr, h.lock.Close())
}

// state is the DB to read from. While the state is rebuilt it waits, a few seconds at most.
func (h *Host) state(deadline time.Time) (*kv.DB, error) {
	for {
		changed := h.watch()
		if c := h.core.Load(); c != nil && c.ready() && c.db.Broken() == nil {
			return c.db, nil
		}
		select {
		case <-changed:
		case <-h.done:
			return nil, ErrStopped
		case <-time.After(time.Until(deadline)):
			return nil, errors.Join(ErrStopped, h.Failed())
		}
	}
}
