package vfs

import "slices"

// run is the pages from first to before end.
type run struct{ first, end int64 }

// runs are pages that are allocated and hold nothing: they read as zeros. In order, apart, none empty. Files reserve
// megabytes ahead of what they write, so that pages of their own would cost more than all that is written.
type runs []run

// pages is how many there are.
func (r runs) pages() (count int64) {
	for _, one := range r {
		count += one.end - one.first
	}
	return count
}

// add puts a page in; it is not there yet.
func (r *runs) add(page int64) {
	list := *r
	at, _ := slices.BinarySearchFunc(list, page, func(one run, page int64) int { return int(one.first - page) })
	before, after := at > 0 && list[at-1].end == page, at < len(list) && list[at].first == page+1
	switch {
	case before && after:
		list[at-1].end = list[at].end
		*r = slices.Delete(list, at, at+1)
	case before:
		list[at-1].end++
	case after:
		list[at].first--
	default:
		*r = slices.Insert(list, at, run{page, page + 1})
	}
}

// has says whether a page is there.
func (r runs) has(page int64) bool {
	return slices.ContainsFunc(r, func(one run) bool { return one.first <= page && page < one.end })
}

// remove takes the pages of [first, end) out and gives how many were there.
func (r *runs) remove(first, end int64) (count int64) {
	if !slices.ContainsFunc(*r, func(one run) bool { return one.first < end && first < one.end }) {
		return 0
	}
	var left runs
	for _, one := range *r {
		from, to := max(one.first, first), min(one.end, end)
		if from >= to {
			left = append(left, one)
			continue
		}
		count += to - from
		if one.first < from {
			left = append(left, run{one.first, from})
		}
		if to < one.end {
			left = append(left, run{to, one.end})
		}
	}
	*r = left
	return count
}
