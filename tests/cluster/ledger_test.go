package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast/holdfast/tests/testkit"
)

// value is what a key holds. The zero value says that there is no such object.
type value struct {
	there bool
	size  int
	sum   [sha256.Size]byte
}

func valueOf(body []byte) value { return value{true, len(body), sha256.Sum256(body)} }

func (v value) String() string {
	if !v.there {
		return "nothing"
	}
	return fmt.Sprintf("%d bytes %s", v.size, hex.EncodeToString(v.sum[:4]))
}

// entry is what is known of a key: the last acknowledged value, and the ones of changes after it of which nobody knows.
type entry struct {
	may []value
	// closed says that some attempt to change the key got no answer. It may still be under way, so that nothing could be
	// told about the key if it were changed again; it never is.
	closed bool
}

// ledger remembers every acknowledged write of a bucket, with its digest, and when it was acknowledged.
type ledger struct {
	bucket string

	mu   sync.Mutex
	keys map[string]*entry
	acks []time.Time
}

func newLedger(bucket string) *ledger { return &ledger{bucket: bucket, keys: make(map[string]*entry)} }

// begin notes that a change is on its way: the key may hold the new value or the old one.
func (l *ledger) begin(key string, v value) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keys[key]
	if e == nil {
		e = &entry{may: []value{{}}}
		l.keys[key] = e
	}
	e.may = append(e.may, v)
}

// end notes how the change went. clean says that every attempt was answered.
func (l *ledger) end(key string, v value, acked, clean bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keys[key]
	e.closed = e.closed || !clean
	if acked {
		e.may = []value{v}
		l.acks = append(l.acks, time.Now())
	}
}

// known returns what a key may hold, and whether it may be changed.
func (l *ledger) known(key string) (may []value, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keys[key]
	if e == nil {
		return []value{{}}, true
	}
	return slices.Clone(e.may), !e.closed
}

// acknowledged counts acknowledged writes.
func (l *ledger) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// gap is the longest time without an acknowledged write between two moments.
func (l *ledger) gap(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, at := range l.acks {
		if at.After(from) && at.Before(to) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return max(longest, to.Sub(last))
}

// withPrefix are the keys of the ledger that begin so, sorted.
func (l *ledger) withPrefix(prefix string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for key := range l.keys {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// compareListing says where a listing of a prefix contradicts the ledger. Nobody may be changing what is below it.
func (l *ledger) compareListing(prefix string, listed map[string]int64) error {
	var errs []error
	for _, key := range l.withPrefix(prefix) {
		may, _ := l.known(key)
		size, is := listed[key]
		if !slices.ContainsFunc(may, func(v value) bool { return v.there == is && int64(v.size) == size }) {
			errs = append(errs, fmt.Errorf("%s is listed: %v, with %d bytes; it may be %v", key, is, size, may))
		}
		delete(listed, key)
	}
	for key := range listed {
		errs = append(errs, fmt.Errorf("%s is listed and was never written", key))
	}
	return errors.Join(errs...)
}

// read gets an object, whole.
func read(ctx context.Context, client *s3.Client, bucket, key string) (value, error) {
	object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if isCode(err, "NoSuchKey") {
		return value{}, nil
	}
	if err != nil {
		return value{}, err
	}
	hash := sha256.New()
	n, err := io.Copy(hash, object.Body)
	if err = errors.Join(err, object.Body.Close()); err != nil {
		return value{}, err
	}
	return value{true, int(n), [sha256.Size]byte(hash.Sum(nil))}, nil
}

func isCode(err error, code string) bool {
	var answer smithy.APIError
	return errors.As(err, &answer) && answer.ErrorCode() == code
}

// list returns the sizes of all objects below a prefix.
func list(ctx context.Context, client *s3.Client, bucket, prefix string) (map[string]int64, error) {
	sizes := make(map[string]int64)
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix, MaxKeys: aws.Int32(200)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, object := range page.Contents {
			sizes[*object.Key] = *object.Size
		}
	}
	return sizes, nil
}

// check reads everything through every node that runs, also those that lost their own log, and lists it, and compares
// with the ledger. The load has ended.
func (l *ledger) check(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	keys := l.withPrefix("")
	if len(keys) == 0 {
		t.Fatal("the ledger is empty: there was no load")
	}
	var wait sync.WaitGroup
	for _, n := range c.Up() {
		wait.Go(func() {
			client := n.S3(func(o *s3.Options) { o.RetryMaxAttempts = 4 })
			if err := l.checkAt(ctx, client, keys); err != nil {
				t.Errorf("at %s: %v", n.Name, err)
			}
		})
	}
	wait.Wait()
}

// checkAt is check at one gateway.
func (l *ledger) checkAt(ctx context.Context, client *s3.Client, keys []string) error {
	const most = 10 // errors, so that a report can be read, and a gateway that is out of order does not take all the time
	var mu sync.Mutex
	var errs []error
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) >= most
	}
	work := make(chan string)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for key := range work {
				got, err := read(ctx, client, l.bucket, key)
				may, _ := l.known(key)
				if err == nil && !slices.Contains(may, got) {
					err = fmt.Errorf("it holds %v and may hold %v", got, may)
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s: %w", key, err))
					mu.Unlock()
				}
			}
		})
	}
	for _, key := range keys {
		if enough() {
			break
		}
		work <- key
	}
	close(work)
	readers.Wait()
	listed, err := list(ctx, client, l.bucket, "")
	if err == nil {
		err = l.compareListing("", listed)
	}
	return errors.Join(append(errs, err)...)
}

// bodyOf is random bytes that follow from the name of a write.
func bodyOf(name string, size int) []byte {
	body := make([]byte, size)
	seed := sha256.Sum256([]byte(name))
	if _, err := rand.NewChaCha8(seed).Read(body); err != nil {
		panic(err) // a ChaCha8 never fails
	}
	return body
}

// completed lists parts as CompleteMultipartUpload wants them.
func completed(etags []*string) *types.CompletedMultipartUpload {
	upload := new(types.CompletedMultipartUpload)
	for i, etag := range etags {
		upload.Parts = append(upload.Parts, types.CompletedPart{ETag: etag, PartNumber: aws.Int32(int32(i + 1))})
	}
	return upload
}
