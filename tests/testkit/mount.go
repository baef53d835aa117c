package testkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Mount is a `holdfast mount` process of its own.
type Mount struct {
	Dir string

	t       testing.TB
	process *process
}

// Mount mounts a bucket through the node's gateway, which is the only one that the mount is told of.
func (n *Node) Mount(bucket string) *Mount {
	t := n.c.t
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
	m := &Mount{t: t, Dir: filepath.Join(t.TempDir(), "mnt")}
	if err := os.Mkdir(m.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.process = startProcess(t, n.Env(), Binary(t), "mount", "--endpoint", n.Endpoint, bucket, m.Dir)
	t.Cleanup(m.cleanup)
	Poll(t, 30*time.Second, "the mount at "+n.Name, func() bool {
		if m.process.ended() {
			t.Fatalf("mount ended: %v\n%s", m.process.waitErr, m.process.output)
		}
		return isMounted(m.Dir)
	})
	return m
}

// Output is what the mount printed.
func (m *Mount) Output() string { return m.process.output.String() }

// Stop takes the mount away as a user would.
func (m *Mount) Stop() {
	m.t.Helper()
	if err := m.process.stop(m.t, 30*time.Second); err != nil {
		m.t.Errorf("the mount did not stop cleanly: %v\n%s", err, m.process.output)
	}
}

func (m *Mount) cleanup() {
	m.process.kill(m.t)
	takeAway(m.t, m.Dir)
	if m.t.Failed() {
		m.t.Logf("output of the mount at %s:\n%s", m.Dir, tail(m.process.output.String(), 16<<10))
	}
}

func isMounted(dir string) bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(mounts), " "+dir+" ")
}

// takeAway aborts the connection of a mount that nobody serves any more and takes it away.
func takeAway(t testing.TB, dir string) {
	for range 10 {
		if !isMounted(dir) {
			return
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
			if _, out, err := runProgram(10*time.Second, os.Environ(), "fusermount3", "-uz", dir); err != nil {
				t.Logf("unmount %s: %v %s", dir, err, out)
			}
		}
	}
}
