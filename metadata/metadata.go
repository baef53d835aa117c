// Package metadata is the catalog of names: buckets, objects, versions, uploads. One flat, strongly consistent key
// space cut into tablets, each a range of keys replicated by one Raft group.
//
//	Catalog ─ bucket id + key ─ tablet ─ leader evaluates under the key's latch ─ effects ─ Raft ─ apply ─ answer
//
// A name here does not know its bytes: manifests, volume rows and repair intents are opaque bytes to this package,
// which never imports chunkstore.
package metadata

import (
	"errors"
	"time"
)

// Errors of this floor. Faces map them to S3 codes and errnos in one table each.
var (
	ErrNoSuchBucket     = errors.New("no such bucket")
	ErrBucketExists     = errors.New("bucket exists already")
	ErrBucketNotEmpty   = errors.New("bucket is not empty")
	ErrBadBucketName    = errors.New("bucket name is not valid")
	ErrNoSuchKey        = errors.New("no such key")
	ErrNoSuchVersion    = errors.New("no such version")
	ErrDeleteMarker     = errors.New("the version is a delete marker") // wrapped with ErrNoSuchKey when it is the newest
	ErrNoSuchUpload     = errors.New("no such upload")
	ErrPrecondition     = errors.New("precondition failed") // If.* not met
	ErrConflict         = errors.New("conflicting change")  // the base version was replaced meanwhile
	ErrExists           = errors.New("key exists already")  // RENAME_NOREPLACE
	ErrInvalidPart      = errors.New("part is missing or its etag differs")
	ErrInvalidPartOrder = errors.New("parts are not in ascending order")
	ErrPartTooSmall     = errors.New("a part but the last is under 5 MiB")
	ErrObjectTooLarge   = errors.New("object is larger than 5 TiB")
	ErrKeyLength        = errors.New("key is empty or longer than 1,024 bytes")
	ErrDirNotEmpty      = errors.New("prefix holds other keys")
	ErrBadToken         = errors.New("continuation token is not valid here")
	ErrTooLarge         = errors.New("command is larger than 4 MiB")
	ErrSessionFenced    = errors.New("session has expired")
	ErrUnavailable      = errors.New("names cannot be served now")
)

// MayFollow is the error of a write that was refused when an attempt before that one was lost: a refusal leaves no trace,
// so the lost attempt may yet come, find things changed, and be done.
type MayFollow struct{ Reason error }

// Error implements error.
func (e MayFollow) Error() string { return e.Reason.Error() + " (an attempt before that was lost)" }

// Unwrap returns why the last attempt was refused.
func (e MayFollow) Unwrap() error { return e.Reason }

// BucketID numbers a bucket for ever; a bucket made again under the same name has another id.
type BucketID uint64

// VersionID is the order of versions inside a tablet: the tablet's logical clock in the upper eight bytes, randomness
// in the lower four. The zero VersionID means "the current version" in requests. S3 sees String, or "null".
type VersionID struct {
	Clock  uint64
	Random uint32
}

// Op identifies a write for exactly-once application: Seq counts inside the session. The zero Op lets the Catalog use
// its own session.
type Op struct {
	Session uint64
	Seq     uint64
}

// Versioning is a bucket's versioning state.
type Versioning uint8

// The states of S3; a bucket that had versioning on can only be suspended.
const (
	Unversioned Versioning = iota
	VersioningEnabled
	VersioningSuspended
)

// Bucket is a bucket row.
type Bucket struct {
	ID         BucketID
	Name       string
	Created    time.Time
	Owner      string // access key of the maker
	Versioning Versioning
}

// Version is one version of an object, or a delete marker: everything that GET, HEAD, LIST and ls -l need in one
// record.
type Version struct {
	Key          string
	ID           VersionID
	Null         bool // the version S3 calls "null"
	DeleteMarker bool
	Latest       bool // set by reads: whether it is the current version
	Size         int64
	ETag         string // without quotes: hex MD5, or hex-N
	Modified     time.Time
	// Headers holds the S3 system headers that are kept, by canonical lower-case name: content-type, cache-control,
	// content-disposition, content-language, content-encoding, expires, x-amz-storage-class, x-amz-website-redirect-location.
	Headers map[string]string
	// Meta holds user metadata by full lower-case header name (x-amz-meta-a, x-csp-meta-b).
	Meta map[string]string
	Tags map[string]string
	// Checksums: algorithm ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256") to base64 value (value-N if composite).
	Checksums    map[string]string
	ChecksumType string // "FULL_OBJECT", "COMPOSITE" or "" when there is none
	Attr         *Attr  // of the mount; nil for objects that were never touched by one

	// Exactly one of the three says what the bytes are (none of them for Size 0 and delete markers).
	Inline   []byte // small bodies
	Manifest []byte // opaque, of package multipart
	// Parts is set where the bytes are the part rows of the upload PartsOf, which now belong to this version.
	Parts   []PartRun
	PartsOf UploadID
	// PartsKey is the key to ask Parts with: the key of the upload, which a renamed version keeps.
	PartsKey string
	// Shared is set once chunks of this version may be named by another one (copy by reference): only sweep frees them.
	Shared bool
}

// PartRun is Count parts with consecutive numbers from First, each of Size bytes: a run-length code, so that 10,000
// equal parts are one row.
type PartRun struct {
	First, Count int
	Size         int64
}

// Attr is what the mount keeps of a file, in the same record as the version.
type Attr struct {
	Mode     uint32 // with the file type bits (S_IFMT)
	UID, GID uint32
	Mtime    time.Time
	Atime    time.Time
	Ctime    time.Time
	Rdev     uint32
	Target   string            // of a symlink
	Xattrs   map[string][]byte // user.* that do not map to Meta, by full name
	Inode    uint64            // stable file number, 0 = derived from the key
}

// UploadID names a multipart upload, or the part rows of the version that it became.
type UploadID struct {
	Clock  uint64
	Random uint64
}

// Upload is an upload's header row: what Complete will put into the version.
type Upload struct {
	ID       UploadID
	Key      string
	Started  time.Time
	Owner    string
	Template Version // Headers, Meta, Tags, ChecksumType, Attr; the rest is empty
	// ChecksumAlgorithm is what the initiator declared, "" when none.
	ChecksumAlgorithm string
	// Internal uploads belong to a mount: parts may have any size and the upload is not listed.
	Internal bool
}

// Part is one part row.
type Part struct {
	Number   int // 1..10,000
	Size     int64
	ETag     string // hex MD5
	Modified time.Time
	// Checksums of the part, as in Version.
	Checksums map[string]string
	Manifest  []byte // opaque
	Inline    []byte
	Shared    bool // made by reference
	// Adopted says that a published version has taken over the chunks of Manifest, all but those that Rest names (a
	// manifest, opaque; empty: none). The part stays readable as it was, but replacing or aborting it frees Rest only.
	Adopted bool
	Rest    []byte
}

// Adopt makes a part of an upload under way Adopted, or changes the Rest of one that is.
type Adopt struct {
	Number int
	Rest   []byte
}

// StageKey names a stage row: what one open file of one session made durable without publishing it.
type StageKey struct {
	Session uint64
	Inode   uint64
}

// Stage is a stage row. Put is what publishing it will commit. A stage whose Put.Keeps is set holds its base: the freed
// row of If.Base is not returned by Freed while the stage lives, and if the stage is published beside a newer version,
// that row becomes Shared.
type Stage struct {
	StageKey
	Put Put
	// Own is a manifest (opaque) of the chunks that only this stage names. They are freed when the stage is discarded or
	// replaced, or when another Put drops it; they go to the version when the stage itself is published.
	Own []byte
}

// If holds the conditions of a write. The zero If asks nothing.
type If struct {
	Match     string // the current version's ETag must equal it ("*": any); ErrNoSuchKey when there is none
	NoneMatch string // "*": there must be no current version; an ETag: it must differ
	// Base, when not zero, must be the id of the current version, else ErrConflict. NoBase: there must be none.
	Base   VersionID
	NoBase bool
}

// Put commits a version as the current one of its key: the one commit point of every write.
type Put struct {
	Bucket  BucketID
	Version Version // ID, Null, Latest are assigned; Modified zero: now
	If      If
	Op      Op
	// Intents are repair intents of the chunks, opaque rows by key.
	Intents []Row
	// Keeps says that Version inherits chunks of If.Base and Dropped (a manifest, opaque) is all that it does not keep:
	// in an unversioned bucket exactly that is freed, in a versioned one both versions become Shared.
	Keeps   bool
	Dropped []byte
	// AdoptsOf is the upload whose parts Adopts names, under AdoptsKey ("": the version's own key; an open file may have
	// been renamed since its upload began). In the same commit each of them becomes Adopted with its new Rest; nothing
	// is freed by it. A part that is not there any more fails the Put with ErrInvalidPart.
	AdoptsOf  UploadID
	AdoptsKey string
	Adopts    []Adopt
	// Unstage, when its Inode is not zero, drops that stage row in the same commit and frees its Own.
	Unstage StageKey
}

// Delete removes the current version (or writes a delete marker, by the bucket's versioning), or one version.
type Delete struct {
	Bucket  BucketID
	Key     string
	Version *VersionID // nil: the current one
	Null    bool       // with Version: the null version
	If      If
	Op      Op
	// Empty asks, for a directory marker, that no other key has this prefix (rmdir): else ErrDirNotEmpty.
	Empty bool
}

// Deleted is what Delete did.
type Deleted struct {
	Version      VersionID // of the delete marker made or the version removed
	Null         bool
	DeleteMarker bool // a marker was made, or the version removed was one
	Found        bool // there was something to delete
}

// Rename moves the current version of From to To as one command (one new version of To). Without NoReplace an
// existing target is replaced atomically.
type Rename struct {
	Bucket    BucketID
	From, To  string
	NoReplace bool
	If        If // on From
	Op        Op
	// Attr, when not nil, replaces the moved version's attributes.
	Attr *Attr
}

// List asks for one page of current objects in byte order.
type List struct {
	Bucket    BucketID
	Prefix    string
	Delimiter string
	After     string // exclusive; a common prefix skips all keys below it
	Max       int    // 0: an empty page
}

// Page is one page of List. Versions carry everything but Inline, Manifest and Parts.
type Page struct {
	Versions  []Version
	Prefixes  []string
	Next      string // After of the next page
	Truncated bool
}

// ListVersions asks for one page of all versions, newest first within a key.
type ListVersions struct {
	Bucket       BucketID
	Prefix       string
	Delimiter    string
	AfterKey     string
	AfterVersion VersionID // with AfterKey: start behind this version
	AfterNull    bool
	Max          int
}

// VersionsPage is one page of ListVersions.
type VersionsPage struct {
	Versions    []Version
	Prefixes    []string
	NextKey     string
	NextVersion VersionID
	Truncated   bool
}

// ListUploads asks for one page of the uploads under way, by key, the oldest first within a key. Internal uploads are
// not listed.
type ListUploads struct {
	Bucket    BucketID
	Prefix    string
	Delimiter string
	AfterKey  string
	// AfterUpload, when not zero: start behind this upload of AfterKey; else behind all uploads of AfterKey. A common
	// prefix in AfterKey skips all keys below it.
	AfterUpload UploadID
	Max         int // 0: an empty page
}

// UploadsPage is one page of ListUploads.
type UploadsPage struct {
	Uploads    []Upload
	Prefixes   []string
	NextKey    string   // AfterKey of the next page
	NextUpload UploadID // AfterUpload of the next page; zero behind a common prefix
	Truncated  bool
}

// Complete turns an upload into the current version of its key: one commit that names the part rows, moves no byte
// and no row.
type Complete struct {
	Bucket BucketID
	Key    string
	Upload UploadID
	Parts  []CompletePart // ascending; nil entries are not allowed
	If     If
	Op     Op
	// Checksums to store with the version, already verified by the caller.
	Checksums    map[string]string
	ChecksumType string
	// MinPartSize of all parts but the last; zero means 5 MiB (S3), negative none (internal uploads).
	MinPartSize int64
	// Attr and Modified, when set, override the template's.
	Attr     *Attr
	Modified time.Time
}

// CompletePart is what the client says of a part. An empty ETag is not compared.
type CompletePart struct {
	Number    int
	ETag      string
	Checksums map[string]string
}

// Usage is the exact content of a bucket: current objects, and all versions and parts, in number and bytes.
type Usage struct {
	Objects, Bytes            int64 // current versions
	Versions, VersionBytes    int64 // noncurrent ones and delete markers
	Uploads, Parts, PartBytes int64 // uploads under way
}

// Freed is a row of chunks that a commit freed: delete them after NotBefore, then drop the row. Shared rows wait for
// sweep.
type Freed struct {
	Row       []byte // its key
	Bucket    BucketID
	NotBefore time.Time
	Manifest  []byte // opaque; or
	Parts     []Part // the part rows, when the version was an upload (paged: at most 256 a row)
	Shared    bool
}

// Row is one opaque row of the reserved key range: volume rows, repair intents.
type Row struct {
	Key   []byte
	Value []byte
	// Revision counts the writes of the row; PutRow compares it. Zero: the row must not exist.
	Revision uint64
}
