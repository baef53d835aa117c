package raft

import (
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/kv"
)

func closeState(db *kv.DB) error {
	if db == nil {
		return nil
	}
	return db.Close()
}

// openState opens the state DB as it lies there, or returns nil when it must be rebuilt.
func openState(c Config, fresh bool) *kv.DB {
	dir := c.StateDir + stateDirName
	if _, err := c.FS.Stat(dir); err != nil || fresh {
		return nil
	}
	db, err := kv.Open(kv.Config{FS: c.FS, Dir: dir, WriteBuffer: c.WriteBuffer, BlockCache: c.BlockCache, Log: c.Log})
	if err != nil {
		c.Log.Warn("state database is rebuilt", "dir", dir, "err", err)
		return nil
	}
	return db
}

// readWith reads the log and keeps the state DB only when it is a prefix of the log: the applied point of every group
// lies on it, hash and all. Otherwise it closes the DB and sets it to nil.
func (o *opened) readWith(db **kv.DB, c Config) error {
	if *db != nil {
		err := o.readOver(*db)
		if err == nil || !errors.Is(err, errForeignState) {
			return err
		}
		c.Log.Warn("state database is rebuilt", "dir", c.StateDir, "err", err)
		if err := (*db).Close(); err != nil {
			c.Log.Warn("state database cannot be closed", "dir", c.StateDir, "err", err)
		}
		*db = nil
	}
	return o.read(nil)
}

// errForeignState says that the state is not a prefix of the log.
var errForeignState = errors.New("state does not match the log")

// readOver reads the log against a state.
func (o *opened) readOver(db *kv.DB) error {
	points := map[GroupID]applied{}
	held := map[GroupID]heldState{}
	ids, err := groupsIn(db)
	if err != nil {
		return fmt.Errorf("%w: %w", errForeignState, err)
	}
	for _, id := range ids {
		a, err := getApplied(db, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errForeignState, err)
		}
		m, stamp, err := getMembers(db, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errForeignState, err)
		}
		points[id], held[id] = a, heldState{index: a.index, stamp: stamp}
		if len(m.voters)+len(m.learners) > 1 {
			held[id] = heldState{index: a.index, stamp: stamp, retain: retainedAtOpen}
		}
	}
	if err := o.read(held); err != nil {
		return err
	}
	for _, g := range o.groups {
		have, known := points[g.id]
		if err := g.check(have, known && held[g.id].stamp == g.stamp); err != nil {
			return err
		}
	}
	return nil
}

// check compares what a state has of the group with the log. What the log can make good is no error.
func (g *groupLog) check(have applied, known bool) error {
	switch {
	case !known && !g.fresh:
		return fmt.Errorf("%w: group %d is not in it", errForeignState, g.id)
	case !known, have.index < g.base.index && g.snapshot != 0:
		return nil // begin fills it
	case have.index > g.last():
		// Only what every mirror had is applied. So the log lost its end, and a rebuilt state would hide that.
		return fmt.Errorf("%w: group %d is applied up to %d and its log ends with %d", ErrLogDamaged, g.id, have.index, g.last())
	}
	if want, ok := g.point(have.index); !ok || want.hash != have.hash || have.index > firstPoint.index && want.term != have.term {
		return fmt.Errorf("%w: group %d at %d", errForeignState, g.id, have.index)
	}
	return nil
}

// groupsIn lists the groups that have an applied row.
func groupsIn(db *kv.DB) ([]GroupID, error) {
	it := db.Iterate(kv.Span{Start: []byte(appliedRow), End: []byte(appliedRow + "\xff\xff\xff\xff\xff\xff\xff\xff\xff")})
	defer it.Close()
	var ids []GroupID
	for it.Next() {
		id, err := rowGroup(it.Key())
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, it.Err()
}

// rebuild fills a new state DB from the newest checkpoint that can be read, or leaves it empty when the log reaches
// back to the beginning.
func (o *opened) rebuild(c Config) (*kv.DB, error) {
	dir := c.StateDir + stateDirName
	complete := o.log.segments[0].first == 1
	for i := len(o.heads) - 1; i >= 0 || complete; i-- {
		if err := kv.Destroy(c.FS, dir); err != nil {
			return nil, err
		}
		db, err := kv.Open(kv.Config{FS: c.FS, Dir: dir, WriteBuffer: c.WriteBuffer, BlockCache: c.BlockCache, Log: c.Log})
		if err != nil {
			return nil, err
		}
		if i < 0 {
			return db, nil // begin begins every group in it
		}
		head := o.heads[i]
		if err = o.log.restore(o.log.drivesOf(o.members), head, db); err == nil {
			c.Log.Info("state database restored", "checkpoint", head.number)
			return db, nil
		}
		c.Log.Warn("checkpoint cannot be restored", "number", head.number, "err", err)
		if err := db.Close(); err != nil {
			c.Log.Warn("state database cannot be closed", "dir", dir, "err", err)
		}
	}
	return nil, fmt.Errorf("%w: none of %d checkpoints can be read", ErrLogDamaged, len(o.heads))
}
