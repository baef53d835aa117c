package metadata

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata/record"
)

// S3's limits of a bucket name in bytes.
const (
	minBucketName = 3
	maxBucketName = 63
)

// CheckBucketName returns nil or an ErrBadBucketName: 3 to 63 lower-case letters, digits, dots and hyphens, every
// label between the dots beginning and ending with a letter or digit, as those of a host name do, and no IP address.
func CheckBucketName(name string) error {
	bad := func(why string) error { return fmt.Errorf("bucket %q %s: %w", name, why, ErrBadBucketName) }
	if len(name) < minBucketName || len(name) > maxBucketName {
		return bad("has a length that is not 3 to 63")
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case (c == '.' || c == '-') && i > 0 && i < len(name)-1:
		default:
			return bad("has a character that is not allowed there")
		}
	}
	if strings.Contains(name, "..") || strings.Contains(name, ".-") || strings.Contains(name, "-.") {
		return bad("has two dots in a row, or a hyphen beside a dot")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return bad("is an IP address")
	}
	return nil
}

func nameLatch(name string) latchSpan { return one("n" + name) }

// CreateBucket makes a bucket without versioning. ErrBucketExists, and the bucket, when the name is taken, by whomever.
func (c *Catalog) CreateBucket(ctx context.Context, name, owner string) (Bucket, error) {
	if err := CheckBucketName(name); err != nil {
		return Bucket{}, err
	}
	b := Bucket{Name: name, Owner: owner}
	err := c.during(ctx, func(ctx context.Context) error {
		held, err := c.latches.acquire(ctx, nameLatch(name))
		if err != nil {
			return err
		}
		defer c.latches.release(held)
		return c.createBucket(ctx, OpFrom(ctx), &b)
	})
	switch {
	case errors.Is(err, ErrBucketExists):
		return b, fmt.Errorf("create bucket %q: %w", name, err)
	case err != nil:
		return Bucket{}, fmt.Errorf("create bucket %q: %w", name, err)
	}
	return b, nil
}

// createBucket makes b under the latch of its name. The tablet knows the bucket before the name means it: a crash between
// the two leaves a row that nothing names, and that a repetition with the same Op goes on with.
func (c *Catalog) createBucket(ctx context.Context, op Op, b *Bucket) error {
	before, err := c.bucketOf(ctx, op)
	if err != nil {
		return err
	}
	switch there, _, err := c.bucketRow(ctx, b.Name); {
	case err == nil && there.ID == before:
		*b = there
		return nil
	case err == nil:
		*b = there
		return errors.Join(ErrBucketExists, c.forgetBucket(ctx, before))
	case !errors.Is(err, ErrNoSuchBucket):
		return err
	}
	if b.Created = c.config.Now().UTC(); before != 0 {
		b.ID = before
		s, err := c.read(ctx)
		if err != nil {
			return err
		}
		if _, err := s.bucket(b.ID); err != nil {
			if errors.Is(err, ErrNoSuchBucket) {
				return nil // it was made, and deleted since
			}
			return err
		}
	} else {
		id, err := c.root.Allocate(ctx, root.BucketIDs)
		if err != nil {
			return err
		}
		b.ID = BucketID(id)
		if b.ID, err = c.tellTablet(ctx, op, *b); err != nil {
			return err
		}
	}
	_, err = c.root.PutRow(ctx, root.Row{Kind: root.Buckets, Name: b.Name, Value: bucketValue(*b)})
	if errors.Is(err, root.ErrConflict) {
		return errors.Join(ErrBucketExists, c.forgetBucket(ctx, b.ID))
	}
	return unsure(err)
}

// bucketOf is the bucket that a write of an Op told the tablet of, 0 when there was none.
func (c *Catalog) bucketOf(ctx context.Context, op Op) (BucketID, error) {
	result, err := c.answered(ctx, op)
	return BucketID(result.GetId().GetClock()), err
}

func bucketValue(b Bucket) []byte {
	value, err := proto.Marshal(&record.BucketRow{
		Id: uint64(b.ID), Created: fromTime(b.Created), Owner: []byte(b.Owner), Versioning: uint32(b.Versioning),
	})
	if err != nil {
		panic(err) // numbers and bytes always encode
	}
	return value
}

func parseBucket(row root.Row) (Bucket, error) {
	var r record.BucketRow
	if err := proto.Unmarshal(row.Value, &r); err != nil {
		return Bucket{}, fmt.Errorf("row of bucket %q: %w", row.Name, err)
	}
	return Bucket{
		ID: BucketID(r.Id), Name: row.Name, Created: toTime(r.Created), Owner: string(r.Owner), Versioning: Versioning(r.Versioning),
	}, nil
}

// bucketRow reads a bucket and its root row.
func (c *Catalog) bucketRow(ctx context.Context, name string) (Bucket, root.Row, error) {
	row, err := c.root.Row(ctx, root.Buckets, name)
	if errors.Is(err, root.ErrNotFound) {
		return Bucket{}, root.Row{}, fmt.Errorf("bucket %q: %w", name, ErrNoSuchBucket)
	}
	if err != nil {
		return Bucket{}, root.Row{}, unavailable(err)
	}
	b, err := parseBucket(row)
	return b, row, err
}

// Bucket returns a bucket by name, ErrNoSuchBucket when there is none.
func (c *Catalog) Bucket(ctx context.Context, name string) (Bucket, error) {
	b, _, err := c.bucketRow(ctx, name)
	return b, err
}

// BucketByID returns a bucket by its number, ErrNoSuchBucket when there is none.
func (c *Catalog) BucketByID(ctx context.Context, id BucketID) (Bucket, error) {
	buckets, err := c.Buckets(ctx)
	if err != nil {
		return Bucket{}, err
	}
	for _, b := range buckets {
		if b.ID == id {
			return b, nil
		}
	}
	return Bucket{}, fmt.Errorf("bucket %d: %w", id, ErrNoSuchBucket)
}

// Buckets returns all buckets by name.
func (c *Catalog) Buckets(ctx context.Context) ([]Bucket, error) {
	rows, err := c.root.Rows(ctx, root.Buckets, "", "", 0)
	if err != nil {
		return nil, unavailable(err)
	}
	buckets := make([]Bucket, len(rows))
	for i, row := range rows {
		if buckets[i], err = parseBucket(row); err != nil {
			return nil, err
		}
	}
	return buckets, nil
}

// SetVersioning changes a bucket's versioning. A bucket that had it cannot go back to Unversioned: ErrConflict.
func (c *Catalog) SetVersioning(ctx context.Context, name string, v Versioning) error {
	return c.during(ctx, func(ctx context.Context) error {
		held, err := c.latches.acquire(ctx, nameLatch(name))
		if err != nil {
			return err
		}
		defer c.latches.release(held)
		return c.setVersioning(ctx, OpFrom(ctx), name, v)
	})
}

func (c *Catalog) setVersioning(ctx context.Context, op Op, name string, v Versioning) error {
	if done, err := c.answered(ctx, op); done != nil || err != nil {
		return err
	}
	b, row, err := c.bucketRow(ctx, name)
	if err != nil {
		return err
	}
	if v > VersioningSuspended || (v == Unversioned && b.Versioning != Unversioned) {
		return fmt.Errorf("versioning of bucket %q: %w", name, ErrConflict)
	}
	b.Versioning = v
	row.Value = bucketValue(b)
	if _, err := c.root.PutRow(ctx, row); err != nil {
		return fmt.Errorf("versioning of bucket %q: %w", name, unsure(err))
	}
	// From here on it is changed, by the next Catalog if not by this one.
	_, err = c.tellTablet(ctx, op, b)
	return unsure(err)
}

// tellTablet gives the tablet its copy of a bucket's settings. No write of the bucket is under way meanwhile. It returns
// the bucket that the Op told of the first time.
func (c *Catalog) tellTablet(ctx context.Context, op Op, b Bucket) (BucketID, error) {
	out, err := c.write(ctx, op, bucketLatches(b.ID), func(e *evaluation) error {
		e.putBucket(b, false)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return BucketID(out.Id.GetClock()), nil
}

// putBucket plans the tablet's copy of a bucket, with its id in the result.
func (e *evaluation) putBucket(b Bucket, fenced bool) {
	e.plan.PutRecord(record.Local(record.LocalBucket, uint64(b.ID)), &record.Bucket{
		Versioning: uint32(b.Versioning), Fenced: fenced,
	})
	e.plan.Result.Id = &record.ID{Clock: uint64(b.ID)}
}

// DeleteBucket removes an empty bucket: one without objects, versions, delete markers and uploads. Else
// ErrBucketNotEmpty.
func (c *Catalog) DeleteBucket(ctx context.Context, name string) error {
	err := c.during(ctx, func(ctx context.Context) error {
		held, err := c.latches.acquire(ctx, nameLatch(name))
		if err != nil {
			return err
		}
		defer c.latches.release(held)
		return c.deleteBucket(ctx, OpFrom(ctx), name)
	})
	if err != nil {
		return fmt.Errorf("delete bucket %q: %w", name, err)
	}
	return nil
}

func (c *Catalog) deleteBucket(ctx context.Context, op Op, name string) error {
	fenced, err := c.bucketOf(ctx, op)
	if err != nil {
		return err
	}
	b, row, err := c.bucketRow(ctx, name)
	if err != nil && (fenced == 0 || !errors.Is(err, ErrNoSuchBucket)) {
		return err
	}
	if fenced == 0 {
		if fenced, err = c.fenceBucket(ctx, op, b); err != nil {
			return err
		}
	}
	// From here on it is deleted, by the next Catalog if not by this one.
	if b.ID == fenced {
		return unsure(c.dropBucket(ctx, b, row))
	}
	return unsure(c.forgetBucket(ctx, fenced)) // its name is gone, and may be another's
}

// fenceBucket refuses all further writes of an empty bucket, and returns the one that the Op fenced the first time. The
// fence and the look at the counters are one command: no write comes between them, and none after.
func (c *Catalog) fenceBucket(ctx context.Context, op Op, b Bucket) (BucketID, error) {
	out, err := c.write(ctx, op, bucketLatches(b.ID), func(e *evaluation) error {
		u, err := e.usage(b.ID)
		if err != nil {
			return err
		}
		if u.Objects|u.Versions|u.Uploads != 0 {
			return ErrBucketNotEmpty
		}
		e.putBucket(b, true)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return BucketID(out.Id.GetClock()), nil
}

// dropBucket finishes the deletion of a fenced bucket: the name goes first.
func (c *Catalog) dropBucket(ctx context.Context, b Bucket, row root.Row) error {
	if err := c.root.DeleteRow(ctx, root.Buckets, row.Name, row.Revision); err != nil {
		return unavailable(err)
	}
	return c.forgetBucket(ctx, b.ID)
}

// forgetBucket removes what the tablet has of a bucket without a name.
func (c *Catalog) forgetBucket(ctx context.Context, id BucketID) error {
	if id == 0 {
		return nil
	}
	_, err := c.write(ctx, Op{}, bucketLatches(id), func(e *evaluation) error {
		e.plan.Delete(record.Local(record.LocalBucket, uint64(id)))
		e.plan.Delete(record.Local(record.LocalUsage, uint64(id)))
		return nil
	})
	return err
}

// finishBuckets takes up bucket changes that a crash left between the root group and the tablet.
func (c *Catalog) finishBuckets(ctx context.Context) error {
	rows, err := c.root.Rows(ctx, root.Buckets, "", "", 0)
	if err != nil {
		return unavailable(err)
	}
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		b, err := parseBucket(row)
		if err != nil {
			return err
		}
		var known record.Bucket
		found, err := s.get(record.Local(record.LocalBucket, uint64(b.ID)), &known)
		switch {
		case err != nil:
			return unavailable(err)
		case found && known.Fenced:
			err = c.dropBucket(ctx, b, row)
		case !found || Versioning(known.Versioning) != b.Versioning:
			_, err = c.tellTablet(ctx, Op{}, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s state) usage(bucket BucketID) (Usage, error) {
	var u record.Usage
	_, err := s.get(record.Local(record.LocalUsage, uint64(bucket)), &u)
	return toUsage(&u), err
}

// Usage returns the exact content of a bucket.
func (c *Catalog) Usage(ctx context.Context, bucket BucketID) (Usage, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Usage{}, err
	}
	if _, err := s.bucket(bucket); err != nil {
		return Usage{}, err
	}
	u, err := s.usage(bucket)
	return u, unavailable(err)
}
