package s3

import (
	"net/http"
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
}

func newResponse(w http.ResponseWriter) *response {
	return &response{ResponseWriter: w, control: http.NewResponseController(w), started: time.Now()}
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
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

// Flush implements http.Flusher.
func (w *response) Flush() {
	_ = w.control.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
