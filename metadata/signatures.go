package metadata

import (
	"context"
	"time"
)

func (c *Catalog) CreateBucket(ctx context.Context, name, owner string) (Bucket, error) {
	return Bucket{}, ErrUnavailable
}
func (c *Catalog) Bucket(ctx context.Context, name string) (Bucket, error) {
	return Bucket{}, ErrUnavailable
}
func (c *Catalog) BucketByID(ctx context.Context, id BucketID) (Bucket, error) {
	return Bucket{}, ErrUnavailable
}
func (c *Catalog) Buckets(ctx context.Context) ([]Bucket, error)       { return nil, ErrUnavailable }
func (c *Catalog) DeleteBucket(ctx context.Context, name string) error { return ErrUnavailable }
func (c *Catalog) SetVersioning(ctx context.Context, name string, v Versioning) error {
	return ErrUnavailable
}
func (c *Catalog) Usage(ctx context.Context, bucket BucketID) (Usage, error) {
	return Usage{}, ErrUnavailable
}
func (c *Catalog) Current(ctx context.Context, bucket BucketID, key string) (Version, error) {
	return Version{}, ErrUnavailable
}
func (c *Catalog) Version(ctx context.Context, bucket BucketID, key string, id VersionID, null bool) (Version, error) {
	return Version{}, ErrUnavailable
}
func (c *Catalog) Put(ctx context.Context, p Put) (Version, error) { return Version{}, ErrUnavailable }
func (c *Catalog) Delete(ctx context.Context, d Delete) (Deleted, error) {
	return Deleted{}, ErrUnavailable
}
func (c *Catalog) Rename(ctx context.Context, r Rename) (Version, error) {
	return Version{}, ErrUnavailable
}
func (c *Catalog) RenamePrefix(ctx context.Context, bucket BucketID, from, to string) error {
	return ErrUnavailable
}
func (c *Catalog) SetAttr(ctx context.Context, bucket BucketID, key string, id VersionID, a Attr, op Op) (Version, error) {
	return Version{}, ErrUnavailable
}
func (c *Catalog) SetTags(ctx context.Context, bucket BucketID, key string, id *VersionID, null bool, tags map[string]string) error {
	return ErrUnavailable
}
func (c *Catalog) List(ctx context.Context, l List) (Page, error) { return Page{}, ErrUnavailable }
func (c *Catalog) ListVersions(ctx context.Context, l ListVersions) (VersionsPage, error) {
	return VersionsPage{}, ErrUnavailable
}
func (c *Catalog) HasPrefix(ctx context.Context, bucket BucketID, prefix string) (bool, error) {
	return false, ErrUnavailable
}
func (c *Catalog) CreateUpload(ctx context.Context, bucket BucketID, u Upload, op Op) (Upload, error) {
	return Upload{}, ErrUnavailable
}
func (c *Catalog) Upload(ctx context.Context, bucket BucketID, key string, id UploadID) (Upload, error) {
	return Upload{}, ErrUnavailable
}
func (c *Catalog) PutPart(ctx context.Context, bucket BucketID, key string, id UploadID, p Part, intents []Row, op Op) (Part, error) {
	return Part{}, ErrUnavailable
}
func (c *Catalog) Parts(ctx context.Context, bucket BucketID, key string, id UploadID, after, max int) ([]Part, error) {
	return nil, ErrUnavailable
}
func (c *Catalog) Uploads(ctx context.Context, l ListUploads) (UploadsPage, error) {
	return UploadsPage{}, ErrUnavailable
}
func (c *Catalog) Abort(ctx context.Context, bucket BucketID, key string, id UploadID, op Op) error {
	return ErrUnavailable
}
func (c *Catalog) Complete(ctx context.Context, p Complete) (Version, error) {
	return Version{}, ErrUnavailable
}
func (c *Catalog) Lend(ctx context.Context, bucket BucketID, key string, id VersionID) error {
	return ErrUnavailable
}
func (c *Catalog) Freed(ctx context.Context, after []byte, max int, now time.Time) ([]Freed, error) {
	return nil, ErrUnavailable
}
func (c *Catalog) DropFreed(ctx context.Context, rows [][]byte) error { return ErrUnavailable }
func (c *Catalog) Row(ctx context.Context, key []byte) (Row, error)   { return Row{}, ErrUnavailable }
func (c *Catalog) PutRow(ctx context.Context, r Row) (Row, error)     { return Row{}, ErrUnavailable }
func (c *Catalog) DeleteRow(ctx context.Context, key []byte) error    { return ErrUnavailable }
func (c *Catalog) Rows(ctx context.Context, prefix, after []byte, max int) ([]Row, error) {
	return nil, ErrUnavailable
}
func (c *Catalog) OpenSession(ctx context.Context, ttl time.Duration) (uint64, error) {
	return 0, ErrUnavailable
}
func (c *Catalog) RenewSession(ctx context.Context, id uint64) error { return ErrUnavailable }
func (c *Catalog) CloseSession(ctx context.Context, id uint64) error { return ErrUnavailable }
func (c *Catalog) Stage(ctx context.Context, s Stage) error          { return ErrUnavailable }
func (c *Catalog) Discard(ctx context.Context, k StageKey) error     { return ErrUnavailable }
func (c *Catalog) Staged(ctx context.Context) ([]Stage, error)       { return nil, ErrUnavailable }
func (c *Catalog) Hold(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error {
	return ErrUnavailable
}
func (c *Catalog) Release(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error {
	return ErrUnavailable
}
func (c *Catalog) Survey(ctx context.Context, fn func(Surveyed) error) error { return ErrUnavailable }
