package trust

import (
	"crypto/tls"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
)

// base is what all our connections have in common. TLS's own checks are about host names and the roots of the machine;
// ours are in VerifyConnection, which every handshake goes through on both sides, resumed ones too, were there any.
func (s *Store) base(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true, // a ticket would outlive a revocation
		Time:                   s.now,
	}
}

// ServerConfig is for the listener of peers: it takes nobody without a certificate of the cluster. Listener makes the
// listener.
func (s *Store) ServerConfig() *tls.Config {
	config := s.base(s.protocols)
	// It asks for a certificate; that one comes, and which, is identify's to judge: TLS would refuse before anybody
	// could count it, and by roots that were fixed when the configuration was made.
	config.ClientAuth = tls.RequestClientCert
	config.GetConfigForClient = s.watch(s.protocols)
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.view.Load().own, nil }
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := s.identify(state, s.protocols)
		return s.refusals.count(err)
	}
	return config
}

// ClientConfig is for a connection to one peer, wherever it is: it takes nobody else.
func (s *Store) ClientConfig(peer cluster.PeerID) *tls.Config {
	config := s.base(s.protocols)
	config.InsecureSkipVerify = true // no host names: VerifyConnection asks for more
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &s.view.Load().own, nil }
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return s.refusals.count(s.meant(state, peer))
	}
	return config
}

// JoinConfig is for the listener of joining peers, which have no certificate yet: it asks for none and shows the
// authority, for the pin. Nothing but the join may be served on it.
func (s *Store) JoinConfig() *tls.Config {
	protocols := []string{JoinProtocol}
	config := s.base(protocols)
	config.GetConfigForClient = s.watch(protocols)
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.view.Load().joining, nil }
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return s.refusals.count(checkProtocol(state, protocols))
	}
	return config
}

// watch counts the clients that TLS will turn away for lack of a version or protocol in common; it changes nothing.
// A client that names no protocol at all TLS lets pass, and VerifyConnection does not.
func (s *Store) watch(protocols []string) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		shared := func(protocol string) bool { return slices.Contains(protocols, protocol) }
		if !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) ||
			len(hello.SupportedProtos) != 0 && !slices.ContainsFunc(hello.SupportedProtos, shared) {
			_ = s.refusals.count(ErrOtherProtocol) // TLS says no by itself
		}
		return nil, nil
	}
}

// Caller says who is at the other end of a connection that a listener with ServerConfig accepted, and that it may still
// be there: the list and the clock of now count. It is asked before each call. Any other connection is refused, be it
// the most trusted one of another listener. The error is a Reason.
func (s *Store) Caller(state tls.ConnectionState) (Identity, error) {
	identity, err := s.complete(state)
	return identity, s.refusals.count(err)
}

// Callee is Caller for the other end: whether a connection made with ClientConfig still leads to the peer that was
// meant, and that is still trusted.
func (s *Store) Callee(state tls.ConnectionState, peer cluster.PeerID) error {
	if _, err := s.complete(state); err != nil {
		return s.refusals.count(err)
	}
	return s.refusals.count(s.meant(state, peer))
}

// complete is identify for a connection whose handshake is over: before that nobody has proved to have the key of the
// certificate it shows.
func (s *Store) complete(state tls.ConnectionState) (Identity, error) {
	if !state.HandshakeComplete {
		return Identity{}, fmt.Errorf("before the end of the handshake: %w", ErrOtherProtocol)
	}
	return s.identify(state, s.protocols)
}

// identify says who is at the other end.
func (s *Store) identify(state tls.ConnectionState, protocols []string) (Identity, error) {
	if err := checkProtocol(state, protocols); err != nil {
		return Identity{}, err
	}
	return s.view.Load().identify(state.PeerCertificates, s.now())
}

// meant says whether the peer that was meant is at the other end.
func (s *Store) meant(state tls.ConnectionState, peer cluster.PeerID) error {
	identity, err := s.identify(state, s.protocols)
	switch {
	case err != nil:
		return fmt.Errorf("connect to peer %v: %w", peer, err)
	case !identity.Roles.Any(RolePeer):
		return fmt.Errorf("connect to peer %v: %v answers: %w", peer, identity, ErrWrongRole)
	case identity.Peer != peer:
		return fmt.Errorf("connect to peer %v: %v answers: %w", peer, identity, ErrWrongPeer)
	}
	return nil
}

func checkProtocol(state tls.ConnectionState, protocols []string) error {
	if state.Version != tls.VersionTLS13 || !slices.Contains(protocols, state.NegotiatedProtocol) {
		return fmt.Errorf("%s, protocol %q: %w", tls.VersionName(state.Version), state.NegotiatedProtocol, ErrOtherProtocol)
	}
	return nil
}
