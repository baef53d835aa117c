package vfs

import (
	"math/rand/v2"
	"testing"
)

// TestRunsAreASetOfPages compares runs with a map, change by change.
func TestRunsAreASetOfPages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var r runs
		model := map[int64]bool{}
		for range 60 {
			page := random.Int64N(24)
			if random.IntN(3) > 0 {
				if !r.has(page) {
					r.add(page)
				}
				model[page] = true
			} else {
				end, want := page+random.Int64N(6), int64(0)
				for p := page; p < end; p++ {
					if model[p] {
						want++
					}
					delete(model, p)
				}
				if got := r.remove(page, end); got != want {
					t.Fatalf("%d pages of [%d, %d) were there, want %d", got, page, end, want)
				}
			}
			if r.pages() != int64(len(model)) {
				t.Fatalf("%v holds %d pages, want %d", r, r.pages(), len(model))
			}
			for p := range int64(32) {
				if r.has(p) != model[p] {
					t.Fatalf("%v has page %d: %v, want %v", r, p, r.has(p), model[p])
				}
			}
			for i, one := range r {
				if one.first >= one.end || i > 0 && r[i-1].end >= one.first {
					t.Fatalf("%v is not in order and apart", r)
				}
			}
		}
	}
}
