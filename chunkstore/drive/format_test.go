package drive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/tests/expect"
)

var (
	goldenKey  = [32]byte{1, 2, 3, 4}
	goldenFile = uuid{5, 6, 7}
)

func goldenIdentity() Identity {
	return Identity{Format: 1, Cluster: cluster.ClusterID{1}, Drive: cluster.DriveID{2}, Name: "d7",
		Created: time.Unix(1_790_000_000, 0).UTC(), IntegrityKey: goldenKey}
}

func goldenFileHeader() fileHeader {
	return fileHeader{kind: kindChunkFile, cluster: cluster.ClusterID{1}, drive: cluster.DriveID{2}, file: goldenFile,
		volume: 0x1122334455667788, shard: 11, generation: 9, created: 1_790_000_000}
}

func goldenShard() *chunkstore.Header {
	h := &chunkstore.Header{
		Key:   chunkstore.ShardKey{Volume: 0x1122334455667788, Chunk: chunkstore.ChunkID{Block: 77, Seq: 8}, Shard: 11},
		Epoch: 3, Size: chunkstore.MaxChunk, Layout: erasure.Default.Layout(chunkstore.MaxChunk), Owner: [16]byte{9, 9},
	}
	for i := range h.Layout.Leaves() {
		h.Leaves = append(h.Leaves, sha256.Sum256([]byte{byte(i)}))
	}
	for i := range h.Roots {
		h.Roots[i] = sha256.Sum256([]byte{byte(i), 1})
	}
	h.Roots[11] = chunkstore.Root(h.Leaves)
	return h
}

func goldenIndex() index {
	return index{volume: 0x1122334455667788, shard: 11, file: goldenFile, offset: 4 << 20, from: headerSize, entries: []entry{
		{chunk: chunkstore.ChunkID{Block: 77, Seq: 8}, offset: headerSize, length: maxRecordSize, size: chunkstore.MaxChunk,
			epoch: 3, digest: [16]byte{1, 2}},
		{chunk: chunkstore.ChunkID{Block: 78, Seq: 9}, offset: 2 << 20, length: 2 * pageSize, size: 1, epoch: 4,
			digest: [16]byte{3, 4}},
	}}
}

func goldenNotes() []note {
	return []note{
		{kind: noteDeleted, volume: 1, slot: slot{chunk: chunkstore.ChunkID{Block: 77, Seq: 8}, shard: 11}},
		{kind: noteSealed, volume: 2, epoch: 5},
	}
}

// golden lays out one of everything: identity, file header, shard header, index record, ledger page.
func golden(t testing.TB) []byte {
	t.Helper()
	s := newSealer(goldenKey)
	b, err := goldenIdentity().encode()
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, pageSize)
	s.putFileHeader(page, goldenFileHeader())
	b = append(b, page...)
	s.putShardHeader(page, goldenFile, headerSize, goldenShard())
	b = append(b, page...)
	record := make([]byte, indexSize(2))
	s.putIndex(record, goldenIndex())
	b = append(b, record...)
	s.putNotes(page, goldenFile, headerSize, goldenNotes())
	return append(b, page...)
}

// TestFormat1IsWhatItWas holds encoders and decoders to the golden file: drives written by the first release must be
// readable for ever.
func TestFormat1IsWhatItWas(t *testing.T) {
	b := golden(t)
	expect.Golden(t, "format1.golden", b)
	s := newSealer(goldenKey)
	take := func(n int64) []byte {
		part := b[:n]
		b = b[n:]
		return part
	}
	if id, err := decodeIdentity(take(identitySize)); err != nil || id != goldenIdentity() {
		t.Errorf("identity %+v: %v", id, err)
	}
	if h, err := s.fileHeader(take(pageSize)); err != nil || h != goldenFileHeader() {
		t.Errorf("file header %+v: %v", h, err)
	}
	if h, err := s.shardHeader(take(pageSize), goldenFile, headerSize); err != nil || !reflect.DeepEqual(h, goldenShard()) {
		t.Errorf("shard header %+v: %v", h, err)
	}
	record := take(indexSize(2))
	x, count, err := s.indexHead(record[:pageSize], goldenFile)
	if err == nil {
		err = x.decodeEntries(record, record[pageSize:len(record)-pageSize], count)
	}
	if err != nil || !reflect.DeepEqual(x, goldenIndex()) {
		t.Errorf("index %+v: %v", x, err)
	}
	if notes, err := s.notes(take(pageSize), goldenFile, headerSize); err != nil || !reflect.DeepEqual(notes, goldenNotes()) {
		t.Errorf("notes %+v: %v", notes, err)
	}
}

func TestPagesOfOtherPlacesKeysAndFormatsAreRefused(t *testing.T) {
	s := newSealer(goldenKey)
	page := make([]byte, pageSize)
	s.putShardHeader(page, goldenFile, headerSize, goldenShard())
	for name, err := range map[string]error{
		"another offset": second(s.shardHeader(page, goldenFile, headerSize+pageSize)),
		"another file":   second(s.shardHeader(page, uuid{}, headerSize)),
		"another key":    second(newSealer([32]byte{}).shardHeader(page, goldenFile, headerSize)),
		"another type":   second(s.notes(page, goldenFile, headerSize)),
	} {
		if !errors.Is(err, errPage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	page[4] = Format + 1
	s.seal(page)
	if _, err := s.shardHeader(page, goldenFile, headerSize); !errors.Is(err, errFormat) {
		t.Errorf("unknown format: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzDecode gives arbitrary bytes, sealed and not, to every decoder: none may panic or take what does not encode back.
func FuzzDecode(f *testing.F) {
	b := golden(f)
	f.Add(b[identitySize:identitySize+pageSize], true)
	f.Add(b[identitySize+pageSize:identitySize+2*pageSize], true)
	f.Add(b[identitySize+2*pageSize:identitySize+5*pageSize], true)
	f.Add(b[len(b)-pageSize:], true)
	f.Add(b[:identitySize], false)
	s := newSealer(goldenKey)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if id, err := decodeIdentity(b); err == nil {
			if again, err := id.encode(); err != nil || !sameUpTo(again, b, 81) {
				t.Fatalf("identity %+v: %v", id, err)
			}
		}
		page := make([]byte, pageSize)
		rest := b[copy(page, b):]
		if sealed {
			s.seal(page)
		}
		again := make([]byte, pageSize)
		if h, err := s.fileHeader(page); err == nil {
			s.putFileHeader(again, h)
			if got, err := s.fileHeader(again); err != nil || got != h {
				t.Fatalf("file header %+v: %v", h, err)
			}
		}
		p, err := s.prefix(page)
		if err != nil {
			return
		}
		if h, err := s.shardHeader(page, p.file, p.offset); err == nil {
			s.putShardHeader(again, p.file, p.offset, h)
			if got, err := s.shardHeader(again, p.file, p.offset); err != nil || !reflect.DeepEqual(got, h) {
				t.Fatalf("shard header %+v: %v", h, err)
			}
		}
		if x, count, err := s.indexHead(page, p.file); err == nil {
			payload := make([]byte, indexSize(count)-2*pageSize)
			copy(payload, rest)
			if err := x.decodeEntries(page, payload, count); err == nil && len(x.entries) != count {
				t.Fatalf("%d entries of %d", len(x.entries), count)
			}
		}
		if notes, err := s.notes(page, p.file, p.offset); err == nil {
			s.putNotes(again, p.file, p.offset, notes)
			if got, err := s.notes(again, p.file, p.offset); err != nil || !reflect.DeepEqual(got, notes) {
				t.Fatalf("notes %+v: %v", notes, err)
			}
		}
	})
}

func sameUpTo(a, b []byte, n int) bool { return bytes.Equal(a[:n], b[:n]) }
