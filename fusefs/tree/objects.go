package tree

import (
	"context"
	"io"
	"time"
)

// Version is the opaque id of an object version; "" means none.
type Version string

// Attr is what the mount keeps of a file on the object itself.
type Attr struct {
	Mode     uint32 // with the file type bits (S_IFMT); 0 when the object was never touched by a mount
	UID, GID uint32
	Mtime    time.Time
	Atime    time.Time
	Ctime    time.Time
	Rdev     uint32
	Target   string            // of a symlink
	Xattrs   map[string][]byte // user.* xattrs by full name; user.NAME that fit a header are x-amz-meta-NAME on S3
	Inode    uint64
}

// Info describes the current version of one key.
type Info struct {
	Key     string
	Version Version
	Size    int64
	ETag    string
	Attr    Attr // Mtime is the object's Last-Modified where Mode is 0
}

// Listing is one page of keys below a prefix with delimiter "/".
type Listing struct {
	Entries   []Info
	Prefixes  []string // each ends with "/"
	Next      string
	Truncated bool
}

// Cond is when a write may happen; the zero Cond always. Otherwise ErrExists or ErrConflict.
type Cond struct {
	Absent bool    // the key must have no current version
	Base   Version // the current version must be this one
}

// Upload names bytes on their way into one file.
type Upload string

// Piece is one run of bytes of a file to publish; exactly one of Part > 0, Base, Hole.
type Piece struct {
	Part int
	Base bool
	Hole bool
	Off  int64 // inside the part or the base version
	Len  int64
}

// File is the new content of a key: the pieces in order, or Data when it is small (Pieces nil).
type File struct {
	Key    string
	Upload Upload
	Pieces []Piece
	Data   []byte
	Attr   Attr
	Cond   Cond
	Inode  uint64 // of the stage row
}

// Objects is a bucket as the tree sees it. Three implementations pass package treetest: the object path in the same
// process, an HTTP client of any gateway (package remote), and the model. Keys are whole object keys inside the bucket
// (or below the mounted prefix). Every write is applied exactly once, and is durable when it returns nil. Errors are
// the sentinels of this package, context errors, or wrap ErrIO. ErrUnavailable leaves open whether a write was applied;
// repeated with the same Op it is not applied twice.
type Objects interface {
	// Stat returns the current version of key, ErrNotExist when there is none.
	Stat(ctx context.Context, key string) (Info, error)
	// List returns one page of up to max entries and prefixes below prefix, in byte order. After and Listing.Next are
	// whole keys (or whole prefixes, with their "/"): the page starts behind that name. The marker of the listed
	// directory itself (the key equal to prefix) is an entry like any other.
	List(ctx context.Context, prefix, after string, max int) (Listing, error)
	// Exists tells whether any key starts with prefix (a directory without a marker).
	Exists(ctx context.Context, prefix string) (bool, error)
	// Open opens one version for reading; it stays readable until Close, even when it is replaced or deleted meanwhile.
	Open(ctx context.Context, key string, version Version) (Reader, error)

	// Begin starts bytes for a file; Part stores part n of it (1..10,000, any size, any order, in parallel, again
	// replaces); Abort gives back what no version and no stage uses. Begin, Part, ReadPart and Abort take the key the
	// upload was begun with; Stage and Publish may name another one, because a file can be renamed while it is open.
	Begin(ctx context.Context, key string) (Upload, error)
	Part(ctx context.Context, key string, up Upload, n int, body io.ReadSeeker, size int64) error
	Abort(ctx context.Context, key string, up Upload) error
	// ReadPart reads bytes of a stored part before it is published, for a program that reads back what it writes. It
	// fills p or returns io.EOF with what there is.
	ReadPart(ctx context.Context, key string, up Upload, n int, p []byte, off int64) (int, error)
	// Stage makes f durable without publishing it (fsync): after it returns, the content survives the death of
	// everything, and is published when this mount's session ends without a Publish or a Discard. An inode has one
	// stage: another one replaces it, also under another key, and Publish and Discard end it whatever its key.
	Stage(ctx context.Context, f File) error
	// Discard forgets the stage of an inode.
	Discard(ctx context.Context, key string, inode uint64) error
	// Publish makes f the current version of its key and forgets the stage of its inode. The upload stays usable for
	// pieces of later publishes of the same open file until Abort.
	Publish(ctx context.Context, f File) (Info, error)

	// SetAttr changes attributes of the current version in place, if it is still version; else ErrConflict.
	SetAttr(ctx context.Context, key string, version Version, attr Attr) (Info, error)
	// Rename moves one key: ErrNotExist, or ErrExists with noReplace. The moved object keeps content and attributes; if a
	// mount set those, its Ctime is now.
	Rename(ctx context.Context, from, to string, noReplace bool) (Info, error)
	// RenamePrefix moves every key below from (which ends with "/") to the same name below to: all of them or, after a
	// crash, the rest of them later; no key is ever under both names or neither. ErrDirNotEmpty when to holds keys
	// other than its marker.
	RenamePrefix(ctx context.Context, from, to string) error
	// Remove deletes the current version of key; with empty, only if no other key starts with it (rmdir), else
	// ErrDirNotEmpty.
	Remove(ctx context.Context, key string, empty bool) error
	// Space is what df shows, in bytes.
	Space(ctx context.Context) (Space, error)
}

// Reader reads one version.
type Reader interface {
	io.ReaderAt
	io.Closer
	Info() Info
}

// Space is the capacity of the store for new data, redundancy already taken off.
type Space struct {
	Total, Free int64
	Objects     int64
}

// Found is what one name in a directory may stand for: an object, a directory, both or neither.
type Found struct {
	File   *Info // the object with exactly this key
	Dir    bool  // keys start with key + "/"
	Marker *Info // the object key + "/", when there is one
}

// Looker is implemented by Objects that answer a whole path lookup in one round trip; the tree asks the others three
// questions at once.
type Looker interface {
	Look(ctx context.Context, key string) (Found, error)
}

// Op numbers one change that a mount asks for, so that a repeated request is applied once: the session is the one the
// Objects were opened with, Seq counts its changes from 1.
type Op struct{ Seq uint64 }

type opKey struct{}

// WithOp puts the number of a change into ctx. The mount service does, for the Objects behind it.
func WithOp(ctx context.Context, op Op) context.Context { return context.WithValue(ctx, opKey{}, op) }

// OpFrom is the number of the change that ctx belongs to; false when its caller does not repeat requests.
func OpFrom(ctx context.Context) (Op, bool) {
	op, ok := ctx.Value(opKey{}).(Op)
	return op, ok
}

// Ender is implemented by Objects that hold something for the session they were opened for: EndSession publishes or
// keeps its stages and gives everything back. The mount service calls it when the mount says goodbye, or its lease ends.
type Ender interface {
	EndSession(ctx context.Context) error
}
