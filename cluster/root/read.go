package root

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/kv"
)

// maxRows bounds the rows of one read in bytes, with rowCost added for each: far more than a cluster's topology, and
// little enough to be held a few times over.
const (
	maxRows = 64 << 20
	rowCost = 64
)

// Query says which rows are wanted: those of a kind whose names begin with Prefix and come after After, in order.
type Query struct {
	Kind          Kind
	Prefix, After string
	// Max is how many at most; 0 means all.
	Max int
}

// Stale returns the rows that a replica holds now, whether or not it knows all that was decided: for a peer that starts
// and has no leader yet. Nothing may be decided by them that is not checked again later. ErrTooLarge is that of
// Client.Rows.
func Stale(reader kv.Reader, kind Kind, prefix, after string, max int) ([]Row, error) {
	rows, err := scan(reader, Query{kind, prefix, after, max})
	if err != nil {
		return nil, fmt.Errorf("root rows %c: %w", kind, err)
	}
	return rows, nil
}

// scan reads the rows of a query, as of one moment.
func scan(r kv.Reader, q Query) ([]Row, error) {
	start := rowKey(q.Kind, q.Prefix)
	if q.After >= q.Prefix && q.After != "" {
		start = append(rowKey(q.Kind, q.After), 0)
	}
	it := r.Iterate(kv.Span{Start: start, End: rowKey(q.Kind+1, "")})
	defer it.Close()
	var rows []Row
	size := 0
	for (q.Max == 0 || len(rows) < q.Max) && it.Next() {
		name := it.Key()[3:]
		if !bytes.HasPrefix(name, []byte(q.Prefix)) {
			break
		}
		row, err := decodeRow(q.Kind, string(name), it.Value())
		if err != nil {
			return nil, err
		}
		if size += row.cost(); size > maxRows {
			return nil, fmt.Errorf("more than %d MiB: %w", maxRows>>20, ErrTooLarge)
		}
		rows = append(rows, row)
	}
	return rows, it.Err()
}

// cost is what a row counts towards maxRows.
func (r Row) cost() int { return len(r.Name) + len(r.Value) + rowCost }

func readRow(r kv.Reader, kind Kind, name string) (Row, bool, error) {
	v, err := r.Get(rowKey(kind, name))
	if errors.Is(err, kv.ErrNotFound) {
		return Row{Kind: kind, Name: name}, false, nil
	}
	if err != nil {
		return Row{}, false, err
	}
	row, err := decodeRow(kind, name, v)
	return row, err == nil, err
}

// encodeRow writes revision, the nonce of the command, and value.
func encodeRow(row Row, nonce []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+nonceSize+len(row.Value)), row.Revision)
	b = append(b, nonce...)
	return append(b, row.Value...)
}

func decodeRow(kind Kind, name string, v []byte) (Row, error) {
	if len(v) < 8+nonceSize {
		return Row{}, fmt.Errorf("root row %c %q has %d bytes: %w", kind, name, len(v), errFormat)
	}
	return Row{Kind: kind, Name: name, Revision: binary.BigEndian.Uint64(v), Value: bytes.Clone(v[8+nonceSize:])}, nil
}
