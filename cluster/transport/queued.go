package transport

import (
	"fmt"
	"net"
	"sync"
)

// maxQueued bounds what waits to be written for calls. HTTP/2 lets a client have 1 MiB of bodies under way, and headers
// of 256 calls; more waits only on a connection that is broken, which is then given up.
const maxQueued = 8 << 20

// queued is a connection whose Write does not wait for the network: run writes what has gathered, in one piece. HTTP/2
// writes under a lock that all calls take, so that a network that takes nothing would hold even those that give up.
type queued struct {
	net.Conn
	// wake has a token when there is something to write, or the connection has ended.
	wake chan struct{}

	mu sync.Mutex
	// waiting is what is not written yet, spare the memory for what comes meanwhile.
	waiting, spare []byte
	// writing is how many bytes the network is being given now.
	writing int
	ended   error
}

func newQueued(conn net.Conn) *queued { return &queued{Conn: conn, wake: make(chan struct{}, 1)} }

// Write implements net.Conn. What fails later the next Write tells, and each Read.
func (q *queued) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil && q.writing+len(q.waiting)+len(p) > maxQueued {
		q.end(fmt.Errorf("%d bytes wait to be written: %w", q.writing+len(q.waiting), ErrStalled))
	}
	if q.ended != nil {
		return 0, q.ended
	}
	q.waiting = append(q.waiting, p...)
	q.notify()
	return len(p), nil
}

func (q *queued) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// end needs mu. The error of closing says only that it was closed.
func (q *queued) end(why error) {
	if q.ended == nil {
		q.ended = why
		_ = q.Conn.Close()
		q.notify()
	}
}

// Close implements net.Conn. What was not written is lost.
func (q *queued) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended != nil {
		return net.ErrClosed
	}
	q.end(net.ErrClosed)
	return nil
}

// run writes until the connection ends.
func (q *queued) run() {
	for range q.wake {
		q.mu.Lock()
		data, ended := q.waiting, q.ended
		q.waiting = q.spare[:0]
		q.spare, q.writing = nil, len(data)
		q.mu.Unlock()
		if ended != nil {
			return
		}
		_, err := q.Conn.Write(data)
		q.mu.Lock()
		q.writing = 0
		if cap(data) <= keptBuffer {
			q.spare = data
		}
		if err != nil {
			q.end(err)
		}
		q.mu.Unlock()
	}
}
