package multipart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

// Config says what a Store stands on.
type Config struct {
	Catalog metadata.Names
	Chunks  *chunkstore.Store
	// Inline is the size in bytes up to which a body stands in its metadata record. Zero means DefaultInline, negative
	// means never; at most MaxInline.
	Inline int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log takes events; nil means none.
	Log *slog.Logger
	// Scarce tells that the names have space left for deletes alone: what would add to them is refused then, as if the
	// drives were full. Nil means never.
	Scarce func() bool
}

// MaxInline is the largest Config.Inline: records of more bytes would fill a Raft entry with a few of them.
const MaxInline = 64 << 10

// Store is the object path. All methods may be called concurrently. Errors wrap the sentinels of metadata, chunkstore
// and this package.
type Store struct {
	catalog metadata.Names
	chunks  *chunkstore.Store
	inline  int64
	now     func() time.Time
	log     *slog.Logger
	scarce  func() bool

	// kick wakes the deleter of freed chunks before its pause ends.
	kick chan struct{}

	open openObjects

	mu      sync.Mutex
	session uint64 // of this process's readers that need holds; 0: none opened yet
}

// New returns a Store. Its background work runs in Run.
func New(c Config) (*Store, error) {
	if c.Catalog == nil || c.Chunks == nil {
		return nil, errors.New("object store needs a catalog and a chunk store")
	}
	if c.Inline > MaxInline {
		return nil, errors.New("inline bodies are limited to 64 KiB")
	}
	if c.Inline == 0 {
		c.Inline = DefaultInline
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Scarce == nil {
		c.Scarce = func() bool { return false }
	}
	return &Store{
		catalog: c.Catalog, chunks: c.Chunks, inline: max(c.Inline, -1), now: c.Now, log: c.Log, scarce: c.Scarce,
		kick: make(chan struct{}, 1),
	}, nil
}

// room refuses what adds names when the space left is needed for deletes.
func (s *Store) room() error {
	if s.scarce() {
		return fmt.Errorf("no space for further names: %w", chunkstore.ErrFull)
	}
	return nil
}

// CreateBucket makes a bucket, ErrBucketExists when there is one of that name.
func (s *Store) CreateBucket(ctx context.Context, name, owner string) (metadata.Bucket, error) {
	return s.catalog.CreateBucket(ctx, name, owner)
}

// Bucket returns a bucket by name, ErrNoSuchBucket when there is none.
func (s *Store) Bucket(ctx context.Context, name string) (metadata.Bucket, error) {
	return s.catalog.Bucket(ctx, name)
}

// Buckets returns all buckets in order of name.
func (s *Store) Buckets(ctx context.Context) ([]metadata.Bucket, error) {
	return s.catalog.Buckets(ctx)
}

// DeleteBucket removes a bucket without versions, ErrBucketNotEmpty when it holds any. The uploads that clients began end
// with it, as on S3: who lists the bucket sees nothing of them. A file that a mount is writing keeps its bucket.
func (s *Store) DeleteBucket(ctx context.Context, name string) error {
	for {
		err := s.catalog.DeleteBucket(ctx, name)
		if !errors.Is(err, metadata.ErrBucketNotEmpty) {
			return err
		}
		if ended, abortErr := s.endUploads(ctx, name); abortErr != nil || !ended {
			return cmp.Or(abortErr, err)
		}
	}
}

// SetVersioning changes a bucket's versioning.
func (s *Store) SetVersioning(ctx context.Context, name string, v metadata.Versioning) error {
	return s.catalog.SetVersioning(ctx, name, v)
}

// Usage returns the exact content of a bucket in numbers.
func (s *Store) Usage(ctx context.Context, bucket metadata.BucketID) (metadata.Usage, error) {
	return s.catalog.Usage(ctx, bucket)
}

// Delete removes a version or writes a delete marker. What it frees is deleted after the time that readers get.
func (s *Store) Delete(ctx context.Context, d metadata.Delete) (metadata.Deleted, error) {
	return s.catalog.Delete(ctx, d)
}

// List returns one page of current objects.
func (s *Store) List(ctx context.Context, l metadata.List) (metadata.Page, error) {
	return s.catalog.List(ctx, l)
}

// ListVersions returns one page of all versions.
func (s *Store) ListVersions(ctx context.Context, l metadata.ListVersions) (metadata.VersionsPage, error) {
	return s.catalog.ListVersions(ctx, l)
}

// HasPrefix tells whether any current key starts with prefix.
func (s *Store) HasPrefix(ctx context.Context, bucket metadata.BucketID, prefix string) (bool, error) {
	return s.catalog.HasPrefix(ctx, bucket, prefix)
}

// SetTags replaces the tags of a version in place and returns it.
func (s *Store) SetTags(ctx context.Context, bucket metadata.BucketID, key string, at At, tags map[string]string) (metadata.Version, error) {
	return s.catalog.SetTags(ctx, bucket, key, at.Version, at.Null, tags)
}

// SetFile replaces the mount's attributes and the user metadata of a version in place, ErrConflict when it is not the
// current one.
func (s *Store) SetFile(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID, attr metadata.Attr, user map[string]string, op metadata.Op) (metadata.Version, error) {
	return s.catalog.SetFile(ctx, bucket, key, id, attr, user, op)
}

// Current returns the record of the current version of a key; its bytes are for Open.
func (s *Store) Current(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Version, error) {
	return s.catalog.Current(ctx, bucket, key)
}

// Version returns the record of one version.
func (s *Store) Version(ctx context.Context, bucket metadata.BucketID, key string, id metadata.VersionID) (metadata.Version, error) {
	return s.catalog.Version(ctx, bucket, key, id, false)
}

// Rename moves the current version of a key; no byte moves.
func (s *Store) Rename(ctx context.Context, r metadata.Rename) (metadata.Version, error) {
	return s.catalog.Rename(ctx, r)
}

// RenamePrefix moves every key below from to the same name below to; no byte moves.
func (s *Store) RenamePrefix(ctx context.Context, bucket metadata.BucketID, from, to string) error {
	return s.catalog.RenamePrefix(ctx, bucket, from, to)
}

// OpenSession makes a session of a mount with a lease. Its internal uploads and stages end with it: stages are
// published, uploads aborted.
func (s *Store) OpenSession(ctx context.Context, lease time.Duration) (uint64, error) {
	return s.catalog.OpenSession(ctx, lease)
}

// TakeSession is OpenSession for an owner with a name, which finds its session again after this process was restarted.
func (s *Store) TakeSession(ctx context.Context, name string, lease time.Duration) (uint64, error) {
	return s.catalog.TakeSession(ctx, name, lease)
}

// RenewSession begins a session's lease anew; metadata.ErrSessionFenced when it is over.
func (s *Store) RenewSession(ctx context.Context, id uint64) error {
	return s.catalog.RenewSession(ctx, id)
}

// CloseSession ends a session at once.
func (s *Store) CloseSession(ctx context.Context, id uint64) error {
	return s.catalog.CloseSession(ctx, id)
}

// Staged lists the files that were made durable without being published.
func (s *Store) Staged(ctx context.Context) ([]metadata.Stage, error) {
	return s.catalog.Staged(ctx)
}
