package join

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// The rows of kind root.Cluster that this package owns.
const (
	authorityName = "authority"
	listName      = "trust"
	gossipName    = "gossip"
)

// Errors of reading the rows.
var (
	// ErrNoSecrets says that the cluster was made by a release that knew no other peers: Found makes what is missing.
	ErrNoSecrets = errors.New("the cluster has no authority yet")
	// ErrBadGossip says that bytes are not gossip keys of a format known here.
	ErrBadGossip = errors.New("not gossip keys")
)

// Secrets are what the peers of a cluster share. They do not print.
type Secrets struct {
	// Authority signs certificates.
	Authority *trust.Authority
	// List is whom the cluster trusts. It alone is no secret.
	List trust.List
	// Gossip are the keys of membership, one or two. The first seals.
	Gossip []membership.Key
}

// Format keeps the secrets out of logs.
func (s Secrets) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "(secrets of a cluster)") // a fmt.State keeps its own errors
}

// Founding is what a first start makes.
type Founding struct {
	Secrets
	// Rows hold the secrets, for the command that makes the cluster: none of them may exist.
	Rows []root.Row
	// Credentials are the first peer's. Their public key belongs into its row of the topology.
	Credentials *trust.Credentials
}

// Format keeps the secrets out of logs.
func (f Founding) Format(s fmt.State, verb rune) { f.Secrets.Format(s, verb) }

// Found makes the secrets of a cluster and the credentials of its first peer. A cluster that was made before there were
// any gets the rows in a command of their own; when that fails with root.ErrConflict they are there, and Reissue reads
// them.
func Found(c cluster.ClusterID, self cluster.PeerID, now time.Time) (*Founding, error) {
	authority, err := trust.NewAuthority(c, now)
	if err != nil {
		return nil, err
	}
	credentials, err := issue(authority, self, now)
	if err != nil {
		return nil, err
	}
	f := &Founding{Credentials: credentials, Secrets: Secrets{
		Authority: authority, List: trust.List{}.Trust(authority.Certificate()), Gossip: []membership.Key{NewGossipKey()},
	}}
	f.Rows = []root.Row{
		{Kind: root.Cluster, Name: authorityName, Value: authority.Marshal()},
		{Kind: root.Cluster, Name: listName, Value: f.List.Marshal()},
		{Kind: root.Cluster, Name: gossipName, Value: marshalGossip(f.Gossip)},
	}
	return f, nil
}

// issue makes credentials of a peer with a new key.
func issue(authority *trust.Authority, self cluster.PeerID, now time.Time) (*trust.Credentials, error) {
	request, err := trust.NewRequest()
	if err != nil {
		return nil, err
	}
	certificate, err := authority.Issue(request.Bytes(), trust.Identity{Peer: self, Roles: trust.RolePeer}, now)
	if err != nil {
		return nil, err
	}
	return request.Complete(certificate)
}

// NewGossipKey makes a key of membership.
func NewGossipKey() membership.Key {
	var key membership.Key
	// crypto/rand.Read never fails since Go 1.24: it aborts the process instead.
	if _, err := rand.Read(key[:]); err != nil {
		panic(err)
	}
	return key
}

// Load reads the secrets. The error is ErrNoSecrets when there are none.
func Load(ctx context.Context, client *root.Client) (*Secrets, error) {
	s := new(Secrets)
	for _, part := range []struct {
		name string
		read func([]byte) error
	}{
		{authorityName, func(value []byte) (err error) { s.Authority, err = trust.ParseAuthority(value); return err }},
		{listName, func(value []byte) (err error) { s.List, err = trust.ParseList(value); return err }},
		{gossipName, func(value []byte) (err error) { s.Gossip, err = parseGossip(value); return err }},
	} {
		row, err := client.Row(ctx, root.Cluster, part.name)
		if errors.Is(err, root.ErrNotFound) {
			return nil, ErrNoSecrets
		}
		if err == nil {
			err = part.read(row.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("read the cluster's row %q: %w", part.name, err)
		}
	}
	return s, nil
}

// loadList reads the list and its row.
func loadList(ctx context.Context, client *root.Client) (root.Row, trust.List, error) {
	row, err := client.Row(ctx, root.Cluster, listName)
	if errors.Is(err, root.ErrNotFound) {
		return row, trust.List{}, ErrNoSecrets
	}
	if err != nil {
		return row, trust.List{}, fmt.Errorf("read the cluster's row %q: %w", listName, err)
	}
	list, err := trust.ParseList(row.Value)
	if err != nil {
		return row, trust.List{}, fmt.Errorf("read the cluster's row %q: %w", listName, err)
	}
	return row, list, nil
}

// Reissue gives a peer new credentials for its id out of the rows, and puts their key into its row: for a peer that is
// the only voter of the root group and has lost its files, since nobody else could let it in. The caller knows that it
// is. The errors are ErrNoSecrets, ErrRemoved and topology.ErrUnknownPeer.
func Reissue(ctx context.Context, client *root.Client, self cluster.PeerID, now time.Time) (*trust.Credentials, *Secrets, error) {
	secrets, err := Load(ctx, client)
	if err != nil {
		return nil, nil, fmt.Errorf("issue credentials anew: %w", err)
	}
	if revoked(secrets.List, self) {
		return nil, nil, fmt.Errorf("issue credentials anew: peer %v: %w", self, ErrRemoved)
	}
	credentials, err := issue(secrets.Authority, self, now)
	if err != nil {
		return nil, nil, err
	}
	if err := putKey(ctx, client, credentials); err != nil {
		return nil, nil, fmt.Errorf("issue credentials anew: %w", err)
	}
	return credentials, secrets, nil
}

// putKey makes the key of a peer's row that of its credentials.
func putKey(ctx context.Context, client *root.Client, credentials *trust.Credentials) error {
	self := credentials.Identity().Peer
	_, err := topology.Change(ctx, client, func(m *topology.Map) (topology.Extra, error) {
		p, err := member(m, self)
		if err != nil {
			return topology.Extra{}, err
		}
		p.Key = credentials.PublicKey()
		return topology.Extra{}, m.SetPeer(p)
	})
	return err
}

// member finds a peer that is not removed; the error says whether it ever was there.
func member(m *topology.Map, id cluster.PeerID) (topology.Peer, error) {
	for _, p := range m.Peers {
		switch {
		case p.ID != id:
		case p.State == topology.Removed:
			return topology.Peer{}, fmt.Errorf("peer %v: %w", id, ErrRemoved)
		default:
			return p, nil
		}
	}
	return topology.Peer{}, fmt.Errorf("peer %v: %w", id, topology.ErrUnknownPeer)
}

// gossipMagic begins gossip keys; its last digit is the format.
const gossipMagic = "HFGOSKY1"

// maxGossip is what membership's ring takes.
const maxGossip = 2

// marshalGossip lays gossip keys out; FORMAT.md has the box.
func marshalGossip(keys []membership.Key) []byte {
	data := append([]byte(gossipMagic), byte(len(keys)))
	for _, key := range keys {
		data = append(data, key[:]...)
	}
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// parseGossip reads what marshalGossip wrote. The error quotes nothing.
func parseGossip(data []byte) ([]membership.Key, error) {
	const head = len(gossipMagic) + 1
	if len(data) < head+sha256.Size || string(data[:len(gossipMagic)]) != gossipMagic {
		return nil, fmt.Errorf("%d bytes: %w", len(data), ErrBadGossip)
	}
	body := data[:len(data)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(body):]) {
		return nil, fmt.Errorf("checksum mismatch: %w", ErrBadGossip)
	}
	count, body := int(body[head-1]), body[head:]
	if count < 1 || count > maxGossip || len(body) != count*len(membership.Key{}) {
		return nil, fmt.Errorf("%d keys in %d bytes: %w", count, len(body), ErrBadGossip)
	}
	keys := make([]membership.Key, count)
	for i := range keys {
		keys[i] = membership.Key(body[i*len(keys[i]):])
		if keys[i] == (membership.Key{}) {
			return nil, fmt.Errorf("a key of zeros: %w", ErrBadGossip)
		}
	}
	return keys, nil
}
