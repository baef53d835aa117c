package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// PublicKey is the public half of the holder's key, which the cluster's map has for each peer.
func (c *Credentials) PublicKey() ed25519.PublicKey { return c.key().Public().(ed25519.PublicKey) }

// Sign signs data with the holder's key, for one use: what is signed for one can never pass for another. Signed checks
// it.
func (c *Credentials) Sign(use string, data []byte) []byte {
	return ed25519.Sign(c.key(), signedMessage(use, data))
}

// PublicKey is the public half of the new key.
func (r *Request) PublicKey() ed25519.PublicKey { return r.key().Public().(ed25519.PublicKey) }

// Sign is Credentials.Sign with the new key.
func (r *Request) Sign(use string, data []byte) []byte {
	return ed25519.Sign(r.key(), signedMessage(use, data))
}

// Signed says whether the signature of data, for this use, was made with the key. A key of another length, or of zeros,
// signed nothing.
func Signed(key ed25519.PublicKey, use string, data, signature []byte) bool {
	if len(key) != ed25519.PublicKeySize || bytes.Equal(key, make([]byte, ed25519.PublicKeySize)) {
		return false
	}
	return ed25519.Verify(key, signedMessage(use, data), signature)
}

// signedMessage begins as no certificate and no handshake of TLS does, which the same keys sign.
func signedMessage(use string, data []byte) []byte {
	return append(append(append([]byte("holdfast signature 1\x00"), use...), 0), data...)
}

// RequestedKey is the public key of a request (PKCS #10, DER) that was made with its private half. The error is
// ErrBadRequest.
func RequestedKey(request []byte) (ed25519.PublicKey, error) { return requestedKey(request) }

// Marshal is the private key of the request as PEM, for a file that its owner alone may read: with it a peer that
// stops before its answer comes can ask for the same once more.
func (r *Request) Marshal() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(r.key())
	if err != nil {
		panic(err) // an Ed25519 key always has this form
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
}

// ParseRequest reads what Request.Marshal wrote. The error is ErrBadPair and quotes nothing.
func ParseRequest(data []byte) (*Request, error) {
	if len(data) > maxPair {
		return nil, fmt.Errorf("read a request's key: %w: %d bytes, at most %d", ErrBadPair, len(data), maxPair)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("read a request's key: %w: it begins with no private key", ErrBadPair)
	}
	anyKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := anyKey.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("read a request's key: %w: the key cannot be read", ErrBadPair)
	}
	r, err := requestFor(key)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(data, r.Marshal()) {
		return nil, fmt.Errorf("read a request's key: %w: something stands beside it", ErrBadPair)
	}
	return r, nil
}
