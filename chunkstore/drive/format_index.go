package drive

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// segment is the distance of index records: one stands at every multiple of it, so opening a file reads at most
// 1 GiB / 64 MiB index records and the headers of one segment.
const segment = 64 << 20

// maxIndexEntries is the most records of one segment: the smallest record has two pages.
const maxIndexEntries = segment / (2 * pageSize)

// maxIndexPayload bounds what a damaged length can make us allocate: 448 KiB.
const maxIndexPayload = max((maxIndexEntries*entrySize+pageSize-1)/pageSize*pageSize, chunkstore.MaxChunk/8)

// entry is where one shard record stands, as an index record keeps it.
type entry struct {
	chunk  chunkstore.ChunkID
	offset int64 // of the header page
	length int64 // header page and payload
	size   uint32
	epoch  cluster.Epoch
	digest [16]byte
}

// index is an index record: every shard record of [from, offset) of its file.
type index struct {
	volume  chunkstore.VolumeID
	shard   uint8
	file    uuid
	offset  int64
	from    int64
	entries []entry
}

// indexSize is what an index of n entries takes: header page, entries, and a copy of the header page, which lets the
// record be found from the end of the file.
func indexSize(n int) int64 {
	return 2*pageSize + (int64(n)*entrySize+pageSize-1)/pageSize*pageSize
}

// putIndex lays out an index record into b, indexSize bytes.
func (s *sealer) putIndex(b []byte, x index) {
	payload := b[pageSize : len(b)-pageSize]
	clear(payload)
	for i, e := range x.entries {
		at := payload[i*entrySize:]
		binary.LittleEndian.PutUint64(at[0:], e.chunk.Block)
		binary.LittleEndian.PutUint32(at[8:], e.chunk.Seq)
		binary.LittleEndian.PutUint32(at[12:], e.size)
		binary.LittleEndian.PutUint32(at[16:], uint32(e.offset/pageSize))
		binary.LittleEndian.PutUint32(at[20:], uint32(e.length/pageSize))
		binary.LittleEndian.PutUint64(at[24:], uint64(e.epoch))
		copy(at[32:48], e.digest[:])
	}
	page := b[:pageSize]
	putPrefix(page, recordPrefix{kind: typeIndex, payload: int64(len(payload)), offset: x.offset, file: x.file,
		volume: x.volume, shard: x.shard})
	binary.LittleEndian.PutUint64(page[48:], uint64(x.from))
	binary.LittleEndian.PutUint32(page[56:], uint32(len(x.entries)))
	sum := sha256.Sum256(payload)
	copy(page[rootsAt:], sum[:])
	s.seal(page)
	copy(b[len(b)-pageSize:], page)
}

// indexHead reads the header page of an index record: all but the entries, and how many of them there are.
func (s *sealer) indexHead(page []byte, file uuid) (x index, count int, err error) {
	p, err := s.prefix(page)
	if err != nil {
		return index{}, 0, err
	}
	x = index{volume: p.volume, shard: p.shard, file: p.file, offset: p.offset,
		from: int64(binary.LittleEndian.Uint64(page[48:]))}
	count = int(binary.LittleEndian.Uint32(page[56:]))
	if p.kind != typeIndex || p.file != file || count > maxIndexEntries || indexSize(count) != p.payload+2*pageSize ||
		x.from < 0 || x.from > x.offset {
		return index{}, 0, fmt.Errorf("index record: %w", errPage)
	}
	return x, count, nil
}

// indexEntries reads the payload of an index record whose header page is page.
func (x *index) decodeEntries(page, payload []byte, count int) error {
	if sum := sha256.Sum256(payload); string(sum[:]) != string(page[rootsAt:rootsAt+sha256.Size]) {
		return fmt.Errorf("entries of an index record: %w", errPage)
	}
	x.entries = make([]entry, count)
	for i := range x.entries {
		at := payload[i*entrySize : (i+1)*entrySize]
		e := entry{
			chunk: chunkstore.ChunkID{Block: binary.LittleEndian.Uint64(at[0:]), Seq: binary.LittleEndian.Uint32(at[8:])},
			size:  binary.LittleEndian.Uint32(at[12:]), offset: int64(binary.LittleEndian.Uint32(at[16:])) * pageSize,
			length: int64(binary.LittleEndian.Uint32(at[20:])) * pageSize,
			epoch:  cluster.Epoch(binary.LittleEndian.Uint64(at[24:])), digest: [16]byte(at[32:48]),
		}
		if e.offset < x.from || e.length < 2*pageSize || e.length > maxRecordSize || e.offset+e.length > x.offset {
			return fmt.Errorf("entry %d of an index record: %w", i, errPage)
		}
		x.entries[i] = e
	}
	return nil
}

// note is one row of the ledger: a shard that was deleted, or an epoch below which a volume takes nothing.
type note struct {
	kind   uint8
	volume chunkstore.VolumeID
	slot   slot
	epoch  cluster.Epoch
}

const (
	noteDeleted = 1
	noteSealed  = 2
)

// slot names a shard inside its volume.
type slot struct {
	chunk chunkstore.ChunkID
	shard uint8
}

// putNotes lays out a ledger page of up to notesPerPage notes.
func (s *sealer) putNotes(page []byte, file uuid, offset int64, notes []note) {
	putPrefix(page, recordPrefix{kind: typeLedger, offset: offset, file: file})
	binary.LittleEndian.PutUint32(page[56:], uint32(len(notes)))
	for i, n := range notes {
		at := page[notesAt+i*noteSize:]
		at[0], at[1] = n.kind, n.slot.shard
		binary.LittleEndian.PutUint32(at[4:], n.slot.chunk.Seq)
		binary.LittleEndian.PutUint64(at[8:], uint64(n.volume))
		binary.LittleEndian.PutUint64(at[16:], n.slot.chunk.Block)
		binary.LittleEndian.PutUint64(at[24:], uint64(n.epoch))
	}
	s.seal(page)
}

// notes reads a ledger page.
func (s *sealer) notes(page []byte, file uuid, offset int64) ([]note, error) {
	p, err := s.prefix(page)
	if err != nil {
		return nil, err
	}
	count := int(binary.LittleEndian.Uint32(page[56:]))
	if p.kind != typeLedger || p.file != file || p.offset != offset || count > notesPerPage {
		return nil, fmt.Errorf("ledger page: %w", errPage)
	}
	notes := make([]note, count)
	for i := range notes {
		at := page[notesAt+i*noteSize:]
		n := note{
			kind: at[0], volume: chunkstore.VolumeID(binary.LittleEndian.Uint64(at[8:])),
			slot: slot{chunk: chunkstore.ChunkID{Block: binary.LittleEndian.Uint64(at[16:]),
				Seq: binary.LittleEndian.Uint32(at[4:])}, shard: at[1]},
			epoch: cluster.Epoch(binary.LittleEndian.Uint64(at[24:])),
		}
		if n.kind != noteDeleted && n.kind != noteSealed || n.slot.shard >= chunkstore.Shards {
			return nil, fmt.Errorf("note %d of a ledger page: %w", i, errPage)
		}
		notes[i] = n
	}
	return notes, nil
}
