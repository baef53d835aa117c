package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/cluster/wire"
	"github.com/holdfast/holdfast/metadata"
)

// Handler answers clients out of n, under PathPrefix. n should be what this peer can answer by itself: one that asks
// other peers in turn would send questions in circles while the leader moves.
func Handler(n metadata.Names) http.Handler {
	h := &handler{names: n, memory: semaphore.NewWeighted(questionMemory), byName: make(map[string]served, len(procedures))}
	for _, p := range procedures {
		h.byName[p.title()] = p
	}
	return h
}

type handler struct {
	names  metadata.Names
	memory *semaphore.Weighted
	byName map[string]served
}

// buffers are used again for questions and answers.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func recycle(kept *[]byte, b []byte) {
	if cap(b) <= keptBuffer+frameHead {
		*kept = b[:0]
		buffers.Put(kept)
	}
}

// ServeHTTP implements http.Handler. A status other than 200 says that nothing was called.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ours := strings.CutPrefix(r.URL.Path, PathPrefix)
	p := h.byName[name]
	switch {
	case !ours || p == nil:
		http.Error(w, fmt.Sprintf("procedure %q is not known here", r.URL.Path), http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "a procedure is called with POST", http.StatusMethodNotAllowed)
		return
	case r.ContentLength < frameHead || r.ContentLength > maxQuestion+frameHead:
		http.Error(w, fmt.Sprintf("question of %d bytes", r.ContentLength), http.StatusRequestEntityTooLarge)
		return
	}
	if h.memory.Acquire(r.Context(), r.ContentLength) != nil {
		return // the client has gone
	}
	defer h.memory.Release(r.ContentLength)
	kept := buffers.Get().(*[]byte)
	c := http.NewResponseController(w)
	kind, question, err := frameFormat.Read(&paced{r, c}, *kept, maxQuestion)
	defer func() { recycle(kept, question) }()
	ctx, message := r.Context(), question
	if err == nil {
		ctx, message, err = opened(ctx, kind, question)
	}
	if err == nil {
		// The server reads on by itself to see when the client goes: that must not run out of time.
		err = deadline(c.SetReadDeadline, time.Time{})
	}
	if err == nil {
		a := &answering{w: w, control: c, turn: make(chan struct{}, 1)}
		defer a.end()
		if err = p.serve(ctx, h.names, message, a); err == nil {
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// opened is the message in a question, and the context of its call.
func opened(ctx context.Context, kind byte, question []byte) (context.Context, []byte, error) {
	switch kind {
	case kindQuestion:
		return ctx, question, nil
	case kindWrite:
		d := newDecoder(question)
		var op metadata.Op
		if err := ops.read(d, &op); err != nil {
			return ctx, nil, err
		}
		if op == (metadata.Op{}) {
			return ctx, nil, fmt.Errorf("%w: a write without its Op", errMalformed)
		}
		return metadata.WithOp(ctx, op), d.b, nil
	}
	return ctx, nil, fmt.Errorf("%w: a question of kind %d", wire.ErrMalformed, kind)
}

// deadline sets a deadline where the connection has one.
func deadline(set func(time.Time) error, t time.Time) error {
	if err := set(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// paced reads a body that must go on arriving.
type paced struct {
	r *http.Request
	c *http.ResponseController
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	if err := deadline(p.c.SetReadDeadline, time.Now().Add(readStall)); err != nil {
		return 0, err
	}
	return p.r.Body.Read(b)
}

// answering writes the frames of one answer.
type answering struct {
	w       http.ResponseWriter
	control *http.ResponseController
	tick    *time.Timer

	// turn has room for who writes: a sign of life may come at any time, and waits while an item does.
	turn  chan struct{}
	begun bool
	ended bool
}

// begin starts to give signs of life.
func (a *answering) begin() {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.tick = time.AfterFunc(aliveEvery, a.alive)
}

// end stops them, and waits for one that is being given.
func (a *answering) end() {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.ended = true
	if a.tick != nil {
		a.tick.Stop()
	}
}

func (a *answering) alive() {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	if a.ended {
		return
	}
	frame := beginFrame(nil)
	frameFormat.End(frame, kindAlive)
	if a.write(frame) == nil { // else the request's context ends
		a.tick.Reset(aliveEvery)
	}
}

// send writes a frame that is not the last.
func (a *answering) send(frame []byte, kind byte) error {
	frameFormat.End(frame, kind)
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	return a.write(frame)
}

// write writes a frame out, and takes its deadline off the connection again.
func (a *answering) write(frame []byte) error {
	a.begun = true
	if err := deadline(a.control.SetWriteDeadline, time.Now().Add(writeStall)); err != nil {
		return err
	}
	if _, err := a.w.Write(frame); err != nil {
		return err
	}
	if err := a.control.Flush(); err != nil {
		return err
	}
	return deadline(a.control.SetWriteDeadline, time.Time{})
}

// last writes the last frame. A client that does not get it sees that it is missing, so there is nobody to tell. A small
// frame fits the buffers of the connection and needs no deadline.
func (a *answering) last(frame []byte) {
	a.end()
	frameFormat.End(frame, kindAnswer)
	if !a.begun {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(frame)))
	}
	if a.begun || len(frame) > batch {
		_ = a.write(frame)
		return
	}
	_, _ = a.w.Write(frame)
}

var (
	faults = messageOf[fault]()
	ops    = messageOf[metadata.Op]()
)

// errAnswerSize says that one frame of an answer would be over its limit.
var errAnswerSize = fmt.Errorf("answer is larger than %d MiB: ask for less at once: %w", maxAnswer>>20, metadata.ErrTooLarge)

// appendFault writes what an answer begins with.
func appendFault(b []byte, err error) []byte {
	f := faultOf(err)
	return faults.append(b, &f)
}

func (p *procedure[Q, A]) serve(ctx context.Context, n metadata.Names, question []byte, a *answering) error {
	q, err := decodeQuestion(p.question, question)
	if err != nil {
		return err
	}
	a.begin()
	value, err := p.call(ctx, n, q)
	kept := buffers.Get().(*[]byte)
	frame := p.answer.append(appendFault(beginFrame(*kept), err), &value)
	if len(frame) > frameHead+maxAnswer {
		var none A
		frame = p.answer.append(appendFault(beginFrame(frame), errAnswerSize), &none)
	}
	a.last(frame)
	recycle(kept, frame)
	return nil
}

func (s *stream[Q, T]) serve(ctx context.Context, n metadata.Names, question []byte, a *answering) error {
	q, err := decodeQuestion(s.question, question)
	if err != nil {
		return err
	}
	a.begin()
	frame := beginFrame(nil)
	flush := func() error {
		if len(frame) == frameHead {
			return nil
		}
		err := a.send(frame, kindItems)
		frame = beginFrame(frame)
		return err
	}
	err = s.call(ctx, n, q, func(item *T) error {
		if frame = s.item.append(frame, item); len(frame) > frameHead+maxAnswer {
			frame = beginFrame(frame)
			return errAnswerSize
		}
		if len(frame) < batch {
			return nil
		}
		return flush()
	})
	// What was found before an error is found.
	if flushErr := flush(); err == nil {
		err = flushErr
	}
	a.last(appendFault(beginFrame(frame), err))
	return nil
}

func decodeQuestion[Q any](m message[Q], question []byte) (*Q, error) {
	d := newDecoder(question)
	q := new(Q)
	if err := m.read(d, q); err != nil {
		return nil, err
	}
	return q, d.end()
}
