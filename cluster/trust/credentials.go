package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// Request is a new key that has no certificate yet.
type Request struct {
	key hidden[ed25519.PrivateKey]
	der []byte
}

// NewRequest makes a key and the request to have it certified. A renewal takes a new key as well, so that a key that
// was copied is worth no more than one certificate's life.
func NewRequest() (*Request, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return requestFor(key)
}

func requestFor(key ed25519.PrivateKey) (*Request, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a request for a certificate: %w", err)
	}
	return &Request{key: hide(key), der: der}, nil
}

// Bytes is the request as Authority.Issue takes it (PKCS #10, DER). It holds no secret.
func (r *Request) Bytes() []byte { return bytes.Clone(r.der) }

// Complete joins the key with the certificate (DER) that was issued for it.
func (r *Request) Complete(certificate []byte) (*Credentials, error) {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("read the certificate issued: %w: %w", ErrBadCertificate, err)
	}
	if !r.key().Public().(ed25519.PublicKey).Equal(parsed.PublicKey) {
		return nil, fmt.Errorf("read the certificate issued: %w: it is for another key", ErrBadCertificate)
	}
	return newCredentials(r.key(), parsed)
}

// Format keeps the key out of logs.
func (r Request) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "request for a certificate") // a fmt.State keeps its own errors
}

// Credentials are a holder's private key and its certificate. They do not change.
type Credentials struct {
	cluster     cluster.ClusterID
	identity    Identity
	key         hidden[ed25519.PrivateKey]
	certificate *x509.Certificate
}

// newCredentials reads the certificate's names. Whether an authority signed it is for a Store to say, which has the
// list.
func newCredentials(key ed25519.PrivateKey, certificate *x509.Certificate) (*Credentials, error) {
	if len(certificate.URIs) == 0 || certificate.IsCA {
		return nil, fmt.Errorf("certificate of nobody: %w", ErrBadCertificate)
	}
	id, err := cluster.ParseID(certificate.URIs[0].Host)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", certificate.URIs[0], ErrBadCertificate)
	}
	identity, err := identityOf(certificate, cluster.ClusterID(id))
	if err != nil {
		return nil, err
	}
	return &Credentials{cluster: cluster.ClusterID(id), identity: identity, key: hide(key), certificate: certificate}, nil
}

// Cluster is the cluster that the credentials are for.
func (c *Credentials) Cluster() cluster.ClusterID { return c.cluster }

// Identity is who holds them.
func (c *Credentials) Identity() Identity { return c.identity }

// Certificate is the certificate. It must not be changed.
func (c *Credentials) Certificate() *x509.Certificate { return c.certificate }

// RenewAt is when to ask for the next certificate: at two thirds of this one's life.
func (c *Credentials) RenewAt() time.Time {
	life := c.certificate.NotAfter.Sub(c.certificate.NotBefore)
	return c.certificate.NotBefore.Add(life / 3 * 2)
}

// Marshal is the private key and the certificate as PEM, for a file that its owner alone may read.
func (c *Credentials) Marshal() []byte { return marshalPair(c.key(), c.certificate) }

// ParseCredentials reads what Marshal wrote.
func ParseCredentials(data []byte) (*Credentials, error) {
	key, certificate, err := parsePair(data)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	credentials, err := newCredentials(key, certificate)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	return credentials, nil
}

// Format keeps the key out of logs.
func (c Credentials) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "credentials of "+c.identity.String()) // a fmt.State keeps its own errors
}

// maxPair bounds the PEM of a key and a certificate: ours have about 1 KiB.
const maxPair = 16 << 10

// ErrBadPair says that bytes are not a private key and its certificate as Marshal writes them.
var ErrBadPair = errors.New("not a private key and its certificate")

const (
	keyBlock         = "PRIVATE KEY"
	certificateBlock = "CERTIFICATE"
)

func marshalPair(key ed25519.PrivateKey, certificate *x509.Certificate) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err) // an Ed25519 key always has this form
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: certificate.Raw})...)
}

// parsePair reads what marshalPair wrote, byte for byte, and that the two belong together. It never quotes its input.
func parsePair(data []byte) (ed25519.PrivateKey, *x509.Certificate, error) {
	if len(data) > maxPair {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrBadPair, len(data), maxPair)
	}
	first, rest := pem.Decode(data)
	if first == nil || first.Type != keyBlock {
		return nil, nil, fmt.Errorf("%w: it begins with no private key", ErrBadPair)
	}
	second, _ := pem.Decode(rest)
	if second == nil || second.Type != certificateBlock {
		return nil, nil, fmt.Errorf("%w: no certificate follows the key", ErrBadPair)
	}
	anyKey, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the key cannot be read", ErrBadPair)
	}
	key, ok := anyKey.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%w: the key is not Ed25519", ErrBadPair)
	}
	certificate, err := x509.ParseCertificate(second.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBadPair, err)
	}
	if !key.Public().(ed25519.PublicKey).Equal(certificate.PublicKey) {
		return nil, nil, fmt.Errorf("%w: the certificate is for another key", ErrBadPair)
	}
	if !bytes.Equal(data, marshalPair(key, certificate)) {
		return nil, nil, fmt.Errorf("%w: something stands beside them", ErrBadPair)
	}
	return key, certificate, nil
}
