package root

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of a command, so that no entry grows past what one log append takes well.
const (
	MaxName  = 1 << 10
	MaxValue = 1 << 20
	maxBatch = 4 << 20
	// changeCost is more than a change takes beside its name and value.
	changeCost = 32
	// maxCount bounds the numbers that one command asks for, and maxFloor leaves far more of them than will be used.
	maxCount = 1 << 16
	maxFloor = 1 << 56
)

// format is the number of the command format.
const format = 1

// nonceSize is the length of the random mark by which a command is known again.
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
	row     Row
	remove  bool
	force   bool // a removal whatever the revision is
	present bool // a removal that fails when there is no row
}

// Flags of a change on the wire.
const (
	flagRemove = 1 << iota
	flagForce
	flagPresent
)

// check holds a command to its limits, and to sense.
func (c command) check() error {
	if c.counter != 0 {
		if c.count == 0 || c.count > maxCount || c.floor > maxFloor {
			return fmt.Errorf("%d numbers from %d: %w", c.count, c.floor, ErrTooLarge)
		}
		return nil
	}
	size := 0
	for _, ch := range c.changes {
		if len(ch.row.Name) > MaxName || len(ch.row.Value) > MaxValue {
			return fmt.Errorf("root row %c %q: %w", ch.row.Kind, ch.row.Name[:min(len(ch.row.Name), MaxName)], ErrTooLarge)
		}
		size += len(ch.row.Name) + len(ch.row.Value) + changeCost
	}
	if size > maxBatch {
		return fmt.Errorf("%d root rows: %w", len(c.changes), ErrTooLarge)
	}
	return c.namedOnce()
}

// namedOnce refuses a command that changes a row twice.
func (c command) namedOnce() error {
	type id struct {
		kind Kind
		name string
	}
	seen := make(map[id]bool, len(c.changes))
	for _, ch := range c.changes {
		row := id{ch.row.Kind, ch.row.Name}
		if seen[row] {
			return fmt.Errorf("root row %c %q is changed twice in one command", row.kind, row.name)
		}
		seen[row] = true
	}
	return nil
}

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
		if ch.present {
			flags |= flagPresent
		}
		b = append(b, byte(ch.row.Kind), flags)
		b = binary.AppendUvarint(b, ch.row.Revision)
		b = appendText(b, ch.row.Name)
		b = appendText(b, ch.row.Value)
	}
	return b
}

// appendText writes bytes with their length.
func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// reader takes bytes apart; after the first fault everything it gives is empty.
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

// text reads bytes with their length.
func (r *reader) text() []byte { return r.bytes(r.number()) }

// end is the error of what was read, nil when it was whole and nothing is left.
func (r *reader) end(what string, size int) error {
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%s of %d bytes: %w", what, size, errFormat)
	}
	return nil
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
			ch.remove, ch.force, ch.present = flags&flagRemove != 0, flags&flagForce != 0, flags&flagPresent != 0
			ch.row.Revision = r.number()
			ch.row.Name = string(r.text())
			ch.row.Value = r.text()
			c.changes = append(c.changes, ch)
		}
	}
	if err := r.end("command", len(b)); err != nil {
		return command{}, err
	}
	return c, nil
}
