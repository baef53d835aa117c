package multipart

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/tests/expect"
)

func testChunk(i int, size uint32) chunkstore.Chunk {
	c := chunkstore.Chunk{
		Volume: chunkstore.VolumeID(1000 + i/10), ID: chunkstore.ChunkID{Block: 1<<48 | 7, Seq: uint32(i)}, Size: size,
	}
	for b := range c.Digest {
		c.Digest[b] = byte(i + b)
	}
	return c
}

func goldenManifests() map[string][]byte {
	chunk := testChunk(1, 8<<20)
	page := testChunk(2, 12800)
	return map[string][]byte{
		"manifest.v1.data": appendRoot(nil, 0, []extent{
			{kind: kindData, len: 8 << 20, ref: chunkstore.Ref{Chunk: chunk, Len: 8 << 20}},
			{kind: kindHole, len: 1 << 40},
			{kind: kindData, len: 100, ref: chunkstore.Ref{Chunk: chunk, Off: 4096, Len: 100}},
		}),
		"manifest.v1.index": appendRoot(nil, 1, []extent{
			{kind: kindPage, len: 256 << 20, ref: chunkstore.Ref{Chunk: page, Off: 0, Len: 12800}},
		}),
		"intent.v1": append(IntentRow(chunkstore.Intent{Chunk: chunk, Missing: 0x805}).Key,
			IntentRow(chunkstore.Intent{Chunk: chunk, Missing: 0x805}).Value...),
	}
}

func TestFormatsAreAsTheGoldenFilesSay(t *testing.T) {
	for name, b := range goldenManifests() {
		expect.Golden(t, name+".hex", []byte(hex.Dump(b)))
	}
}

func drawExtents(t *rapid.T, pages bool) []extent {
	n := rapid.IntRange(1, 40).Draw(t, "entries")
	extents := make([]extent, n)
	for i := range extents {
		size := rapid.Uint32Range(1, chunkstore.MaxChunk).Draw(t, "size")
		c := testChunk(i, size)
		switch {
		case pages:
			count := rapid.IntRange(1, pageEntries).Draw(t, "count")
			c.Size = max(c.Size, pageSize)
			extents[i] = extent{kind: kindPage, len: rapid.Int64Range(1, 1<<40).Draw(t, "len"),
				ref: chunkstore.Ref{Chunk: c, Len: uint32(count * entrySize)}}
		case rapid.IntRange(0, 3).Draw(t, "hole") == 0:
			extents[i] = extent{kind: kindHole, len: rapid.Int64Range(1, 1<<45).Draw(t, "len")}
		default:
			off := rapid.Uint32Range(0, size-1).Draw(t, "off")
			n := rapid.Uint32Range(1, size-off).Draw(t, "n")
			extents[i] = extent{kind: kindData, len: int64(n), ref: chunkstore.Ref{Chunk: c, Off: off, Len: n}}
		}
	}
	return extents
}

func TestManifestIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		height := rapid.IntRange(0, maxHeight).Draw(t, "height")
		extents := drawExtents(t, height > 0)
		r, err := decodeRoot(appendRoot(nil, height, extents))
		if err != nil {
			t.Fatal(err)
		}
		var got []extent
		var start int64
		for _, e := range r.entries {
			if e.start != start {
				t.Fatalf("entry at %d, want %d", e.start, start)
			}
			start += e.len
			got = append(got, e.extent)
		}
		if r.height != height || r.size != start || !reflect.DeepEqual(got, extents) {
			t.Fatalf("got %+v", r)
		}
	})
}

func TestEveryFlippedBitOfAManifestIsRefused(t *testing.T) {
	b := goldenManifests()["manifest.v1.data"]
	for i := range b {
		for bit := range 8 {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1 << bit
			if _, err := decodeRoot(damaged); !errors.Is(err, ErrManifest) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
	}
	for i := range b {
		if _, err := decodeRoot(b[:i]); !errors.Is(err, ErrManifest) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	for _, b := range goldenManifests() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRoot(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatal(err)
			}
			return
		}
		extents := make([]extent, len(r.entries))
		for i, e := range r.entries {
			extents[i] = e.extent
		}
		if again := appendRoot(nil, r.height, extents); !bytes.Equal(again, b) {
			t.Fatalf("%x was read, %x is written", b, again)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add(goldenManifests()["manifest.v1.data"][headerSize:], int64(0), int64(8<<20+1<<40+100), false)
	f.Add(goldenManifests()["manifest.v1.index"][headerSize:], int64(0), int64(256<<20), true)
	f.Fuzz(func(t *testing.T, b []byte, start, size int64, pages bool) {
		entries, err := decodeEntries(b, start, size, pages)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatal(err)
			}
			return
		}
		var sum int64
		for _, e := range entries {
			sum += e.len
		}
		if sum != size {
			t.Fatalf("entries of %d bytes where %d were asked for", sum, size)
		}
	})
}

func TestIntentRowIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := chunkstore.Intent{
			Chunk:   testChunk(rapid.IntRange(0, 1<<20).Draw(t, "chunk"), rapid.Uint32().Draw(t, "size")),
			Missing: rapid.Uint16Range(0, 1<<chunkstore.Shards-1).Draw(t, "missing"),
		}
		got, err := ParseIntentRow(IntentRow(in))
		if err != nil || got != in {
			t.Fatalf("got %+v, %v", got, err)
		}
	})
}

func FuzzIntentRow(f *testing.F) {
	row := IntentRow(chunkstore.Intent{Chunk: testChunk(1, 4), Missing: 3})
	f.Add(row.Key, row.Value)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		row.Key, row.Value = key, value
		in, err := ParseIntentRow(row)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatal(err)
			}
			return
		}
		again := IntentRow(in)
		if !bytes.Equal(again.Key, key) || !bytes.Equal(again.Value, value) {
			t.Fatalf("%x %x was read, %x %x is written", key, value, again.Key, again.Value)
		}
	})
}
