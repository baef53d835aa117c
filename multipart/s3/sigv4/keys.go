package sigv4

import "sync"

// maxSigningKeys bounds what SigningKeys keeps: one for each access key and region in use, and day.
const maxSigningKeys = 1024

// SigningKeys keeps signing keys: one is good for all requests of a secret, a day and a region, and to make it takes four
// of the five HMACs of a request. The zero SigningKeys is ready for use, by many goroutines at a time.
type SigningKeys struct {
	mu   sync.Mutex
	keys map[signingKey][]byte
}

type signingKey struct {
	secret string
	scope  scope
}

// key returns the key of a scope; a nil SigningKeys makes it each time.
func (k *SigningKeys) key(secret string, s scope) []byte {
	if k == nil {
		return s.key(secret)
	}
	id := signingKey{secret, s}
	k.mu.Lock()
	key := k.keys[id]
	k.mu.Unlock()
	if key != nil {
		return key
	}
	key = s.key(secret)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil || len(k.keys) >= maxSigningKeys {
		k.keys = map[signingKey][]byte{} // those in use are here again with their next request
	}
	k.keys[id] = key
	return key
}
