package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/trust"
)

// Limits of a server.
const (
	// headerTimeout bounds a handshake, and a request's header after it: DESIGN's number for every listener.
	headerTimeout = 5 * time.Second
	// idleTimeout is how long a connection may do nothing. Clients give theirs up sooner.
	idleTimeout = 60 * time.Second
	// maxHeader bounds a header, in bytes, as on the S3 listener.
	maxHeader = 16 << 10
	// maxCalls is how many calls one connection may have under way.
	maxCalls = 256
	// maxConns is how many connections a server takes; more wait in the kernel.
	maxConns = 4096
	// judgePause is how often open connections are judged again without being told to: certificates expire.
	judgePause = 10 * time.Second
	// endGrace is how long calls have to notice that their connections were closed.
	endGrace = time.Second
	// flushGrace is how long the last answers have to leave: their handlers have returned, so it is a few KiB each.
	flushGrace = 250 * time.Millisecond

	// DefaultServerStall is how long a call's body or answer may stand still.
	DefaultServerStall = 30 * time.Second
)

// Protocols are the names of what peers speak, for trust.Config: net/http knows no others.
func Protocols() []string { return []string{"h2", "http/1.1"} }

// ServerConfig makes a Server.
type ServerConfig struct {
	Network Network
	// Address is where to listen, "host:port".
	Address string
	// Trust was made with Protocols.
	Trust *trust.Store
	// Sentinels are the errors that callers shall find again, beside those of this package.
	Sentinels Sentinels
	// Stall is how long the body of a request or of an answer may stand still before the call is cut. Zero means
	// DefaultServerStall; negative means for ever.
	Stall time.Duration
	// Join serves the connections of joining peers, which have no certificate and speak trust.JoinProtocol: on the same
	// address, and on no route. At most 16 are served at a time, each until ctx ends, for 30 s at most; then, or when
	// Join returns, the connection is closed. Nil turns them away.
	Join func(ctx context.Context, conn *tls.Conn)
	// Log takes refusals. Nil means slog.Default.
	Log *slog.Logger
}

// Route is what may be called.
type Route struct {
	// Pattern is one of http.ServeMux.
	Pattern string
	// Roles may call it. Zero means nobody.
	Roles trust.Roles
	// MaxBody bounds the body of a request, in bytes. Zero means that there is none; negative means that the handler
	// sees to it itself.
	MaxBody int64
	// Handler finds the caller with Caller. A HandlerFunc may return an error.
	Handler http.Handler
}

// Inlet takes the messages of streams with its name.
type Inlet struct {
	Name string
	// Roles may send. Zero means nobody.
	Roles trust.Roles
	// Receive gets one message after another of each caller, in order; of several callers at the same time. The message
	// is good until Receive returns. While it has not, the sender's queue fills.
	Receive func(caller trust.Identity, message []byte)
}

// Server takes the calls and the streams of other peers. Make it with Listen; it may be used concurrently.
type Server struct {
	trust     *trust.Store
	sentinels Sentinels
	policy    trust.Policy
	stall     time.Duration
	log       *sparing
	listener  net.Listener
	http      *http.Server

	// calls is what the contexts of all calls come from; it ends when they are cut off.
	calls   context.Context
	cutting context.CancelFunc
	// stopping is closed when the end begins.
	stopping chan struct{}
	running  sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	conns   map[*tls.Conn]struct{}
	streams map[streamKey]*incoming
	// active counts the calls under way; idle is closed when it falls to zero after stopped.
	active int
	idle   chan struct{}
}

// Listen makes a server and starts it. Stop ends it.
func Listen(config ServerConfig, routes []Route, inlets []Inlet) (*Server, error) {
	tlsConfig := tlsConfig(config)
	tlsConfig.DynamicRecordSizingDisabled = true
	if !slices.Equal(tlsConfig.NextProtos, Protocols()) {
		return nil, fmt.Errorf("the trust store speaks %q, a transport %q", tlsConfig.NextProtos, Protocols())
	}
	sentinels, err := Merge(ours(), config.Sentinels)
	if err != nil {
		return nil, err
	}
	s := &Server{
		trust: config.Trust, sentinels: sentinels, policy: trust.Policy{}, stall: config.Stall, log: newSparing(config.Log),
		stopping: make(chan struct{}), idle: make(chan struct{}),
		conns: map[*tls.Conn]struct{}{}, streams: map[streamKey]*incoming{},
	}
	if s.stall == 0 {
		s.stall = DefaultServerStall
	}
	s.calls, s.cutting = context.WithCancel(context.Background())
	handler, err := s.mux(routes, inlets)
	if err != nil {
		return nil, err
	}
	inner, err := config.Network.Listen(config.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	s.listener = inner
	s.http = s.newHTTP(handler)
	s.http.TLSNextProto = s.joins(config.Join)
	s.start(config.Trust.Listener(gatherConns{limitConns(inner, maxConns)}, tlsConfig))
	return s, nil
}

// newHTTP makes the HTTP server with its limits.
func (s *Server) newHTTP(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxCalls,
			// A peer that went away without a word holds nothing here for longer than half a minute.
			SendPingTimeout: idleTimeout / 4, PingTimeout: idleTimeout / 4,
		},
		DisableGeneralOptionsHandler: true,
		ConnState:                    s.track,
		BaseContext:                  func(net.Listener) context.Context { return s.calls },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		ErrorLog: log.New(httpLog{s.log}, "", 0),
	}
}

func (s *Server) start(listener net.Listener) {
	s.running.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !s.isStopped() {
			s.log.warn("serve", "the listener for peers has ended", "err", err)
		}
	})
	s.running.Go(func() {
		ticker := time.NewTicker(judgePause)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				s.TrustChanged()
			case <-s.stopping:
				return
			}
		}
	})
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// track keeps the connections whose handshake is over.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateActive, http.StateIdle:
		s.conns[secure] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, secure)
	}
}

// TrustChanged closes the connections of peers that are trusted no more. Whoever gives the Store a new list calls it;
// their calls are refused without it too.
func (s *Server) TrustChanged() {
	for _, open := range s.open() {
		if _, err := s.trust.Caller(open.state); err != nil {
			s.log.warn("close "+hostOf(open.conn.RemoteAddr()), "a connection was closed", "from", open.conn.RemoteAddr(), "err", err)
			cut(open.conn)
		}
	}
}

type openConn struct {
	conn  *tls.Conn
	state tls.ConnectionState
}

func (s *Server) open() []openConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []openConn
	for conn := range s.conns {
		all = append(all, openConn{conn, conn.ConnectionState()})
	}
	for _, stream := range s.streams {
		all = append(all, openConn{stream.conn, stream.state})
	}
	return all
}

// cut closes a connection without TLS's farewell, which could wait for who reads nothing. The error of closing it says
// only that it is closed already.
func cut(conn *tls.Conn) { _ = conn.NetConn().Close() }

// Stop takes no more calls (they are answered with ErrStopping), ends the streams, and waits for the calls under way
// until ctx ends; then their connections are closed. The error says that calls did not end by themselves.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
		if s.active == 0 {
			close(s.idle)
		}
	}
	for _, stream := range s.streams {
		cut(stream.conn)
	}
	s.mu.Unlock()
	_ = s.listener.Close() // again it says only that it is closed
	err := s.drain(ctx)
	for _, open := range s.open() {
		cut(open.conn) // or net/http would say farewell to each, one after another
	}
	s.cutting() // net/http would not tell handlers that have not read their bodies
	if closing := s.http.Close(); !errors.Is(closing, net.ErrClosed) {
		err = errors.Join(err, closing)
	}
	if err != nil && !s.wait(endGrace) {
		s.mu.Lock()
		err = fmt.Errorf("%w; %d of them do not end", err, s.active)
		s.mu.Unlock()
	}
	s.running.Wait()
	return err
}

// drain waits for the calls under way, and then for their answers to leave.
func (s *Server) drain(ctx context.Context) error {
	select {
	case <-s.idle:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("stop serving peers: %d calls are cut off: %w", s.active, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, flushGrace)
	defer cancel()
	// Connections for calls stay open until their clients leave: that they are there in the end is no news.
	_ = s.http.Shutdown(ctx)
	return nil
}

// wait says whether all calls ended soon.
func (s *Server) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.idle:
		return true
	case <-timer.C:
		return false
	}
}

// begin counts a call, unless the server stops.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.active++
	return true
}

func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 && s.stopped {
		close(s.idle)
	}
}
