// Package wire is what the protocols between peers are made of: frames, which prove that they came whole, and a clock
// that moving bytes put off. The bytes of a protocol stand in the FORMAT.md of the package that speaks it.
//
// A frame, in little-endian:
//
//	magic ─ number (1) ─ kind (1) ─ zeros ─ length of the payload (4) ─ CRC32C of all before it and of the payload (4) ─ payload
//
// Streams of Raft messages (package transport) and the pipes of mounts (package fusefs/remote) begin their frames in other
// ways, because what they are of is agreed upon once a connection. They share Payload, which reads any of them.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Errors of Format.Read, beside those of the reader.
var (
	// ErrMalformed says that what came is no frame of this protocol, or of a number that this program does not know.
	ErrMalformed = errors.New("malformed frame")
	// ErrDamaged says that a frame was changed on its way.
	ErrDamaged = errors.New("frame does not match its CRC32C")
)

// Overhead is how many bytes a head has beside its magic and its zeros.
const Overhead = 10

// piece is how much memory a length alone is worth, in bytes: most payloads are shorter.
const piece = 64 << 10

// castagnoli is CRC32C, which processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Format is how the frames of one protocol begin. It is constant for the life of the protocol.
type Format struct {
	Magic  string
	Number byte // of the protocol
	Zeros  int  // bytes between kind and length
}

// head is the length of a head in bytes.
func (f Format) head() int { return len(f.Magic) + f.Zeros + Overhead }

// Begin appends room for a head to b; the payload is appended behind it.
func (f Format) Begin(b []byte) []byte { return append(b, make([]byte, f.head())...) }

// End fills in the head of frame, which began with Begin and ends with its payload, and returns frame.
func (f Format) End(frame []byte, kind byte) []byte {
	size := f.head()
	head, payload := frame[:size], frame[size:]
	at := copy(head, f.Magic)
	head[at], head[at+1] = f.Number, kind
	clear(head[at+2 : size-8])
	binary.LittleEndian.PutUint32(head[size-8:], uint32(len(payload)))
	sum := crc32.Update(crc32.Checksum(head[:size-4], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(head[size-4:], sum)
	return frame
}

// Read reads a frame whose payload has up to limit bytes into buf, which it may replace: payload is the one to use next,
// also after an error. io.EOF says that there is no further frame, io.ErrUnexpectedEOF that it ends within one.
func (f Format) Read(r io.Reader, buf []byte, limit int) (kind byte, payload []byte, err error) {
	size := f.head()
	head := slices.Grow(buf[:0], size)[:size]
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, head[:0], err
	}
	at := len(f.Magic)
	length := int64(binary.LittleEndian.Uint32(head[size-8:]))
	switch {
	case string(head[:at]) != f.Magic:
		return 0, head[:0], fmt.Errorf("%w: it begins with %x", ErrMalformed, head[:at])
	case head[at] != f.Number:
		return 0, head[:0], fmt.Errorf("%w: format %d, this program knows %d", ErrMalformed, head[at], f.Number)
	case slices.ContainsFunc(head[at+2:size-8], func(b byte) bool { return b != 0 }):
		return 0, head[:0], fmt.Errorf("%w: %x where zeros should be", ErrMalformed, head[at+2:size-8])
	case length > int64(limit):
		return 0, head[:0], fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, length, limit)
	}
	kind = head[at+1]
	want := binary.LittleEndian.Uint32(head[size-4:])
	sum := crc32.Checksum(head[:size-4], castagnoli)
	payload, err = Payload(r, head, int(length)) // over the head, of which nothing more is needed
	if err != nil {
		return 0, payload, fmt.Errorf("frame of %d bytes: %w", length, err)
	}
	if crc32.Update(sum, castagnoli, payload) != want {
		return 0, payload, ErrDamaged
	}
	return kind, payload, nil
}

// Payload reads length bytes into buf, which it may replace. It takes memory as bytes arrive, not as the length promises.
func Payload(r io.Reader, buf []byte, length int) ([]byte, error) {
	b := buf[:0]
	for len(b) < length {
		at := len(b)
		step := min(length-at, max(piece, at, cap(b)-at))
		b = slices.Grow(b, step)[:at+step]
		n, err := io.ReadFull(r, b[at:])
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return b[:at+n], err
		}
	}
	return b, nil
}
