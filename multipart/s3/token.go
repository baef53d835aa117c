package s3

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/holdfast/holdfast/metadata"
)

// tokenSum is the number of bytes of a token's digest.
const tokenSum = 12

// sealToken makes a continuation token: where the next page begins, bound to bucket, prefix and delimiter. It is not
// secret, and needs no key: who forges one gets what StartAfter gives anyone. But a token that was cut, changed, or
// taken to another listing is noticed instead of giving a listing with a hole.
func sealToken(bucket metadata.BucketID, prefix, delimiter, after string) string {
	sum := tokenDigest(bucket, prefix, delimiter, after)
	return base64.RawURLEncoding.EncodeToString(append(sum[:tokenSum:tokenSum], after...))
}

// openToken gives what sealToken sealed; the error wraps metadata.ErrBadToken.
func openToken(token string, bucket metadata.BucketID, prefix, delimiter string) (after string, err error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(data) < tokenSum {
		return "", fmt.Errorf("continuation token: %w", metadata.ErrBadToken)
	}
	after = string(data[tokenSum:])
	sum := tokenDigest(bucket, prefix, delimiter, after)
	if subtle.ConstantTimeCompare(sum[:tokenSum], data[:tokenSum]) != 1 {
		return "", fmt.Errorf("continuation token: %w", metadata.ErrBadToken)
	}
	return after, nil
}

func tokenDigest(bucket metadata.BucketID, prefix, delimiter, after string) [sha256.Size]byte {
	b := []byte("holdfast list token 1")
	b = binary.BigEndian.AppendUint64(b, uint64(bucket))
	for _, s := range []string{prefix, delimiter, after} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}
