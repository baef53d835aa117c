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
	c.Umask = 0o022
	if c.Objects == nil {
		c.Objects = m
	}
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
