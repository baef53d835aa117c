package raft

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
)

// Create makes a replica of a group on this peer. With voters, of which it is one, it begins the group, as all of them
// must alike, once. Without, it is empty: it knows nobody, waits until a leader sends it the group's state, and takes
// part as what the group's members then say it is. Nothing but Create makes a replica; messages for others are dropped.
//
// Ids of replicas of a group go up and are never used again: the error wraps ErrReplicaRemoved for one that is not
// above those that were removed from here, ErrReplicaExists when another one is here. Creating what is here is no error.
func (h *Host) Create(ctx context.Context, group GroupID, replica uint64, voters ...uint64) error {
	if group == 0 || replica == 0 {
		return fmt.Errorf("create replica %d of group %d: zero is no id", replica, group)
	}
	if len(voters) > 0 && !slices.Contains(voters, replica) || len(voters) > maxVoters {
		return fmt.Errorf("create replica %d of group %d: it is none of the %d voters", replica, group, len(voters))
	}
	return h.changeReplicas(ctx, func(c *core) error {
		err := c.ask(ctx, func() error { return c.create(group, replica, voters) })
		if err != nil {
			return fmt.Errorf("create replica %d of group %d: %w", replica, group, err)
		}
		h.know(group, true)
		return nil
	})
}

// Remove removes a replica and its state from this peer, for ever. Removing what is gone is no error. It does not change
// who the members of the group are; Member.Remove does.
func (h *Host) Remove(ctx context.Context, group GroupID, replica uint64) error {
	return h.changeReplicas(ctx, func(c *core) error {
		gone := false
		err := c.ask(ctx, func() (err error) { gone, err = c.remove(group, replica); return err })
		if err == nil && gone {
			h.know(group, false)
			// Nobody else works on this state: the next replica cannot be made before this returns.
			err = c.clearState(group)
		}
		if err != nil {
			return fmt.Errorf("remove replica %d of group %d: %w", replica, group, err)
		}
		return nil
	})
}

// changeReplicas runs a change of the replicas here alone.
func (h *Host) changeReplicas(ctx context.Context, change func(c *core) error) error {
	c := h.core.Load()
	if c == nil {
		return ErrStopped
	}
	if err := c.changing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.changing.Release(1)
	return change(c)
}

// know notes whether a group has a replica here.
func (h *Host) know(group GroupID, here bool) {
	h.mu.Lock()
	if h.known != nil {
		if here {
			h.known[group] = true
		} else {
			delete(h.known, group)
		}
	}
	h.mu.Unlock()
	h.changed()
}

// create writes the beginning of a replica into the log and then makes it. The worker calls it.
func (c *core) create(group GroupID, id uint64, voters []uint64) error {
	if r := c.find(group); r != nil {
		if r.replica == id {
			return nil
		}
		return fmt.Errorf("replica %d: %w", r.replica, ErrReplicaExists)
	}
	if t := c.tombs[group]; id <= t.replica {
		return ErrReplicaRemoved
	}
	g := newGroupLog(groupPoint{group: group, replica: id, stamp: id, begun: c.log.lastSeq() + 1}, heldState{})
	records := []record{{kind: kindCreated, group: group, term: id}}
	if len(voters) > 0 {
		g.members, g.base, g.keep = members{voters: voters}, firstPoint, firstPoint.index
		g.hard = hardState{term: firstPoint.term, commit: firstPoint.index}
		records = []record{{kind: kindMembership, group: group, term: id, payload: appendVoters(nil, voters)}, g.hard.record(group)}
	}
	if err := c.append(records); err != nil {
		return err
	}
	if err := c.putState(group, g.base, g.members, g.stamp); err != nil {
		return fmt.Errorf("%w: %w", errStateBroken, err)
	}
	r, err := c.newReplica(g, c.host.config.Machines(group), g.base, g.members)
	if err != nil {
		return err
	}
	byID := maps.Clone(*c.groups.Load())
	byID[group] = r
	c.groups.Store(&byID)
	at, _ := slices.BinarySearchFunc(c.order, group, func(r *replica, group GroupID) int { return cmp.Compare(r.id, group) })
	c.order = slices.Insert(c.order, at, r)
	c.log.setWant(c.wantMirrors())
	return nil
}

// remove writes the end of a replica into the log and lets go of it. gone tells that its state may still be here. The
// worker calls it.
func (c *core) remove(group GroupID, id uint64) (gone bool, err error) {
	r := c.find(group)
	if r != nil && r.replica < id {
		return false, fmt.Errorf("replica %d is here: %w", r.replica, ErrReplicaExists)
	}
	if id <= c.tombs[group].replica || r != nil && id < r.replica {
		return false, nil
	}
	seq, err := c.log.append([]record{{kind: kindRemoved, group: group, term: id}})
	if err != nil {
		return false, err
	}
	c.tombs[group] = tombstone{replica: id, seq: seq}
	if r == nil {
		return true, nil
	}
	r.gone = true
	r.lease.Store(0)
	byID := maps.Clone(*c.groups.Load())
	delete(byID, group)
	c.groups.Store(&byID)
	c.order = slices.DeleteFunc(c.order, func(o *replica) bool { return o == r })
	c.host.giveUp(func(p *proposal) bool { return p.group == group }, ErrUnknownOutcome)
	r.reads.fail(&NotLeaderError{Group: group, Cause: ErrNoReplica})
	if r.install != nil {
		r.install.end(ErrReplicaRemoved)
	}
	c.log.setWant(c.wantMirrors())
	return true, nil
}
