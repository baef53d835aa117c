package fusefs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// Errors of Mount; each comes with the mount point and what to do.
var (
	ErrNoFuse     = errors.New("the kernel offers no FUSE")
	ErrMountPoint = errors.New("mount point cannot be used")
	ErrBusy       = errors.New("mount point is in use")
)

const (
	// maxWrite is the largest request: what the kernel allows without a raised max_pages_limit.
	maxWrite = 1 << 20
	// maxBackground is how many read-ahead and asynchronous requests the kernel keeps in flight: with 12, its default,
	// a fast store idles.
	maxBackground = 128
	// maxInflight bounds the buffers of requests.
	maxInflight = 256 << 20
	// readAheadKB gives buffered reads requests of 1 MiB; with the kernel's 128 they are 128 KiB.
	readAheadKB = 4096
	// defaultAttrTimeout is how long the kernel answers fstat of an open file by itself. Paths are looked up each time,
	// and that brings the attributes along.
	defaultAttrTimeout = time.Second
	// closeTimeout bounds what an unmount waits for the last uploads.
	closeTimeout = 60 * time.Second
)

// Config is one mount.
type Config struct {
	// Objects is the bucket; the mount does not close it.
	Objects tree.Objects
	// Dir is the mount point: an empty directory.
	Dir string
	// Source is what df and /proc/mounts show in the first column. Empty means "holdfast".
	Source string
	// AllowOther lets other users in. Nil means yes for root, else no (it needs user_allow_other in /etc/fuse.conf).
	AllowOther *bool
	ReadOnly   bool
	// UID, GID and Umask are for objects that no mount has touched. Nil means those of this process, and 022.
	UID, GID, Umask *uint32
	// Memory and ReadMemory bound new data and read-ahead, in bytes; see tree.Config.
	Memory, ReadMemory int64
	// EntryTimeout is how long the kernel may believe a name without asking. Zero means not at all: changes made
	// through S3 or another mount are seen by the next path lookup.
	EntryTimeout time.Duration
	// AttrTimeout is how long it may believe attributes. Zero means one second, negative not at all.
	AttrTimeout time.Duration
	// Options are further mount options, for example "noexec".
	Options []string
	// Debug logs every request.
	Debug bool
	// Log gets what no program can be told. Nil means slog.Default().
	Log *slog.Logger
}

// Mounted is a mount in service.
type Mounted struct {
	dir    string
	server *fuse.Server
	tree   *tree.Tree
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Mount puts the bucket at c.Dir and serves it until Unmount, or until somebody else unmounts it. Ctx bounds the
// mounting only.
func Mount(ctx context.Context, c Config) (*Mounted, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := CheckDir(c.Dir)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	root := os.Geteuid() == 0
	if err := checkFuse(root); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	t := tree.New(tree.Config{
		Objects: c.Objects, ReadOnly: c.ReadOnly, Memory: c.Memory, ReadMemory: c.ReadMemory, Log: c.Log,
		UID: or(c.UID, uint32(os.Getuid())), GID: or(c.GID, uint32(os.Getgid())), Umask: or(c.Umask, 0o022),
	})
	// The requests outlive ctx: they end with the mount.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &bridge{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), ctx: life, tree: t, name: "holdfast",
		entry: c.EntryTimeout, attr: c.AttrTimeout, direct: true,
	}
	if b.attr == 0 {
		b.attr = defaultAttrTimeout
	}
	b.attr = max(b.attr, 0)
	server, err := fuse.NewServer(b, dir, options(c, root))
	if err != nil {
		cancel()
		return nil, errors.Join(mountError(dir, err), closeTree(t))
	}
	m := &Mounted{dir: dir, server: server, tree: t, cancel: cancel, done: make(chan struct{})}
	go m.serve()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(mountError(dir, err), m.Unmount(ctx))
	}
	if root {
		if err := setReadAhead(dir); err != nil {
			c.Log.Warn("reads stay at 128 KiB a request", "dir", dir, "err", err)
		}
	}
	return m, nil
}

func or(p *uint32, otherwise uint32) uint32 {
	if p != nil {
		return *p
	}
	return otherwise
}

func options(c Config, root bool) *fuse.MountOptions {
	o := &fuse.MountOptions{
		FsName: c.Source, Name: "holdfast", AllowOther: root, DirectMountStrict: root,
		MaxWrite: maxWrite, MaxBackground: maxBackground, MaxInflightRequestBytes: maxInflight,
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true, Debug: c.Debug,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC |
			fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		Options: append([]string{"default_permissions", "nosuid", "nodev"}, c.Options...),
		Logger:  slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
		// Content is always in memory here, and a request of 1 MiB with its header does not fit a pipe.
		DisableSplice: true,
	}
	if c.AllowOther != nil {
		o.AllowOther = *c.AllowOther
	}
	if o.FsName == "" {
		o.FsName = "holdfast"
	}
	if c.ReadOnly {
		if root {
			o.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_RDONLY
		} else {
			o.Options = append(o.Options, "ro")
		}
	}
	if c.Debug {
		o.Logger = log.New(os.Stderr, "", log.Lmicroseconds)
	}
	return o
}

// CheckDir returns the absolute path of dir, and refuses what cannot be mounted on: ErrMountPoint for a directory that is
// missing or not empty, ErrBusy where something is mounted.
func CheckDir(dir string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("%w: no directory is named", ErrMountPoint)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMountPoint, err)
	}
	d, err := os.Open(abs)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%w: %s does not exist; make it with mkdir", ErrMountPoint, abs)
	case errors.Is(err, syscall.ENOTCONN):
		return "", fmt.Errorf("%w: a mount that died is still at %s; run: fusermount3 -u %s", ErrBusy, abs, abs)
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrMountPoint, err)
	}
	_, readErr := d.Readdirnames(1)
	if err := d.Close(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrMountPoint, err)
	}
	mounted, err := mountedAt(abs)
	switch {
	case err != nil:
		return "", err
	case mounted:
		return "", fmt.Errorf("%w: something is mounted at %s already", ErrBusy, abs)
	case errors.Is(readErr, io.EOF):
		return abs, nil
	case errors.Is(readErr, syscall.ENOTDIR):
		return "", fmt.Errorf("%w: %s is not a directory", ErrMountPoint, abs)
	case readErr != nil:
		return "", fmt.Errorf("%w: %w", ErrMountPoint, readErr)
	}
	return "", fmt.Errorf("%w: %s is not empty, and the mount would hide what is in it", ErrMountPoint, abs)
}

// mountedAt tells whether a mount begins at the directory.
func mountedAt(dir string) (found bool, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && unescape.Replace(fields[4]) == dir {
			found = true
		}
	}
	return found, s.Err()
}

func checkFuse(root bool) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		advice := "try: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
		if errors.Is(err, os.ErrPermission) && !root {
			advice = "only root may open it here: mount as root, or run as root: chmod 666 /dev/fuse"
		}
		return fmt.Errorf("%w: %w (%s)", ErrNoFuse, err, advice)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if root {
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		if _, err := exec.LookPath("fusermount"); err != nil {
			return fmt.Errorf("%w: fusermount3 is not installed (Debian, Ubuntu: apt install fuse3)", ErrNoFuse)
		}
	}
	return nil
}

func mountError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mount %s: %w (a container needs CAP_SYS_ADMIN)", dir, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("mount %s: %w", dir, ErrBusy)
	}
	return fmt.Errorf("mount %s: %w", dir, err)
}

// setReadAhead lets the kernel read far ahead.
func setReadAhead(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	return os.WriteFile(path, []byte(strconv.Itoa(readAheadKB)), 0)
}

func (m *Mounted) serve() {
	m.server.Serve()
	// The kernel is gone: no request comes any more. What open files left dirty is published now.
	m.err = closeTree(m.tree)
	m.cancel()
	close(m.done)
}

func closeTree(t *tree.Tree) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return t.Close(ctx)
}

// Dir is the absolute mount point.
func (m *Mounted) Dir() string { return m.dir }

// Tree is what is mounted.
func (m *Mounted) Tree() *tree.Tree { return m.tree }

// Wait returns when the mount has ended, by whomever, with what went wrong at the end.
func (m *Mounted) Wait() error {
	<-m.done
	return m.err
}

// Done is closed when the mount has ended.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// Unmount ends the mount after everything that was closed is published. While programs use it, it is EBUSY for as long
// as ctx lets it try; then the mount goes on.
func (m *Mounted) Unmount(ctx context.Context) error {
	const between = 100 * time.Millisecond // programs that were just told to stop need a moment
	for {
		err := m.server.Unmount()
		if err == nil {
			return m.Wait()
		}
		select {
		case <-m.done:
			return m.err // somebody else was faster
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w", m.dir, errors.Join(ErrBusy, err))
		case <-time.After(between):
		}
	}
}

// Detach takes the mount out of the name space at once. Programs that have files open keep them; the mount ends when the last
// of them is closed.
func (m *Mounted) Detach() error {
	if os.Geteuid() == 0 {
		if err := syscall.Unmount(m.dir, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("detach %s: %w", m.dir, err)
		}
		return nil
	}
	out, err := exec.Command("fusermount3", "-u", "-z", m.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("detach %s: %w: %s", m.dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}
