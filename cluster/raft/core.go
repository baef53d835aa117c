package raft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	etcd "go.etcd.io/raft/v3"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/cluster/kv"
)

// core is a host between one opening of its log and state and the next: one worker goroutine that owns every
// RawNode, one keeper goroutine for mirrors, segments and checkpoints, and a few that send snapshots.
type core struct {
	host *Host
	log  *mirroredLog
	db   *kv.DB
	// groups are the replicas here. The worker replaces the map whole; order and tombs, in the order of ids and by id,
	// are its own.
	groups atomic.Pointer[map[GroupID]*replica]
	order  []*replica
	tombs  map[GroupID]tombstone
	// dirty are the replicas that may have something to do.
	dirty, spare []*replica
	points       chan pointRequest
	orders       chan order
	ended        chan struct{}   // closed when the worker has ended
	life         context.Context // ends then too
	writing      sync.RWMutex    // shared by whoever writes files for the next core to find
	// served is set once all groups without other voters lead and have applied what was acknowledged.
	served atomic.Bool
	// batch and rows are those of the application under way; they are kept for their memory. The worker owns them.
	batch kv.WriteBatch
	rows  map[string][]byte
	// out gathers the messages of a round for each peer. The worker owns it.
	out outbox
	// fatal ends the core after an order.
	fatal error
	// snapshots are the files that records of the log name, by number.
	snapshotsMu  sync.Mutex
	snapshots    map[uint64]heldFile
	lastSnapshot atomic.Uint64
	// changing is held by whoever makes or removes a replica, by whoever replaces its state, and while the point of a
	// checkpoint is taken: it must not show half a state.
	changing *semaphore.Weighted
	sends    sendQueue

	// Of the keeper: the checkpoints that are kept, oldest first, and the log's bytes at the newest.
	kept          []checkpointHead
	keptBytes     int64
	lastSize      int64
	number        uint64 // of the newest checkpoint
	checkpointing sync.Mutex
}

// pointRequest asks the worker for a consistent point of all groups and a snapshot of it.
type pointRequest struct {
	answer chan<- pointAnswer
}

type pointAnswer struct {
	head  checkpointHead
	spans []kv.Span
	snap  *kv.Snapshot
	err   error
}

// errStateBroken ends a core whose state must be rebuilt.
var errStateBroken = errors.New("state database must be rebuilt")

// errEnd ends a core because the host closes.
var errEnd = errors.New("host closes")

// order is something that only the worker may do, between rounds.
type order struct {
	do   func() error
	done chan error
}

// ask has the worker do something and returns what that returned.
func (c *core) ask(ctx context.Context, do func() error) error {
	o := order{do: do, done: make(chan error, 1)}
	select {
	case c.orders <- o:
	case <-c.ended:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	// It is under way, and takes an append at most.
	select {
	case err := <-o.done:
		return err
	case <-c.ended:
	}
	select {
	case err := <-o.done:
		return err
	default:
		return ErrStopped
	}
}

// find returns the replica of a group, nil when there is none.
func (c *core) find(id GroupID) *replica { return (*c.groups.Load())[id] }

// touch notes that a replica may have something to do.
func (c *core) touch(r *replica) {
	if !r.dirty {
		r.dirty = true
		c.dirty = append(c.dirty, r)
	}
}

// run works until stop is closed or something breaks, and tells why it ended.
func (c *core) run(stop <-chan struct{}) error {
	ticker := time.NewTicker(c.host.config.Tick)
	defer ticker.Stop()
	idle := 0
	for {
		var ticks int
		select {
		case <-stop:
			return errEnd
		case <-c.host.kick:
		case <-ticker.C:
			ticks = 1
		case request := <-c.points:
			request.answer <- c.point()
			continue
		case o := <-c.orders:
			if err := c.obey(o); err != nil {
				return err
			}
		}
		if err := c.db.Broken(); err != nil {
			return fmt.Errorf("%w: %w", errStateBroken, err)
		}
		idle += ticks
		for {
			// Those who were answered, and those whose requests wait for a processor, get to propose first: the more
			// entries an append has, the fewer appends there are. When nobody waits this costs nothing.
			runtime.Gosched()
			busy, wrote, err := c.round(ticks)
			if err != nil {
				return err
			}
			ticks = 0
			if wrote {
				idle = 0
			}
			if !busy {
				break
			}
			select {
			case <-stop:
				return errEnd
			case request := <-c.points:
				request.answer <- c.point()
			case o := <-c.orders:
				if err := c.obey(o); err != nil {
					return err
				}
			default:
			}
		}
		if idle >= 2 {
			if err := c.log.settle(); err != nil {
				return err
			}
		}
	}
}

// obey does an order. An error means that the log has ended.
func (c *core) obey(o order) error {
	o.done <- o.do()
	return errors.Join(c.fatal, c.log.failed())
}

// round takes what waits, lets every group make progress once, and tells whether there may be more, and whether it
// wrote to the log.
//
// The append of this round's entries and the apply of the entries that the round before made durable run at the same
// time: while the devices sync, machines work. Nothing is applied that is not durable here.
func (c *core) round(ticks int) (busy, wrote bool, err error) {
	for range ticks {
		c.tick()
	}
	work := c.host.take()
	for _, peer := range work.unreachable {
		c.unreachable(peer)
	}
	for _, m := range work.messages {
		c.step(m)
	}
	c.propose(work.proposals)
	var readies []groupReady
	var records []record
	list := c.dirty
	c.dirty, c.spare = c.spare[:0], list
	for _, r := range list {
		r.dirty = false
		if r.gone || !r.node.HasReady() {
			r.ignored(false)
			continue
		}
		g := groupReady{r: r, ready: r.node.Ready()}
		r.ignored(!etcd.IsEmptySnap(g.ready.Snapshot))
		records = append(records, g.records()...)
		readies = append(readies, g)
	}
	busy = len(readies) > 0 || len(work.messages) > 0 || len(work.proposals) > 0
	if len(readies) == 0 {
		return busy, false, nil
	}
	return busy, len(records) > 0, c.perform(readies, records)
}

// tick advances Raft's clock.
func (c *core) tick() {
	for _, r := range c.order {
		r.node.Tick()
		c.standForElection(r)
		c.touch(r)
	}
}

// errFilling says that the state of a group is being replaced, so that no point of all groups can be told.
var errFilling = errors.New("a snapshot is being installed")

// point is where all groups are, with a snapshot of the state there. Only the worker calls it, between rounds.
func (c *core) point() pointAnswer {
	head := checkpointHead{seq: c.log.lastSeq(), tombs: maps.Clone(c.tombs)}
	for _, r := range c.order {
		if r.filling {
			return pointAnswer{err: errFilling}
		}
		hard := r.hard
		hard.commit = max(hard.commit, r.point.index)
		head.groups = append(head.groups, groupPoint{
			group: r.id, replica: r.replica, members: r.members, applied: r.point, hard: hard, begun: r.begun, stamp: r.stamp,
		})
		if len(r.unapplied) > 0 {
			head.seq = min(head.seq, r.unapplied[0].seq-1)
		}
	}
	snap, err := c.db.Snapshot()
	return pointAnswer{head: head, spans: c.spans(), snap: snap, err: err}
}

// spans are the keys of all machines.
func (c *core) spans() []kv.Span {
	var list []kv.Span
	for _, r := range c.order {
		list = append(list, r.machine.Spans()...)
	}
	return list
}

// close ends log and state. The worker and the keeper have ended.
func (c *core) close() error {
	for _, r := range c.order {
		r.reads.fail(ErrStopped)
		r.lease.Store(0)
	}
	err := c.db.Close()
	if errors.Is(err, kv.ErrBroken) {
		err = nil // it was reported when it broke, and is rebuilt
	}
	return errors.Join(c.log.close(), err)
}

// ready tells whether every group that has no other voters led once and had applied all it had.
func (c *core) ready() bool {
	if c.served.Load() {
		return true
	}
	for _, r := range *c.groups.Load() {
		if r.alone && r.lease.Load() == 0 {
			return false
		}
	}
	c.served.Store(true)
	return true
}

// waitReady waits until ready or until the core ends.
func (c *core) waitReady(ctx context.Context, ended <-chan struct{}) error {
	for {
		changed := c.host.watch()
		if c.ready() {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
