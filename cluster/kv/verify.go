package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// maxVerified bounds the journals and manifests that are read whole: far more than write buffers and file lists of
// any DB that this package makes.
const maxVerified = 1 << 30

// verify proves that the files of a directory are some prefix of the batches that were written, and cuts the torn tail
// of the last journal. goleveldb by itself skips a damaged part of a journal and opens with holes, or with StrictJournal
// refuses every torn tail.
//
// The proof: CURRENT is sealed; the manifest is whole to its last byte; the tables that it names are there in full
// length (their pages are checked as they are read); the journals' first batch follows the sequence number of the
// manifest, each batch the one before, and nothing readable stands after the point where the last one is cut.
func verify(f vfs.FS, dir string) error {
	fd, err := readCurrent(f, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return verifyBlank(f, dir)
	}
	if err != nil {
		return err
	}
	m, err := readManifest(f, dir, fd)
	if err != nil {
		return err
	}
	if err := m.verifyTables(f, dir); err != nil {
		return err
	}
	return m.verifyJournals(f, dir)
}

// verifyBlank accepts a directory without CURRENT only when no other file of a DB is there.
func verifyBlank(f vfs.FS, dir string) error {
	fds, err := list(f, dir)
	if err != nil {
		return err
	}
	if len(fds) > 0 {
		return fmt.Errorf("%s is missing beside %d files", currentName, len(fds))
	}
	return nil
}

// manifest is what the version edits of a manifest file add up to.
type manifest struct {
	journal  int64 // the first journal whose batches are not in tables
	sequence uint64
	tables   map[int64]int64 // number → data bytes
}

// readManifest adds up a manifest. Its tail is never cut: the edit before the last may name journals that are gone.
func readManifest(f vfs.FS, dir string, fd storage.FileDesc) (manifest, error) {
	m := manifest{tables: map[int64]int64{}}
	data, err := vfs.ReadFile(f, join(dir, fd.String()), maxVerified)
	if err != nil {
		return m, err
	}
	records, valid := readRecords(data)
	if valid != len(data) || len(records) == 0 {
		return m, fmt.Errorf("%s is damaged at byte %d of %d", fd, valid, len(data))
	}
	for _, record := range records {
		if err := m.add(record); err != nil {
			return m, fmt.Errorf("%s: %w", fd, err)
		}
	}
	return m, nil
}

// Tags of a version edit in goleveldb's manifest.
const (
	tagComparer = 1
	tagJournal  = 2
	tagNextFile = 3
	tagSequence = 4
	tagPointer  = 5
	tagRemoved  = 6
	tagAdded    = 7
	tagPrevious = 9
)

// add adds one version edit.
func (m *manifest) add(record []byte) error {
	r := fieldReader{rest: record}
	for len(r.rest) > 0 && !r.bad {
		switch tag := r.number(); tag {
		case tagComparer:
			r.bytes()
		case tagJournal:
			m.journal = max(m.journal, int64(r.number()))
		case tagNextFile, tagPrevious:
			r.number()
		case tagSequence:
			sequence := r.number()
			if sequence < m.sequence {
				return fmt.Errorf("sequence number %d after %d", sequence, m.sequence)
			}
			m.sequence = sequence
		case tagPointer:
			r.number()
			r.bytes()
		case tagRemoved:
			r.number()
			delete(m.tables, int64(r.number()))
		case tagAdded:
			r.number()
			number, size := int64(r.number()), int64(r.number())
			r.bytes()
			r.bytes()
			m.tables[number] = size
		default:
			return fmt.Errorf("unknown field %d in a version edit", tag)
		}
	}
	if r.bad {
		return errors.New("version edit ends early")
	}
	return nil
}

// fieldReader takes fields off a record; bad tells that one was cut short.
type fieldReader struct {
	rest []byte
	bad  bool
}

func (r *fieldReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *fieldReader) bytes() {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

// verifyTables checks that every live table is there in full length.
func (m *manifest) verifyTables(f vfs.FS, dir string) error {
	for number, size := range m.tables {
		fd := storage.FileDesc{Type: storage.TypeTable, Num: number}
		info, err := f.Stat(join(dir, fd.String()))
		if err != nil {
			return err
		}
		if want := (size + pageData - 1) / pageData * pageSize; info.Size != want {
			return fmt.Errorf("%s has %d bytes, want %d", fd, info.Size, want)
		}
	}
	return nil
}

// verifyJournals checks the journals that are not in tables yet, oldest first, and cuts a torn tail.
func (m *manifest) verifyJournals(f vfs.FS, dir string) error {
	fds, err := list(f, dir)
	if err != nil {
		return err
	}
	fds = slices.DeleteFunc(fds, func(fd storage.FileDesc) bool {
		return fd.Type != storage.TypeJournal || fd.Num < m.journal
	})
	slices.SortFunc(fds, func(a, b storage.FileDesc) int { return int(a.Num - b.Num) })
	next, torn := m.sequence+1, ""
	for _, fd := range fds {
		name := join(dir, fd.String())
		data, err := vfs.ReadFile(f, name, maxVerified)
		if err != nil {
			return err
		}
		records, valid := readRecords(data)
		if torn != "" && len(records) > 0 {
			return fmt.Errorf("%s is damaged and %s follows it", torn, fd)
		}
		if next, err = follow(records, next); err != nil {
			return fmt.Errorf("%s: %w", fd, err)
		}
		if valid == len(data) {
			continue
		}
		if readableAfter(data, valid) {
			return fmt.Errorf("%s is damaged at byte %d of %d", fd, valid, len(data))
		}
		torn = fd.String()
		if err := cut(f, name, int64(valid)); err != nil {
			return err
		}
	}
	return nil
}

// batchHeader is the sequence number of a batch's first write and the number of its writes.
const batchHeader = 12

// follow checks that batches follow one another and the number next, and returns the number after them. goleveldb
// leaves out one number whenever it recovers a journal, so the first batch of a journal may come one early.
func follow(records [][]byte, next uint64) (uint64, error) {
	for i, record := range records {
		if len(record) < batchHeader {
			return 0, errors.New("batch without a header")
		}
		sequence := binary.LittleEndian.Uint64(record)
		if sequence != next && !(i == 0 && sequence+1 == next) {
			return 0, fmt.Errorf("batch %d where %d was due", sequence, next)
		}
		next = sequence + uint64(binary.LittleEndian.Uint32(record[8:]))
	}
	return next, nil
}

// cut shortens a journal durably.
func cut(f vfs.FS, name string, size int64) (err error) {
	file, err := f.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Sync()
}

// The framing of goleveldb's journals and manifests: blocks of 32 KiB; in them chunks of CRC32C (masked), length uint16,
// kind byte, payload; a record is one full chunk or a first, middle ones and a last. A block's last bytes, when fewer
// than a header, are zero.
const (
	blockSize   = 32 << 10
	chunkHeader = 7
	chunkFull   = 1
	chunkFirst  = 2
	chunkMiddle = 3
	chunkLast   = 4
)

// readRecords returns the records before the first damage and the bytes that they take. valid == len(data) tells that
// there is none.
func readRecords(data []byte) (records [][]byte, valid int) {
	var open []byte // a record whose last chunk did not come yet; nil when none is
	for pos := 0; ; {
		if left := blockSize - pos%blockSize; left < chunkHeader {
			if !bytes.Equal(data[pos:min(pos+left, len(data))], make([]byte, min(left, len(data)-pos))) {
				return records, valid
			}
			pos = min(pos+left, len(data))
			if open == nil {
				valid = pos
			}
		}
		if pos == len(data) {
			return records, valid
		}
		kind, payload, ok := readChunk(data, pos)
		if !ok || (open == nil) != (kind == chunkFull || kind == chunkFirst) {
			return records, valid
		}
		pos += chunkHeader + len(payload)
		switch kind {
		case chunkFull:
			records, valid = append(records, payload), pos
		case chunkFirst:
			open = append(make([]byte, 0, 2*len(payload)), payload...)
		case chunkMiddle:
			open = append(open, payload...)
		case chunkLast:
			records, open, valid = append(records, append(open, payload...)), nil, pos
		}
	}
}

// readChunk reads the chunk at pos, whose header must fit into its block.
func readChunk(data []byte, pos int) (kind byte, payload []byte, ok bool) {
	if len(data)-pos < chunkHeader {
		return 0, nil, false
	}
	kind = data[pos+6]
	end := pos + chunkHeader + int(binary.LittleEndian.Uint16(data[pos+4:]))
	if kind < chunkFull || kind > chunkLast || end > len(data) || end > (pos/blockSize+1)*blockSize {
		return 0, nil, false
	}
	sum := castagnoli(data[pos+6 : end])
	const maskDelta = 0xa282ead8 // LevelDB's masking of checksums that are stored beside what they cover
	if binary.LittleEndian.Uint32(data[pos:]) != (sum>>15|sum<<17)+maskDelta {
		return 0, nil, false
	}
	return kind, data[pos+chunkHeader : end], true
}

// readableAfter tells whether a whole chunk stands anywhere after a damage. A flipped length hides where the next one
// begins, so every place is tried. The damaged record's own first chunks do not count: a tail may be torn in the
// middle of a record.
func readableAfter(data []byte, from int) bool {
	pos := from
	for pos < len(data) { // the chunks of a record that never ended
		left := blockSize - pos%blockSize
		if left < chunkHeader {
			pos += left
			continue
		}
		_, payload, ok := readChunk(data, pos)
		if !ok {
			break
		}
		pos += chunkHeader + len(payload)
	}
	for pos++; pos+chunkHeader <= len(data); pos++ {
		if blockSize-pos%blockSize < chunkHeader {
			continue
		}
		// An empty first chunk stands before a full block's end and carries nothing.
		if _, payload, ok := readChunk(data, pos); ok && len(payload) > 0 {
			return true
		}
	}
	return false
}
