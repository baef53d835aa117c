// Package root is the machine of the root group: the small facts that the whole cluster agrees on. Its rows are opaque
// to it, by kind and name: buckets, users and access keys, drives, placement groups, sessions, cluster information.
// Its counters give out numbers that are never given out again: bucket ids, sessions, blocks of chunk ids.
//
// A row is changed by compare-and-swap on its revision. Every change carries a nonce, which the row keeps, so that a
// change whose outcome was unknown is recognised when it is tried again.
package root

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/kv"
)

// Kind says what a row is.
type Kind byte

// The kinds of rows. Numbers are promises on disk.
const (
	Buckets  Kind = 'b' // by name
	Cluster  Kind = 'c' // id, creation, integrity key
	Drives   Kind = 'd' // the topology's drives, by id
	Groups   Kind = 'g' // placement groups, by number
	Keys     Kind = 'k' // access keys
	Peers    Kind = 'p' // the topology's peers, by id
	Sessions Kind = 's' // by number
	Tokens   Kind = 'j' // join tokens, by their ids
	Users    Kind = 'u' // by name
)

// Counter names an allocator.
type Counter byte

// The counters. Numbers are promises on disk.
const (
	BucketIDs  Counter = 'b'
	SessionIDs Counter = 's'
	Blocks     Counter = 'k' // blocks of chunk ids: see Client.LeaseBlock
	Any        Counter = 'a' // volume ids and whatever else needs a number
)

// Limits of a command, so that no entry grows past what one log append takes well.
const (
	MaxName  = 1 << 10
	MaxValue = 1 << 20
	maxBatch = 4 << 20
)

// prefix begins every key of the root group in the state database; the second byte is rowSpace or counterSpace.
const (
	prefix       = 'R'
	rowSpace     = 'r'
	counterSpace = 'n'
)

// format is the number of the command format.
const format = 1

// Machine is the root group's raft.Machine. It holds no state of its own.
type Machine struct{}

// New returns the machine.
func New() *Machine { return &Machine{} }

// Spans are the keys of the root group.
func (*Machine) Spans() []kv.Span {
	return []kv.Span{{Start: []byte{prefix}, End: []byte{prefix + 1}}}
}

// Restored has nothing to drop: every read goes to the state.
func (*Machine) Restored() {}

// outcome is what Apply returns.
type outcome struct {
	err    error
	first  uint64 // of the numbers that a counter gave out
	values []Row  // the rows as they are now, in the order of the changes
}

// Apply applies a command made by Client. A command that does not decode panics: the log holds what this package wrote.
func (*Machine) Apply(_, _ uint64, command []byte, r kv.Reader, b kv.Batch) any {
	c, err := decode(command)
	if err != nil {
		panic(fmt.Sprintf("root: %v", err))
	}
	if c.counter != 0 {
		return applyCounter(c, r, b)
	}
	return applyChanges(c, r, b)
}

func applyCounter(c command, r kv.Reader, b kv.Batch) outcome {
	key := []byte{prefix, counterSpace, byte(c.counter)}
	var last uint64
	switch v, err := r.Get(key); {
	case err == nil && len(v) == 8:
		last = binary.BigEndian.Uint64(v)
	case err == nil:
		panic(fmt.Sprintf("root: counter %c has %d bytes", c.counter, len(v)))
	case !errors.Is(err, kv.ErrNotFound):
		panic(fmt.Sprintf("root: read counter %c: %v", c.counter, err))
	}
	first := last + 1
	if c.floor > first {
		first = c.floor
	}
	b.Put(key, binary.BigEndian.AppendUint64(nil, first+c.count-1))
	return outcome{first: first}
}

// applyChanges makes all changes or none.
func applyChanges(c command, r kv.Reader, b kv.Batch) outcome {
	out := outcome{values: make([]Row, len(c.changes))}
	for i, ch := range c.changes {
		now, found, err := readRow(r, ch.row.Kind, ch.row.Name)
		if err != nil {
			panic(fmt.Sprintf("root: read row %c %q: %v", ch.row.Kind, ch.row.Name, err))
		}
		if found && bytes.Equal(now.nonce, c.nonce) {
			// Only a change of this very command can have left its nonce: it is a retry, and nothing is done again.
			out.values[i] = now
			continue
		}
		if ch.remove && !found {
			continue
		}
		if !ch.force && now.Revision != ch.row.Revision {
			return outcome{err: ErrConflict}
		}
		out.values[i] = Row{Kind: ch.row.Kind, Name: ch.row.Name, Value: ch.row.Value, Revision: now.Revision + 1}
	}
	for i, ch := range c.changes {
		key := rowKey(ch.row.Kind, ch.row.Name)
		if ch.remove {
			b.Delete(key)
			continue
		}
		b.Put(key, encodeRow(out.values[i], c.nonce))
	}
	return out
}

// Row is one row. Revision counts its writes; 0 in a change means that it must not exist.
type Row struct {
	Kind     Kind
	Name     string
	Value    []byte
	Revision uint64

	nonce []byte
}

func rowKey(kind Kind, name string) []byte {
	return append([]byte{prefix, rowSpace, byte(kind)}, name...)
}

func readRow(r kv.Reader, kind Kind, name string) (Row, bool, error) {
	v, err := r.Get(rowKey(kind, name))
	if errors.Is(err, kv.ErrNotFound) {
		return Row{Kind: kind, Name: name}, false, nil
	}
	if err != nil {
		return Row{}, false, err
	}
	row, err := decodeRow(kind, name, v)
	return row, err == nil, err
}

// encodeRow writes revision, nonce and value.
func encodeRow(row Row, nonce []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+nonceSize+len(row.Value)), row.Revision)
	b = append(b, nonce...)
	return append(b, row.Value...)
}

func decodeRow(kind Kind, name string, v []byte) (Row, error) {
	if len(v) < 8+nonceSize {
		return Row{}, fmt.Errorf("root row %c %q has %d bytes: %w", kind, name, len(v), errFormat)
	}
	return Row{
		Kind: kind, Name: name, Revision: binary.BigEndian.Uint64(v),
		nonce: bytes.Clone(v[8 : 8+nonceSize]), Value: bytes.Clone(v[8+nonceSize:]),
	}, nil
}
