package root

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// nonceSize is the length of the random mark that a change leaves on its rows.
const nonceSize = 16

var errFormat = errors.New("malformed")

// command is either an allocation of count numbers (counter is set) or a list of changes that happen together.
type command struct {
	nonce   []byte
	counter Counter
	count   uint64
	floor   uint64 // the first number given out is at least this
	changes []change
}

type change struct {
	row    Row
	remove bool
	force  bool // whatever the revision is
}

// Flags of a change on the wire.
const (
	flagRemove = 1 << iota
	flagForce
)

// encode writes: format, counter (bytes), nonce, then count and floor, or the changes: kind, flags (bytes), revision,
// name and value with their lengths. Numbers are varints.
func (c command) encode() []byte {
	b := append(make([]byte, 0, 64), format, byte(c.counter))
	b = append(b, c.nonce...)
	if c.counter != 0 {
		b = binary.AppendUvarint(b, c.count)
		return binary.AppendUvarint(b, c.floor)
	}
	b = binary.AppendUvarint(b, uint64(len(c.changes)))
	for _, ch := range c.changes {
		var flags byte
		if ch.remove {
			flags |= flagRemove
		}
		if ch.force {
			flags |= flagForce
		}
		b = append(b, byte(ch.row.Kind), flags)
		b = binary.AppendUvarint(b, ch.row.Revision)
		b = binary.AppendUvarint(b, uint64(len(ch.row.Name)))
		b = append(b, ch.row.Name...)
		b = binary.AppendUvarint(b, uint64(len(ch.row.Value)))
		b = append(b, ch.row.Value...)
	}
	return b
}

// reader takes a command apart; after the first fault everything it gives is empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if r.bad || size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func decode(b []byte) (command, error) {
	r := reader{b: b}
	if f := r.byte(); f != format {
		return command{}, fmt.Errorf("command of format %d: %w", f, errFormat)
	}
	c := command{counter: Counter(r.byte()), nonce: r.bytes(nonceSize)}
	if c.counter != 0 {
		c.count, c.floor = r.number(), r.number()
	} else {
		n := r.number()
		if n > uint64(len(r.b)) { // a change has at least one byte
			r.bad = true
		}
		for i := uint64(0); i < n && !r.bad; i++ {
			ch := change{row: Row{Kind: Kind(r.byte())}}
			flags := r.byte()
			ch.remove, ch.force = flags&flagRemove != 0, flags&flagForce != 0
			ch.row.Revision = r.number()
			ch.row.Name = string(r.bytes(r.number()))
			ch.row.Value = r.bytes(r.number())
			c.changes = append(c.changes, ch)
		}
	}
	if r.bad || len(r.b) != 0 {
		return command{}, fmt.Errorf("command of %d bytes: %w", len(b), errFormat)
	}
	return c, nil
}
