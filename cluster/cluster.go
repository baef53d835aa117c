// Package cluster is the ground that every floor stands on: the identities of a cluster, of its peers and its drives,
// and the epochs that number the versions of its map and of volume rows. It holds values only; the packages in its
// folder act.
package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// ID is 16 random bytes, written as 32 lower-case hexadecimal digits. The zero ID names nothing.
type ID [16]byte

// ClusterID names one cluster for ever.
type ClusterID ID

// PeerID names one holdfast process of a cluster, across its restarts.
type PeerID ID

// DriveID names one drive of a cluster, wherever its directory is mounted.
type DriveID ID

// ErrBadID says that a text is not 32 hexadecimal digits.
var ErrBadID = errors.New("not an id of 32 hexadecimal digits")

// NewID returns a random ID.
func NewID() ID {
	var id ID
	// crypto/rand.Read never fails since Go 1.24: it aborts the process instead.
	if _, err := rand.Read(id[:]); err != nil {
		panic(err)
	}
	return id
}

// ParseID reads the form that ID.String writes.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != 2*len(id) {
		return ID{}, fmt.Errorf("%q: %w", text, ErrBadID)
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ID{}, fmt.Errorf("%q: %w", text, ErrBadID)
	}
	return id, nil
}

func (id ID) String() string        { return hex.EncodeToString(id[:]) }
func (id ClusterID) String() string { return ID(id).String() }
func (id PeerID) String() string    { return ID(id).String() }
func (id DriveID) String() string   { return ID(id).String() }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (id PeerID) MarshalText() ([]byte, error) { return ID(id).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *PeerID) UnmarshalText(text []byte) error { return (*ID)(id).UnmarshalText(text) }

// MarshalText implements encoding.TextMarshaler.
func (id DriveID) MarshalText() ([]byte, error) { return ID(id).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *DriveID) UnmarshalText(text []byte) error { return (*ID)(id).UnmarshalText(text) }

// Epoch numbers the versions of a topology, or of a volume row. A higher epoch replaces a lower one.
type Epoch uint64
