package multipart

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/metadata"
)

// uploadsAtOnce is how many uploads are listed at once where all of a bucket end.
const uploadsAtOnce = 1000

// CreateUpload starts an upload of parts.
func (s *Store) CreateUpload(ctx context.Context, c CreateUpload) (metadata.Upload, error) {
	if err := errors.Join(checkKey(c.Key), s.room()); err != nil {
		return metadata.Upload{}, fmt.Errorf("create upload of %q: %w", c.Key, err)
	}
	template := metadata.Version{
		Modified: c.Meta.Modified, Headers: c.Meta.Headers, Meta: c.Meta.User, Tags: c.Meta.Tags, Attr: c.Meta.Attr,
		ChecksumType: c.ChecksumType,
	}
	return s.catalog.CreateUpload(ctx, c.Bucket, metadata.Upload{
		Key: c.Key, Started: s.now(), Owner: c.Meta.Owner, Template: template,
		ChecksumAlgorithm: c.ChecksumAlgorithm, Internal: c.Internal,
	}, c.Op)
}

// Upload returns an upload under way, ErrNoSuchUpload when there is none.
func (s *Store) Upload(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) (metadata.Upload, error) {
	return s.catalog.Upload(ctx, bucket, key, id)
}

// Uploads returns one page of the uploads under way.
func (s *Store) Uploads(ctx context.Context, l metadata.ListUploads) (metadata.UploadsPage, error) {
	return s.catalog.Uploads(ctx, l)
}

// Parts returns up to max parts of an upload under way with numbers above after.
func (s *Store) Parts(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, after, max int) ([]metadata.Part, error) {
	if _, err := s.catalog.Upload(ctx, bucket, key, id); err != nil {
		return nil, err
	}
	return s.catalog.Parts(ctx, bucket, key, id, after, max)
}

// PutPart stores one part of an upload; the same number again replaces it.
func (s *Store) PutPart(ctx context.Context, p PutPart) (metadata.Part, error) {
	part, err := s.putPart(ctx, p)
	if err != nil {
		return part, fmt.Errorf("put part %d of %q: %w", p.Number, p.Key, err)
	}
	return part, nil
}

func (s *Store) putPart(ctx context.Context, p PutPart) (metadata.Part, error) {
	if p.Number < 1 || p.Number > MaxParts {
		return metadata.Part{}, ErrPartNumber
	}
	if err := s.room(); err != nil {
		return metadata.Part{}, err
	}
	if _, err := s.catalog.Upload(ctx, p.Bucket, p.Key, p.Upload); err != nil {
		return metadata.Part{}, err
	}
	a := &attempt{}
	c, err := s.store(ctx, p.Body, ownerOf(p.Bucket, p.Key), a)
	if err != nil {
		s.discard(ctx, a)
		return metadata.Part{}, err
	}
	return s.commitPart(ctx, p.Bucket, p.Key, p.Upload, metadata.Part{
		Number: p.Number, Size: c.size, ETag: c.etag(), Modified: s.now(), Checksums: c.checksums,
		Manifest: c.manifest, Inline: c.inline,
	}, a, p.Op)
}

// commitPart is the commit point of every part.
func (s *Store) commitPart(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, part metadata.Part, a *attempt, op metadata.Op) (metadata.Part, error) {
	stored, err := s.catalog.PutPart(ctx, bucket, key, id, part, a.intentRows(), op)
	if err != nil {
		s.settle(ctx, a, err)
		return metadata.Part{}, err
	}
	if otherTry(stored.Manifest, part.Manifest) {
		s.discard(ctx, a)
	}
	return stored, nil
}

// Complete turns an upload into the current version of its key: one commit that moves no byte and no row.
func (s *Store) Complete(ctx context.Context, c metadata.Complete) (metadata.Version, error) {
	return s.catalog.Complete(ctx, c)
}

// Abort ends an upload and gives back what no version has taken over from it.
func (s *Store) Abort(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) error {
	return s.catalog.Abort(ctx, bucket, key, id, metadata.Op{})
}

// endUploads aborts the uploads of a bucket that holds nothing but what clients can list, and tells whether there were any.
// Beside a version or an internal upload none ends: the bucket stays.
func (s *Store) endUploads(ctx context.Context, name string) (bool, error) {
	bucket, err := s.catalog.Bucket(ctx, name)
	if err != nil {
		return false, err
	}
	used, err := s.catalog.Usage(ctx, bucket.ID)
	if err != nil || used.Objects|used.Versions != 0 {
		return false, err
	}
	var listed []metadata.Upload
	for l := (metadata.ListUploads{Bucket: bucket.ID, Max: uploadsAtOnce}); ; {
		page, err := s.catalog.Uploads(ctx, l)
		if err != nil {
			return false, err
		}
		listed = append(listed, page.Uploads...)
		if !page.Truncated {
			break
		}
		l.AfterKey, l.AfterUpload = page.NextKey, page.NextUpload
	}
	if int64(len(listed)) < used.Uploads {
		return false, nil
	}
	for _, u := range listed {
		if err := s.Abort(ctx, bucket.ID, u.Key, u.ID); err != nil && !errors.Is(err, metadata.ErrNoSuchUpload) {
			return false, err
		}
	}
	return len(listed) > 0, nil
}

// Part returns one part of an upload under way, for ReadPart; metadata.ErrInvalidPart when there is none.
func (s *Store) Part(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, number int) (metadata.Part, error) {
	if number < 1 || number > MaxParts {
		return metadata.Part{}, ErrPartNumber
	}
	rows, err := s.catalog.Parts(ctx, bucket, key, id, number-1, 1)
	if err != nil {
		return metadata.Part{}, err
	}
	if len(rows) == 0 || rows[0].Number != number {
		return metadata.Part{}, fmt.Errorf("part %d of %q: %w", number, key, metadata.ErrInvalidPart)
	}
	return rows[0], nil
}

// ReadPart streams a span of a part that Part returned.
func (s *Store) ReadPart(ctx context.Context, part *metadata.Part, span Span) (io.ReadCloser, error) {
	n := span.Len
	if n < 0 {
		n = part.Size - span.Off
	}
	if span.Off < 0 || n < 0 || span.Off > part.Size || n > part.Size-span.Off {
		return nil, fmt.Errorf("span %d+%d of part %d of %d bytes: %w", span.Off, span.Len, part.Number, part.Size, ErrSpan)
	}
	src, err := s.bytesSource(part.Inline, part.Manifest, part.Size, span.Off, span.Off+n)
	if err != nil {
		return nil, err
	}
	return newReader(ctx, s, src, n, nil), nil
}

// CopyPart makes a part from a span of an existing version, by reference: the source is lent first, then the part is
// committed. Its ETag is the MD5 of the bytes where that is known without reading them (the whole of an object that has
// a plain one) or where they are read anyway (the upload declared a checksum); else an MD5 over the references, stable
// for the same span of the same version. S3 promises no more of it.
func (s *Store) CopyPart(ctx context.Context, c CopyPart) (metadata.Part, error) {
	part, err := s.copyPart(ctx, c)
	if err != nil {
		return part, fmt.Errorf("copy part %d of %q from %q: %w", c.Number, c.Key, c.Source.Key, err)
	}
	return part, nil
}

func (s *Store) copyPart(ctx context.Context, c CopyPart) (metadata.Part, error) {
	if c.Number < 1 || c.Number > MaxParts {
		return metadata.Part{}, ErrPartNumber
	}
	if err := s.room(); err != nil {
		return metadata.Part{}, err
	}
	upload, err := s.catalog.Upload(ctx, c.Bucket, c.Key, c.Upload)
	if err != nil {
		return metadata.Part{}, err
	}
	a := &attempt{}
	b, err := s.borrow(ctx, c.Source, ownerOf(c.Bucket, c.Key), a)
	if err != nil {
		s.discard(ctx, a)
		return metadata.Part{}, err
	}
	if b.size > MaxPart {
		s.discard(ctx, a)
		return metadata.Part{}, fmt.Errorf("%d bytes: %w", b.size, metadata.ErrObjectTooLarge)
	}
	part := metadata.Part{
		Number: c.Number, Size: b.size, Modified: s.now(), Manifest: b.manifest, Inline: b.inline, Shared: b.shared,
	}
	switch {
	case upload.ChecksumAlgorithm != "":
		part.ETag, part.Checksums, err = s.checksum(ctx, upload.ChecksumAlgorithm, c.Source.Bucket, &b)
	case len(b.inline) > 0 || b.size == 0:
		part.ETag = etagOf(b.inline)
	case b.whole && isMD5(b.version.ETag):
		part.ETag = b.version.ETag
	default:
		part.ETag = etagOf(b.manifest)
	}
	if err != nil {
		s.discard(ctx, a)
		return metadata.Part{}, err
	}
	return s.commitPart(ctx, c.Bucket, c.Key, c.Upload, part, a, c.Op)
}

func etagOf(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// isMD5 tells a plain MD5 from the ETag of an upload.
func isMD5(etag string) bool {
	_, err := hex.DecodeString(etag)
	return err == nil && len(etag) == 2*md5.Size
}
