package remote

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/wire"
)

// A pipe is a connection that was an HTTP request and became a line of messages: one question, then its answer. The
// signature is checked once, when the pipe is opened; a message costs a tenth of an HTTP request. Its frames are not those
// of package wire: what they are of was agreed upon with the pipe, and a name stands in them for a kind. All numbers are
// little-endian.
//
//	frame     length of what follows the sum (4) ─ CRC32C of that (4) ─ kind (1) ─ rest
//	question  kind = length of the procedure's name ─ name ─ message
//	answer    kind 0 ─ message, or kind = length of the error's name ─ name ─ text
const (
	pipeProtocol = "holdfast-mount"
	pathPipe     = PathPrefix + "pipe"

	frameHead = 8
	// maxPiped is the largest question that goes through a pipe: a larger one is dominated by its bytes anyway.
	maxPiped = 256 << 10
	// keptFrame is the largest buffer that a waiting pipe keeps.
	keptFrame = 64 << 10
)

var errFrame = errors.New("malformed frame")

// appendFrame writes a frame to the end of buf.
func appendFrame(buf []byte, name string, rest []byte, m proto.Message) ([]byte, error) {
	at := len(buf)
	buf = append(buf, make([]byte, frameHead)...)
	buf = append(buf, byte(len(name)))
	buf = append(buf, name...)
	buf = append(buf, rest...)
	if m != nil {
		var err error
		if buf, err = (proto.MarshalOptions{}).MarshalAppend(buf, m); err != nil {
			return nil, err
		}
	}
	body := buf[at+frameHead:]
	binary.LittleEndian.PutUint32(buf[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(buf[at+4:], crc32.Checksum(body, castagnoli))
	return buf, nil
}

// readFrame reads a frame of up to limit bytes into buf, which it may replace. Name and rest point into it.
func readFrame(r *bufio.Reader, buf []byte, limit int) (grown []byte, name string, rest []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return buf, "", nil, err
	}
	size := int(binary.LittleEndian.Uint32(head[:]))
	if size < 1 || size > limit {
		return buf, "", nil, fmt.Errorf("%w: %d bytes", errFrame, size)
	}
	buf, err = wire.Payload(r, buf, size)
	if err != nil {
		return buf, "", nil, fmt.Errorf("frame of %d bytes: %w", size, io.ErrUnexpectedEOF)
	}
	if crc32.Checksum(buf, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return buf, "", nil, fmt.Errorf("%w: wrong CRC32C", errFrame)
	}
	n := int(buf[0])
	if 1+n > size {
		return buf, "", nil, fmt.Errorf("%w: name of %d bytes", errFrame, n)
	}
	return buf, string(buf[1 : 1+n]), buf[1+n:], nil
}

// trim gives a large buffer back.
func trim(buf []byte) []byte {
	if cap(buf) > keptFrame {
		return nil
	}
	return buf[:0]
}
