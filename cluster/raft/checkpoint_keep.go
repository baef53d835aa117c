package raft

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
)

// keptCheckpoints is how many are kept; the log reaches back to the oldest of them.
const keptCheckpoints = 2

// keptFiles are the checkpoints and snapshots that every mirror has.
func (c *core) keptFiles() []blockFile {
	var list []blockFile
	c.checkpointing.Lock()
	for _, h := range c.kept {
		list = append(list, checkpointFile(h.number))
	}
	c.checkpointing.Unlock()
	for _, number := range c.snapshotNumbers(math.MaxUint64) {
		list = append(list, snapshotFile(number))
	}
	return list
}

// afterCheckpoints notes the checkpoints found at opening, and how much log there is since.
func (c *core) afterCheckpoints(heads []checkpointHead) {
	c.kept = heads[max(0, len(heads)-keptCheckpoints):]
	newest := uint64(0)
	if len(heads) > 0 {
		newest = heads[len(heads)-1].seq
		c.number = heads[len(heads)-1].number
	}
	for _, s := range c.log.segments {
		if s.first > newest {
			c.log.bytes += c.log.segmentSize
		}
	}
}

// checkpointDue tells whether the log since the newest checkpoint is half of what may be retained: the log reaches
// back to the checkpoint before. For a large state that is when as much was logged as a checkpoint writes.
func (c *core) checkpointDue() bool {
	c.log.mu.Lock()
	bytes := c.log.bytes
	c.log.mu.Unlock()
	c.checkpointing.Lock()
	defer c.checkpointing.Unlock()
	// Snapshots that came in take space until the second checkpoint after them.
	held := uint64(0)
	if len(c.kept) >= keptCheckpoints {
		held = c.kept[0].seq
	}
	return bytes-c.keptBytes+c.snapshotBytes(held) > max(c.host.config.CheckpointBytes, 2*c.lastSize)/2
}

// checkpoint exports the state of all groups to every mirror, then lets go of the checkpoint before the last and of
// the log before the last.
func (c *core) checkpoint(ctx context.Context, pace bool) error {
	if err := c.changing.Acquire(ctx, 1); err != nil {
		return err
	}
	point, err := c.askPoint(ctx)
	c.changing.Release(1)
	if err != nil {
		return err
	}
	defer point.snap.Close()
	return c.export(ctx, point, pace)
}

// askPoint asks the worker where all groups are.
func (c *core) askPoint(ctx context.Context) (pointAnswer, error) {
	answer := make(chan pointAnswer, 1)
	select {
	case c.points <- pointRequest{answer}:
	case <-ctx.Done():
		return pointAnswer{}, ctx.Err()
	case <-c.host.stop:
		return pointAnswer{}, ErrStopped
	}
	select {
	case point := <-answer:
		return point, point.err
	case <-ctx.Done():
		// The worker answers into the channel's room; the snapshot is let go when it does.
		go func() {
			if late := <-answer; late.snap != nil {
				late.snap.Close()
			}
		}()
		return pointAnswer{}, ctx.Err()
	}
}

// export writes a checkpoint of a point.
func (c *core) export(ctx context.Context, point pointAnswer, pace bool) error {
	head := point.head
	c.checkpointing.Lock()
	defer c.checkpointing.Unlock()
	// Two may ask at once, and the later point may come first. Checkpoints go forward with their numbers, because the
	// log is kept for the lower number: a point that was overtaken is of no use.
	if n := len(c.kept); n > 0 && head.seq < c.kept[n-1].seq {
		return nil
	}
	c.log.mu.Lock()
	drives := map[cluster.DriveID]*drive{}
	members := c.log.drivesOf(c.log.set.members)
	bytes := c.log.bytes
	c.log.mu.Unlock()
	for _, d := range members {
		drives[d.id] = d
	}
	c.number++
	head.number = c.number
	w := c.log.newBlocks(members, checkpointFile(head.number), pace)
	payload, magic := head.encode()
	err := w.add(ctx, magic, payload, false)
	if err == nil {
		err = pairs(point.snap, point.spans, func(payload []byte) error { return w.add(ctx, blockMagic, payload, false) })
	}
	if err == nil {
		err = w.add(ctx, blockMagic, nil, true)
	}
	if err != nil {
		return errors.Join(err, w.abandon())
	}
	size := w.off
	if err := w.finish(drives); err != nil {
		return err
	}
	if len(w.failed) > 0 {
		c.log.lose(w.failed)
	}
	if _, err := c.log.append([]record{{kind: kindCheckpoint, index: head.number}}); err != nil {
		return err
	}
	c.keptBytes, c.lastSize = bytes, size
	c.kept = append(c.kept, head)
	c.host.config.Log.Info("checkpoint taken", "number", head.number, "bytes", size)
	if len(c.kept) < keptCheckpoints {
		return nil
	}
	c.kept = slices.Clone(c.kept[len(c.kept)-keptCheckpoints:])
	c.dropSnapshots(c.kept[0].seq)
	return c.log.forget(c.kept[0])
}

// lose drops mirrors that failed outside of an append.
func (l *mirroredLog) lose(failed map[cluster.DriveID]error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return
	}
	l.drop(failed)
	var left []cluster.DriveID
	for _, id := range l.set.members {
		if failed[id] == nil {
			left = append(left, id)
		}
	}
	if err := l.changeSet(left); err != nil {
		l.failure = err
	}
	l.wake()
}

// forget removes checkpoints older than the given one and the log before it.
func (l *mirroredLog) forget(oldest checkpointHead) error {
	l.mu.Lock()
	for len(l.segments) > 1 && l.segments[1].first <= oldest.seq+1 {
		l.segments = slices.Clone(l.segments[1:])
	}
	before := l.segments[0].number
	members := l.set.members
	drives := l.byID(members)
	l.mu.Unlock()
	_, failed := l.fanOut(members, func(id cluster.DriveID) error {
		d := drives[id]
		if err := d.removeCheckpoints(oldest.number); err != nil {
			return err
		}
		return d.retire(before)
	})
	return errors.Join(values(failed)...)
}

// removeCheckpoints removes the checkpoints before a number. Their removal need not be durable.
func (d *drive) removeCheckpoints(before uint64) error {
	numbers, err := d.numbers(checkpointDir, checkpointSuffix)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n < before {
			if err := d.fs.Remove(d.blockPath(checkpointFile(n))); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeCheckpoint takes a checkpoint at a clean end when that is cheap, so that the next start replays little. The
// worker and the keeper have ended.
func (c *core) closeCheckpoint() {
	log := c.host.config.Log
	if err := c.log.settle(); err != nil {
		log.Warn("log not settled at the end", "err", err)
		return
	}
	size, err := c.db.Size(kv.Span{})
	if err != nil || size > closeCheckpointMax || c.log.bytes-c.keptBytes < c.host.config.closeCheckpointMin {
		return
	}
	point := c.point()
	if point.err == nil {
		point.err = c.export(context.Background(), point, false)
		point.snap.Close()
	}
	if point.err == nil {
		point.err = c.log.settle()
	}
	if point.err != nil {
		log.Warn("checkpoint at the end not taken", "err", point.err)
	}
}

// scrubCheckpoints reads every copy of the kept checkpoints and snapshots and rewrites the hurt ones whole. The log's segments are
// read whenever the log opens.
func (c *core) scrubCheckpoints(ctx context.Context) {
	log := c.host.config.Log
	for _, name := range c.keptFiles() {
		c.log.mu.Lock()
		members := c.log.drivesOf(c.log.set.members)
		c.log.mu.Unlock()
		hurt, err := c.log.readBlocks(members, name, true, func(uint64, block) error { return ctx.Err() })
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("file cannot be read on any mirror", "dir", name.dir, "number", name.number, "err", err)
				c.dropFile(name)
			}
			continue
		}
		for _, d := range hurt {
			log.Warn("file rewritten from its mirrors", "dir", name.dir, "number", name.number, "drive", d.String())
			if err := c.log.copyBlocks(ctx, name, members, d); err != nil {
				log.Warn("file cannot be rewritten", "dir", name.dir, "number", name.number, "drive", d.String(), "err", err)
			}
		}
	}
}

// dropFile forgets a checkpoint that no mirror has whole and makes the next one due at once. That makes good for a
// snapshot, too.
func (c *core) dropFile(name blockFile) {
	c.checkpointing.Lock()
	defer c.checkpointing.Unlock()
	c.kept = slices.DeleteFunc(slices.Clone(c.kept), func(h checkpointHead) bool { return checkpointFile(h.number) == name })
	c.keptBytes = -max(c.host.config.CheckpointBytes, c.lastSize)
}
