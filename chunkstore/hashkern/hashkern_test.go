package hashkern

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	if _, err := source.Read(p); err != nil {
		panic(err)
	}
	return p
}

func TestSum256EqualsTheStandardLibraryForEveryLength(t *testing.T) {
	for n := range 1026 {
		leaves := [][]byte{noise(1, n), noise(2, n), noise(3, n)}
		sums := make([]Digest, 3)
		Sum256(leaves, sums)
		for i, leaf := range leaves {
			if sums[i] != sha256.Sum256(leaf) {
				t.Fatalf("leaf %d of %d bytes differs", i, n)
			}
		}
		for _, other := range [][]byte{leaves[1], noise(4, n/2)} {
			if a, b := SumPair(leaves[0], other); a != sha256.Sum256(leaves[0]) || b != sha256.Sum256(other) {
				t.Fatalf("pair of %d and %d bytes differs", n, len(other))
			}
		}
	}
	a, b := noise(1, 1000), noise(2, 1000)
	if n := testing.AllocsPerRun(100, func() { SumPair(a, b) }); n != 0 {
		t.Errorf("SumPair allocates %v times", n)
	}
}

func TestMD5EqualsTheStandardLibraryForEverySplit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		message := noise(uint64(round), random.IntN(5000))
		var m MD5
		for rest := message; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			leaves := make([][]byte, random.IntN(6))
			for i := range leaves {
				leaves[i] = noise(uint64(i), []int{0, 1, 64, 100, 1000, 16 << 10}[random.IntN(6)])
			}
			sums := make([]Digest, len(leaves))
			m.WriteSum256(rest[:n], leaves, sums)
			for i, leaf := range leaves {
				if sums[i] != sha256.Sum256(leaf) {
					t.Fatalf("round %d: leaf %d of %d bytes differs", round, i, len(leaf))
				}
			}
			if half := m.Sum(); half != md5.Sum(message[:len(message)-len(rest)+n]) {
				t.Fatalf("round %d: running MD5 differs", round)
			}
			rest = rest[n:]
		}
		if m.Sum() != md5.Sum(message) {
			t.Fatalf("round %d: MD5 of %d bytes differs", round, len(message))
		}
	}
}

func TestARowStitched(t *testing.T) {
	const cell, leaf = 64 << 10, 16 << 10
	row := noise(9, 12*cell)
	var leaves [][]byte
	for off := 0; off < len(row); off += leaf {
		leaves = append(leaves, row[off:off+leaf])
	}
	sums := make([]Digest, len(leaves))
	var m MD5
	m.WriteSum256(row[:8*cell], leaves, sums)
	for i := range leaves {
		if sums[i] != sha256.Sum256(leaves[i]) {
			t.Fatalf("leaf %d differs", i)
		}
	}
	if m.Sum() != md5.Sum(row[:8*cell]) {
		t.Fatal("MD5 differs")
	}
	if !bytes.Equal(row, noise(9, 12*cell)) {
		t.Fatal("the row was changed")
	}
}

// Two streams of all kinds of lengths, at once and in pieces, with leaves of all kinds.
func TestTwoStreamsAtOnceEqualTheStandardLibrary(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 400 {
		type stream struct {
			body []byte
			sum  MD5
		}
		var streams [2]stream
		for range 1 + random.IntN(3) {
			var works [2]Work
			for i := range works {
				s := &streams[i]
				body := noise(random.Uint64(), random.IntN([]int{1, 100, 5000, 70_000}[random.IntN(4)]))
				var leaves [][]byte
				size := []int{0, 1, 64, 1000, 16 << 10}[random.IntN(5)]
				for range random.IntN(8) {
					if random.IntN(10) == 0 {
						size++
					}
					leaves = append(leaves, noise(random.Uint64(), size))
				}
				s.body = append(s.body, body...)
				works[i] = Work{MD5: &s.sum, Body: body, Leaves: leaves, Sums: make([]Digest, len(leaves))}
			}
			RunTwo(works[0], works[1])
			for i, w := range works {
				for n, leaf := range w.Leaves {
					if w.Sums[n] != sha256.Sum256(leaf) {
						t.Fatalf("round %d: leaf %d of stream %d, %d bytes, differs", round, n, i, len(leaf))
					}
				}
			}
		}
		for i := range streams {
			if s := &streams[i]; s.sum.Sum() != md5.Sum(s.body) {
				t.Fatalf("round %d: MD5 of stream %d, %d bytes, differs", round, i, len(s.body))
			}
		}
	}
}

// BenchmarkKernels prints what the machine's standard hashes take beside the kernels.
func BenchmarkKernels(b *testing.B) {
	const cell, leaf = 64 << 10, 16 << 10
	row := noise(9, 12*cell)
	var leaves [][]byte
	for off := 0; off < len(row); off += leaf {
		leaves = append(leaves, row[off:off+leaf])
	}
	sums := make([]Digest, len(leaves))
	other := noise(10, 12*cell)
	var others [][]byte
	for off := 0; off < len(other); off += leaf {
		others = append(others, other[off:off+leaf])
	}
	otherSums := make([]Digest, len(others))
	for _, run := range []struct {
		name string
		size int64
		work func()
	}{
		{"crypto/sha256", 12 * cell, func() {
			for i := range leaves {
				sums[i] = sha256.Sum256(leaves[i])
			}
		}},
		{"sum256", 12 * cell, func() { Sum256(leaves, sums) }},
		{"crypto/md5", 8 * cell, func() { md5.Sum(row[:8*cell]) }},
		{"put row, standard hashes", 8 * cell, func() {
			md5.Sum(row[:8*cell])
			for i := range leaves {
				sums[i] = sha256.Sum256(leaves[i])
			}
		}},
		{"put row, stitched", 8 * cell, func() {
			var m MD5
			m.WriteSum256(row[:8*cell], leaves, sums)
		}},
		{"two put rows, stitched", 16 * cell, func() {
			var m, n MD5
			RunTwo(Work{MD5: &m, Body: row[:8*cell], Leaves: leaves, Sums: sums},
				Work{MD5: &n, Body: other[:8*cell], Leaves: others, Sums: otherSums})
		}},
	} {
		b.Run(fmt.Sprint(run.name), func(b *testing.B) {
			b.SetBytes(run.size)
			for b.Loop() {
				run.work()
			}
		})
	}
}
