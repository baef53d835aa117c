package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast/holdfast/cluster"
)

// ErrTooLong says that what a peer tells of itself does not fit into a gossip message.
var ErrTooLong = errors.New("member data is too long")

// errBadData says that bytes are no member data that this release can read.
var errBadData = errors.New("not member data")

// The format, drawn in FORMAT.md.
const (
	dataMagic   = "HFMEMBR2"
	dataLimit   = memberlist.MetaMaxSize
	textLimit   = 255 // one byte holds the length of a text
	flagLeaving = 1
	dataHead    = len(dataMagic) + 2 + 1 // what stands before the body
	bodyFixed   = 1 + 8 + 4 + 4 + 16 + 2
	dataSum     = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// announcement is Data as it is sent, with what only this package tells.
type announcement struct {
	Data
	// gossip is where the sender takes gossip. It is told here too, because memberlist's own word for it is not signed.
	gossip netip.AddrPort
	// leaving is sent before the peer goes. memberlist tells its own members apart by it, but not us.
	leaving bool
}

func (a *announcement) texts() []*string {
	return []*string{&a.Name, &a.Zone, &a.Rack, &a.Peer, &a.S3}
}

// body is what is signed of the announcement.
func (a announcement) body() ([]byte, error) {
	var flags byte
	if a.leaving {
		flags |= flagLeaving
	}
	ip := a.gossip.Addr().As16()
	out := []byte{flags}
	out = binary.LittleEndian.AppendUint64(out, a.Incarnation)
	out = binary.LittleEndian.AppendUint32(out, a.Format)
	out = binary.LittleEndian.AppendUint32(out, a.Command)
	out = append(out, ip[:]...)
	out = binary.LittleEndian.AppendUint16(out, a.gossip.Port())
	for _, text := range a.texts() {
		if len(*text) > textLimit {
			return nil, fmt.Errorf("text of %d bytes, at most %d: %w", len(*text), textLimit, ErrTooLong)
		}
		if !printable(*text) {
			return nil, fmt.Errorf("text %q is not printable", *text)
		}
		out = append(append(out, byte(len(*text))), *text...)
	}
	return out, nil
}

// statement is what a peer signs: the body, bound to the format, the cluster and the peer.
func statement(in cluster.ClusterID, peer cluster.PeerID, body []byte) []byte {
	out := append([]byte(dataMagic), in[:]...)
	out = append(out, peer[:]...)
	return append(out, body...)
}

// pack puts a body and its signature together.
func pack(body, signature []byte) ([]byte, error) {
	size := dataHead + len(body) + len(signature) + dataSum
	if size > dataLimit || len(signature) > textLimit {
		return nil, fmt.Errorf("name, zone, rack, addresses and a signature of %d bytes need %d bytes, at most %d: %w", len(signature), size, dataLimit, ErrTooLong)
	}
	out := append(make([]byte, 0, size), dataMagic...)
	out = binary.LittleEndian.AppendUint16(out, uint16(size))
	out = append(out, byte(len(signature)))
	out = append(append(out, body...), signature...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli)), nil
}

// unpack takes apart what pack put together. Both parts point into in.
func unpack(in []byte) (body, signature []byte, err error) {
	if len(in) < dataHead+bodyFixed+dataSum || len(in) > dataLimit || string(in[:len(dataMagic)]) != dataMagic {
		return nil, nil, fmt.Errorf("%d bytes: %w", len(in), errBadData)
	}
	if int(binary.LittleEndian.Uint16(in[len(dataMagic):])) != len(in) {
		return nil, nil, fmt.Errorf("cut: %w", errBadData)
	}
	summed, sum := in[:len(in)-dataSum], in[len(in)-dataSum:]
	if crc32.Checksum(summed, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, nil, fmt.Errorf("checksum mismatch: %w", errBadData)
	}
	end := len(summed) - int(summed[dataHead-1])
	if end < dataHead+bodyFixed {
		return nil, nil, fmt.Errorf("the body is cut: %w", errBadData)
	}
	return summed[dataHead:end], summed[end:], nil
}

// parse reads a body that unpack returned. What a later release appends after the texts is skipped, so that an upgrade
// peer by peer does not part the cluster; a change that must not be skipped takes another magic.
func parse(body []byte) (announcement, error) {
	var a announcement
	a.leaving = body[0]&flagLeaving != 0
	a.Incarnation = binary.LittleEndian.Uint64(body[1:])
	a.Format = binary.LittleEndian.Uint32(body[9:])
	a.Command = binary.LittleEndian.Uint32(body[13:])
	ip := netip.AddrFrom16([16]byte(body[17:33])).Unmap()
	a.gossip = netip.AddrPortFrom(ip, binary.LittleEndian.Uint16(body[33:]))
	body = body[bodyFixed:]
	for _, text := range a.texts() {
		if len(body) == 0 || len(body) < 1+int(body[0]) {
			return announcement{}, fmt.Errorf("a text is cut: %w", errBadData)
		}
		*text = string(body[1 : 1+int(body[0])])
		body = body[1+int(body[0]):]
		if !printable(*text) {
			return announcement{}, fmt.Errorf("a text is not printable: %w", errBadData)
		}
	}
	return a, nil
}

// decode reads an announcement whose signature is of no interest, or was looked at before.
func decode(in []byte) (announcement, error) {
	body, _, err := unpack(in)
	if err != nil {
		return announcement{}, err
	}
	return parse(body)
}

// printable keeps texts out that would act on a terminal which shows them.
func printable(text string) bool {
	if !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
