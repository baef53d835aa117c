package s3

import "time"

// Limits of what a client may send; each is S3's unless the comment says otherwise.
const (
	maxUserMeta     = 2 << 10 // bytes of names without their prefix, and values
	maxTags         = 10
	maxTagKey       = 128 // characters
	maxTagValue     = 256 // characters
	maxPage         = 1000
	maxDeletes      = 1000
	maxHeaders      = 128      // header lines of a request; ours: no client sends 50
	maxHeaderBytes  = 16 << 10 // of the whole header; S3 allows 8 KiB of headers beside the request line
	maxCopySource   = 6 << 10  // bytes of x-amz-copy-source: bucket, 1,024 escaped bytes of key, version
	maxSystemHeader = 1 << 10  // bytes of one kept system header; ours
)

// Times that keep one client from holding others up.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 60 * time.Second
	// stallTimeout is how long one piece of a body (at most pieceSize) may take in either direction.
	stallTimeout = 30 * time.Second
	pieceSize    = 128 << 10
	// keepAlive is the pause between the spaces that a long CompleteMultipartUpload sends, as S3 does.
	keepAlive = 10 * time.Second
	// retryAfter is what a client is asked to wait after SlowDown, in seconds.
	retryAfter = "1"
)
