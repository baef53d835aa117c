package remote

import (
	"errors"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/cluster/wire"
)

// Protocol is the number of the protocol that FORMAT.md draws. It stands in every frame and in Prefix.
const Protocol = 1

// Prefix is where the calls stand below the base of a peer; Handler serves what lies under it.
const Prefix = "/chunkstore.drive.v1/"

// contentType is the type of requests and answers.
const contentType = "application/x-holdfast-drive"

const (
	// frameHead is the head of a frame in bytes: its magic has 4, and there are 2 zeros.
	frameHead = 4 + 2 + wire.Overhead
	// maxFrame is the most bytes of a frame's body: a page of a list, or a piece of a delete, and some.
	maxFrame = 64 << 10
)

var frameFormat = wire.Format{Magic: "HVDR", Number: Protocol, Zeros: 2}

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

// beginFrame reserves the head of a frame behind b; the body is appended behind it.
func beginFrame(b []byte) []byte { return frameFormat.Begin(b) }

// endFrame fills in the head of the frame that began at from and ends with b.
func endFrame(b []byte, from int, k kind) []byte {
	if n := len(b) - from - frameHead; n > maxFrame {
		panic(fmt.Sprintf("frame of %d bytes", n))
	}
	frameFormat.End(b[from:], byte(k))
	return b
}

// frames reads frames one after another. The zero frames is not usable; set r.
type frames struct {
	r    io.Reader
	body []byte
}

// next reads a frame. The body is good until the next call. Errors: io.ErrUnexpectedEOF when the stream ends here or in
// the frame, ErrProtocol, those of the reader.
func (f *frames) next() (kind, []byte, error) {
	k, body, err := frameFormat.Read(f.r, f.body, maxFrame)
	f.body = body
	if errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrDamaged) {
		return 0, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if err != nil {
		return 0, nil, cutOff(err)
	}
	return kind(k), body, nil
}

// cutOff makes the end of a stream where more was to come an error of its own.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
