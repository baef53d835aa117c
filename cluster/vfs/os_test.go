package vfs_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/cluster/vfs"
)

func TestSpansReadNothingAhead(t *testing.T) {
	const pages, span = 1024, 16
	name := filepath.Join(t.TempDir(), "f")
	must(t, vfs.WriteFile(vfs.OS(), name, make([]byte, pages*vfs.Align), 0o600))
	raw, err := os.Open(name)
	must(t, err)
	defer raw.Close()
	// read reads the beginning of a file that is not cached, and tells how many pages are cached then.
	read := func(flag int) int {
		must(t, unix.Fadvise(int(raw.Fd()), 0, 0, unix.FADV_DONTNEED))
		if n := resident(t, raw, pages); n > 0 {
			t.Skipf("%d pages of the file cannot be taken out of the page cache", n)
		}
		file, err := vfs.OS().OpenFile(name, os.O_RDONLY|flag, 0)
		must(t, err)
		_, err = file.ReadAt(make([]byte, span*vfs.Align), 0)
		must(t, err)
		must(t, file.Close())
		return resident(t, raw, pages)
	}
	if read(0) == span {
		t.Skip("nothing is read ahead here")
	}
	if n := read(vfs.Spans); n != span {
		t.Errorf("%d pages were read for %d", n, span)
	}
}

// resident counts the pages of a file that are in the page cache.
func resident(t *testing.T, file *os.File, pages int) int {
	t.Helper()
	mapped, err := unix.Mmap(int(file.Fd()), 0, pages*vfs.Align, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer func() { must(t, unix.Munmap(mapped)) }()
	in := make([]byte, pages)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, b := range in {
		n += int(b & 1)
	}
	return n
}
