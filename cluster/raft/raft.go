package raft

import (
	"context"
	"errors"

	"github.com/holdfast/holdfast/cluster/kv"
)

// Errors of this package.
var (
	// ErrNotLeader says that this replica does not lead its group now.
	ErrNotLeader = errors.New("not the leader")
	// ErrStopped says that the host is closed or has lost its log.
	ErrStopped = errors.New("raft host stopped")
	// ErrUnknownOutcome says that a proposal was given up while it may still be applied: retry it with the same
	// session and sequence.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrLogLost says that no trustworthy copy of the log is on the drives that are here. Nothing was changed; serving
	// starts when more drives return.
	ErrLogLost = errors.New("no complete copy of the log is on the drives that are here")
	// ErrLogDamaged says that the same part of the log or of a checkpoint is hurt on every copy that is here, so
	// something acknowledged cannot be read. Nothing was changed; another copy may return with another drive.
	ErrLogDamaged = errors.New("every copy of a part of the log is damaged")
	// ErrNotBootstrapped says that the drives that are here have never held a log: this is a first start, or they are
	// not this peer's drives.
	ErrNotBootstrapped = errors.New("no log on the drives that are here")
	// ErrTooLarge says that a command is longer than MaxCommand.
	ErrTooLarge = errors.New("command is too large")
)

// GroupID numbers a Raft group. 1 is the root group; tablets follow.
type GroupID uint64

// Machine is the state machine of one group: a tablet or the root. Its state lives in the peer's state DB under Spans.
type Machine interface {
	// Apply applies one committed command. It reads through r, which holds the effects of every earlier command and
	// none of this one, and writes through b only; the driver adds the applied index to the same batch. A command that
	// iterates may be stopped at its first Iterate, by a panic that must be let through, and applied again, so Apply
	// changes nothing but b. It is deterministic: no clock, no
	// randomness, no I/O. result goes to the proposer if it waits on this peer. Apply panics on a command that it
	// cannot decode, because applying half of history is worse than stopping.
	Apply(index, term uint64, command []byte, r kv.Reader, b kv.Batch) (result any)
	// Spans are the keys of this machine: what a checkpoint exports and a restore replaces.
	Spans() []kv.Span
	// Restored is called after the state was replaced from a checkpoint (drop caches).
	Restored()
}

// Group is one replica of a group on this peer.
type Group interface {
	ID() GroupID
	// Propose replicates a command and returns what Apply returned for it on this peer. err is ErrNotLeader when it
	// was not accepted, ErrUnknownOutcome (wrapping the context's error too) when it may still be applied.
	Propose(ctx context.Context, command []byte) (result any, err error)
	// Barrier returns when everything acknowledged before the call is visible to State (ReadIndex, coalesced), and the
	// term in which this replica led. A leader that evaluates against the state puts the term into its command and
	// Apply refuses a command of an older one.
	Barrier(ctx context.Context) (term uint64, err error)
	// State reads the applied state. The Reader is consistent per call only; Snapshot gives a frozen one.
	State() kv.Reader
	// Snapshot is a frozen view; Close must be called.
	Snapshot() (Snapshot, error)
}

// Member is a Group with what changes its members and who leads it. All but Leader and Members must be called where the
// group is led; elsewhere they give an ErrNotLeader, which may say where (NotLeaderError). One change of the members is
// made at a time. Each waits until it is applied here; ErrUnknownOutcome means that it may still be.
type Member interface {
	Group
	// Leader is who leads, as far as this replica knows.
	Leader() Leader
	// Members are the replicas of the group as of what is applied here.
	Members() (voters, learners []uint64)
	// AddLearner adds a replica that follows and does not vote. Ids are never used again. There should be an empty replica
	// with that id on a peer (Host.Create).
	AddLearner(ctx context.Context, replica uint64) error
	// Promote makes a learner a voter; ErrLearnerBehind says that the group would have to wait for it.
	Promote(ctx context.Context, replica uint64) error
	// Remove takes a voter or learner out of the group. Its peer keeps it until Host.Remove.
	Remove(ctx context.Context, replica uint64) error
	// Transfer hands leadership to a voter; ErrTransfer says that it did not take it in time.
	Transfer(ctx context.Context, to uint64) error
}

// Snapshot is a frozen Reader.
type Snapshot interface {
	kv.Reader
	Close()
}
