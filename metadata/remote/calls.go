package remote

import (
	"context"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// CreateBucket implements metadata.Names.
func (c *Client) CreateBucket(ctx context.Context, name, owner string) (metadata.Bucket, error) {
	return ask(ctx, c, createBucket, &nameArgs{Name: name, Owner: owner})
}

// Bucket implements metadata.Names.
func (c *Client) Bucket(ctx context.Context, name string) (metadata.Bucket, error) {
	return ask(ctx, c, bucketByName, &nameArgs{Name: name})
}

// Buckets implements metadata.Names.
func (c *Client) Buckets(ctx context.Context) ([]metadata.Bucket, error) {
	return collect(ctx, c, buckets, &nothing{})
}

// SetVersioning implements metadata.Names.
func (c *Client) SetVersioning(ctx context.Context, name string, v metadata.Versioning) error {
	return do(ctx, c, setVersioning, &nameArgs{Name: name, Versioning: v})
}

// DeleteBucket implements metadata.Names.
func (c *Client) DeleteBucket(ctx context.Context, name string) error {
	return do(ctx, c, deleteBucket, &nameArgs{Name: name})
}

// Usage implements metadata.Names.
func (c *Client) Usage(ctx context.Context, bucket metadata.BucketID) (metadata.Usage, error) {
	return ask(ctx, c, usage, &keyArgs{Bucket: bucket})
}

// Put implements metadata.Names.
func (c *Client) Put(ctx context.Context, p metadata.Put) (metadata.Version, error) {
	return ask(ctx, c, put, &p)
}

// Current implements metadata.Names.
func (c *Client) Current(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Version, error) {
	return ask(ctx, c, current, &keyArgs{bucket, key})
}

// Version implements metadata.Names.
func (c *Client) Version(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, null bool) (metadata.Version, error) {
	return ask(ctx, c, version, &versionArgs{bucket, key, id, null})
}

// Look implements metadata.Names.
func (c *Client) Look(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Looked, error) {
	return ask(ctx, c, look, &keyArgs{bucket, key})
}

// HasPrefix implements metadata.Names.
func (c *Client) HasPrefix(ctx context.Context, bucket metadata.BucketID, prefix string) (bool, error) {
	return ask(ctx, c, hasPrefix, &keyArgs{bucket, prefix})
}

// List implements metadata.Names.
func (c *Client) List(ctx context.Context, l metadata.List) (metadata.Page, error) {
	return ask(ctx, c, list, &l)
}

// ListVersions implements metadata.Names.
func (c *Client) ListVersions(ctx context.Context, l metadata.ListVersions) (metadata.VersionsPage, error) {
	return ask(ctx, c, listVersions, &l)
}

// Delete implements metadata.Names.
func (c *Client) Delete(ctx context.Context, d metadata.Delete) (metadata.Deleted, error) {
	return ask(ctx, c, remove, &d)
}

// Rename implements metadata.Names.
func (c *Client) Rename(ctx context.Context, r metadata.Rename) (metadata.Version, error) {
	return ask(ctx, c, rename, &r)
}

// RenamePrefix implements metadata.Names.
func (c *Client) RenamePrefix(ctx context.Context, bucket metadata.BucketID, from, to string) error {
	return do(ctx, c, renamePrefix, &prefixArgs{bucket, from, to})
}

// SetAttr implements metadata.Names.
func (c *Client) SetAttr(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, attr metadata.Attr, op metadata.Op) (metadata.Version, error) {
	return ask(ctx, c, setAttr, &attrArgs{bucket, key, id, attr, nil, op})
}

// SetFile implements metadata.Names.
func (c *Client) SetFile(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, attr metadata.Attr, meta map[string]string, op metadata.Op) (metadata.Version, error) {
	return ask(ctx, c, setFile, &attrArgs{bucket, key, id, attr, meta, op})
}

// SetTags implements metadata.Names.
func (c *Client) SetTags(ctx context.Context, bucket metadata.BucketID, key string, id *metadata.VersionID, null bool, tags map[string]string) (metadata.Version, error) {
	return ask(ctx, c, setTags, &tagsArgs{bucket, key, id, null, tags})
}

// Lend implements metadata.Names.
func (c *Client) Lend(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return do(ctx, c, lend, &versionArgs{Bucket: bucket, Key: key, ID: id})
}

// CreateUpload implements metadata.Names.
func (c *Client) CreateUpload(ctx context.Context, bucket metadata.BucketID, u metadata.Upload, op metadata.Op) (metadata.Upload, error) {
	return ask(ctx, c, createUpload, &newUploadArgs{bucket, u, op})
}

// Upload implements metadata.Names.
func (c *Client) Upload(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) (metadata.Upload, error) {
	return ask(ctx, c, upload, &uploadArgs{Bucket: bucket, Key: key, Upload: id})
}

// PutPart implements metadata.Names.
func (c *Client) PutPart(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, p metadata.Part, intents []metadata.Row, op metadata.Op) (metadata.Part, error) {
	return ask(ctx, c, putPart, &partArgs{bucket, key, id, p, intents, op})
}

// Parts implements metadata.Names.
func (c *Client) Parts(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, after, max int) ([]metadata.Part, error) {
	return collect(ctx, c, parts, &uploadArgs{Bucket: bucket, Key: key, Upload: id, After: after, Max: max})
}

// Uploads implements metadata.Names.
func (c *Client) Uploads(ctx context.Context, l metadata.ListUploads) (metadata.UploadsPage, error) {
	return ask(ctx, c, uploads, &l)
}

// Complete implements metadata.Names.
func (c *Client) Complete(ctx context.Context, p metadata.Complete) (metadata.Version, error) {
	return ask(ctx, c, complete, &p)
}

// Abort implements metadata.Names.
func (c *Client) Abort(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, op metadata.Op) error {
	return do(ctx, c, abort, &uploadArgs{Bucket: bucket, Key: key, Upload: id, Op: op})
}

// OpenSession implements metadata.Names.
func (c *Client) OpenSession(ctx context.Context, lease time.Duration) (uint64, error) {
	return ask(ctx, c, openSession, &sessionArgs{Lease: lease})
}

// TakeSession implements metadata.Names.
func (c *Client) TakeSession(ctx context.Context, name string, lease time.Duration) (uint64, error) {
	return ask(ctx, c, takeSession, &sessionArgs{Name: name, Lease: lease})
}

// RenewSession implements metadata.Names.
func (c *Client) RenewSession(ctx context.Context, id uint64) error {
	return do(ctx, c, renewSession, &sessionArgs{Session: id})
}

// CloseSession implements metadata.Names.
func (c *Client) CloseSession(ctx context.Context, id uint64) error {
	return do(ctx, c, closeSession, &sessionArgs{Session: id})
}

// Stage implements metadata.Names.
func (c *Client) Stage(ctx context.Context, s metadata.Stage) error {
	return do(ctx, c, stage, &s)
}

// Discard implements metadata.Names.
func (c *Client) Discard(ctx context.Context, k metadata.StageKey) error {
	return do(ctx, c, discard, &k)
}

// Staged implements metadata.Names.
func (c *Client) Staged(ctx context.Context) ([]metadata.Stage, error) {
	return collect(ctx, c, staged, &nothing{})
}

// Hold implements metadata.Names.
func (c *Client) Hold(ctx context.Context, session uint64, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return do(ctx, c, hold, &holdArgs{session, bucket, key, id})
}

// Release implements metadata.Names.
func (c *Client) Release(ctx context.Context, session uint64, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return do(ctx, c, release, &holdArgs{session, bucket, key, id})
}

// LeaseBlock implements metadata.Names.
func (c *Client) LeaseBlock(ctx context.Context) (uint64, error) {
	return ask(ctx, c, leaseBlock, &nothing{})
}

// Row implements metadata.Names.
func (c *Client) Row(ctx context.Context, key []byte) (metadata.Row, error) {
	return ask(ctx, c, row, &metadata.Row{Key: key})
}

// PutRow implements metadata.Names.
func (c *Client) PutRow(ctx context.Context, r metadata.Row) (metadata.Row, error) {
	return ask(ctx, c, putRow, &r)
}

// DeleteRow implements metadata.Names.
func (c *Client) DeleteRow(ctx context.Context, key []byte) error {
	return do(ctx, c, deleteRow, &metadata.Row{Key: key})
}

// Rows implements metadata.Names.
func (c *Client) Rows(ctx context.Context, prefix, after []byte, max int) ([]metadata.Row, error) {
	return collect(ctx, c, rows, &rowsArgs{prefix, after, max})
}

// Freed implements metadata.Names.
func (c *Client) Freed(ctx context.Context, after []byte, max int, now time.Time) ([]metadata.Freed, error) {
	return collect(ctx, c, freed, &freedArgs{after, max, now})
}

// DropFreed implements metadata.Names.
func (c *Client) DropFreed(ctx context.Context, rows [][]byte) error {
	return do(ctx, c, dropFreed, &dropArgs{rows})
}

// Counts implements metadata.Names.
func (c *Client) Counts(ctx context.Context) (metadata.Counts, error) {
	return ask(ctx, c, counts, &nothing{})
}

// Survey implements metadata.Names. What it goes through is of one point in time, and held at the leader until it ends.
func (c *Client) Survey(ctx context.Context, fn func(metadata.Surveyed) error) error {
	return each(ctx, c, survey, &nothing{}, func(s *metadata.Surveyed) error { return fn(*s) })
}
