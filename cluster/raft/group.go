package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	etcd "go.etcd.io/raft/v3"

	"github.com/holdfast/holdfast/cluster/kv"
)

// Group returns the replica of a group on this peer, or nil when there is none.
func (h *Host) Group(id GroupID) Member {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.known[id] {
		return nil
	}
	return group{host: h, id: id}
}

// group is a handle that outlives the cores of its host.
type group struct {
	host *Host
	id   GroupID
}

var _ Member = group{}

func (g group) ID() GroupID { return g.id }

// Propose implements Group. Before the command was handed to Raft the context's error comes back bare: it was not
// proposed.
func (g group) Propose(ctx context.Context, command []byte) (any, error) {
	h := g.host
	if len(command) > h.config.maxCommand() {
		return nil, fmt.Errorf("propose %d bytes, at most %d: %w", len(command), h.config.maxCommand(), ErrTooLarge)
	}
	weight := int64(len(command)) + proposalHeader
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer h.slots.Release(1)
	if err := h.bytes.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer h.bytes.Release(weight)
	data := make([]byte, proposalHeader, weight)
	p := &proposal{group: g.id, data: append(data, command...), done: make(chan proposalResult, 1), ctx: ctx}
	if err := h.submit(p); err != nil {
		return nil, err
	}
	select {
	case r := <-p.done:
		return r.value, r.err
	case <-ctx.Done():
	}
	if h.withdraw(p) {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
}

// Barrier implements Group.
func (g group) Barrier(ctx context.Context) (uint64, error) {
	h := g.host
	if c := h.core.Load(); c != nil {
		if r := c.find(g.id); r != nil {
			if term := r.lease.Load(); term != 0 {
				return term, nil
			}
		}
	}
	p := &proposal{group: g.id, read: true, done: make(chan proposalResult, 1), ctx: ctx}
	if err := h.submit(p); err != nil {
		return 0, err
	}
	select {
	case r := <-p.done:
		return r.term, r.err
	case <-ctx.Done():
		h.withdraw(p)
		return 0, ctx.Err()
	}
}

// State implements Group.
func (g group) State() kv.Reader { return stateReader{g.host, g.id} }

// Snapshot implements Group.
func (g group) Snapshot() (Snapshot, error) {
	deadline := time.Now().Add(readPatience)
	for {
		db, err := g.host.state(g.id, deadline)
		if err != nil {
			return nil, err
		}
		snap, err := db.Snapshot()
		if err == nil {
			return snap, nil
		}
		if err = g.host.stateFailed(err, deadline); err != nil {
			return nil, err
		}
	}
}

// stateReader reads whatever DB holds the state now. While a broken one is rebuilt, reads wait for a few seconds.
type stateReader struct {
	host  *Host
	group GroupID
}

func (s stateReader) Get(key []byte) ([]byte, error) {
	deadline := time.Now().Add(readPatience)
	for {
		db, err := s.host.state(s.group, deadline)
		if err != nil {
			return nil, err
		}
		value, err := db.Get(key)
		if err == nil || errors.Is(err, kv.ErrNotFound) {
			return value, err
		}
		if err = s.host.stateFailed(err, deadline); err != nil {
			return nil, err
		}
	}
}

// Iterate begins on the DB of this moment. If that breaks meanwhile, the iterator ends with an error.
func (s stateReader) Iterate(span kv.Span) kv.Iterator {
	db, err := s.host.state(s.group, time.Now().Add(readPatience))
	if err != nil {
		return failedIterator{err}
	}
	return db.Iterate(span)
}

// stateFailed decides whether a failed read is tried again: it wakes the worker, which sees the broken state.
func (h *Host) stateFailed(err error, deadline time.Time) error {
	if !errors.Is(err, kv.ErrBroken) && !errors.Is(err, kv.ErrClosed) || time.Now().After(deadline) {
		return errors.Join(ErrStopped, err)
	}
	h.wakeWorker()
	return nil
}

// failedIterator has no keys and an error.
type failedIterator struct{ err error }

func (failedIterator) Next() bool       { return false }
func (failedIterator) Seek([]byte) bool { return false }
func (failedIterator) Last() bool       { return false }
func (failedIterator) Prev() bool       { return false }
func (failedIterator) Key() []byte      { return nil }
func (failedIterator) Value() []byte    { return nil }
func (i failedIterator) Err() error     { return i.err }
func (failedIterator) Close()           {}

// raftLogger hands etcd's messages to slog, one level quieter: elections are its news, not the operator's.
type raftLogger struct{ log *slog.Logger }

var _ etcd.Logger = raftLogger{}

func (l raftLogger) Debug(v ...any)              {}
func (l raftLogger) Debugf(string, ...any)       {}
func (l raftLogger) Info(v ...any)               { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)    { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l raftLogger) Warning(v ...any)            { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l raftLogger) Error(v ...any)              { l.log.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.log.Error(fmt.Sprintf(f, v...)) }

// Fatal and Panic report a broken invariant of Raft itself; going on would risk the log.
func (l raftLogger) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
