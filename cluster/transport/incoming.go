package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/trust"
)

// What a stream is called in HTTP.
const (
	streamProtocol = "holdfast-stream"
	switching      = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + streamProtocol + "\r\n\r\n"
)

func streamPath(name string) string { return "/-/stream/" + name }

// streamSilence is how long a stream may be silent before its receiver ends it: five pulses.
const streamSilence = 5 * streamPulse

// streamBuffer is what is read and written at a time: 16 records of TLS.
const streamBuffer = 256 << 10

var errNoStream = errors.New("not a request for a stream")

// streamKey: there is one stream of each caller and name.
type streamKey struct {
	peer cluster.PeerID
	name string
}

// incoming is a stream that arrives.
type incoming struct {
	conn  *tls.Conn
	state tls.ConnectionState
	// done is closed when its last message was received, or it will never be heard.
	done chan struct{}
}

// inlet is the handler of the streams of one name.
func (s *Server) inlet(inlet Inlet) http.Handler {
	return HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.ProtoMajor != 1 || r.Header.Get("Upgrade") != streamProtocol {
			return fmt.Errorf("%s: %w", r.URL.Path, errNoStream)
		}
		caller, _ := Caller(r.Context()) // the server lets nobody in without one
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return fmt.Errorf("%s: %w", r.URL.Path, err)
		}
		if a, ok := w.(*answer); ok {
			a.begun = true
		}
		secure, ok := conn.(*tls.Conn)
		if !ok {
			return fmt.Errorf("%s: %w", r.URL.Path, errors.Join(errNoStream, conn.Close()))
		}
		stream := &incoming{conn: secure, state: *r.TLS, done: make(chan struct{})}
		defer cut(secure)
		key := streamKey{caller.Peer, inlet.Name}
		before := s.take(key, stream)
		defer s.dismiss(key, stream)
		gone := agree(secure) // by its error the caller has: the stream still keeps its place in line
		if s.await(key, stream, before) && gone == nil {
			if err := s.receive(stream, buffered.Reader, caller, inlet); errors.Is(err, ErrBadFrame) {
				s.log.warn("stream "+caller.Peer.String(), "a stream was cut", "peer", caller.Peer, "stream", inlet.Name, "err", err)
			}
		}
		return nil
	})
}

// agree answers the request. From then on the sender's messages wait in the connection.
func agree(conn *tls.Conn) error {
	if err := conn.SetWriteDeadline(time.Now().Add(streamSilence)); err != nil {
		return err
	}
	_, err := io.WriteString(conn, switching)
	return err
}

// take gives a stream the place of the one before it, whose sender has given it up and which ends now; nil when there is
// none. What comes next takes the place in turn, whether this one has begun or waits: the newest is what the sender has.
func (s *Server) take(key streamKey, stream *incoming) (before *incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.streams[key]
	s.streams[key] = stream
	if before != nil {
		cut(before.conn)
	}
	return before
}

// await waits for the last message of the stream before, so that the messages of a caller stay in order. It says false
// when there is a newer stream by then, or the server stops.
func (s *Server) await(key streamKey, stream, before *incoming) bool {
	if before != nil {
		select {
		case <-before.done:
		case <-s.stopping:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[key] == stream && !s.stopped
}

func (s *Server) dismiss(key streamKey, stream *incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[key] == stream {
		delete(s.streams, key)
	}
	close(stream.done)
}

// receive hands on messages until the stream ends. The error says why it did.
func (s *Server) receive(stream *incoming, buffered io.Reader, caller trust.Identity, inlet Inlet) error {
	frames := frameReader{r: bufio.NewReaderSize(awake{stream.conn, buffered}, streamBuffer)}
	if err := frames.start(); err != nil {
		return err
	}
	for {
		message, err := frames.next()
		if err != nil {
			return err
		}
		if len(message) > 0 {
			inlet.Receive(caller, message)
		}
	}
}

// awake reads with a deadline that begins anew with each read.
type awake struct {
	conn net.Conn
	// r is conn with what was read of it already.
	r io.Reader
}

func (a awake) Read(p []byte) (int, error) {
	if err := a.conn.SetReadDeadline(time.Now().Add(streamSilence)); err != nil {
		return 0, err
	}
	return a.r.Read(p)
}
