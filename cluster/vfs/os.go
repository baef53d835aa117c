package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxIovecs is IOV_MAX of Linux: pwritev refuses more buffers in one call.
const maxIovecs = 1024

// OS returns the file system of the operating system.
func OS() FS { return osFS{&ringPool{}} }

type osFS struct{ rings *ringPool }

func (o osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	direct, spans := flag&Direct != 0, flag&Spans != 0
	flag &^= Direct | Spans
	if direct {
		flag |= unix.O_DIRECT
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		if direct && errors.Is(err, unix.EINVAL) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNoDirect}
		}
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	file := &osFile{f: f, conn: conn, direct: direct, rings: o.rings}
	if direct {
		info, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		file.device = info.Device
	}
	if spans {
		if err := file.control("fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) }); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return file, nil
}

func (osFS) Mkdir(name string, perm fs.FileMode) error  { return os.Mkdir(name, perm) }
func (osFS) Remove(name string) error                   { return os.Remove(name) }
func (osFS) Rename(source, target string) error         { return os.Rename(source, target) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

func (osFS) Stat(name string) (Info, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return infoOf(info)
}

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	// os.File.Sync is fsync, which is what makes entries durable; fdatasync of a directory promises less.
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close())
}

func (osFS) Usage(name string) (Usage, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(name, &st) }); err != nil {
		return Usage{}, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	return Usage{Total: int64(st.Blocks) * st.Frsize, Free: int64(st.Bavail) * st.Frsize,
		ReadOnly: st.Flags&unix.ST_RDONLY != 0}, nil
}

// osFile keeps the os.File for its reference counting: conn.Control holds the descriptor open while a system call
// uses it, so a Close from another goroutine never lets a write reach a reused descriptor.
type osFile struct {
	f      *os.File
	conn   syscall.RawConn
	direct bool
	device uint64 // of a direct file
	rings  *ringPool
}

// control runs a system call on the descriptor and repeats it while signals interrupt it.
func (f *osFile) control(op string, call func(fd int) error) error {
	var err error
	if held := f.conn.Control(func(fd uintptr) {
		err = ignoringEINTR(func() error { return call(int(fd)) })
	}); held != nil {
		// Control fails only when the file was closed.
		return &fs.PathError{Op: op, Path: f.f.Name(), Err: fs.ErrClosed}
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: f.f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	if !f.direct {
		return f.f.ReadAt(p, off)
	}
	n := 0
	for n < len(p) {
		var got int
		if err := f.control("read", func(fd int) (err error) {
			got, err = unix.Pread(fd, p[n:], off+int64(n))
			return err
		}); err != nil {
			return n, err
		}
		n += got
		// A direct read comes short of the alignment only at the end of the file.
		if got == 0 || (n < len(p) && n%Align != 0) {
			return n, io.EOF
		}
	}
	return n, nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVAt([][]byte{p}, off)
	return int(n), err
}

func (f *osFile) WriteVAt(buffers [][]byte, off int64) (int64, error) {
	left := make([][]byte, 0, len(buffers))
	for _, b := range buffers {
		if len(b) > 0 {
			left = append(left, b)
		}
	}
	var done int64
	for len(left) > 0 {
		n := 0
		err := f.control("write", func(fd int) (err error) {
			n, err = unix.Pwritev(fd, left[:min(len(left), maxIovecs)], off+done)
			return err
		})
		if err != nil {
			return done, f.explain(err, left)
		}
		if n == 0 {
			return done, &fs.PathError{Op: "write", Path: f.f.Name(), Err: io.ErrShortWrite}
		}
		done += int64(n)
		left = advance(left, n)
	}
	return done, nil
}

// explain turns EINVAL for well aligned buffers into ErrNoDirect: some file systems take O_DIRECT at open and refuse
// the first write.
func (f *osFile) explain(err error, buffers [][]byte) error {
	if !f.direct || !errors.Is(err, unix.EINVAL) {
		return err
	}
	for _, b := range buffers {
		if !IsAligned(b) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrNoDirect, err)
}

// advance drops the first n bytes of the buffers. It changes the slice headers it is given.
func advance(buffers [][]byte, n int) [][]byte {
	for n > 0 {
		if n < len(buffers[0]) {
			buffers[0] = buffers[0][n:]
			return buffers
		}
		n -= len(buffers[0])
		buffers = buffers[1:]
	}
	return buffers
}

// WriteSync asks for RWF_DSYNC, which spares a system call and, with Direct, the way through the page cache.
func (f *osFile) WriteSync(p []byte, off int64) error {
	for len(p) > 0 {
		n := 0
		err := f.control("write", func(fd int) (err error) {
			n, err = unix.Pwritev2(fd, [][]byte{p}, off, unix.RWF_DSYNC)
			return err
		})
		switch {
		case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS): // the file system, or a kernel before 4.7
			if _, err := f.WriteAt(p, off); err != nil {
				return err
			}
			return f.Sync()
		case err != nil:
			return f.explain(err, [][]byte{p})
		case n == 0:
			return &fs.PathError{Op: "write", Path: f.f.Name(), Err: io.ErrShortWrite}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f *osFile) Sync() error { return f.control("sync", unix.Fdatasync) }

func (f *osFile) Truncate(size int64) error { return f.f.Truncate(size) }

func (f *osFile) Allocate(off, length int64) error {
	return unlessUnsupported(f.control("allocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, length)
	}))
}

func (f *osFile) PunchHole(off, length int64) error {
	return unlessUnsupported(f.control("punch", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, off, length)
	}))
}

func (f *osFile) Stat() (Info, error) {
	info, err := f.f.Stat()
	if err != nil {
		return Info{}, err
	}
	return infoOf(info)
}

func (f *osFile) Close() error { return f.f.Close() }

func infoOf(info fs.FileInfo) (Info, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Info{}, &fs.PathError{Op: "stat", Path: info.Name(), Err: errors.ErrUnsupported}
	}
	return Info{Size: info.Size(), Mode: info.Mode(), Device: st.Dev, Inode: st.Ino}, nil
}

func unlessUnsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
