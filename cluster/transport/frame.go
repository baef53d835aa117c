package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/holdfast/holdfast/cluster/wire"
)

// streamMagic begins a stream of messages; its last digit is the format.
const streamMagic = "HFMSGST1"

// MaxFrame bounds one message, in bytes: four times the largest Raft entry, so that several go together.
const MaxFrame = 16 << 20

// frameHead is the length and the checksum before a message.
const frameHead = 8

// keptBuffer is the longest buffer that is kept for the next message: one large message should not cost its length for
// the life of the stream.
const keptBuffer = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBadFrame says that what came is not a stream of messages, or was damaged on its way.
var ErrBadFrame = errors.New("not a stream of messages")

// frameHeader is what goes before a message. A message without bytes is a pulse: it says that the sender is alive.
func frameHeader(message []byte) [frameHead]byte {
	var head [frameHead]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(message)))
	sum := crc32.Checksum(head[:4], castagnoli)
	binary.LittleEndian.PutUint32(head[4:], crc32.Update(sum, castagnoli, message))
	return head
}

// frameReader reads messages.
type frameReader struct {
	r      io.Reader
	buffer []byte
}

// start reads what a stream begins with.
func (f *frameReader) start() error {
	var magic [len(streamMagic)]byte
	if _, err := io.ReadFull(f.r, magic[:]); err != nil {
		return err
	}
	if string(magic[:]) != streamMagic {
		return fmt.Errorf("it begins with %q: %w", magic[:], ErrBadFrame)
	}
	return nil
}

// next reads one message, which is good until the next call. io.EOF is the end of the stream between two messages.
func (f *frameReader) next() ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(head[:])
	if length > MaxFrame {
		return nil, fmt.Errorf("a message of %d bytes, at most %d: %w", length, MaxFrame, ErrBadFrame)
	}
	message, err := f.read(int(length))
	if err != nil {
		return nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, message)
	if sum != binary.LittleEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("a message of %d bytes: checksum mismatch: %w", length, ErrBadFrame)
	}
	return message, nil
}

// read reads length bytes into the buffer.
func (f *frameReader) read(length int) ([]byte, error) {
	if cap(f.buffer) > keptBuffer {
		f.buffer = nil
	}
	message, err := wire.Payload(f.r, f.buffer, length)
	if err != nil {
		return nil, err
	}
	f.buffer = message
	return message, nil
}
