package fusefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/holdfast/holdfast/fusefs"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// The process that serves a mount never touches its files: it would wait for itself. The test process serves, and the
// file work is done by shell tools and by this test binary started again.
const (
	envPosix   = "HOLDFAST_TEST_POSIX"   // the mount over which to run posixtest.All
	envJanitor = "HOLDFAST_TEST_JANITOR" // the mount to detach when the test process is gone
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envJanitor); dir != "" {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test process ends in whatever way
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		_ = exec.Command("fusermount3", "-uz", dir).Run()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// allowed is how long the file work of one test may take before the mount is aborted under it.
const allowed = 60 * time.Second

type served struct {
	t   *testing.T
	dir string
	m   *treetest.Model
	fs  *fusefs.Mounted
}

// serve mounts a model for the time of the test. Without /dev/fuse there is nothing to test here; a test machine that
// should have it says so with HOLDFAST_TEST_FUSE=1.
func serve(t *testing.T, c fusefs.Config) *served {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		if os.Getenv("HOLDFAST_TEST_FUSE") != "" {
			t.Fatal(err)
		}
		t.Skipf("this machine has no FUSE: %v", err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s := &served{t: t, dir: filepath.Join(t.TempDir(), "mnt"), m: treetest.NewModel()}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if c.Objects == nil {
		c.Objects = s.m
	}
	c.Dir = s.dir
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	fs, err := fusefs.Mount(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s.fs = fs
	janitor := exec.Command(os.Args[0])
	janitor.Env = append(os.Environ(), envJanitor+"="+s.dir)
	in, err := janitor.StdinPipe()
	if err == nil {
		err = janitor.Start()
	}
	if err != nil {
		t.Error(err)
	}
	watchdog := time.AfterFunc(allowed, func() { abort(s.dir) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := fs.Unmount(ctx); err != nil {
			t.Errorf("unmount: %v", err)
			abort(s.dir)
			_ = fs.Detach()
		}
		if !watchdog.Stop() {
			t.Error("the file work took too long and was aborted")
		}
		_ = in.Close()
		_ = janitor.Wait()
	})
	return s
}

// abort breaks the connection of a mount: whoever waits in it gets an error.
func abort(dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			_, minor, _ := strings.Cut(f[2], ":")
			_ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0)
		}
	}
}

// sh runs a script with the mount as its working directory and returns its output. $T is a directory outside.
func (s *served) sh(script string) string {
	s.t.Helper()
	out, err := s.try(script)
	if err != nil {
		s.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func (s *served) try(script string) (string, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), allowed)
	defer cancel()
	// Not by Cmd.Dir: between fork and exec the child would change into a mount that this process serves.
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -eu; cd \"$M\"\n"+script)
	cmd.Env = append(os.Environ(), "M="+s.dir, "T="+s.t.TempDir(), "HOME="+s.t.TempDir(), "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// need skips nothing: a tool that a trace is about must be there.
func (s *served) need(tools ...string) {
	s.t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			s.t.Fatalf("%s is not installed", tool)
		}
	}
}

func (s *served) wantVersions(key string, n int) {
	s.t.Helper()
	if got := len(s.m.Published(key)); got != n {
		s.t.Errorf("%q was published %d times, want %d", key, got, n)
	}
}

func (s *served) wantData(key, want string) {
	s.t.Helper()
	if got, ok := s.m.Data(key); !ok || string(got) != want {
		s.t.Errorf("object %q is %.60q, %v; want %.60q", key, got, ok, want)
	}
}

// settled waits until what the last RELEASE does is done: it has no answer that a program could wait for.
func (s *served) settled(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not after 10 s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// exceptions are the cases of posixtest.All that the mount does not pass, with the reason; SEMANTICS.md has them too.
var exceptions = map[string]string{
	"Link":                "hard links are refused: one object has one key",
	"LinkUnlinkRename":    "hard links are refused: one object has one key",
	"FcntlFlockLocksFile": "it wants a process to conflict with its own fcntl lock, which POSIX locks never do (ext4 fails it too)",
}

// TestPosixChild is the file work of TestPosix.
func TestPosixChild(t *testing.T) {
	root := os.Getenv(envPosix)
	if root == "" {
		t.Skip("runs as the child of TestPosix")
	}
	for name, fn := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			defer close(done)
			go func() {
				select {
				case <-done:
				case <-time.After(20 * time.Second):
					abort(root)
				}
			}()
			fn(t, dir)
		})
	}
}

func TestPosix(t *testing.T) {
	s := serve(t, fusefs.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), allowed)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPosixChild$", "-test.v")
	cmd.Env = append(os.Environ(), envPosix+"="+s.dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	seen := 0
	for name := range posixtest.All {
		reason, excepted := exceptions[name]
		passed := bytes.Contains(out, fmt.Appendf(nil, "--- PASS: TestPosixChild/%s ", name))
		failed := bytes.Contains(out, fmt.Appendf(nil, "--- FAIL: TestPosixChild/%s ", name))
		switch {
		case passed && excepted:
			t.Errorf("%s passes but is listed as an exception: %s", name, reason)
		case failed && !excepted:
			t.Errorf("%s fails", name)
		}
		if passed {
			seen++
		}
	}
	if t.Failed() || seen < len(posixtest.All)-len(exceptions)-2 {
		t.Fatalf("%d of %d pass\n%s", seen, len(posixtest.All), out)
	}
	t.Logf("%d of %d pass", seen, len(posixtest.All))
}

func TestMountErrorsSayWhatToDo(t *testing.T) {
	s := serve(t, fusefs.Config{})
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, says string
		is        error
	}{
		{"", "no directory", fusefs.ErrMountPoint},
		{filepath.Join(full, "missing"), "does not exist", fusefs.ErrMountPoint},
		{full, "not empty", fusefs.ErrMountPoint},
		{filepath.Join(full, "file"), "not a directory", fusefs.ErrMountPoint},
		{s.dir, "already", fusefs.ErrBusy},
	} {
		// The busy directory is one that this process serves; looking into it is the one thing it does there.
		_, err := fusefs.Mount(t.Context(), fusefs.Config{Objects: s.m, Dir: c.dir})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("mount at %q: %v, want %v with %q", c.dir, err, c.is, c.says)
		}
	}
}

func TestReadOnlyMountRefusesChanges(t *testing.T) {
	s := serve(t, fusefs.Config{ReadOnly: true})
	s.m.Put("f", []byte("data"))
	if out, err := s.try(`[ "$(cat f)" = data ]; if touch g; then exit 1; fi; if rm f; then exit 1; fi`); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestErrorsReachPrograms(t *testing.T) {
	s := serve(t, fusefs.Config{})
	var fired atomic.Bool
	for _, c := range []struct {
		err  error
		says string
	}{{tree.ErrNoSpace, "No space left"}, {tree.ErrQuota, "quota"}, {tree.ErrAccess, "Permission denied"}, {tree.ErrIO, "Input/output"}} {
		s.m.Fail(func(op, _ string) error {
			if op == "Publish" {
				fired.Store(true)
				return c.err
			}
			return nil
		})
		out, err := s.try("dd if=/dev/zero of=f bs=1k count=1 2>&1")
		if err == nil || !strings.Contains(out, c.says) || !fired.Load() {
			t.Errorf("dd says %q (%v), want %q", out, err, c.says)
		}
	}
	s.m.Fail(nil)
	if got := s.m.Keys(); len(got) != 0 {
		t.Errorf("keys are %q", got)
	}
}
