package transport

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster/trust"
)

// Limits of the connections of joining peers, who have proved nothing when they come.
const (
	// maxJoins is how many are served at a time; what comes beside them is closed. A dozen machines may start at once.
	maxJoins = 16
	// joinTimeout bounds one of them as a whole.
	joinTimeout = 30 * time.Second
)

// tlsConfig is that of peers. Who names the protocol of joining, and nothing else, gets the other one when joins are
// served: no certificate is asked for, and the connection never comes near a route.
func tlsConfig(config ServerConfig) *tls.Config {
	peers := config.Trust.ServerConfig()
	if config.Join == nil {
		return peers
	}
	join, watchPeers := config.Trust.JoinConfig(), peers.GetConfigForClient
	peers.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Equal(hello.SupportedProtos, join.NextProtos) {
			return watchPeers(hello)
		}
		if _, err := join.GetConfigForClient(hello); err != nil { // it counts
			return nil, err
		}
		return join, nil
	}
	return peers
}

// joins are what net/http does with the connections of joining peers; nil when they are not served.
func (s *Server) joins(join func(context.Context, *tls.Conn)) map[string]func(*http.Server, *tls.Conn, http.Handler) {
	if join == nil {
		return nil
	}
	slots := make(chan struct{}, maxJoins)
	return map[string]func(*http.Server, *tls.Conn, http.Handler){
		trust.JoinProtocol: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				s.join(conn, join)
			default:
				s.log.warn("join", "a joining peer was turned away: there are too many", "from", conn.RemoteAddr())
			}
		},
	}
}

// join serves one connection. A server that stops does not wait for it: a join that was cut off can be made again.
func (s *Server) join(conn *tls.Conn, join func(context.Context, *tls.Conn)) {
	if !s.begin() {
		return
	}
	defer s.end()
	ctx, cancel := context.WithTimeout(s.calls, joinTimeout)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
		cut(conn)
	}()
	defer func() { <-watched }()
	defer cancel()
	join(ctx, conn)
	// What was written last is on its way; the farewell says that it was all of it.
	_ = conn.CloseWrite()
}
