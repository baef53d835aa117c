package join

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

const (
	// dialTimeout and askTimeout bound a connection and what is said on it: more than the cluster takes for either.
	dialTimeout = 5 * time.Second
	askTimeout  = 35 * time.Second
	// rounds is how often all addresses are asked: what was lost on the way is got by asking again.
	rounds = 3
	// roundPause is an election of the root group.
	roundPause = 2 * time.Second
)

// Join asks the peers that the token names, one after another, to be let in, and again when an answer may have been
// lost. It answers when the peer is in the cluster. Errors are those of this package, of trust and of topology, with a
// sentence for the person who started the peer.
func Join(ctx context.Context, network transport.Network, token *trust.Token, a Ask) (*Answer, error) {
	if a.Now == nil {
		a.Now = time.Now
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.Request == nil {
		request, err := trust.NewRequest()
		if err != nil {
			return nil, err
		}
		a.Request = request
	}
	var tried []error
	for round, lasting := 0, false; round < rounds && !lasting; round++ {
		if round > 0 && !sleep(ctx, roundPause) {
			break
		}
		tried, lasting = nil, true
		for _, address := range token.Addresses {
			answer, err := a.at(ctx, network, token, address)
			if err == nil || final(err) {
				return answer, explain(err, token, a.Now())
			}
			tried = append(tried, fmt.Errorf("%s: %w", address, err))
			lasting = lasting && (errors.Is(err, ErrClock) || errors.Is(err, ErrOtherCluster))
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, inOneLine(append(tried, ctx.Err())))
}

// inOneLine is errors.Join for people.
func inOneLine(errs []error) (all error) {
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// final says whether the cluster has answered, so that another address would change nothing.
func final(err error) bool {
	var no *refusal
	return errors.As(err, &no) && no.sentinel != ErrUnavailable
}

// explain adds what the joining side knows better: when a token has expired for long, the cluster has forgotten it.
func explain(err error, token *trust.Token, now time.Time) error {
	if errors.Is(err, trust.ErrTokenWrong) && now.After(token.Expires) {
		return fmt.Errorf("%w (it was good until %v)", trust.ErrTokenExpired, token.Expires.UTC().Format(time.DateTime))
	}
	return err
}

// at asks at one address.
func (a *Ask) at(ctx context.Context, network transport.Network, token *trust.Token, address string) (*Answer, error) {
	conn, err := a.connect(ctx, network, token, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() }) // that ends whatever waits for it
	defer func() { _ = conn.NetConn().Close() }()                         // the answer came, or will not
	defer stop()
	return a.converse(conn, token)
}

// connect reaches a peer of the token's cluster.
func (a *Ask) connect(ctx context.Context, network transport.Network, token *trust.Token, address string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	inner, err := network.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(inner, trust.PinnedConfig(token.Pin, a.Now))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, inOneLine([]error{explainHandshake(err), closing(inner)})
	}
	return conn, nil
}

func closing(conn net.Conn) error {
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// explainHandshake says what a person can do about it.
func explainHandshake(err error) error {
	var alert tls.AlertError
	switch {
	case errors.Is(err, trust.ErrUnknownAuthority):
		return fmt.Errorf("%w: %w", ErrOtherCluster, err)
	case errors.Is(err, trust.ErrExpired), errors.Is(err, trust.ErrNotYetValid):
		return fmt.Errorf("%w: %w", ErrClock, err)
	case errors.As(err, &alert):
		return fmt.Errorf("what listens there admits no peers, or is of another release of holdfast: %w", err)
	}
	return err
}

// converse is the joining side of the conversation.
func (a *Ask) converse(conn *tls.Conn, token *trust.Token) (*Answer, error) {
	bound, err := bindingOf(conn)
	if err != nil {
		return nil, err
	}
	body, err := a.sign(bound, token.ID).encode()
	if err != nil {
		return nil, err
	}
	h := head{token: token.ID, length: uint32(len(body)), digest: sha256.Sum256(body)}
	h.proof = token.Prove(h.proven(bound))
	if _, err := conn.Write(h.encode()); err != nil {
		return nil, err
	}
	if _, err := await(conn, goOn); err != nil {
		return nil, err
	}
	if _, err := conn.Write(body); err != nil {
		return nil, err
	}
	answer, err := await(conn, granted)
	if err != nil {
		return nil, err
	}
	return a.complete(answer, token)
}

// sign makes the ask for one connection.
func (a *Ask) sign(bound binding, token trust.TokenID) *ask {
	signed := &ask{
		Ask: *a, request: a.Request.Bytes(), clock: a.Now(),
		possession: a.Request.Sign(possessionUse, possessed(bound, token)),
	}
	if a.Old != nil {
		signed.before = a.Old.Sign(returnUse, returning(bound, token, a.Request.PublicKey()))
		signed.Peer = a.Old.Identity().Peer
	}
	return signed
}

// await reads a message of that kind; a refusal is an error.
func await(conn *tls.Conn, want kind) ([]byte, error) {
	got, body, err := readMessage(conn)
	switch {
	case err != nil:
		return nil, err
	case got == want:
		return body, nil
	case got != refused:
		return nil, fmt.Errorf("%w: %q instead of %q", errWire, got, want)
	}
	no, err := decodeRefusal(body)
	if err != nil {
		return nil, err
	}
	return nil, no
}

// complete checks an answer against what is known: the pin, the key, and that both are of one cluster.
func (a *Ask) complete(data []byte, token *trust.Token) (*Answer, error) {
	answer, certificate, err := decodeAnswer(data)
	if err != nil {
		return nil, err
	}
	if !answer.List.Pinned(token.Pin) {
		return nil, fmt.Errorf("%w: its list does not have the token's authority", ErrOtherCluster)
	}
	if answer.Credentials, err = a.Request.Complete(certificate); err != nil {
		return nil, err
	}
	if got := (trust.Identity{Peer: answer.Peer, Roles: trust.RolePeer}); answer.Credentials.Identity() != got {
		return nil, fmt.Errorf("%w: a certificate of %v for %v", errWire, answer.Credentials.Identity(), got)
	}
	if _, err := trust.NewStore(trust.Config{Credentials: answer.Credentials, List: answer.List, Now: a.Now}); err != nil {
		return nil, err
	}
	return answer, nil
}
