package join

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// Limits of what a peer may ask for.
const (
	// maxName and maxAddress: three names and two addresses fit into the 393 bytes that membership has for them.
	maxName    = 64
	maxAddress = 100
	// maxPath bounds the path of a drive.
	maxPath = 1 << 10
	// maxDrives is how many drives one peer may bring: the largest chassis have about a hundred.
	maxDrives = 256
	// maxSkew is how far two clocks may be apart: as far as S3's signatures allow.
	maxSkew = 15 * time.Minute
)

// Ask is what a joining peer says of itself.
type Ask struct {
	// Peer is who it was before, for a peer that comes back. Zero means that it is new, or that its drives tell.
	Peer cluster.PeerID
	// Again says that it comes back, whether it can tell who it was or not: it is refused rather than made a new peer.
	Again bool
	// Name is unique in the cluster, 1 to 64 bytes. Zone and Rack may be empty.
	Name, Zone, Rack string
	// PeerAddress, Gossip and S3 are where it will listen, host:port of at most 100 bytes; S3 may be empty.
	PeerAddress, Gossip, S3 string
	// TLS says that S3 is served over TLS.
	TLS bool
	// Drives are those that it brings: ID, Name, Path, Device and Size of each. The ids are the caller's to make.
	Drives []topology.Drive
	// Command is the newest format of commands that it knows.
	Command uint32

	// Request is the key to be certified. Nil makes one; a caller that keeps it in a file first can ask again after it
	// has stopped.
	Request *trust.Request
	// Old are the credentials that the peer had before, expired or not. Nil when they are lost.
	Old *trust.Credentials
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Answer is what a peer gets. It does not print: it holds secrets.
type Answer struct {
	Credentials *trust.Credentials
	Peer        cluster.PeerID
	// Number is the peer's number in ids of replicas.
	Number uint16
	// Returned says that the peer was in the cluster before, and keeps its id and number.
	Returned bool
	List     trust.List
	Gossip   []membership.Key
	// IntegrityKey seals records on drives.
	IntegrityKey [32]byte
	// Epoch and Peers are of the cluster's map when the peer was admitted; removed peers are not among them.
	Epoch cluster.Epoch
	Peers []topology.Peer
}

// Format keeps the secrets out of logs.
func (a Answer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "answer to peer "+a.Peer.String()) // a fmt.State keeps its own errors
}

// ask is an Ask as it arrives.
type ask struct {
	Ask
	// request is the PKCS #10, key its key. possession is signed with that, before with the old one, nil when it is lost.
	request            []byte
	key                ed25519.PublicKey
	possession, before []byte
	clock              time.Time
}

// check refuses what is out of bounds. The error is ErrBadAsk.
func (a *Ask) check() error {
	if a.Name == "" {
		return fmt.Errorf("%w: a peer needs a name", ErrBadAsk)
	}
	for what, text := range map[string]string{"name": a.Name, "zone": a.Zone, "rack": a.Rack} {
		if err := checkText(what, text, maxName); err != nil {
			return err
		}
	}
	if err := checkAddress("address for peers", a.PeerAddress); err != nil {
		return err
	}
	if err := checkAddress("address for gossip", a.Gossip); err != nil {
		return err
	}
	if a.S3 != "" {
		if err := checkAddress("address for clients", a.S3); err != nil {
			return err
		}
	}
	return checkDrives(a.Drives)
}

func checkDrives(drives []topology.Drive) error {
	if len(drives) > maxDrives {
		return fmt.Errorf("%w: %d drives, at most %d", ErrBadAsk, len(drives), maxDrives)
	}
	ids, names := map[cluster.DriveID]bool{{}: true}, map[string]bool{"": true}
	for _, d := range drives {
		if ids[d.ID] || names[d.Name] || d.Size < 0 {
			return fmt.Errorf("%w: drive %q is there twice, or has no name, id or size", ErrBadAsk, shorten(d.Name, maxName))
		}
		ids[d.ID], names[d.Name] = true, true
		if err := checkText("name of a drive", d.Name, maxName); err != nil {
			return err
		}
		if err := checkText("path of a drive", d.Path, maxPath); err != nil {
			return err
		}
	}
	return nil
}

// checkText refuses what a terminal would not show.
func checkText(what, text string, most int) error {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	if len(text) > most || !utf8.ValidString(text) || strings.ContainsFunc(text, hidden) || strings.TrimSpace(text) != text {
		return fmt.Errorf("%w: a %s is at most %d bytes of printable text", ErrBadAsk, what, most)
	}
	return nil
}

// checkAddress refuses what the other peers could not call.
func checkAddress(what, address string) error {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || number == 0 || host == "" || checkText(what, address, maxAddress) != nil {
		return fmt.Errorf("%w: the %s %q is not host:port of at most %d bytes", ErrBadAsk, what, shorten(address, maxAddress), maxAddress)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return fmt.Errorf("%w: nobody can call %q, the %s: give one address of this machine", ErrBadAsk, address, what)
	}
	return nil
}
