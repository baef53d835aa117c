package sigv4

import (
	"bytes"
	"fmt"
	"testing"
)

func TestKeptSigningKeysAreThoseOfTheirScope(t *testing.T) {
	var keys SigningKeys
	for round := range 2 {
		for n := range 3 * maxSigningKeys / 2 {
			secret, s := fmt.Sprintf("secret %d", n%7), scope{fmt.Sprintf("2026%04d", n%40), fmt.Sprintf("region-%d", n), service}
			if got := keys.key(secret, s); !bytes.Equal(got, s.key(secret)) {
				t.Fatalf("round %d: the key of %v differs", round, s)
			}
			if got := keys.key(secret, s); !bytes.Equal(got, s.key(secret)) {
				t.Fatalf("round %d: the kept key of %v differs", round, s)
			}
		}
		if len(keys.keys) > maxSigningKeys {
			t.Fatalf("%d keys are kept", len(keys.keys))
		}
	}
}
