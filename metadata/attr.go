package metadata

import (
	"context"
	"fmt"

	"github.com/holdfast/holdfast/metadata/record"
)

// SetAttr changes the mount's attributes of the current version in place, if id is the current one; else ErrConflict.
// It makes no new version.
func (c *Catalog) SetAttr(ctx context.Context, bucket BucketID, key string, id VersionID, attr Attr, op Op) (Version, error) {
	return c.setCurrent(ctx, bucket, key, id, op, func(v *record.Version) { v.Attr = fromAttr(&attr) })
}

// SetFile is SetAttr that replaces the user metadata too: user xattrs of a mount are metadata headers on S3.
func (c *Catalog) SetFile(ctx context.Context, bucket BucketID, key string, id VersionID, attr Attr, meta map[string]string, op Op) (Version, error) {
	return c.setCurrent(ctx, bucket, key, id, op, func(v *record.Version) { v.Attr, v.Meta = fromAttr(&attr), fromMap(meta) })
}

// setCurrent changes the record of the current version in place, if id is the current one.
func (c *Catalog) setCurrent(ctx context.Context, bucket BucketID, key string, id VersionID, op Op, change func(*record.Version)) (Version, error) {
	var changed Version
	out, err := c.write(ctx, op.or(ctx), []latchSpan{keyLatch(bucket, key)}, func(e *evaluation) error {
		t, err := e.target(bucket, key)
		if err != nil {
			return err
		}
		if t.current == nil {
			return ErrNoSuchKey
		}
		if toID(t.current.Id) != id {
			return ErrConflict
		}
		body, err := e.body(bucket, key, t.current)
		if err != nil {
			return err
		}
		change(t.current)
		e.plan.PutRecord(currentRow(bucket, key), t.current)
		e.answer(t.current)
		e.plan.Result.Version = summary(t.current)
		changed = toVersion(key, t.current, body)
		return nil
	})
	if err != nil {
		return Version{}, fmt.Errorf("set attributes of %q: %w", key, err)
	}
	if out.repeated {
		return c.changedBefore(ctx, bucket, key, out.Result)
	}
	changed.Latest = true
	return changed, nil
}

// SetTags replaces the tags of one version in place: of the current one (id nil, null false), the null version, or id.
// Nil tags remove them all. The version that it returns has no body.
func (c *Catalog) SetTags(ctx context.Context, bucket BucketID, key string, id *VersionID, null bool, tags map[string]string) (Version, error) {
	var changed Version
	out, err := c.inPlace(ctx, OpFrom(ctx), bucket, key, id, null, func(e *evaluation, v *record.Version) {
		v.Tags = fromMap(tags)
		e.plan.Result.Version = summary(v)
		changed = toVersion(key, v, nil)
	})
	if err == nil && out.repeated {
		changed = toVersion(key, out.Version, nil)
	}
	return changed, err
}

// Lend marks a version as Shared before another one refers to its chunks: from then on only sweep may free them.
// ErrNoSuchVersion says that it is gone: the borrower must not refer to it.
func (c *Catalog) Lend(ctx context.Context, bucket BucketID, key string, id VersionID) error {
	_, err := c.inPlace(ctx, Op{}, bucket, key, &id, false, func(_ *evaluation, v *record.Version) { v.Shared = true })
	return err
}

// inPlace changes one version's record where it stands.
func (c *Catalog) inPlace(ctx context.Context, op Op, bucket BucketID, key string, id *VersionID, null bool, change func(*evaluation, *record.Version)) (outcome, error) {
	out, err := c.write(ctx, op, []latchSpan{keyLatch(bucket, key)}, func(e *evaluation) error {
		v, isCurrent, err := e.wanted(bucket, key, id, null)
		if err != nil {
			return err
		}
		if v.DeleteMarker {
			return ErrDeleteMarker
		}
		change(e, v)
		row := currentRow(bucket, key)
		if !isCurrent {
			row = versionRow(bucket, key, v.Id)
		}
		e.plan.PutRecord(row, v)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("change version of %q: %w", key, err)
	}
	return out, err
}

// wanted finds the version that a request names, or says why there is none.
func (s state) wanted(bucket BucketID, key string, id *VersionID, null bool) (*record.Version, bool, error) {
	if _, err := s.bucket(bucket); err != nil {
		return nil, false, err
	}
	if null || (id != nil && *id != (VersionID{})) {
		var rid *record.ID
		if id != nil {
			rid = fromID(*id)
		}
		v, isCurrent, err := s.find(bucket, key, rid, null)
		if err == nil && v == nil {
			err = ErrNoSuchVersion
		}
		return v, isCurrent, err
	}
	v, err := s.current(bucket, key)
	if err != nil || v != nil {
		return v, true, err
	}
	newest, err := s.newestNoncurrent(bucket, key, 1)
	if err != nil {
		return nil, false, err
	}
	if len(newest) > 0 && newest[0].DeleteMarker {
		return nil, false, fmt.Errorf("%w: %w", ErrNoSuchKey, ErrDeleteMarker)
	}
	return nil, false, ErrNoSuchKey
}
