package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// streamPulse is how often a stream says that its sender is alive when it has nothing else to say.
	streamPulse = 2 * time.Second
	// streamStall is how long 256 KiB may take: less than any network for which Raft is of use.
	streamStall = 5 * time.Second
	// messageCost is what a waiting message is counted for beside its bytes, so that a queue of short ones is bounded
	// too.
	messageCost = 64
)

// Stream sends messages to one peer over a connection of its own, in order and each at most once. Make it with
// Peer.Stream. It may be used concurrently.
//
// Messages may be lost: when the queue is full, when the peer is unreachable, when the connection breaks. The newest is
// what is dropped from a full queue: the sender is told at once, and what is queued stays without a gap, where an
// append after a gap would be of no use to Raft. When the peer is unreachable everything that waits is dropped: what is
// old by the time it returns is of no use either.
type Stream struct {
	peer *Peer
	name string
	// wake has a token when there is something to send.
	wake chan struct{}

	mu      sync.Mutex
	queue   [][]byte
	waiting int64
	// refusing: the peer cannot be reached.
	refusing bool
	status   StreamStatus
}

// StreamStatus is what can be said of a stream.
type StreamStatus struct {
	Connected bool
	// Sent counts the messages that were given to the network, Dropped those that were not.
	Sent, Dropped uint64
	// Waiting is the length of the queue, in bytes.
	Waiting int64
	// Err is why the last connection ended, nil while there is one.
	Err error
}

// Stream is the stream of that name to the peer; it is made by the first call.
func (p *Peer) Stream(name string) *Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.streams[name]
	if s == nil {
		s = &Stream{peer: p, name: name, wake: make(chan struct{}, 1), refusing: p.closed}
		p.streams[name] = s
		if !p.closed {
			p.peers.running.Go(s.run)
		}
	}
	return s
}

// Send queues a message, which belongs to the stream from then on. It never waits. It says false when the message was
// dropped, and counts it; a message longer than MaxFrame is. One without bytes is not sent.
func (s *Stream) Send(message []byte) bool {
	if len(message) == 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cost := int64(len(message) + messageCost)
	if s.refusing || len(message) > MaxFrame || s.waiting+cost > s.peer.peers.config.Queue {
		s.status.Dropped++
		return false
	}
	s.queue = append(s.queue, message)
	s.waiting += cost
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

// Status tells of the stream.
func (s *Stream) Status() StreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	status.Waiting = s.waiting
	return status
}

// run keeps the stream connected while the peer is reachable.
func (s *Stream) run() {
	defer s.lost(ErrClosed)
	pause := firstPause
	for {
		calls := s.reachable()
		if calls == nil {
			return
		}
		conn, err := s.open()
		if err != nil {
			s.lost(err)
			if sleep(s.peer.ctx, pause) != nil {
				return
			}
			pause = min(2*pause, longPause)
			continue
		}
		pause = firstPause
		s.connected()
		s.lost(s.pump(conn, calls))
	}
}

// reachable waits until the peer is, and gives the connection that says so; nil at the end.
func (s *Stream) reachable() *link {
	p := s.peer
	for {
		p.mu.Lock()
		calls, failed, changed := p.calls, p.failed, p.changed
		p.mu.Unlock()
		if calls != nil && calls.Err() == nil {
			return calls
		}
		if failed != nil {
			s.lost(failed)
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return nil
		}
	}
}

func (s *Stream) connected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing, s.status.Connected, s.status.Err = false, true, nil
}

// lost drops what waits, and what comes until there is a connection again.
func (s *Stream) lost(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Dropped += uint64(len(s.queue))
	s.queue, s.waiting = nil, 0
	s.refusing, s.status.Connected, s.status.Err = true, false, why
}

// open connects: an HTTP request, and its connection for the stream once the peer agrees.
func (s *Stream) open() (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(s.peer.ctx, dialTimeout)
	defer cancel()
	conn, err := s.peer.dialConn(ctx, "http/1.1")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { cut(conn) })
	err = s.upgrade(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cut(conn)
		return nil, fmt.Errorf("open stream %s: %w", s.name, err)
	}
	return conn, nil
}

// upgrade asks for the stream and begins it.
func (s *Stream) upgrade(conn *tls.Conn) error {
	request, err := http.NewRequest(http.MethodGet, "https://"+s.peer.id.String()+streamPath(s.name), http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", streamProtocol)
	if err := request.Write(conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader)), request)
	if err != nil {
		return err
	}
	if err := errors.Join(s.peer.refusal(response), response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("%s: %w", response.Status, errNoStream)
	}
	_, err = io.WriteString(conn, streamMagic)
	return err
}

// pump sends until the connection ends or the peer is out of reach. It leaves nobody behind who reads the connection.
func (s *Stream) pump(conn *tls.Conn, calls *link) error {
	ended := make(chan error, 1)
	go func() {
		// The receiver says nothing: what can be read is the end.
		var b [1]byte
		_, err := conn.Read(b[:])
		ended <- err
	}()
	err := s.sendAll(conn, calls, ended)
	cut(conn)
	if err == nil {
		return fmt.Errorf("stream %s: %w: %w", s.name, ErrBroken, <-ended)
	}
	<-ended
	return fmt.Errorf("stream %s: %w", s.name, err)
}

// sendAll returns nil when the other end has closed the connection; then ended has why.
func (s *Stream) sendAll(conn *tls.Conn, calls *link, ended chan error) error {
	w := bufio.NewWriterSize(steady{conn}, streamBuffer)
	pulse := time.NewTicker(streamPulse)
	defer pulse.Stop()
	for {
		var batch [][]byte
		select {
		case <-s.wake:
			batch = s.take()
		case <-pulse.C:
			batch = [][]byte{nil}
		case why := <-ended:
			ended <- why
			return nil
		case <-calls.ended:
			return ErrUnreachable
		case <-s.peer.ctx.Done():
			return ErrClosed
		}
		if err := s.write(w, batch); err != nil {
			return err
		}
	}
}

// take empties the queue. What is taken still counts as waiting.
func (s *Stream) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = nil
	return batch
}

// write sends messages in as few writes as they need.
func (s *Stream) write(w *bufio.Writer, batch [][]byte) error {
	for i, message := range batch {
		head := frameHeader(message)
		_, err := w.Write(head[:])
		if err == nil {
			_, err = w.Write(message)
		}
		if err == nil && i == len(batch)-1 {
			err = w.Flush()
		}
		s.wrote(message, len(batch)-i, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// wrote counts a message that was sent, or that one and all that are left of its batch as dropped.
func (s *Stream) wrote(message []byte, left int, err error) {
	if len(message) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.status.Dropped += uint64(left)
		return
	}
	s.status.Sent++
	s.waiting -= int64(len(message) + messageCost)
}

// steady writes in pieces, each of which has its time.
type steady struct{ conn *tls.Conn }

func (s steady) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if err := s.conn.SetWriteDeadline(time.Now().Add(streamStall)); err != nil {
			return written, err
		}
		n, err := s.conn.Write(p[written:min(len(p), written+streamBuffer)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
