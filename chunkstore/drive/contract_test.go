package drive_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

var identity = drive.Identity{
	Format:       drive.IdentityFormat,
	Cluster:      cluster.ClusterID{1, 2, 3},
	Drive:        cluster.DriveID{4, 5, 6},
	Name:         "d1",
	Created:      time.Unix(1_790_000_000, 0).UTC(),
	IntegrityKey: [32]byte{7, 8, 9},
}

const home = "/mnt/d1"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// open opens the drive at home of m and closes it with the test.
func open(t testing.TB, f vfs.FS, edit ...func(*drive.Config)) *drive.Drive {
	t.Helper()
	d, err := tryOpen(t, f, edit...)
	must(t, err)
	return d
}

func tryOpen(t testing.TB, f vfs.FS, edit ...func(*drive.Config)) (*drive.Drive, error) {
	t.Helper()
	c := drive.Config{FS: f, Dir: home, Cluster: identity.Cluster, Reserve: -1, Watch: -1}
	for _, e := range edit {
		e(&c)
	}
	d, err := drive.Open(t.Context(), c)
	if err == nil {
		t.Cleanup(func() {
			if err := d.Close(); err != nil && !errors.Is(err, vfs.ErrPowerLost) {
				t.Errorf("close: %v", err)
			}
		})
	}
	return d, err
}

func newMemory(t testing.TB, seed uint64) *vfs.Memory {
	t.Helper()
	m := vfs.NewMemory(seed)
	must(t, drive.Init(m, home, identity))
	return m
}

func TestContractOverMemory(t *testing.T) {
	drivetest.Run(t, func(t testing.TB) drivetest.Env {
		m := newMemory(t, 1)
		return drivetest.Env{
			Drive: open(t, m),
			Reopen: func(t testing.TB, d chunkstore.Drive) chunkstore.Drive {
				must(t, d.Close())
				return open(t, m)
			},
			Damage: func(t testing.TB, d chunkstore.Drive, s *drivetest.Shard, off int64) {
				name := chunkFiles(t, m)[0]
				at := find(t, m, name, s.Payload[off:off+32])
				must(t, m.Corrupt(name, at, func(b []byte) { b[0] ^= 1 }))
			},
			SetFull: func(_ testing.TB, full bool) {
				m.SetCapacity(0)
				if full {
					m.SetCapacity(1)
				}
			},
		}
	})
}

func TestContractOverOS(t *testing.T) {
	drivetest.Run(t, func(t testing.TB) drivetest.Env {
		dir := filepath.Join(t.TempDir(), "d1")
		must(t, drive.Init(vfs.OS(), dir, identity))
		at := func(c *drive.Config) { c.Dir = dir }
		return drivetest.Env{
			Drive: open(t, vfs.OS(), at),
			Reopen: func(t testing.TB, d chunkstore.Drive) chunkstore.Drive {
				must(t, d.Close())
				return open(t, vfs.OS(), at)
			},
			Damage: func(t testing.TB, d chunkstore.Drive, s *drivetest.Shard, off int64) {
				names, err := filepath.Glob(dir + "/volumes/*/*")
				must(t, err)
				offset := find(t, vfs.OS(), names[0], s.Payload[off:off+32])
				file, err := os.OpenFile(names[0], os.O_RDWR, 0)
				must(t, err)
				_, err = file.WriteAt([]byte{s.Payload[off] ^ 1}, offset)
				must(t, err)
				must(t, file.Close())
			},
		}
	})
}

// chunkFiles lists the chunk files of the drive at home.
func chunkFiles(t testing.TB, f vfs.FS) []string {
	t.Helper()
	var names []string
	dirs, err := f.ReadDir(home + "/volumes")
	must(t, err)
	for _, dir := range dirs {
		list, err := f.ReadDir(home + "/volumes/" + dir.Name())
		must(t, err)
		for _, entry := range list {
			names = append(names, home+"/volumes/"+dir.Name()+"/"+entry.Name())
		}
	}
	return names
}

func find(t testing.TB, f vfs.FS, name string, bytes []byte) int64 {
	t.Helper()
	content, err := vfs.ReadFile(f, name, 1<<30)
	must(t, err)
	at := strings.Index(string(content), string(bytes))
	if at < 0 {
		t.Fatal("the shard's bytes are not in the file")
	}
	return int64(at)
}

func TestInitAndOpenTellWhatIsWrong(t *testing.T) {
	m := vfs.NewMemory(1)
	_, err := drive.ReadIdentity(m, home)
	wantIs(t, err, drive.ErrNoIdentity)
	_, err = tryOpen(t, m)
	wantIs(t, err, drive.ErrNoIdentity)
	must(t, drive.Init(m, home, identity))
	wantIs(t, drive.Init(m, home, identity), drive.ErrNotEmpty)
	got, err := drive.ReadIdentity(m, home)
	must(t, err)
	if got != identity {
		t.Errorf("identity %+v, want %+v", got, identity)
	}
	for name, edit := range map[string]func(*drive.Config){
		"cluster": func(c *drive.Config) { c.Cluster[0]++ },
		"drive":   func(c *drive.Config) { c.Drive[0] = 1 },
		"key":     func(c *drive.Config) { c.Key[0] = 1 },
	} {
		if _, err := tryOpen(t, m, edit); !errors.Is(err, drive.ErrForeign) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if _, err := m.Stat(home + "/lock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a foreign drive was touched: %v", err)
	}
	d := open(t, m)
	_, err = tryOpen(t, m)
	wantIs(t, err, drive.ErrLocked)
	must(t, d.Close())
	must(t, open(t, m).Close())
	for _, name := range []string{"/identity.a", "/identity.b"} {
		must(t, m.Corrupt(home+name, 0, func(b []byte) { b[20] ^= 1 }))
	}
	_, err = tryOpen(t, m)
	wantIs(t, err, drive.ErrBadIdentity)
}

func TestEveryByteOfAnIdentityCopyMayRot(t *testing.T) {
	for _, name := range []string{"/identity.a", "/identity.b"} {
		m := newMemory(t, 1)
		want, err := vfs.ReadFile(m, home+name, 4096)
		must(t, err)
		for at := range want {
			must(t, m.Corrupt(home+name, int64(at), func(b []byte) { b[0] ^= byte(1 << (at % 8)) }))
			must(t, open(t, m).Close())
			got, err := vfs.ReadFile(m, home+name, 4096)
			must(t, err)
			if string(got) != string(want) {
				t.Fatalf("byte %d of %s was not rewritten", at, name)
			}
		}
		must(t, m.RemoveAll(home+name))
		must(t, open(t, m).Close())
		if _, err := m.Stat(home + name); err != nil {
			t.Errorf("a lost copy was not rewritten: %v", err)
		}
	}
}

func TestDriveMovedAwayAcknowledgesNothing(t *testing.T) {
	// The second volume has no chunk file yet, and no directory.
	for _, volume := range []chunkstore.VolumeID{1, 2} {
		t.Run(fmt.Sprint("volume ", volume), func(t *testing.T) { movedAway(t, volume) })
	}
}

func movedAway(t *testing.T, volume chunkstore.VolumeID) {
	m := newMemory(t, 1)
	d := open(t, m)
	first := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 5000)
	must(t, first.Put(t.Context(), d))
	must(t, m.Move(home, "/mnt/elsewhere"))
	wantIs(t, drivetest.NewShard(drivetest.Key(volume, 2, 0), 1, 5000).Put(t.Context(), d), chunkstore.ErrDriveDown)
	wantIs(t, d.Status().Down, chunkstore.ErrDriveDown)
	if _, err := m.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another directory came into being where the drive was: %v", err)
	}
	_, err := first.Read(t.Context(), d)
	wantIs(t, err, chunkstore.ErrDriveDown)
	must(t, d.Close())
	_, err = tryOpen(t, m)
	wantIs(t, err, drive.ErrNoIdentity)
	must(t, m.Move("/mnt/elsewhere", home))
	drivetest.WantRead(t, open(t, m), first)
}

func TestIdleDriveNoticesThatItWasMovedAway(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m, func(c *drive.Config) { c.Watch = time.Millisecond })
	must(t, m.Move(home, "/mnt/elsewhere"))
	deadline := time.After(10 * time.Second)
	for d.Status().Down == nil {
		select {
		case <-deadline:
			t.Fatal("the drive still works")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestChunkFilesRollAndIndexRecordsAreFound(t *testing.T) {
	m := newMemory(t, 1)
	small := func(c *drive.Config) { c.FileSize = 1 << 20 }
	d := open(t, m, small)
	var shards []*drivetest.Shard
	for i := range uint32(400) {
		s := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 1+i%3*40_000)
		must(t, s.Put(t.Context(), d))
		shards = append(shards, s)
	}
	if n := len(chunkFiles(t, m)); n < 4 {
		t.Fatalf("%d chunk files", n)
	}
	for range 3 {
		for _, s := range shards {
			drivetest.WantRead(t, d, s)
		}
		must(t, d.Close())
		d = open(t, m, small)
	}
	var keys []chunkstore.ShardKey
	for _, s := range shards {
		keys = append(keys, s.Header.Key)
	}
	must(t, d.Delete(t.Context(), keys[:300]))
	if n := len(chunkFiles(t, m)); n > 2 {
		t.Errorf("%d chunk files left of deleted shards", n)
	}
	must(t, d.Seal(t.Context(), 1, 2))
	must(t, d.Delete(t.Context(), keys[300:]))
	if names := chunkFiles(t, m); len(names) != 0 {
		t.Errorf("files left of a volume without shards: %v", names)
	}
	if status := d.Status(); status.Shards != 0 || status.Bytes != 0 {
		t.Errorf("status %+v", status)
	}
}

func TestManyShardsOpenQuickly(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	const count = 9000 // more than one segment of smallest records
	errs := make(chan error, count)
	limit := make(chan struct{}, 128)
	for i := range uint32(count) {
		limit <- struct{}{}
		go func() {
			defer func() { <-limit }()
			errs <- drivetest.NewShard(drivetest.Key(1, i, 3), 1, 1).Put(t.Context(), d)
		}()
	}
	for range count {
		must(t, <-errs)
	}
	for _, end := range []string{"kill", "close"} {
		if end == "kill" {
			m = m.Kill()
		} else {
			must(t, d.Close())
		}
		d = open(t, m)
		if n := d.Status().Shards; n != count {
			t.Fatalf("after %s: %d shards", end, n)
		}
		for i := uint32(0); i < count; i += 500 {
			drivetest.WantRead(t, d, drivetest.NewShard(drivetest.Key(1, i, 3), 1, 1))
		}
	}
	reads := m.Inject(vfs.Rule{Op: vfs.OpRead, Path: "volumes"})
	must(t, d.Close())
	open(t, m)
	if n := reads.Fired(); n == 0 || n > 20 {
		t.Errorf("opening a closed drive of %d shards took %d reads", count, n)
	}
}

func TestDeleteGivesSpaceBack(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	var keys []chunkstore.ShardKey
	for i := range uint32(20) {
		s := drivetest.NewShard(drivetest.Key(1, i, 0), 1, chunkstore.MaxChunk)
		must(t, s.Put(t.Context(), d))
		keys = append(keys, s.Header.Key)
	}
	before, err := m.Usage(home)
	must(t, err)
	must(t, d.Delete(t.Context(), keys))
	after, err := m.Usage(home)
	must(t, err)
	if freed := after.Free - before.Free; freed < 20<<20 {
		t.Errorf("deleting 20 MiB freed %d bytes", freed)
	}
}

func TestReserveMakesADriveFull(t *testing.T) {
	m := newMemory(t, 1)
	m.SetCapacity(64 << 20)
	d := open(t, m, func(c *drive.Config) { c.Reserve = 64 << 20 })
	wantIs(t, drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 5000).Put(t.Context(), d), chunkstore.ErrFull)
	if s := d.Status(); !s.Full || s.Down != nil || s.Total != 64<<20 {
		t.Errorf("status %+v", s)
	}
}

func Example() {
	m := vfs.NewMemory(1)
	if err := drive.Init(m, "/mnt/d1", drive.Identity{Name: "d1"}); err != nil {
		fmt.Println(err)
	}
	id, err := drive.ReadIdentity(m, "/mnt/d1")
	fmt.Println(id.Name, err)
	// Output: d1 <nil>
}
