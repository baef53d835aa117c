package join

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

const (
	// headTimeout bounds the head, after the handshake: it is in one packet.
	headTimeout = 5 * time.Second
	// wrongPause is how long who had no good proof is kept waiting for the answer, so that somebody who tries costs the
	// root group some ten reads a second for each connection that the transport serves, and no more.
	wrongPause = 100 * time.Millisecond
)

// Config makes a Server.
type Config struct {
	Root *root.Client
	// IntegrityKey seals records on drives: see drive.Identity.
	IntegrityKey [32]byte
	// Alive says whether a peer seems to run; it may be a hint. Nil means that nobody knows, and then a token is enough
	// to come back.
	Alive func(cluster.PeerID) bool
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log hears who is admitted and who is refused. Nil means slog.Default.
	Log *slog.Logger
}

// Server admits peers. It may be used concurrently. Its Serve is transport.ServerConfig's Join.
type Server struct {
	config Config
	counts counts
}

// NewServer makes a Server.
func NewServer(config Config) *Server {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	return &Server{config: config}
}

// Stats are the counts.
func (s *Server) Stats() Stats { return s.counts.get() }

// Serve talks to one joining peer until ctx ends, which closes the connection.
func (s *Server) Serve(ctx context.Context, conn *tls.Conn) {
	if err := s.converse(ctx, conn); err != nil {
		s.counts.refused("broken")
		s.config.Log.Warn("a joining peer went away", "from", conn.RemoteAddr(), "err", err)
	}
}

// converse returns an error when the connection broke. What is refused it has counted and logged.
func (s *Server) converse(ctx context.Context, conn *tls.Conn) error {
	bound, err := bindingOf(conn)
	if err != nil {
		return err
	}
	h, err := readHead(conn)
	if err == nil {
		err = s.proven(ctx, h, bound)
	}
	if err != nil {
		return s.refuse(ctx, conn, err)
	}
	if err := writeMessage(conn, goOn, nil); err != nil {
		return fmt.Errorf("read the ask: %w", err)
	}
	a, err := readAsk(conn, h)
	if err != nil {
		return s.refuse(ctx, conn, err)
	}
	body, done, err := s.admit(ctx, h.token, a, bound)
	if err != nil {
		return s.refuse(ctx, conn, err)
	}
	// Counted before it is sent: the peer is in the cluster, whether or not it hears of it.
	s.counts.admitted(done.how)
	s.config.Log.Info("a peer was admitted", "peer", done.peer.ID, "name", done.peer.Name, "from", conn.RemoteAddr(), "how", done.how)
	if err := writeMessage(conn, granted, body); err != nil {
		return fmt.Errorf("answer peer %v: %w", done.peer.ID, err)
	}
	return nil
}

// refuse tells the joining peer that it is not let in, and the operator why, unless the connection is of no use: then it
// returns err.
func (s *Server) refuse(ctx context.Context, conn *tls.Conn, err error) error {
	if errors.Is(err, errBroken) {
		return err
	}
	no := refusalOf(err)
	s.counts.refused(no.code)
	s.config.Log.Warn("a joining peer was refused", "from", conn.RemoteAddr(), "code", no.code, "err", err)
	if errors.Is(err, trust.ErrTokenWrong) || errors.Is(err, errWire) {
		sleep(ctx, wrongPause)
	}
	data, err := encodeRefusal(no)
	if err != nil {
		return err
	}
	// Whether it arrives makes no difference here.
	_ = writeMessage(conn, refused, data)
	return nil
}

// errBroken says that the connection ended, or took too long.
var errBroken = errors.New("the connection broke")

func readHead(conn *tls.Conn) (head, error) {
	b := make([]byte, headSize)
	if err := conn.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
		return head{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	if _, err := io.ReadFull(conn, b); err != nil {
		return head{}, fmt.Errorf("read the head: %w: %w", errBroken, err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil { // the transport bounds the whole
		return head{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	h, err := decodeHead(b)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrBadAsk, err)
	}
	return h, err
}

// proven says whether who sent the head has a token. An unknown one is no other answer than a wrong proof.
func (s *Server) proven(ctx context.Context, h head, bound binding) error {
	_, token, err := readToken(ctx, s.config.Root, h.token)
	if err != nil {
		return err
	}
	return token.Accepts(h.proven(bound), h.proof, s.config.Now())
}

// readAsk reads what the head announced.
func readAsk(r io.Reader, h head) (*ask, error) {
	data, err := readBody(r, h.length)
	if err != nil {
		return nil, fmt.Errorf("read the ask: %w: %w", errBroken, err)
	}
	if sha256.Sum256(data) != h.digest {
		return nil, fmt.Errorf("%w: it is not the one that was announced", ErrBadAsk)
	}
	return decodeAsk(data)
}

// admit lets the peer in and makes its answer.
func (s *Server) admit(ctx context.Context, token trust.TokenID, a *ask, bound binding) ([]byte, *admission, error) {
	now := s.config.Now()
	if !trust.Signed(a.key, possessionUse, possessed(bound, token), a.possession) {
		return nil, nil, fmt.Errorf("%w: its key did not sign", ErrBadAsk)
	}
	if skew := a.clock.Sub(now); skew > maxSkew || skew < -maxSkew {
		return nil, nil, fmt.Errorf("%w: the joining machine's says %v, the cluster's %v", ErrClock,
			a.clock.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	secrets, err := Load(ctx, s.config.Root)
	if err != nil {
		return nil, nil, err
	}
	done := &admission{
		root: s.config.Root, alive: s.config.Alive, ask: a, token: token, bound: bound, secrets: secrets, now: now,
		fresh: cluster.PeerID(cluster.NewID()),
	}
	m, err := topology.Change(ctx, s.config.Root, func(m *topology.Map) (topology.Extra, error) { return done.edit(ctx, m) })
	if err != nil {
		return nil, nil, err
	}
	answer := &Answer{
		Peer: done.peer.ID, Number: done.peer.Number, Returned: done.how == rejoined, List: secrets.List, Gossip: secrets.Gossip,
		IntegrityKey: s.config.IntegrityKey, Epoch: m.Epoch, Peers: m.Members(),
	}
	body, err := encodeAnswer(answer, done.certificate)
	return body, done, err
}
