package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/holdfast/holdfast/cluster"
)

// Roles is a set of roles: what a holder of a certificate may be. The zero set may do nothing.
type Roles uint8

// The roles. The set is closed: a certificate with any other is refused, so a new one may be issued only when every
// peer knows it.
const (
	// RolePeer serves and calls other peers.
	RolePeer Roles = 1 << iota
	// RoleAdmin is an operator. It calls peers and is never called.
	RoleAdmin
)

// roleNames are the words in certificates: promises on the wire.
var roleNames = []struct {
	role Roles
	name string
}{{RolePeer, "peer"}, {RoleAdmin, "admin"}}

// Any says whether the two sets share a role.
func (r Roles) Any(other Roles) bool { return r&other != 0 }

func (r Roles) String() string {
	if r.check() != nil {
		return fmt.Sprintf("roles(%#x)", uint8(r))
	}
	var names []string
	for _, known := range roleNames {
		if r.Any(known.role) {
			names = append(names, known.name)
		}
	}
	return strings.Join(names, "+")
}

// check refuses the empty set and roles that do not exist.
func (r Roles) check() error {
	if r == 0 || r&^(RolePeer|RoleAdmin) != 0 {
		return errors.New("no such roles")
	}
	return nil
}

// Identity is who holds a certificate. An operator has an id of its own too, by which it is revoked.
type Identity struct {
	Peer  cluster.PeerID
	Roles Roles
}

func (i Identity) String() string { return i.Roles.String() + " " + i.Peer.String() }

func (i Identity) check() error {
	if i.Peer == (cluster.PeerID{}) {
		return errors.New("an identity without an id")
	}
	return i.Roles.check()
}

// scheme begins every name in our certificates.
const scheme = "holdfast"

// names are the URIs of an identity, one a role.
func (i Identity) names(c cluster.ClusterID) []*url.URL {
	var uris []*url.URL
	for _, known := range roleNames {
		if i.Roles.Any(known.role) {
			uris = append(uris, &url.URL{Scheme: scheme, Host: c.String(), Path: "/" + known.name + "/" + i.Peer.String()})
		}
	}
	return uris
}

// identityOf reads who holds a certificate of the cluster. It takes the names that Issue writes, in that order, and
// nothing beside them.
func identityOf(certificate *x509.Certificate, c cluster.ClusterID) (Identity, error) {
	var identity Identity
	for _, uri := range certificate.URIs {
		role, text, _ := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
		id, err := cluster.ParseID(text)
		if err != nil {
			return Identity{}, fmt.Errorf("name %q: %w", uri, ErrBadCertificate)
		}
		identity.Peer = cluster.PeerID(id)
		for _, known := range roleNames {
			if role == known.name {
				identity.Roles |= known.role
			}
		}
	}
	if identity.check() != nil || !sameNames(certificate, identity.names(c)) {
		return Identity{}, fmt.Errorf("names %v: %w", certificate.URIs, ErrBadCertificate)
	}
	return identity, nil
}

// authorityName is the URI of the cluster's authority.
func authorityName(c cluster.ClusterID) *url.URL {
	return &url.URL{Scheme: scheme, Host: c.String(), Path: "/authority"}
}

// clusterOf reads whose authority a certificate is, and that it may be one: it signs itself and holders, no further
// authorities.
func clusterOf(authority *x509.Certificate) (cluster.ClusterID, error) {
	if len(authority.URIs) != 1 || !authority.MaxPathLenZero {
		return cluster.ClusterID{}, fmt.Errorf("not an authority of a cluster: %w", ErrBadCertificate)
	}
	id, err := cluster.ParseID(authority.URIs[0].Host)
	if err != nil || !sameNames(authority, []*url.URL{authorityName(cluster.ClusterID(id))}) {
		return cluster.ClusterID{}, fmt.Errorf("authority of %q: %w", authority.URIs[0], ErrBadCertificate)
	}
	if err := authority.CheckSignatureFrom(authority); err != nil {
		return cluster.ClusterID{}, fmt.Errorf("authority of %q: %w: %w", authority.URIs[0], ErrBadCertificate, err)
	}
	return cluster.ClusterID(id), nil
}

// sameNames says whether the certificate has exactly these names, and of no other kind.
func sameNames(certificate *x509.Certificate, want []*url.URL) bool {
	others := len(certificate.DNSNames) + len(certificate.IPAddresses) + len(certificate.EmailAddresses)
	if others != 0 || len(certificate.URIs) != len(want) {
		return false
	}
	for i, uri := range certificate.URIs {
		if uri.String() != want[i].String() {
			return false
		}
	}
	return true
}
