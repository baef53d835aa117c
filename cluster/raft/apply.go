package raft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster/kv"
)

// maxApplied and maxAppliedBytes bound what is applied as one batch: those that wait for the first entry wait for all.
const (
	maxApplied      = 64
	maxAppliedBytes = 1 << 20
)

// apply applies entries up to an index that follow what is applied.
func (c *core) apply(r *replica, entries []*raftpb.Entry, upTo uint64) error {
	for len(entries) > 0 && entries[0].GetIndex() <= r.point.index {
		entries = entries[1:]
	}
	for len(entries) > 0 && entries[0].GetIndex() <= upTo {
		n, err := c.applySome(r, entries, upTo)
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// application is consecutive entries of a group on their way into the state: their effects, the applied index and the
// hash of history go into one batch. It reads as if it were written already.
type application struct {
	db    *kv.DB
	batch *kv.WriteBatch
	// rows are those of the batch, nil for one that is deleted.
	rows    map[string][]byte
	point   applied
	answers []answer
}

// answer is what a proposer is told once the batch is written.
type answer struct {
	to     *proposal
	result any
}

// applySome applies the first of the entries as one batch, and tells how many these were.
func (c *core) applySome(r *replica, entries []*raftpb.Entry, upTo uint64) (int, error) {
	a := &application{db: c.db, batch: &c.batch, rows: c.rows, point: r.point}
	a.batch.Reset()
	clear(a.rows)
	n := 0
	for _, e := range entries {
		if n == maxApplied || a.batch.Bytes() >= maxAppliedBytes || e.GetIndex() > upTo {
			break
		}
		err := c.applyOne(r, a, e)
		if errors.Is(err, errAlone) {
			break // it begins the next batch
		}
		if err != nil {
			c.unanswer(a)
			return 0, err
		}
		n++
	}
	putApplied(a.batch, r.id, a.point)
	if err := c.db.Write(a.batch); err != nil {
		c.unanswer(a)
		return 0, fmt.Errorf("%w: %w", errStateBroken, err)
	}
	r.point = a.point
	c.catchUp(r)
	if term := r.point.term; r.alone && r.leader && term == r.term && term != r.lease.Load() {
		r.lease.Store(term)
		r.reads.lease(term)
		c.host.changed()
	}
	if applied := c.host.config.Applied; applied != nil {
		applied(r.id, r.point.index)
	}
	for _, answer := range a.answers {
		answer.to.finish(proposalResult{value: answer.result})
	}
	return n, nil
}

// catchUp lets readers in when a state that was rebuilt has what they may have seen.
func (c *core) catchUp(r *replica) {
	if r.point.index >= r.must && !r.caughtUp.Load() {
		r.caughtUp.Store(true)
		c.host.changed()
	}
}

// unanswer leaves the proposers of a batch that is not written waiting: they are answered when it is applied again.
func (c *core) unanswer(a *application) {
	for _, answer := range a.answers {
		c.host.adopt(answer.to)
	}
}

// applyOne adds one entry to the batch.
func (c *core) applyOne(r *replica, a *application, e *raftpb.Entry) error {
	index, term, data := e.GetIndex(), e.GetTerm(), e.GetData()
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(data) < proposalHeader {
			break
		}
		view := &entryView{application: a}
		result, err := c.command(r, index, term, data[proposalHeader:], view)
		if err != nil {
			return err
		}
		view.keep()
		if waiter := c.host.claim(binary.LittleEndian.Uint64(data)); waiter != nil {
			a.answers = append(a.answers, answer{waiter, result})
		}
	case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
		if err := c.reconfigure(r, e, a); err != nil {
			return err
		}
	}
	a.point = a.point.after(index, term, entryDigest(index, term, uint8(e.GetType()), data))
	return nil
}

// command runs the machine. A machine that panics because the state broke under it is no bug of its own.
func (c *core) command(r *replica, index, term uint64, command []byte, view *entryView) (result any, err error) {
	defer func() {
		if view.alone {
			_ = recover() // the machine was stopped to be run again
			err = errAlone
			return
		}
		broken := c.db.Broken()
		if broken == nil {
			return // a panic goes on
		}
		_ = recover() // the broken state is the cause, and it is reported
		err = fmt.Errorf("%w: %w", errStateBroken, broken)
	}()
	return r.machine.Apply(index, term, command, view, view), nil
}

// errAlone says that an entry can only be applied when all before it is in the state.
var errAlone = errors.New("the entry begins a batch of its own")

// entryView is what one command reads and writes. It reads what the entries before it wrote, in this batch too, and
// nothing of its own.
type entryView struct {
	*application
	writes []write
	// alone is set when the command asks for what a batch under way cannot tell.
	alone bool
}

type write struct {
	key, value []byte // value is nil for a deletion
}

// Get implements kv.Reader.
func (v *entryView) Get(key []byte) ([]byte, error) {
	value, written := v.rows[string(key)]
	switch {
	case !written:
		return v.db.Get(key)
	case value == nil:
		return nil, kv.ErrNotFound
	}
	return value, nil
}

// Iterate implements kv.Reader. Few commands walk over rows, so those of the batch are not merged in: the command is
// stopped and begins the next batch.
func (v *entryView) Iterate(span kv.Span) kv.Iterator {
	if len(v.rows) > 0 {
		v.alone = true
		panic(errAlone)
	}
	return v.db.Iterate(span)
}

// Put implements kv.Batch.
func (v *entryView) Put(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	v.writes = append(v.writes, write{key, value})
}

// Delete implements kv.Batch.
func (v *entryView) Delete(key []byte) { v.writes = append(v.writes, write{key, nil}) }

// keep adds the writes to the batch.
func (v *entryView) keep() {
	for _, w := range v.writes {
		if w.value == nil {
			v.batch.Delete(w.key)
		} else {
			v.batch.Put(w.key, w.value)
		}
		v.rows[string(w.key)] = w.value
	}
}
