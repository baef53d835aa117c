package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Frames carry everything. The kind of a frame:
const (
	kindQuestion = 1
	kindAlive    = 2 // the call is under way; no payload
	kindItems    = 3 // items of a stream, one after the other
	kindAnswer   = 4 // fault and value: the last frame
	kindWrite    = 5 // a question behind an Op, which metadata.WithOp gave
)

const (
	frameMagic  = "HN"
	frameFormat = 1
	// frameHead is the head in bytes: magic (2), format (1), kind (1), length (4), CRC32C (4).
	frameHead = 12
)

var (
	errFrame   = errors.New("malformed frame")
	errDamaged = errors.New("frame does not match its CRC32C")
)

// castagnoli is CRC32C, which processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// beginFrame leaves room for a head.
func beginFrame(b []byte) []byte { return append(b[:0], make([]byte, frameHead)...) }

// endFrame fills the head in: what stands behind it is the payload.
func endFrame(b []byte, kind byte) {
	copy(b, frameMagic)
	b[2], b[3] = frameFormat, kind
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHead))
	binary.LittleEndian.PutUint32(b[8:], frameSum(b[:8], b[frameHead:]))
}

// frameSum covers the head before it and the payload.
func frameSum(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, payload)
}

// readFrame reads a frame whose payload has up to limit bytes into buf, which it may replace. It takes memory as bytes
// arrive, not as the head promises. io.EOF means that there is no further frame.
func readFrame(r io.Reader, buf []byte, limit int) (kind byte, payload []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, err
	}
	size := int64(binary.LittleEndian.Uint32(head[4:]))
	switch {
	case string(head[:2]) != frameMagic:
		return 0, buf, fmt.Errorf("%w: magic %x", errFrame, head[:2])
	case head[2] != frameFormat:
		return 0, buf, fmt.Errorf("%w: format %d, this program knows %d", errFrame, head[2], frameFormat)
	case size > int64(limit):
		return 0, buf, fmt.Errorf("%w: %d bytes, at most %d", errFrame, size, limit)
	}
	payload = buf[:0]
	for int64(len(payload)) < size {
		step := min(size-int64(len(payload)), max(int64(len(payload)), keptBuffer))
		at := len(payload)
		payload = append(payload, make([]byte, step)...)
		if _, err := io.ReadFull(r, payload[at:]); err != nil {
			return 0, payload, fmt.Errorf("frame of %d bytes: %w", size, io.ErrUnexpectedEOF)
		}
	}
	if frameSum(head[:8], payload) != binary.LittleEndian.Uint32(head[8:]) {
		return 0, payload, errDamaged
	}
	return head[3], payload, nil
}
