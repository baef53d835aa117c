package metadata

import (
	"context"
	"fmt"

	"github.com/holdfast/holdfast/metadata/record"
)

// Delete removes the current version or puts a delete marker above it, as the bucket's versioning says; with Version
// or Null it removes that version for good. Deleting what is not there succeeds with Found false.
func (c *Catalog) Delete(ctx context.Context, d Delete) (Deleted, error) {
	if err := checkKey(d.Key); err != nil {
		return Deleted{}, err
	}
	span := keyLatch(d.Bucket, d.Key)
	if d.Empty {
		span = prefixLatch(d.Bucket, d.Key)
	}
	out, err := c.write(ctx, d.Op.or(ctx), []latchSpan{span}, func(e *evaluation) error { return e.remove(d) })
	if err != nil {
		return Deleted{}, fmt.Errorf("delete %q: %w", d.Key, err)
	}
	return Deleted{Version: toID(out.Id), Null: out.Null, DeleteMarker: out.DeleteMarker, Found: out.Found}, nil
}

func (e *evaluation) remove(d Delete) error {
	t, err := e.target(d.Bucket, d.Key)
	if err != nil {
		return err
	}
	if err := d.If.checkDelete(t.current); err != nil {
		return err
	}
	if d.Empty {
		switch others, err := e.anyBelow(d.Bucket, d.Key, true); {
		case err != nil:
			return err
		case others:
			return ErrDirNotEmpty
		}
	}
	switch {
	case d.Version != nil || d.Null:
		return e.removeVersion(t, d)
	case t.versioning == Unversioned:
		return e.removeUnversioned(t)
	}
	return e.removeMarking(t)
}

// checkDelete is check, but for S3's answer to an If-Match of a key that is not there.
func (i If) checkDelete(current *record.Version) error {
	if current == nil && i.Match != "" {
		return fmt.Errorf("if-match on a key that does not exist: %w", ErrPrecondition)
	}
	return i.check(current)
}

// removeMarking deletes in a bucket that has or had versioning.
func (e *evaluation) removeMarking(t target) error {
	found := t.current != nil
	if found {
		if t.current.Null && t.versioning == VersioningSuspended {
			if err := e.removeCurrent(t); err != nil {
				return err
			}
		} else {
			e.retain(t)
			e.plan.Delete(currentRow(t.bucket, t.key))
		}
	}
	marker, err := e.mark(t)
	if err != nil {
		return err
	}
	e.answer(marker)
	e.plan.Result.Found = found
	return nil
}

// removeUnversioned deletes in a bucket that never had versioning. Its keys have no noncurrent versions, but for the
// stage of a dead session that lost against a newer version: that must not come back as the newest.
func (e *evaluation) removeUnversioned(t target) error {
	if t.current == nil {
		return nil
	}
	if err := e.removeCurrent(t); err != nil {
		return err
	}
	kept, err := e.newestNoncurrent(t.bucket, t.key, 1)
	if err != nil {
		return err
	}
	if len(kept) > 0 {
		if _, err := e.mark(t); err != nil {
			return err
		}
	}
	e.answer(t.current)
	return nil
}

// removeVersion removes one version for good. When it was the newest, the one below it is promoted.
func (e *evaluation) removeVersion(t target, d Delete) error {
	var id *record.ID
	if d.Version != nil {
		id = fromID(*d.Version)
	}
	v, isCurrent, err := e.find(d.Bucket, d.Key, id, d.Null)
	if err != nil || v == nil {
		return err
	}
	newest, err := e.newestNoncurrent(d.Bucket, d.Key, 2)
	if err != nil {
		return err
	}
	if isCurrent {
		if err := e.removeCurrent(t); err != nil {
			return err
		}
		if len(newest) > 0 {
			e.promote(t, newest[0])
		}
	} else {
		if err := e.removeNoncurrent(t, v); err != nil {
			return err
		}
		if v.Null {
			e.plan.Delete(nullRow(t.bucket, t.key))
		}
		if t.current == nil && sameID(newest[0].Id, v.Id) && len(newest) > 1 {
			e.promote(t, newest[1])
		}
	}
	e.answer(v)
	return nil
}
