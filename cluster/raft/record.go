package raft

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// The boxes of these layouts are in FORMAT.md. Everything is little-endian.
const (
	frameMagic   = "HFLOGFR1"
	segmentMagic = "HFLOGSG1"

	// sector is the alignment of frames: a power cut may tear the sectors that were being written, and so never a
	// frame that was acknowledged before.
	sector = 512

	// pageSize is what an append writes whole, so that direct I/O takes it. The sectors of its first block that hold earlier
	// frames are written again as they are.
	pageSize = vfs.Align

	frameHeader   = 128
	recordHeader  = 32
	segmentHeader = sector
)

// errFrame says that bytes are not the frame that is expected in their place.
var errFrame = errors.New("not a valid frame")

// digest is a SHA-256; the digest of a frame covers the digest of the frame before, which makes the log a chain.
type digest [sha256.Size]byte

// kind tells what a record is.
type kind uint8

const (
	kindEntry      kind = 1 // an entry of a group's Raft log
	kindHardState  kind = 2 // a group's term and vote (payload: vote), index is its commit index
	kindMembership kind = 3 // a group's replica id (term field) and voters (payload: uint64s), as bootstrapped
	kindCheckpoint kind = 4 // a checkpoint was completed: index is its number
	kindMirrors    kind = 5 // the mirror set changed: payload is the set
	kindSettle     kind = 6 // nothing: it proves that the frame before it was acknowledged
	kindCreated    kind = 7 // an empty replica of a group waits for a snapshot: its id is in the term field
	kindInstalled  kind = 8 // the log of a group begins behind a snapshot: index and term are its last entry's
	kindRemoved    kind = 9 // the replicas of a group up to an id (term field) are gone from here for ever
)

// record is one fact in the log. A decoded payload shares memory with the bytes it was decoded from.
type record struct {
	kind      kind
	entryType uint8 // raftpb's EntryType, of entries
	group     GroupID
	index     uint64
	term      uint64
	payload   []byte
}

func (r record) size() int { return recordHeader + len(r.payload) }

// frame is what one append writes: records under one digest.
type frame struct {
	seq    uint64
	prev   digest
	digest digest
	body   []byte
	// size is the length on disk, a multiple of sector.
	size int64
}

// place is where a frame stands, alike on every mirror.
type place struct {
	segment uint64
	off     int64
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// frameSize is the length on disk of a frame with bodies of n bytes.
func frameSize(n int) int64 { return roundUp(frameHeader+int64(n), sector) }

// appendFrame appends a frame to buf and returns it with the frame's digest.
func appendFrame(buf []byte, id cluster.ClusterID, at place, seq uint64, prev digest, records []record) ([]byte, digest) {
	start := len(buf)
	buf = append(buf, frameMagic...)
	lengthAt := len(buf)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(records)))
	buf = binary.LittleEndian.AppendUint64(buf, seq)
	buf = binary.LittleEndian.AppendUint64(buf, at.segment)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(at.off))
	buf = binary.LittleEndian.AppendUint64(buf, 0)
	buf = append(buf, id[:]...)
	buf = append(buf, prev[:]...)
	digestAt := len(buf)
	buf = append(buf, make([]byte, sha256.Size)...)
	for _, r := range records {
		buf = append(buf, byte(r.kind), r.entryType, 0, 0)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(r.payload)))
		buf = binary.LittleEndian.AppendUint64(buf, uint64(r.group))
		buf = binary.LittleEndian.AppendUint64(buf, r.index)
		buf = binary.LittleEndian.AppendUint64(buf, r.term)
		buf = append(buf, r.payload...)
	}
	body := len(buf) - start - frameHeader
	binary.LittleEndian.PutUint32(buf[lengthAt:], uint32(body))
	sum := frameDigest(buf[start:digestAt], buf[start+frameHeader:])
	copy(buf[digestAt:], sum[:])
	pad := frameSize(body) - int64(len(buf)-start)
	return append(buf, make([]byte, pad)...), sum
}

func frameDigest(header, body []byte) digest {
	h := sha256.New()
	h.Write(header)
	h.Write(body)
	var sum digest
	h.Sum(sum[:0])
	return sum
}

// decodeFrame reads the frame at the beginning of data, which stands at a place. It proves the frame by itself, not
// that it follows another.
func decodeFrame(data []byte, id cluster.ClusterID, at place) (frame, error) {
	if !looksLikeFrame(data, id, at) {
		return frame{}, errFrame
	}
	length := int64(binary.LittleEndian.Uint32(data[8:]))
	if frameHeader+length > int64(len(data)) {
		return frame{}, errFrame
	}
	f := frame{
		seq:    binary.LittleEndian.Uint64(data[16:]),
		prev:   digest(data[64:96]),
		digest: digest(data[96:128]),
		body:   data[frameHeader : frameHeader+length],
		size:   frameSize(int(length)),
	}
	if frameDigest(data[:96], f.body) != f.digest {
		return frame{}, errFrame
	}
	return f, nil
}

// looksLikeFrame tells whether data begins with the header of a frame for this place, true or not.
func looksLikeFrame(data []byte, id cluster.ClusterID, at place) bool {
	return len(data) >= frameHeader && string(data[:8]) == frameMagic &&
		binary.LittleEndian.Uint64(data[24:]) == at.segment && binary.LittleEndian.Uint64(data[32:]) == uint64(at.off) &&
		bytes.Equal(data[48:64], id[:])
}

// records calls visit with each record of a frame.
func (f frame) records(visit func(record) error) error {
	for rest := f.body; len(rest) > 0; {
		if len(rest) < recordHeader {
			return fmt.Errorf("frame %d: %d bytes are no record", f.seq, len(rest))
		}
		length := int64(binary.LittleEndian.Uint32(rest[4:]))
		if recordHeader+length > int64(len(rest)) {
			return fmt.Errorf("frame %d: record of %d bytes in %d", f.seq, length, len(rest))
		}
		r := record{
			kind:      kind(rest[0]),
			entryType: rest[1],
			group:     GroupID(binary.LittleEndian.Uint64(rest[8:])),
			index:     binary.LittleEndian.Uint64(rest[16:]),
			term:      binary.LittleEndian.Uint64(rest[24:]),
			payload:   rest[recordHeader : recordHeader+length],
		}
		if err := visit(r); err != nil {
			return err
		}
		rest = rest[recordHeader+length:]
	}
	return nil
}

// segmentHead begins a segment: which it is, and which frame comes first in it.
type segmentHead struct {
	number uint64
	first  uint64 // sequence number of its first frame
	prev   digest // digest of the frame before
}

// encode returns the header as it stands in the segment's first sector.
func (s segmentHead) encode(id cluster.ClusterID) []byte {
	buf := make([]byte, 0, segmentHeader)
	buf = append(buf, segmentMagic...)
	buf = append(buf, id[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, s.number)
	buf = binary.LittleEndian.AppendUint64(buf, s.first)
	buf = append(buf, s.prev[:]...)
	sum := sha256.Sum256(buf)
	buf = append(buf, sum[:]...)
	return append(buf, make([]byte, segmentHeader-len(buf))...)
}

// decodeSegmentHead reads the header of segment number; a recycled file that was not begun yet has none.
func decodeSegmentHead(data []byte, id cluster.ClusterID, number uint64) (segmentHead, error) {
	const sealed = 8 + 16 + 8 + 8 + sha256.Size
	if len(data) < sealed+sha256.Size || string(data[:8]) != segmentMagic || !bytes.Equal(data[8:24], id[:]) {
		return segmentHead{}, errFrame
	}
	s := segmentHead{
		number: binary.LittleEndian.Uint64(data[24:]),
		first:  binary.LittleEndian.Uint64(data[32:]),
		prev:   digest(data[40:72]),
	}
	if s.number != number || sha256.Sum256(data[:sealed]) != [sha256.Size]byte(data[sealed:sealed+sha256.Size]) {
		return segmentHead{}, errFrame
	}
	return s, nil
}
