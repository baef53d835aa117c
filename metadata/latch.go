package metadata

import (
	"context"
	"sync"
)

// latchSpan is an interval of latched names, start <= name < end. See keyLatch and its brothers for the names.
type latchSpan struct {
	start, end string
}

func (s latchSpan) overlaps(o latchSpan) bool { return s.start < o.end && o.start < s.end }

// latches makes writes that touch the same names take turns, first come first served: a write is evaluated and applied
// before the next one that overlaps is evaluated. Writes of other names are under way at the same time, and so share
// one append of the log. All spans of a write are asked for at once, so there is no deadlock.
type latches struct {
	mu sync.Mutex
	// queue holds the writes that have or wait for their spans, in order of arrival.
	queue []*latch
}

// latch is one write's place in the queue.
type latch struct {
	spans []latchSpan
	// ahead counts the earlier writes that overlap; at 0 ready is closed.
	ahead int
	ready chan struct{}
}

func (l *latch) overlaps(o *latch) bool {
	for _, a := range l.spans {
		for _, b := range o.spans {
			if a.overlaps(b) {
				return true
			}
		}
	}
	return false
}

// acquire waits until no earlier write overlaps the spans. After nil, release must be called once.
func (ls *latches) acquire(ctx context.Context, spans ...latchSpan) (*latch, error) {
	l := &latch{spans: spans, ready: make(chan struct{})}
	ls.mu.Lock()
	for _, earlier := range ls.queue {
		if earlier.overlaps(l) {
			l.ahead++
		}
	}
	ls.queue = append(ls.queue, l)
	if l.ahead == 0 {
		close(l.ready)
	}
	ls.mu.Unlock()
	select {
	case <-l.ready:
		return l, nil
	case <-ctx.Done():
		ls.release(l)
		return nil, ctx.Err()
	}
}

// release lets the later writes that waited for l go on.
func (ls *latches) release(l *latch) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	i := 0
	for ls.queue[i] != l {
		i++
	}
	ls.queue = append(ls.queue[:i], ls.queue[i+1:]...)
	for _, later := range ls.queue[i:] {
		if !later.overlaps(l) {
			continue
		}
		if later.ahead--; later.ahead == 0 {
			close(later.ready)
		}
	}
}

// The latched names: a bucket's configuration and keys, and beside them its parts, stand under its id; rows, stages
// and sessions have name spaces of their own.
const (
	latchObjects  = "b"
	latchParts    = "p"
	latchRows     = "r"
	latchStages   = "s"
	latchSessions = "z"
)

func bucketName(space string, bucket BucketID) string {
	var b [9]byte
	b[0] = space[0]
	for i := range 8 {
		b[1+i] = byte(bucket >> (56 - 8*i))
	}
	return string(b[:])
}

// one is the span of a single name.
func one(name string) latchSpan { return latchSpan{name, name + "\x00"} }

// below is the span of all names that begin with prefix. Object keys may hold any byte, so its end is a name that is
// longer than every key of 0xff bytes.
func below(prefix string) latchSpan { return latchSpan{prefix, prefix + beyondKeys} }

func keyLatch(bucket BucketID, key string) latchSpan {
	return one(bucketName(latchObjects, bucket) + key)
}

func prefixLatch(bucket BucketID, prefix string) latchSpan {
	return below(bucketName(latchObjects, bucket) + prefix)
}

// uploadName names an upload in the space of parts. The id comes first, so that the keys need no escape.
func uploadName(bucket BucketID, id UploadID) string {
	return bucketName(latchParts, bucket) + string(appendUint64(appendUint64(nil, id.Clock), id.Random))
}

// uploadLatch covers an upload and all its parts; partLatch covers one part.
func uploadLatch(bucket BucketID, id UploadID) latchSpan { return below(uploadName(bucket, id)) }

func partLatch(bucket BucketID, id UploadID, number int) latchSpan {
	return one(uploadName(bucket, id) + string(appendUint64(nil, uint64(number))))
}

// bucketLatches covers everything of a bucket.
func bucketLatches(bucket BucketID) []latchSpan {
	return []latchSpan{
		{bucketName(latchObjects, bucket), bucketName(latchObjects, bucket+1)},
		{bucketName(latchParts, bucket), bucketName(latchParts, bucket+1)},
	}
}

func rowLatch(key []byte) latchSpan { return one(latchRows + string(key)) }

func stageLatch(k StageKey) latchSpan {
	return one(latchStages + string(appendUint64(appendUint64(nil, k.Session), k.Inode)))
}

func sessionLatches(session uint64) []latchSpan {
	return []latchSpan{one(latchSessions + string(appendUint64(nil, session)))}
}
