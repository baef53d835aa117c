package metadata

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

const (
	// freedPage is the most parts of one Freed.
	freedPage = 256
	// freedKey and pageKey are what follows the object key in the key of a freed row, and in Freed.Row of a page of
	// parts: its first and last part number come behind.
	freedKey = 20
	pageKey  = freedKey + 4
)

// freedRow is the key of a freed row, with the numbers of a page of its parts; last 0 means all of it.
type freedRow struct {
	key         []byte
	first, last int
}

func parseFreedRow(row []byte) (freedRow, error) {
	_, _, rest, err := record.SplitKeyRow(row)
	switch {
	case err == nil && len(rest) == freedKey:
		return freedRow{key: row}, nil
	case err == nil && len(rest) == pageKey:
		n := len(row) - 4
		return freedRow{row[:n:n], int(binary.BigEndian.Uint16(row[n:])), int(binary.BigEndian.Uint16(row[n+2:]))}, nil
	}
	return freedRow{}, fmt.Errorf("freed row %x: %w", row, record.ErrKey)
}

func (f freedRow) bytes() []byte {
	if f.last == 0 {
		return f.key
	}
	b := append([]byte(nil), f.key...)
	b = binary.BigEndian.AppendUint16(b, uint16(f.first))
	return binary.BigEndian.AppendUint16(b, uint16(f.last))
}

// Freed returns up to max rows of freed chunks that may be deleted by now, after the given row, in order of keys.
// Shared chunks and those of versions that are held are not among them. Pass the last Row to go on; none means the end.
func (c *Catalog) Freed(ctx context.Context, after []byte, max int, now time.Time) ([]Freed, error) {
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	freed, err := s.freed(after, max, now)
	return freed, unavailable(err)
}

func (s state) freed(after []byte, max int, now time.Time) ([]Freed, error) {
	span := kv.Span{Start: []byte{record.FamilyFreed}, End: []byte{record.FamilyFreed + 1}}
	var from freedRow
	if len(after) > 0 {
		var err error
		if from, err = parseFreedRow(after); err != nil {
			return nil, err
		}
		span.Start = from.key
	}
	held, err := s.anyHold()
	if err != nil {
		return nil, err
	}
	it := s.r.Iterate(span)
	defer it.Close()
	var out []Freed
	for len(out) < max && it.Next() {
		passed := 0 // part numbers up to here were returned before
		if bytes.Equal(it.Key(), from.key) {
			if from.last == 0 {
				continue
			}
			passed = from.last
		}
		notBefore, err := record.FreedNotBefore(it.Key())
		if err != nil {
			return nil, fmt.Errorf("freed row %x: %w", it.Key(), err)
		}
		if notBefore > now.UnixNano() {
			continue
		}
		key := append([]byte(nil), it.Key()...)
		f, r, err := s.freedOf(key, it.Value())
		if err != nil {
			return nil, err
		}
		if held {
			if kept, err := s.held(f.Bucket, r.Lineage); err != nil {
				return nil, err
			} else if kept {
				continue
			}
		}
		if len(r.Parts) == 0 {
			out = append(out, f)
			continue
		}
		if out, err = s.freedPages(out, f, r, passed, max); err != nil {
			return nil, err
		}
	}
	return out, it.Err()
}

// freedOf decodes a freed row without its parts.
func (s state) freedOf(key, value []byte) (Freed, *record.Freed, error) {
	var r record.Freed
	if err := proto.Unmarshal(value, &r); err != nil {
		return Freed{}, nil, fmt.Errorf("freed row %x: %w", key, err)
	}
	bucket, _, _, err := record.SplitKeyRow(key)
	if err != nil {
		return Freed{}, nil, err
	}
	notBefore, err := record.FreedNotBefore(key)
	if err != nil {
		return Freed{}, nil, err
	}
	return Freed{
		Row: key, Bucket: BucketID(bucket), NotBefore: time.Unix(0, notBefore).UTC(), Manifest: r.Manifest,
		Shared: key[0] == record.FamilyWaiting,
	}, &r, nil
}

// freedPages appends the parts of a freed row above passed, in pages. A run without any row left is a page as well,
// so that the freed row comes to an end.
func (s state) freedPages(out []Freed, f Freed, r *record.Freed, passed, max int) ([]Freed, error) {
	listed := numbersOf(r.Parts)
	for len(listed) > 0 && listed[0] <= passed {
		listed = listed[1:]
	}
	for len(listed) > 0 && len(out) < max {
		page := listed[:min(freedPage, len(listed))]
		listed = listed[len(page):]
		next := f
		next.Row = freedRow{f.Row, page[0], page[len(page)-1]}.bytes()
		next.Parts = []Part{}
		for _, number := range page {
			p, err := s.part(f.Bucket, string(r.PartsKey), toUploadID(r.PartsOf), number)
			if err != nil {
				return nil, err
			}
			if p == nil {
				continue
			}
			if r.RowsOnly {
				p.Manifest, p.Inline = nil, nil
			}
			next.Parts = append(next.Parts, toPart(number, p))
		}
		out = append(out, next)
	}
	return out, nil
}

// numbersOf lists the part numbers of runs.
func numbersOf(runs []*record.Run) []int {
	var numbers []int
	for _, run := range runs {
		for i := range int(run.Count) {
			numbers = append(numbers, int(run.First)+i)
		}
	}
	return numbers
}

// DropFreed removes rows that Freed returned, after their chunks were deleted. Rows that are gone already are no error.
func (c *Catalog) DropFreed(ctx context.Context, rows [][]byte) error {
	if len(rows) == 0 {
		return nil
	}
	pages := make(map[string][]freedRow)
	var order []string
	var spans []latchSpan
	for _, row := range rows {
		f, err := parseFreedRow(row)
		if err != nil {
			return err
		}
		name := string(f.key)
		if pages[name] == nil {
			order = append(order, name)
			spans = append(spans, one("g"+name))
		}
		pages[name] = append(pages[name], f)
	}
	_, err := c.write(ctx, Op{}, spans, func(e *evaluation) error {
		for _, name := range order {
			if err := e.dropFreed([]byte(name), pages[name]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("drop %d freed rows: %w", len(rows), err)
	}
	return nil
}

// dropFreed removes pages of one freed row, and the row itself with its last one.
func (e *evaluation) dropFreed(key []byte, pages []freedRow) error {
	var r record.Freed
	found, err := e.get(key, &r)
	if err != nil || !found {
		return err
	}
	bucket, _, _, err := record.SplitKeyRow(key)
	if err != nil {
		return err
	}
	sizes := make(map[int]int64)
	for _, run := range r.Parts {
		for i := range int(run.Count) {
			sizes[int(run.First)+i] = run.Size
		}
	}
	var left []int
	for _, number := range numbersOf(r.Parts) {
		dropped := false
		for _, page := range pages {
			dropped = dropped || page.last == 0 || (number >= page.first && number <= page.last)
		}
		if dropped {
			e.plan.Delete(record.PartRow(bucket, string(r.PartsKey), r.PartsOf, number))
		} else {
			left = append(left, number)
		}
	}
	if len(left) == 0 {
		e.plan.Delete(key)
		return nil
	}
	r.Parts = runsOf(left, func(number int) int64 { return sizes[number] })
	e.plan.PutRecord(key, &r)
	return nil
}
