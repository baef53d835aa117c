package peer

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/tests/expect"
)

// testDrives is how many drives the peers of these tests have.
const testDrives = 12

const (
	testDir     = "/data"
	testSegment = 256 << 10
	// testMemory is enough for the writes and reads of these tests.
	testMemory = 64 << 20
)

// TestMain lets more tests run at once than there are processors: they wait more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func testConfig() Config {
	c := Config{Dir: testDir, Name: "test", Listen: "127.0.0.1:0", Memory: testMemory, Version: "test"}
	for i := range testDrives {
		c.Drives = append(c.Drives, drivePath(i+1))
	}
	return c
}

func drivePath(n int) string { return fmt.Sprintf("/mnt/d%d", n) }

func testSeams(fsys vfs.FS) Seams {
	return Seams{FS: fsys, Now: time.Now, Log: slog.New(slog.DiscardHandler), LogSegment: testSegment, NoGossip: true}
}

// start starts a peer and waits until it is ready.
func start(t *testing.T, fsys vfs.FS) *Peer {
	t.Helper()
	p, err := Start(t.Context(), testConfig(), testSeams(fsys))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	return p
}

func ready(t *testing.T, p *Peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.WaitReady(ctx); err != nil {
		t.Fatalf("not ready: %v; %v", err, p.whyNot())
	}
}

func stop(t *testing.T, p *Peer) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// keep stores an object of its own bucket, and read returns it.
func keep(t *testing.T, p *Peer, key string, body []byte) {
	t.Helper()
	objects := p.core.Load().objects
	bucket, err := objects.Bucket(t.Context(), "kept")
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		bucket, err = objects.CreateBucket(t.Context(), "kept", "test")
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = objects.Put(t.Context(), multipart.Put{Bucket: bucket.ID, Key: key, Body: multipart.Body{Reader: bytes.NewReader(body), Size: int64(len(body))}})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, p *Peer, key string) ([]byte, error) {
	t.Helper()
	objects := p.core.Load().objects
	bucket, err := objects.Bucket(t.Context(), "kept")
	if err != nil {
		return nil, err
	}
	object, err := objects.Open(t.Context(), bucket.ID, key, multipart.At{})
	if err != nil {
		return nil, err
	}
	stream := object.Read(t.Context(), multipart.Span{Len: -1})
	body, err := io.ReadAll(stream)
	return body, errors.Join(err, stream.Close(), object.Close())
}

func wantRead(t *testing.T, p *Peer, key string, want []byte) {
	t.Helper()
	got, err := read(t, p, key)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s reads %d other bytes", key, len(got))
	}
}

var testBody = bytes.Repeat([]byte("holdfast"), 100_000)

func TestRestartKeepsClusterKeysAndObjects(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(1)
	p := start(t, m)
	id, key := p.cluster, *p.RootKey()
	keep(t, p, "a", testBody)
	stop(t, p)
	p = start(t, m)
	defer stop(t, p)
	if p.cluster != id || *p.RootKey() != key {
		t.Errorf("after a restart cluster %v and key %s, before %v and %s", p.cluster, p.AccessKey(), id, key.AccessKey)
	}
	wantRead(t, p, "a", testBody)
	if _, err := m.Stat(path.Join(testDir, formingFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the plan of the first start is still there: %v", err)
	}
}

func TestLosingTheDataDirectoryLosesNothing(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(2)
	p := start(t, m)
	key := *p.RootKey()
	keep(t, p, "a", testBody)
	stop(t, p)
	if err := m.RemoveAll(testDir); err != nil {
		t.Fatal(err)
	}
	p = start(t, m)
	wantRead(t, p, "a", testBody)
	stop(t, p)
	again, err := ReadCredentials(m, testDir)
	if err != nil || *again != key {
		t.Errorf("the credentials were not written again: %v", err)
	}
}

// TestFirstStartSurvivesPowerLossAnywhere cuts the power at many points of a first start: the next start must finish
// it, as one cluster, and keep what it stores.
func TestFirstStartSurvivesPowerLossAnywhere(t *testing.T) {
	t.Parallel()
	whole := vfs.NewMemory(3)
	counter := whole.Inject(vfs.Rule{})
	stop(t, start(t, whole))
	total := counter.Fired()
	const cuts = 30
	var finished atomic.Int32
	t.Cleanup(func() { // after the cuts, which are parallel
		if n := finished.Load(); n > cuts/2 {
			t.Errorf("%d of %d cuts came too late to matter", n, cuts)
		}
	})
	for i := range cuts {
		// The identities and the plan stand in the first tenth; most of the rest is the log's preallocation.
		at := total * i / cuts
		if i < cuts/2 {
			at = total * i / cuts / 5
		}
		t.Run(fmt.Sprint("after ", at), func(t *testing.T) {
			t.Parallel()
			m := vfs.NewMemory(uint64(100 + i))
			power := m.Inject(vfs.Rule{After: at, Err: vfs.ErrPowerLost})
			if p, err := Start(t.Context(), testConfig(), testSeams(m)); err == nil {
				expect.Soon(t, "the cut, or the end of the start", func() bool { return power.Fired() > 0 || p.core.Load() != nil })
				if p.core.Load() != nil {
					finished.Add(1) // the cut came after everything, or will: a faster start looks at its drives less often
				}
				if err := p.Close(); err != nil {
					t.Logf("close: %v", err)
				}
			}
			after := m.Crash()
			p := start(t, after)
			keep(t, p, "a", testBody)
			id := p.cluster
			stop(t, p)
			for n := range testDrives {
				identity, err := drive.ReadIdentity(after, drivePath(n+1))
				if err != nil || identity.Cluster != id {
					t.Errorf("drive %d is of cluster %v, not %v: %v", n+1, identity.Cluster, id, err)
				}
			}
			p = start(t, after)
			defer stop(t, p)
			wantRead(t, p, "a", testBody)
		})
	}
}

func TestDrivesAreKnownByIdentityWhateverTheirPath(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(4)
	p := start(t, m)
	keep(t, p, "a", testBody)
	stop(t, p)
	for _, step := range [][2]int{{1, 99}, {2, 1}, {3, 2}, {99, 3}} {
		if err := m.Move(drivePath(step[0]), drivePath(step[1])); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, m)
	defer stop(t, p)
	wantRead(t, p, "a", testBody)
	st, err := source{p, p.core.Load()}.Status(t.Context())
	if err != nil || st.DrivesUp != testDrives || len(st.Drives) != testDrives {
		t.Errorf("%d of %d drives are up: %v", st.DrivesUp, len(st.Drives), err)
	}
	if st.Drives[0].Name != "d1" || st.Drives[0].Path != drivePath(3) {
		t.Errorf("d1 is shown at %s", st.Drives[0].Path)
	}
}

func TestUpToFourDrivesMayBeMissingAndMoreAreWaitedFor(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(5)
	p := start(t, m)
	keep(t, p, "a", testBody)
	stop(t, p)
	away := func(n int) string { return fmt.Sprintf("/mnt/away%d", n) }
	for n := 1; n <= 5; n++ {
		if err := m.Move(drivePath(n), away(n)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Start(t.Context(), testConfig(), testSeams(m))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	expect.Soon(t, "a reason", func() bool { return len(p.whyNot()) > 0 })
	if reasons := strings.Join(p.notReady(), " "); !strings.Contains(reasons, "5 of 12 drives are not here") || p.core.Load() != nil {
		t.Errorf("with five drives missing the peer says %q", reasons)
	}
	asked := httptest.NewRecorder()
	p.server.Handler.ServeHTTP(asked, httptest.NewRequest(http.MethodGet, remote.PathPrefix+"pipe", nil))
	if asked.Code != http.StatusServiceUnavailable {
		t.Errorf("a mount is answered %d: it asks again only after 503", asked.Code)
	}
	for n := 1; n <= 5; n++ {
		if _, err := m.Stat(drivePath(n)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing drive directory was made again: %v", err)
		}
	}
	if err := m.Move(away(1), drivePath(1)); err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	wantRead(t, p, "a", testBody)
	st, err := source{p, p.core.Load()}.Status(t.Context())
	if err != nil || st.DrivesUp != 8 || st.Whole() {
		t.Errorf("%d drives up, whole %v: %v", st.DrivesUp, st.Whole(), err)
	}
	for n := 2; n <= 5; n++ {
		if err := m.Move(away(n), drivePath(n)); err != nil {
			t.Fatal(err)
		}
	}
	expect.Soon(t, "the drives to come back", func() bool { return len(p.drives.All()) == testDrives })
}

// A start waits for drives that hang once, however many they are.
func TestDrivesThatHangHoldNothingUp(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(14)
	p := start(t, m)
	keep(t, p, "a", testBody)
	stop(t, p)
	var hangs []*vfs.Fault
	for n := 3; n <= 5; n++ {
		hangs = append(hangs, inject(m, drivePath(n), []vfs.Rule{{Hang: true}})...)
	}
	clear := func() {
		for _, hang := range hangs {
			hang.Clear()
		}
	}
	begun := time.Now()
	p, err := Start(t.Context(), testConfig(), testSeams(m))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	defer clear()
	fired(t, hangs)
	if took := time.Since(begun); took > 3*lookPatience { // one, and a second, where the machine does nothing else
		t.Errorf("the start took %v", took)
	}
	ready(t, p)
	wantRead(t, p, "a", testBody)
	if text := p.Summary(); text != "9 of 12 up (d3 hanging, d4 hanging, d5 hanging)" {
		t.Errorf("the drives are: %s", text)
	}
	clear()
	expect.Soon(t, "the drives to come back after they hung", func() bool { return len(p.drives.All()) == testDrives })
}

func TestBlankAndForeignDrivesAreLeftAlone(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(6)
	p := start(t, m)
	keep(t, p, "a", testBody)
	stop(t, p)
	if err := m.Move(drivePath(1), "/mnt/away1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Mkdir(drivePath(1), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Move(drivePath(2), "/mnt/away2"); err != nil {
		t.Fatal(err)
	}
	foreign := drive.Identity{Format: drive.IdentityFormat, Cluster: cluster.ClusterID(cluster.NewID()), Drive: cluster.DriveID(cluster.NewID()), Name: "x", Created: time.Now()}
	if err := drive.Init(m, drivePath(2), foreign); err != nil {
		t.Fatal(err)
	}
	p = start(t, m)
	defer stop(t, p)
	wantRead(t, p, "a", testBody)
	rows, err := source{p, p.core.Load()}.Drives(t.Context())
	if err != nil || len(rows) != testDrives {
		t.Fatalf("%d rows: %v", len(rows), err)
	}
	if rows[0].Name != "d1" || rows[0].State != string(slotBlank) || rows[1].Name != "d2" || rows[1].State != string(slotForeign) {
		t.Errorf("rows %+v", rows[:2])
	}
	if entries, err := m.ReadDir(drivePath(1)); err != nil || len(entries) != 0 {
		t.Errorf("the blank drive holds %d entries: %v", len(entries), err)
	}
	if identity, err := drive.ReadIdentity(m, drivePath(2)); err != nil || identity != (drive.Identity{Format: 1, Cluster: foreign.Cluster, Drive: foreign.Drive, Name: "x", Created: identity.Created}) {
		t.Errorf("the foreign drive was changed: %+v %v", identity, err)
	}
}

func TestStartRefusesWithASentence(t *testing.T) {
	t.Parallel()
	t.Run("directory in use", func(t *testing.T) {
		m := vfs.NewMemory(7)
		p := start(t, m)
		defer stop(t, p)
		if _, err := Start(t.Context(), testConfig(), testSeams(m)); !errors.Is(err, ErrInUse) {
			t.Errorf("a second peer: %v", err)
		}
	})
	t.Run("port in use", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := listener.Close(); err != nil {
				t.Error(err)
			}
		}()
		config := testConfig()
		config.Listen = listener.Addr().String()
		m := vfs.NewMemory(8)
		if _, err := Start(t.Context(), config, testSeams(m)); !errors.Is(err, ErrInUse) {
			t.Errorf("a taken port: %v", err)
		}
		if _, err := m.Stat(drivePath(1)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("drives were made although the port is taken: %v", err)
		}
	})
	t.Run("no drive", func(t *testing.T) {
		config := testConfig()
		config.Drives = nil
		if _, err := Start(t.Context(), config, testSeams(vfs.NewMemory(9))); !errors.Is(err, ErrConfig) {
			t.Errorf("no drive: %v", err)
		}
	})
	t.Run("too little memory", func(t *testing.T) {
		config := testConfig()
		config.Memory = 1 << 20
		if _, err := Start(t.Context(), config, testSeams(vfs.NewMemory(9))); !errors.Is(err, ErrConfig) {
			t.Errorf("1 MiB of memory: %v", err)
		}
	})
	t.Run("directory with something in it", func(t *testing.T) {
		m := vfs.NewMemory(10)
		if err := vfs.MkdirAll(m, drivePath(3)+"/photos", 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(t.Context(), testConfig(), testSeams(m)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), drivePath(3)) {
			t.Errorf("a drive that is not empty: %v", err)
		}
		if _, err := m.Stat(path.Join(testDir, formingFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a first start was begun: %v", err)
		}
	})
	t.Run("drives of two clusters", func(t *testing.T) {
		m := vfs.NewMemory(11)
		for n := 1; n <= 12; n++ {
			id := drive.Identity{Format: drive.IdentityFormat, Cluster: cluster.ClusterID{byte(1 + n%2)}, Drive: cluster.DriveID(cluster.NewID()), Name: "x", Created: time.Now()}
			if err := drive.Init(m, drivePath(n), id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Start(t.Context(), testConfig(), testSeams(m)); !errors.Is(err, ErrClusters) {
			t.Errorf("six drives each: %v", err)
		}
	})
}

// A peer whose directory knows a cluster never makes another one, however blank the drives are.
func TestBlankDrivesOfAKnownClusterAreNoFirstStart(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(12)
	stop(t, start(t, m))
	for n := 1; n <= 12; n++ {
		if err := m.Move(drivePath(n), fmt.Sprintf("/mnt/away%d", n)); err != nil {
			t.Fatal(err)
		}
		if err := m.Mkdir(drivePath(n), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Start(t.Context(), testConfig(), testSeams(m))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	expect.Soon(t, "a reason", func() bool { return len(p.whyNot()) > 0 })
	for n := 1; n <= 12; n++ {
		if entries, err := m.ReadDir(drivePath(n)); err != nil || len(entries) != 0 {
			t.Fatalf("blank drive %d got %d entries: %v", n, len(entries), err)
		}
	}
}

func TestRootKeyOfTheEnvironmentReplacesTheOld(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(13)
	p := start(t, m)
	old := *p.RootKey()
	stop(t, p)
	config := testConfig()
	config.RootKey = &Credentials{AccessKey: "OPERATORKEY", Secret: "operator-secret-0123"}
	p, err := Start(t.Context(), config, testSeams(m))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	stop(t, p)
	p = start(t, m) // without the environment: it was stored
	defer stop(t, p)
	if *p.RootKey() != *config.RootKey {
		t.Errorf("the root key is %s", p.AccessKey())
	}
	if _, _, err := p.lookupKey(t.Context(), old.AccessKey); err == nil {
		t.Error("the old root key still works")
	}
}
