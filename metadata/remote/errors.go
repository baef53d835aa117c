package remote

import (
	"context"
	"errors"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/record"
)

// Errors of this package. All but ErrUnlisted are of the client itself.
var (
	// ErrNotSent says that a call was not made: no connection came about, or the other side would not take the question.
	// It may be repeated, whatever it is.
	ErrNotSent = errors.New("call was not made")
	// ErrLost says that no answer came, though the call may have been made.
	ErrLost = errors.New("answer was lost")
	// ErrStalled says that the other side gave no sign for Options.Stall.
	ErrStalled = errors.New("the other side hangs")
	// ErrUnlisted says that the leader answered with an error that has no number on the wire: only its text came.
	ErrUnlisted = errors.New("error of another peer")
)

// sentinels are the errors that keep their meaning over the wire, by their numbers there. Numbers are never used again.
var sentinels = [...]struct {
	code byte
	err  error
}{
	{1, metadata.ErrNoSuchBucket},
	{2, metadata.ErrBucketExists},
	{3, metadata.ErrBucketNotEmpty},
	{4, metadata.ErrBadBucketName},
	{5, metadata.ErrNoSuchKey},
	{6, metadata.ErrNoSuchVersion},
	{7, metadata.ErrDeleteMarker},
	{8, metadata.ErrNoSuchUpload},
	{9, metadata.ErrPrecondition},
	{10, metadata.ErrConflict},
	{11, metadata.ErrExists},
	{12, metadata.ErrInvalidPart},
	{13, metadata.ErrInvalidPartOrder},
	{14, metadata.ErrPartTooSmall},
	{15, metadata.ErrObjectTooLarge},
	{16, metadata.ErrKeyLength},
	{17, metadata.ErrDirNotEmpty},
	{18, metadata.ErrBadToken},
	{19, metadata.ErrTooLarge},
	{20, metadata.ErrSessionFenced},
	{21, metadata.ErrUnavailable},
	{22, metadata.ErrBadRename},
	{32, context.Canceled},
	{33, context.DeadlineExceeded},
	{34, raft.ErrNotLeader},
	{35, raft.ErrUnknownOutcome},
	{36, raft.ErrStopped},
	{37, raft.ErrLogLost},
	{38, raft.ErrTooLarge},
	{39, kv.ErrBroken},
	{40, root.ErrNotFound},
	{41, root.ErrConflict},
	{42, root.ErrTooLarge},
	{43, record.ErrKey},
}

// maxText bounds the text of an error on the wire, in bytes.
const maxText = 4 << 10

// fault is an error on the wire. No codes and no text: there is none.
type fault struct {
	Codes  []uint64
	Text   string
	Leader []byte // of a metadata.LeaderHint; nil or 16 bytes
}

func faultOf(err error) fault {
	if err == nil {
		return fault{}
	}
	f := fault{Text: err.Error(), Codes: []uint64{}}
	f.Text = f.Text[:min(len(f.Text), maxText)]
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			f.Codes = append(f.Codes, uint64(s.code))
		}
	}
	var hint metadata.LeaderHint
	if errors.As(err, &hint) {
		if leader := hint.Leader(); leader != (cluster.PeerID{}) {
			f.Leader = leader[:]
		}
	}
	return f
}

// error is the inverse of faultOf.
func (f fault) error() error {
	if f.Codes == nil {
		return nil
	}
	e := &Error{text: f.Text}
	for _, code := range f.Codes {
		for _, s := range sentinels {
			if uint64(s.code) == code {
				e.is = append(e.is, s.err)
			}
		}
	}
	if len(e.is) == 0 {
		e.is = []error{metadata.ErrUnavailable, ErrUnlisted}
	}
	if len(f.Leader) == len(e.leader) {
		e.leader = cluster.PeerID(f.Leader)
	}
	return e
}

// Error is an error that came from another peer, with the text that it had there. It matches the sentinels that it
// matched there, and metadata.ErrUnavailable and ErrUnlisted when it matched none that the protocol knows. It is a
// metadata.LeaderHint.
type Error struct {
	text   string
	is     []error
	leader cluster.PeerID
}

// Error implements error.
func (e *Error) Error() string { return e.text }

// Unwrap gives what the error matches.
func (e *Error) Unwrap() []error { return e.is }

// Leader implements metadata.LeaderHint.
func (e *Error) Leader() cluster.PeerID { return e.leader }
