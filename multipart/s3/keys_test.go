package s3

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

func TestKeptSigningKeysAreThoseOfTheirScope(t *testing.T) {
	var keys signingKeys
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for round := range 2 {
		for n := range 3 * maxSigningKeys / 2 {
			secret := fmt.Sprintf("secret %d", n%7)
			r := &sigv4.Request{Method: "GET", Path: "/", Host: "h", Header: http.Header{}}
			sigv4.Sign(r, sigv4.Credentials{AccessKey: "A", SecretKey: secret}, fmt.Sprintf("region-%d", n), day.AddDate(0, 0, n%40))
			claim, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if got := keys.of(claim, secret); !bytes.Equal(got, claim.Key(secret)) {
					t.Fatalf("round %d: the key of %s differs", round, claim.Scope())
				}
			}
		}
		if len(keys.keys) > maxSigningKeys {
			t.Fatalf("%d keys are kept", len(keys.keys))
		}
	}
}
