// Package multipart is the object path: it puts bytes (package chunkstore) and names (package metadata) together.
// A plain PUT is an upload of one part, a copy is parts by reference, a file write-back is parts too: one code path.
//
// Bytes before names on the way in, names before bytes on the way out: a crash leaves either shards that no version
// names, or an object that exists.
package multipart

import (
	"context"
	"io"
	"maps"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// Limits of S3, in bytes where they are sizes.
const (
	MaxKey        = 1024
	MaxObject     = 5 << 40
	MaxPart       = 5 << 30
	MinPart       = 5 << 20
	MaxParts      = 10_000
	MaxUserMeta   = 2 << 10
	DefaultInline = 16 << 10 // bodies up to this stand inline in the metadata record
)

// Meta is what a client says of an object beside its bytes; it goes into the version as it is.
type Meta struct {
	Headers  map[string]string // see metadata.Version.Headers
	User     map[string]string // see metadata.Version.Meta
	Tags     map[string]string
	Attr     *metadata.Attr
	Modified time.Time // zero: now
	Owner    string
}

// Body is an incoming stream. Reader must return io.EOF only after everything that its face promised to verify
// (length, signatures, digests) was verified; any other error makes the whole write invisible.
type Body struct {
	Reader io.Reader
	Size   int64 // -1 when unknown
	// Seal is called once after Reader returned io.EOF and before the commit, with the MD5 of the body. It returns the
	// checksums to store, or an error that makes the write invisible (a digest that does not match). May be nil.
	Seal func(md5 [16]byte) (checksums map[string]string, err error)
}

// Put is a whole object.
type Put struct {
	Bucket metadata.BucketID
	Key    string
	Meta   Meta
	Body   Body
	If     metadata.If
	Op     metadata.Op
	// Unstage, when its Inode is not zero, drops that stage row in the same commit (the file was published).
	Unstage metadata.StageKey
}

// At says which version of a key is meant; the zero At is the current one. It is the one way all faces name versions.
type At struct {
	Version *metadata.VersionID // that version; ErrNoSuchVersion when there is none
	Null    bool                // the version S3 calls "null"; then Version is nil
}

// Object is one version that was opened for reading. It stays readable until Close, even when it is replaced or
// deleted meanwhile. Opening reads no byte, so HEAD opens too. All methods may be called concurrently, except Close.
//
// Store.Open never gives a delete marker: with the zero At it fails with an error that wraps both ErrNoSuchKey and
// ErrDeleteMarker, with a version that is a marker it fails with ErrDeleteMarker alone. Both are a MarkerError.
type Object interface {
	// Version is the whole record, with Latest set; Inline, Manifest and Parts are not for the caller.
	Version() metadata.Version
	// Read streams a span, which must lie inside the object (Len < 0: to the end). An error of the bytes comes from
	// the reader, never as an early io.EOF. Closing the reader early stops the reading ahead.
	Read(ctx context.Context, span Span) io.ReadCloser
	// PartSpan returns the span of part n, 1-based by position in the object, and the number of parts. An object
	// that was not uploaded in parts has one, and count 0. ErrInvalidPart when there is no such part.
	PartSpan(ctx context.Context, n int) (span Span, count int, err error)
	// Parts lists up to max parts with positions above after, Number being the position. It is empty for an object
	// that was not uploaded in parts.
	Parts(ctx context.Context, after, max int) ([]metadata.Part, error)
	// Close ends the hold on the version. Readers still open fail afterwards.
	Close() error
}

// MarkerError says which delete marker a read met.
type MarkerError struct {
	Marker metadata.Version
	Err    error // wraps ErrDeleteMarker
}

func (e *MarkerError) Error() string { return e.Err.Error() }
func (e *MarkerError) Unwrap() error { return e.Err }

// CreateUpload starts an upload of parts.
type CreateUpload struct {
	Bucket metadata.BucketID
	Key    string
	Meta   Meta
	// ChecksumAlgorithm and ChecksumType are what the client declared ("CRC32", "COMPOSITE"), "" when it did not.
	ChecksumAlgorithm string
	ChecksumType      string
	// Internal uploads belong to a mount: parts may have any size, the upload is not listed, and it is aborted when
	// Op.Session ends.
	Internal bool
	Op       metadata.Op
}

// PutPart is one part of an upload; the same number again replaces it.
type PutPart struct {
	Bucket metadata.BucketID
	Key    string
	Upload metadata.UploadID
	Number int // 1..MaxParts
	Body   Body
	Op     metadata.Op
}

// CopyPart is a part made from a span of an existing version, by reference.
type CopyPart struct {
	Bucket metadata.BucketID
	Key    string
	Upload metadata.UploadID
	Number int // 1..MaxParts
	Source Source
	Op     metadata.Op
}

// Source is a span of an existing version, for copies by reference.
type Source struct {
	Bucket  metadata.BucketID
	Key     string
	Version *metadata.VersionID // nil: the current one
	Null    bool
	Span    *Span // nil: all of it
	// Check sees the source version before anything is done with it (x-amz-copy-source-if-*). May be nil.
	Check func(metadata.Version) error
}

// Copy makes an object from an existing version without moving a byte.
type Copy struct {
	Source Source
	Bucket metadata.BucketID
	Key    string
	// ReplaceMeta and ReplaceTags take Meta's; otherwise the source's are kept.
	ReplaceMeta, ReplaceTags bool
	Meta                     Meta
	// OwnHeaders names headers of Meta that are the copy's own: the source's are not kept even where its metadata is.
	OwnHeaders []string
	If         metadata.If
	Op         metadata.Op
}

// HeadersOver gives the headers of a copy that keeps its source's: all but its own, which it brings along.
func (c *Copy) HeadersOver(source map[string]string) map[string]string {
	if len(c.OwnHeaders) == 0 {
		return source
	}
	headers := map[string]string{}
	maps.Copy(headers, source)
	for _, name := range c.OwnHeaders {
		delete(headers, name)
		if value, there := c.Meta.Headers[name]; there {
			headers[name] = value
		}
	}
	return headers
}

// Span is a byte range of an object. Len < 0 means to the end.
type Span struct {
	Off, Len int64
}

// Piece is one run of bytes of a composed file, for the mount: either a span of the base version or the whole of a
// part that was uploaded before. Pieces follow each other without gaps; a Hole reads as zeros.
type Piece struct {
	Part int   // > 0: the span Off..Off+Len of that part of the upload
	Base bool  // the span of the base version
	Hole bool  // zeros
	Off  int64 // inside the part or the base version
	Len  int64
}

// Compose publishes a file: the pieces in order are its bytes. With a base in an unversioned bucket, what is not kept
// of it is freed in the same commit. ETag is md5(piece etags)-N.
type Compose struct {
	Bucket metadata.BucketID
	Key    string
	Upload metadata.UploadID // zero when no piece is a part
	// UploadKey is the key under which the upload began, "" when it is Key: an open file may have been renamed since.
	UploadKey string
	Pieces    []Piece
	Meta      Meta
	// If.Base is the base version that pieces with Base refer to.
	If metadata.If
	Op metadata.Op
	// Unstage, when its Inode is not zero, drops that stage row in the same commit (the file was published).
	Unstage metadata.StageKey
}
