package remote

import (
	"context"

	"github.com/holdfast/holdfast/metadata"
)

// procedure is one method of metadata.Names on the wire: a question of type Q, an answer of type A.
type procedure[Q, A any] struct {
	name string
	// writes says that a lost answer leaves the outcome unknown.
	writes   bool
	question message[Q]
	answer   message[A]
	call     func(ctx context.Context, n metadata.Names, q *Q) (A, error)
}

// stream is a method whose answer is any number of items of type T.
type stream[Q, T any] struct {
	name     string
	question message[Q]
	item     message[T]
	call     func(ctx context.Context, n metadata.Names, q *Q, yield func(*T) error) error
}

func reads[Q, A any](name string, call func(ctx context.Context, n metadata.Names, q *Q) (A, error)) *procedure[Q, A] {
	return &procedure[Q, A]{name, false, messageOf[Q](), messageOf[A](), call}
}

func writes[Q, A any](name string, call func(ctx context.Context, n metadata.Names, q *Q) (A, error)) *procedure[Q, A] {
	return &procedure[Q, A]{name, true, messageOf[Q](), messageOf[A](), call}
}

// does is a write without an answer.
func does[Q any](name string, call func(ctx context.Context, n metadata.Names, q *Q) error) *procedure[Q, nothing] {
	return writes(name, func(ctx context.Context, n metadata.Names, q *Q) (nothing, error) { return nothing{}, call(ctx, n, q) })
}

// lists is a read whose answer is a slice: it goes item by item, so that no frame grows with the slice.
func lists[Q, T any](name string, call func(ctx context.Context, n metadata.Names, q *Q) ([]T, error)) *stream[Q, T] {
	return &stream[Q, T]{name, messageOf[Q](), messageOf[T](), func(ctx context.Context, n metadata.Names, q *Q, yield func(*T) error) error {
		items, err := call(ctx, n, q)
		for i := 0; err == nil && i < len(items); i++ {
			err = yield(&items[i])
		}
		return err
	}}
}

type names = metadata.Names

// Buckets.
var (
	createBucket = writes("create-bucket", func(ctx context.Context, n names, q *nameArgs) (metadata.Bucket, error) {
		return n.CreateBucket(ctx, q.Name, q.Owner)
	})
	bucketByName = reads("bucket", func(ctx context.Context, n names, q *nameArgs) (metadata.Bucket, error) {
		return n.Bucket(ctx, q.Name)
	})
	buckets = lists("buckets", func(ctx context.Context, n names, _ *nothing) ([]metadata.Bucket, error) {
		return n.Buckets(ctx)
	})
	setVersioning = does("set-versioning", func(ctx context.Context, n names, q *nameArgs) error {
		return n.SetVersioning(ctx, q.Name, q.Versioning)
	})
	deleteBucket = does("delete-bucket", func(ctx context.Context, n names, q *nameArgs) error {
		return n.DeleteBucket(ctx, q.Name)
	})
	usage = reads("usage", func(ctx context.Context, n names, q *keyArgs) (metadata.Usage, error) {
		return n.Usage(ctx, q.Bucket)
	})
)

// Objects.
var (
	put = writes("put", func(ctx context.Context, n names, q *metadata.Put) (metadata.Version, error) {
		return n.Put(ctx, *q)
	})
	current = reads("current", func(ctx context.Context, n names, q *keyArgs) (metadata.Version, error) {
		return n.Current(ctx, q.Bucket, q.Key)
	})
	version = reads("version", func(ctx context.Context, n names, q *versionArgs) (metadata.Version, error) {
		return n.Version(ctx, q.Bucket, q.Key, q.ID, q.Null)
	})
	look = reads("look", func(ctx context.Context, n names, q *keyArgs) (metadata.Looked, error) {
		return n.Look(ctx, q.Bucket, q.Key)
	})
	hasPrefix = reads("has-prefix", func(ctx context.Context, n names, q *keyArgs) (bool, error) {
		return n.HasPrefix(ctx, q.Bucket, q.Key)
	})
	list = reads("list", func(ctx context.Context, n names, q *metadata.List) (metadata.Page, error) {
		return n.List(ctx, *q)
	})
	listVersions = reads("list-versions", func(ctx context.Context, n names, q *metadata.ListVersions) (metadata.VersionsPage, error) {
		return n.ListVersions(ctx, *q)
	})
	remove = writes("delete", func(ctx context.Context, n names, q *metadata.Delete) (metadata.Deleted, error) {
		return n.Delete(ctx, *q)
	})
	rename = writes("rename", func(ctx context.Context, n names, q *metadata.Rename) (metadata.Version, error) {
		return n.Rename(ctx, *q)
	})
	renamePrefix = does("rename-prefix", func(ctx context.Context, n names, q *prefixArgs) error {
		return n.RenamePrefix(ctx, q.Bucket, q.From, q.To)
	})
	setAttr = writes("set-attr", func(ctx context.Context, n names, q *attrArgs) (metadata.Version, error) {
		return n.SetAttr(ctx, q.Bucket, q.Key, q.ID, q.Attr, q.Op)
	})
	setFile = writes("set-file", func(ctx context.Context, n names, q *attrArgs) (metadata.Version, error) {
		return n.SetFile(ctx, q.Bucket, q.Key, q.ID, q.Attr, q.Meta, q.Op)
	})
	setTags = writes("set-tags", func(ctx context.Context, n names, q *tagsArgs) (metadata.Version, error) {
		return n.SetTags(ctx, q.Bucket, q.Key, q.ID, q.Null, q.Tags)
	})
	lend = does("lend", func(ctx context.Context, n names, q *versionArgs) error {
		return n.Lend(ctx, q.Bucket, q.Key, q.ID)
	})
)

// Uploads.
var (
	createUpload = writes("create-upload", func(ctx context.Context, n names, q *newUploadArgs) (metadata.Upload, error) {
		return n.CreateUpload(ctx, q.Bucket, q.Upload, q.Op)
	})
	upload = reads("upload", func(ctx context.Context, n names, q *uploadArgs) (metadata.Upload, error) {
		return n.Upload(ctx, q.Bucket, q.Key, q.Upload)
	})
	putPart = writes("put-part", func(ctx context.Context, n names, q *partArgs) (metadata.Part, error) {
		return n.PutPart(ctx, q.Bucket, q.Key, q.Upload, q.Part, q.Intents, q.Op)
	})
	parts = lists("parts", func(ctx context.Context, n names, q *uploadArgs) ([]metadata.Part, error) {
		return n.Parts(ctx, q.Bucket, q.Key, q.Upload, q.After, q.Max)
	})
	uploads = reads("uploads", func(ctx context.Context, n names, q *metadata.ListUploads) (metadata.UploadsPage, error) {
		return n.Uploads(ctx, *q)
	})
	complete = writes("complete", func(ctx context.Context, n names, q *metadata.Complete) (metadata.Version, error) {
		return n.Complete(ctx, *q)
	})
	abort = does("abort", func(ctx context.Context, n names, q *uploadArgs) error {
		return n.Abort(ctx, q.Bucket, q.Key, q.Upload, q.Op)
	})
)

// Sessions.
var (
	openSession = writes("open-session", func(ctx context.Context, n names, q *sessionArgs) (uint64, error) {
		return n.OpenSession(ctx, q.Lease)
	})
	takeSession = writes("take-session", func(ctx context.Context, n names, q *sessionArgs) (uint64, error) {
		return n.TakeSession(ctx, q.Name, q.Lease)
	})
	renewSession = does("renew-session", func(ctx context.Context, n names, q *sessionArgs) error {
		return n.RenewSession(ctx, q.Session)
	})
	closeSession = does("close-session", func(ctx context.Context, n names, q *sessionArgs) error {
		return n.CloseSession(ctx, q.Session)
	})
	stage   = does("stage", func(ctx context.Context, n names, q *metadata.Stage) error { return n.Stage(ctx, *q) })
	discard = does("discard", func(ctx context.Context, n names, q *metadata.StageKey) error { return n.Discard(ctx, *q) })
	staged  = lists("staged", func(ctx context.Context, n names, _ *nothing) ([]metadata.Stage, error) {
		return n.Staged(ctx)
	})
	hold = does("hold", func(ctx context.Context, n names, q *holdArgs) error {
		return n.Hold(ctx, q.Session, q.Bucket, q.Key, q.ID)
	})
	release = does("release", func(ctx context.Context, n names, q *holdArgs) error {
		return n.Release(ctx, q.Session, q.Bucket, q.Key, q.ID)
	})
)

// Rows.
var (
	leaseBlock = writes("lease-block", func(ctx context.Context, n names, _ *nothing) (uint64, error) {
		return n.LeaseBlock(ctx)
	})
	row = reads("row", func(ctx context.Context, n names, q *metadata.Row) (metadata.Row, error) {
		return n.Row(ctx, q.Key)
	})
	putRow = writes("put-row", func(ctx context.Context, n names, q *metadata.Row) (metadata.Row, error) {
		return n.PutRow(ctx, *q)
	})
	deleteRow = does("delete-row", func(ctx context.Context, n names, q *metadata.Row) error { return n.DeleteRow(ctx, q.Key) })
	rows      = lists("rows", func(ctx context.Context, n names, q *rowsArgs) ([]metadata.Row, error) {
		return n.Rows(ctx, q.Prefix, q.After, q.Max)
	})
	freed = lists("freed", func(ctx context.Context, n names, q *freedArgs) ([]metadata.Freed, error) {
		return n.Freed(ctx, q.After, q.Max, q.Now)
	})
	dropFreed = does("drop-freed", func(ctx context.Context, n names, q *dropArgs) error { return n.DropFreed(ctx, q.Rows) })
	survey    = &stream[nothing, metadata.Surveyed]{
		"survey", messageOf[nothing](), messageOf[metadata.Surveyed](),
		func(ctx context.Context, n names, _ *nothing, yield func(*metadata.Surveyed) error) error {
			return n.Survey(ctx, func(s metadata.Surveyed) error { return yield(&s) })
		},
	}
	counts = reads("counts", func(ctx context.Context, n names, _ *nothing) (metadata.Counts, error) { return n.Counts(ctx) })
)

// served is a procedure as the handler knows it.
type served interface {
	// serve decodes the question, calls, and answers. An error says that the question is malformed: nothing was called.
	serve(ctx context.Context, n metadata.Names, question []byte, a *answering) error
	title() string
}

func (p *procedure[Q, A]) title() string { return p.name }
func (s *stream[Q, T]) title() string    { return s.name }

// procedures are all of them.
var procedures = []served{
	createBucket, bucketByName, buckets, setVersioning, deleteBucket, usage,
	put, current, version, look, hasPrefix, list, listVersions, remove, rename, renamePrefix, setAttr, setFile, setTags, lend,
	createUpload, upload, putPart, parts, uploads, complete, abort,
	openSession, takeSession, renewSession, closeSession, stage, discard, staged, hold, release,
	leaseBlock, row, putRow, deleteRow, rows, freed, dropFreed, survey, counts,
}
