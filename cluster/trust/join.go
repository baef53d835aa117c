package trust

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// PinnedConfig is how a joining peer connects: all it knows of the cluster is the pin in its token. It takes a peer of
// the cluster whose authority has that pin, and nobody else; which peer does not matter. A now of nil means time.Now.
//
// Whether that peer was revoked it cannot know. It does not have to: it sends nothing that could be used for another
// request than its own.
func PinnedConfig(pin Pin, now func() time.Time) *tls.Config {
	if now == nil {
		now = time.Now
	}
	protocols := []string{JoinProtocol}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		Time:                   now,
		InsecureSkipVerify:     true, // no host names, no roots of the machine: VerifyConnection asks for the pin
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := checkProtocol(state, protocols); err != nil {
				return fmt.Errorf("join the cluster: %w", err)
			}
			if err := checkPinned(state.PeerCertificates, pin, now()); err != nil {
				return fmt.Errorf("join the cluster: %w", err)
			}
			return nil
		},
	}
}

// checkPinned says whether a peer of the pinned authority's cluster shows these certificates: its own, and the
// authority's after it.
func checkPinned(shown []*x509.Certificate, pin Pin, now time.Time) error {
	if len(shown) == 0 {
		return ErrNoCertificate
	}
	for _, authority := range shown[1:] {
		if PinOf(authority) != pin {
			continue
		}
		c, err := clusterOf(authority)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AddCert(authority)
		identity, err := holder(shown[0], c, roots)
		if err != nil {
			return err
		}
		if !identity.Roles.Any(RolePeer) {
			return fmt.Errorf("%v answers: %w", identity, ErrWrongRole)
		}
		return checkTime(shown[0], now)
	}
	return fmt.Errorf("nobody with the pin of the token: %w", ErrUnknownAuthority)
}

// Pinned says whether the list trusts the authority of this pin. A joining peer asks it of the list it was given, which
// may have another authority besides.
func (l List) Pinned(pin Pin) bool {
	for _, authority := range l.Authorities {
		if PinOf(authority) == pin {
			return true
		}
	}
	return false
}
