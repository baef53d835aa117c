package transport

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/trust"
)

// Errors of this package.
var (
	// ErrUnreachable says that there is no connection to the peer and none could be made: nothing was sent. It wraps why,
	// which may be a trust.Reason.
	ErrUnreachable = errors.New("peer is unreachable")
	// ErrBroken says that the connection ended during the call: the peer may have done what was asked.
	ErrBroken = errors.New("the connection broke during the call")
	// ErrStalled says that no byte moved in either direction for too long: the peer may have done what was asked.
	ErrStalled = errors.New("no byte moved for too long")
	// ErrUnknownPeer says that the directory has no such peer.
	ErrUnknownPeer = errors.New("no such peer")
	// ErrTooLarge says that a body is longer than its route takes.
	ErrTooLarge = errors.New("the body is too large")
	// ErrStopping says that the peer takes no more calls.
	ErrStopping = errors.New("the peer is stopping")
	// ErrCrashed says that a handler panicked.
	ErrCrashed = errors.New("the call crashed")
	// ErrClosed says that the Peers were closed.
	ErrClosed = errors.New("peers are closed")
)

// Sentinels is a table of errors that survive the trip to another peer: the code on the wire and the error that
// errors.Is finds on both sides. Codes are promises: a code is never used for another error. They are 1 to 64 of a-z,
// 0-9, '.', '_' and '-', and begin with their package. It must not change once it is in use.
type Sentinels map[string]error

// ours are those that every table has. The errors of contexts are not among them: that a context ended there must not
// look as if the caller's own had.
func ours() Sentinels {
	table := Sentinels{
		"transport.stalled":   ErrStalled,
		"transport.too_large": ErrTooLarge,
		"transport.stopping":  ErrStopping,
		"transport.crashed":   ErrCrashed,
	}
	refusals := new(trust.Refusals)
	for reason := range refusals.All() {
		table["trust."+reason.Label()] = reason
	}
	return table
}

// Merge puts tables together. A code, or an error, that stands in two of them is refused.
func Merge(tables ...Sentinels) (Sentinels, error) {
	merged, codes := Sentinels{}, map[error]string{}
	for _, table := range tables {
		for _, code := range slices.Sorted(maps.Keys(table)) {
			sentinel := table[code]
			if sentinel == nil || !goodCode(code) {
				return nil, fmt.Errorf("code %q of %v: not a code of an error", code, sentinel)
			}
			if known, taken := merged[code]; taken {
				return nil, fmt.Errorf("code %q stands for %q and %q", code, known, sentinel)
			}
			if other, taken := codes[sentinel]; taken {
				return nil, fmt.Errorf("%q has the codes %q and %q", sentinel, other, code)
			}
			merged[code], codes[sentinel] = sentinel, code
		}
	}
	return merged, nil
}

func goodCode(code string) bool {
	for _, r := range []byte(code) {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return false
		}
	}
	return code != "" && len(code) <= maxCode
}

// RemoteError is what a call to another peer failed with there. errors.Is finds the sentinels of the table in it.
type RemoteError struct {
	Peer cluster.PeerID
	// Codes are those that the other side sent, also those that are not in this side's table.
	Codes   []string
	Message string
	// Detail is what the error said for programs, nil when nothing.
	Detail []byte

	sentinels []error
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer %v: %s", e.Peer, e.Message) }

// Unwrap gives the sentinels.
func (e *RemoteError) Unwrap() []error { return e.sentinels }

// Detailed is an error with something to say to programs, beside its sentinels: at most MaxDetail bytes, in a form that
// belongs to the package above. The outermost one in a chain counts.
type Detailed interface {
	error
	Detail() []byte
}

// detailOf is what err has to say to programs. An error that comes from a third peer is passed on whole.
func detailOf(err error) []byte {
	var detailed Detailed
	if errors.As(err, &detailed) {
		return detailed.Detail()
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote.Detail
	}
	return nil
}
