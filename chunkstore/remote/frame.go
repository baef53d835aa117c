package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Protocol is the number of the protocol that FORMAT.md draws. It stands in every frame and in Prefix.
const Protocol = 1

// Prefix is where the calls stand below the base of a peer; Handler serves what lies under it.
const Prefix = "/chunkstore.drive.v1/"

// contentType is the type of requests and answers.
const contentType = "application/x-holdfast-drive"

const (
	frameHead = 16
	// maxFrame is the most bytes of a frame's body: a page of a list, or a piece of a delete, and some.
	maxFrame = 64 << 10
	magic    = 0x52445648 // "HVDR"
)

// kind says what a frame is. Those of requests name the call.
type kind uint8

const (
	kindPut kind = iota + 1
	kindHeader
	kindRead
	kindDelete
	kindSeal
	kindShards
	kindVolumes
	kindCheck
	kindStatus

	kindAnswer kind = iota + 55 // 64: how a call ended
	kindPiece                   // payload bytes follow the frame
	kindRows                    // rows of a list
	kindAlive                   // the peer is receiving
)

var kindNames = [...]string{kindPut: "put", kindHeader: "header", kindRead: "read", kindDelete: "delete", kindSeal: "seal",
	kindShards: "shards", kindVolumes: "volumes", kindCheck: "check", kindStatus: "status"}

func (k kind) String() string {
	switch {
	case k >= kindPut && k <= kindStatus:
		return kindNames[k]
	case k >= kindAnswer && k <= kindAlive:
		return [...]string{"answer", "piece", "rows", "alive"}[k-kindAnswer]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ErrProtocol says that the peer sent something that is not of this protocol, or not of a version that this program
// knows. A Drive wraps it in ErrDriveDown.
var ErrProtocol = errors.New("not the drive protocol of this program")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// beginFrame reserves the head of a frame in b; the body is appended behind it.
func beginFrame(b []byte) []byte { return append(b, make([]byte, frameHead)...) }

// endFrame fills in the head of the frame that began at from and ends with b.
func endFrame(b []byte, from int, k kind) []byte {
	head, body := b[from:from+frameHead], b[from+frameHead:]
	if len(body) > maxFrame {
		panic(fmt.Sprintf("frame of %d bytes", len(body)))
	}
	binary.LittleEndian.PutUint32(head[0:], magic)
	head[4], head[5] = Protocol, byte(k)
	binary.LittleEndian.PutUint32(head[8:], uint32(len(body)))
	binary.LittleEndian.PutUint32(head[12:], frameSum(head, body))
	return b
}

func frameSum(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:12], castagnoli), castagnoli, body)
}

// frames reads frames one after another. The zero frames is not usable; set r.
type frames struct {
	r    io.Reader
	head [frameHead]byte
	body []byte
}

// next reads a frame. The body is good until the next call. Errors: io.ErrUnexpectedEOF when the stream ends here or in
// the frame, ErrProtocol, those of the reader.
func (f *frames) next() (kind, []byte, error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return 0, nil, cutOff(err)
	}
	head := f.head[:]
	if binary.LittleEndian.Uint32(head) != magic {
		return 0, nil, fmt.Errorf("no frame where one should be: %w", ErrProtocol)
	}
	if head[4] != Protocol {
		return 0, nil, fmt.Errorf("protocol %d, this program knows %d: %w", head[4], Protocol, ErrProtocol)
	}
	n := binary.LittleEndian.Uint32(head[8:])
	if n > maxFrame || head[6] != 0 || head[7] != 0 {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, ErrProtocol)
	}
	if uint32(cap(f.body)) < n {
		f.body = make([]byte, n)
	}
	f.body = f.body[:n]
	if _, err := io.ReadFull(f.r, f.body); err != nil {
		return 0, nil, cutOff(err)
	}
	if frameSum(head, f.body) != binary.LittleEndian.Uint32(head[12:]) {
		return 0, nil, fmt.Errorf("checksum of a frame differs: %w", ErrProtocol)
	}
	return kind(head[5]), f.body, nil
}

// cutOff makes the end of a stream where more was to come an error of its own.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
