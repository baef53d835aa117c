package remote

import (
	"errors"
	"io"
	"sync"

	"github.com/holdfast/holdfast/cluster/wire"
)

// errReturned is what a transport gets that reads on after the call returned.
var errReturned = errors.New("the call has returned")

// lease lends the cells of a Put to a transport. http.Client.Do may return while a goroutine of the transport is still
// reading the body, and says nothing of when it stops. So the transport never sees the cells: each Read copies a piece
// of them under mu, and end, which Put calls before it returns, takes mu to take the cells away. Copying does not
// block, so end waits for one copy at most.
type lease struct {
	watch *wire.Watch
	size  int64 // of all parts

	mu    sync.Mutex
	parts [][]byte // nil after end
}

// newLease lends a frame and the cells behind it.
func newLease(w *wire.Watch, frame []byte, cells [][]byte) *lease {
	l := &lease{watch: w, parts: append([][]byte{frame}, cells...)}
	for _, p := range l.parts {
		l.size += int64(len(p))
	}
	return l
}

func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parts = nil
}

// open returns a body that reads all of it from the beginning: one more is needed when a request is sent again that a
// stale connection lost.
func (l *lease) open() io.ReadCloser { return &leaseReader{lease: l} }

// leaseReader deliberately implements io.Reader and io.Closer alone: an io.WriterTo would hand out the cells themselves.
type leaseReader struct {
	lease    *lease
	part, at int
}

func (r *leaseReader) Read(p []byte) (int, error) {
	n, err := r.copy(p)
	if n > 0 {
		r.lease.watch.Moved()
	}
	return n, err
}

func (r *leaseReader) copy(p []byte) (int, error) {
	l := r.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parts == nil {
		return 0, errReturned
	}
	n := 0
	for n < len(p) && r.part < len(l.parts) {
		c := copy(p[n:], l.parts[r.part][r.at:])
		n, r.at = n+c, r.at+c
		if r.at == len(l.parts[r.part]) {
			r.part, r.at = r.part+1, 0
		}
	}
	if n == 0 && r.part == len(l.parts) && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *leaseReader) Close() error { return nil }
