package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
)

// ErrForeign says that the peer belongs to another cluster, or serves no drive of that id. A Drive wraps it in
// ErrDriveDown: it is no word about any shard.
var ErrForeign = errors.New("peer does not serve this drive")

// ErrNotEntitled says that the caller may not change that volume: it did not open it, and does not lead the names. A
// Drive wraps it in ErrDriveDown too.
var ErrNotEntitled = errors.New("the caller may not change this volume")

// faultBits are the sentinels that travel, by bit. An error that is several of them stays several. Bits are never
// given another meaning.
var faultBits = [...]error{
	chunkstore.ErrNotFound,
	chunkstore.ErrDamaged,
	chunkstore.ErrStaleVolume,
	chunkstore.ErrFull,
	chunkstore.ErrDriveDown,
	chunkstore.ErrDeleted,
	ErrForeign,
	ErrProtocol,
	context.Canceled,
	context.DeadlineExceeded,
	ErrNotEntitled,
}

// faultOther is an error that is none of the sentinels.
const faultOther = 1 << 15

// faultOf returns the bits of an error, zero for nil.
func faultOf(err error) uint16 {
	if err == nil {
		return 0
	}
	var bits uint16
	for i, sentinel := range faultBits {
		if errors.Is(err, sentinel) {
			bits |= 1 << i
		}
	}
	if bits == 0 {
		return faultOther
	}
	return bits
}

// peerError is an error that a peer told: its text, and what it is.
type peerError struct {
	text string
	is   []error
}

func (e *peerError) Error() string   { return e.text }
func (e *peerError) Unwrap() []error { return e.is }

// aboutPeer are the bits of ErrForeign, ErrProtocol and ErrNotEntitled: with them nothing else that a peer tells is about
// a shard.
var aboutPeer = faultOf(ErrForeign) | faultOf(ErrProtocol) | faultOf(ErrNotEntitled)

// fault makes an error of what a peer told. The contract allows only its own sentinels and the end of the caller's
// context: whatever else a peer tells, the end of its own context for one, means that the drive is down.
func fault(bits uint16, text string) error {
	if bits == 0 {
		return nil
	}
	if text == "" {
		text = "peer tells no reason"
	}
	if bits&aboutPeer != 0 {
		bits &= aboutPeer
	}
	e := &peerError{text: text}
	for i, sentinel := range faultBits {
		if bits>>i&1 != 0 && !isContext(sentinel) {
			e.is = append(e.is, sentinel)
		}
	}
	if len(e.is) == 0 || bits&aboutPeer != 0 {
		return fmt.Errorf("%w: %w", chunkstore.ErrDriveDown, e)
	}
	return e
}

// down makes ErrDriveDown of what befell a call. The end of a context that is not the caller's is told but not passed
// on, for callers take it for their own.
func down(cause error) error {
	switch {
	case errors.Is(cause, chunkstore.ErrDriveDown) && !isContext(cause):
		return cause
	case isContext(cause):
		return fmt.Errorf("%w: %v", chunkstore.ErrDriveDown, cause)
	}
	return fmt.Errorf("%w: %w", chunkstore.ErrDriveDown, cause)
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
