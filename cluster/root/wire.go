package root

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/wire"
)

// PathPrefix is where a Handler answers: the protocol's format number stands in it.
const PathPrefix = "/root/1/"

// The procedures, behind PathPrefix.
const (
	proposePath = "propose"
	rowPath     = "row"
	rowsPath    = "rows"
)

// The kinds of frames.
const (
	kindQuestion = 1
	kindRows     = 2 // some rows of an answer
	kindAnswer   = 3 // fault and number: the last frame
)

const (
	// frameHead is the head of a frame in bytes: its magic has 2.
	frameHead = 2 + wire.Overhead
	// rowsFrame is about how many bytes of rows go into one frame.
	rowsFrame = 64 << 10
	// maxQuestion is the largest question in bytes: a command.
	maxQuestion = raft.MaxCommand
	// maxAnswer is the largest frame of an answer in bytes: rowsFrame and the largest row, with room to spare.
	maxAnswer = 2 << 20
	// MaxBody is the longest body of a question, for the route of a Handler.
	MaxBody = frameHead + maxQuestion
	// maxText bounds the text of an error on the wire, in bytes.
	maxText = 4 << 10
)

var (
	frameFormat = wire.Format{Magic: "HR", Number: 1}
	// errElsewhere is an error of another peer that has no number on the wire: only its text came.
	errElsewhere = errors.New("error of another peer")
)

// sentinels are the errors that keep their meaning over the wire, by their numbers there. Numbers are never used again.
// The errors of contexts are not among them: that a context ended there must not look as if the caller's own had.
var sentinels = [...]struct {
	code byte
	err  error
}{
	{1, ErrNotFound},
	{2, ErrConflict},
	{3, ErrTooLarge},
	{4, raft.ErrNotLeader},
	{5, raft.ErrUnknownOutcome},
	{6, raft.ErrStopped},
	{7, raft.ErrLogLost},
	{8, raft.ErrTooLarge},
	{9, kv.ErrBroken},
}

// encode writes kind (byte), prefix and after with their lengths, and max.
func (q Query) encode(b []byte) []byte {
	b = append(b, byte(q.Kind))
	b = appendText(b, q.Prefix)
	b = appendText(b, q.After)
	return binary.AppendUvarint(b, uint64(max(q.Max, 0)))
}

func decodeQuery(b []byte) (Query, error) {
	r := reader{b: b}
	q := Query{Kind: Kind(r.byte()), Prefix: string(r.text()), After: string(r.text())}
	limit := r.number()
	q.Max = int(min(limit, math.MaxInt32)) // no answer holds as many
	return q, r.end("query", len(b))
}

// encode writes kind (byte), revision, name and value with their lengths.
func (r Row) encode(b []byte) []byte {
	b = append(b, byte(r.Kind))
	b = binary.AppendUvarint(b, r.Revision)
	b = appendText(b, r.Name)
	return appendText(b, r.Value)
}

// decodeRows reads the rows of a frame and appends them to rows.
func decodeRows(rows []Row, b []byte) ([]Row, error) {
	r := reader{b: b}
	for len(r.b) > 0 && !r.bad {
		rows = append(rows, Row{Kind: Kind(r.byte()), Revision: r.number(), Name: string(r.text()), Value: r.text()})
	}
	return rows, r.end("rows", len(b))
}

// answer is what the last frame says.
type answer struct {
	err   error
	first uint64
}

// encode writes whether there is an error (byte); if so the numbers of its sentinels and its text with their lengths,
// and the peer that leads, with a length of 16 or 0; then the first number.
func (a answer) encode(b []byte) []byte {
	if a.err == nil {
		return binary.AppendUvarint(append(b, 0), a.first)
	}
	b = append(b, 1)
	var codes []byte
	for _, s := range sentinels {
		if errors.Is(a.err, s.err) {
			codes = append(codes, s.code)
		}
	}
	b = appendText(b, codes)
	text := a.err.Error()
	b = appendText(b, text[:min(len(text), maxText)])
	leader := hintOf(a.err)
	if leader == (cluster.PeerID{}) {
		b = appendText(b, "")
	} else {
		b = appendText(b, leader[:])
	}
	return binary.AppendUvarint(b, a.first)
}

func decodeAnswer(b []byte) (answer, error) {
	r := reader{b: b}
	var a answer
	switch r.byte() {
	case 0:
	case 1:
		codes, text, leader := r.text(), r.text(), r.text()
		r.bad = r.bad || len(text) > maxText || len(leader) != 0 && len(leader) != len(cluster.PeerID{})
		if !r.bad {
			a.err = newRemoteError(codes, string(text), leader)
		}
	default:
		r.bad = true
	}
	a.first = r.number()
	return a, r.end("answer", len(b))
}

// remoteError is an error that came from another peer, with the text that it had there. It matches the sentinels that
// it matched there, and NotLeader where the peer does not lead.
type remoteError struct {
	text string
	is   []error
}

func newRemoteError(codes []byte, text string, leader []byte) error {
	e := &remoteError{text: text}
	for _, code := range codes {
		for _, s := range sentinels {
			switch {
			case s.code != code:
			case s.err == raft.ErrNotLeader && len(leader) != 0:
				e.is = append(e.is, NotLeader{Peer: cluster.PeerID(leader)})
			default:
				e.is = append(e.is, s.err)
			}
		}
	}
	if len(e.is) == 0 {
		e.is = []error{errElsewhere}
	}
	return e
}

// Error implements error.
func (e *remoteError) Error() string { return e.text }

// Unwrap gives what the error matches.
func (e *remoteError) Unwrap() []error { return e.is }

// hintOf is who leads by an error; zero when it does not say.
func hintOf(err error) cluster.PeerID {
	var n NotLeader
	if errors.As(err, &n) {
		return n.Peer
	}
	return cluster.PeerID{}
}
