package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestContract holds every FS to the contract in vfs.go.
func TestContract(t *testing.T) {
	systems := map[string]func(t *testing.T) (vfs.FS, string){
		"os": func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"memory": func(t *testing.T) (vfs.FS, string) {
			m := vfs.NewMemory(1)
			must(t, vfs.MkdirAll(m, "/mnt/work", 0o755))
			return m, "/mnt/work"
		},
	}
	claims := map[string]func(t *testing.T, f vfs.FS, dir string){
		"OpenFlags":                  openFlags,
		"ReadsWhatWasWritten":        readsWritten,
		"WritesManyBuffers":          writesManyBuffers,
		"WriteSyncWritesInPlace":     writeSync,
		"StartedWritesAllEnd":        startWrites,
		"DirectNeedsAlignment":       directNeedsAlignment,
		"DirectReadsShortTail":       directTail,
		"HolesReadAsZeros":           holes,
		"AllocateKeepsTheSize":       allocate,
		"TruncateCutsAndGrows":       truncate,
		"DirectoriesListSorted":      directories,
		"RenameReplaces":             renames,
		"RemoveWantsEmpty":           removes,
		"LockIsExclusive":            locks,
		"InodesTellFilesApart":       inodes,
		"ClosedFilesRefuse":          closedFiles,
		"UnlinkedFilesStayReadable":  unlinked,
		"UsageIsPlausible":           usage,
		"WholeFilesAndReplacement":   wholeFiles,
		"ConcurrentWritesAllArrive":  concurrent,
		"MkdirAllMakesEveryAncestor": mkdirAll,
	}
	for system, open := range systems {
		for claim, check := range claims {
			t.Run(system+"/"+claim, func(t *testing.T) {
				f, dir := open(t)
				check(t, f, dir)
			})
		}
	}
}

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

func create(t testing.TB, f vfs.FS, name string, content []byte) vfs.File {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	t.Cleanup(func() {
		if err := file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	if n, err := file.WriteAt(content, 0); err != nil || n != len(content) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(content), err)
	}
	return file
}

func wantContent(t testing.TB, f vfs.FS, name string, want []byte) {
	t.Helper()
	got, err := vfs.ReadFile(f, name, 1<<26)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("%s holds %d bytes %.40q, want %d bytes %.40q", name, len(got), got, len(want), want)
	}
}

func openFlags(t *testing.T, f vfs.FS, dir string) {
	name := path.Join(dir, "a")
	_, err := f.OpenFile(name, os.O_RDWR, 0)
	wantIs(t, err, fs.ErrNotExist)
	create(t, f, name, []byte("hello"))
	_, err = f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	wantIs(t, err, fs.ErrExist)
	_, err = f.OpenFile(path.Join(dir, "no", "a"), os.O_RDWR|os.O_CREATE, 0o644)
	wantIs(t, err, fs.ErrNotExist)
	_, err = f.OpenFile(path.Join(name, "a"), os.O_RDWR|os.O_CREATE, 0o644)
	wantIs(t, err, syscall.ENOTDIR)
	reader, err := f.OpenFile(name, os.O_RDONLY, 0)
	must(t, err)
	if _, err := reader.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a write through a read-only handle succeeded")
	}
	must(t, reader.Close())
	cut, err := f.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
	must(t, err)
	must(t, cut.Close())
	wantContent(t, f, name, nil)
}

func readsWritten(t *testing.T, f vfs.FS, dir string) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	file := create(t, f, path.Join(dir, "a"), content)
	got := make([]byte, 100)
	if n, err := file.ReadAt(got, 4090); n != 100 || err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	if !bytes.Equal(got, content[4090:4190]) {
		t.Errorf("read %q", got)
	}
	if n, err := file.ReadAt(got, int64(len(content))-10); n != 10 || err != io.EOF {
		t.Errorf("at the end: %d bytes, %v; want 10, EOF", n, err)
	}
	if n, err := file.ReadAt(got, int64(len(content))+10); n != 0 || err != io.EOF {
		t.Errorf("past the end: %d bytes, %v; want 0, EOF", n, err)
	}
	must(t, file.Sync())
	must(t, f.SyncDir(dir))
}

func writeSync(t *testing.T, f vfs.FS, dir string) {
	name := path.Join(dir, "a")
	want := bytes.Repeat([]byte("0123456789abcdef"), 2*vfs.Align/16)
	must(t, create(t, f, name, want).Sync())
	must(t, f.SyncDir(dir))
	for _, flag := range []int{0, vfs.Direct} {
		file, err := f.OpenFile(name, os.O_RDWR|flag, 0)
		if errors.Is(err, vfs.ErrNoDirect) {
			continue
		}
		must(t, err)
		page := vfs.Aligned(vfs.Align)
		copy(page, bytes.Repeat([]byte{'A' + byte(flag%7)}, vfs.Align))
		must(t, file.WriteSync(page, vfs.Align))
		copy(want[vfs.Align:], page)
		if flag == 0 {
			must(t, file.WriteSync([]byte("odd"), 5))
			copy(want[5:], "odd")
		}
		must(t, file.Close())
		wantContent(t, f, name, want)
		wantIs(t, file.WriteSync(page, 0), fs.ErrClosed)
	}
	if m, ok := f.(*vfs.Memory); ok {
		wantContent(t, m.Crash(), name, want)
	}
}

func startWrites(t *testing.T, f vfs.FS, dir string) {
	const files, pages = 20, 4 // more files than one call of the kernel takes
	type target struct {
		name string
		file vfs.File
		want []byte
	}
	var targets []target
	for i := range files {
		name := path.Join(dir, fmt.Sprint(i))
		want := make([]byte, pages*vfs.Align)
		must(t, create(t, f, name, want).Sync())
		flag := vfs.Direct
		if i%5 == 4 {
			flag = 0
		}
		file, err := f.OpenFile(name, os.O_RDWR|flag, 0)
		if errors.Is(err, vfs.ErrNoDirect) {
			file, err = f.OpenFile(name, os.O_RDWR, 0)
		}
		must(t, err)
		targets = append(targets, target{name, file, want})
	}
	must(t, f.SyncDir(dir))
	closed, err := f.OpenFile(targets[0].name, os.O_RDWR, 0)
	must(t, err)
	must(t, closed.Close())
	for page := range pages {
		data := vfs.Aligned(vfs.Align)
		copy(data, bytes.Repeat([]byte{byte('a' + page)}, vfs.Align))
		ends := make(chan error, files+1)
		var writes []vfs.SyncWrite
		for _, to := range targets {
			copy(to.want[page*vfs.Align:], data)
			writes = append(writes, vfs.SyncWrite{File: to.file, Data: data, Off: int64(page * vfs.Align), Done: func(err error) { ends <- err }})
		}
		if page == 1 {
			writes = append(writes, vfs.SyncWrite{File: closed, Data: data, Done: func(err error) {
				if !errors.Is(err, fs.ErrClosed) {
					t.Errorf("a write to a closed file gives %v", err)
				}
				ends <- nil
			}})
		}
		vfs.StartWrites(writes)
		for range writes {
			select {
			case err := <-ends:
				must(t, err)
			case <-time.After(30 * time.Second):
				t.Fatal("a write did not end")
			}
		}
	}
	for _, to := range targets {
		must(t, to.file.Close())
		wantContent(t, f, to.name, to.want)
	}
	if m, ok := f.(*vfs.Memory); ok {
		after := m.Crash()
		for _, to := range targets {
			wantContent(t, after, to.name, to.want)
		}
	}
}

func writesManyBuffers(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), []byte("ab"))
	var buffers [][]byte
	want := []byte("ab")
	for i := range 2500 { // more than two IOV_MAX
		b := []byte(fmt.Sprintf("<%d>", i))
		if i%100 == 7 {
			b = nil
		}
		buffers, want = append(buffers, b), append(want, b...)
	}
	n, err := file.WriteVAt(buffers, 2)
	if err != nil || n != int64(len(want)-2) {
		t.Fatalf("wrote %d: %v", n, err)
	}
	wantContent(t, f, path.Join(dir, "a"), want)
	if string(buffers[0]) != "<0>" || len(buffers) != 2500 {
		t.Error("the caller's buffers were changed")
	}
}

func openDirect(t *testing.T, f vfs.FS, name string) vfs.File {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|vfs.Direct, 0o644)
	if errors.Is(err, vfs.ErrNoDirect) {
		t.Skip("no direct I/O here")
	}
	must(t, err)
	t.Cleanup(func() { must(t, file.Close()) })
	return file
}

func directNeedsAlignment(t *testing.T, f vfs.FS, dir string) {
	file := openDirect(t, f, path.Join(dir, "a"))
	page := vfs.Aligned(2 * vfs.Align)
	for i := range page {
		page[i] = byte(i >> 8)
	}
	n, err := file.WriteVAt([][]byte{page[:vfs.Align], page[vfs.Align:]}, vfs.Align)
	if n != 2*vfs.Align || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	wantContent(t, f, path.Join(dir, "a"), append(make([]byte, vfs.Align), page...))
	if _, err := file.WriteAt(page[:100], 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("short buffer: %v", err)
	}
	if _, err := file.WriteAt(page[:vfs.Align], 100); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("odd offset: %v", err)
	}
}

func directTail(t *testing.T, f vfs.FS, dir string) {
	name := path.Join(dir, "a")
	must(t, vfs.WriteFile(f, name, bytes.Repeat([]byte("x"), vfs.Align+100), 0o644))
	file := openDirect(t, f, name)
	page := vfs.Aligned(2 * vfs.Align)
	if n, err := file.ReadAt(page, 0); n != vfs.Align+100 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}

func holes(t *testing.T, f vfs.FS, dir string) {
	content := bytes.Repeat([]byte("y"), 5*vfs.Align)
	file := create(t, f, path.Join(dir, "a"), content)
	must(t, file.PunchHole(vfs.Align/2, 2*vfs.Align))
	clear(content[vfs.Align/2 : vfs.Align*5/2])
	wantContent(t, f, path.Join(dir, "a"), content)
	if _, err := file.WriteAt([]byte("z"), 10*vfs.Align); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, path.Join(dir, "a"), append(append(content, make([]byte, 5*vfs.Align)...), 'z'))
}

func allocate(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), []byte("abc"))
	must(t, file.Allocate(0, 1<<20))
	wantContent(t, f, path.Join(dir, "a"), []byte("abc"))
	info, err := file.Stat()
	must(t, err)
	if info.Size != 3 {
		t.Errorf("size is %d", info.Size)
	}
}

func truncate(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), []byte("abcdef"))
	must(t, file.Truncate(2))
	must(t, file.Truncate(5))
	wantContent(t, f, path.Join(dir, "a"), []byte("ab\x00\x00\x00"))
}

func directories(t *testing.T, f vfs.FS, dir string) {
	for _, name := range []string{"c", "a", "b"} {
		must(t, f.Mkdir(path.Join(dir, name), 0o755))
	}
	create(t, f, path.Join(dir, "aa"), nil)
	wantIs(t, f.Mkdir(path.Join(dir, "a"), 0o755), fs.ErrExist)
	wantIs(t, f.Mkdir(path.Join(dir, "x", "y"), 0o755), fs.ErrNotExist)
	list, err := f.ReadDir(dir)
	must(t, err)
	got := ""
	for _, entry := range list {
		got += fmt.Sprintf("%s:%v ", entry.Name(), entry.IsDir())
	}
	if want := "a:true aa:false b:true c:true "; got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
	_, err = f.ReadDir(path.Join(dir, "x"))
	wantIs(t, err, fs.ErrNotExist)
	info, err := f.Stat(path.Join(dir, "a"))
	must(t, err)
	if !info.Mode.IsDir() {
		t.Error("a directory is not one")
	}
}

func renames(t *testing.T, f vfs.FS, dir string) {
	a, b, sub := path.Join(dir, "a"), path.Join(dir, "b"), path.Join(dir, "sub")
	create(t, f, a, []byte("A"))
	create(t, f, b, []byte("B"))
	must(t, f.Rename(a, b))
	wantContent(t, f, b, []byte("A"))
	_, err := f.Stat(a)
	wantIs(t, err, fs.ErrNotExist)
	must(t, f.Mkdir(sub, 0o755))
	must(t, f.Rename(b, path.Join(sub, "c")))
	must(t, f.Rename(sub, path.Join(dir, "moved")))
	wantContent(t, f, path.Join(dir, "moved", "c"), []byte("A"))
	wantIs(t, f.Rename(a, b), fs.ErrNotExist)
	if err := f.Rename(path.Join(dir, "moved"), path.Join(dir, "moved", "in")); err == nil {
		t.Error("a directory moved into itself")
	}
}

func removes(t *testing.T, f vfs.FS, dir string) {
	sub := path.Join(dir, "sub")
	must(t, f.Mkdir(sub, 0o755))
	create(t, f, path.Join(sub, "a"), nil)
	wantIs(t, f.Remove(sub), syscall.ENOTEMPTY)
	must(t, f.Remove(path.Join(sub, "a")))
	must(t, f.Remove(sub))
	wantIs(t, f.Remove(sub), fs.ErrNotExist)
}

func locks(t *testing.T, f vfs.FS, dir string) {
	name := path.Join(dir, "lock")
	held, err := f.Lock(name)
	must(t, err)
	_, err = f.Lock(name)
	wantIs(t, err, vfs.ErrLocked)
	must(t, held.Close())
	again, err := f.Lock(name)
	must(t, err)
	must(t, again.Close())
}

func inodes(t *testing.T, f vfs.FS, dir string) {
	a := create(t, f, path.Join(dir, "a"), nil)
	create(t, f, path.Join(dir, "b"), nil)
	opened, err := a.Stat()
	must(t, err)
	must(t, f.Rename(path.Join(dir, "a"), path.Join(dir, "c")))
	moved, err := f.Stat(path.Join(dir, "c"))
	must(t, err)
	other, err := f.Stat(path.Join(dir, "b"))
	must(t, err)
	if opened.Inode != moved.Inode || opened.Device != moved.Device {
		t.Error("a renamed file is another file")
	}
	if opened.Inode == other.Inode {
		t.Error("two files have one inode")
	}
}

func closedFiles(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), []byte("x"))
	must(t, file.Close())
	_, err := file.ReadAt(make([]byte, 1), 0)
	wantIs(t, err, fs.ErrClosed)
	_, err = file.WriteAt([]byte("x"), 0)
	wantIs(t, err, fs.ErrClosed)
	wantIs(t, file.Sync(), fs.ErrClosed)
	wantIs(t, file.Close(), fs.ErrClosed)
}

func unlinked(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), []byte("still here"))
	must(t, f.Remove(path.Join(dir, "a")))
	got := make([]byte, 10)
	if _, err := file.ReadAt(got, 0); err != nil || string(got) != "still here" {
		t.Errorf("read %q: %v", got, err)
	}
}

func usage(t *testing.T, f vfs.FS, dir string) {
	u, err := f.Usage(dir)
	must(t, err)
	if u.Total <= 0 || u.Free < 0 || u.Free > u.Total {
		t.Errorf("usage %+v", u)
	}
	_, err = f.Usage(path.Join(dir, "x"))
	wantIs(t, err, fs.ErrNotExist)
}

func wholeFiles(t *testing.T, f vfs.FS, dir string) {
	name := path.Join(dir, "a")
	must(t, vfs.WriteFile(f, name, []byte("long old content"), 0o600))
	must(t, vfs.WriteFile(f, name, []byte("new"), 0o600))
	wantContent(t, f, name, []byte("new"))
	if _, err := vfs.ReadFile(f, name, 2); err == nil {
		t.Error("a file over the limit was read")
	}
	list, err := f.ReadDir(dir)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("%d files left", len(list))
	}
}

func concurrent(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, path.Join(dir, "a"), nil)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			if _, err := file.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 1000), int64(i)*1000); err != nil {
				t.Error(err)
			}
			if err := file.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var want []byte
	for i := range 16 {
		want = append(want, bytes.Repeat([]byte{byte(i + 1)}, 1000)...)
	}
	wantContent(t, f, path.Join(dir, "a"), want)
}

func mkdirAll(t *testing.T, f vfs.FS, dir string) {
	must(t, vfs.MkdirAll(f, path.Join(dir, "x/y/z"), 0o755))
	must(t, vfs.MkdirAll(f, path.Join(dir, "x/y/z"), 0o755))
	create(t, f, path.Join(dir, "file"), nil)
	if err := vfs.MkdirAll(f, path.Join(dir, "file"), 0o755); err == nil {
		t.Error("a file was taken for a directory")
	}
}
