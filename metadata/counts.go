package metadata

import (
	"context"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// Counts says how many rows wait: Freed ones for their time, Shared ones for sweep, and Staged files for a publish.
type Counts struct {
	Freed, Shared, Staged int64
}

// Counts counts the rows that wait. Its cost is the number of such rows, whatever the number of names.
func (c *Catalog) Counts(ctx context.Context) (Counts, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Counts{}, err
	}
	var counts Counts
	for _, family := range []struct {
		span  kv.Span
		count *int64
	}{
		{kv.Span{Start: []byte{record.FamilyFreed}, End: []byte{record.FamilyFreed + 1}}, &counts.Freed},
		{kv.Span{Start: []byte{record.FamilyWaiting}, End: []byte{record.FamilyWaiting + 1}}, &counts.Shared},
		{kv.Span{Start: record.Local(record.LocalStage), End: record.Local(record.LocalStage + 1)}, &counts.Staged},
	} {
		if *family.count, err = countRows(ctx, s.r, family.span); err != nil {
			return Counts{}, unavailable(err)
		}
	}
	return counts, nil
}

func countRows(ctx context.Context, r kv.Reader, span kv.Span) (int64, error) {
	it := r.Iterate(span)
	defer it.Close()
	n := int64(0)
	for it.Next() {
		if n%1024 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		n++
	}
	return n, it.Err()
}
