package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/testkit"
)

// sickDrive is the drive that the tests of this file mount on a file system of its own.
const sickDrive = 3

// sickServer is a server one of whose drives is a mount.
type sickServer struct {
	*testkit.Server
	t     *testing.T
	drive string // the directory
	// sicken, unless nil, is called before each look at what is said, for what the server's own work may cure.
	sicken func()
}

// prepareSick makes the drive's directory and a server around it; nothing runs yet. The mount is taken away after the
// server is gone.
func prepareSick(t *testing.T, mount func(dir string) error) *sickServer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	data := filepath.Join(t.TempDir(), "data")
	dir := filepath.Join(data, "drives", fmt.Sprint("d", sickDrive))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mount(dir); err != nil {
		t.Skipf("this kernel mounts nothing here: %v", err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	return &sickServer{Server: testkit.Prepare(t, testkit.Options{Dir: data}), t: t, drive: dir}
}

// loopImage returns where an image of ext4 will be, and a function that makes and mounts it. An error in its metadata
// makes the file system read-only, as is usual for data.
func loopImage(t *testing.T) (image string, mount func(dir string) error) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image")
	return image, func(dir string) error {
		if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
			if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<30)); err != nil {
				return err
			}
			if err := run("mkfs.ext4", "-q", "-F", image); err != nil {
				return err
			}
		}
		return run("mount", "-o", "loop,errors=remount-ro", image, dir)
	}
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// row is what status says of the sick drive. It also checks that `drive ls` says the same.
func (s *sickServer) row() (admin.Drive, admin.Status) {
	s.t.Helper()
	st := status(s.t, s.Server)
	for _, d := range st.Drives {
		if d.Path == s.drive {
			return d, st
		}
	}
	s.t.Fatalf("status does not know %s", s.drive)
	return admin.Drive{}, st
}

// waitSaid waits until status says that the drive is in a state, for a reason, and demands that the tables for people
// say so too.
func (s *sickServer) waitSaid(state, reason string) {
	s.t.Helper()
	testkit.Poll(s.t, 2*time.Minute, "status to say "+state+", "+reason, func() bool {
		if s.sicken != nil {
			s.sicken()
		}
		d, st := s.row()
		return d.State == state && strings.Contains(d.Reason, reason) && (reason == "") == st.Whole()
	})
	if reason == "" {
		return
	}
	for _, command := range [][]string{{"status"}, {"drive", "ls"}} {
		if s.sicken != nil {
			s.sicken()
		}
		out, err := s.Try(time.Minute, testkit.Binary(s.t), command...)
		if !strings.Contains(out, reason) {
			s.t.Errorf("%v says nothing of %q (%v):\n%s", command, reason, err, out)
		}
	}
}

// finish waits until everything is whole again and checks all of it.
func (s *sickServer) finish(l *ledger) {
	s.t.Helper()
	s.waitSaid("up", "")
	l.audit(s)
	if out, err := s.Try(5*time.Minute, testkit.Binary(s.t), "fsck", "--deep"); err != nil {
		s.t.Errorf("fsck --deep: %v\n%s", err, out)
	}
}

// TestDriveTurnsReadOnlyUnderLoad has the kernel make the file system of a drive read-only, as it does when it finds
// its metadata damaged, mends it, and mounts it again, all under a running server.
func TestDriveTurnsReadOnlyUnderLoad(t *testing.T) {
	t.Parallel()
	image, mount := loopImage(t)
	s := prepareSick(t, mount)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(source(t, s.drive)), "trigger_fs_error")
	if _, err := os.Stat(trigger); err != nil {
		t.Skipf("this kernel triggers no errors: %v", err)
	}
	s.Start()
	s.WaitReady(time.Minute)
	s.MakeBucket("load")
	l := newLedger(t, "load")
	during(t, s.Server, l, func() {
		if err := os.WriteFile(trigger, []byte("test\n"), 0o200); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.drive, "probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Fatalf("a write to the drive gives %v: the fault did not fire", err)
		}
		s.waitSaid("read-only", "read-only")
	})
	l.audit(s)

	// The server stops and starts with it, and lets go of it, so that it can be mended.
	s.Stop()
	s.Start()
	s.WaitReady(time.Minute)
	s.waitSaid("read-only", "read-only")
	l.audit(s)
	testkit.Poll(t, time.Minute, "the server to let go of the drive", func() bool { return unix.Unmount(s.drive, 0) == nil })
	s.waitSaid("blank", "not mounted")
	if err := run("e2fsck", "-fy", image); err != nil && !strings.Contains(err.Error(), "exit status 1:") { // 1: it was mended
		t.Fatal(err)
	}
	if err := mount(s.drive); err != nil {
		t.Fatal(err)
	}
	s.finish(l)
}

// source is the device that a directory is mounted from.
func source(t *testing.T, dir string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == dir {
			return fields[0]
		}
	}
	t.Fatalf("%s is no mount", dir)
	return ""
}

// TestDriveMountedReadOnlyUnderLoad puts a read-only mount over the drive's directory, and takes it away again.
func TestDriveMountedReadOnlyUnderLoad(t *testing.T) {
	t.Parallel()
	s := prepareSick(t, func(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512m") })
	s.Start()
	s.WaitReady(time.Minute)
	s.MakeBucket("load")
	l := newLedger(t, "load")
	during(t, s.Server, l, func() {
		if err := unix.Mount(s.drive, s.drive, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("no bind mounts here: %v", err)
		}
		if err := unix.Mount("", s.drive, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.drive, "probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Fatalf("a write to the drive gives %v: the fault did not fire", err)
		}
		s.waitSaid("read-only", "read-only")
	})
	l.audit(s)
	testkit.Poll(t, time.Minute, "the mount to go", func() bool { return unix.Unmount(s.drive, unix.MNT_DETACH) == nil })
	s.finish(l)
}

// TestDriveFillsUpUnderLoad fills a drive from outside: writes go on elsewhere and deletes everywhere, and the drive
// takes shards again when it has room.
func TestDriveFillsUpUnderLoad(t *testing.T) {
	t.Parallel()
	s := prepareSick(t, func(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256m") })
	s.Start()
	s.WaitReady(time.Minute)
	s.MakeBucket("load")
	l := newLedger(t, "load")
	ballast := filepath.Join(s.drive, "ballast")
	// A mirror of the log that moves away leaves room, so the drive is filled again and again.
	s.sicken = func() {
		t.Helper()
		file, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.Write(make([]byte, 256<<20))
		if err := errors.Join(err, file.Close()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("writing the ballast gives %v: the drive is not full", err)
		}
	}
	during(t, s.Server, l, func() { s.waitSaid("up", "full") })
	l.audit(s)
	s.Stop()
	s.Start()
	s.WaitReady(time.Minute)
	s.waitSaid("up", "full")
	s.sicken = nil
	during(t, s.Server, l, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
	s.finish(l)
}

// TestDriveFreezesUnderLoad freezes the file system of a drive, so that every write to it waits: the server goes around
// it, says that it does not answer, and stops and starts with it.
func TestDriveFreezesUnderLoad(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("fsfreeze"); err != nil {
		t.Skip("no fsfreeze here")
	}
	_, mount := loopImage(t)
	s := prepareSick(t, mount)
	frozen := false
	freeze := func() {
		t.Helper()
		if err := run("fsfreeze", "-f", s.drive); err != nil {
			t.Fatal(err)
		}
		frozen = true
	}
	thaw := func() {
		if frozen {
			frozen = false
			if err := run("fsfreeze", "-u", s.drive); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(thaw) // before the server is killed: its threads cannot end while they wait
	s.Start()
	s.WaitReady(time.Minute)
	s.MakeBucket("load")
	l := newLedger(t, "load")
	during(t, s.Server, l, func() {
		freeze()
		s.waitSaid("hanging", "not answered")
		if _, st := s.row(); st.DrivesUp != 11 || st.Losses.Bytes.Drives > 3 {
			t.Errorf("with a frozen drive %d are up and %d more losses are survived", st.DrivesUp, st.Losses.Bytes.Drives)
		}
	})
	l.audit(s)

	// The process is asked to end: it does as far as the kernel lets it, which keeps the threads that wait.
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Poll(t, 2*time.Minute, "the server to end", func() bool { return ended(pid) })
	thaw()
	s.Kill()

	freeze()
	s.Start()
	s.WaitReady(time.Minute)
	s.waitSaid("hanging", "not answer")
	l.audit(s)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if l.load(ctx, s, 2) == 0 {
		t.Error("nothing was written with a frozen drive")
	}
	thaw()
	s.finish(l)
}

// ended tells whether a process has ended but for threads that the kernel does not let go.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}
