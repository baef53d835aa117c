package multipart

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/minio/crc64nvme"

	"github.com/holdfast/holdfast/metadata"
)

// NewChecksum returns S3's checksum of that name (CRC32, CRC32C, CRC64NVME, SHA1, SHA256), nil when there is none.
func NewChecksum(algorithm string) hash.Hash {
	switch algorithm {
	case "CRC32":
		return crc32.NewIEEE()
	case "CRC32C":
		return crc32.New(castagnoli)
	case "CRC64NVME":
		return crc64nvme.New()
	case "SHA1":
		return sha1.New()
	case "SHA256":
		return sha256.New()
	}
	return nil
}

// checksum reads what was borrowed and returns its MD5 and the checksum that its upload declared.
func (s *Store) checksum(ctx context.Context, algorithm string, bucket metadata.BucketID, b *borrowed) (etag string, sums map[string]string, err error) {
	h := NewChecksum(algorithm)
	if h == nil {
		return "", nil, fmt.Errorf("checksum algorithm %q: %w", algorithm, metadata.ErrInvalidPart)
	}
	src, n, err := s.versionSource(bucket, &b.version, b.span)
	if err != nil {
		return "", nil, err
	}
	sum := md5.New()
	r := newReader(ctx, s, src, n, nil)
	_, err = io.Copy(io.MultiWriter(h, sum), r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), map[string]string{algorithm: base64.StdEncoding.EncodeToString(h.Sum(nil))}, nil
}
