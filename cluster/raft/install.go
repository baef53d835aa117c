package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
)

// ErrSnapshot says that a stream is not a whole snapshot for the replica here.
var ErrSnapshot = errors.New("not a snapshot for this replica")

// installation is a snapshot that is whole on the mirrors, on its way into a replica.
type installation struct {
	head   snapshotHead
	number uint64 // of its file
	size   int64  // of the file
	spans  []kv.Span
	logged bool
	once   sync.Once
	done   chan error // gets nil when the log has it, or why it will not; room for one
}

// end tells whoever installs how the log took it. Only the first word counts.
func (i *installation) end(err error) { i.once.Do(func() { i.done <- err }) }

// record is what makes the snapshot the beginning of the group's log.
func (i *installation) record(group GroupID) record {
	payload := binary.LittleEndian.AppendUint64(nil, i.number)
	payload = i.head.members.append(append(payload, i.head.at.hash[:]...))
	return record{kind: kindInstalled, group: group, index: i.head.at.index, term: i.head.at.term, payload: payload}
}

func decodeInstalled(r record) (at applied, m members, number uint64, err error) {
	const fixed = 8 + len(at.hash)
	if len(r.payload) < fixed {
		return at, m, 0, fmt.Errorf("record of a snapshot of %d bytes", len(r.payload))
	}
	at = applied{index: r.index, term: r.term, hash: digest(r.payload[8:fixed])}
	m, rest, err := decodeMembers(r.payload[fixed:])
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("record of a snapshot has %d bytes too many", len(rest))
	}
	return at, m, binary.LittleEndian.Uint64(r.payload), err
}

// errStale says that the replica has what the snapshot holds.
var errStale = errors.New("the snapshot is older than what is here")

// Install takes the state of a group from a stream that a leader's SnapshotTransport sent. It returns nil when the
// replica has the state, of the stream or a later one. An error wraps ErrNoReplica when the replica is not here,
// ErrSnapshot when the stream is not whole or not for it; the replica is as it was then, or its host has stopped.
func (h *Host) Install(ctx context.Context, group GroupID, stream io.Reader) error {
	if err := h.installs.Acquire(ctx, 1); err != nil {
		return err
	}
	defer h.installs.Release(1)
	c := h.core.Load()
	if c == nil {
		return ErrStopped
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	err := c.install(ctx, group, stream)
	if errors.Is(err, errStale) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("install a snapshot of group %d: %w", group, err)
	}
	return nil
}

func (c *core) install(ctx context.Context, group GroupID, stream io.Reader) error {
	first, err := readBlock(stream, blockAt{cluster: c.host.config.Cluster}, digest{})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	head, err := decodeSnapshotHead(first.magic, first.payload)
	if err != nil || head.group != group {
		return errors.Join(ErrSnapshot, err)
	}
	if err := c.ask(ctx, func() error { return c.expects(head) }); err != nil {
		return err
	}
	inst := &installation{head: head, number: c.lastSnapshot.Add(1), done: make(chan error, 1)}
	name := snapshotFile(inst.number)
	logged := false
	if inst.size, err = c.store(ctx, name, first, stream); err == nil {
		if err = c.changing.Acquire(ctx, 1); err == nil {
			defer c.changing.Release(1)
			logged, err = c.enter(ctx, inst)
		}
	}
	if logged && err == nil {
		return c.fill(inst)
	}
	if !logged {
		err = errors.Join(err, c.write(func() error { return c.log.removeBlocks(name) }))
	}
	return err // when nobody can tell, the next start can
}

// write does something with files that the next core looks for when it opens: it must not happen after that.
func (c *core) write(do func() error) error {
	c.writing.RLock()
	defer c.writing.RUnlock()
	if c.life.Err() != nil {
		return nil // the next core sweeps up
	}
	return do()
}

// expects tells whether a replica has use for a snapshot. The worker calls it.
func (c *core) expects(head snapshotHead) error {
	r := c.find(head.group)
	switch {
	case r == nil || r.replica != head.to:
		return fmt.Errorf("replica %d: %w", head.to, ErrNoReplica)
	case r.install != nil:
		return fmt.Errorf("%w: another is on its way", ErrSnapshot)
	case head.at.index <= r.point.index || head.term < r.hard.term:
		return errStale
	}
	return nil
}

// store writes a stream into a file on every mirror and returns its size.
func (c *core) store(ctx context.Context, name blockFile, first block, stream io.Reader) (int64, error) {
	c.log.mu.Lock()
	members := c.log.drivesOf(c.log.set.members)
	c.log.mu.Unlock()
	var w *blockWriter
	err := c.write(func() error {
		w = c.log.newBlocks(members, name, true)
		return w.add(ctx, first.magic, first.payload, false)
	})
	if w == nil {
		return 0, errors.Join(ErrStopped, err)
	}
	prev := first.digest
	for index := uint64(1); err == nil; index++ {
		var b block
		if b, err = readBlock(stream, blockAt{cluster: c.host.config.Cluster, index: index}, prev); err != nil {
			err = fmt.Errorf("%w: %w", ErrSnapshot, err)
			break
		}
		if err = checkPairs(b.payload); err != nil {
			err = fmt.Errorf("%w: %w", ErrSnapshot, err)
			break
		}
		if err = c.write(func() error { return w.add(ctx, blockMagic, b.payload, b.last) }); b.last {
			break
		}
		prev = b.digest
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, errors.Join(err, c.write(w.abandon), w.close())
	}
	drives := map[cluster.DriveID]*drive{}
	for _, d := range members {
		drives[d.id] = d
	}
	if err := c.write(func() error { return w.finish(drives) }); err != nil {
		return 0, err
	}
	if w.open != nil { // the core has ended
		return 0, errors.Join(ErrStopped, w.close())
	}
	if len(w.failed) > 0 {
		c.log.lose(w.failed)
	}
	return w.off, nil
}

// enter has the worker write a snapshot into the log. logged tells that the log may have it.
func (c *core) enter(ctx context.Context, inst *installation) (logged bool, err error) {
	c.log.joining.RLock() // no mirror is made without the file from now on
	defer c.log.joining.RUnlock()
	if err := c.write(func() error { return c.spread(ctx, snapshotFile(inst.number)) }); err != nil {
		return false, err
	}
	err = c.ask(ctx, func() error {
		if err := c.expects(inst.head); err != nil {
			return err
		}
		r := c.find(inst.head.group)
		inst.spans = r.machine.Spans()
		r.install = inst
		c.touch(r)
		if err := r.node.Step(inst.head.message()); err != nil {
			r.install = nil
			return err
		}
		return nil
	})
	if errors.Is(err, ErrStopped) {
		return true, err // it may have been asked
	}
	if err != nil {
		return false, err
	}
	select {
	case err := <-inst.done:
		return err == nil, err
	case <-c.ended:
		return true, ErrStopped
	}
}

// spread copies a file of blocks to the mirrors that lack it.
func (c *core) spread(ctx context.Context, name blockFile) error {
	c.log.mu.Lock()
	members, drives := c.log.set.members, map[cluster.DriveID]*drive{}
	for _, d := range c.log.drivesOf(members) {
		drives[d.id] = d
	}
	c.log.mu.Unlock()
	have, missing := c.log.fanOut(members, func(id cluster.DriveID) error {
		_, err := drives[id].fs.Stat(drives[id].blockPath(name))
		return err
	})
	var sources []*drive
	for _, id := range have {
		sources = append(sources, drives[id])
	}
	for id, err := range missing {
		if errors.Is(err, fs.ErrNotExist) {
			err = c.log.copyBlocks(ctx, name, sources, drives[id])
		}
		if err != nil {
			return fmt.Errorf("drive %s: %w", drives[id], err)
		}
	}
	return nil
}

// ignored ends installations whose snapshot Raft had no use for. The worker calls it after Ready.
func (r *replica) ignored(taken bool) {
	if r.install != nil && !r.install.logged && !taken {
		r.install.end(errStale)
		r.install = nil
	}
}

// installed notes that the log begins behind a snapshot now, in frames from seq on. The worker calls it.
func (c *core) installed(r *replica, seq uint64) {
	at := r.install.head.at
	r.store.reset(at)
	r.setMembers(r.install.head.members)
	r.durable, r.begun, r.unapplied = at.index, seq, nil
	r.filling, r.handed = true, at.index
	// Readers wait for the new state, instead of seeing it come.
	r.must = max(r.must, at.index)
	r.caughtUp.Store(false)
	c.noteSnapshot(r.install.number, heldFile{seq: seq, size: r.install.size})
	c.log.setWant(c.wantMirrors())
	r.install.logged = true
	r.install.end(nil)
}

// fill replaces the state by the snapshot that the log has, beside the worker, and then has the worker go on with what
// was committed meanwhile. When it cannot, the host starts again from the log.
func (c *core) fill(inst *installation) error {
	name, head := snapshotFile(inst.number), inst.head
	c.log.mu.Lock()
	drives := c.log.drivesOf(c.log.set.members)
	c.log.mu.Unlock()
	err := c.fillState(head.group, inst.spans, head.at, head.members, head.to, func(visit func(index uint64, b block) error) error {
		_, err := c.log.readBlocks(drives, name, false, visit)
		return err
	})
	asked := c.ask(context.Background(), func() error {
		if err != nil {
			c.fatal = fmt.Errorf("%w: %w", errStateBroken, err)
			return err
		}
		return c.filled(inst)
	})
	return asked
}

// filled goes on with a replica whose state is there now.
func (c *core) filled(inst *installation) error {
	r := c.find(inst.head.group)
	if r == nil || r.install != inst {
		return ErrReplicaRemoved
	}
	r.point, r.install, r.filling = inst.head.at, nil, false
	c.catchUp(r)
	r.machine.Restored()
	c.touch(r)
	c.host.config.Log.Info("snapshot installed", "group", uint64(r.id), "index", r.point.index)
	if r.handed <= r.point.index {
		return nil
	}
	var entries []*raftpb.Entry
	entries, c.fatal = r.store.Entries(r.point.index+1, r.handed+1, 1<<62)
	if c.fatal == nil {
		c.fatal = c.apply(r, entries, r.handed)
	}
	return c.fatal
}
