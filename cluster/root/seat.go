package root

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
)

// Seat is where the root group can be asked. Its methods may be called concurrently.
//
// ErrNotFound, ErrConflict and ErrTooLarge are answers. raft.ErrNotLeader says that nothing was done, and may come with
// a NotLeader that says who leads; raft.ErrUnknownOutcome says that a command may have been applied, or may still be;
// every other error says that nothing was done and there is no answer. Every call may be repeated.
type Seat interface {
	// Propose applies a command of a Client, and returns the first of the numbers that it gave out, if it gave out any.
	Propose(ctx context.Context, command []byte) (first uint64, err error)
	// Row returns one row as of now, ErrNotFound when there is none.
	Row(ctx context.Context, kind Kind, name string) (Row, error)
	// Rows returns rows as of one moment from now on.
	Rows(ctx context.Context, q Query) ([]Row, error)
}

// NotLeader refuses a call on a peer that does not lead the root group: nothing was done. It matches raft.ErrNotLeader.
type NotLeader struct {
	// Peer leads instead; zero when that is not known. It is a field and no method, because metadata.LeaderHint speaks
	// of another group.
	Peer cluster.PeerID
}

// Error implements error.
func (e NotLeader) Error() string {
	if e.Peer == (cluster.PeerID{}) {
		return "this peer does not lead the root group, and knows no leader"
	}
	return "this peer does not lead the root group: peer " + e.Peer.String() + " does"
}

// Unwrap gives what the error matches.
func (e NotLeader) Unwrap() error { return raft.ErrNotLeader }

// Local is the seat at a replica on this peer. group gives it, nil while there is none, and must not block. The seat
// repeats nothing.
func Local(group func() raft.Group) Seat { return local{group} }

type local struct{ group func() raft.Group }

func (l local) Propose(ctx context.Context, command []byte) (uint64, error) {
	group := l.group()
	if group == nil {
		return 0, NotLeader{}
	}
	result, err := group.Propose(ctx, command)
	if err != nil {
		return 0, err
	}
	out, ok := result.(outcome)
	if !ok {
		return 0, fmt.Errorf("root command: unexpected result %T", result)
	}
	return out.first, out.err
}

// barrier returns the replica once it has all that was acknowledged before.
func (l local) barrier(ctx context.Context) (raft.Group, error) {
	group := l.group()
	if group == nil {
		return nil, NotLeader{}
	}
	_, err := group.Barrier(ctx)
	return group, err
}

func (l local) Row(ctx context.Context, kind Kind, name string) (Row, error) {
	group, err := l.barrier(ctx)
	if err != nil {
		return Row{}, err
	}
	row, found, err := readRow(group.State(), kind, name)
	if err == nil && !found {
		err = ErrNotFound
	}
	return row, err
}

func (l local) Rows(ctx context.Context, q Query) ([]Row, error) {
	group, err := l.barrier(ctx)
	if err != nil {
		return nil, err
	}
	return scan(group.State(), q)
}

// retryAfter is how long an insistent seat waits before it repeats a command that was not accepted.
const retryAfter = 20 * time.Millisecond

// insistent repeats a command until its outcome is known or ctx ends.
type insistent struct{ Seat }

func (s insistent) Propose(ctx context.Context, command []byte) (uint64, error) {
	for {
		first, err := s.Seat.Propose(ctx, command)
		unsure := errors.Is(err, raft.ErrUnknownOutcome) || errors.Is(err, raft.ErrNotLeader)
		if !unsure || errors.Is(err, raft.ErrStopped) || ctx.Err() != nil {
			return first, err
		}
		timer := time.NewTimer(retryAfter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, err
		case <-timer.C:
		}
	}
}
