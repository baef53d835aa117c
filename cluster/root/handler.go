package root

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/cluster/wire"
	"golang.org/x/sync/semaphore"
)

// questionMemory bounds the questions that are in memory at once, in bytes.
const questionMemory = 64 << 20

// Handler answers other peers under PathPrefix out of a seat, which is a Router's Here: one that asks other peers in
// turn would send questions in circles while the leader moves. It belongs behind the mutual TLS of the peers, whose
// server bounds how long a question or an answer may stand still.
func Handler(seat Seat) http.Handler {
	return &handler{seat: seat, memory: semaphore.NewWeighted(questionMemory)}
}

type handler struct {
	seat   Seat
	memory *semaphore.Weighted
}

// asked is a question that is understood.
type asked func(ctx context.Context) (rows []Row, first uint64, err error)

// ServeHTTP implements http.Handler. A status other than 200 says that nothing was asked of the seat.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	procedure, ours := strings.CutPrefix(r.URL.Path, PathPrefix)
	switch {
	case !ours || procedure != proposePath && procedure != rowPath && procedure != rowsPath:
		http.Error(w, fmt.Sprintf("procedure %q is not known here", r.URL.Path), http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "a procedure is called with POST", http.StatusMethodNotAllowed)
		return
	case r.ContentLength < frameHead || r.ContentLength > MaxBody:
		http.Error(w, fmt.Sprintf("question of %d bytes", r.ContentLength), http.StatusRequestEntityTooLarge)
		return
	}
	if h.memory.Acquire(r.Context(), r.ContentLength) != nil {
		return // the caller has gone
	}
	defer h.memory.Release(r.ContentLength)
	kind, question, err := frameFormat.Read(r.Body, nil, maxQuestion)
	if err == nil && kind != kindQuestion {
		err = fmt.Errorf("%w: a question of kind %d", wire.ErrMalformed, kind)
	}
	var ask asked
	if err == nil {
		ask, err = h.understand(procedure, question)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	respond(w, ask, r.Context())
}

// understand reads a question. A command is held to the limits of Client: the machine panics on one that it cannot
// read.
func (h *handler) understand(procedure string, question []byte) (asked, error) {
	switch procedure {
	case proposePath:
		c, err := decode(question)
		if err == nil {
			err = c.check()
		}
		return func(ctx context.Context) (_ []Row, first uint64, err error) {
			first, err = h.seat.Propose(ctx, question)
			return nil, first, err
		}, err
	case rowPath:
		r := reader{b: question}
		kind, name := Kind(r.byte()), string(r.text())
		return func(ctx context.Context) ([]Row, uint64, error) {
			row, err := h.seat.Row(ctx, kind, name)
			return []Row{row}, 0, err
		}, r.end("question for a row", len(question))
	default:
		q, err := decodeQuery(question)
		return func(ctx context.Context) ([]Row, uint64, error) {
			rows, err := h.seat.Rows(ctx, q)
			return rows, 0, err
		}, err
	}
}

// respond asks, and writes the frames of the answer. A caller that does not get the last one sees that it is missing,
// so there is nobody to tell of an error.
func respond(w http.ResponseWriter, ask asked, ctx context.Context) {
	rows, first, err := ask(ctx)
	if err != nil {
		rows = nil
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	frame := frameFormat.Begin(nil)
	for i, row := range rows {
		frame = row.encode(frame)
		if len(frame) < rowsFrame && i < len(rows)-1 {
			continue
		}
		if _, err := w.Write(frameFormat.End(frame, kindRows)); err != nil {
			return
		}
		frame = frameFormat.Begin(frame[:0])
	}
	_, _ = w.Write(frameFormat.End(answer{err, first}.encode(frame), kindAnswer))
}
