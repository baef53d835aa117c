package erasure_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/bits"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/chunkstore/erasure"
)

func newCodec(t testing.TB) *erasure.Codec {
	t.Helper()
	c, err := erasure.New(erasure.Default)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pattern fills cells with bytes that depend on cell and position only.
func pattern(cells [][]byte) {
	for i, cell := range cells {
		for j := range cell {
			cell[j] = byte(j*7 + i*31 + j>>8)
		}
	}
}

func row(size int) [][]byte {
	cells := make([][]byte, 12)
	for i := range cells {
		cells[i] = make([]byte, size)
	}
	return cells
}

// TestTheCodeNeverChanges pins the parity of known data: what is on drives must be readable by every later version,
// whatever library computes it.
func TestTheCodeNeverChanges(t *testing.T) {
	c := newCodec(t)
	cells := row(16)
	pattern(cells[:8])
	if err := c.Encode(cells); err != nil {
		t.Fatal(err)
	}
	golden := [4]string{
		"1a127350187f12456a7fdb80c5c03c35",
		"3933b6716910ce1a0a20d9a17fe1eaea",
		"4650aedb71aca8c56c2e7ff606029e58",
		"0871dffab48c481a30f14ed77523a507",
	}
	for i, want := range golden {
		if got := hex.EncodeToString(cells[8+i]); got != want {
			t.Errorf("parity cell %d of 16 bytes: %s, want %s", i, got, want)
		}
	}
	for size, want := range map[int]string{
		4096:  "170611e52a17b86803cdecb682e72f915afcc37196f76fa872a180db488e3f37",
		65536: "067ce326a1649583954fee7195180dd14ae07f92cf220d0a5ccb0b08bd79522a",
	} {
		cells := row(size)
		pattern(cells[:8])
		if err := c.Encode(cells); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(bytes.Join(cells[8:], nil))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("parity cells of %d bytes: digest %s, want %s", size, got, want)
		}
	}
}

// TestParityIsLinear computes parity a second way: one byte at a time in the field, from the generator matrix that
// unit vectors show, so the golden vectors do not rest on the optimized code alone.
func TestParityIsLinear(t *testing.T) {
	c := newCodec(t)
	var matrix [4][8]byte
	for j := range 8 {
		cells := row(1)
		cells[j][0] = 1
		if err := c.Encode(cells); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			matrix[i][j] = cells[8+i][0]
			if matrix[i][j] == 0 {
				t.Fatalf("parity %d does not depend on data %d", i, j)
			}
		}
	}
	cells := row(erasure.Cell)
	pattern(cells[:8])
	if err := c.Encode(cells); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 1, 63, 64, 4095, 4096, erasure.Cell - 1} {
		for i := range 4 {
			var sum byte
			for j := range 8 {
				sum ^= multiply(matrix[i][j], cells[j][at])
			}
			if sum != cells[8+i][at] {
				t.Fatalf("parity %d at %d: %#x, want %#x", i, at, cells[8+i][at], sum)
			}
		}
	}
}

// multiply multiplies in GF(2^8) with the polynomial x^8+x^4+x^3+x^2+1.
func multiply(a, b byte) byte {
	var p byte
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a&0x80 != 0
		a <<= 1
		if carry {
			a ^= 0x1d
		}
	}
	return p
}

// TestEveryLossOfFourIsRebuilt goes through all 793 patterns of one to four lost cells, and rebuilds each wanted subset.
func TestEveryLossOfFourIsRebuilt(t *testing.T) {
	c := newCodec(t)
	whole := row(256)
	pattern(whole[:8])
	if err := c.Encode(whole); err != nil {
		t.Fatal(err)
	}
	patterns := 0
	for lost := uint64(1); lost < 1<<12; lost++ {
		if bits.OnesCount64(lost) > 4 {
			continue
		}
		patterns++
		for _, want := range []uint64{lost, lost & -lost, 1 << (bits.Len64(lost) - 1)} {
			cells := make([][]byte, 12)
			for i := range cells {
				if lost>>i&1 == 0 {
					cells[i] = bytes.Clone(whole[i])
				} else {
					cells[i] = make([]byte, 0, 256)
				}
			}
			if err := c.Reconstruct(cells, want); err != nil {
				t.Fatalf("lost %012b, want %012b: %v", lost, want, err)
			}
			for i := range cells {
				switch {
				case lost>>i&1 == 0 || want>>i&1 != 0:
					if !bytes.Equal(cells[i], whole[i]) {
						t.Fatalf("lost %012b: cell %d differs", lost, i)
					}
				case len(cells[i]) != 0:
					t.Fatalf("lost %012b, want %012b: cell %d was rebuilt unasked", lost, want, i)
				}
			}
		}
	}
	if patterns != 793 {
		t.Fatalf("%d patterns, want 793", patterns)
	}
}

func TestFiveLossesAreRefused(t *testing.T) {
	c := newCodec(t)
	cells := row(64)
	for _, i := range []int{0, 2, 4, 6, 8} {
		cells[i] = make([]byte, 0, 64)
	}
	if err := c.Reconstruct(cells, 1); !errors.Is(err, erasure.ErrTooFew) {
		t.Fatal(err)
	}
}

func TestBadCellsAreRefused(t *testing.T) {
	c := newCodec(t)
	uneven := row(64)
	uneven[3] = uneven[3][:63]
	noRoom := row(64)
	noRoom[2] = nil
	for _, err := range []error{
		c.Encode(uneven), c.Encode(row(0)), c.Encode(row(64)[:11]),
		c.Reconstruct(uneven, 1), c.Reconstruct(noRoom, 1<<2), c.Reconstruct(row(64)[:11], 1),
	} {
		if !errors.Is(err, erasure.ErrBadCells) {
			t.Errorf("got %v, want ErrBadCells", err)
		}
	}
	for _, s := range []erasure.Scheme{{}, {Data: 8}, {Parity: 4}, {Data: 250, Parity: 7}} {
		if _, err := erasure.New(s); !errors.Is(err, erasure.ErrBadScheme) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestReconstructInvertsEncode tries random sizes, contents and losses.
func TestReconstructInvertsEncode(t *testing.T) {
	c := newCodec(t)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 5000).Draw(t, "size")
		lost := rapid.SliceOfNDistinct(rapid.IntRange(0, 11), 0, 4, rapid.ID[int]).Draw(t, "lost")
		seed := rapid.Byte().Draw(t, "seed")
		whole := row(size)
		pattern(whole[:8])
		for i := range whole[:8] {
			for j := range whole[i] {
				whole[i][j] ^= seed
			}
		}
		if err := c.Encode(whole); err != nil {
			t.Fatal(err)
		}
		cells := make([][]byte, 12)
		var want uint64
		for i := range cells {
			cells[i] = bytes.Clone(whole[i])
		}
		for _, i := range lost {
			cells[i] = cells[i][:0]
			want |= 1 << i
		}
		if err := c.Reconstruct(cells, want); err != nil {
			t.Fatal(err)
		}
		for i := range cells {
			if !bytes.Equal(cells[i], whole[i]) {
				t.Fatalf("cell %d differs", i)
			}
		}
	})
}

func TestLayoutHoldsEverySize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 8<<20).Draw(t, "size")
		l := erasure.Default.Layout(size)
		if l.Cell%erasure.Align != 0 || l.Cell > erasure.Cell || l.Leaf > l.Cell {
			t.Fatalf("%+v", l)
		}
		if room := 8 * l.ShardSize(); room < size || room-size >= 8*erasure.Cell {
			t.Fatalf("%d bytes in room for %d", size, room)
		}
		if int64(l.Leaves())*l.Leaf < l.ShardSize() {
			t.Fatalf("%d leaves do not cover %d", l.Leaves(), l.ShardSize())
		}
	})
}

func BenchmarkEncodeRow(b *testing.B) {
	c := newCodec(b)
	cells := row(erasure.Cell)
	pattern(cells[:8])
	b.SetBytes(8 * erasure.Cell)
	for b.Loop() {
		if err := c.Encode(cells); err != nil {
			b.Fatal(err)
		}
	}
}
