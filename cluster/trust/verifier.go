package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Proof shows that a request for a certificate comes from who has a token's secret. It is good for this request alone,
// so it may pass through any peer on its way.
type Proof [ed25519.SignatureSize]byte

// Verifier is what the cluster keeps of a token: enough to check a proof, not to make one.
//
// Using it up is the keeper's: delete it in the same change that admits the peer. A keeper that remembers, until the
// token expires, which request used it may answer the same request again, for a peer whose answer was lost.
type Verifier struct {
	ID      TokenID
	Expires time.Time

	key [ed25519.PublicKeySize]byte
}

// What the token's secret is used for, so that no two uses can be mistaken for each other.
const (
	keyContext   = "holdfast join key 1\x00"
	proofContext = "holdfast join proof 1\x00"
)

// key is the signing key that follows from the secret: 128 random bits, so the public half gives nothing to search.
func (t *Token) key() ed25519.PrivateKey {
	secret := t.secret()
	seed := sha256.Sum256(append([]byte(keyContext), secret[:]...))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Verifier is what the cluster keeps of the token.
func (t *Token) Verifier() Verifier {
	v := Verifier{ID: t.ID, Expires: t.Expires}
	copy(v.key[:], t.key().Public().(ed25519.PublicKey))
	return v
}

// Prove makes the proof that goes with a request for a certificate.
func (t *Token) Prove(request []byte) Proof {
	return Proof(ed25519.Sign(t.key(), proofMessage(t.ID, request)))
}

// proofMessage binds a proof to one token and one request.
func proofMessage(id TokenID, request []byte) []byte {
	sum := sha256.Sum256(request)
	return append(append([]byte(proofContext), id[:]...), sum[:]...)
}

// Accepts returns nil when proof was made with the token for this request, and the token has not expired. The zero
// Verifier accepts nothing. There is no secret here that the time it takes could tell of.
func (v Verifier) Accepts(request []byte, proof Proof, now time.Time) error {
	// Zeros are a point of small order, under which signatures can be made up.
	if v.key == [ed25519.PublicKeySize]byte{} || !ed25519.Verify(v.key[:], proofMessage(v.ID, request), proof[:]) {
		return ErrTokenWrong
	}
	if !now.Before(v.Expires) {
		return ErrTokenExpired
	}
	return nil
}

// verifierMagic begins a verifier; its last digit is the format.
const verifierMagic = "HFTOKEN1"

const verifierSize = len(verifierMagic) + 8 + 8 + ed25519.PublicKeySize

// ErrBadVerifier says that bytes are no verifier of a format known here.
var ErrBadVerifier = errors.New("not a verifier of a join token")

// Marshal is the verifier as a row of the root group. It holds no secret.
func (v Verifier) Marshal() []byte {
	data := make([]byte, 0, verifierSize)
	data = append(data, verifierMagic...)
	data = append(data, v.ID[:]...)
	data = binary.LittleEndian.AppendUint64(data, uint64(v.Expires.Unix()))
	return append(data, v.key[:]...)
}

// ParseVerifier reads what Marshal wrote.
func ParseVerifier(data []byte) (Verifier, error) {
	if len(data) != verifierSize || string(data[:len(verifierMagic)]) != verifierMagic {
		return Verifier{}, fmt.Errorf("%d bytes: %w", len(data), ErrBadVerifier)
	}
	data = data[len(verifierMagic):]
	var v Verifier
	data = data[copy(v.ID[:], data):]
	v.Expires = time.Unix(int64(binary.LittleEndian.Uint64(data)), 0)
	copy(v.key[:], data[8:])
	return v, nil
}
