package multipart

import (
	"container/heap"

	"github.com/holdfast/holdfast/chunkstore"
)

// The references that a composed file may keep: 64, and one for each MiB of it. Beyond that the smallest neighbours
// are written again as one, down to three quarters of the bound, so that not every next write has to do so.
const (
	freeRefs     = 64
	bytesPerRef  = 1 << 20
	mergeTargetN = 3
	mergeTargetD = 4
)

// group is the extents from..to (to not included) that are to be written again, as one run.
type group struct{ from, to int }

// planRewrite tells which extents of a file must be written: those that are bytes at hand, and the smallest neighbours
// where there are more references than maxRefs allows. Groups are in order and do not touch.
func planRewrite(extents []extent, size int64) []group {
	var groups []group
	limit := freeRefs + int(size/bytesPerRef)
	merged := []group(nil)
	if len(extents) > limit {
		merged = mergeSmallest(extents, limit*mergeTargetN/mergeTargetD)
	}
	for i := 0; i < len(extents); {
		if len(merged) > 0 && merged[0].from == i {
			groups = append(groups, merged[0])
			i = merged[0].to
			merged = merged[1:]
			continue
		}
		if extents[i].kind != kindBytes {
			i++
			continue
		}
		from := i
		for i < len(extents) && extents[i].kind == kindBytes && (len(merged) == 0 || merged[0].from > i) {
			i++
		}
		groups = append(groups, group{from, i})
	}
	return groups
}

// mergeSmallest joins the pair of neighbours with the fewest bytes, again and again, until at most target runs are
// left or no pair fits into one chunk. It returns the runs of more than one extent, in order.
func mergeSmallest(extents []extent, target int) []group {
	runs := make([]run, len(extents))
	for i, e := range extents {
		runs[i] = run{to: i + 1, bytes: e.len, prev: i - 1, next: i + 1}
	}
	var pairs pairHeap
	offer := func(left int) {
		right := runs[left].next
		if right < len(runs) && runs[left].bytes <= chunkstore.MaxChunk-min(runs[right].bytes, chunkstore.MaxChunk) {
			pairs = append(pairs, pair{left: left, right: right, bytes: runs[left].bytes + runs[right].bytes})
		}
	}
	for i := range runs[:max(len(runs)-1, 0)] {
		offer(i)
	}
	heap.Init(&pairs)
	for count := len(runs); count > target && len(pairs) > 0; {
		p := heap.Pop(&pairs).(pair)
		left, right := &runs[p.left], &runs[p.right]
		if left.gone || right.gone || left.next != p.right || left.bytes+right.bytes != p.bytes {
			continue // one of the two has grown since
		}
		left.to, left.bytes, left.next, right.gone = right.to, p.bytes, right.next, true
		if left.next < len(runs) {
			runs[left.next].prev = p.left
		}
		count--
		for _, at := range []int{left.prev, p.left} {
			if at < 0 {
				continue
			}
			n := len(pairs)
			if offer(at); len(pairs) > n {
				heap.Fix(&pairs, n)
			}
		}
	}
	var groups []group
	for i := range runs {
		if !runs[i].gone && runs[i].to > i+1 {
			groups = append(groups, group{i, runs[i].to})
		}
	}
	return groups
}

// run is a run of neighbours under way to one extent; its index is its first extent.
type run struct {
	to         int
	bytes      int64
	prev, next int // first extents of the neighbouring runs
	gone       bool
}

type pair struct {
	left, right int
	bytes       int64
}

type pairHeap []pair

func (h pairHeap) Len() int { return len(h) }
func (h pairHeap) Less(i, j int) bool {
	if h[i].bytes != h[j].bytes {
		return h[i].bytes < h[j].bytes
	}
	return h[i].left < h[j].left
}
func (h pairHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *pairHeap) Push(x any)   { *h = append(*h, x.(pair)) }
func (h *pairHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	*h = old[:len(old)-1]
	return p
}
