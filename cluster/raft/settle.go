package raft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster/kv"
)

// settleState brings the state to where the log can go on with a group: a replica that the state does not know begins
// in it, one that a snapshot is ahead of takes the snapshot.
func (c *core) settleState(g *groupLog, spans []kv.Span) (applied, members, error) {
	point, m, err := c.readState(g)
	if err == nil && (point.index >= g.base.index || g.snapshot == 0) {
		return point, m, nil
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return applied{}, members{}, err
	}
	if g.snapshot != 0 {
		name := snapshotFile(g.snapshot)
		drives := c.log.drivesOf(c.log.set.members)
		err := c.fillState(g.id, spans, g.base, g.members, g.stamp, func(visit func(index uint64, b block) error) error {
			_, err := c.log.readBlocks(drives, name, false, visit)
			return err
		})
		return g.base, g.members, err
	}
	if !g.fresh {
		return applied{}, members{}, fmt.Errorf("%w: group %d has no state and the log does not reach back to its beginning", ErrLogDamaged, g.id)
	}
	// The group began after the state did, or after the checkpoint that was restored.
	if err := clearSpans(c.db, spans); err != nil {
		return applied{}, members{}, err
	}
	return g.base, g.members, c.putState(g.id, g.base, g.members, g.stamp)
}

// readState returns kv.ErrNotFound when the state has nothing of this replica.
func (c *core) readState(g *groupLog) (applied, members, error) {
	point, err := getApplied(c.db, g.id)
	if err != nil {
		return applied{}, members{}, err
	}
	m, stamp, err := getMembers(c.db, g.id)
	if err == nil && stamp != g.stamp {
		err = kv.ErrNotFound
	}
	return point, m, err
}

// putState writes the driver's rows of a group, which make its other rows count.
func (c *core) putState(group GroupID, at applied, m members, stamp uint64) error {
	batch := c.db.NewBatch()
	putApplied(batch, group, at)
	putMembers(batch, group, m, stamp)
	return c.db.Write(batch)
}

// dropState takes them away.
func (c *core) dropState(group GroupID) error {
	batch := c.db.NewBatch()
	batch.Delete(rowKey(appliedRow, group))
	batch.Delete(rowKey(votersRow, group))
	return c.db.Write(batch)
}

// fillState replaces a group's state by a snapshot. While it runs the group has no applied row, so that what a crash
// leaves is not taken for a state.
func (c *core) fillState(group GroupID, spans []kv.Span, at applied, m members, stamp uint64, read func(visit func(index uint64, b block) error) error) error {
	if err := c.dropState(group); err != nil {
		return err
	}
	if err := clearSpans(c.db, spans); err != nil {
		return err
	}
	err := read(func(index uint64, b block) error {
		if index == 0 {
			return nil
		}
		batch := c.db.NewBatch()
		if err := putPairs(batch, b.payload); err != nil {
			return err
		}
		return c.db.Write(batch)
	})
	if err != nil {
		return err
	}
	return c.putState(group, at, m, stamp)
}

// clearForeign removes what the state has of groups that are not here any more. Their applied rows go last: the next
// start finds by them what a crash left.
func (c *core) clearForeign(groups []*groupLog) error {
	ids, err := groupsIn(c.db)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if slices.ContainsFunc(groups, func(g *groupLog) bool { return g.id == id }) {
			continue
		}
		if err := c.clearState(id); err != nil {
			return fmt.Errorf("state of group %d: %w", id, err)
		}
	}
	return nil
}

// clearState removes everything that the state has of a group.
func (c *core) clearState(id GroupID) error {
	if err := clearSpans(c.db, c.host.config.Machines(id).Spans()); err != nil {
		return err
	}
	return c.dropState(id)
}

// maxCleared bounds one batch of deletions.
const maxCleared = 1 << 20

// clearSpans deletes the keys of spans, some at a time.
func clearSpans(db *kv.DB, spans []kv.Span) error {
	for _, span := range spans {
		for more := true; more; {
			var err error
			if more, err = clearSome(db, span); err != nil {
				return err
			}
		}
	}
	return nil
}

func clearSome(db *kv.DB, span kv.Span) (more bool, err error) {
	batch := db.NewBatch()
	it := db.Iterate(span)
	for it.Next() && batch.Bytes() < maxCleared {
		batch.Delete(slices.Clone(it.Key()))
	}
	err = it.Err()
	it.Close()
	if err != nil {
		return false, err
	}
	return batch.Bytes() >= maxCleared, db.Write(batch)
}
