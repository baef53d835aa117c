package trust

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var manyAddresses = []string{"a:1", "10.0.0.1:9443", "[fe80::1]:9443", "node-4.example:1", "e:1", "f:1", "g:1", strings.Repeat("h", maxAddress-2) + ":1"}

func newToken(t *testing.T, addresses ...string) *Token {
	t.Helper()
	if len(addresses) == 0 {
		addresses = []string{"10.0.0.1:9443"}
	}
	token, err := NewToken(Pin{1, 2, 3}, addresses, 0, dawn)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokensAreReadAsWritten(t *testing.T) {
	for _, addresses := range [][]string{{"[::1]:9443"}, manyAddresses} {
		token := newToken(t, addresses...)
		text := token.Encode()
		for name, pasted := range map[string]string{
			"as it is": text, "with a line end": text + "\r\n", "as a terminal breaks it": " " + text[:70] + "\n  " + text[70:],
		} {
			got, err := ParseToken(pasted)
			if err != nil || got.Encode() != text || !reflect.DeepEqual(got.Addresses, addresses) || !got.Expires.Equal(token.Expires) {
				t.Errorf("%s: %v %v", name, got, err)
			}
		}
		if !token.Expires.Equal(dawn.Add(TokenLife)) {
			t.Errorf("expires %v", token.Expires)
		}
	}
	if one := len(newToken(t).Encode()); one > 200 {
		t.Errorf("a token of one address has %d characters", one)
	}
	if one, two := newToken(t), newToken(t); one.Encode() == two.Encode() || one.ID == two.ID || one.secret() == two.secret() {
		t.Error("two tokens are the same")
	}
}

func TestTokensCutShortSayThat(t *testing.T) {
	text := newToken(t, manyAddresses...).Encode()
	for n := 1; n < len(text); n++ {
		if _, err := ParseToken(text[:n]); !errors.Is(err, ErrTokenCut) {
			t.Fatalf("the first %d of %d characters: %v", n, len(text), err)
		}
	}
}

func TestAlteredTokensAreNeverTaken(t *testing.T) {
	// Of each length modulo five, so that base32 leaves each number of bits unused.
	for _, address := range []string{"a:1", "a:12", "a:123", "a:1234", "a:12345"} {
		wantEveryBitToCount(t, newToken(t, address).Encode())
	}
	text := newToken(t, manyAddresses...).Encode()
	wantEveryBitToCount(t, text)
	body := len(tokenPrefix)
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"nothing":             {"", ErrNotToken},
		"white space":         {" \n", ErrNotToken},
		"an access key":       {"AKIAIOSFODNN7EXAMPLE", ErrNotToken},
		"another release":     {"hfjoin2_" + text[body:], ErrTokenFormat},
		"upper case":          {tokenPrefix + strings.ToUpper(text[body:]), ErrTokenDamaged},
		"one character more":  {text + "a", ErrTokenDamaged},
		"two tokens":          {text + text, ErrTokenDamaged},
		"letters swapped":     {text[:50] + swapped(text[50:]), ErrTokenDamaged},
		"no room for a token": {tokenPrefix + strings.Repeat("a", 40), ErrTokenDamaged},
		"the middle missing":  {text[:60] + text[80:], ErrTokenCut},
	} {
		_, err := ParseToken(test.text)
		if wantErr(t, err, test.want); t.Failed() {
			t.Fatal(name)
		}
	}
}

func wantEveryBitToCount(t *testing.T, text string) {
	t.Helper()
	for i := range len(text) {
		for bit := range 8 {
			altered := []byte(text)
			altered[i] ^= 1 << bit
			if _, err := ParseToken(string(altered)); err == nil {
				t.Fatalf("bit %d of character %d may be anything", bit, i)
			} else if !errors.Is(err, ErrNotToken) && !errors.Is(err, ErrTokenFormat) && !errors.Is(err, ErrTokenCut) && !errors.Is(err, ErrTokenDamaged) {
				t.Fatalf("bit %d of character %d: %v", bit, i, err)
			}
		}
	}
}

// swapped exchanges the first two letters that differ.
func swapped(text string) string {
	b := []byte(text)
	for i := range len(b) - 1 {
		if b[i] != b[i+1] {
			b[i], b[i+1] = b[i+1], b[i]
			break
		}
	}
	return string(b)
}

func TestTokensAreBounded(t *testing.T) {
	for name, make := range map[string]func() (*Token, error){
		"a day":             func() (*Token, error) { return NewToken(Pin{}, []string{"a:1"}, 24*time.Hour, dawn) },
		"less than nothing": func() (*Token, error) { return NewToken(Pin{}, []string{"a:1"}, -time.Minute, dawn) },
		"no address":        func() (*Token, error) { return NewToken(Pin{}, nil, 0, dawn) },
		"nine addresses":    func() (*Token, error) { return NewToken(Pin{}, append(manyAddresses, "i:1"), 0, dawn) },
		"no port":           func() (*Token, error) { return NewToken(Pin{}, []string{"a"}, 0, dawn) },
		"no host":           func() (*Token, error) { return NewToken(Pin{}, []string{":1"}, 0, dawn) },
		"a long address": func() (*Token, error) {
			return NewToken(Pin{}, []string{strings.Repeat("h", maxAddress) + ":1"}, 0, dawn)
		},
	} {
		if token, err := make(); err == nil {
			t.Errorf("%s: %v", name, token)
		}
	}
	if token, err := NewToken(Pin{}, []string{"a:1"}, MaxTokenLife, dawn); err != nil || !token.Expires.Equal(dawn.Add(MaxTokenLife)) {
		t.Error(token, err)
	}
}

func TestVerifierAcceptsOneRequestOfOneToken(t *testing.T) {
	token, other := newToken(t), newToken(t)
	request := []byte("request")
	verifier, err := ParseVerifier(token.Verifier().Marshal())
	if err != nil || verifier.ID != token.ID || !verifier.Expires.Equal(token.Expires) {
		t.Fatal(verifier, err)
	}
	proof := token.Prove(request)
	if err := verifier.Accepts(request, proof, dawn); err != nil {
		t.Fatal(err)
	}
	if err := verifier.Accepts(request, proof, token.Expires.Add(-time.Nanosecond)); err != nil {
		t.Fatal(err)
	}

	posing := *other // another secret under this token's id
	posing.ID = token.ID
	flipped := proof
	flipped[20] ^= 1
	for name, err := range map[string]error{
		"another request": verifier.Accepts([]byte("request of somebody else"), proof, dawn),
		"another secret":  verifier.Accepts(request, posing.Prove(request), dawn),
		"another token":   other.Verifier().Accepts(request, proof, dawn),
		"no proof":        verifier.Accepts(request, Proof{}, dawn),
		"one bit":         verifier.Accepts(request, flipped, dawn),
		"no verifier":     Verifier{}.Accepts(request, proof, dawn),
	} {
		if wantErr(t, err, ErrTokenWrong); t.Failed() {
			t.Fatal(name)
		}
	}
	// Who has no token does not learn that it expired.
	wantErr(t, verifier.Accepts(request, Proof{}, token.Expires), ErrTokenWrong)
	wantErr(t, verifier.Accepts(request, proof, token.Expires), ErrTokenExpired)
}

// A key of zeros is a point of order four: the signature (the neutral point, 0) holds for a quarter of all messages.
func TestZeroVerifierAcceptsNoInventedProof(t *testing.T) {
	invented := Proof{1}
	for i := range 64 {
		wantErr(t, Verifier{Expires: dawn.Add(time.Hour)}.Accepts(fmt.Append(nil, i), invented, dawn), ErrTokenWrong)
	}
}

func TestVerifierHoldsNoSecret(t *testing.T) {
	token := newToken(t)
	kept := string(token.Verifier().Marshal())
	secret := token.secret()
	for _, secret := range [][]byte{secret[:], token.key().Seed()} {
		if strings.Contains(kept, string(secret)) {
			t.Error("what the cluster keeps lets others in")
		}
	}
}
