package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unsafe"
)

// ReadFile reads a whole file. A file longer than limit bytes is an error, so a damaged size never costs memory.
func ReadFile(f FS, name string, limit int64) (data []byte, err error) {
	file, err := f.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d expected", name, info.Size, limit)
	}
	data = make([]byte, info.Size)
	if n, err := file.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// WriteFile replaces name by a file that holds data, durably and atomically: after a crash the name leads to the old
// content or to the new one. It writes name+".tmp" first, which a crash may leave behind.
func WriteFile(f FS, name string, data []byte, perm fs.FileMode) error {
	temporary := name + ".tmp"
	if err := writeSynced(f, temporary, data, perm); err != nil {
		return err
	}
	if err := f.Rename(temporary, name); err != nil {
		return err
	}
	return f.SyncDir(dirOf(name))
}

func writeSynced(f FS, name string, data []byte, perm fs.FileMode) (err error) {
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if n, err := file.WriteAt(data, 0); err != nil {
		return err
	} else if n < len(data) {
		return io.ErrShortWrite
	}
	return file.Sync()
}

// Aligned returns a zeroed buffer of n bytes whose address is a multiple of Align.
func Aligned(n int) []byte {
	b := make([]byte, n+Align)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % Align); rest != 0 {
		skip = Align - rest
	}
	return b[skip : skip+n : skip+n]
}

// IsAligned tells whether a buffer has the address and the length that direct I/O needs.
func IsAligned(b []byte) bool {
	return len(b)%Align == 0 && (len(b) == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0)
}
