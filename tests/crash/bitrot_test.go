package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/tests/testkit"
)

// rotSkew sets the peer's clock back and forth between starts: what is freed under the slow clock is due for deletion
// under the fast one, 15 minutes later, and signatures are still within their 15 minutes.
const rotSkew = 13 * time.Minute

// rotRounds is how many rounds one cluster lives through.
const rotRounds = 25

// TestBitRot damages files on up to four of twelve drives and in the peer's own directory, cold and under the running
// peer, reads everything, has it found and rebuilt, and does so again and again on the same cluster.
func TestBitRot(t *testing.T) {
	rounds := 50
	if long() {
		rounds = 1000
	}
	seed := uint64(time.Now().UnixNano())
	said := &tally{said: map[string]int{}}
	done := map[string]int{}
	found, slowest := int64(0), time.Duration(0)
	// Damage that hits what is in use is told, each kind by its own floor. Where it hits is chance, so that few rounds may
	// not have hit everything.
	must := []string{"log segment rewritten", "file rewritten from its mirrors", "state database is rebuilt", "damage found", "cluster's id is damaged"}
	unsaid := func() []string {
		return slices.DeleteFunc(slices.Clone(must), func(part string) bool { return said.count(part) > 0 })
	}
	round := 0
	for ; round < rounds || len(unsaid()) > 0 && round < max(rounds, 400); round += rotRounds {
		t.Logf("seed %d", seed+uint64(round))
		c := newRotCluster(t, seed+uint64(round), said)
		c.rot.done = done
		for n := range rotRounds {
			begun := time.Now()
			c.round(n)
			slowest = max(slowest, time.Since(begun))
			if t.Failed() {
				t.Fatalf("round %d of seed %d", n, seed+uint64(round))
			}
		}
		c.peer.close()
		found += c.found
	}
	for _, r := range rotten {
		if done[r.kind] == 0 {
			t.Errorf("no %s was damaged", r.kind)
		}
	}
	if parts := unsaid(); len(parts) > 0 {
		t.Errorf("in %d rounds the log never says %q", round, parts)
	}
	if found == 0 {
		t.Error("no check found a damaged chunk")
	}
	t.Logf("%d rounds, the slowest took %v, %d degraded chunks found; damage: %v", round, slowest, found, done)
	t.Logf("said: %v", said.said)
}

// rotCluster is a cluster with objects of every kind, whose drives rot.
type rotCluster struct {
	t      *testing.T
	fs     *vfs.Memory
	peer   *memoryPeer
	rot    *rot
	said   *tally
	random *rand.Rand
	want   map[string][]byte
	starts int
	made   int
	found  int64 // degraded chunks in first checks
}

func newRotCluster(t *testing.T, seed uint64, said *tally) *rotCluster {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2))
	memory := vfs.NewMemory(seed)
	c := &rotCluster{t: t, fs: memory, said: said, random: random, want: map[string][]byte{},
		rot: &rot{t: t, random: random, fs: memory}}
	c.start()
	c.peer.makeBucket("rot")
	for _, size := range []int{0, 1, 4 << 10, 16 << 10, 16<<10 + 1, 70_000, 512 << 10, 600_000, 8<<20 + 5} {
		c.put(fmt.Sprint("size-", size), size)
	}
	l := newLedger(t, "rot")
	parts := bodyOf("parts", 5<<20+70_000)
	if err := l.multipart(context.Background(), c.peer.S3(), "parts", parts); err != nil {
		t.Fatal(err)
	}
	c.want["parts"] = parts
	return c
}

func (c *rotCluster) start() {
	c.t.Helper()
	skew := rotSkew
	if c.starts++; c.starts%2 == 1 {
		skew = -rotSkew
	}
	c.peer = startMemoryPeer(c.t, c.fs, func(config *peer.Config, seams *peer.Seams) {
		config.RootKey = nil // it is read from the directory or from the names
		if c.starts == 1 {
			config.RootKey = &peer.Credentials{AccessKey: testkit.AccessKey, Secret: testkit.SecretKey}
		}
		seams.Now = func() time.Time { return time.Now().Add(skew) }
		seams.Log = slog.New(c.said)
		seams.RepairEvery = 50 * time.Millisecond
	})
}

// end closes the peer, or kills it.
func (c *rotCluster) end(kill bool) {
	c.t.Helper()
	if !kill {
		c.peer.close()
		return
	}
	c.fs = c.fs.Kill()
	c.rot.fs = c.fs
	c.peer.drop()
}

func (c *rotCluster) put(key string, size int) {
	c.t.Helper()
	content := bodyOf(key, size)
	if _, err := c.peer.S3().PutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("rot"), Key: &key, Body: bytes.NewReader(content)}); err != nil {
		c.t.Fatalf("put %s: %v", key, err)
	}
	c.want[key] = content
}

// churn writes some objects and deletes old ones, so that every file of the cluster goes on changing.
func (c *rotCluster) churn() {
	c.t.Helper()
	for _, size := range []int{100, 16 << 10, 15_000, 20_000, 150_000} {
		c.put(fmt.Sprintf("churn-%06d", c.made), size)
		c.made++
	}
	for c.made > 40 && len(c.want) > 50 {
		key := fmt.Sprintf("churn-%06d", c.random.IntN(c.made))
		if _, there := c.want[key]; !there {
			continue
		}
		if _, err := c.peer.S3().DeleteObject(context.Background(), &s3.DeleteObjectInput{Bucket: aws.String("rot"), Key: &key}); err != nil {
			c.t.Fatalf("delete %s: %v", key, err)
		}
		delete(c.want, key)
	}
}

func (c *rotCluster) round(n int) {
	c.t.Helper()
	if n%5 == 0 {
		c.rot.remember()
	}
	c.churn()
	how := []string{"closed", "killed", "running"}[c.random.IntN(3)]
	if how != "running" {
		c.end(how == "killed")
	}
	did := c.rot.attack()
	if how != "running" {
		c.start()
	}
	c.readAll()
	c.mend(true)
	if how == "running" {
		// What a running peer does not see, its next start must.
		c.end(c.random.IntN(2) == 0)
		c.start()
		c.readAll()
		c.mend(false)
	}
	if c.t.Failed() {
		c.t.Errorf("%s peer, round %d: %s", how, n, strings.Join(did, ", "))
	}
}

// readAll reads and lists everything. A peer whose state breaks under it may say so for a while, and nothing else.
func (c *rotCluster) readAll() {
	c.t.Helper()
	work := make(chan string, len(c.want))
	for key := range c.want {
		work <- key
	}
	close(work)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for key := range work {
				got, err := patient(func(ctx context.Context) ([]byte, error) { return get(ctx, c.peer.S3(), "rot", key) })
				if err != nil || !bytes.Equal(got, c.want[key]) {
					c.t.Errorf("%s: %v, %d bytes of %d", key, err, len(got), len(c.want[key]))
				}
			}
		})
	}
	readers.Wait()
	listed := map[string]int64{}
	pages := s3.NewListObjectsV2Paginator(c.peer.S3(), &s3.ListObjectsV2Input{Bucket: aws.String("rot"), MaxKeys: aws.Int32(30)})
	for pages.HasMorePages() {
		page, err := patient(func(ctx context.Context) (*s3.ListObjectsV2Output, error) { return pages.NextPage(ctx) })
		if err != nil {
			c.t.Fatal(err)
		}
		for _, object := range page.Contents {
			listed[*object.Key] = *object.Size
		}
	}
	if len(listed) != len(c.want) {
		c.t.Errorf("%d objects are listed, want %d: missing %v", len(listed), len(c.want), lacking(c.want, listed))
	}
	for key, size := range listed {
		if content, there := c.want[key]; !there || int64(len(content)) != size {
			c.t.Errorf("%s is listed with %d bytes", key, size)
		}
	}
}

func lacking(want map[string][]byte, listed map[string]int64) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if _, there := listed[key]; !there {
			keys = append(keys, key)
		}
	}
	return keys
}

// patient repeats a request that is answered with "not now" until it is answered.
func patient[T any](ask func(context.Context) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err = ask(ctx)
		var status interface{ HTTPStatusCode() int }
		var absent *types.NoSuchKey
		if err == nil || errors.As(err, &absent) || !errors.As(err, &status) || status.HTTPStatusCode() != http.StatusServiceUnavailable {
			return answer, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return answer, err
		}
	}
}

// mend has everything verified, and demands that it is whole soon, and that nothing was beyond repair.
func (c *rotCluster) mend(first bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		report := c.check()
		if first {
			c.found, first = c.found+report.Degraded, false
		}
		testkit.Poll(c.t, 30*time.Second, "repair to be done", func() bool {
			status, err := c.client().Status(context.Background())
			if err != nil {
				c.t.Fatal(err)
			}
			return status.Whole()
		})
		if report.Sound() {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("checks go on finding damage: %+v", *report)
		}
	}
}

// check is fsck --deep. Nothing may be lost.
func (c *rotCluster) check() *admin.FsckReport {
	c.t.Helper()
	var problems []admin.FsckProblem
	report, err := c.client().Fsck(context.Background(), true, func(e admin.FsckEvent) {
		if e.Problem != nil {
			problems = append(problems, *e.Problem)
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if report.Lost > 0 || report.Unreadable > 0 {
		c.t.Fatalf("%+v: %+v", *report, problems)
	}
	return report
}

func (c *rotCluster) client() *admin.Client {
	keys := aws.Credentials{AccessKeyID: testkit.AccessKey, SecretAccessKey: testkit.SecretKey}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	return &admin.Client{Endpoint: c.peer.peer.Endpoint(), HTTP: &http.Client{Transport: c.peer.http}, Sign: func(r *http.Request) error {
		return signer.SignHTTP(r.Context(), keys, r, admin.EmptyPayload, "s3", "us-east-1", time.Now())
	}}
}
