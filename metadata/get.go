package metadata

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// Current returns the current version of a key. ErrNoSuchKey when there is none; it wraps ErrDeleteMarker too when the
// newest version is one, and the returned Version is then the marker.
func (c *Catalog) Current(ctx context.Context, bucket BucketID, key string) (Version, error) {
	return c.get(ctx, bucket, key, nil, false)
}

// Version returns one version: the null version, or the one with the id; the zero id means the current version. A
// delete marker is returned as a Version with DeleteMarker set. ErrNoSuchVersion when there is none.
func (c *Catalog) Version(ctx context.Context, bucket BucketID, key string, id VersionID, null bool) (Version, error) {
	return c.get(ctx, bucket, key, &id, null)
}

func (c *Catalog) get(ctx context.Context, bucket BucketID, key string, id *VersionID, null bool) (Version, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Version{}, err
	}
	v, err := s.version(bucket, key, id, null)
	if errors.Is(err, errBodyGone) {
		// It was replaced between the two reads: look again at one point in time.
		snapshot, snapshotErr := c.tablet.Snapshot()
		if snapshotErr != nil {
			return Version{}, unavailable(snapshotErr)
		}
		defer snapshot.Close()
		v, err = state{snapshot}.version(bucket, key, id, null)
	}
	if err != nil {
		return v, fmt.Errorf("get %q: %w", key, unavailable(err))
	}
	return v, nil
}

func (s state) version(bucket BucketID, key string, id *VersionID, null bool) (Version, error) {
	r, isCurrent, err := s.wanted(bucket, key, id, null)
	if errors.Is(err, ErrDeleteMarker) {
		newest, readErr := s.newestNoncurrent(bucket, key, 1)
		if readErr != nil {
			return Version{}, readErr
		}
		if len(newest) > 0 {
			v := toVersion(key, newest[0], nil)
			v.Latest = true
			return v, err
		}
	}
	if err != nil {
		return Version{}, err
	}
	body, err := s.body(bucket, key, r)
	if err != nil {
		return Version{}, err
	}
	v := toVersion(key, r, body)
	v.Latest = isCurrent
	if !isCurrent && r.DeleteMarker {
		v.Latest, err = s.isNewest(bucket, key, r)
	}
	return v, err
}

// isNewest tells whether a delete marker is the newest version of its key.
func (s state) isNewest(bucket BucketID, key string, v *record.Version) (bool, error) {
	current, err := s.current(bucket, key)
	if err != nil || current != nil {
		return false, err
	}
	newest, err := s.newestNoncurrent(bucket, key, 1)
	return len(newest) > 0 && sameID(newest[0].Id, v.Id), err
}

// HasPrefix tells whether any current key begins with prefix.
func (c *Catalog) HasPrefix(ctx context.Context, bucket BucketID, prefix string) (bool, error) {
	s, err := c.read(ctx)
	if err != nil {
		return false, err
	}
	if _, err := s.bucket(bucket); err != nil {
		return false, err
	}
	found, err := s.anyBelow(bucket, prefix, false)
	return found, unavailable(err)
}

// Row returns one opaque row, ErrNoSuchKey when there is none.
func (c *Catalog) Row(ctx context.Context, key []byte) (Row, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Row{}, err
	}
	row, err := s.row(key)
	if err == nil && row.Revision == 0 {
		err = fmt.Errorf("row %x: %w", key, ErrNoSuchKey)
	}
	return row, unavailable(err)
}

// row reads an opaque row; Revision is 0 when there is none.
func (s state) row(key []byte) (Row, error) {
	var r record.Row
	_, err := s.get(record.Opaque(key), &r)
	return Row{Key: key, Value: r.Value, Revision: r.Revision}, err
}

// PutRow writes an opaque row if its revision is still the given one (0: it must not exist), else ErrConflict. It
// returns the row with its new revision.
func (c *Catalog) PutRow(ctx context.Context, row Row) (Row, error) {
	out, err := c.write(ctx, OpFrom(ctx), []latchSpan{rowLatch(row.Key)}, func(e *evaluation) error {
		now, err := e.row(row.Key)
		if err != nil {
			return err
		}
		if now.Revision != row.Revision {
			return ErrConflict
		}
		return e.putRows([]Row{row})
	})
	if err != nil {
		return Row{}, fmt.Errorf("put row %x: %w", row.Key, err)
	}
	row.Revision = out.Revision
	return row, nil
}

// putRows writes opaque rows, whatever stood there.
func (e *evaluation) putRows(rows []Row) error {
	for _, row := range rows {
		now, err := e.row(row.Key)
		if err != nil {
			return err
		}
		e.plan.Result.Revision = now.Revision + 1
		e.plan.PutRecord(record.Opaque(row.Key), &record.Row{Value: row.Value, Revision: now.Revision + 1})
	}
	return nil
}

// DeleteRow removes an opaque row; removing what is not there succeeds.
func (c *Catalog) DeleteRow(ctx context.Context, key []byte) error {
	_, err := c.write(ctx, OpFrom(ctx), []latchSpan{rowLatch(key)}, func(e *evaluation) error {
		now, err := e.row(key)
		if err == nil && now.Revision != 0 {
			e.plan.Delete(record.Opaque(key))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete row %x: %w", key, err)
	}
	return nil
}

// Rows returns up to max opaque rows whose keys begin with prefix and come after the given key, in order. max 0 means
// all.
func (c *Catalog) Rows(ctx context.Context, prefix, after []byte, max int) ([]Row, error) {
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	space := record.Opaque(prefix)
	start := space
	if len(after) > 0 {
		if behind := append(record.Opaque(after), 0); string(behind) > string(start) {
			start = behind
		}
	}
	it := s.r.Iterate(kv.Span{Start: start, End: record.After(space)})
	defer it.Close()
	var rows []Row
	for (max == 0 || len(rows) < max) && it.Next() {
		var r record.Row
		if err := proto.Unmarshal(it.Value(), &r); err != nil {
			return nil, fmt.Errorf("row %x: %w", it.Key(), err)
		}
		rows = append(rows, Row{Key: append([]byte(nil), it.Key()[1:]...), Value: r.Value, Revision: r.Revision})
	}
	return rows, unavailable(it.Err())
}
