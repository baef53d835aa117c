package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/wire"
)

// stall is how long a question to another peer goes on while no byte moves: longer than any write of a drive that
// answers at all, and two elections.
const stall = 5 * time.Second

var (
	errStalled = errors.New("the other peer hangs")
	// errStatus says that the handler refused a question before it asked anything.
	errStatus = errors.New("the peer would not take the question")
)

// Doer makes calls to one peer: a *transport.Peer, or an *http.Client.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Remote is the seat at the Handler of another peer. base is where it is, for example "https://10.0.0.2:7000"; to a
// *transport.Peer any will do. The seat repeats nothing, and gives a question up when no byte moves for 5 s.
func Remote(peer Doer, base string) Seat {
	return &remote{peer: peer, base: strings.TrimSuffix(base, "/") + PathPrefix}
}

type remote struct {
	peer Doer
	base string
}

// Propose implements Seat.
func (s *remote) Propose(ctx context.Context, command []byte) (uint64, error) {
	_, first, err := s.ask(ctx, proposePath, append(frameFormat.Begin(nil), command...))
	if err == nil || errors.As(err, new(*remoteError)) || notSent(err) {
		return first, err
	}
	return 0, fmt.Errorf("%w: %w", raft.ErrUnknownOutcome, err)
}

// notSent says that the other peer did not get a whole question.
func notSent(err error) bool {
	return errors.Is(err, errStatus) || errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrUnknownPeer) ||
		errors.Is(err, transport.ErrStopping)
}

// Row implements Seat.
func (s *remote) Row(ctx context.Context, kind Kind, name string) (Row, error) {
	rows, _, err := s.ask(ctx, rowPath, appendText(append(frameFormat.Begin(nil), byte(kind)), name))
	switch {
	case err != nil:
		return Row{}, err
	case len(rows) != 1 || rows[0].Kind != kind || rows[0].Name != name:
		return Row{}, fmt.Errorf("%s%s: %w: %d rows, not the one asked for", s.base, rowPath, wire.ErrMalformed, len(rows))
	}
	return rows[0], nil
}

// Rows implements Seat.
func (s *remote) Rows(ctx context.Context, q Query) ([]Row, error) {
	rows, _, err := s.ask(ctx, rowsPath, q.encode(frameFormat.Begin(nil)))
	return rows, err
}

// ask sends a question, whose frame has no head yet, and reads the answer. The error is a remoteError if that is the
// answer.
func (s *remote) ask(ctx context.Context, procedure string, frame []byte) ([]Row, uint64, error) {
	if len(frame) > MaxBody {
		return nil, 0, fmt.Errorf("question of %d bytes: %w", len(frame), ErrTooLarge)
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := wire.NewWatch(stall, func() { cancel(errStalled) })
	defer watch.End()
	rows, a, err := s.exchange(ctx, procedure, frameFormat.End(frame, kindQuestion), watch)
	if err == nil {
		return rows, a.first, a.err
	}
	if caller.Err() == nil && errors.Is(context.Cause(ctx), errStalled) {
		err = fmt.Errorf("%w for %v", errStalled, stall) // not as if the caller's context had ended
	}
	return nil, 0, fmt.Errorf("%s%s: %w", s.base, procedure, err)
}

// exchange is a question and its answer. The watch is told of every piece of either.
func (s *remote) exchange(ctx context.Context, procedure string, frame []byte, watch *wire.Watch) (rows []Row, a answer, err error) {
	question := watch.Reader(bytes.NewReader(frame))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+procedure, question)
	if err != nil {
		return nil, answer{}, fmt.Errorf("%w: %w", errStatus, err)
	}
	r.ContentLength = int64(len(frame))
	r.Header.Set("Content-Type", "application/octet-stream")
	response, err := s.peer.Do(r)
	if err != nil {
		return nil, answer{}, err
	}
	body := watch.Reader(response.Body)
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	if response.StatusCode != http.StatusOK {
		return nil, answer{}, refusal(response.StatusCode, body)
	}
	rows, a, err = readAnswer(body)
	if err == nil {
		// To its end, so that the connection can be used again; whatever it says, the answer is here.
		_, _ = io.CopyN(io.Discard, body, 1)
	}
	return rows, a, err
}

// refusal is a status that is not 200. The handler gives those of the four hundreds before it asks anything.
func refusal(status int, body io.Reader) error {
	text, _ := io.ReadAll(io.LimitReader(body, maxText)) // the status says enough without it
	err := fmt.Errorf("%d %s", status, bytes.TrimSpace(text))
	if status >= 400 && status < 500 {
		err = fmt.Errorf("%w: %w", errStatus, err)
	}
	return err
}

// readAnswer reads the frames of an answer.
func readAnswer(body io.Reader) (rows []Row, a answer, err error) {
	size := 0
	for {
		kind, payload, err := frameFormat.Read(body, nil, maxAnswer) // rows keep its memory
		switch {
		case err == io.EOF:
			return nil, answer{}, io.ErrUnexpectedEOF
		case err != nil:
			return nil, answer{}, err
		case kind == kindAnswer:
			a, err = decodeAnswer(payload)
			if err != nil || a.err != nil {
				rows = nil
			}
			return rows, a, err
		case kind != kindRows || len(payload) == 0:
			return nil, answer{}, fmt.Errorf("%w: an answer of kind %d", wire.ErrMalformed, kind)
		}
		known := len(rows)
		if rows, err = decodeRows(rows, payload); err != nil {
			return nil, answer{}, err
		}
		for _, row := range rows[known:] {
			size += row.cost()
		}
		if size > maxRows {
			return nil, answer{}, fmt.Errorf("%w: more than %d MiB of rows", wire.ErrMalformed, maxRows>>20)
		}
	}
}
