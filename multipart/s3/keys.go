package s3

import (
	"sync"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// maxSigningKeys bounds what signingKeys keeps: one for each access key and region in use, and day.
const maxSigningKeys = 1024

// signingKeys keeps signing keys: one is good for all requests of a secret, a day and a region, and to make it takes four
// of the five HMACs of a request.
type signingKeys struct {
	mu   sync.Mutex
	keys map[signingKey][]byte
}

type signingKey struct{ secret, scope string }

// of returns the key that a claim was signed with if it is true.
func (k *signingKeys) of(claim *sigv4.Claim, secret string) []byte {
	id := signingKey{secret, claim.Scope()}
	k.mu.Lock()
	key := k.keys[id]
	k.mu.Unlock()
	if key != nil {
		return key
	}
	key = claim.Key(secret)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil || len(k.keys) >= maxSigningKeys {
		k.keys = map[signingKey][]byte{} // those in use are here again with their next request
	}
	k.keys[id] = key
	return key
}
