package trust

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// How long a join token is good for.
const (
	// TokenLife is what a person needs to carry it to another machine.
	TokenLife = 10 * time.Minute
	// MaxTokenLife is for provisioning that starts a machine first. A token is a way into the cluster that lies around.
	MaxTokenLife = time.Hour
)

// Limits of a token, so that it still fits a terminal: about 1,000 characters at most, about 160 with one address.
const (
	maxAddresses = 8
	maxAddress   = 64
)

// The errors of what a person pasted.
var (
	ErrNotToken     = errors.New("not a join token")
	ErrTokenFormat  = errors.New("a join token of another release of holdfast")
	ErrTokenCut     = errors.New("the join token is cut short; copy all of it")
	ErrTokenDamaged = errors.New("the join token was altered on the way; copy it again")
)

// The errors of a token that the cluster refuses.
var (
	// ErrTokenWrong is a proof that was not made with the token's secret for this request.
	ErrTokenWrong   = errors.New("the join token is not one of this cluster's")
	ErrTokenExpired = errors.New("the join token has expired; ask for another")
)

// TokenID names a token where the cluster keeps its verifier. It is no secret.
type TokenID [8]byte

func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// tokenSecret is 128 random bits.
type tokenSecret [16]byte

// Token lets one new peer into the cluster, once and soon. It is made by NewToken or ParseToken.
type Token struct {
	ID TokenID
	// Pin is how the joining peer knows the cluster.
	Pin Pin
	// Addresses are peers to ask, as host:port.
	Addresses []string
	// Expires is by the clock of the cluster, which decides; to the second.
	Expires time.Time

	secret hidden[tokenSecret]
}

// NewToken makes a token. A life of zero means TokenLife.
func NewToken(pin Pin, addresses []string, life time.Duration, now time.Time) (*Token, error) {
	if life == 0 {
		life = TokenLife
	}
	if life < time.Second || life > MaxTokenLife {
		return nil, fmt.Errorf("make a join token: a life of %v is not between 1s and %v", life, MaxTokenLife)
	}
	if err := checkAddresses(addresses); err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	var id TokenID
	var secret tokenSecret
	for _, random := range [][]byte{id[:], secret[:]} {
		if _, err := rand.Read(random); err != nil {
			panic(err) // crypto/rand aborts the process instead
		}
	}
	return &Token{
		ID: id, Pin: pin, Addresses: addresses, Expires: time.Unix(now.Add(life).Unix(), 0), secret: hide(secret),
	}, nil
}

func checkAddresses(addresses []string) error {
	if len(addresses) == 0 || len(addresses) > maxAddresses {
		return fmt.Errorf("%d addresses, not between 1 and %d", len(addresses), maxAddresses)
	}
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" || len(address) > maxAddress {
			return fmt.Errorf("address %q is not host:port of at most %d bytes", address, maxAddress)
		}
	}
	return nil
}

// String names the token without giving it away.
func (t Token) String() string { return "join token " + t.ID.String() }

// Format keeps the secret out of logs.
func (t Token) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, t.String()) // a fmt.State keeps its own errors
}

// tokenPrefix says what the text is; the digit is its format. No character of a token ends a word, so that a double
// click takes all of it.
const (
	tokenKind   = "hfjoin"
	tokenPrefix = tokenKind + "1_"
)

// tokenText is base32 in lower case: one spelling for each token, whatever a terminal or a person does to it is seen.
var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Sizes inside a token: FORMAT.md has the boxes.
const (
	tokenSum   = 4
	tokenFixed = 2 + 8 + 16 + 8 + sha256.Size + 1
	tokenLimit = tokenFixed + maxAddresses*(1+maxAddress) + tokenSum
)

// Encode is the token with its secret, for one person to carry to one machine.
func (t *Token) Encode() string {
	data := make([]byte, 2, tokenLimit)
	data = append(data, t.ID[:]...)
	secret := t.secret()
	data = append(data, secret[:]...)
	data = binary.LittleEndian.AppendUint64(data, uint64(t.Expires.Unix()))
	data = append(data, t.Pin[:]...)
	data = append(data, byte(len(t.Addresses)))
	for _, address := range t.Addresses {
		data = append(data, byte(len(address)))
		data = append(data, address...)
	}
	binary.LittleEndian.PutUint16(data, uint16(len(data)+tokenSum))
	sum := sha256.Sum256(data)
	return tokenPrefix + tokenText.EncodeToString(append(data, sum[:tokenSum]...))
}

// ParseToken reads what Encode wrote; white space, where a terminal broke the line, does not count. Its errors quote
// nothing of the text.
func ParseToken(text string) (*Token, error) {
	text = strings.Join(strings.Fields(text), "")
	if err := checkPrefix(text); err != nil {
		return nil, err
	}
	data, err := decodeToken(text[len(tokenPrefix):])
	if err != nil {
		return nil, err
	}
	t, err := readToken(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTokenDamaged, err)
	}
	return t, nil
}

func checkPrefix(text string) error {
	switch {
	case strings.HasPrefix(text, tokenPrefix):
		return nil
	case text != "" && strings.HasPrefix(tokenPrefix, text):
		return ErrTokenCut
	case strings.HasPrefix(text, tokenKind):
		return ErrTokenFormat
	}
	return ErrNotToken
}

// decodeToken takes length and checksum off: what is cut short is told apart from what was altered by the length that
// stands first.
func decodeToken(text string) ([]byte, error) {
	const head = 4 // characters that hold the length
	if len(text) < head {
		return nil, ErrTokenCut
	}
	start := make([]byte, tokenText.DecodedLen(head))
	if _, err := tokenText.Decode(start, []byte(text[:head])); err != nil {
		return nil, ErrTokenDamaged
	}
	length := int(binary.LittleEndian.Uint16(start))
	if length < tokenFixed+tokenSum || length > tokenLimit {
		return nil, ErrTokenDamaged
	}
	if whole := tokenText.EncodedLen(length); len(text) < whole {
		return nil, fmt.Errorf("%w: %d of %d characters are there", ErrTokenCut, len(tokenPrefix)+len(text), len(tokenPrefix)+whole)
	}
	data, err := tokenText.DecodeString(text)
	if err != nil || len(data) != length || tokenText.EncodeToString(data) != text {
		return nil, ErrTokenDamaged
	}
	body := data[:length-tokenSum]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:tokenSum], data[len(body):]) {
		return nil, ErrTokenDamaged
	}
	return body[2:], nil
}

// readToken reads what stands between length and checksum.
func readToken(data []byte) (*Token, error) {
	t := new(Token)
	data = data[copy(t.ID[:], data):]
	var secret tokenSecret
	data = data[copy(secret[:], data):]
	t.secret = hide(secret)
	t.Expires = time.Unix(int64(binary.LittleEndian.Uint64(data)), 0)
	data = data[8:]
	data = data[copy(t.Pin[:], data):]
	count := int(data[0])
	data = data[1:]
	for range count {
		if len(data) == 0 || len(data)-1 < int(data[0]) {
			return nil, errors.New("addresses go past its end")
		}
		t.Addresses = append(t.Addresses, string(data[1:1+data[0]]))
		data = data[1+data[0]:]
	}
	if len(data) != 0 {
		return nil, errors.New("something follows the addresses")
	}
	return t, checkAddresses(t.Addresses)
}
