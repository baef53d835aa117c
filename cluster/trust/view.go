package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// view is what a Store knows at one moment. It does not change: the Store replaces it.
type view struct {
	cluster cluster.ClusterID
	list    List
	roots   *x509.CertPool
	revoked map[cluster.PeerID]bool
	// seen belongs to the list: what another list admitted must be looked at again.
	seen *memory

	credentials *Credentials
	// own is what is shown to peers, joining what is shown to who has only a pin: that with its authority.
	own, joining tls.Certificate
}

func newView(list List) (*view, error) {
	c, err := list.check()
	if err != nil {
		return nil, err
	}
	v := &view{cluster: c, list: list, roots: x509.NewCertPool(), revoked: map[cluster.PeerID]bool{}, seen: &memory{}}
	for _, authority := range list.Authorities {
		v.roots.AddCert(authority)
	}
	for _, id := range list.Revoked {
		v.revoked[id] = true
	}
	return v, nil
}

// mine says whether an authority of the view's list signed the credentials. Whether they are revoked or have expired is
// for the others to say: a peer has to run to be told.
func (v *view) mine(credentials *Credentials) error {
	if _, err := holder(credentials.certificate, v.cluster, v.roots); err != nil {
		return fmt.Errorf("own %v: %w", credentials, err)
	}
	return nil
}

// with is the view with these credentials to show.
func (v *view) with(credentials *Credentials) *view {
	leaf := credentials.certificate
	next := *v
	next.credentials = credentials
	next.own = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: credentials.key(), Leaf: leaf}
	next.joining = next.own
	for _, authority := range v.list.Authorities {
		if leaf.CheckSignatureFrom(authority) == nil {
			next.joining.Certificate = [][]byte{leaf.Raw, authority.Raw}
		}
	}
	return &next
}

// identify says who shows these certificates, at now.
func (v *view) identify(shown []*x509.Certificate, now time.Time) (Identity, error) {
	if len(shown) == 0 {
		return Identity{}, ErrNoCertificate
	}
	leaf := shown[0] // our authorities sign holders directly: whatever follows is not needed
	identity, err := v.seen.holder(leaf, func() (Identity, error) { return holder(leaf, v.cluster, v.roots) })
	if err != nil {
		return Identity{}, err
	}
	if v.revoked[identity.Peer] {
		return Identity{}, fmt.Errorf("%v, list %d: %w", identity, v.list.Epoch, ErrRevoked)
	}
	if err := checkTime(leaf, now); err != nil {
		return Identity{}, fmt.Errorf("%v: %w", identity, err)
	}
	return identity, nil
}

// holder says whose certificate it is, when an authority of the cluster signed it, at whatever time.
func holder(leaf *x509.Certificate, c cluster.ClusterID, roots *x509.CertPool) (Identity, error) {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots,
		// Its own beginning lies within its authority's life: Issue saw to that, for its end as well. Whether it is
		// valid now is checkTime's, which tells early from late, and a stranger's certificate from both.
		CurrentTime: leaf.NotBefore,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // the role says what it is for
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return Identity{}, ErrUnknownAuthority
	case err != nil:
		return Identity{}, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	case leaf.IsCA:
		return Identity{}, fmt.Errorf("an authority's: %w", ErrBadCertificate)
	}
	return identityOf(leaf, c)
}

// checkTime says whether the certificate is valid at now.
func checkTime(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("valid from %v, now is %v: %w", leaf.NotBefore, now.UTC(), ErrNotYetValid)
	case now.After(leaf.NotAfter):
		return fmt.Errorf("valid to %v, now is %v: %w", leaf.NotAfter, now.UTC(), ErrExpired)
	}
	return nil
}

// memory keeps what holder said of good certificates, so that a call costs one hash instead of one signature.
type memory struct {
	mu    sync.RWMutex
	known map[[sha256.Size]byte]Identity
}

// maxMemory bounds it: certificates of some thousand peers. Only certificates of our own authorities come in, so
// strangers cannot fill it; when it is full it begins anew.
const maxMemory = 4096

func (m *memory) holder(leaf *x509.Certificate, verify func() (Identity, error)) (Identity, error) {
	digest := sha256.Sum256(leaf.Raw)
	m.mu.RLock()
	identity, found := m.known[digest]
	m.mu.RUnlock()
	if found {
		return identity, nil
	}
	identity, err := verify()
	if err != nil {
		return Identity{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxMemory {
		m.known = map[[sha256.Size]byte]Identity{}
	}
	m.known[digest] = identity
	return identity, nil
}
