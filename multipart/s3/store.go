package s3

import (
	"context"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// Store is the object path as this face uses it: package multipart's Store, or the reference model in tests. All
// methods may be called concurrently; errors wrap the sentinels of packages metadata, chunkstore and multipart.
type Store interface {
	CreateBucket(ctx context.Context, name, owner string) (metadata.Bucket, error)
	Bucket(ctx context.Context, name string) (metadata.Bucket, error)
	Buckets(ctx context.Context) ([]metadata.Bucket, error)
	DeleteBucket(ctx context.Context, name string) error
	SetVersioning(ctx context.Context, name string, v metadata.Versioning) error

	Put(ctx context.Context, p multipart.Put) (metadata.Version, error)
	Open(ctx context.Context, bucket metadata.BucketID, key string, at multipart.At) (multipart.Object, error)
	Copy(ctx context.Context, c multipart.Copy) (metadata.Version, error)
	Delete(ctx context.Context, d metadata.Delete) (metadata.Deleted, error)
	List(ctx context.Context, l metadata.List) (metadata.Page, error)
	ListVersions(ctx context.Context, l metadata.ListVersions) (metadata.VersionsPage, error)
	SetTags(ctx context.Context, bucket metadata.BucketID, key string, at multipart.At, tags map[string]string) (metadata.Version, error)

	CreateUpload(ctx context.Context, c multipart.CreateUpload) (metadata.Upload, error)
	Upload(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) (metadata.Upload, error)
	PutPart(ctx context.Context, p multipart.PutPart) (metadata.Part, error)
	CopyPart(ctx context.Context, c multipart.CopyPart) (metadata.Part, error)
	Parts(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, after, max int) ([]metadata.Part, error)
	Uploads(ctx context.Context, l metadata.ListUploads) (metadata.UploadsPage, error)
	Complete(ctx context.Context, c metadata.Complete) (metadata.Version, error)
	Abort(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) error
}
