package remote

import "github.com/holdfast/holdfast/cluster/wire"

// Frames carry everything. The kind of a frame:
const (
	kindQuestion = 1
	kindAlive    = 2 // the call is under way; no payload
	kindItems    = 3 // items of a stream, one after the other
	kindAnswer   = 4 // fault and value: the last frame
	kindWrite    = 5 // a question behind an Op, which metadata.WithOp gave
)

// frameFormat is how a frame begins; its head has frameHead bytes.
var frameFormat = wire.Format{Magic: "HN", Number: 1}

const frameHead = 2 + wire.Overhead

// beginFrame leaves room for a head at the beginning of b.
func beginFrame(b []byte) []byte { return frameFormat.Begin(b[:0]) }
