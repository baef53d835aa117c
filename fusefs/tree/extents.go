package tree

import "sort"

// extent is one run of bytes of a file and where they are: in a slab (new data), in the base version, or nowhere
// (a hole reads as zeros).
type extent struct {
	off, len int64
	slab     *slab
	base     bool
	at       int64 // inside the slab or the base version
	// gen is the generation of the image in which this run came to be here; see image.rebase.
	gen uint64
}

func (e extent) end() int64 { return e.off + e.len }

func (e extent) hole() bool { return e.slab == nil && !e.base }

// cut is the part of e inside [from, to).
func (e extent) cut(from, to int64) extent {
	if from > e.off {
		e.at += from - e.off
		e.len -= from - e.off
		e.off = from
	}
	if to < e.end() {
		e.len = to - e.off
	}
	if e.hole() {
		e.at = 0
	}
	return e
}

// joins tells whether b continues a in the file and in its source.
func (e extent) joins(b extent) bool {
	if e.end() != b.off || e.slab != b.slab || e.base != b.base || e.gen != b.gen {
		return false
	}
	return e.hole() || e.at+e.len == b.at
}

// extents is a whole file: sorted, without gaps, from 0 to its size.
type extents []extent

func (x extents) size() int64 {
	if len(x) == 0 {
		return 0
	}
	return x[len(x)-1].end()
}

// find is the index of the extent that holds off, len(x) at or after the end.
func (x extents) find(off int64) int {
	return sort.Search(len(x), func(i int) bool { return x[i].end() > off })
}

// span is what lies in [from, to), clipped.
func (x extents) span(from, to int64) extents {
	var out extents
	for i := x.find(from); i < len(x) && x[i].off < to; i++ {
		out = append(out, x[i].cut(from, to))
	}
	return out
}

// put lays e over what is there; a gap before e becomes a hole of e's generation.
func (x extents) put(e extent) extents {
	if e.len == 0 {
		return x
	}
	if size := x.size(); e.off > size {
		x = x.add(extent{off: size, len: e.off - size, gen: e.gen})
	}
	if e.off == x.size() {
		return x.add(e)
	}
	first := x.find(e.off)
	last := first
	for last < len(x) && x[last].off < e.end() {
		last++
	}
	repl := make(extents, 0, 5)
	if first > 0 {
		first--
		repl = append(repl, x[first])
	}
	for i := first; i < last; i++ {
		if i == first && len(repl) == 1 {
			continue
		}
		if x[i].off < e.off {
			repl = repl.add(x[i].cut(x[i].off, e.off))
		}
	}
	repl = repl.add(e)
	if tail := x[last-1]; tail.end() > e.end() {
		repl = repl.add(tail.cut(e.end(), tail.end()))
	}
	if last < len(x) {
		repl = repl.add(x[last])
		last++
	}
	return x.splice(first, last, repl)
}

// add appends e at the end, joined to the last extent where it continues it.
func (x extents) add(e extent) extents {
	if n := len(x); n > 0 && x[n-1].joins(e) {
		x[n-1].len += e.len
		return x
	}
	return append(x, e)
}

func (x extents) splice(first, last int, repl extents) extents {
	grow := len(repl) - (last - first)
	switch {
	case grow > 0:
		x = append(x, make(extents, grow)...)
		copy(x[last+grow:], x[last:len(x)-grow])
	case grow < 0:
		copy(x[last+grow:], x[last:])
		clear(x[len(x)+grow:])
		x = x[:len(x)+grow]
	}
	copy(x[first:], repl)
	return x
}

// resize cuts the file or lengthens it with a hole.
func (x extents) resize(size int64, gen uint64) extents {
	if now := x.size(); size >= now {
		if size > now {
			x = x.add(extent{off: now, len: size - now, gen: gen})
		}
		return x
	}
	i := x.find(size)
	if x[i].off < size {
		x[i] = x[i].cut(x[i].off, size)
		i++
	}
	clear(x[i:])
	return x[:i]
}
