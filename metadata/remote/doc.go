// Package remote carries metadata.Names between peers: Handler answers on the peer that leads, Client asks it.
//
//	Client ─ POST PathPrefix + procedure ─ one question frame ─▶ Handler ─ Names
//	       ◀─ alive frames while the call runs, item frames, one answer frame ─
//
// The encoding is this package's own (FORMAT.md): compact, canonical, with every length checked before memory is taken
// for it. The names of the fields, in the order of their numbers, stand in schema.go; a struct of package metadata that
// changed without it does not get past the tests.
//
// What is promised: an error matches the same sentinels as it did on the leader. A question whose connection was never
// made was not asked (ErrNotSent). A write whose answer was lost is of unknown outcome (raft.ErrUnknownOutcome) and may
// be repeated with the same Op. A peer that hangs is given up: while a call runs the handler gives a sign every two
// seconds, and a client that sees none for Options.Stall does not wait on.
//
// Whoever reaches the handler may read and write every name: it belongs behind the mutual TLS of the peers.
package remote

import "time"

const (
	// PathPrefix is where the handler answers: the protocol's format number stands in it.
	PathPrefix = "/names/1/"

	// maxQuestion is the largest question in bytes: a command of 4 MiB in the words of this protocol, and half of it to
	// spare.
	maxQuestion = 8 << 20
	// maxAnswer is the largest frame of an answer in bytes: 10,000 names with 6 KiB of headers each.
	maxAnswer = 64 << 20
	// memoryFactor is how many times its own length a message may take in memory once it is decoded.
	memoryFactor = 16
	// batch is about how many bytes of items go into one frame.
	batch = 64 << 10
	// questionMemory bounds the questions that are in memory at once, in bytes.
	questionMemory = 256 << 20
	// keptBuffer is the largest buffer that is used again.
	keptBuffer = 64 << 10

	// aliveEvery is how often the handler says that a call is still under way.
	aliveEvery = 2 * time.Second
	// DefaultStall is how long a client waits for a sign of the other side: five signs missed.
	DefaultStall = 10 * time.Second
	// readStall is how long the handler waits for the next bytes of a question, writeStall for an answer to move on: a
	// Survey is read as fast as its caller looks at the items.
	readStall  = 10 * time.Second
	writeStall = 2 * time.Minute
)
