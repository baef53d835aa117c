package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
)

const (
	// keeperPause is how often the keeper looks without being woken.
	keeperPause = time.Second
	// retryDrive is how long a drive that failed, and is still here, stays out of use.
	retryDrive = 30 * time.Second
	// closeCheckpointMin is the log that makes a checkpoint at a clean end worth its writes.
	closeCheckpointMin = 64 << 10
)

// keep looks after the log until the worker has ended: the next segments, missing mirrors, checkpoints.
func (c *core) keep(ctx context.Context, ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(keeperPause)
	defer ticker.Stop()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	log := c.host.config.Log
	c.scrubCheckpoints(ctx)
	retry := time.Now().Add(retryDrive)
	for ctx.Err() == nil {
		c.host.keepReserve()
		if !c.host.Scarce() { // what was reserved is for the state; an append that needs a segment makes it
			c.log.prepareNext()
		}
		if err := c.log.fill(ctx, c.keptNumbers()); err != nil && ctx.Err() == nil {
			log.Warn("log mirror cannot be made", "err", err)
		}
		if c.checkpointDue() {
			if err := c.checkpoint(ctx, true); err != nil && ctx.Err() == nil {
				log.Warn("checkpoint not taken", "err", err)
			}
		}
		if time.Now().After(retry) {
			retry = time.Now().Add(retryDrive)
			c.retryDrives()
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-c.log.work:
		}
	}
}

// prepareNext makes the next segment on every member. A drive that fails at it is found out by its next append.
func (l *mirroredLog) prepareNext() {
	l.mu.Lock()
	number := l.next.segment + 1
	members := l.set.members
	drives := l.drivesOf(members)
	l.mu.Unlock()
	_, failed := l.fanOut(members, func(id cluster.DriveID) error {
		return drives[slices.Index(members, id)].prepare(number, l.segmentSize)
	})
	for id, err := range failed {
		l.log.Warn("next log segment cannot be made", "drive", id.String(), "err", err)
	}
}

// fill makes new mirrors while there are fewer than wanted and drives for them.
func (l *mirroredLog) fill(ctx context.Context, checkpoints []uint64) error {
	for ctx.Err() == nil {
		d := l.candidate()
		if d == nil {
			return nil
		}
		if err := l.join(ctx, d, checkpoints); err != nil {
			l.mu.Lock()
			l.up[d.id] = false
			l.mu.Unlock()
			return fmt.Errorf("drive %s: %w", d, err)
		}
	}
	return ctx.Err()
}

// candidate picks a drive for a new mirror and empties it. Nothing may hang on it.
func (l *mirroredLog) candidate() *drive {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil || len(l.set.members) >= l.want {
		return nil
	}
	for _, id := range l.reachable() {
		d := l.drives[id]
		if !slices.Contains(l.set.members, id) && d.idle() {
			return d
		}
	}
	return nil
}

// idle tells whether no operation is under way on a drive.
func (d *drive) idle() bool {
	if !d.files.TryLock() {
		return false
	}
	defer d.files.Unlock()
	if !d.io.TryLock() {
		return false
	}
	d.io.Unlock()
	return true
}

// join copies the whole log and the checkpoints to a drive and then makes it a member. Finished segments are copied
// while appends go on, the rest while they wait.
func (l *mirroredLog) join(ctx context.Context, d *drive, checkpoints []uint64) error {
	if err := d.empty(); err != nil {
		return err
	}
	l.mu.Lock()
	sources := l.drivesOf(l.set.members)
	finished := slices.Clone(l.segments[:len(l.segments)-1])
	l.mu.Unlock()
	for _, number := range checkpoints {
		if err := l.copyCheckpoint(ctx, number, sources, d); err != nil {
			return err
		}
	}
	for _, head := range finished {
		if err := l.copySegment(head, d); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	for _, head := range l.segments {
		if len(finished) > 0 && head.number <= finished[len(finished)-1].number {
			continue
		}
		if err := l.copySegmentHolding(head, d); err != nil {
			return err
		}
	}
	if err := l.changeSet(append(slices.Clone(l.set.members), d.id)); err != nil {
		l.failure = err
		return err
	}
	if slices.Contains(l.set.members, d.id) {
		return nil
	}
	return errors.New("it does not take the new mirror set")
}

// empty removes what a drive that is no member holds of the log.
func (d *drive) empty() error {
	d.files.Lock()
	defer d.files.Unlock()
	d.io.Lock()
	defer d.io.Unlock()
	if err := d.present(); err != nil {
		return err
	}
	return d.wipe()
}

func (l *mirroredLog) copySegment(head segmentHead, d *drive) error {
	l.mu.Lock()
	members := l.set.members
	l.mu.Unlock()
	return l.copyFrom(members, head, d, 0)
}

// copySegmentHolding is copySegment for a caller who holds mu; the last segment must be copied to its last frame.
func (l *mirroredLog) copySegmentHolding(head segmentHead, d *drive) error {
	last := uint64(0)
	if head.number == l.next.segment {
		last = l.last
	}
	return l.copyFrom(l.set.members, head, d, last)
}

func (l *mirroredLog) copyFrom(members []cluster.DriveID, head segmentHead, d *drive, last uint64) error {
	v, err := l.view(members, head)
	if err != nil {
		return err
	}
	if last != 0 && v.last != last {
		return fmt.Errorf("%w: segment %d reads up to frame %d of %d", ErrLogDamaged, head.number, v.last, last)
	}
	return d.replaceSegment(head.number, v.data, l.segmentSize)
}

// copyCheckpoint writes a checkpoint that is put together from sources to one drive.
func (l *mirroredLog) copyCheckpoint(ctx context.Context, number uint64, sources []*drive, d *drive) error {
	w := l.newCheckpoint([]*drive{d}, number, false)
	_, err := l.readCheckpoint(sources, number, false, func(_ uint64, b block) error {
		return w.addRaw(ctx, b.raw, b.digest)
	})
	if err != nil {
		return errors.Join(err, w.abandon())
	}
	return w.finish(map[cluster.DriveID]*drive{d.id: d})
}

// keptNumbers are the numbers of the checkpoints that every mirror has.
func (c *core) keptNumbers() []uint64 {
	c.checkpointing.Lock()
	defer c.checkpointing.Unlock()
	var list []uint64
	for _, h := range c.kept {
		list = append(list, h.number)
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
	return bytes-c.keptBytes > max(c.host.config.CheckpointBytes, 2*c.lastSize)/2
}

// checkpoint exports the state of all groups to every mirror, then lets go of the checkpoint before the last and of
// the log before the last.
func (c *core) checkpoint(ctx context.Context, pace bool) error {
	answer := make(chan pointAnswer, 1)
	select {
	case c.points <- pointRequest{answer}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.host.stop:
		return ErrStopped
	}
	var point pointAnswer
	select {
	case point = <-answer:
	case <-ctx.Done():
		// The worker answers into the channel's room; the snapshot is let go when it does.
		go func() {
			if late := <-answer; late.snap != nil {
				late.snap.Close()
			}
		}()
		return ctx.Err()
	}
	if point.err != nil {
		return point.err
	}
	defer point.snap.Close()
	return c.export(ctx, point.head, point.snap, pace)
}

// export writes a checkpoint of a point.
func (c *core) export(ctx context.Context, head checkpointHead, snap kv.Reader, pace bool) error {
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
	w := c.log.newCheckpoint(members, head.number, pace)
	var spans []kv.Span
	for _, r := range c.order {
		spans = append(spans, r.machine.Spans()...)
	}
	err := w.add(ctx, head.encode(), false)
	if err == nil {
		err = pairs(snap, spans, func(payload []byte) error { return w.add(ctx, payload, false) })
	}
	if err == nil {
		err = w.add(ctx, nil, true)
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
	drives := map[cluster.DriveID]*drive{}
	for _, id := range members {
		drives[id] = l.drives[id]
	}
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
			if err := d.fs.Remove(d.checkpointPath(n)); err != nil {
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
		point.err = c.export(context.Background(), point.head, point.snap, false)
		point.snap.Close()
	}
	if point.err == nil {
		point.err = c.log.settle()
	}
	if point.err != nil {
		log.Warn("checkpoint at the end not taken", "err", point.err)
	}
}

// scrubCheckpoints reads every copy of the kept checkpoints and rewrites the hurt ones whole. The log's segments are
// read whenever the log opens.
func (c *core) scrubCheckpoints(ctx context.Context) {
	log := c.host.config.Log
	for _, number := range c.keptNumbers() {
		c.log.mu.Lock()
		members := c.log.drivesOf(c.log.set.members)
		c.log.mu.Unlock()
		hurt, err := c.log.readCheckpoint(members, number, true, func(uint64, block) error { return ctx.Err() })
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("checkpoint cannot be read on any mirror", "number", number, "err", err)
				c.dropCheckpoint(number)
			}
			continue
		}
		for _, d := range hurt {
			log.Warn("checkpoint rewritten from its mirrors", "number", number, "drive", d.String())
			if err := c.log.copyCheckpoint(ctx, number, members, d); err != nil {
				log.Warn("checkpoint cannot be rewritten", "number", number, "drive", d.String(), "err", err)
			}
		}
	}
}

// dropCheckpoint forgets a checkpoint that no mirror has whole and makes the next one due at once.
func (c *core) dropCheckpoint(number uint64) {
	c.checkpointing.Lock()
	defer c.checkpointing.Unlock()
	c.kept = slices.DeleteFunc(slices.Clone(c.kept), func(h checkpointHead) bool { return h.number == number })
	c.keptBytes = -max(c.host.config.CheckpointBytes, c.lastSize)
}

// retryDrives brings drives back into use that failed a while ago and are here.
func (c *core) retryDrives() {
	for _, m := range c.host.here() {
		c.log.mu.Lock()
		up := c.log.up[m.Drive]
		c.log.mu.Unlock()
		if up {
			continue
		}
		d, err := newDrive(c.host.config.FS, m)
		if err == nil {
			err = c.log.driveUp(d)
		}
		if err != nil {
			c.host.config.Log.Warn("drive stays out of use", "drive", m.Drive.String(), "err", err)
		}
	}
}
