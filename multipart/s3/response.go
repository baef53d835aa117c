package s3

import (
	"maps"
	"net/http"
	"strings"
	"time"
)

// response watches what is sent: whether the header is out, the status, the bytes, and when the first one went.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	started time.Time
	first   time.Time // of the header
	armed   time.Time // when the write deadline was last moved
	status  int       // 0: nothing is sent yet
	bytes   int64
	// expects says that the client sent "Expect: 100-continue" with an empty body, for which net/http sends no 100.
	expects bool
}

func newResponse(w http.ResponseWriter, r *http.Request) *response {
	expects := r.ContentLength == 0 && r.ProtoAtLeast(1, 1) && strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	return &response{ResponseWriter: w, control: http.NewResponseController(w), started: time.Now(), expects: expects}
}

// sayContinue sends the 100 that botocore waits for with empty files too: without it, that client takes the final
// answer for the one to its next request on the connection.
func (w *response) sayContinue() {
	header := w.Header()
	final := maps.Clone(header)
	clear(header)
	w.ResponseWriter.WriteHeader(http.StatusContinue)
	maps.Copy(header, final)
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		if w.expects {
			w.sayContinue()
		}
		w.status, w.first = status, time.Now()
		w.arm(w.first)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write gives the client stallTimeout for each piece.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if now := time.Now(); now.Sub(w.armed) > stallTimeout/6 {
		w.arm(now)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// arm moves the write deadline. Connections that have none (in-process tests) stay without, and a connection that
// refuses is broken, which the next write finds out.
func (w *response) arm(now time.Time) {
	w.armed = now
	_ = w.control.SetWriteDeadline(now.Add(stallTimeout))
}

// Flush implements http.Flusher. What goes wrong the next write finds out.
func (w *response) Flush() {
	_ = w.control.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
