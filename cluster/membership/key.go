package membership

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/memberlist"
)

// Key seals gossip with AES-256-GCM. It is a secret of its own, shared by the peers of one cluster and used for nothing
// else. It never shows in a log.
type Key [32]byte

const hiddenKey = "(gossip key)"

// Format implements fmt.Formatter: no verb shows the key.
func (Key) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte(hiddenKey)) // a fmt.State keeps its own errors
}

// MarshalText implements encoding.TextMarshaler, for JSON and slog.
func (Key) MarshalText() ([]byte, error) { return []byte(hiddenKey), nil }

// Errors of the key ring.
var (
	// ErrNoKey says that there is no key, or that it is all zeros.
	ErrNoKey = errors.New("no gossip key")
	// ErrRingFull says that the ring has two keys already: the old one must go before the next rotation.
	ErrRingFull = errors.New("gossip key ring is full")
	// ErrKeyInUse says that the key seals what is sent, and so cannot be removed.
	ErrKeyInUse = errors.New("gossip key is in use")
)

// ringLimit is what a rotation needs. It also keeps the key to be removed at the end of memberlist's list, where its
// removal does not move keys that a reader is looking at.
const ringLimit = 2

// ring is the keys of one peer: memberlist's, and the same ones for the gate. The first seals.
type ring struct {
	shared *memberlist.Keyring
	// opened is replaced, never changed: the gate reads it for every packet.
	opened atomic.Pointer[[]sealer]

	// mu makes changes of both one after the other.
	mu sync.Mutex
}

type sealer struct {
	key  Key
	aead cipher.AEAD
}

func newRing(keys []Key) (*ring, error) {
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	shared, err := memberlist.NewKeyring(nil, nil)
	if err != nil {
		return nil, err
	}
	r := &ring{shared: shared}
	r.opened.Store(new([]sealer))
	for _, key := range keys {
		if err := r.add(key); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *ring) sealers() []sealer { return *r.opened.Load() }

func (r *ring) index(key Key) int {
	return slices.IndexFunc(r.sealers(), func(s sealer) bool { return s.key == key })
}

func (r *ring) add(key Key) error {
	if key == (Key{}) {
		return ErrNoKey
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.sealers()
	if r.index(key) >= 0 {
		return nil
	}
	if len(old) == ringLimit {
		return ErrRingFull
	}
	next := append(slices.Clone(old), sealer{key, aead})
	r.opened.Store(&next)
	return r.shared.AddKey(bytes.Clone(key[:]))
}

func (r *ring) use(key Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.index(key)
	if i < 0 {
		return ErrNoKey
	}
	next := slices.Clone(r.sealers())
	next[0], next[i] = next[i], next[0]
	r.opened.Store(&next)
	return r.shared.UseKey(key[:])
}

func (r *ring) remove(key Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.index(key)
	if i < 0 {
		return nil
	}
	if i == 0 {
		return ErrKeyInUse
	}
	next := slices.Delete(slices.Clone(r.sealers()), i, i+1)
	r.opened.Store(&next)
	return r.shared.RemoveKey(key[:])
}

// set makes the keys those of the ring, the first for sealing. On the way what any of the keys before and after seals is
// opened as long as there is room for it.
func (r *ring) set(keys []Key) error {
	if len(keys) == 0 || len(keys) > ringLimit {
		return fmt.Errorf("%d gossip keys: %w", len(keys), ErrRingFull)
	}
	if slices.Contains(keys, Key{}) || len(keys) == 2 && keys[0] == keys[1] {
		return ErrNoKey
	}
	old := r.sealers()[0].key
	drop := func(wanted func(Key) bool) error {
		for _, s := range r.sealers()[1:] {
			if !wanted(s.key) {
				if err := r.remove(s.key); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := drop(func(key Key) bool { return slices.Contains(keys, key) }); err != nil {
		return err
	}
	if !slices.Contains(keys, old) { // the one in use goes: another has to be in use first
		if err := drop(func(key Key) bool { return key == keys[0] }); err != nil {
			return err
		}
		if err := r.change(keys[0]); err != nil {
			return err
		}
		if err := r.remove(old); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := r.add(key); err != nil {
			return err
		}
	}
	return r.use(keys[0])
}

// change adds a key and seals with it.
func (r *ring) change(key Key) error {
	if err := r.add(key); err != nil {
		return err
	}
	return r.use(key)
}

// SetKeys makes the keys, one or two, those of this peer: the first seals, all open. A rotation is three of it on every
// peer, each when all have done the one before: old and new, new and old, new. One goroutine at a time may change keys.
func (m *Membership) SetKeys(keys []Key) error { return m.ring.set(keys) }

// AddKey takes what is sealed with the key from now on. First step of a rotation, on every peer.
func (m *Membership) AddKey(key Key) error { return m.ring.add(key) }

// UseKey seals with the key from now on. Second step, when every peer has it. ErrNoKey when this one does not.
func (m *Membership) UseKey(key Key) error { return m.ring.use(key) }

// RemoveKey takes what is sealed with the key no longer. Last step, when no peer uses it. The key in use stays.
func (m *Membership) RemoveKey(key Key) error { return m.ring.remove(key) }
