package erasure

import (
	"errors"
	"fmt"

	"github.com/klauspost/reedsolomon"
)

// Errors of a Codec.
var (
	// ErrBadScheme says that a scheme has no data or no parity cells, or more cells than the code has points.
	ErrBadScheme = errors.New("bad erasure scheme")
	// ErrBadCells says that the cells given do not fit the scheme or each other.
	ErrBadCells = errors.New("cells do not fit the scheme")
	// ErrTooFew says that fewer cells are left than it takes to rebuild one.
	ErrTooFew = errors.New("too few cells to rebuild from")
)

// MaxCells is the most cells that a row can have: the code works in a field of 256 elements.
const MaxCells = 256

// Codec encodes and rebuilds rows of one scheme. It may be used concurrently; it starts no goroutines, because a row
// of 64 KiB cells is coded fastest by the one core whose cache holds it.
type Codec struct {
	scheme Scheme
	rs     reedsolomon.Encoder
}

// New returns the codec of a scheme, ErrBadScheme for one that cannot be.
func New(s Scheme) (*Codec, error) {
	if s.Data < 1 || s.Parity < 1 || s.Data+s.Parity > MaxCells {
		return nil, fmt.Errorf("%d data + %d parity: %w", s.Data, s.Parity, ErrBadScheme)
	}
	rs, err := reedsolomon.New(s.Data, s.Parity, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("%d data + %d parity: %w: %w", s.Data, s.Parity, err, ErrBadScheme)
	}
	return &Codec{scheme: s, rs: rs}, nil
}

// Scheme returns the scheme of the codec.
func (c *Codec) Scheme() Scheme { return c.scheme }

// Encode computes the parity cells of a row from its data cells: row[:Data] is read, row[Data:] is overwritten. All
// cells have one length above zero.
func (c *Codec) Encode(row [][]byte) error {
	if len(row) != c.scheme.Data+c.scheme.Parity || len(row[0]) == 0 {
		return fmt.Errorf("encode %d cells: %w", len(row), ErrBadCells)
	}
	for i := range row {
		if len(row[i]) != len(row[0]) {
			return fmt.Errorf("encode: cell %d has %d bytes, cell 0 has %d: %w", i, len(row[i]), len(row[0]), ErrBadCells)
		}
	}
	if err := c.rs.Encode(row); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return nil
}

// Reconstruct computes the wanted cells of a row (bit i: cell i) and no others. A cell that is there has the length of
// the row; one that is not there has length zero. A wanted cell that is not there is written into its own capacity,
// which must be the length of the row at least; afterwards it has that length. Wanted cells that are there stay.
func (c *Codec) Reconstruct(row [][]byte, want uint64) error {
	total := c.scheme.Data + c.scheme.Parity
	if len(row) != total {
		return fmt.Errorf("rebuild from %d cells: %w", len(row), ErrBadCells)
	}
	size, have := 0, 0
	for i := range row {
		if n := len(row[i]); n > 0 {
			if have > 0 && n != size {
				return fmt.Errorf("rebuild: cell %d has %d bytes, others have %d: %w", i, n, size, ErrBadCells)
			}
			size = n
			have++
		}
	}
	if have < c.scheme.Data {
		return fmt.Errorf("rebuild: %d of %d cells are there: %w", have, total, ErrTooFew)
	}
	required := make([]bool, total)
	for i := range row {
		required[i] = i < 64 && want>>i&1 != 0
		if required[i] && len(row[i]) == 0 && cap(row[i]) < size {
			return fmt.Errorf("rebuild: no room for cell %d: %w", i, ErrBadCells)
		}
	}
	if err := c.rs.ReconstructSome(row, required); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}
