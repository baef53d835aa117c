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

// CreateBucket makes a bucket without versioning. ErrBucketExists when the name is taken, by whomever.
func (c *Catalog) CreateBucket(ctx context.Context, name, owner string) (Bucket, error) {
	if err := CheckBucketName(name); err != nil {
		return Bucket{}, err
	}
	held, err := c.latches.acquire(ctx, nameLatch(name))
	if err != nil {
		return Bucket{}, err
	}
	defer c.latches.release(held)
	if b, _, err := c.bucketRow(ctx, name); err == nil {
		return b, fmt.Errorf("create bucket %q: %w", name, ErrBucketExists)
	} else if !errors.Is(err, ErrNoSuchBucket) {
		return Bucket{}, err
	}
	id, err := c.root.Allocate(ctx, root.BucketIDs)
	if err != nil {
		return Bucket{}, unavailable(err)
	}
	b := Bucket{ID: BucketID(id), Name: name, Created: c.config.Now().UTC(), Owner: owner}
	// The tablet knows the bucket before the name means it: a crash between the two leaves a row that nothing names.
	if err := c.tellTablet(ctx, b, false); err != nil {
		return Bucket{}, fmt.Errorf("create bucket %q: %w", name, err)
	}
	_, err = c.root.PutRow(ctx, root.Row{Kind: root.Buckets, Name: name, Value: bucketValue(b)})
	if errors.Is(err, root.ErrConflict) {
		return Bucket{}, errors.Join(fmt.Errorf("create bucket %q: %w", name, ErrBucketExists), c.forgetBucket(ctx, b.ID))
	}
	if err != nil {
		return Bucket{}, fmt.Errorf("create bucket %q: %w", name, unavailable(err))
	}
	return b, nil
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
	held, err := c.latches.acquire(ctx, nameLatch(name))
	if err != nil {
		return err
	}
	defer c.latches.release(held)
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
		return fmt.Errorf("versioning of bucket %q: %w", name, unavailable(err))
	}
	return c.tellTablet(ctx, b, false)
}

// tellTablet gives the tablet its copy of a bucket's settings. No write of the bucket is under way meanwhile.
func (c *Catalog) tellTablet(ctx context.Context, b Bucket, fenced bool) error {
	_, err := c.write(ctx, Op{}, bucketLatches(b.ID), func(e *evaluation) error {
		e.plan.PutRecord(record.Local(record.LocalBucket, uint64(b.ID)), &record.Bucket{
			Versioning: uint32(b.Versioning), Fenced: fenced,
		})
		return nil
	})
	return err
}

// DeleteBucket removes an empty bucket: one without objects, versions, delete markers and uploads. Else
// ErrBucketNotEmpty.
func (c *Catalog) DeleteBucket(ctx context.Context, name string) error {
	held, err := c.latches.acquire(ctx, nameLatch(name))
	if err != nil {
		return err
	}
	defer c.latches.release(held)
	b, row, err := c.bucketRow(ctx, name)
	if err != nil {
		return err
	}
	// The fence and the look at the counters are one command: no write comes between them, and none after.
	_, err = c.write(ctx, Op{}, bucketLatches(b.ID), func(e *evaluation) error {
		u, err := e.usage(b.ID)
		if err != nil {
			return err
		}
		if u.Objects|u.Versions|u.Uploads != 0 {
			return ErrBucketNotEmpty
		}
		e.plan.PutRecord(record.Local(record.LocalBucket, uint64(b.ID)), &record.Bucket{
			Versioning: uint32(b.Versioning), Fenced: true,
		})
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete bucket %q: %w", name, err)
	}
	if err := c.dropBucket(ctx, b, row); err != nil {
		return fmt.Errorf("delete bucket %q: %w", name, err)
	}
	return nil
}

// dropBucket finishes the deletion of a fenced bucket: the name goes first.
func (c *Catalog) dropBucket(ctx context.Context, b Bucket, row root.Row) error {
	if err := c.root.DeleteRow(ctx, root.Buckets, row.Name, row.Revision); err != nil {
		return unavailable(err)
	}
	return c.forgetBucket(ctx, b.ID)
}

func (c *Catalog) forgetBucket(ctx context.Context, id BucketID) error {
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
			err = c.tellTablet(ctx, b, false)
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
