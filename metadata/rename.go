package metadata

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/metadata/record"
)

// Rename moves the current version of r.From to r.To as one command; no byte moves. The source leaves nothing behind
// if its key had no other version, else a delete marker.
func (c *Catalog) Rename(ctx context.Context, r Rename) (Version, error) {
	if err := errors.Join(checkKey(r.From), checkKey(r.To)); err != nil {
		return Version{}, err
	}
	var moved Version
	spans := []latchSpan{keyLatch(r.Bucket, r.From), keyLatch(r.Bucket, r.To)}
	out, err := c.write(ctx, r.Op.or(ctx), spans, func(e *evaluation) error {
		v, body, err := e.rename(r)
		if err == nil {
			moved = toVersion(r.To, v, body)
		}
		return err
	})
	if err != nil {
		return Version{}, fmt.Errorf("rename %q to %q: %w", r.From, r.To, err)
	}
	if out.repeated {
		return c.changedBefore(ctx, r.Bucket, r.To, out.Result)
	}
	moved.Latest = true
	return moved, nil
}

// changedBefore is the answer to a repeated write whose result holds the version without its body.
func (c *Catalog) changedBefore(ctx context.Context, bucket BucketID, key string, result *record.Result) (Version, error) {
	v, err := c.Version(ctx, bucket, key, toID(result.Id), false)
	if errors.Is(err, ErrNoSuchVersion) || errors.Is(err, ErrNoSuchBucket) {
		return toVersion(key, result.Version, nil), nil
	}
	return v, unsure(err) // it happened, whatever keeps its record from being read
}

func (e *evaluation) rename(r Rename) (*record.Version, *record.Body, error) {
	source, err := e.target(r.Bucket, r.From)
	if err != nil {
		return nil, nil, err
	}
	if source.current == nil {
		return nil, nil, ErrNoSuchKey
	}
	if err := r.If.check(source.current); err != nil {
		return nil, nil, err
	}
	body, err := e.body(r.Bucket, r.From, source.current)
	if err != nil {
		return nil, nil, err
	}
	if r.From == r.To {
		return source.current, body, nil
	}
	to, err := e.target(r.Bucket, r.To)
	if err != nil {
		return nil, nil, err
	}
	if r.NoReplace && to.current != nil {
		return nil, nil, ErrExists
	}
	v := proto.Clone(source.current).(*record.Version)
	v.Lineage = lineage(source.current)
	if v.Id, err = e.newID(); err != nil {
		return nil, nil, err
	}
	if r.Attr != nil {
		v.Attr = fromAttr(r.Attr)
	} else if v.Attr != nil {
		v.Attr.Ctime = fromTime(e.now) // POSIX: a new name is a change of the file
	}
	if v.Overflow {
		e.plan.MoveRow(bodyRow(r.Bucket, r.From, source.current.Id), bodyRow(r.Bucket, r.To, v.Id))
	}
	if err := e.install(to, v, nil, nil); err != nil {
		return nil, nil, err
	}
	if err := e.vacate(source); err != nil {
		return nil, nil, err
	}
	e.plan.Delete(currentRow(r.Bucket, r.From))
	e.answer(v)
	e.plan.Result.Version = summary(v)
	return v, body, nil
}

// vacate leaves a delete marker behind at a key whose current version moved away, if it has other versions: those must
// not come back by themselves.
func (e *evaluation) vacate(source target) error {
	u := source.usage(e)
	u.Objects--
	u.Bytes -= source.current.Size
	others, err := e.newestNoncurrent(source.bucket, source.key, 1)
	if err != nil || len(others) == 0 {
		return err
	}
	_, err = e.mark(source)
	return err
}
