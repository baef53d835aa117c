// Package vfs is the seam between holdfast and file systems. OS is the real one; Memory keeps files in memory,
// tells what is volatile from what is durable, loses power, tears writes, and fails or delays operations by rule.
//
// Everything that holdfast keeps on a drive goes through FS, so every crash and every fault has a test.
package vfs

import (
	"errors"
	"io"
	"io/fs"
)

// Direct, added to the flags of OpenFile, asks for O_DIRECT. Offsets, lengths and the addresses of buffers must then
// be multiples of Align. Where the file system has no O_DIRECT, OpenFile fails with ErrNoDirect.
const Direct = 1 << 30

// Spans, added to the flags of OpenFile, says that each read names all that is wanted: the kernel reads that at once,
// and nothing ahead of it, which may be far away from what is read next.
const Spans = 1 << 29

// Align is the alignment in bytes that direct I/O needs of offsets, lengths and buffers.
const Align = 4096

// Errors of every FS, beside those of io/fs (fs.ErrNotExist, fs.ErrExist) and syscall errors (ENOSPC, EIO, EROFS).
var (
	// ErrNoDirect says that the file system refuses direct I/O.
	ErrNoDirect = errors.New("direct i/o is not supported here")
	// ErrLocked says that another process holds the lock.
	ErrLocked = errors.New("locked by another process")
	// ErrPowerLost is what every operation on a Memory file system gives after its power was cut.
	ErrPowerLost = errors.New("power lost")
)

// FS is a file system. Names are absolute slash-separated paths. Methods may be called concurrently.
//
// Durability: a file's content is durable after File.Sync; a name (of a new, renamed or removed entry) is durable
// after SyncDir of its directory, and so are its ancestors', each by a SyncDir of its own parent.
type FS interface {
	// OpenFile opens name with flags of package os (O_RDONLY, O_RDWR, O_CREATE, O_EXCL, O_TRUNC), Direct and Spans.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename replaces target atomically in the eyes of readers.
	Rename(source, target string) error
	// ReadDir returns the entries of a directory sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (Info, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes the exclusive lock of a file, making the file when it is missing, and holds it until Close (or the
	// death of the process). It fails at once with ErrLocked when another holder exists.
	Lock(name string) (io.Closer, error)
	// Usage tells the space of the file system that name lies on.
	Usage(name string) (Usage, error)
}

// File is an open file. ReadAt, WriteAt, WriteVAt, WriteSync and Sync may be called concurrently.
type File interface {
	io.ReaderAt // short reads only at the end of the file, with io.EOF
	io.WriterAt
	io.Closer
	// WriteVAt writes the buffers one after another at off (pwritev). It returns the bytes written; n < the sum of
	// the lengths only with an error.
	WriteVAt(buffers [][]byte, off int64) (n int64, err error)
	// Sync makes content and size durable (fdatasync). After an error the file must not be written again: the kernel
	// may have dropped the dirty pages and a second Sync would lie.
	Sync() error
	// WriteSync is WriteAt and Sync of what it wrote, in one call of the system where there is one. An error may be that
	// of either.
	WriteSync(p []byte, off int64) error
	Truncate(size int64) error
	// Allocate reserves space for [off, off+length) without changing the size (fallocate KEEP_SIZE). A file system
	// that cannot do so returns nil.
	Allocate(off, length int64) error
	// PunchHole gives the space of [off, off+length) back; the span then reads as zeros. A file system that cannot do
	// so returns nil and leaves the bytes.
	PunchHole(off, length int64) error
	Stat() (Info, error)
}

// Info describes a file. Device and Inode tell whether two names are the same file.
type Info struct {
	Size   int64
	Mode   fs.FileMode
	Device uint64
	Inode  uint64
}

// Usage is the space of a file system in bytes. Free is what an ordinary process can still use. ReadOnly tells that it
// is mounted so; one that refuses writes for other reasons tells it only to a write.
type Usage struct {
	Total    int64
	Free     int64
	ReadOnly bool
}

// MkdirAll makes a directory and every missing ancestor, and makes each durable in its parent.
// (A first-written object was once lost elsewhere because only the last parent was synced.)
func MkdirAll(f FS, name string, perm fs.FileMode) error {
	if info, err := f.Stat(name); err == nil {
		if !info.Mode.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: name, Err: errors.New("not a directory")}
		}
		return nil
	}
	parent := dirOf(name)
	if parent != name {
		if err := MkdirAll(f, parent, perm); err != nil {
			return err
		}
	}
	if err := f.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.SyncDir(parent)
}

func dirOf(name string) string {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return "/"
}
