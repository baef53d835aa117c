package metadata

import (
	"context"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
)

// Names is the name space as every gateway sees it, wherever the leader of the tablet is: a Catalog on the leader's
// peer, a client of that peer, or a router that finds it. The methods mean what they mean on Catalog, and their errors
// match the same sentinels. All may be called concurrently.
//
// Between peers an answer can be lost: a write then fails with ErrUnavailable that wraps raft.ErrUnknownOutcome, and may
// be repeated with the same Op, which comes with its arguments or by WithOp.
type Names interface {
	BucketNames
	ObjectNames
	UploadNames
	SessionNames
	RowNames
}

// BucketNames are the buckets.
type BucketNames interface {
	CreateBucket(ctx context.Context, name, owner string) (Bucket, error)
	Bucket(ctx context.Context, name string) (Bucket, error)
	Buckets(ctx context.Context) ([]Bucket, error)
	SetVersioning(ctx context.Context, name string, v Versioning) error
	DeleteBucket(ctx context.Context, name string) error
	Usage(ctx context.Context, bucket BucketID) (Usage, error)
}

// ObjectNames are the objects and their versions.
type ObjectNames interface {
	Put(ctx context.Context, p Put) (Version, error)
	Current(ctx context.Context, bucket BucketID, key string) (Version, error)
	Version(ctx context.Context, bucket BucketID, key string, id VersionID, null bool) (Version, error)
	Look(ctx context.Context, bucket BucketID, key string) (Looked, error)
	HasPrefix(ctx context.Context, bucket BucketID, prefix string) (bool, error)
	List(ctx context.Context, l List) (Page, error)
	ListVersions(ctx context.Context, l ListVersions) (VersionsPage, error)
	Delete(ctx context.Context, d Delete) (Deleted, error)
	Rename(ctx context.Context, r Rename) (Version, error)
	RenamePrefix(ctx context.Context, bucket BucketID, from, to string) error
	SetAttr(ctx context.Context, bucket BucketID, key string, id VersionID, attr Attr, op Op) (Version, error)
	SetFile(ctx context.Context, bucket BucketID, key string, id VersionID, attr Attr, meta map[string]string, op Op) (Version, error)
	SetTags(ctx context.Context, bucket BucketID, key string, id *VersionID, null bool, tags map[string]string) (Version, error)
	Lend(ctx context.Context, bucket BucketID, key string, id VersionID) error
}

// UploadNames are the multipart uploads.
type UploadNames interface {
	CreateUpload(ctx context.Context, bucket BucketID, u Upload, op Op) (Upload, error)
	Upload(ctx context.Context, bucket BucketID, key string, id UploadID) (Upload, error)
	PutPart(ctx context.Context, bucket BucketID, key string, id UploadID, p Part, intents []Row, op Op) (Part, error)
	Parts(ctx context.Context, bucket BucketID, key string, id UploadID, after, max int) ([]Part, error)
	Uploads(ctx context.Context, l ListUploads) (UploadsPage, error)
	Complete(ctx context.Context, p Complete) (Version, error)
	Abort(ctx context.Context, bucket BucketID, key string, id UploadID, op Op) error
}

// SessionNames are the sessions and what ends with them.
type SessionNames interface {
	OpenSession(ctx context.Context, lease time.Duration) (uint64, error)
	TakeSession(ctx context.Context, name string, lease time.Duration) (uint64, error)
	RenewSession(ctx context.Context, id uint64) error
	CloseSession(ctx context.Context, id uint64) error
	Stage(ctx context.Context, s Stage) error
	Discard(ctx context.Context, k StageKey) error
	Staged(ctx context.Context) ([]Stage, error)
	Hold(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error
	Release(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error
}

// RowNames are the opaque rows, the freed chunks, and the look at everything.
type RowNames interface {
	LeaseBlock(ctx context.Context) (uint64, error)
	Row(ctx context.Context, key []byte) (Row, error)
	PutRow(ctx context.Context, row Row) (Row, error)
	DeleteRow(ctx context.Context, key []byte) error
	Rows(ctx context.Context, prefix, after []byte, max int) ([]Row, error)
	Freed(ctx context.Context, after []byte, max int, now time.Time) ([]Freed, error)
	DropFreed(ctx context.Context, rows [][]byte) error
	Survey(ctx context.Context, fn func(Surveyed) error) error
	Counts(ctx context.Context) (Counts, error)
}

var _ Names = (*Catalog)(nil)

// LeaderHint is what an error that wraps raft.ErrNotLeader may know beside it.
type LeaderHint interface {
	// Leader is the peer that led when the error was made; zero when that was not known.
	Leader() cluster.PeerID
}

// NotLeader refuses a call on a peer that does not lead: nothing was done. It matches ErrUnavailable and
// raft.ErrNotLeader, and is a LeaderHint.
type NotLeader struct {
	// Peer leads instead; zero when that is not known.
	Peer cluster.PeerID
}

// Error implements error.
func (e NotLeader) Error() string {
	if e.Peer == (cluster.PeerID{}) {
		return "this peer does not lead the names, and knows no leader"
	}
	return "this peer does not lead the names: peer " + e.Peer.String() + " does"
}

// Unwrap gives what the error matches.
func (e NotLeader) Unwrap() []error { return []error{ErrUnavailable, raft.ErrNotLeader} }

// Leader implements LeaderHint.
func (e NotLeader) Leader() cluster.PeerID { return e.Peer }
