package raft

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

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

	installs *semaphore.Weighted // bounds the snapshots that come in
	pace     *pacer              // of those that go out

	reserved atomic.Bool // space is set aside beside the state
	scarce   atomic.Bool // it was given up, or there was never enough

	mu       sync.Mutex
	closing  bool                       // Close was called
	closed   bool                       // nothing is taken any more
	known    map[GroupID]bool           // the groups of this peer
	reached  map[GroupID]uint64         // what was applied when the last core ended: readers may have seen it
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
		installs: semaphore.NewWeighted(sendsAtOnce), pace: &pacer{rate: c.SnapshotRate},
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

// What may wait for the worker of messages: the heartbeats of a few thousand groups and their answers, and entries for
// what a device needs at most to write them.
const (
	maxMessages     = 64 << 10
	maxMessageQueue = 64 << 20
)

// Receive takes a batch that a Transport of another peer sent. It does not block. What there is no room for is dropped.
func (h *Host) Receive(batch []byte) error {
	messages, err := decodeBatch(batch, h.config.Cluster)
	if err != nil {
		return err
	}
	h.mu.Lock()
	room := max(0, maxMessages-len(h.waiting.messages))
	if !h.closed && h.waiting.bytes+len(batch) <= maxMessageQueue {
		h.waiting.messages = append(h.waiting.messages, messages[:min(room, len(messages))]...)
		h.waiting.bytes += len(batch)
	}
	h.mu.Unlock()
	h.wakeWorker()
	return nil
}

// Mirrors tells where the log is and how many further drive losses the names survive.
func (h *Host) Mirrors() MirrorStatus {
	if c := h.core.Load(); c != nil {
		return c.log.status()
	}
	return MirrorStatus{Want: h.config.firstMirrors(), Failure: h.Failed()}
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

// Close ends the host, after it handed over what it leads, for which it takes an election timeout at most. Proposals in
// flight get ErrUnknownOutcome.
func (h *Host) Close() error {
	h.mu.Lock()
	again := h.closing
	h.closing = true
	h.mu.Unlock()
	if !again {
		h.stepDown()
	}
	h.mu.Lock()
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

// state is the DB to read a group from. While the state is rebuilt, until it has what it had before, it waits, a few
// seconds at most.
func (h *Host) state(group GroupID, deadline time.Time) (*kv.DB, error) {
	for {
		changed := h.watch()
		if c := h.core.Load(); c != nil && c.ready() && c.db.Broken() == nil {
			if r := c.find(group); r == nil || r.caughtUp.Load() {
				return c.db, nil
			}
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
