package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/fusefs/tree"
)

const (
	// pipeLife is how long a pipe lives, and so how long a key that was taken away still works through one.
	pipeLife = time.Minute
	// pipeStall is how long a client may take to take an answer.
	pipeStall = 30 * time.Second
	// pipeGrace is how long questions may take to be answered once the service closes.
	pipeGrace = 5 * time.Second
	// pipeBuffer lets most questions come with one read: a small file and what is said about it.
	pipeBuffer = 8 << 10
	// maxPipes bounds the pipes of all mounts; mounts without one send HTTP requests.
	maxPipes = 2048
)

// pipeServer is the service's side of pipes; the fields are guarded by Service.mu.
type pipeServer struct {
	conns map[net.Conn]bool
	// serving counts them.
	serving sync.WaitGroup
}

// procedure answers one kind of question: the message in, the message out.
type procedure func(context.Context, *Service, []byte) (proto.Message, error)

// through makes a procedure of a method of the service.
func through[Req, Res any](method func(*Service, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) procedure {
	return func(ctx context.Context, s *Service, message []byte) (proto.Message, error) {
		q := new(Req)
		m, ok := any(q).(proto.Message)
		if !ok {
			return nil, tree.ErrUnsupported
		}
		if err := proto.Unmarshal(message, m); err != nil {
			return nil, errDamaged
		}
		res, err := method(s, ctx, connect.NewRequest(q))
		if err != nil {
			return nil, err
		}
		a, ok := any(res.Msg).(proto.Message)
		if !ok {
			return nil, tree.ErrUnsupported
		}
		return a, nil
	}
}

// procedures are the questions that pipes carry.
func procedures() map[string]procedure {
	return map[string]procedure{
		"Stat": through((*Service).Stat), "Look": through((*Service).Look), "Exists": through((*Service).Exists),
		"List": through((*Service).List), "Space": through((*Service).Space),
		"OpenReader": through((*Service).OpenReader), "CloseReader": through((*Service).CloseReader),
		"Begin": through((*Service).Begin), "Abort": through((*Service).Abort),
		"Stage": through((*Service).Stage), "Discard": through((*Service).Discard), "Publish": through((*Service).Publish),
		"SetAttr": through((*Service).SetAttr), "Rename": through((*Service).Rename),
		"RenamePrefix": through((*Service).RenamePrefix), "Remove": through((*Service).Remove),
	}
}

// openPipe turns a request, whose signature was checked, into a pipe.
func (s *Service) openPipe(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), pipeProtocol) {
		w.Header().Set("Upgrade", pipeProtocol)
		http.Error(w, "this path speaks "+pipeProtocol, http.StatusUpgradeRequired)
		return
	}
	s.mu.Lock()
	full := s.closed || len(s.pipes.conns) >= maxPipes
	s.mu.Unlock()
	if full {
		http.Error(w, "no more pipes", http.StatusServiceUnavailable)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "no pipes on this connection", http.StatusNotImplemented)
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.closeConn(conn)
		return
	}
	s.pipes.conns[conn] = true
	s.pipes.serving.Add(1)
	s.mu.Unlock()
	// The principal is in ctx; the request's own end is not the pipe's.
	ctx := context.WithoutCancel(r.Context())
	go func() {
		defer s.pipes.serving.Done()
		err := s.servePipe(ctx, conn, bufio.NewReaderSize(rw.Reader, pipeBuffer))
		if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.config.Log.Debug("pipe of a mount ended", "remote", conn.RemoteAddr(), "err", err)
		}
		s.mu.Lock()
		delete(s.pipes.conns, conn)
		s.mu.Unlock()
		s.closeConn(conn)
	}()
}

func (s *Service) closeConn(conn net.Conn) {
	if err := conn.Close(); err != nil {
		s.config.Log.Debug("close pipe", "remote", conn.RemoteAddr(), "err", err)
	}
}

// servePipe answers the questions of one pipe until it breaks, is too old, or the service closes.
func (s *Service) servePipe(ctx context.Context, conn net.Conn, r *bufio.Reader) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if err := s.limitPipe(conn); err != nil {
		return err
	}
	const welcome = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + pipeProtocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, welcome); err != nil {
		return err
	}
	var buf []byte
	for {
		var name string
		var message []byte
		var err error
		if buf, name, message, err = readFrame(r, buf, maxPiped); err != nil {
			return err
		}
		var answer proto.Message
		if p := s.procedures[name]; p == nil {
			err = tree.ErrUnsupported
		} else {
			answer, err = p(ctx, s, message)
		}
		if err != nil {
			buf, err = appendFrame(buf[:0], nameOf(fromWire(err)), []byte(textOf(err)), nil)
		} else {
			buf, err = appendFrame(buf[:0], "", nil, answer)
		}
		if err != nil {
			return err
		}
		if err := conn.SetWriteDeadline(time.Now().Add(pipeStall)); err != nil {
			return err
		}
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		buf = trim(buf)
	}
}

// textOf is an error without its code.
func textOf(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		return e.Message()
	}
	return err.Error()
}

// limitPipe sets the end of a pipe's life, unless the service closes now.
func (s *Service) limitPipe(conn net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return io.EOF
	}
	return conn.SetReadDeadline(time.Now().Add(pipeLife))
}

// endPipes lets every pipe answer what it was asked and then ends it. A question that hangs, as a drive may, is left
// behind after pipeGrace: its asker asks again elsewhere.
func (s *Service) endPipes() error {
	past := time.Unix(1, 0)
	s.mu.Lock()
	for conn := range s.pipes.conns {
		if err := conn.SetReadDeadline(past); err != nil {
			s.config.Log.Debug("end pipe", "remote", conn.RemoteAddr(), "err", err)
		}
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.pipes.serving.Wait()
		close(ended)
	}()
	timer := time.NewTimer(pipeGrace)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("%d questions of mounts hang and were not answered", len(s.pipes.conns))
}
