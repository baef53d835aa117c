package multipart

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/holdfast/holdfast/chunkstore"
)

// ErrManifest says that the bytes of a manifest are not what FORMAT.md says: metadata that cannot be trusted.
var ErrManifest = errors.New("manifest is not valid")

// The shape of a manifest, drawn in FORMAT.md. All numbers are little-endian.
const (
	manifestFormat = 1
	headerSize     = 24
	entrySize      = 64
	// pageSize is a page of entries, the unit in which an index chunk is read: one leaf, so a lookup costs one leaf a level.
	pageSize    = 16 << 10
	pageEntries = pageSize / entrySize
	// maxInlineRefs is how many entries stand in the manifest itself before they move into index chunks: about 1 KiB in
	// the metadata record, 128 MiB of full chunks.
	maxInlineRefs = 16
	// maxRootEntries caps what a decoder accepts: lists of dropped chunks are longer than those of versions.
	maxRootEntries = 1 << 14
	// maxListEntries is how many chunks a list of freed ones names without index chunks: half a MiB of a command that
	// may have four.
	maxListEntries = 1 << 13
	// maxSize is above the end of every object.
	maxSize = math.MaxInt64
	// maxHeight caps the levels of pages: 16·256⁴ entries are more than any object has.
	maxHeight = 4
)

var (
	manifestMagic = [4]byte{'H', 'F', 'M', 'F'}
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// kind says what an extent is. The numbers are on disk, except kindBytes, which never is.
type kind uint8

const (
	kindData  kind = 1 // a span of a chunk
	kindHole  kind = 2 // zeros
	kindPage  kind = 3 // a page of entries in an index chunk
	kindBytes kind = 4 // bytes at hand, on their way into a chunk
)

// extent is one run of an object's bytes.
type extent struct {
	kind kind
	len  int64 // bytes of the object
	// ref is the span of the chunk. For data ref.Len equals len; for a page it is the page's own length.
	ref   chunkstore.Ref
	bytes []byte // of kindBytes
}

// clip returns the bytes off..off+n of e, which is no page.
func (e extent) clip(off, n int64) extent {
	e.len = n
	switch e.kind {
	case kindData:
		e.ref.Off += uint32(off)
		e.ref.Len = uint32(n)
	case kindBytes:
		e.bytes = e.bytes[off : off+n]
	}
	return e
}

// placed is an extent at its place in the object.
type placed struct {
	extent
	start int64
}

// root is a decoded manifest: the entries that stand in the metadata record itself.
type root struct {
	size    int64
	height  int // 0: entries are data and holes; else pages of height-1
	entries []placed
}

// appendRoot encodes a manifest of the given height.
func appendRoot(b []byte, height int, entries []extent) []byte {
	at := len(b)
	var size int64
	for i := range entries {
		size += entries[i].len
	}
	b = append(b, manifestMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, manifestFormat)
	b = append(b, byte(height), 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(entries)))
	b = binary.LittleEndian.AppendUint32(b, 0) // checksum, below
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = appendEntries(b, 0, entries)
	binary.LittleEndian.PutUint32(b[at+12:], rootChecksum(b[at:]))
	return b
}

// rootChecksum is the CRC32C of a manifest with its checksum field left out.
func rootChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:])
}

// appendEntries encodes entries that begin at byte start of the object.
func appendEntries(b []byte, start int64, entries []extent) []byte {
	for i := range entries {
		e := &entries[i]
		var w [entrySize]byte
		binary.LittleEndian.PutUint64(w[0:], uint64(start))
		binary.LittleEndian.PutUint64(w[8:], uint64(e.len))
		w[16] = byte(e.kind)
		if e.kind == kindPage {
			w[17] = byte(e.ref.Len/entrySize - 1)
		}
		if e.kind != kindHole {
			binary.LittleEndian.PutUint32(w[20:], e.ref.Off)
			binary.LittleEndian.PutUint64(w[24:], uint64(e.ref.Volume))
			binary.LittleEndian.PutUint64(w[32:], e.ref.ID.Block)
			binary.LittleEndian.PutUint32(w[40:], e.ref.ID.Seq)
			binary.LittleEndian.PutUint32(w[44:], e.ref.Size)
			copy(w[48:], e.ref.Digest[:])
		}
		b = append(b, w[:]...)
		start += e.len
	}
	return b
}

// decodeRoot reads what appendRoot wrote. Its errors wrap ErrManifest.
func decodeRoot(b []byte) (root, error) {
	if len(b) < headerSize || [4]byte(b[:4]) != manifestMagic {
		return root{}, fmt.Errorf("%d bytes without the magic: %w", len(b), ErrManifest)
	}
	if f := binary.LittleEndian.Uint16(b[4:]); f != manifestFormat {
		return root{}, fmt.Errorf("format %d, this program reads %d: %w", f, manifestFormat, ErrManifest)
	}
	count := binary.LittleEndian.Uint32(b[8:])
	if count > maxRootEntries || len(b) != headerSize+int(count)*entrySize {
		return root{}, fmt.Errorf("%d entries in %d bytes: %w", count, len(b), ErrManifest)
	}
	if binary.LittleEndian.Uint32(b[12:]) != rootChecksum(b) {
		return root{}, fmt.Errorf("checksum differs: %w", ErrManifest)
	}
	size := binary.LittleEndian.Uint64(b[16:])
	if b[6] > maxHeight || b[7] != 0 || size > math.MaxInt64 {
		return root{}, fmt.Errorf("header fields are out of bounds: %w", ErrManifest)
	}
	r := root{size: int64(size), height: int(b[6])}
	var err error
	r.entries, err = decodeEntries(b[headerSize:], 0, r.size, r.height > 0)
	return r, err
}

// decodeEntries reads entries that must cover exactly start..start+size of the object, pages or else data and holes.
func decodeEntries(b []byte, start, size int64, pages bool) ([]placed, error) {
	if len(b)%entrySize != 0 {
		return nil, fmt.Errorf("%d bytes of entries: %w", len(b), ErrManifest)
	}
	entries := make([]placed, 0, len(b)/entrySize)
	left := size
	for ; len(b) > 0; b = b[entrySize:] {
		e, err := decodeEntry(b[:entrySize])
		if err != nil {
			return nil, err
		}
		switch {
		case e.start != start || e.len > left:
			return nil, fmt.Errorf("entry of bytes %d+%d where %d+%d are left: %w", e.start, e.len, start, left, ErrManifest)
		case (e.kind == kindPage) != pages:
			return nil, fmt.Errorf("entry of kind %d at a wrong level: %w", e.kind, ErrManifest)
		}
		start += e.len
		left -= e.len
		entries = append(entries, e)
	}
	if left != 0 {
		return nil, fmt.Errorf("entries lack %d bytes: %w", left, ErrManifest)
	}
	return entries, nil
}

// decodeEntry reads one entry and checks it in itself.
func decodeEntry(b []byte) (placed, error) {
	var e placed
	start, n := binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:])
	if start > math.MaxInt64 || n == 0 || n > math.MaxInt64 {
		return e, fmt.Errorf("entry at %d of %d bytes: %w", start, n, ErrManifest)
	}
	e.start, e.len, e.kind = int64(start), int64(n), kind(b[16])
	if e.kind == kindHole {
		if [entrySize - 17]byte(b[17:]) != [entrySize - 17]byte{} {
			return e, fmt.Errorf("a hole with a chunk: %w", ErrManifest)
		}
		return e, nil
	}
	e.ref.Off = binary.LittleEndian.Uint32(b[20:])
	e.ref.Volume = chunkstore.VolumeID(binary.LittleEndian.Uint64(b[24:]))
	e.ref.ID = chunkstore.ChunkID{Block: binary.LittleEndian.Uint64(b[32:]), Seq: binary.LittleEndian.Uint32(b[40:])}
	e.ref.Size = binary.LittleEndian.Uint32(b[44:])
	e.ref.Digest = [16]byte(b[48:])
	switch {
	case e.kind == kindData && b[17] == 0 && n <= chunkstore.MaxChunk:
		e.ref.Len = uint32(n)
	case e.kind == kindPage:
		e.ref.Len = (uint32(b[17]) + 1) * entrySize
	default:
		return e, fmt.Errorf("entry of kind %d and %d bytes: %w", e.kind, n, ErrManifest)
	}
	if b[18] != 0 || b[19] != 0 || e.ref.Size > chunkstore.MaxChunk || uint64(e.ref.Off)+uint64(e.ref.Len) > uint64(e.ref.Size) {
		return e, fmt.Errorf("span %d+%d of a chunk of %d bytes: %w", e.ref.Off, e.ref.Len, e.ref.Size, ErrManifest)
	}
	return e, nil
}

// list gathers extents in order and joins neighbours that are one run.
type list struct {
	extents []extent
	size    int64
}

func (l *list) add(e extent) {
	if e.len == 0 {
		return
	}
	l.size += e.len
	if n := len(l.extents); n > 0 {
		last := &l.extents[n-1]
		switch {
		case last.kind == kindHole && e.kind == kindHole:
			last.len += e.len
			return
		case last.kind == kindData && e.kind == kindData && last.ref.Chunk == e.ref.Chunk && last.ref.Off+last.ref.Len == e.ref.Off:
			last.len += e.len
			last.ref.Len += e.ref.Len
			return
		}
	}
	l.extents = append(l.extents, e)
}

// addChunks adds whole chunks, as Store.Write returned them.
func (l *list) addChunks(chunks []chunkstore.Chunk) {
	for _, c := range chunks {
		l.add(extent{kind: kindData, len: int64(c.Size), ref: chunkstore.Ref{Chunk: c, Len: c.Size}})
	}
}

// encodeChunkList encodes whole chunks as a manifest without index chunks, for lists of what a commit frees.
func encodeChunkList(chunks []chunkstore.Chunk) ([]byte, error) {
	if len(chunks) == 0 {
		return nil, nil
	}
	if len(chunks) > maxRootEntries {
		return nil, fmt.Errorf("list of %d chunks: %w", len(chunks), ErrManifest)
	}
	extents := make([]extent, len(chunks))
	for i, c := range chunks {
		extents[i] = extent{kind: kindData, len: int64(c.Size), ref: chunkstore.Ref{Chunk: c, Len: c.Size}}
	}
	return appendRoot(nil, 0, extents), nil
}
