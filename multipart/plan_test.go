package multipart

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/chunkstore"
)

// TestPlanKeepsReferencesWithinTheBound draws files of many runs and checks what a plan promises: it is in order, it
// writes all bytes at hand, no run is over a chunk, and the references that are left are within the bound.
func TestPlanKeepsReferencesWithinTheBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 600).Draw(t, "n")
		biggest := rapid.SampledFrom([]int64{16, 4096, 1 << 20, 64 << 20}).Draw(t, "biggest")
		extents := make([]extent, n)
		var size int64
		for i := range extents {
			e := extent{kind: rapid.SampledFrom([]kind{kindData, kindHole, kindBytes}).Draw(t, "kind"), len: rapid.Int64Range(1, biggest).Draw(t, "len")}
			if e.kind != kindHole {
				e.len = min(e.len, chunkstore.MaxChunk)
			}
			extents[i] = e
			size += e.len
		}
		groups := planRewrite(extents, size)
		at, left := 0, n
		for _, g := range groups {
			if g.from < at || g.to <= g.from {
				t.Fatalf("groups %v are not in order", groups)
			}
			for _, e := range extents[at:g.from] {
				if e.kind == kindBytes {
					t.Fatalf("bytes at hand are left out by %v", groups)
				}
			}
			var bytes int64
			onlyBytes := true
			for _, e := range extents[g.from:g.to] {
				bytes += e.len
				onlyBytes = onlyBytes && e.kind == kindBytes
			}
			if bytes > chunkstore.MaxChunk && !onlyBytes {
				t.Fatalf("group %v of %d bytes", g, bytes)
			}
			left -= g.to - g.from - 1
			at = g.to
		}
		if limit := freeRefs + int(size/bytesPerRef); left > limit {
			t.Fatalf("%d references of %d bytes, the bound is %d", left, size, limit)
		}
	})
}

func TestPlanMergesTheSmallestNeighbours(t *testing.T) {
	extents := make([]extent, 101)
	for i := range extents {
		extents[i] = extent{kind: kindData, len: 64 << 10}
	}
	extents[40].len, extents[41].len = 10, 20
	groups := mergeSmallest(extents, 100)
	if len(groups) != 1 || groups[0] != (group{40, 42}) {
		t.Fatalf("merged %v", groups)
	}
}
