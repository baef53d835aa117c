package drive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Errors of Init, ReadIdentity and Open.
var (
	// ErrNoIdentity says that a directory is missing or blank: it is not a drive, or its medium is not mounted.
	ErrNoIdentity = errors.New("no identity file: not a drive, or not mounted")
	// ErrBadIdentity says that identity files are there and neither can be read.
	ErrBadIdentity = errors.New("identity files are damaged or of an unknown format")
	// ErrForeign says that the drive belongs to another cluster, or is another drive than the one expected.
	ErrForeign = errors.New("drive belongs elsewhere")
	// ErrLocked says that another process has the drive open.
	ErrLocked = errors.New("drive is in use by another process")
	// ErrNotEmpty says that Init found a directory with something in it.
	ErrNotEmpty = errors.New("directory is not empty")
)

// IdentityFormat is the number of the identity file's format.
const IdentityFormat = 1

const (
	identitySize  = 256
	identityMagic = 0x44494648 // "HFID"
	maxName       = 64         // bytes of a drive's name
)

// identityNames are the two copies. Either one is enough; Open rewrites the other when it is damaged.
var identityNames = [2]string{"identity.a", "identity.b"}

// Identity says which drive a directory is. It is written once.
type Identity struct {
	Format  uint32
	Cluster cluster.ClusterID
	Drive   cluster.DriveID
	// Name is what people call the drive, d1 … d12; 1..64 bytes.
	Name    string
	Created time.Time // to the second
	// IntegrityKey seals every record of the cluster. It is kept on each drive so that bytes can be recovered from
	// drives alone.
	IntegrityKey [32]byte
}

// encode lays the identity out; FORMAT.md has the box.
func (id Identity) encode() ([]byte, error) {
	if len(id.Name) == 0 || len(id.Name) > maxName {
		return nil, fmt.Errorf("drive name of %d bytes, 1 to %d expected", len(id.Name), maxName)
	}
	b := make([]byte, identitySize)
	binary.LittleEndian.PutUint32(b[0:], identityMagic)
	binary.LittleEndian.PutUint32(b[4:], IdentityFormat)
	copy(b[8:24], id.Cluster[:])
	copy(b[24:40], id.Drive[:])
	binary.LittleEndian.PutUint64(b[40:], uint64(id.Created.Unix()))
	copy(b[48:80], id.IntegrityKey[:])
	b[80] = byte(len(id.Name))
	copy(b[81:81+maxName], id.Name)
	sum := sha256.Sum256(b[:identitySize-sha256.Size])
	copy(b[identitySize-sha256.Size:], sum[:])
	return b, nil
}

// decodeIdentity reads what encode wrote, or gives ErrBadIdentity.
func decodeIdentity(b []byte) (Identity, error) {
	if len(b) != identitySize || binary.LittleEndian.Uint32(b) != identityMagic {
		return Identity{}, fmt.Errorf("%d bytes that are no identity: %w", len(b), ErrBadIdentity)
	}
	if format := binary.LittleEndian.Uint32(b[4:]); format != IdentityFormat {
		return Identity{}, fmt.Errorf("format %d, this program knows %d: %w", format, IdentityFormat, ErrBadIdentity)
	}
	body, sum := b[:identitySize-sha256.Size], b[identitySize-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return Identity{}, fmt.Errorf("checksum differs: %w", ErrBadIdentity)
	}
	length := int(b[80])
	if length == 0 || length > maxName {
		return Identity{}, fmt.Errorf("name of %d bytes: %w", length, ErrBadIdentity)
	}
	return Identity{
		Format:       IdentityFormat,
		Cluster:      cluster.ClusterID(b[8:24]),
		Drive:        cluster.DriveID(b[24:40]),
		Name:         string(b[81 : 81+length]),
		Created:      time.Unix(int64(binary.LittleEndian.Uint64(b[40:])), 0).UTC(),
		IntegrityKey: [32]byte(b[48:80]),
	}, nil
}

// Init makes dir a drive: it makes the directory when missing and writes the identity files, durably. A directory that
// holds anything gives ErrNotEmpty, except what an Init that was cut off left behind.
func Init(f vfs.FS, dir string, id Identity) error {
	page, err := id.encode()
	if err != nil {
		return fmt.Errorf("init drive %s: %w", dir, err)
	}
	if err := vfs.MkdirAll(f, dir, 0o700); err != nil {
		return fmt.Errorf("init drive %s: %w", dir, err)
	}
	list, err := f.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("init drive %s: %w", dir, err)
	}
	for _, entry := range list {
		if name := entry.Name(); name != identityNames[0]+".tmp" && name != "lost+found" {
			return fmt.Errorf("init drive %s: %s is there: %w", dir, name, ErrNotEmpty)
		}
	}
	for _, name := range identityNames {
		if err := vfs.WriteFile(f, dir+"/"+name, page, 0o600); err != nil {
			return fmt.Errorf("init drive %s: %w", dir, err)
		}
	}
	// The directory may have been there with a name that is not durable yet.
	if err := f.SyncDir(parentOf(dir)); err != nil {
		return fmt.Errorf("init drive %s: %w", dir, err)
	}
	return nil
}

// ReadIdentity reads the identity of a drive's directory from whichever copy is good. It changes nothing.
func ReadIdentity(f vfs.FS, dir string) (Identity, error) {
	id, _, err := readIdentity(f, dir)
	return id, err
}

// readIdentity also tells which copies are bad.
func readIdentity(f vfs.FS, dir string) (id Identity, bad []string, err error) {
	var failures []error
	found, missing := false, 0
	for _, name := range identityNames {
		b, err := vfs.ReadFile(f, dir+"/"+name, identitySize)
		if err == nil {
			var copied Identity
			if copied, err = decodeIdentity(b); err == nil {
				if found && copied != id {
					return Identity{}, nil, fmt.Errorf("identity of %s: the two copies differ: %w", dir, ErrBadIdentity)
				}
				id, found = copied, true
				continue
			}
		} else if errors.Is(err, fs.ErrNotExist) {
			missing++
		}
		bad = append(bad, name)
		failures = append(failures, err)
	}
	switch {
	case found:
		return id, bad, nil
	case missing == len(identityNames):
		return Identity{}, nil, fmt.Errorf("identity of %s: %w", dir, ErrNoIdentity)
	}
	return Identity{}, nil, fmt.Errorf("identity of %s: %w: %w", dir, ErrBadIdentity, errors.Join(failures...))
}

// repairIdentity rewrites bad copies whole.
func repairIdentity(f vfs.FS, dir string, id Identity, bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	page, err := id.encode()
	if err != nil {
		return err
	}
	for _, name := range bad {
		if err := vfs.WriteFile(f, dir+"/"+name, page, 0o600); err != nil {
			return fmt.Errorf("rewrite %s: %w", name, err)
		}
	}
	return nil
}

func parentOf(dir string) string {
	for i := len(dir) - 1; i > 0; i-- {
		if dir[i] == '/' {
			return dir[:i]
		}
	}
	return "/"
}
