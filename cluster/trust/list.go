package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
)

// Limits of a list.
const (
	// maxAuthorities: one, and the one that replaces it.
	maxAuthorities = 2
	// maxRevoked: a list stays under a quarter of what a row of the root group may hold, and nobody loses 10,000
	// machines within the life of a certificate, after which an id may be forgotten.
	maxRevoked = 10_000
	// maxAuthority bounds the DER of an authority's certificate; ours have about 400 bytes.
	maxAuthority = 4 << 10
)

// List is whom a cluster trusts. It holds no secret; a peer keeps a copy beside its credentials, to start with.
type List struct {
	// Epoch numbers the lists of a cluster. A higher epoch replaces a lower one, never the reverse.
	Epoch cluster.Epoch
	// Authorities are the certificates of the cluster's authorities: one, or two while one replaces the other.
	Authorities []*x509.Certificate
	// Revoked are the ids that are refused, whatever certificate they show; ascending.
	Revoked []cluster.PeerID
}

// ErrBadList says that a list is in no form known here, or damaged, or trusts nobody.
var ErrBadList = errors.New("not a list of whom the cluster trusts")

// Revoke is the next list, in which these ids are refused too.
func (l List) Revoke(ids ...cluster.PeerID) List {
	next := List{Epoch: l.Epoch + 1, Authorities: l.Authorities, Revoked: append(slices.Clone(l.Revoked), ids...)}
	slices.SortFunc(next.Revoked, comparePeers)
	next.Revoked = slices.Compact(next.Revoked)
	return next
}

// Trust is the next list, with these authorities and no others.
func (l List) Trust(authorities ...*x509.Certificate) List {
	return List{Epoch: l.Epoch + 1, Authorities: authorities, Revoked: l.Revoked}
}

func comparePeers(a, b cluster.PeerID) int { return bytes.Compare(a[:], b[:]) }

// check returns whose list it is.
func (l List) check() (cluster.ClusterID, error) {
	var c cluster.ClusterID
	if len(l.Authorities) == 0 || len(l.Authorities) > maxAuthorities {
		return c, fmt.Errorf("%d authorities: %w", len(l.Authorities), ErrBadList)
	}
	for i, authority := range l.Authorities {
		id, err := clusterOf(authority)
		if err != nil {
			return c, fmt.Errorf("%w: %w", ErrBadList, err)
		}
		if i > 0 && (id != c || sameCertificate(authority, l.Authorities[0])) {
			return c, fmt.Errorf("authorities of two clusters, or one of them twice: %w", ErrBadList)
		}
		c = id
	}
	if len(l.Revoked) > maxRevoked {
		return c, fmt.Errorf("%d revoked ids, at most %d: %w", len(l.Revoked), maxRevoked, ErrBadList)
	}
	for i := range l.Revoked[:max(len(l.Revoked)-1, 0)] {
		if comparePeers(l.Revoked[i], l.Revoked[i+1]) >= 0 {
			return c, fmt.Errorf("the revoked ids do not ascend: %w", ErrBadList)
		}
	}
	return c, nil
}

// listMagic begins a list; its last digit is the format.
const listMagic = "HFTRUST1"

// Marshal is the list as a row of the root group, and as the file beside the credentials.
func (l List) Marshal() []byte {
	data := append([]byte(nil), listMagic...)
	data = binary.LittleEndian.AppendUint64(data, uint64(l.Epoch))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(l.Authorities)))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(l.Revoked)))
	for _, authority := range l.Authorities {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(authority.Raw)))
		data = append(data, authority.Raw...)
	}
	for _, id := range l.Revoked {
		data = append(data, id[:]...)
	}
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// ParseList reads what Marshal wrote.
func ParseList(data []byte) (List, error) {
	const head = len(listMagic) + 8 + 4 + 4
	if len(data) < head+sha256.Size || string(data[:len(listMagic)]) != listMagic {
		return List{}, fmt.Errorf("%d bytes: %w", len(data), ErrBadList)
	}
	body, sum := data[:len(data)-sha256.Size], sha256.Sum256(data[:len(data)-sha256.Size])
	if !bytes.Equal(sum[:], data[len(body):]) {
		return List{}, fmt.Errorf("checksum mismatch: %w", ErrBadList)
	}
	l := List{Epoch: cluster.Epoch(binary.LittleEndian.Uint64(body[8:]))}
	authorities, revoked := binary.LittleEndian.Uint32(body[16:]), binary.LittleEndian.Uint32(body[20:])
	if authorities > maxAuthorities || revoked > maxRevoked {
		return List{}, fmt.Errorf("%d authorities, %d revoked ids: %w", authorities, revoked, ErrBadList)
	}
	body = body[head:]
	for range authorities {
		authority, rest, err := readAuthority(body)
		if err != nil {
			return List{}, err
		}
		l.Authorities, body = append(l.Authorities, authority), rest
	}
	if len(body) != int(revoked)*len(cluster.PeerID{}) {
		return List{}, fmt.Errorf("%d bytes of revoked ids: %w", len(body), ErrBadList)
	}
	for id := range slices.Chunk(body, len(cluster.PeerID{})) {
		l.Revoked = append(l.Revoked, cluster.PeerID(id))
	}
	if _, err := l.check(); err != nil {
		return List{}, err
	}
	return l, nil
}

// readAuthority reads the certificate that data begins with, and returns what follows it.
func readAuthority(data []byte) (*x509.Certificate, []byte, error) {
	if len(data) < 4 {
		return nil, nil, fmt.Errorf("an authority is missing: %w", ErrBadList)
	}
	length := binary.LittleEndian.Uint32(data)
	if length > maxAuthority || int(length) > len(data)-4 {
		return nil, nil, fmt.Errorf("an authority of %d bytes: %w", length, ErrBadList)
	}
	authority, err := x509.ParseCertificate(data[4 : 4+length])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBadList, err)
	}
	return authority, data[4+length:], nil
}
