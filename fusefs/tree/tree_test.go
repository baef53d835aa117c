package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// mount is a tree over a model, driven the way the kernel drives it.
type mount struct {
	*tree.Tree
	t testing.TB
	m *treetest.Model
}

func newMount(t testing.TB, m *treetest.Model, c tree.Config) *mount {
	t.Helper()
	c.Objects, c.Umask = m, 0o022
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	f := &mount{Tree: tree.New(c), t: t, m: m}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil && !t.Failed() {
			t.Errorf("close: %v", err)
		}
		if used := f.DirtyBytes(); used != 0 {
			t.Errorf("%d bytes of new data are still accounted after close", used)
		}
	})
	return f
}

func setup(t testing.TB) *mount {
	t.Helper()
	return newMount(t, treetest.NewModel(), tree.Config{})
}

func (f *mount) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *mount) want(err, sentinel error) {
	f.t.Helper()
	if !errors.Is(err, sentinel) {
		f.t.Fatalf("error is %v, want %v", err, sentinel)
	}
}

func (f *mount) lookup(parent uint64, name string) tree.Entry {
	f.t.Helper()
	e, err := f.Lookup(f.t.Context(), parent, name)
	f.must(err)
	return e
}

func (f *mount) create(parent uint64, name string) (tree.Entry, uint64) {
	f.t.Helper()
	e, o, err := f.Create(f.t.Context(), parent, name, 0o644, 7, 8, syscall.O_RDWR|syscall.O_CREAT)
	f.must(err)
	return e, o.Handle
}

func (f *mount) open(name string, flags uint32) (tree.Entry, uint64) {
	f.t.Helper()
	e := f.lookup(1, name)
	o, err := f.Open(f.t.Context(), e.Node, flags, false)
	f.must(err)
	return e, o.Handle
}

func (f *mount) write(h uint64, data string, off int64) {
	f.t.Helper()
	n, err := f.Write(f.t.Context(), h, []byte(data), off, false)
	f.must(err)
	if n != len(data) {
		f.t.Fatalf("wrote %d of %d bytes", n, len(data))
	}
}

func (f *mount) flush(h uint64) { f.t.Helper(); f.must(f.Flush(f.t.Context(), h)) }

func (f *mount) release(h uint64) { f.t.Helper(); f.must(f.Release(f.t.Context(), h)) }

func (f *mount) close(h uint64) { f.t.Helper(); f.flush(h); f.release(h) }

func (f *mount) save(parent uint64, name, data string) tree.Entry {
	f.t.Helper()
	e, h := f.create(parent, name)
	f.write(h, data, 0)
	f.close(h)
	return e
}

func (f *mount) mkdir(parent uint64, name string) tree.Entry {
	f.t.Helper()
	e, err := f.Make(f.t.Context(), parent, name, tree.Special{Mode: syscall.S_IFDIR | 0o755})
	f.must(err)
	return e
}

func (f *mount) read(h uint64) string {
	f.t.Helper()
	var out []byte
	buf := make([]byte, 100_000)
	for {
		n, err := f.Read(f.t.Context(), h, buf, int64(len(out)))
		f.must(err)
		if n == 0 {
			return string(out)
		}
		out = append(out, buf[:n]...)
	}
}

func (f *mount) wantData(key, want string) {
	f.t.Helper()
	got, ok := f.m.Data(key)
	if !ok || string(got) != want {
		f.t.Fatalf("object %q is %.40q (%d bytes, there: %v), want %.40q (%d bytes)", key, got, len(got), ok, want, len(want))
	}
}

func (f *mount) wantVersions(key string, n int) {
	f.t.Helper()
	if got := f.m.Published(key); len(got) != n {
		f.t.Fatalf("%q was published %d times, want %d", key, len(got), n)
	}
}

// The shell: FLUSH before the first WRITE (dup2), then WRITE, FLUSH, RELEASE.
func TestEchoMakesOneVersion(t *testing.T) {
	f := setup(t)
	_, h := f.create(1, "f")
	f.flush(h)
	f.write(h, "x\n", 0)
	f.flush(h)
	f.flush(h)
	f.release(h)
	f.wantVersions("f", 1)
	f.wantData("f", "x\n")

	_, h = f.open("f", syscall.O_WRONLY|syscall.O_TRUNC)
	f.flush(h)
	f.wantData("f", "x\n") // held until there is something
	f.write(h, "y\n", 0)
	f.close(h)
	f.wantVersions("f", 2)
	f.wantData("f", "y\n")
}

func TestTruncateAndCreateArePublishedAtTheLastClose(t *testing.T) {
	f := setup(t)
	f.save(1, "f", "old")
	_, h := f.open("f", syscall.O_WRONLY|syscall.O_TRUNC)
	f.close(h)
	f.wantData("f", "")
	f.wantVersions("f", 2)
	_, h = f.create(1, "touched")
	f.flush(h)
	f.wantVersions("touched", 0)
	f.release(h)
	f.wantVersions("touched", 1)
}

func TestReadersPublishNothing(t *testing.T) {
	f := setup(t)
	f.save(1, "f", "data")
	_, h := f.open("f", syscall.O_RDWR)
	if got := f.read(h); got != "data" {
		t.Fatalf("read %q", got)
	}
	f.close(h)
	f.wantVersions("f", 1)
}

// cp -p and tar: SETATTR on the open file is part of the one publish, and an explicit mtime survives it.
func TestAttributesOfADirtyFileComeWithThePublish(t *testing.T) {
	f := setup(t)
	e, h := f.create(1, "f")
	f.write(h, "body", 0)
	when := time.Unix(1234567890, 987654321)
	mode, uid := uint32(0o600), uint32(42)
	_, err := f.SetAttr(t.Context(), e.Node, tree.Change{Mtime: &when})
	f.must(err)
	_, err = f.SetAttr(t.Context(), e.Node, tree.Change{Mode: &mode})
	f.must(err)
	_, err = f.SetAttr(t.Context(), e.Node, tree.Change{UID: &uid})
	f.must(err)
	f.must(f.SetXattr(t.Context(), e.Node, "user.k", []byte("v"), 0))
	f.close(h)
	if n := f.m.Calls("SetAttr"); n != 0 {
		t.Fatalf("%d SetAttr calls, want 0", n)
	}
	a := f.m.Published("f")[0].Attr
	if !a.Mtime.Equal(when) || a.Mode != syscall.S_IFREG|0o600 || a.UID != 42 || string(a.Xattrs["user.k"]) != "v" {
		t.Fatalf("published attributes are %+v", a)
	}
	mode = 0o640
	s, err := f.SetAttr(t.Context(), e.Node, tree.Change{Mode: &mode})
	f.must(err)
	if s.Mode != syscall.S_IFREG|0o640 || !s.Mtime.Equal(when) {
		t.Fatalf("attributes after chmod: %+v", s)
	}
	f.wantVersions("f", 1)
}

func TestLongFileStreamsAsPartsWhileItIsWritten(t *testing.T) {
	f := setup(t)
	_, h := f.create(1, "big")
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for i := range 40 {
		block[0] = byte(i)
		if _, err := f.Write(t.Context(), h, block, int64(i)<<20, false); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for f.m.Calls("Part") < 4 {
		if time.Now().After(deadline) {
			t.Fatalf("%d parts are stored before the close, want 4", f.m.Calls("Part"))
		}
		_, _ = f.Read(t.Context(), h, block[:1], 0)
	}
	got := make([]byte, 1<<20)
	for _, i := range []int{0, 7, 8, 39} { // read back: stored and in memory
		if n, err := f.Read(t.Context(), h, got, int64(i)<<20); err != nil || n != len(got) || got[0] != byte(i) {
			t.Fatalf("block %d: %d bytes, %v, first byte %d", i, n, err, got[0])
		}
	}
	f.close(h)
	f.wantVersions("big", 1)
	data, _ := f.m.Data("big")
	if len(data) != 40<<20 {
		t.Fatalf("object has %d bytes", len(data))
	}
	for i := range 40 {
		if data[i<<20] != byte(i) || !bytes.Equal(data[i<<20+1:i<<20+100], block[1:100]) {
			t.Fatalf("block %d is wrong", i)
		}
	}
	f.m.Fail(nil)
	f.wantNoLeftovers()
}

func (f *mount) wantNoLeftovers() {
	f.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		u, s, r := f.m.Leftover()
		if u+s+r == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("left over: %d uploads, %d stages, %d readers", u, s, r)
		}
		<-time.After(time.Millisecond)
	}
}

func TestRandomWritesSendOnlyWhatChanged(t *testing.T) {
	f := setup(t)
	base := bytes.Repeat([]byte("base"), 5<<20) // 20 MiB
	f.m.Put("f", base)
	want := slices.Clone(base)
	_, h := f.open("f", syscall.O_RDWR)
	for i := range 50 {
		off := rand.Int64N(int64(len(base)) - 10)
		data := fmt.Sprintf("<%07d>", i)
		copy(want[off:], data)
		f.write(h, data, off)
	}
	f.close(h)
	f.wantData("f", string(want))
	if n := f.m.Stored(); n > 50*9 {
		t.Fatalf("%d bytes were sent for 450 bytes of changes", n)
	}
	e, h := f.open("f", syscall.O_WRONLY|syscall.O_APPEND)
	f.write(h, "tail", 0)
	f.close(h)
	f.wantData("f", string(want)+"tail")
	size := int64(100)
	_, err := f.SetAttr(t.Context(), e.Node, tree.Change{Size: &size})
	f.must(err)
	f.wantData("f", string(want[:100]))
	f.wantNoLeftovers()
}

func TestFsyncStagesWithoutPublishing(t *testing.T) {
	f := setup(t)
	e, h := f.create(1, "db")
	f.write(h, "page one", 0)
	f.must(f.Fsync(t.Context(), h))
	f.must(f.Fsync(t.Context(), h))
	f.wantVersions("db", 0)
	if n := f.m.Calls("Stage"); n != 1 {
		t.Fatalf("%d stages for one change, want 1", n)
	}
	if got, ok := f.m.Staged("db", e.Stat.Inode); !ok || string(got) != "page one" {
		t.Fatalf("staged %q", got)
	}
	// Renamed while it is open: the stage follows.
	f.must(f.Rename(t.Context(), 1, "db", 1, "db2", 0))
	if _, ok := f.m.Staged("db", e.Stat.Inode); ok {
		t.Fatal("the stage is still under the old name")
	}
	if got, ok := f.m.Staged("db2", e.Stat.Inode); !ok || string(got) != "page one" {
		t.Fatalf("staged under the new name: %q, %v", got, ok)
	}
	f.close(h)
	f.wantData("db2", "page one")
	f.wantNoLeftovers()
}

func TestStagedContentSurvivesTheMount(t *testing.T) {
	f := setup(t)
	_, h := f.create(1, "f")
	f.write(h, "durable", 0)
	f.must(f.Fsync(t.Context(), h))
	f.write(h, " and lost", 7)
	f.m.EndSession() // what the store does when the mount dies
	f.wantData("f", "durable")
}

func TestUnlinkedOpenFileLivesAndIsNeverPublished(t *testing.T) {
	f := setup(t)
	f.save(1, "f", "content")
	e, h := f.open("f", syscall.O_RDWR)
	f.must(f.Unlink(t.Context(), 1, "f"))
	if got := f.read(h); got != "content" {
		t.Fatalf("unlinked file reads %q", got)
	}
	f.write(h, "CON", 0)
	s, err := f.GetAttr(t.Context(), e.Node)
	f.must(err)
	if s.Links != 0 || s.Size != 7 {
		t.Fatalf("stat of the unlinked file: %+v", s)
	}
	f.must(f.Fsync(t.Context(), h))
	f.close(h)
	f.wantVersions("f", 1)
	if keys := f.m.Keys(); len(keys) != 0 {
		t.Fatalf("keys are %q", keys)
	}
	_, h = f.create(1, "temp")
	f.write(h, "x", 0)
	f.must(f.Fsync(t.Context(), h))
	f.must(f.Unlink(t.Context(), 1, "temp"))
	f.close(h)
	f.wantVersions("temp", 0)
	f.wantNoLeftovers()
}

// rsync: the temporary file is closed and then renamed onto the target.
func TestRenameMovesTheVersion(t *testing.T) {
	f := setup(t)
	f.save(1, "target", "old")
	tmp := f.save(1, ".target.XYZ", "new")
	_, old := f.open("target", syscall.O_RDONLY)
	f.must(f.Rename(t.Context(), 1, ".target.XYZ", 1, "target", 0))
	f.wantData("target", "new")
	if keys := f.m.Keys(); !slices.Equal(keys, []string{"target"}) {
		t.Fatalf("keys are %q", keys)
	}
	if got := f.read(old); got != "old" {
		t.Fatalf("the replaced file reads %q", got)
	}
	f.close(old)
	if e := f.lookup(1, "target"); e.Stat.Inode != tmp.Stat.Inode || e.Node != tmp.Node {
		t.Fatalf("inode changed with the name")
	}
	f.want(f.Rename(t.Context(), 1, "nothing", 1, "x", 0), tree.ErrNotExist)
	f.save(1, "other", "o")
	f.want(f.Rename(t.Context(), 1, "other", 1, "target", tree.NoReplace), tree.ErrExists)
	f.want(f.Rename(t.Context(), 1, "other", 1, "target", 2), tree.ErrInvalid)
}

func TestRenameOfADirtyFileFollowsTheInode(t *testing.T) {
	f := setup(t)
	f.mkdir(1, "d")
	for _, published := range []bool{false, true} {
		name := fmt.Sprintf("f%v", published)
		if published {
			f.save(1, name, "0123456789")
		}
		e, h := uint64(0), uint64(0)
		if published {
			_, h = f.open(name, syscall.O_RDWR)
		} else {
			_, h = f.create(1, name)
		}
		f.write(h, "abc", 0)
		f.must(f.Rename(t.Context(), 1, name, 1, name+"2", 0))
		d := f.lookup(1, "d")
		f.must(f.Rename(t.Context(), 1, name+"2", d.Node, "x", 0))
		f.must(f.Rename(t.Context(), 1, "d", 1, "dd", 0))
		f.write(h, "def", 3)
		f.close(h)
		_ = e
		want := "abcdef"
		if published {
			want = "abcdef6789"
		}
		f.wantData("dd/x", want)
		f.must(f.Unlink(t.Context(), f.lookup(1, "dd").Node, "x"))
		f.must(f.Rename(t.Context(), 1, "dd", 1, "d", 0))
	}
	if keys := f.m.Keys(); !slices.Equal(keys, []string{"d/"}) {
		t.Fatalf("keys are %q", keys)
	}
}

func TestRenameDirWithABigDirtyFileBelow(t *testing.T) {
	f := setup(t)
	d := f.mkdir(1, "d")
	base := bytes.Repeat([]byte("x"), 1<<20)
	f.m.Put("d/f", base)
	e, err := f.Lookup(t.Context(), d.Node, "f")
	f.must(err)
	o, err := f.Open(t.Context(), e.Node, syscall.O_RDWR, false)
	f.must(err)
	f.write(o.Handle, "new", 5)
	f.must(f.Rename(t.Context(), 1, "d", 1, "e", 0))
	f.close(o.Handle)
	want := slices.Clone(base)
	copy(want[5:], "new")
	f.wantData("e/f", string(want))
	if n := f.m.Stored(); n > 100 {
		t.Fatalf("%d bytes were sent for three", n)
	}
}

func TestCloseTellsTheTruth(t *testing.T) {
	f := setup(t)
	for _, op := range []string{"Publish", "Part", "Begin"} {
		t.Run(op, func(t *testing.T) {
			_, h := f.create(1, op)
			var fired bool
			f.m.Fail(func(o, _ string) error {
				if o == op {
					fired = true
					return fmt.Errorf("injected: %w", tree.ErrNoSpace)
				}
				return nil
			})
			size := 10
			if op != "Publish" {
				size = 9 << 20
			}
			_, werr := f.Write(t.Context(), h, make([]byte, size), 0, false)
			if err := f.Flush(t.Context(), h); !errors.Is(err, tree.ErrNoSpace) && !errors.Is(werr, tree.ErrNoSpace) {
				t.Fatalf("close returns %v, want no space", err)
			}
			if err := f.Fsync(t.Context(), h); op != "Publish" && !errors.Is(err, tree.ErrNoSpace) {
				t.Fatalf("fsync returns %v, want no space", err)
			}
			if !fired {
				t.Fatal("the fault did not fire")
			}
			f.wantVersions(op, 0)
			f.m.Fail(nil)
			f.close(h) // the data is still there: a second close stores it
			data, _ := f.m.Data(op)
			if len(data) != size {
				t.Fatalf("object has %d bytes, want %d", len(data), size)
			}
		})
	}
}

func TestWritersWaitForMemory(t *testing.T) {
	m := treetest.NewModel()
	f := newMount(t, m, tree.Config{Memory: 64 << 20, Uploads: 2})
	gate := make(chan struct{})
	m.Fail(func(op, _ string) error {
		if op == "Part" {
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for i := range 4 {
		_, h := f.create(1, fmt.Sprint(i))
		wg.Add(1)
		go func() {
			defer wg.Done()
			block := make([]byte, 1<<20)
			for j := range 40 {
				if _, err := f.Write(context.Background(), h, block, int64(j)<<20, false); err != nil {
					errs <- err
					return
				}
			}
			errs <- errors.Join(f.Flush(context.Background(), h), f.Release(context.Background(), h))
		}()
	}
	deadline := time.Now().Add(5 * time.Second)
	for f.DirtyBytes() < 48<<20 {
		if time.Now().After(deadline) {
			t.Fatalf("only %d bytes are in memory", f.DirtyBytes())
		}
		<-time.After(time.Millisecond)
	}
	if used := f.DirtyBytes(); used > 64<<20 {
		t.Fatalf("%d bytes in memory, the bound is 64 MiB", used)
	}
	close(gate)
	wg.Wait()
	for range 4 {
		f.must(<-errs)
	}
	for i := range 4 {
		if data, _ := m.Data(fmt.Sprint(i)); len(data) != 40<<20 {
			t.Fatalf("file %d has %d bytes", i, len(data))
		}
	}
}

func TestFullMemoryWithADeadStoreIsAnErrorNotAHang(t *testing.T) {
	m := treetest.NewModel()
	f := newMount(t, m, tree.Config{Memory: 64 << 20})
	m.Fail(func(op, _ string) error {
		if op == "Part" {
			return tree.ErrIO
		}
		return nil
	})
	_, h := f.create(1, "f")
	block := make([]byte, 1<<20)
	var err error
	for j := 0; err == nil && j < 200; j++ {
		_, err = f.Write(t.Context(), h, block, int64(j)<<20, false)
	}
	f.want(err, tree.ErrIO)
	f.must(f.Unlink(t.Context(), 1, "f"))
	f.release(h)
}

func TestDirectoryTimes(t *testing.T) {
	f := setup(t)
	d := f.mkdir(1, "d")
	old := time.Unix(1_000_000_000, 5)
	_, err := f.SetAttr(t.Context(), d.Node, tree.Change{Mtime: &old})
	f.must(err)
	f.save(d.Node, "f", "x")
	s, err := f.GetAttr(t.Context(), d.Node)
	f.must(err)
	if time.Since(s.Mtime) > time.Minute {
		t.Fatalf("a new entry left the directory's mtime at %v", s.Mtime)
	}
	s, err = f.SetAttr(t.Context(), d.Node, tree.Change{Mtime: &old})
	f.must(err)
	if !s.Mtime.Equal(old) || !f.lookup(1, "d").Stat.Mtime.Equal(old) {
		t.Fatalf("mtime is %v, want what was set", s.Mtime)
	}
}

func TestSequentialReadsComeInWindows(t *testing.T) {
	for _, memory := range []int64{0, 2 << 20, -1} {
		m := treetest.NewModel()
		f := newMount(t, m, tree.Config{ReadMemory: memory})
		data := make([]byte, 33<<20+123)
		for i := range data {
			data[i] = byte(i ^ i>>8 ^ i>>16)
		}
		m.Put("f", data)
		_, h := f.open("f", syscall.O_RDONLY)
		buf := make([]byte, 128<<10)
		for off := 0; off < len(data); off += len(buf) {
			// The kernel's read-ahead arrives out of order.
			at := int64(off ^ 1<<17)
			n, err := f.Read(t.Context(), h, buf, at)
			f.must(err)
			want := data[min(int(at), len(data)):min(int(at)+len(buf), len(data))]
			if !bytes.Equal(buf[:n], want) {
				t.Fatalf("read at %d: %d bytes, or others, want %d", at, n, len(want))
			}
		}
		calls := m.Calls("ReadAt")
		if memory == 0 && calls > 12 {
			t.Errorf("33 MiB took %d requests", calls)
		}
		for range 200 { // random reads fetch nothing ahead
			at := rand.Int64N(int64(len(data)))
			n, err := f.Read(t.Context(), h, buf[:4096], at)
			f.must(err)
			if want := data[at:min(int(at)+4096, len(data))]; !bytes.Equal(buf[:n], want) {
				t.Fatalf("random read at %d differs", at)
			}
		}
		f.close(h)
		f.wantNoLeftovers()
	}
}

func TestSmallFilesAreReadInOneRequest(t *testing.T) {
	f := setup(t)
	f.m.Put("f", bytes.Repeat([]byte("x"), 900_000))
	_, h := f.open("f", syscall.O_RDONLY)
	if got := f.read(h); len(got) != 900_000 {
		t.Fatalf("read %d bytes", len(got))
	}
	if n := f.m.Calls("ReadAt"); n != 1 {
		t.Errorf("900 kB took %d requests", n)
	}
	f.close(h)
}

// Programs write parts of one file, sync it and close it at the same time.
func TestWritersOfOneFileDoNotLoseEachOthersBytes(t *testing.T) {
	f := setup(t)
	const size, each = 1 << 20, 1 << 18
	f.m.Put("f", make([]byte, size))
	var wg sync.WaitGroup
	for w := range 4 {
		_, h := f.open("f", syscall.O_RDWR)
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx := context.Background()
			var errs []error
			for i := 0; i < each; i += 1000 {
				p := bytes.Repeat([]byte{byte(1 + w*50 + i%49)}, min(1000, each-i))
				_, err := f.Write(ctx, h, p, int64(w*each+i), false)
				errs = append(errs, err)
				got := make([]byte, len(p))
				_, err = f.Read(ctx, h, got, int64(w*each+i))
				if errs = append(errs, err); !bytes.Equal(got, p) {
					errs = append(errs, fmt.Errorf("writer %d reads back other bytes at %d", w, i))
				}
				switch i / 1000 % 7 {
				case 2:
					errs = append(errs, f.Flush(ctx, h))
				case 4:
					errs = append(errs, f.Fsync(ctx, h))
				case 6:
					errs = append(errs, f.Squeeze())
				}
			}
			if err := errors.Join(append(errs, f.Flush(ctx, h), f.Release(ctx, h))...); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	data, _ := f.m.Data("f")
	for w := range 4 {
		for i := 0; i < each; i++ {
			if want := byte(1 + w*50 + i/1000*1000%49); data[w*each+i] != want {
				t.Fatalf("byte %d of writer %d is %d, want %d", i, w, data[w*each+i], want)
			}
		}
	}
	if n := len(f.m.Published("f")); n < 10 {
		t.Fatalf("only %d publishes ran between the writes", n)
	}
	f.wantNoLeftovers()
}

// Another client replaced the object while it was open here: the last close wins, whole.
func TestLastCloseWins(t *testing.T) {
	f := setup(t)
	base := bytes.Repeat([]byte("base"), 100_000)
	f.m.Put("f", base)
	e, h := f.open("f", syscall.O_RDWR)
	_, reader := f.open("f", syscall.O_RDONLY)
	f.read(reader)
	f.write(h, "mine", 10)
	f.m.Put("f", []byte("theirs"))
	f.close(h)
	want := slices.Clone(base)
	copy(want[10:], "mine")
	f.wantData("f", string(want))
	f.close(reader)

	// Replaced while open and clean: the handle keeps its version, new opens see the new one.
	_, h = f.open("f", syscall.O_RDONLY)
	f.read(h)
	f.m.Put("f", []byte("newer"))
	now := f.lookup(1, "f")
	if now.Node == e.Node {
		t.Fatal("the new version has the node of the open one")
	}
	if got := f.read(h); got != string(want) {
		t.Fatal("the open handle does not read its version")
	}
	_, h2 := f.open("f", syscall.O_RDONLY)
	if got := f.read(h2); got != "newer" {
		t.Fatalf("a new open reads %q", got)
	}
	f.close(h)
	f.close(h2)
	f.wantNoLeftovers()
}

func TestExclusiveCreateIsCheckedAgainAtClose(t *testing.T) {
	f := setup(t)
	_, o, err := f.Create(t.Context(), 1, "lock", 0o644, 0, 0, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL)
	f.must(err)
	f.write(o.Handle, "mine", 0)
	f.m.Put("lock", []byte("theirs"))
	f.want(f.Flush(t.Context(), o.Handle), tree.ErrExists)
	f.want(f.Release(t.Context(), o.Handle), tree.ErrExists)
	f.wantData("lock", "theirs")
}

// A database that syncs after every page does not run out of parts: their numbers are used again, and small parts are
// gathered.
func TestManySyncsDoNotRunOutOfParts(t *testing.T) {
	for name, c := range map[string]struct{ syncs, places, page int }{
		"pages again and again": {10_100, 48, 2048}, // more than there are part numbers
		"many small places":     {1_300, 1_300, 16}, // more than are kept before they are gathered
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			want := make([]byte, 128<<10)
			f.m.Put("db", slices.Clone(want))
			_, h := f.open("db", syscall.O_RDWR)
			for i := range c.syncs {
				off := i * 37 % c.places * (len(want) / c.places)
				p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, c.page/2)
				copy(want[off:], p)
				f.write(h, string(p), int64(off))
				f.must(f.Fsync(t.Context(), h))
			}
			if n := f.m.Calls("Stage"); n != c.syncs {
				t.Fatalf("%d stages, want %d", n, c.syncs)
			}
			f.close(h)
			f.wantData("db", string(want))
			f.wantVersions("db", 1)
			f.wantNoLeftovers()
		})
	}
}
