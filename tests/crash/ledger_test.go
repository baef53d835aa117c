package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// gateway is whatever serves S3: the running binary, or a peer in this process.
type gateway interface {
	S3(change ...func(*s3.Options)) *s3.Client
}

// ledger remembers what the server acknowledged. A body follows from its key alone, so that the ledger stays small.
type ledger struct {
	t      *testing.T
	bucket string
	body   func(key string) []byte // the content of a key

	mu      sync.Mutex
	acked   map[string]bool // true: must be readable and whole
	unknown map[string]bool // true: whole or absent
	deleted map[string]bool // acknowledged deletes: must be absent
	next    int
}

func newLedger(t *testing.T, bucket string) *ledger {
	return &ledger{t: t, bucket: bucket, body: body, acked: map[string]bool{}, unknown: map[string]bool{}, deleted: map[string]bool{}}
}

// body is the content of a key: sizes around every boundary, from nothing to several chunks.
func body(key string) []byte {
	return bodyOf(key, 0, 1, 100, 4096, 16<<10, 16<<10+1, 70_000, 512<<10, 600_000, 3<<20, 9<<20)
}

// smallBody is body for tests that want many writes: inline, one row, and now and then two.
func smallBody(key string) []byte {
	return bodyOf(key, 0, 1, 100, 4096, 16<<10, 16<<10, 16<<10+1, 40_000, 70_000, 100, 3000, 530_000)
}

// bodyOf is random bytes of one of the sizes, both drawn from the key.
func bodyOf(key string, sizes ...int) []byte {
	var seed [32]byte
	copy(seed[:], key)
	source := rand.NewChaCha8(seed)
	size := sizes[source.Uint64()%uint64(len(sizes))]
	p := make([]byte, size)
	if _, err := source.Read(p); err != nil {
		panic(err) // a ChaCha8 never fails
	}
	return p
}

// load writes, reads and deletes until ctx ends; every acknowledged change stands in the ledger. It returns the number
// of acknowledged writes.
func (l *ledger) load(ctx context.Context, s gateway, writers int) (acked int64) {
	var count atomic.Int64
	var done sync.WaitGroup
	for w := range writers {
		client := s.S3(func(o *s3.Options) { o.RetryMaxAttempts = 1 })
		done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if l.write(ctx, client, i%7 == 6) {
					count.Add(1)
				}
				if i%5 == 4 && w == 0 {
					l.deleteOne(ctx, client)
				}
			}
		})
	}
	done.Wait()
	return count.Load()
}

// write puts one object, sometimes as a multipart upload, and notes what is known of it.
func (l *ledger) write(ctx context.Context, client *s3.Client, parts bool) bool {
	l.mu.Lock()
	key := fmt.Sprintf("k%06d", l.next)
	l.next++
	l.unknown[key] = true
	l.mu.Unlock()
	content, err := l.body(key), error(nil)
	if parts {
		err = l.multipart(ctx, client, key, content)
	} else {
		_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: &l.bucket, Key: &key, Body: bytes.NewReader(content)})
	}
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unknown, key)
	l.acked[key] = true
	return true
}

func (l *ledger) multipart(ctx context.Context, client *s3.Client, key string, content []byte) error {
	upload, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &l.bucket, Key: &key})
	if err != nil {
		return err
	}
	var parts []types.CompletedPart
	for n := int32(1); len(content) > 0 || n == 1; n++ {
		size := min(len(content), 5<<20)
		part, err := client.UploadPart(ctx, &s3.UploadPartInput{Bucket: &l.bucket, Key: &key, UploadId: upload.UploadId, PartNumber: aws.Int32(n), Body: bytes.NewReader(content[:size])})
		if err != nil {
			return err
		}
		parts, content = append(parts, types.CompletedPart{ETag: part.ETag, PartNumber: aws.Int32(n)}), content[size:]
	}
	_, err = client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &l.bucket, Key: &key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
	return err
}

// deleteOne deletes an acknowledged object.
func (l *ledger) deleteOne(ctx context.Context, client *s3.Client) {
	l.mu.Lock()
	var key string
	for key = range l.acked {
		break
	}
	if key == "" {
		l.mu.Unlock()
		return
	}
	delete(l.acked, key)
	l.unknown[key] = true
	l.mu.Unlock()
	if _, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &l.bucket, Key: &key}); err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unknown, key)
	l.deleted[key] = true
}

// keys returns the acknowledged keys.
func (l *ledger) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]string, 0, len(l.acked))
	for key := range l.acked {
		keys = append(keys, key)
	}
	return keys
}

// audit reads everything back: acknowledged objects are bit-exact, deleted ones are absent, the rest is whole or absent.
func (l *ledger) audit(s gateway) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	client := s.S3()
	l.mu.Lock()
	defer l.mu.Unlock()
	type check struct {
		key          string
		must, mayNot bool
	}
	work := make(chan check)
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for c := range work {
				content, err := get(ctx, client, l.bucket, c.key)
				var absent *types.NoSuchKey
				switch {
				case err == nil && c.mayNot:
					l.t.Errorf("%s was deleted and is back", c.key)
				case err == nil && !bytes.Equal(content, l.body(c.key)):
					l.t.Errorf("%s has %d wrong bytes", c.key, len(content))
				case err != nil && errors.As(err, &absent) && c.must:
					l.t.Errorf("%s was acknowledged and is lost", c.key)
				case err != nil && !errors.As(err, &absent):
					l.t.Errorf("%s: %v", c.key, err)
				}
			}
		})
	}
	for key := range l.acked {
		work <- check{key: key, must: true}
	}
	for key := range l.unknown {
		work <- check{key: key}
	}
	for key := range l.deleted {
		work <- check{key: key, mayNot: true}
	}
	close(work)
	done.Wait()
}

func get(ctx context.Context, client *s3.Client, bucket, key string) ([]byte, error) {
	object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(object.Body)
	if closeErr := object.Body.Close(); err == nil {
		err = closeErr
	}
	return content, err
}
