package root

import (
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
	Tokens   Kind = 'j' // tokens to join by, not used yet
	Keys     Kind = 'k' // access keys
	Peers    Kind = 'p' // the topology's peers
	Sessions Kind = 's' // by number
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

// prefix begins every key of the root group in the state database; the second byte is one of the spaces.
const (
	prefix       = 'R'
	rowSpace     = 'r'
	counterSpace = 'n'
	nonceSpace   = 't' // nonces of commands, with what became of them
	orderSpace   = 'o' // the same nonces by their age
)

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
	err   error
	first uint64 // of the numbers that a counter gave out
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
	return outcome{err: applyChanges(c, r, b)}
}

func applyCounter(c command, r kv.Reader, b kv.Batch) outcome {
	key := []byte{prefix, counterSpace, byte(c.counter)}
	first := numberAt(r, key) + 1
	if c.floor > first {
		first = c.floor
	}
	b.Put(key, binary.BigEndian.AppendUint64(nil, first+c.count-1))
	return outcome{first: first}
}

// numberAt reads a number of 8 bytes, 0 when there is none.
func numberAt(r kv.Reader, key []byte) uint64 {
	v, err := r.Get(key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return 0
	case err != nil:
		panic(fmt.Sprintf("root: read number %q: %v", key, err))
	case len(v) != 8:
		panic(fmt.Sprintf("root: number %q has %d bytes", key, len(v)))
	}
	return binary.BigEndian.Uint64(v)
}

// applyChanges makes all changes or none, once.
func applyChanges(c command, r kv.Reader, b kv.Batch) error {
	if became, known := recall(r, c.nonce); known {
		return became
	}
	err := compare(c, r)
	remember(r, b, c.nonce, err)
	if err != nil {
		return err
	}
	for _, ch := range c.changes {
		key := rowKey(ch.row.Kind, ch.row.Name)
		if ch.remove {
			b.Delete(key)
			continue
		}
		row := ch.row
		row.Revision++
		b.Put(key, encodeRow(row, c.nonce))
	}
	return nil
}

// compare tells whether all rows are as the changes expect them.
func compare(c command, r kv.Reader) error {
	for _, ch := range c.changes {
		now, found, err := readRow(r, ch.row.Kind, ch.row.Name)
		if err != nil {
			panic(fmt.Sprintf("root: read row %c %q: %v", ch.row.Kind, ch.row.Name, err))
		}
		switch {
		case ch.remove && ch.force, ch.remove && !found && !ch.present:
		case now.Revision != ch.row.Revision:
			return ErrConflict
		}
	}
	return nil
}

// Row is one row. Revision counts its writes; 0 in a change means that it must not exist.
type Row struct {
	Kind     Kind
	Name     string
	Value    []byte
	Revision uint64
}

func rowKey(kind Kind, name string) []byte {
	return append([]byte{prefix, rowSpace, byte(kind)}, name...)
}
