package tree

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// render reads a file through its extents, where base byte i is byte(i)|128 and slab byte i of slab s is s.data[i].
func render(x extents) []byte {
	out := make([]byte, 0, x.size())
	for _, e := range x {
		for i := range e.len {
			switch {
			case e.base:
				out = append(out, byte(e.at+i)|128)
			case e.slab != nil:
				out = append(out, e.slab.data[e.at+i])
			default:
				out = append(out, 0)
			}
		}
	}
	return out
}

func checkExtents(t *rapid.T, x extents) {
	var off int64
	for i, e := range x {
		if e.off != off || e.len <= 0 {
			t.Fatalf("extent %d is %+v, want offset %d and a length", i, e, off)
		}
		if i > 0 && x[i-1].joins(e) {
			t.Fatalf("extents %d and %d are not joined", i-1, i)
		}
		off = e.end()
	}
}

func TestExtentsReadWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 64).Draw(t, "base")
		x := extents{}.resize(0, 0)
		var want []byte
		if size > 0 {
			x = extents{{len: size, base: true}}
			want = render(x)
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			gen := rapid.Uint64Range(0, 2).Draw(t, "gen")
			off := rapid.Int64Range(0, 80).Draw(t, "off")
			n := rapid.Int64Range(1, 40).Draw(t, "len")
			if rapid.Bool().Draw(t, "resize") {
				x = x.resize(off, gen)
				want = append(want, make([]byte, max(0, int(off)-len(want)))...)[:off]
			} else {
				data := rapid.SliceOfN(rapid.Byte(), int(n), int(n)).Draw(t, "data")
				x = x.put(extent{off: off, len: n, slab: &slab{data: data}, gen: gen})
				want = append(want, make([]byte, max(0, int(off+n)-len(want)))...)
				copy(want[off:], data)
			}
			checkExtents(t, x)
			if got := render(x); !bytes.Equal(got, want) {
				t.Fatalf("file reads %x, want %x", got, want)
			}
			from := rapid.Int64Range(0, 100).Draw(t, "from")
			to := min(from+n, int64(len(want)))
			if from < to {
				if got := render(x.span(from, to)); !bytes.Equal(got, want[from:to]) {
					t.Fatalf("[%d,%d) reads %x, want %x", from, to, got, want[from:to])
				}
			}
		}
	})
}
