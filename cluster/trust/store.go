package trust

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// Config makes a Store.
type Config struct {
	// Credentials are the peer's own, signed by an authority of List.
	Credentials *Credentials
	List        List
	// Protocols are the names (ALPN) of what peers speak over TLS, the preferred one first. Nil means Protocol alone.
	// A transport over net/http has to name "h2" or "http/1.1": its server hangs up on names it was given no
	// TLSNextProto for, JoinProtocol among them.
	Protocols []string
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// The names of what is spoken over TLS.
const (
	// Protocol is what peers speak.
	Protocol = "holdfast-peer/1"
	// JoinProtocol is what a joining peer speaks, which has no certificate yet. A connection of the one can never
	// pass for one of the other.
	JoinProtocol = "holdfast-join/1"
)

// Errors of changing a Store.
var (
	// ErrOldList says that the Store has a newer list.
	ErrOldList = errors.New("an older list of whom the cluster trusts")
	// ErrOtherHolder says that credentials or a list are not this peer's, or not this cluster's.
	ErrOtherHolder = errors.New("of another peer or cluster")
)

// Store is whom a running peer is and whom it trusts, now. It may be used concurrently. What it is told takes effect at
// the next handshake and the next call: nothing has to be made again.
type Store struct {
	now       func() time.Time
	protocols []string
	refusals  Refusals

	// changing is held by who replaces view.
	changing sync.Mutex
	view     atomic.Pointer[view]
}

// NewStore makes a Store.
func NewStore(config Config) (*Store, error) {
	s := &Store{now: config.Now, protocols: config.Protocols}
	if s.now == nil {
		s.now = time.Now
	}
	if len(s.protocols) == 0 {
		s.protocols = []string{Protocol}
	}
	for _, protocol := range s.protocols {
		if protocol == JoinProtocol || protocol == "" {
			return nil, fmt.Errorf("peers cannot speak %q among themselves", protocol)
		}
	}
	if config.Credentials == nil {
		return nil, errors.New("a peer without credentials talks to nobody")
	}
	v, err := newView(config.List)
	if err != nil {
		return nil, err
	}
	if err := v.mine(config.Credentials); err != nil {
		return nil, err
	}
	s.view.Store(v.with(config.Credentials))
	return s, nil
}

// Credentials are those in use.
func (s *Store) Credentials() *Credentials { return s.view.Load().credentials }

// List is the list in use. It must not be changed.
func (s *Store) List() List { return s.view.Load().list }

// Refusals counts what this peer refused.
func (s *Store) Refusals() *Refusals { return &s.refusals }

// SetCredentials replaces the peer's certificate and key by others of the same peer.
func (s *Store) SetCredentials(credentials *Credentials) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	v := s.view.Load()
	if credentials.identity.Peer != v.credentials.identity.Peer || credentials.cluster != v.cluster {
		return fmt.Errorf("replace %v by %v: %w", v.credentials, credentials, ErrOtherHolder)
	}
	if err := v.mine(credentials); err != nil {
		return fmt.Errorf("replace %v: %w", v.credentials, err)
	}
	s.view.Store(v.with(credentials))
	return nil
}

// SetList replaces the list by one of a higher epoch. The same list again is no error. A list without the
// authority of the peer's own certificate is taken too: the others refuse this peer then, which is no reason for it to
// trust whom they do not.
func (s *Store) SetList(list List) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	v := s.view.Load()
	if list.Epoch == v.list.Epoch && string(list.Marshal()) == string(v.list.Marshal()) {
		return nil
	}
	if list.Epoch <= v.list.Epoch {
		return fmt.Errorf("list %d after list %d: %w", list.Epoch, v.list.Epoch, ErrOldList)
	}
	next, err := newView(list)
	if err != nil {
		return fmt.Errorf("list %d: %w", list.Epoch, err)
	}
	if next.cluster != v.cluster {
		return fmt.Errorf("list %d of cluster %v: %w", list.Epoch, next.cluster, ErrOtherHolder)
	}
	s.view.Store(next.with(v.credentials))
	return nil
}

// Revoked says whether the list in use refuses the peer: what a transport asks when the list has changed.
func (s *Store) Revoked(peer cluster.PeerID) bool { return s.view.Load().revoked[peer] }
