package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
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

func startMemoryPeer(t *testing.T, fs *vfs.Memory) *memoryPeer {
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
	p, err := peer.Start(ctx, config, peer.Seams{FS: fs, Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		t.Fatal(err)
	}
	m := &memoryPeer{t: t, fs: fs, peer: p, http: testkit.Transport(t, "")}
	if err := p.WaitReady(ctx); err != nil {
		t.Fatalf("not ready: %v (%s)", err, p.Summary())
	}
	return m
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
	runs, chain := 100, 25
	if os.Getenv("HOLDFAST_LONG") != "" {
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
	if acked < int64(runs) {
		t.Fatalf("%d writes were acknowledged in %d runs: there was no load", acked, runs)
	}
	t.Logf("%d acknowledged writes in %d power cuts", acked, runs)
}

// powerLossChain cuts the power of one cluster cuts times and audits it after each.
func powerLossChain(t *testing.T, seed uint64, cuts int) (acked int64) {
	random := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewMemory(seed)
	m := startMemoryPeer(t, fs)
	m.makeBucket("load")
	l := newLedger(t, "load")
	for range cuts {
		ctx, cancel := context.WithCancel(context.Background())
		var n int64
		var load sync.WaitGroup
		load.Go(func() { n = l.load(ctx, m, 3) })
		cut := time.NewTimer(time.Duration(5+random.IntN(60)) * time.Millisecond)
		<-cut.C
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

// TestEveryLossOfFourDrives removes every set of 1 to 4 of 12 drives, bytes, names and all, and the peer's own
// directory with them, starts again, and reads every object. Sets of four are complete; so are the smaller ones.
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
	sets := 0
	for mask := range 1 << 12 {
		drives := drivesOf(mask)
		if len(drives) < 1 || len(drives) > 4 {
			continue
		}
		sets++
		for _, d := range drives {
			if err := fs.Move(fmt.Sprint("/drives/d", d), fmt.Sprint("/gone", d)); err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.RemoveAll("/dir"); err != nil {
			t.Fatal(err)
		}
		m := startMemoryPeer(t, fs)
		for key, content := range want {
			// Large objects are read whole by one set in eight, and around a place of their own by every set.
			if len(content) > 1<<20 && sets%8 != 0 {
				wantSpan(t, m, key, content, sets*77_777%len(content))
				continue
			}
			got, err := get(context.Background(), m.S3(), "loss", key)
			if err != nil || string(got) != string(content) {
				t.Fatalf("without drives %v: %s: %v, %d bytes", drives, key, err, len(got))
			}
		}
		m.close()
		for _, d := range drives {
			if err := fs.Move(fmt.Sprint("/gone", d), fmt.Sprint("/drives/d", d)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sets != 793 {
		t.Fatalf("%d sets, want 793", sets)
	}
}

func drivesOf(mask int) (drives []int) {
	for d := range 12 {
		if mask&(1<<d) != 0 {
			drives = append(drives, d+1)
		}
	}
	return drives
}

// wantSpan reads 600 KB around off.
func wantSpan(t *testing.T, m *memoryPeer, key string, content []byte, off int) {
	t.Helper()
	end := min(off+600_000, len(content))
	out, err := m.S3().GetObject(context.Background(), &s3.GetObjectInput{Bucket: aws.String("loss"), Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, end-1))})
	if err != nil {
		t.Fatalf("%s at %d: %v", key, off, err)
	}
	got, err := io.ReadAll(out.Body)
	if err != nil || string(got) != string(content[off:end]) {
		t.Fatalf("%s at %d: %v, %d bytes", key, off, err, len(got))
	}
	if err := out.Body.Close(); err != nil {
		t.Fatal(err)
	}
}
