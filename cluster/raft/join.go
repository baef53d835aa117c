package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
)

// fill makes new mirrors while there are fewer than wanted and drives for them.
func (l *mirroredLog) fill(ctx context.Context, kept func() []blockFile) error {
	for ctx.Err() == nil {
		d := l.candidate()
		if d == nil {
			return nil
		}
		if err := l.join(ctx, d, kept); err != nil {
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
func (l *mirroredLog) join(ctx context.Context, d *drive, kept func() []blockFile) error {
	l.joining.Lock()
	defer l.joining.Unlock()
	if err := d.empty(); err != nil {
		return err
	}
	l.mu.Lock()
	sources := l.drivesOf(l.set.members)
	finished := slices.Clone(l.segments[:len(l.segments)-1])
	l.mu.Unlock()
	for _, name := range kept() {
		if err := l.copyBlocks(ctx, name, sources, d); err != nil {
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

// copyBlocks writes a file of blocks that is put together from sources to one drive.
func (l *mirroredLog) copyBlocks(ctx context.Context, name blockFile, sources []*drive, d *drive) error {
	w := l.newBlocks([]*drive{d}, name, false)
	_, err := l.readBlocks(sources, name, false, func(_ uint64, b block) error {
		return w.addRaw(ctx, b.raw, b.digest)
	})
	if err != nil {
		return errors.Join(err, w.abandon())
	}
	return w.finish(map[cluster.DriveID]*drive{d.id: d})
}

// shrink lets go of mirrors that are more than wanted, and of what they hold.
func (l *mirroredLog) shrink() error {
	l.mu.Lock()
	if l.failure != nil || len(l.set.members) <= l.want {
		l.mu.Unlock()
		return l.failure
	}
	left := slices.Clone(l.set.members[:l.want])
	dropped := l.drivesOf(without(l.set.members, left))
	if err := l.changeSet(left); err != nil {
		l.failure = err
		l.mu.Unlock()
		return err
	}
	l.mu.Unlock()
	var errs []error
	for _, d := range dropped {
		errs = append(errs, d.empty())
	}
	return errors.Join(errs...)
}
