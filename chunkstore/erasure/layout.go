// Package erasure is Reed–Solomon coding of rows and the arithmetic of where a chunk's bytes lie. It is pure: no
// files, clocks or goroutines.
package erasure

// The sizes of the default scheme, in bytes.
const (
	// Cell is the cell of a full row: 12 cells of 64 KiB are 768 KiB and stay in a core's L2 cache while they are
	// encoded and digested.
	Cell = 64 << 10
	// Leaf is the unit of SHA-256: a 4 KiB range reads and verifies one leaf.
	Leaf = 16 << 10
	// Align is what cells are rounded up to, the alignment of direct I/O.
	Align = 4 << 10
)

// Scheme is how many data and parity cells a row has. The zero Scheme is refused by New.
type Scheme struct {
	Data   int
	Parity int
}

// Default is 8 data + 4 parity: 1.5 bytes stored for each byte, every loss of 4 of 12 survived.
var Default = Scheme{Data: 8, Parity: 4}

// Layout says how a chunk of a given size is cut. Byte b of the chunk lies in row b/(Data·Cell), in the data shard
// (b/Cell)%Data, at b%Cell of that cell; a shard's payload is its cells row after row.
type Layout struct {
	Cell int64 // bytes of a cell
	Leaf int64 // bytes of a leaf, ≤ Cell
	Rows int64
}

// Layout returns the layout of a chunk of size data bytes, size ≥ 1. A chunk under Data·Cell bytes (512 KiB) has one
// row of smaller cells, rounded up to Align; the last row is padded with zeros.
func (s Scheme) Layout(size int64) Layout {
	if full := int64(s.Data) * Cell; size >= full {
		return Layout{Cell: Cell, Leaf: Leaf, Rows: (size + full - 1) / full}
	}
	cell := (size + int64(s.Data) - 1) / int64(s.Data)
	cell = (cell + Align - 1) / Align * Align
	return Layout{Cell: cell, Leaf: min(cell, Leaf), Rows: 1}
}

// ShardSize is the payload of one shard in bytes.
func (l Layout) ShardSize() int64 { return l.Cell * l.Rows }

// Leaves is the number of leaves of one shard. Where Leaf does not divide the cell, each cell ends with a short leaf,
// so a leaf never spans two cells.
func (l Layout) Leaves() int { return int(l.leavesPerCell() * l.Rows) }

func (l Layout) leavesPerCell() int64 { return (l.Cell + l.Leaf - 1) / l.Leaf }
