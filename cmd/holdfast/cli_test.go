package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// world is a server that runs in this process, and an environment for commands.
type world struct {
	t   *testing.T
	env map[string]string
	dir string
	in  string // standard input of the next command

	running *server
}

func (w *world) lookup(name string) (string, bool) {
	value, ok := w.env[name]
	return value, ok
}

// up runs `holdfast up` until the test ends, and demands that it ends well.
func up(t *testing.T) *world {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "data")}
	w.env = map[string]string{"HOLDFAST_ENDPOINT": "http://" + addr, "HOLDFAST_DIR": w.dir, "HOLDFAST_S3": addr, "HOLDFAST_MEMORY": "64MiB"}
	w.running = w.start()
	w.running.waitUp()
	return w
}

// server is one run of `holdfast up`.
type server struct {
	w    *world
	out  *expect.Buffer
	stop func() // idempotent; demands that it ends well
}

func (w *world) start() *server {
	ctx, cancel := context.WithCancel(context.Background())
	out, code := &expect.Buffer{}, make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"holdfast", "up"}, streams{strings.NewReader(""), out, out}, w.lookup)
	}()
	t := w.t
	stop := sync.OnceFunc(func() {
		cancel()
		if c := <-code; c != exitDone {
			t.Errorf("up ended with %d:\n%s", c, out)
		}
	})
	t.Cleanup(stop)
	return &server{w, out, stop}
}

func (s *server) waitUp() {
	s.w.t.Helper()
	expect.Soon(s.w.t, "up to come up", func() bool { return strings.Contains(s.out.String(), "Ctrl-C stops it") })
}

// try runs a command and returns its output and exit code.
func (w *world) try(args ...string) (out, errOut string, code int) {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code = run(ctx, append([]string{"holdfast"}, args...), streams{strings.NewReader(w.in), &stdout, &stderr}, w.lookup)
	w.in = ""
	return stdout.String(), stderr.String(), code
}

func (w *world) do(args ...string) string {
	w.t.Helper()
	out, errOut, code := w.try(args...)
	if code != exitDone {
		w.t.Fatalf("holdfast %s: exit %d: %s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

func (w *world) fails(want int, says string, args ...string) {
	w.t.Helper()
	out, errOut, code := w.try(args...)
	if code != want || !strings.Contains(errOut, says) {
		w.t.Errorf("holdfast %s: exit %d, want %d with %q: %s%s", strings.Join(args, " "), code, want, says, out, errOut)
	}
}

func writeFile(t *testing.T, name string, n int, seed byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, randomBlock(n, seed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sums maps the files below dir to their digests.
func sums(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := make(map[string][32]byte)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		all[relative] = sha256.Sum256(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCommandsAgainstARunningServer(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "photos")
	tree := t.TempDir()
	writeFile(t, filepath.Join(tree, "empty"), 0, 0)
	writeFile(t, filepath.Join(tree, "small file"), 5, 1)
	writeFile(t, filepath.Join(tree, "deep/er/inline"), 16<<10, 2)
	writeFile(t, filepath.Join(tree, "deep/percent%41+plus"), 300<<10, 3)
	writeFile(t, filepath.Join(tree, "large"), 23<<20+7, 4) // parts of 5 MiB
	want := sums(t, tree)

	t.Run("trees", func(t *testing.T) {
		w.t = t
		w.do("cp", "-r", "--part-size", "5MiB", tree, "hf://photos/tree")
		back := filepath.Join(t.TempDir(), "back")
		w.do("cp", "-r", "--part-size", "5MiB", "photos/tree/", back)
		if got := sums(t, back); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("came back as %d other files", len(got))
		}
		w.do("cp", "-r", "photos/tree/", "hf://photos/copy")
		again := filepath.Join(t.TempDir(), "again")
		w.do("cp", "-r", "photos/copy", again)
		if got := sums(t, again); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Error("a copy inside the store came back different")
		}
		listed := w.do("ls", "-r", "--json", "photos/tree/")
		if n := strings.Count(listed, "\n"); n != len(want) {
			t.Errorf("ls shows %d objects, want %d:\n%s", n, len(want), listed)
		}
		if out := w.do("ls", "photos/"); !strings.Contains(out, "DIR  copy/") || !strings.Contains(out, "DIR  tree/") {
			t.Errorf("ls shows:\n%s", out)
		}
		if out := w.do("rm", "-r", "photos/copy/"); !strings.Contains(out, "removed 5 objects") {
			t.Errorf("rm -r says %q", out)
		}
	})
	t.Run("streams", func(t *testing.T) {
		w.t = t
		w.in = string(randomBlock(12<<20+1, 9))
		in := w.in
		w.do("cp", "--part-size", "5MiB", "-", "photos/stream")
		if out := w.do("cat", "photos/stream"); out != in {
			t.Errorf("%d other bytes came back", len(out))
		}
		if out := w.do("cat", "--range", "5-9", "photos/stream"); out != in[5:10] {
			t.Errorf("a range gave %q", out)
		}
		if out := w.do("cp", "-q", "photos/stream", "-"); out != in {
			t.Error("cp to standard output gave other bytes")
		}
		w.in = "tiny"
		w.do("cp", "-", "photos/tiny")
		if out := w.do("cat", "photos/tiny"); out != "tiny" {
			t.Errorf("a short stream came back as %q", out)
		}
	})
	t.Run("versions", func(t *testing.T) {
		w.t = t
		if out := w.do("bucket", "versioning", "photos"); out != "off\n" {
			t.Errorf("versioning is %q", out)
		}
		w.do("bucket", "versioning", "photos", "on")
		w.in = "second"
		w.do("cp", "-", "photos/tiny")
		w.do("rm", "photos/tiny")
		w.fails(exitNotFound, "photos/tiny", "cat", "photos/tiny")
		out := w.do("ls", "--versions", "photos/tiny")
		if strings.Count(out, "\n") != 3 || !strings.Contains(out, "DELETED") {
			t.Errorf("versions:\n%s", out)
		}
		w.do("rm", "-r", "--versions", "photos/tiny")
		w.fails(exitNotFound, "no object", "ls", "--versions", "photos/tiny")
	})
	t.Run("looking after", func(t *testing.T) {
		w.t = t
		var st admin.Status
		if err := json.Unmarshal([]byte(w.do("status", "--json")), &st); err != nil {
			t.Fatal(err)
		}
		if !st.Whole() || st.DrivesUp != 12 || st.Content.Buckets != 1 || st.Content.Objects != 6 || st.Losses.Bytes.Drives != 4 || st.Losses.Bytes.Devices != 0 ||
			st.Losses.Names.Drives != 4 || st.Content.Factor < 1.5 || st.Content.Factor > 2 {
			t.Errorf("status %+v", st)
		}
		if out := w.do("status"); !strings.Contains(out, "12 of 12 up") || !strings.Contains(out, "nothing is under-protected") {
			t.Errorf("status:\n%s", out)
		}
		if out := w.do("drive", "ls"); strings.Count(out, "  up ") != 12 {
			t.Errorf("drive ls:\n%s", out)
		}
		if out := w.do("volume", "ls", "--json"); !strings.Contains(out, `"slots"`) {
			t.Errorf("volume ls:\n%s", out)
		}
		for _, deep := range []bool{false, true} {
			if out := w.do("fsck", fmt.Sprintf("--deep=%t", deep)); !strings.Contains(out, "all is well") {
				t.Errorf("fsck, deep %t:\n%s", deep, out)
			}
		}
		if out := w.do("creds"); !strings.Contains(out, "export AWS_ACCESS_KEY_ID='HFAK") || !strings.Contains(out, w.env["HOLDFAST_ENDPOINT"]) {
			t.Errorf("creds prints something else")
		}
	})
	t.Run("damage", func(t *testing.T) {
		w.t = t
		w.damageShard(t)
		out, errOut, code := w.try("fsck", "--deep")
		if code != exitUnsound || !strings.Contains(errOut, "damaged:") || !strings.Contains(out, "SOMETHING IS WRONG") {
			t.Errorf("fsck --deep of a damaged shard: exit %d:\n%s%s", code, out, errOut)
		}
		back := filepath.Join(t.TempDir(), "large")
		w.do("cp", "photos/tree/large", back)
		if body, err := os.ReadFile(back); err != nil || sha256.Sum256(body) != want["large"] {
			t.Errorf("a damaged shard reaches the reader: %v", err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		w.t = t
		w.fails(exitNotFound, "no such bucket", "ls", "nobucket")
		w.fails(exitNotFound, "photos/nothing", "cat", "photos/nothing")
		w.fails(exitNotFound, "photos/nothing", "rm", "photos/nothing")
		w.fails(exitError, "", "bucket", "rm", "photos") // not empty
		w.fails(exitUsage, "both ends are local", "cp", "./a", "./b")
		w.fails(exitUsage, "unknown command", "frobnicate")
		w.fails(exitUsage, "unknown flag", "ls", "--frobnicate")
		w.fails(exitUsage, "usage:", "cat")
		w.fails(exitUnreachable, "cannot reach", "status", "--endpoint", "http://127.0.0.1:1")
		w.fails(exitUnreachable, "cannot reach", "ls", "--endpoint", "http://127.0.0.1:1")
		w.fails(exitUsage, "http://host:port", "ls", "--endpoint", "localhost:9000")
		w.env["HOLDFAST_ACCESS_KEY"], w.env["HOLDFAST_SECRET_KEY"] = "WRONGKEY", "wrong-secret-0123"
		defer func() {
			delete(w.env, "HOLDFAST_ACCESS_KEY")
			delete(w.env, "HOLDFAST_SECRET_KEY")
		}()
		w.fails(exitRefused, "", "status")
		w.fails(exitRefused, "", "ls")
	})
	w.t = t
	w.do("rm", "-r", "--versions", "photos")
	w.do("bucket", "rm", "photos")
}

// damageShard flips a bit in the middle of a chunk file that holds much.
func (w *world) damageShard(t *testing.T) {
	t.Helper()
	var largest string
	var most int64
	err := filepath.WalkDir(filepath.Join(w.dir, "drives", "d3", "volumes"), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > most {
			largest, most = name, info.Size()
		}
		return err
	})
	if err != nil || most < 1<<20 {
		t.Fatalf("no chunk file of a MiB on d3: %v", err)
	}
	file, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Every shard of an 8 MiB chunk has a header page and 1 MiB: a bit in each payload page is flipped, whichever live.
	for off := int64(64 << 10); off < most; off += 64 << 10 {
		var b [1]byte
		if _, err := file.ReadAt(b[:], off); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := file.WriteAt(b[:], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWaitingForDrivesIsSaid(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "kept")
	w.in = "something"
	w.do("cp", "-", "kept/k")
	w.running.stop()
	drive := func(n int) string { return filepath.Join(w.dir, "drives", fmt.Sprint("d", n)) }
	for n := 1; n <= 5; n++ {
		if err := os.Rename(drive(n), drive(n)+".away"); err != nil {
			t.Fatal(err)
		}
	}
	s := w.start()
	get := func(path string, header ...string) (int, string) {
		t.Helper()
		request, err := http.NewRequest(http.MethodGet, w.env["HOLDFAST_ENDPOINT"]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(header) == 2 {
			request.Header.Set(header[0], header[1])
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err.Error()
		}
		body, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	expect.Soon(t, "the reason", func() bool {
		_, text := get("/-/health/ready")
		return strings.Contains(text, "5 of 12 drives are not here")
	})
	if code, _ := get("/-/health/ready"); code != http.StatusServiceUnavailable {
		t.Errorf("not ready answers %d", code)
	}
	if code, _ := get("/-/health/live"); code != http.StatusOK {
		t.Errorf("live answers %d", code)
	}
	if code, text := get("/kept/k"); code != http.StatusServiceUnavailable || !strings.Contains(text, "ServiceUnavailable") {
		t.Errorf("S3 answers %d %s", code, text)
	}
	if code, _ := get("/-/admin/status"); code != http.StatusForbidden {
		t.Errorf("an unsigned question is answered %d", code)
	}
	out, _, code := w.try("status")
	if code != exitUnsound || !strings.Contains(out, "NOT READY: 5 of 12 drives are not here") || !strings.Contains(out, "7 of 12 up") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
	if err := os.Rename(drive(3)+".away", drive(3)); err != nil {
		t.Fatal(err)
	}
	s.waitUp()
	if out := w.do("cat", "kept/k"); out != "something" {
		t.Errorf("it reads %q", out)
	}
	out, _, code = w.try("drive", "ls")
	if code != exitDone || strings.Count(out, " missing ") != 4 {
		t.Errorf("drive ls: exit %d\n%s", code, out)
	}
	token, err := os.ReadFile(filepath.Join(w.dir, "metrics.token"))
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := get("/-/metrics"); code != http.StatusUnauthorized {
		t.Errorf("metrics without a token answer %d", code)
	}
	code, text := get("/-/metrics", "Authorization", "Bearer "+strings.TrimSpace(string(token)))
	if code != http.StatusOK || !strings.Contains(text, `holdfast_drive_up{drive="d3"} 1`) || strings.Count(text, "holdfast_drive_up{") != 12 {
		t.Errorf("metrics answer %d:\n%s", code, text)
	}
}

func TestDownloadLeavesNothingHalfWritten(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "bkt")
	w.in = "new"
	w.do("cp", "-", "bkt/k")
	dir := t.TempDir()
	target := filepath.Join(dir, "k")
	if err := os.WriteFile(target, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.fails(exitNotFound, "", "cp", "bkt/other", target)
	w.do("cp", "bkt/k", target)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d entries: %v", len(entries), err)
	}
	if body, err := os.ReadFile(target); err != nil || string(body) != "new" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestKeysThatLeadOutOfTheDirectoryAreRefused(t *testing.T) {
	for _, name := range []string{"../x", "a/../../x", "/etc/passwd", "..", ""} {
		if to, err := below(place{local: true, path: "/safe"}, name); err == nil {
			t.Errorf("%q goes to %s", name, to.path)
		}
	}
	if to, err := below(place{local: true, path: "/safe"}, "a/b"); err != nil || to.path != "/safe/a/b" {
		t.Errorf("%s, %v", to.path, err)
	}
}

func TestParsePlace(t *testing.T) {
	for text, want := range map[string]place{
		"hf://b/k/x": {bucket: "b", key: "k/x"}, "hf://b": {bucket: "b"}, "b/k": {bucket: "b", key: "k"}, "b/": {bucket: "b"},
		"./b/k": {local: true, path: "./b/k"}, "../k": {local: true, path: "../k"}, "/k": {local: true, path: "/k"},
		"word": {local: true, path: "word"}, "-": {local: true, path: "-"}, ".": {local: true, path: "."}, "b/k//": {bucket: "b", key: "k//"},
	} {
		if got, err := parsePlace(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "hf://", "hf:///k"} {
		if got, err := parsePlace(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

// TestSettingsOrder proves flag > environment > file > default, and that a wrong file is refused.
func TestSettingsOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	text := "endpoint: http://file:1\ndir: /file\ncreds:\n  dir: /section\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	resolve := func(env map[string]string, args ...string) (endpoint, dir string, err error) {
		s := &session{streams: streams{strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}}}
		s.config.lookup = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
		root := newRoot(s)
		creds, _, findErr := root.Find([]string{"creds"})
		if findErr != nil {
			t.Fatal(findErr)
		}
		creds.RunE = func(cmd *cobra.Command, _ []string) error {
			endpoint, dir = cmd.Flag("endpoint").Value.String(), cmd.Flag("dir").Value.String()
			return nil
		}
		root.SetArgs(append([]string{"creds"}, args...))
		return endpoint, dir, root.Execute()
	}
	for _, test := range []struct {
		env           map[string]string
		args          []string
		endpoint, dir string
	}{
		{nil, nil, defaultEndpoint, defaultDir},
		{nil, []string{"--config", file}, "http://file:1", "/section"},
		{map[string]string{"HOLDFAST_CONFIG": file, "HOLDFAST_DIR": "/env"}, nil, "http://file:1", "/env"},
		{map[string]string{"HOLDFAST_CONFIG": file, "HOLDFAST_ENDPOINT": "http://env:1"}, []string{"--endpoint", "http://flag:1"}, "http://flag:1", "/section"},
	} {
		endpoint, dir, err := resolve(test.env, test.args...)
		if err != nil || endpoint != test.endpoint || dir != test.dir {
			t.Errorf("%v %v: %s %s %v", test.env, test.args, endpoint, dir, err)
		}
	}
	for _, bad := range []string{"endpoimt: x\n", "nocommand:\n  dir: x\n", "dir: {a: 1}\ndrives: x: y\n", "recursive: true\n"} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := resolve(nil, "--config", file); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestKeysMustComeInPairs(t *testing.T) {
	c := configuration{lookup: func(name string) (string, bool) { return "x", name == "HOLDFAST_ACCESS_KEY" }}
	if _, err := c.clientKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("half a key: %v", err)
	}
}

// every calls f for every command that a person can run.
func every(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, child := range cmd.Commands() {
		if child.Name() != "help" {
			every(child, f)
		}
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	manual, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(&session{})
	every(root, func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.RunE == nil && cmd.Run == nil {
			t.Errorf("%s: no short help, one with a full stop, or nothing to run", cmd.CommandPath())
		}
		if cmd != root && !strings.Contains(string(manual), "`"+cmd.CommandPath()) {
			t.Errorf("docs/cli.md does not tell of `%s`", cmd.CommandPath())
		}
	})
	for _, code := range []int{exitDone, exitError, exitUsage, exitUnsound, exitUnreachable, exitRefused, exitNotFound, exitInterrupted} {
		if !strings.Contains(string(manual), fmt.Sprintf("| %d |", code)) {
			t.Errorf("docs/cli.md does not tell of exit code %d", code)
		}
	}
	for _, name := range settingsOf(root) {
		if !strings.Contains(string(manual), "`"+name+"`") {
			t.Errorf("docs/cli.md does not tell of the setting %s", name)
		}
	}
}

func TestMountOptionsOfFstab(t *testing.T) {
	o := mountOptions{options: []string{"ro", "uid=7", "umask=077", "_netdev", "x-systemd.automount", "noexec", "endpoint=http://h:1", "defaults"}}
	if err := o.absorb(); err != nil {
		t.Fatal(err)
	}
	if !o.readOnly || o.uid != "7" || o.umask != "077" || o.client.endpoint != "http://h:1" || strings.Join(o.options, ",") != "noexec" {
		t.Errorf("%+v", o)
	}
	if got := commandLine([]string{"/sbin/mount.holdfast", "home", "/mnt", "-sn", "-t", "holdfast", "-v", "-o", "ro"}); strings.Join(got, " ") != "mount --daemon home /mnt -o ro" {
		t.Errorf("mount(8) calls %v", got)
	}
}
