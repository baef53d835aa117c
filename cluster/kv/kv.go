// Package kv holds goleveldb behind a seam of our own: the state of every tablet of a peer, a cache of the Raft log
// that can always be rebuilt from checkpoint and log. Reads see every applied batch; writes are not synced.
//
// goleveldb loses data silently in ways that were measured (a flipped bit in a journal, a failed fsync), so this
// package verifies journals before it opens them, refuses a damaged middle, cuts a torn tail to its valid prefix,
// checks every block that it reads, and turns any error into a fail-stop of the DB (ErrBroken).
package kv

import "errors"

// Errors of this package.
var (
	// ErrNotFound says that a key has no value.
	ErrNotFound = errors.New("key not found")
	// ErrBroken says that the DB can no longer be trusted: throw it away and rebuild it from checkpoint and log.
	ErrBroken = errors.New("state database is broken")
)

// Span is the keys k with Start <= k < End. A nil End has no upper bound.
type Span struct {
	Start, End []byte
}

// Reader reads keys in byte order. A Get's value and an Iterator's Key and Value must not be changed; those of an
// Iterator are valid until its next move.
type Reader interface {
	// Get returns ErrNotFound when the key has no value.
	Get(key []byte) ([]byte, error)
	// Iterate walks a span in ascending order. Close must be called.
	Iterate(span Span) Iterator
}

// Iterator stands before its first key until Next or Seek. After the loop, Err tells why it ended.
type Iterator interface {
	Next() bool
	// Seek moves to the first key at or after key (inside the span) and tells whether there is one.
	Seek(key []byte) bool
	// Last moves to the last key of the span.
	Last() bool
	// Prev moves back.
	Prev() bool
	Key() []byte
	Value() []byte
	Err() error
	Close()
}

// Batch gathers writes that are applied as one. Later ones win. Keys and values must not be changed afterwards.
type Batch interface {
	Put(key, value []byte)
	Delete(key []byte)
}
