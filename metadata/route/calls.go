package route

import (
	"context"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// CreateBucket implements metadata.Names.
func (r *Router) CreateBucket(ctx context.Context, name, owner string) (metadata.Bucket, error) {
	return change(ctx, r, metadata.Op{}, func(ctx context.Context, n metadata.Names) (metadata.Bucket, error) {
		return n.CreateBucket(ctx, name, owner)
	})
}

// Bucket implements metadata.Names.
func (r *Router) Bucket(ctx context.Context, name string) (metadata.Bucket, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Bucket, error) {
		return n.Bucket(ctx, name)
	})
}

// Buckets implements metadata.Names.
func (r *Router) Buckets(ctx context.Context) ([]metadata.Bucket, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) ([]metadata.Bucket, error) {
		return n.Buckets(ctx)
	})
}

// SetVersioning implements metadata.Names.
func (r *Router) SetVersioning(ctx context.Context, name string, v metadata.Versioning) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.SetVersioning(ctx, name, v) })
}

// DeleteBucket implements metadata.Names.
func (r *Router) DeleteBucket(ctx context.Context, name string) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.DeleteBucket(ctx, name) })
}

// Usage implements metadata.Names.
func (r *Router) Usage(ctx context.Context, bucket metadata.BucketID) (metadata.Usage, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Usage, error) {
		return n.Usage(ctx, bucket)
	})
}

// Put implements metadata.Names.
func (r *Router) Put(ctx context.Context, p metadata.Put) (metadata.Version, error) {
	return change(ctx, r, p.Op, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.Put(ctx, p)
	})
}

// Current implements metadata.Names.
func (r *Router) Current(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Version, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.Current(ctx, bucket, key)
	})
}

// Version implements metadata.Names.
func (r *Router) Version(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, null bool) (metadata.Version, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.Version(ctx, bucket, key, id, null)
	})
}

// Look implements metadata.Names.
func (r *Router) Look(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Looked, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Looked, error) {
		return n.Look(ctx, bucket, key)
	})
}

// HasPrefix implements metadata.Names.
func (r *Router) HasPrefix(ctx context.Context, bucket metadata.BucketID, prefix string) (bool, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (bool, error) {
		return n.HasPrefix(ctx, bucket, prefix)
	})
}

// List implements metadata.Names.
func (r *Router) List(ctx context.Context, l metadata.List) (metadata.Page, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Page, error) {
		return n.List(ctx, l)
	})
}

// ListVersions implements metadata.Names.
func (r *Router) ListVersions(ctx context.Context, l metadata.ListVersions) (metadata.VersionsPage, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.VersionsPage, error) {
		return n.ListVersions(ctx, l)
	})
}

// Delete implements metadata.Names.
func (r *Router) Delete(ctx context.Context, d metadata.Delete) (metadata.Deleted, error) {
	return change(ctx, r, d.Op, func(ctx context.Context, n metadata.Names) (metadata.Deleted, error) {
		return n.Delete(ctx, d)
	})
}

// Rename implements metadata.Names.
func (r *Router) Rename(ctx context.Context, q metadata.Rename) (metadata.Version, error) {
	return change(ctx, r, q.Op, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.Rename(ctx, q)
	})
}

// RenamePrefix implements metadata.Names.
func (r *Router) RenamePrefix(ctx context.Context, bucket metadata.BucketID, from, to string) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error {
		return n.RenamePrefix(ctx, bucket, from, to)
	})
}

// SetAttr implements metadata.Names.
func (r *Router) SetAttr(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, attr metadata.Attr, op metadata.Op) (metadata.Version, error) {
	return change(ctx, r, op, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.SetAttr(ctx, bucket, key, id, attr, op)
	})
}

// SetFile implements metadata.Names.
func (r *Router) SetFile(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, attr metadata.Attr, meta map[string]string, op metadata.Op) (metadata.Version, error) {
	return change(ctx, r, op, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.SetFile(ctx, bucket, key, id, attr, meta, op)
	})
}

// SetTags implements metadata.Names.
func (r *Router) SetTags(ctx context.Context, bucket metadata.BucketID, key string, id *metadata.VersionID, null bool, tags map[string]string) (metadata.Version, error) {
	return change(ctx, r, metadata.Op{}, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.SetTags(ctx, bucket, key, id, null, tags)
	})
}

// Lend implements metadata.Names.
func (r *Router) Lend(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return r.do(ctx, write, func(ctx context.Context, n metadata.Names) error { return n.Lend(ctx, bucket, key, id) })
}

// CreateUpload implements metadata.Names.
func (r *Router) CreateUpload(ctx context.Context, bucket metadata.BucketID, u metadata.Upload, op metadata.Op) (metadata.Upload, error) {
	return change(ctx, r, op, func(ctx context.Context, n metadata.Names) (metadata.Upload, error) {
		return n.CreateUpload(ctx, bucket, u, op)
	})
}

// Upload implements metadata.Names.
func (r *Router) Upload(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) (metadata.Upload, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Upload, error) {
		return n.Upload(ctx, bucket, key, id)
	})
}

// PutPart implements metadata.Names.
func (r *Router) PutPart(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, p metadata.Part, intents []metadata.Row, op metadata.Op) (metadata.Part, error) {
	return change(ctx, r, op, func(ctx context.Context, n metadata.Names) (metadata.Part, error) {
		return n.PutPart(ctx, bucket, key, id, p, intents, op)
	})
}

// Parts implements metadata.Names.
func (r *Router) Parts(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, after, max int) ([]metadata.Part, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) ([]metadata.Part, error) {
		return n.Parts(ctx, bucket, key, id, after, max)
	})
}

// Uploads implements metadata.Names.
func (r *Router) Uploads(ctx context.Context, l metadata.ListUploads) (metadata.UploadsPage, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.UploadsPage, error) {
		return n.Uploads(ctx, l)
	})
}

// Complete implements metadata.Names.
func (r *Router) Complete(ctx context.Context, p metadata.Complete) (metadata.Version, error) {
	return change(ctx, r, p.Op, func(ctx context.Context, n metadata.Names) (metadata.Version, error) {
		return n.Complete(ctx, p)
	})
}

// Abort implements metadata.Names.
func (r *Router) Abort(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, op metadata.Op) error {
	return r.doOnce(ctx, op, func(ctx context.Context, n metadata.Names) error { return n.Abort(ctx, bucket, key, id, op) })
}

// OpenSession implements metadata.Names.
func (r *Router) OpenSession(ctx context.Context, lease time.Duration) (uint64, error) {
	return ask(ctx, r, write, func(ctx context.Context, n metadata.Names) (uint64, error) {
		return n.OpenSession(ctx, lease)
	})
}

// TakeSession implements metadata.Names.
func (r *Router) TakeSession(ctx context.Context, name string, lease time.Duration) (uint64, error) {
	return ask(ctx, r, write, func(ctx context.Context, n metadata.Names) (uint64, error) {
		return n.TakeSession(ctx, name, lease)
	})
}

// RenewSession implements metadata.Names.
func (r *Router) RenewSession(ctx context.Context, id uint64) error {
	return r.do(ctx, write, func(ctx context.Context, n metadata.Names) error { return n.RenewSession(ctx, id) })
}

// CloseSession implements metadata.Names.
func (r *Router) CloseSession(ctx context.Context, id uint64) error {
	return r.do(ctx, write, func(ctx context.Context, n metadata.Names) error { return n.CloseSession(ctx, id) })
}

// Stage implements metadata.Names.
func (r *Router) Stage(ctx context.Context, s metadata.Stage) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.Stage(ctx, s) })
}

// Discard implements metadata.Names.
func (r *Router) Discard(ctx context.Context, k metadata.StageKey) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.Discard(ctx, k) })
}

// Staged implements metadata.Names.
func (r *Router) Staged(ctx context.Context) ([]metadata.Stage, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) ([]metadata.Stage, error) {
		return n.Staged(ctx)
	})
}

// Hold implements metadata.Names.
func (r *Router) Hold(ctx context.Context, session uint64, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.Hold(ctx, session, bucket, key, id) })
}

// Release implements metadata.Names.
func (r *Router) Release(ctx context.Context, session uint64, bucket metadata.BucketID, key string, id metadata.VersionID) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.Release(ctx, session, bucket, key, id) })
}

// LeaseBlock implements metadata.Names.
func (r *Router) LeaseBlock(ctx context.Context) (uint64, error) {
	return ask(ctx, r, write, func(ctx context.Context, n metadata.Names) (uint64, error) {
		return n.LeaseBlock(ctx)
	})
}

// Row implements metadata.Names.
func (r *Router) Row(ctx context.Context, key []byte) (metadata.Row, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Row, error) {
		return n.Row(ctx, key)
	})
}

// PutRow implements metadata.Names.
func (r *Router) PutRow(ctx context.Context, row metadata.Row) (metadata.Row, error) {
	return change(ctx, r, metadata.Op{}, func(ctx context.Context, n metadata.Names) (metadata.Row, error) {
		return n.PutRow(ctx, row)
	})
}

// DeleteRow implements metadata.Names.
func (r *Router) DeleteRow(ctx context.Context, key []byte) error {
	return r.doOnce(ctx, metadata.Op{}, func(ctx context.Context, n metadata.Names) error { return n.DeleteRow(ctx, key) })
}

// Rows implements metadata.Names.
func (r *Router) Rows(ctx context.Context, prefix, after []byte, max int) ([]metadata.Row, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) ([]metadata.Row, error) {
		return n.Rows(ctx, prefix, after, max)
	})
}

// Freed implements metadata.Names.
func (r *Router) Freed(ctx context.Context, after []byte, max int, now time.Time) ([]metadata.Freed, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) ([]metadata.Freed, error) {
		return n.Freed(ctx, after, max, now)
	})
}

// DropFreed implements metadata.Names.
func (r *Router) DropFreed(ctx context.Context, rows [][]byte) error {
	return r.do(ctx, write, func(ctx context.Context, n metadata.Names) error { return n.DropFreed(ctx, rows) })
}

// Counts implements metadata.Names.
func (r *Router) Counts(ctx context.Context) (metadata.Counts, error) {
	return ask(ctx, r, read, func(ctx context.Context, n metadata.Names) (metadata.Counts, error) {
		return n.Counts(ctx)
	})
}

// Survey implements metadata.Names. It is begun again only while fn has seen nothing.
func (r *Router) Survey(ctx context.Context, fn func(metadata.Surveyed) error) error {
	return r.do(ctx, read, func(ctx context.Context, n metadata.Names) error {
		seen := false
		err := n.Survey(ctx, func(s metadata.Surveyed) error {
			seen = true
			return fn(s)
		})
		if err != nil && seen {
			return final{err}
		}
		return err
	})
}
