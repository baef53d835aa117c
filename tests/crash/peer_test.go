package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/tests/testkit"
)

// memoryPeer is a whole peer in this process over a file system in memory.
type memoryPeer struct {
	t    *testing.T
	fs   *vfs.Memory
	peer *peer.Peer
	http *http.Transport
}

// memorySegment keeps the five copies of the log small, and makes it change segments often.
const memorySegment = 1 << 20

func startMemoryPeer(t *testing.T, fs *vfs.Memory, change ...func(*peer.Config, *peer.Seams)) *memoryPeer {
	t.Helper()
	m := tryMemoryPeer(t, fs, change...)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.peer.WaitReady(ctx); err != nil {
		t.Fatalf("not ready: %v (%s)", err, m.peer.Summary())
	}
	return m
}

// tryMemoryPeer starts a peer and does not wait until it is ready.
func tryMemoryPeer(t *testing.T, fs *vfs.Memory, change ...func(*peer.Config, *peer.Seams)) *memoryPeer {
	t.Helper()
	config := peer.Config{
		Dir: "/dir", Name: "test", Listen: "127.0.0.1:0", Memory: 128 << 20,
		RootKey: &peer.Credentials{AccessKey: testkit.AccessKey, Secret: testkit.SecretKey},
	}
	for n := 1; n <= 12; n++ {
		config.Drives = append(config.Drives, fmt.Sprint("/drives/d", n))
	}
	level := slog.LevelError + 1
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	seams := peer.Seams{
		FS: fs, Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), LogSegment: memorySegment, NoGossip: true,
	}
	for _, f := range change {
		f(&config, &seams)
	}
	p, err := peer.Start(ctx, config, seams)
	if err != nil {
		t.Fatal(err)
	}
	return &memoryPeer{t: t, fs: fs, peer: p, http: testkit.Transport(t, "")}
}

func (m *memoryPeer) S3(change ...func(*s3.Options)) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(m.peer.Endpoint()), Region: "us-east-1", UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testkit.AccessKey, testkit.SecretKey, ""),
		HTTPClient:  &http.Client{Transport: m.http},
	}, change...)
}

// drop closes a peer whose power was cut: its errors say so and nothing else matters.
func (m *memoryPeer) drop() {
	m.http.CloseIdleConnections()
	if err := m.peer.Close(); err != nil && !errors.Is(err, vfs.ErrPowerLost) && !strings.Contains(err.Error(), vfs.ErrPowerLost.Error()) {
		m.t.Logf("close after a power cut: %v", err)
	}
}

func (m *memoryPeer) close() {
	m.t.Helper()
	m.http.CloseIdleConnections()
	if err := m.peer.Close(); err != nil {
		m.t.Error(err)
	}
}

func (m *memoryPeer) makeBucket(name string) {
	m.t.Helper()
	if _, err := m.S3().CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		m.t.Fatal(err)
	}
}

// TestPowerLoss cuts the power of a whole peer, bytes and names together, again and again under load.
func TestPowerLoss(t *testing.T) {
	runs, chain := 100, 10
	if long() {
		runs = 1000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var acked int64
	for done := 0; done < runs; done += chain {
		acked += powerLossChain(t, seed+uint64(done), chain)
		if t.Failed() {
			t.Fatalf("failed in the chain of seed %d", seed+uint64(done))
		}
	}
	if acked < 5*int64(runs) {
		t.Fatalf("%d writes were acknowledged in %d runs: there was no load", acked, runs)
	}
	t.Logf("%d acknowledged writes in %d power cuts", acked, runs)
}

// powerLossChain cuts the power of one cluster cuts times and audits it after each. A cut comes at a time that is drawn,
// but not before some writes were acknowledged, as many as are drawn: a busy machine does not cut idle clusters.
func powerLossChain(t *testing.T, seed uint64, cuts int) (acked int64) {
	random := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewMemory(seed)
	m := startMemoryPeer(t, fs)
	m.makeBucket("load")
	l := newLedger(t, "load")
	l.body = smallBody
	for range cuts {
		ctx, cancel := context.WithCancel(context.Background())
		var n int64
		var load sync.WaitGroup
		load.Go(func() { n = l.load(ctx, m, 6) })
		begun, some := len(l.keys()), random.IntN(20)
		cut := time.NewTimer(time.Duration(5+random.IntN(45)) * time.Millisecond)
		<-cut.C
		testkit.Poll(t, 30*time.Second, "load", func() bool { return len(l.keys())-begun >= some })
		fs = fs.Crash() // in the middle of the load
		cancel()
		load.Wait()
		m.drop()
		acked += n
		m = startMemoryPeer(t, fs)
		l.audit(m)
		if t.Failed() {
			break
		}
	}
	m.close()
	return acked
}

// lossSizes are object sizes at every boundary ±1: inline, cell, row, chunk, several chunks.
func lossSizes() []int {
	sizes := []int{0, 1, 20 << 20}
	for _, edge := range []int{4 << 10, 16 << 10, 32 << 10, 64 << 10, 512 << 10, 8 << 20, 16 << 20} {
		sizes = append(sizes, edge-1, edge, edge+1)
	}
	return sizes
}

// lossSets returns sets of drives to lose: every set of one or two, and as many of three and of four as are asked for,
// drawn; with a negative number, all of them.
func lossSets(random *rand.Rand, of3and4 int) (sets [][]int) {
	drawn := map[int]int{}
	for _, mask := range random.Perm(1 << 12) {
		drives := drivesOf(mask)
		n := len(drives)
		if n < 1 || n > 4 || n > 2 && drawn[n] == of3and4 {
			continue
		}
		drawn[n]++
		sets = append(sets, drives)
	}
	return sets
}

// TestEveryLossOfFourDrives removes sets of 1 to 4 of 12 drives, bytes, names and all, and the peer's own directory with
// them, starts again, and reads every object. Each set is lost of the whole cluster. The long form loses every such set.
func TestEveryLossOfFourDrives(t *testing.T) {
	fs := vfs.NewMemory(3)
	m := startMemoryPeer(t, fs)
	m.makeBucket("loss")
	want := map[string][]byte{}
	client := m.S3()
	for _, size := range lossSizes() {
		content := make([]byte, size)
		if _, err := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(content); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint("size-", size)
		if _, err := client.PutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("loss"), Key: &key, Body: strings.NewReader(string(content))}); err != nil {
			t.Fatal(err)
		}
		want[key] = content
	}
	m.close()
	seed, of3and4, count := uint64(time.Now().UnixNano()), 20, 12+66+20+20
	if long() {
		of3and4, count = -1, 12+66+220+495
	}
	t.Logf("seed %d", seed)
	sets := lossSets(rand.New(rand.NewPCG(seed, 4)), of3and4)
	if len(sets) != count {
		t.Fatalf("%d sets, want %d", len(sets), count)
	}
	for round, drives := range sets {
		left := fs.Copy(seed + uint64(round))
		for _, d := range drives {
			if err := left.RemoveAll(fmt.Sprint("/drives/d", d)); err != nil {
				t.Fatal(err)
			}
		}
		if err := left.RemoveAll("/dir"); err != nil {
			t.Fatal(err)
		}
		m := startMemoryPeer(t, left)
		readAfterLoss(t, m, want, round)
		if t.Failed() {
			t.Fatalf("without drives %v", drives)
		}
		m.close()
	}
}

// readAfterLoss reads small objects whole, and of every large one both ends, the boundaries of its chunks and a place
// that moves with round; one large object in turn is read whole.
func readAfterLoss(t *testing.T, m *memoryPeer, want map[string][]byte, round int) {
	t.Helper()
	const small = 1 << 20
	work := make(chan func(), len(want))
	var large []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if len(want[key]) > small {
			large = append(large, key)
		}
	}
	for key, content := range want {
		if len(content) <= small || key == large[round%len(large)] {
			work <- func() {
				got, err := get(context.Background(), m.S3(), "loss", key)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %v, %d bytes", key, err, len(got))
				}
			}
			continue
		}
		work <- func() {
			const around = 4 << 10
			for edge := 0; edge <= len(content); edge += 8 << 20 {
				wantSpan(t, m, key, content, edge-around, edge+around)
			}
			wantSpan(t, m, key, content, len(content)-around, len(content))
			at := round * 777_777 % len(content)
			wantSpan(t, m, key, content, at, at+100_000)
		}
	}
	close(work)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for read := range work {
				read()
			}
		})
	}
	readers.Wait()
}

func drivesOf(mask int) (drives []int) {
	for d := range 12 {
		if mask&(1<<d) != 0 {
			drives = append(drives, d+1)
		}
	}
	return drives
}

// wantSpan reads bytes [from, to) of an object, as far as it has them.
func wantSpan(t *testing.T, m *memoryPeer, key string, content []byte, from, to int) {
	t.Helper()
	from, to = max(from, 0), min(to, len(content))
	if from >= to {
		return
	}
	out, err := m.S3().GetObject(context.Background(), &s3.GetObjectInput{Bucket: aws.String("loss"), Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", from, to-1))})
	if err != nil {
		t.Errorf("%s at %d: %v", key, from, err)
		return
	}
	got, err := io.ReadAll(out.Body)
	if err != nil || !bytes.Equal(got, content[from:to]) {
		t.Errorf("%s at %d: %v, %d bytes", key, from, err, len(got))
	}
	if err := out.Body.Close(); err != nil {
		t.Error(err)
	}
}
