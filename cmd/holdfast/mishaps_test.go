package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/tests/expect"
)

// A server that loses a fifth drive while it runs goes on with what it can, and status says which part that is.
func TestFifthLossWhileServing(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "kept")
	large, back := filepath.Join(t.TempDir(), "large"), filepath.Join(t.TempDir(), "back")
	writeFile(t, large, 1<<20, 7)
	w.do("cp", large, "kept/large")
	w.in = "something"
	w.do("cp", "-", "kept/small")
	drive := func(n int) string { return filepath.Join(w.dir, "drives", fmt.Sprint("d", n)) }
	for n := 1; n <= 5; n++ {
		if err := os.Rename(drive(n), drive(n)+".away"); err != nil {
			t.Fatal(err)
		}
	}
	expect.Soon(t, "the loss to be said", func() bool {
		out, _, code := w.try("status")
		return code == exitUnsound && strings.Contains(out, "NOT READY: 5 of 12 drives are not here") &&
			strings.Contains(out, "SOME CANNOT BE READ NOW") && strings.Contains(out, "2 objects")
	})
	if got := w.do("cat", "kept/small"); got != "something" {
		t.Errorf("the small object reads %q", got)
	}
	if out, errOut, code := w.try("cp", "kept/large", back); code != exitError {
		t.Errorf("the large object: exit %d: %s%s", code, out, errOut)
	}
	if err := os.Rename(drive(2)+".away", drive(2)); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "readiness", func() bool {
		out, _, _ := w.try("status")
		return strings.Contains(out, "  ready, not whole")
	})
	w.do("cp", "kept/large", back)
	if !maps.Equal(sums(t, filepath.Dir(back)), map[string][32]byte{"back": sha256.Sum256(randomBlock(1<<20, 7))}) {
		t.Error("the large object reads otherwise")
	}
}

// A file keeps its permission bits, a link stays a link, and what is no regular file is written into: a download over
// /dev/null must not put a file in its place.
func TestDownloadOntoWhatIsThere(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "bkt")
	w.in = "new"
	w.do("cp", "-", "bkt/k")
	dir := t.TempDir()
	file, link, loose, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "loose"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o640), os.Chmod(file, 0o640), os.Symlink("file", link),
		os.Symlink("nowhere", loose), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.do("cp", "bkt/k", link)
	if to, err := os.Readlink(link); err != nil || to != "file" {
		t.Errorf("the link leads to %q: %v", to, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("the file is %v: %v", info.Mode(), err)
	}
	if body, err := os.ReadFile(file); err != nil || string(body) != "new" {
		t.Errorf("%q, %v", body, err)
	}
	w.fails(exitError, "leads nowhere", "cp", "bkt/k", loose)

	type answer struct {
		body []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		body, err := os.ReadFile(pipe)
		read <- answer{body, err}
	}()
	w.do("cp", "bkt/k", pipe)
	if got := <-read; got.err != nil || string(got.body) != "new" {
		t.Errorf("the pipe brought %q, %v", got.body, got.err)
	}
	if info, err := os.Stat(pipe); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the pipe is %v: %v", info, err)
	}
}

func TestFailedCopiesAreNamed(t *testing.T) {
	w := up(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), 10, 1)
	writeFile(t, filepath.Join(dir, "b"), 10, 2)
	for _, name := range []string{"/a: ", "/b: "} {
		w.fails(exitNotFound, filepath.Join(dir, name), "cp", "-r", dir, "hf://nosuchbucket/")
	}
}

func TestWrongSettingsDoNothing(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "bkt")
	w.in = "0123"
	w.do("cp", "-", "bkt/k")
	for _, span := range []string{"abc", "5-2", "-", "1", "1-2,3-4", "+1-2"} {
		w.fails(exitUsage, "--range", "cat", "--range", span, "bkt/k")
	}
	if got := w.do("cat", "--range", "-2", "bkt/k"); got != "23" {
		t.Errorf("the last two bytes are %q", got)
	}
	w.fails(exitUsage, "--log-level", "ls", "--log-level", "loud")
	w.fails(exitUsage, "--log-format", "ls", "--log-format", "xml")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mnt", "file"), 10, 1)
	w.fails(exitError, "not empty", "up", "--dir", filepath.Join(dir, "data"), "--mount", filepath.Join(dir, "mnt"))
	if _, err := os.Stat(filepath.Join(dir, "data")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a data directory was made although the mount point cannot be used: %v", err)
	}
}

// The script must complete in a bash that has no bash-completion package, as on a fresh Debian.
func TestCompletionInPlainBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash on this machine")
	}
	w := &world{t: t, env: map[string]string{}}
	dir := t.TempDir()
	script, answers := filepath.Join(dir, "script"), filepath.Join(dir, "answers")
	if err := errors.Join(os.WriteFile(script, []byte(w.do("completion", "bash")), 0o600),
		os.WriteFile(answers, []byte(w.do("__complete", "bucket", "ver")), 0o600)); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), bash, "--norc", "--noprofile", "-c", `
holdfast() { [ "$*" = "__complete bucket ver" ] && cat "$answers"; }
source "$script"
COMP_WORDS=(holdfast bucket ver) COMP_CWORD=2 COMP_LINE="holdfast bucket ver" COMP_POINT=19 COMP_TYPE=9
__start_holdfast holdfast ver bucket
echo "${COMPREPLY[*]}"`)
	shell.Env = append(os.Environ(), "script="+script, "answers="+answers)
	var errOut strings.Builder
	shell.Stderr = &errOut
	out, err := shell.Output()
	if err != nil || strings.TrimSpace(string(out)) != "versioning" {
		t.Errorf("bash completes %q: %v: %s", out, err, &errOut)
	}
}
