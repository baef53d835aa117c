package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// How long certificates live.
const (
	// Validity is the life of a holder's certificate. It is renewed at two thirds, which leaves two weeks in which
	// nobody can sign before anything stops. It is also how long a revoked id must be remembered at most: when the last
	// certificate has run out, the list may forget it.
	Validity = 6 * 7 * 24 * time.Hour

	// authorityValidity is the life of an authority: replacing one takes an operator and a while with two in the list,
	// so it should not come due in the life of the hardware, and must come due some day.
	authorityValidity = 10 * 365 * 24 * time.Hour

	// clockSkew is how far certificates are dated back: what a clock that was set by hand, or to the wrong side of
	// summer time, is wrong by.
	clockSkew = time.Hour
)

// maxRequest bounds a request for a certificate, in bytes. Ours have about 200; anything much longer carries what is
// not taken from it.
const maxRequest = 4 << 10

// ErrBadRequest says that a request for a certificate is none, or not in our form.
var ErrBadRequest = errors.New("bad request for a certificate")

// Authority is the cluster's certificate authority: its key is what makes a peer a peer. It may be used concurrently.
//
// Its keys, and those of holders, are Ed25519: there are no parameters to choose and so none to check in a request, and
// signing takes no randomness, so that a copied virtual machine cannot give the key away by signing twice with the same.
// What P-256 has over it, browsers and old TLS libraries, never speaks to these ports.
type Authority struct {
	cluster     cluster.ClusterID
	key         hidden[ed25519.PrivateKey]
	certificate *x509.Certificate
}

// NewAuthority makes the authority of a new cluster, or the one that is to replace another.
func NewAuthority(c cluster.ClusterID, now time.Time) (*Authority, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "holdfast cluster " + c.String()},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityValidity),
		URIs:                  []*url.URL{authorityName(c)},
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	return &Authority{cluster: c, key: hide(key), certificate: certificate}, nil
}

// Cluster is the cluster that the authority signs for.
func (a *Authority) Cluster() cluster.ClusterID { return a.cluster }

// Certificate is the authority's own certificate, for a List. It must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// Pin names the authority's key.
func (a *Authority) Pin() Pin { return PinOf(a.certificate) }

// Issue signs a certificate for identity and returns its DER. The request proves that its sender has the key; all else
// that stands in it is left out. Who the sender is, and whether it may be that, the caller has found out.
func (a *Authority) Issue(request []byte, identity Identity, now time.Time) ([]byte, error) {
	key, err := requestedKey(request)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %v: %w", identity, err)
	}
	if err := identity.check(); err != nil {
		return nil, fmt.Errorf("issue a certificate for %v: %w", identity, err)
	}
	if now.Before(a.certificate.NotBefore) || !now.Before(a.certificate.NotAfter) {
		return nil, fmt.Errorf("issue a certificate for %v: the authority is valid from %v to %v", identity,
			a.certificate.NotBefore, a.certificate.NotAfter)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if identity.Roles.Any(RolePeer) {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: identity.String()}, // for people; nobody here reads it
		// Never outside the authority's own life: Store looks at the holder's alone.
		NotBefore:             later(now.Add(-clockSkew), a.certificate.NotBefore),
		NotAfter:              earlier(now.Add(Validity), a.certificate.NotAfter),
		URIs:                  identity.names(a.cluster),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key())
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %v: %w", identity, err)
	}
	return der, nil
}

// requestedKey is the public key of a request whose sender has the private one.
func requestedKey(request []byte) (ed25519.PublicKey, error) {
	if len(request) > maxRequest {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrBadRequest, len(request), maxRequest)
	}
	parsed, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	// The type first: checking signatures of foreign kinds is work for a stranger.
	key, ok := parsed.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: its key is %v, not Ed25519", ErrBadRequest, parsed.PublicKeyAlgorithm)
	}
	if err := parsed.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return key, nil
}

// Marshal is the authority with its private key, as PEM. Whoever reads it can be any peer.
func (a *Authority) Marshal() []byte { return marshalPair(a.key(), a.certificate) }

// ParseAuthority reads what Marshal wrote.
func ParseAuthority(data []byte) (*Authority, error) {
	key, certificate, err := parsePair(data)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	c, err := clusterOf(certificate)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	return &Authority{cluster: c, key: hide(key), certificate: certificate}, nil
}

// Format keeps the key out of logs.
func (a Authority) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "authority of "+a.cluster.String()) // a fmt.State keeps its own errors
}

// Pin is the SHA-256 of an authority's SubjectPublicKeyInfo. It names the key, not the certificate.
type Pin [sha256.Size]byte

// PinOf is the pin of an authority's certificate.
func PinOf(authority *x509.Certificate) Pin { return sha256.Sum256(authority.RawSubjectPublicKeyInfo) }

func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// serial is a random serial number of a certificate: 127 bits, positive and not zero.
func serial() *big.Int {
	id := cluster.NewID()
	id[0] = id[0]&0x7f | 0x40
	return new(big.Int).SetBytes(id[:])
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sameCertificate says whether two certificates are the same bytes.
func sameCertificate(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) }
