package drive

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
)

// Format is the number of the format of chunk files and ledgers. FORMAT.md draws it.
const Format = 1

// pageSize is what everything is aligned to. A header is exactly one page.
const pageSize = 4096

// macAt is where the HMAC-SHA-256 of a page stands; it covers all bytes before it.
const macAt = pageSize - sha256.Size

const (
	magicFile   = 0x4c494648 // "HFIL"
	magicRecord = 0x43455248 // "HREC"

	kindChunkFile = 1
	kindLedger    = 2

	typeShard  = 1
	typeIndex  = 2
	typeLedger = 3

	rootsAt   = 112
	leavesAt  = rootsAt + chunkstore.Shards*sha256.Size
	maxLeaves = 64 // of a shard of MaxChunk: 1 MiB / 16 KiB

	entrySize     = 48 // of an index
	noteSize      = 32 // of a ledger
	notesAt       = 64
	notesPerPage  = (macAt - notesAt) / noteSize
	maxRecordSize = pageSize + chunkstore.MaxChunk/8
)

// errPage says that a page is not a valid page of its kind; every decoder wraps it.
var errPage = errors.New("not a valid page")

// errFormat says that a page is sealed and of a format that this program does not know: it is left alone.
var errFormat = errors.New("unknown format")

type uuid [16]byte

// sealer computes the seals of one cluster's pages. It may be used concurrently.
type sealer struct{ free sync.Pool }

func newSealer(key [32]byte) *sealer {
	return &sealer{free: sync.Pool{New: func() any { return hmac.New(sha256.New, key[:]) }}}
}

func (s *sealer) sum(page []byte) (mac [sha256.Size]byte) {
	h := s.free.Get().(hash.Hash)
	h.Reset()
	h.Write(page[:macAt])
	h.Sum(mac[:0])
	s.free.Put(h)
	return mac
}

func (s *sealer) seal(page []byte) {
	mac := s.sum(page)
	copy(page[macAt:], mac[:])
}

// open checks magic, seal and format of a page, in this order: an unknown format that is sealed is told apart from rot.
func (s *sealer) open(page []byte, magic uint32) error {
	if len(page) != pageSize || binary.LittleEndian.Uint32(page) != magic {
		return errPage
	}
	if mac := s.sum(page); !hmac.Equal(mac[:], page[macAt:]) {
		return fmt.Errorf("seal differs: %w", errPage)
	}
	if page[4] != Format {
		return fmt.Errorf("format %d, this program knows %d: %w", page[4], Format, errFormat)
	}
	return nil
}

// fileHeader stands twice at the start of a chunk file or ledger, in pages 0 and 1.
type fileHeader struct {
	kind       uint8
	cluster    cluster.ClusterID
	drive      cluster.DriveID
	file       uuid
	volume     chunkstore.VolumeID
	shard      uint8
	generation uint32
	created    int64 // seconds since 1970
}

func (s *sealer) putFileHeader(page []byte, h fileHeader) {
	clear(page)
	binary.LittleEndian.PutUint32(page[0:], magicFile)
	page[4], page[5] = Format, h.kind
	copy(page[8:], h.cluster[:])
	copy(page[24:], h.drive[:])
	copy(page[40:], h.file[:])
	binary.LittleEndian.PutUint64(page[56:], uint64(h.volume))
	page[64] = h.shard
	binary.LittleEndian.PutUint32(page[68:], h.generation)
	binary.LittleEndian.PutUint64(page[72:], uint64(h.created))
	s.seal(page)
}

func (s *sealer) fileHeader(page []byte) (fileHeader, error) {
	if err := s.open(page, magicFile); err != nil {
		return fileHeader{}, fmt.Errorf("file header: %w", err)
	}
	return fileHeader{
		kind:       page[5],
		cluster:    cluster.ClusterID(page[8:24]),
		drive:      cluster.DriveID(page[24:40]),
		file:       uuid(page[40:56]),
		volume:     chunkstore.VolumeID(binary.LittleEndian.Uint64(page[56:])),
		shard:      page[64],
		generation: binary.LittleEndian.Uint32(page[68:]),
		created:    int64(binary.LittleEndian.Uint64(page[72:])),
	}, nil
}

// recordPrefix is the part that all record types share.
type recordPrefix struct {
	kind    uint8
	payload int64 // bytes that follow the header page, a multiple of pageSize
	offset  int64 // where the record stands in its file
	file    uuid
	volume  chunkstore.VolumeID
	shard   uint8
}

func putPrefix(page []byte, p recordPrefix) {
	clear(page)
	binary.LittleEndian.PutUint32(page[0:], magicRecord)
	page[4], page[5] = Format, p.kind
	binary.LittleEndian.PutUint16(page[6:], pageSize)
	binary.LittleEndian.PutUint64(page[8:], uint64(p.payload))
	binary.LittleEndian.PutUint64(page[16:], uint64(p.offset))
	copy(page[24:], p.file[:])
	binary.LittleEndian.PutUint64(page[40:], uint64(p.volume))
	page[60] = p.shard
}

func (s *sealer) prefix(page []byte) (recordPrefix, error) {
	if err := s.open(page, magicRecord); err != nil {
		return recordPrefix{}, fmt.Errorf("record header: %w", err)
	}
	p := recordPrefix{
		kind:    page[5],
		payload: int64(binary.LittleEndian.Uint64(page[8:])),
		offset:  int64(binary.LittleEndian.Uint64(page[16:])),
		file:    uuid(page[24:40]),
		volume:  chunkstore.VolumeID(binary.LittleEndian.Uint64(page[40:])),
		shard:   page[60],
	}
	if p.payload < 0 || p.payload > maxIndexPayload || p.payload%pageSize != 0 || p.offset < 0 || p.offset%pageSize != 0 {
		return recordPrefix{}, fmt.Errorf("record of %d bytes at %d: %w", p.payload, p.offset, errPage)
	}
	return p, nil
}

// putShardHeader lays out the header page of a shard record. h was checked by validate.
func (s *sealer) putShardHeader(page []byte, file uuid, offset int64, h *chunkstore.Header) {
	putPrefix(page, recordPrefix{kind: typeShard, payload: h.Layout.ShardSize(), offset: offset, file: file,
		volume: h.Key.Volume, shard: h.Key.Shard})
	binary.LittleEndian.PutUint64(page[48:], h.Key.Chunk.Block)
	binary.LittleEndian.PutUint32(page[56:], h.Key.Chunk.Seq)
	binary.LittleEndian.PutUint64(page[64:], uint64(h.Epoch))
	binary.LittleEndian.PutUint32(page[72:], h.Size)
	binary.LittleEndian.PutUint32(page[76:], uint32(len(h.Leaves)))
	binary.LittleEndian.PutUint32(page[80:], uint32(h.Layout.Cell))
	binary.LittleEndian.PutUint32(page[84:], uint32(h.Layout.Leaf))
	binary.LittleEndian.PutUint32(page[88:], uint32(h.Layout.Rows))
	copy(page[96:], h.Owner[:])
	for i := range h.Roots {
		copy(page[rootsAt+i*sha256.Size:], h.Roots[i][:])
	}
	for i := range h.Leaves {
		copy(page[leavesAt+i*sha256.Size:], h.Leaves[i][:])
	}
	s.seal(page)
}

// shardHeader reads a header page that must stand at offset of the given file.
func (s *sealer) shardHeader(page []byte, file uuid, offset int64) (*chunkstore.Header, error) {
	p, err := s.prefix(page)
	if err != nil {
		return nil, err
	}
	if p.kind != typeShard || p.file != file || p.offset != offset {
		return nil, fmt.Errorf("record of another kind or place: %w", errPage)
	}
	h := &chunkstore.Header{
		Key: chunkstore.ShardKey{Volume: p.volume, Shard: p.shard, Chunk: chunkstore.ChunkID{
			Block: binary.LittleEndian.Uint64(page[48:]), Seq: binary.LittleEndian.Uint32(page[56:])}},
		Epoch: cluster.Epoch(binary.LittleEndian.Uint64(page[64:])),
		Size:  binary.LittleEndian.Uint32(page[72:]),
		Layout: erasure.Layout{
			Cell: int64(binary.LittleEndian.Uint32(page[80:])),
			Leaf: int64(binary.LittleEndian.Uint32(page[84:])),
			Rows: int64(binary.LittleEndian.Uint32(page[88:])),
		},
		Owner: [16]byte(page[96:112]),
	}
	leaves := binary.LittleEndian.Uint32(page[76:])
	if leaves > maxLeaves {
		return nil, fmt.Errorf("header of %d leaves: %w", leaves, errPage)
	}
	for i := range h.Roots {
		h.Roots[i] = chunkstore.Digest(page[rootsAt+i*sha256.Size:])
	}
	h.Leaves = make([]chunkstore.Digest, leaves)
	for i := range h.Leaves {
		h.Leaves[i] = chunkstore.Digest(page[leavesAt+i*sha256.Size:])
	}
	if err := validate(h); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errPage)
	}
	if h.Layout.ShardSize() != p.payload {
		return nil, fmt.Errorf("payload of %d bytes for a shard of %d: %w", p.payload, h.Layout.ShardSize(), errPage)
	}
	return h, nil
}

// errHeader says that a header given to Put, or read, contradicts itself.
var errHeader = errors.New("header contradicts itself")

// validate refuses a header that format 1 cannot hold or that contradicts itself.
func validate(h *chunkstore.Header) error {
	switch {
	case h.Key.Volume == 0 || h.Key.Shard >= chunkstore.Shards:
		return fmt.Errorf("%v: %w", h.Key, errHeader)
	case h.Size == 0 || h.Size > chunkstore.MaxChunk || h.Layout != erasure.Default.Layout(int64(h.Size)):
		return fmt.Errorf("%v: layout %+v of %d bytes: %w", h.Key, h.Layout, h.Size, errHeader)
	case len(h.Leaves) != h.Layout.Leaves() || len(h.Leaves) > maxLeaves:
		return fmt.Errorf("%v: %d leaves: %w", h.Key, len(h.Leaves), errHeader)
	case chunkstore.Root(h.Leaves) != h.Roots[h.Key.Shard]:
		return fmt.Errorf("%v: leaves do not fit the root: %w", h.Key, errHeader)
	}
	return nil
}
