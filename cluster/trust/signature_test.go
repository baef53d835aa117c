package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
)

// TestASignatureIsForOneUse: what was signed for one use, by one key, is worth nothing for another.
func TestASignatureIsForOneUse(t *testing.T) {
	r := newRealm(t)
	credentials := r.store(newPeer()).Credentials()
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("data")
	signature, requested := credentials.Sign("gossip", data), request.Sign("gossip", data)
	key, err := RequestedKey(request.Bytes())
	if err != nil || !key.Equal(request.PublicKey()) {
		t.Fatal(key, err)
	}
	if !Signed(credentials.PublicKey(), "gossip", data, signature) || !Signed(key, "gossip", data, requested) {
		t.Error("a good signature is refused")
	}
	for what, signed := range map[string]bool{
		"another use":      Signed(credentials.PublicKey(), "gossi", append([]byte("p"), data...), signature),
		"other data":       Signed(credentials.PublicKey(), "gossip", []byte("date"), signature),
		"another key":      Signed(key, "gossip", data, signature),
		"no key":           Signed(nil, "gossip", data, signature),
		"a key of zeros":   Signed(make([]byte, ed25519.PublicKeySize), "gossip", data, make([]byte, ed25519.SignatureSize)),
		"no signature":     Signed(key, "gossip", data, nil),
		"a bare signature": Signed(key, "gossip", data, ed25519.Sign(request.key(), data)),
	} {
		if signed {
			t.Errorf("taken with %s", what)
		}
	}
}

// TestSignaturesStayAsTheyAre: other peers check what they cover.
func TestSignaturesStayAsTheyAre(t *testing.T) {
	golden(t, "signature", (&Request{key: hide(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))}).Sign("use", []byte("data")))
}

// TestARequestIsReadAsWritten: the same key asks the same.
func TestARequestIsReadAsWritten(t *testing.T) {
	request, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRequest(request.Marshal())
	if err != nil || !bytes.Equal(again.Bytes(), request.Bytes()) || !again.PublicKey().Equal(request.PublicKey()) {
		t.Fatal(again, err)
	}
	pair := newRealm(t).store(newPeer()).Credentials().Marshal()
	for _, data := range [][]byte{nil, pair, append(request.Marshal(), '\n'), request.Marshal()[1:], bytes.Repeat([]byte{'x'}, maxPair+1)} {
		if _, err := ParseRequest(data); !errors.Is(err, ErrBadPair) {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
}
