package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// errMalformed says that bytes are no message of this protocol.
var errMalformed = errors.New("malformed message")

// decoder reads values off a message. After its first error it reads nothing more.
type decoder struct {
	b []byte
	// memory is how many bytes may still be taken for what is decoded.
	memory int
	err    error
}

func newDecoder(b []byte) *decoder { return &decoder{b: b, memory: memoryFactor*len(b) + 4096} }

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err, d.b = fmt.Errorf("%w: %s", errMalformed, why), nil
	}
}

// end fails when there are bytes behind the message.
func (d *decoder) end() error {
	if len(d.b) > 0 {
		d.fail("bytes behind its end")
	}
	return d.err
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("too short")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// uvarint reads a number in its shortest form.
func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 || size > 1 && size != (bits.Len64(n)+6)/7 {
		d.fail("number is too long or cut short")
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// charge takes memory, or fails when a message asks for more than its length justifies.
func (d *decoder) charge(size int) bool {
	if d.err == nil && size > d.memory {
		d.fail("takes too much memory")
	}
	d.memory -= size
	return d.err == nil
}

// text reads a length and as many bytes. They belong to the message.
func (d *decoder) text() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("length is above what is there")
		return nil
	}
	if !d.charge(int(n)) {
		return nil
	}
	text := d.b[:n]
	d.b = d.b[n:]
	return text
}

// count reads how many elements of a size in memory follow: each takes a byte at least.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("count is above what is there")
		return 0
	}
	if !d.charge(int(n) * size) {
		return 0
	}
	return int(n)
}
