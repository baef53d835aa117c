package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
)

// ErrTooLong says that what a peer tells of itself does not fit into a gossip message.
var ErrTooLong = errors.New("member data is too long")

// errBadData says that bytes are no member data that this release can read.
var errBadData = errors.New("not member data")

// The format, drawn in FORMAT.md.
const (
	dataMagic   = "HFMEMBR1"
	dataLimit   = memberlist.MetaMaxSize
	textLimit   = 255 // one byte holds the length of a text
	flagLeaving = 1
	dataHead    = len(dataMagic) + 2 + 1 + 8 + 4 + 4
	dataSum     = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// announcement is Data as it is sent, with what only this package tells.
type announcement struct {
	Data
	// leaving is sent before the peer goes. memberlist tells its own members apart by it, but not us.
	leaving bool
}

func (a *announcement) texts() []*string {
	return []*string{&a.Name, &a.Zone, &a.Rack, &a.Peer, &a.S3}
}

func (a announcement) encode() ([]byte, error) {
	size := dataHead + dataSum
	for _, text := range a.texts() {
		if len(*text) > textLimit {
			return nil, fmt.Errorf("text of %d bytes, at most %d: %w", len(*text), textLimit, ErrTooLong)
		}
		if !printable(*text) {
			return nil, fmt.Errorf("text %q is not printable", *text)
		}
		size += 1 + len(*text)
	}
	if size > dataLimit {
		return nil, fmt.Errorf("name, zone, rack and addresses need %d bytes, at most %d: %w", size, dataLimit, ErrTooLong)
	}
	var flags byte
	if a.leaving {
		flags |= flagLeaving
	}
	out := append(make([]byte, 0, size), dataMagic...)
	out = binary.LittleEndian.AppendUint16(out, uint16(size))
	out = append(out, flags)
	out = binary.LittleEndian.AppendUint64(out, a.Incarnation)
	out = binary.LittleEndian.AppendUint32(out, a.Format)
	out = binary.LittleEndian.AppendUint32(out, a.Command)
	for _, text := range a.texts() {
		out = append(append(out, byte(len(*text))), *text...)
	}
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli)), nil
}

// decode reads what encode wrote. What a later release appends after the texts is skipped, so that an upgrade peer by
// peer does not part the cluster; a change that must not be skipped takes another magic.
func decode(in []byte) (announcement, error) {
	if len(in) < dataHead+dataSum || len(in) > dataLimit || string(in[:len(dataMagic)]) != dataMagic {
		return announcement{}, fmt.Errorf("%d bytes: %w", len(in), errBadData)
	}
	if int(binary.LittleEndian.Uint16(in[len(dataMagic):])) != len(in) {
		return announcement{}, fmt.Errorf("cut: %w", errBadData)
	}
	body, sum := in[:len(in)-dataSum], in[len(in)-dataSum:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return announcement{}, fmt.Errorf("checksum mismatch: %w", errBadData)
	}
	body = body[len(dataMagic)+2:]
	var a announcement
	a.leaving = body[0]&flagLeaving != 0
	a.Incarnation = binary.LittleEndian.Uint64(body[1:])
	a.Format = binary.LittleEndian.Uint32(body[9:])
	a.Command = binary.LittleEndian.Uint32(body[13:])
	body = body[17:]
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
