package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/holdfast/holdfast/tests/testkit"
)

const (
	// retries is how often a client tries again, each time at another gateway.
	retries = 3
	// avoidFor is how long a client leaves a gateway alone that it could not reach, as long as there are others.
	avoidFor = 3 * time.Second
	// most is how many keys a client has; then it changes those that it has, so that all of them can be read again soon.
	most = 60
	// pace is how long a client rests between two requests: two cores serve clients, peers and disks.
	pace = 30 * time.Millisecond
	// slowAttempt is what an attempt takes that a report tells of.
	slowAttempt = 2 * time.Second
	// patience is how long a client waits for an answer, and for each MiB of a body.
	patience, patienceForMiB = 8 * time.Second, time.Second
)

// sizes of bodies: most are small, some inline, a few span several rows and chunks.
var sizes = []int{0, 1, 100, 100, 3000, 4096, 16 << 10, 16<<10 + 1, 20_000, 40_000, 70_000, 70_000, 200_000, 600_000, 2 << 20}

// load is clients at work: each changes and reads keys of its own, through whatever gateway, so that it knows what to
// expect of every answer.
type load struct {
	t *testing.T
	c *testkit.Cluster
	l *ledger
	// large is one in how many writes has up to 20 MiB; 0: none.
	large int
	// light: bodies are small and lie with the names, so that neither drives nor logs grow much.
	light bool

	cancel context.CancelFunc
	wait   sync.WaitGroup

	requests, retried, failed, flying atomic.Int64

	mu       sync.Mutex
	clients  map[*testkit.Node]*s3.Client
	avoid    map[*testkit.Node]time.Time
	failures []string
	slow     []string // attempts that took long
	wrong    []string
}

// startLoad starts clients that work until stop.
func startLoad(t *testing.T, c *testkit.Cluster, l *ledger, clients, large int) *load {
	t.Helper()
	w := &load{t: t, c: c, l: l, large: large}
	w.start(clients)
	return w
}

// startLightLoad starts clients whose bodies are small.
func startLightLoad(t *testing.T, c *testkit.Cluster, l *ledger, clients int) *load {
	t.Helper()
	w := &load{t: t, c: c, l: l, light: true}
	w.start(clients)
	return w
}

func (w *load) start(clients int) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.clients, w.avoid = cancel, make(map[*testkit.Node]*s3.Client), make(map[*testkit.Node]time.Time)
	w.t.Cleanup(w.end)
	start := w.l.acknowledged()
	for range clients {
		prefix := fmt.Sprintf("w%06x/", rand.IntN(1<<24)) // of this run alone, in a ledger that sees several
		random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
		w.wait.Go(func() { (&worker{load: w, prefix: prefix, random: random}).run(ctx) })
	}
	w.progress(start, 3*clients)
}

func (w *load) end() {
	w.cancel()
	w.wait.Wait()
	for _, text := range w.slow {
		w.t.Logf("slow: %s", text)
	}
	w.slow = nil
}

// stop ends the clients and tells what they saw. All answers must have been right; of the requests the share of failed
// ones, after retries, must be at most allowed.
func (w *load) stop(allowed float64) {
	w.t.Helper()
	w.end()
	requests, failed := w.requests.Load(), w.failed.Load()
	w.t.Logf("%d requests, %d retries, %d failed, %d writes acknowledged", requests, w.retried.Load(), failed, w.l.acknowledged())
	for _, text := range w.wrong {
		w.t.Errorf("wrong answer: %s", text)
	}
	for _, text := range w.failures {
		w.t.Logf("failed: %s", text)
	}
	if float64(failed) > allowed*float64(requests) {
		w.t.Errorf("%d of %d requests failed after %d retries, more than %.2g", failed, requests, retries, allowed)
	}
}

// progress waits until so many more writes than at the start were acknowledged.
func (w *load) progress(start, more int) {
	w.t.Helper()
	testkit.Poll(w.t, time.Minute, fmt.Sprintf("%d more acknowledged writes", more), func() bool { return w.l.acknowledged() >= start+more })
}

// strike fires a fault while requests are under way, and returns when it did.
func (w *load) strike(fault func()) time.Time {
	w.t.Helper()
	testkit.Poll(w.t, 10*time.Second, "requests under way", func() bool { return w.flying.Load() > 0 })
	at := time.Now()
	fault()
	return at
}

// goesOn waits until writes are acknowledged again after a fault, and returns the longest time without one since it.
func (w *load) goesOn(at time.Time) time.Duration {
	w.t.Helper()
	w.progress(w.l.acknowledged(), 20)
	return w.l.gap(at, time.Now())
}

// request tries one S3 request, up to 1 + retries times, each at another gateway as far as there are others. clean says
// that no attempt was left without an answer.
func (w *load) request(ctx context.Context, what string, body int, do func(context.Context, *s3.Client) error) (clean bool, err error) {
	w.requests.Add(1)
	w.flying.Add(1)
	defer w.flying.Add(-1)
	clean = true
	var tried []*testkit.Node
	var said []error
	for attempt := range 1 + retries {
		if attempt > 0 {
			w.retried.Add(1)
			pause(ctx, time.Duration(1<<attempt)*100*time.Millisecond) // 200, 400, 800 ms
		}
		n, client := w.gateway(tried)
		tried = append(tried, n)
		attemptCtx, cancel := context.WithTimeout(ctx, patience+time.Duration(body>>20)*patienceForMiB)
		begun := time.Now()
		err = do(attemptCtx, client)
		cancel()
		if took := time.Since(begun); took > slowAttempt {
			w.note(&w.slow, fmt.Sprintf("%s %s at %s took %v: %v", begun.UTC().Format("15:04:05.000"), what, n.Name, took.Round(time.Millisecond), err))
		}
		if err == nil || ctx.Err() != nil {
			return clean && err == nil, err
		}
		clean = clean && refused(err)
		said = append(said, fmt.Errorf("%s: %w", n.Name, err))
		if unreachable(err) {
			w.leaveAlone(n)
		}
	}
	w.failed.Add(1)
	w.note(&w.failures, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), what, errors.Join(said...)))
	return clean, err
}

// gateway chooses a node that was not tried, and not found unreachable a moment ago, if there is one.
func (w *load) gateway(tried []*testkit.Node) (*testkit.Node, *s3.Client) {
	nodes := w.c.Nodes()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	rank := func(n *testkit.Node) int {
		r := 0
		if slices.Contains(tried, n) {
			r++
		}
		if w.avoid[n].After(now) {
			r += 2
		}
		return r
	}
	n := slices.MinFunc(nodes, func(a, b *testkit.Node) int { return rank(a) - rank(b) })
	if w.clients[n] == nil {
		w.clients[n] = n.S3()
	}
	return n, w.clients[n]
}

func (w *load) leaveAlone(n *testkit.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.avoid[n] = time.Now().Add(avoidFor)
}

func (w *load) note(list *[]string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*list) < 20 {
		*list = append(*list, text)
	}
}

// refused tells that a request certainly changed nothing: the gateway said so with an error of S3 that promises it.
func refused(err error) bool {
	return isCode(err, "SlowDown") || isCode(err, "NoSuchKey") || isCode(err, "InvalidRequest")
}

// unreachable tells that there was no answer of S3.
func unreachable(err error) bool {
	var answer smithy.APIError
	var dial *url.Error
	return !errors.As(err, &answer) && errors.As(err, &dial) || errors.Is(err, context.DeadlineExceeded)
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// worker is one client.
type worker struct {
	*load
	prefix string
	random *rand.Rand
	next   int
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		switch n := w.random.IntN(100); {
		case n < 45:
			if key, ok := w.newKey(); ok {
				w.put(ctx, key)
			}
		case n < 50:
			if key, ok := w.someKey(true); ok {
				w.put(ctx, key)
			}
		case n < 72:
			if key, ok := w.someKey(false); ok {
				w.get(ctx, key)
			}
		case n < 77:
			w.list(ctx)
		case n < 86:
			if key, ok := w.someKey(true); ok {
				w.remove(ctx, key)
			}
		case n < 95:
			if key, ok := w.someKey(false); ok {
				w.copy(ctx, key)
			}
		default:
			w.multipart(ctx)
		}
		pause(ctx, pace)
	}
}

// newKey is a new key, or one that may be changed when there are enough.
func (w *worker) newKey() (string, bool) {
	if w.next == most {
		return w.someKey(true)
	}
	w.next++
	return fmt.Sprintf("%sk%05d", w.prefix, w.next), true
}

// someKey is a key of this client, an open one when it is to be changed.
func (w *worker) someKey(open bool) (string, bool) {
	if w.next == 0 {
		return "", false
	}
	for range 10 {
		key := fmt.Sprintf("%sk%05d", w.prefix, 1+w.random.IntN(w.next))
		if _, is := w.l.known(key); is || !open {
			return key, true
		}
	}
	return "", false
}

// body makes the content of a write of a key.
func (w *worker) body(key string) []byte {
	size := sizes[w.random.IntN(len(sizes))]
	if w.light {
		size = min(size, 1000)
	}
	if w.large > 0 && w.random.IntN(w.large) == 0 {
		size = w.random.IntN(20 << 20)
	}
	return bodyOf(fmt.Sprint(key, w.random.Uint64()), size)
}

func (w *worker) put(ctx context.Context, key string) {
	body := w.body(key)
	v := valueOf(body)
	w.l.begin(key, v)
	clean, err := w.request(ctx, "PUT "+key, len(body), func(ctx context.Context, client *s3.Client) error {
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: &w.l.bucket, Key: &key, Body: bytes.NewReader(body)})
		return err
	})
	w.l.end(key, v, err == nil, clean)
}

func (w *worker) get(ctx context.Context, key string) {
	may, _ := w.l.known(key)
	var got value
	_, err := w.request(ctx, "GET "+key, 20<<20, func(ctx context.Context, client *s3.Client) (err error) {
		got, err = read(ctx, client, w.l.bucket, key)
		return err
	})
	if err == nil && !slices.Contains(may, got) {
		w.note(&w.wrong, fmt.Sprintf("GET %s gives %v; it may be %v", key, got, may))
	}
}

func (w *worker) list(ctx context.Context) {
	var listed map[string]int64
	_, err := w.request(ctx, "LIST "+w.prefix, 0, func(ctx context.Context, client *s3.Client) (err error) {
		listed, err = list(ctx, client, w.l.bucket, w.prefix)
		return err
	})
	if err != nil {
		return
	}
	if err := w.l.compareListing(w.prefix, listed); err != nil {
		w.note(&w.wrong, err.Error())
	}
}

func (w *worker) remove(ctx context.Context, key string) {
	w.l.begin(key, value{})
	clean, err := w.request(ctx, "DELETE "+key, 0, func(ctx context.Context, client *s3.Client) error {
		_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &w.l.bucket, Key: &key})
		return err
	})
	w.l.end(key, value{}, err == nil, clean)
}

// copy copies an object to another key.
func (w *worker) copy(ctx context.Context, from string) {
	may, open := w.l.known(from)
	if !open || len(may) != 1 || !may[0].there {
		return
	}
	to, ok := w.newKey()
	if !ok || to == from {
		return
	}
	source := w.l.bucket + "/" + from
	w.l.begin(to, may[0])
	clean, err := w.request(ctx, "COPY "+from+" to "+to, 0, func(ctx context.Context, client *s3.Client) error {
		_, err := client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &w.l.bucket, Key: &to, CopySource: &source})
		return err
	})
	w.l.end(to, may[0], err == nil, clean)
}

// multipart uploads an object in one or two parts.
func (w *worker) multipart(ctx context.Context) {
	key, ok := w.newKey()
	if !ok {
		return
	}
	parts := [][]byte{w.body(key)}
	if w.random.IntN(4) == 0 && !w.light {
		parts = append([][]byte{bodyOf(key, 5<<20)}, parts...)
	}
	var id *string
	if _, err := w.request(ctx, "create upload of "+key, 0, func(ctx context.Context, client *s3.Client) error {
		out, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &w.l.bucket, Key: &key})
		if err == nil {
			id = out.UploadId
		}
		return err
	}); err != nil {
		return
	}
	var etags []*string
	for i, part := range parts {
		if _, err := w.request(ctx, "part of "+key, len(part), func(ctx context.Context, client *s3.Client) error {
			out, err := client.UploadPart(ctx, &s3.UploadPartInput{Bucket: &w.l.bucket, Key: &key, UploadId: id, PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(part)})
			if err == nil {
				etags = append(etags, out.ETag)
			}
			return err
		}); err != nil {
			return
		}
	}
	v := valueOf(bytes.Join(parts, nil))
	w.l.begin(key, v)
	clean, err := w.request(ctx, "complete "+key, 0, func(ctx context.Context, client *s3.Client) error {
		_, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &w.l.bucket, Key: &key, UploadId: id, MultipartUpload: completed(etags)})
		return err
	})
	w.l.end(key, v, err == nil, clean)
}
