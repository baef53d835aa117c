// Package posix drives a mount of the running binary with the programs that people use on directories, and compares
// what S3 clients see of the same files.
package posix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast/holdfast/tests/testkit"
)

const minute = time.Minute

// Home is the bucket that `up --mount` shows.
const home = "home"

func mounted(t *testing.T) *testkit.Server {
	t.Helper()
	return testkit.Up(t, testkit.Options{Mount: true})
}

// goSource is the source tree of the Go toolchain: real input, more than 10,000 files.
func goSource(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

func TestGoSourceTreeRoundTrip(t *testing.T) {
	s := mounted(t)
	source := goSource(t)
	target := filepath.Join(s.MountDir, "cp")
	s.Run(10*minute, "cp", "-a", source, target)
	s.Run(10*minute, "diff", "-r", source, target)

	synced := filepath.Join(s.MountDir, "rsync")
	rsync := func() string {
		return s.Run(10*minute, "rsync", "-a", "--checksum", "--itemize-changes", "--stats", source+"/", synced)
	}
	if first := rsync(); !strings.Contains(first, "Number of regular files transferred: 1") {
		t.Errorf("the first rsync transferred no 10,000 files:\n%s", first[max(0, len(first)-1500):])
	}
	if second := rsync(); !strings.Contains(second, "Number of regular files transferred: 0") || strings.Contains(second, ">f") {
		t.Errorf("the second rsync transfers again:\n%s", second[:min(len(second), 3000)])
	}

	// Awscli and rclone skip nothing here: the tree has no symbolic links or empty directories that S3 cannot show.
	aws := filepath.Join(t.TempDir(), "aws")
	s.Run(10*minute, testkit.Need(t, "aws"), "--endpoint-url", s.Endpoint, "s3", "sync", "--only-show-errors", "s3://"+home+"/cp", aws)
	s.Run(5*minute, "diff", "-r", source, aws)
	config := filepath.Join(t.TempDir(), "rclone.conf")
	text := fmt.Sprintf("[hf]\ntype = s3\nprovider = Other\naccess_key_id = %s\nsecret_access_key = %s\nendpoint = %s\n", testkit.AccessKey, testkit.SecretKey, s.Endpoint)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "rclone")
	s.Run(10*minute, testkit.Need(t, "rclone"), "--config", config, "--transfers", "16", "copy", "hf:"+home+"/rsync", back)
	s.Run(5*minute, "diff", "-r", source, back)
}

func TestGitCloneOntoTheMount(t *testing.T) {
	testkit.Need(t, "git")
	s := mounted(t)
	origin := filepath.Join(t.TempDir(), "origin")
	git := func(dir string, args ...string) string {
		t.Helper()
		return s.Run(3*minute, "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*", "-C", dir}, args...)...)
	}
	s.Run(minute, "git", "init", "-q", origin)
	s.Run(minute, "cp", "-r", filepath.Join(goSource(t), "archive"), filepath.Join(goSource(t), "encoding"), origin)
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(origin, "change"), []byte(strings.Repeat("line\n", i*1000+1)), 0o644); err != nil {
			t.Fatal(err)
		}
		git(origin, "add", "-A")
		git(origin, "commit", "-q", "-m", fmt.Sprint("change ", i))
	}
	clone := filepath.Join(s.MountDir, "clone")
	s.Run(5*minute, "git", "clone", "-q", origin, clone)
	git(clone, "fsck", "--full", "--strict")
	if err := writeFile(filepath.Join(clone, "new"), "on the mount\n"); err != nil {
		t.Fatal(err)
	}
	git(clone, "add", "new")
	git(clone, "commit", "-q", "-m", "on the mount")
	git(clone, "gc", "-q")
	git(clone, "fsck", "--full")
	if out := git(clone, "status", "--porcelain"); out != "" {
		t.Errorf("git status after a commit on the mount: %s", out)
	}
}

// writeFile is os.WriteFile by a child: this process never does file work on the mount itself.
func writeFile(path, content string) error {
	command := exec.Command("tee", path)
	command.Stdin = strings.NewReader(content)
	return command.Run()
}

func TestGigabyteByDDEqualsTheObject(t *testing.T) {
	s := mounted(t)
	source := filepath.Join(t.TempDir(), "source")
	s.Run(2*minute, "dd", "if=/dev/urandom", "of="+source, "bs=1M", "count=1024", "status=none")
	s.Run(5*minute, "dd", "if="+source, "of="+filepath.Join(s.MountDir, "gigabyte"), "bs=1M", "status=none")
	want := sum(t, source)
	back := filepath.Join(t.TempDir(), "back")
	s.Run(5*minute, testkit.Need(t, "aws"), "--endpoint-url", s.Endpoint, "s3", "cp", "--only-show-errors", "s3://"+home+"/gigabyte", back)
	if got := sum(t, back); got != want {
		t.Fatalf("SHA-256 of the object is %s, of the file %s", got, want)
	}
	head, err := s.S3().HeadObject(context.Background(), &s3.HeadObjectInput{Bucket: aws.String(home), Key: aws.String("gigabyte")})
	if err != nil {
		t.Fatal(err)
	}
	if _, parts, ok := strings.Cut(strings.Trim(*head.ETag, `"`), "-"); !ok || len(parts) < 2 {
		t.Errorf("ETag %s does not show a multipart upload", *head.ETag)
	}
	s.Run(5*minute, "cmp", source, filepath.Join(s.MountDir, "gigabyte"))
}

func sum(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// versions lists how many versions and delete markers a key has.
func versions(t *testing.T, s *testkit.Server, prefix string) (versions, markers int) {
	t.Helper()
	out, err := s.S3().ListObjectVersions(context.Background(), &s3.ListObjectVersionsInput{Bucket: aws.String(home), Prefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Versions), len(out.DeleteMarkers)
}

func TestOneVersionForEachWriteInAVersionedBucket(t *testing.T) {
	s := mounted(t)
	s.Holdfast("bucket", "versioning", home, "on")
	sh := func(script string) { t.Helper(); s.Run(2*minute, "sh", "-ec", "cd "+s.MountDir+"\n"+script) }
	sh("echo x > f")
	if n, _ := versions(t, s, "f"); n != 1 {
		t.Errorf("echo x > f made %d versions, want 1", n)
	}
	sh("echo y > f")
	if n, _ := versions(t, s, "f"); n != 2 {
		t.Errorf("a second echo made %d versions in all, want 2", n)
	}
	sh("echo z >> f; touch -d '2001-02-03 04:05:06.789' g0; cp -p g0 g; stat -c %y g | grep -q '2001-02-03 04:05:06.789'")
	sh("mkdir r; for i in 1 2 3 4 5; do echo $i > /tmp/hf-$$-$i; done; rsync -a /tmp/hf-$$-* r/; rsync -a --itemize-changes /tmp/hf-$$-* r/; rm /tmp/hf-$$-*")
	if n, markers := versions(t, s, "r/hf-"); n != 5 || markers != 0 {
		t.Errorf("rsync of 5 files made %d versions and %d delete markers, want 5 and 0", n, markers)
	}
	if n, markers := versions(t, s, "r/.hf-"); n != 0 || markers != 0 {
		t.Errorf("rsync's temporary names keep %d versions and %d delete markers", n, markers)
	}
}

// TestToolsOfEveryDay runs shell tools on the mount, each line a claim that fails the script.
func TestToolsOfEveryDay(t *testing.T) {
	s := mounted(t)
	for name, script := range map[string]string{
		"append":   `echo one > a; echo two >> a; test "$(cat a)" = "$(printf 'one\ntwo')"`,
		"truncate": `head -c 3000000 /dev/urandom > t; truncate -s 1000000 t; test $(stat -c %s t) = 1000000; truncate -s 2000000 t; cmp <(tail -c 1000000 t) <(head -c 1000000 /dev/zero)`,
		"random writes": `head -c 20000000 /dev/urandom > /tmp/hf-r$$; cp /tmp/hf-r$$ r
			for at in 0 1 4095 65536 8388607 19999999; do printf X | dd of=r bs=1 seek=$at conv=notrunc status=none; printf X | dd of=/tmp/hf-r$$ bs=1 seek=$at conv=notrunc status=none; done
			cmp r /tmp/hf-r$$; rm /tmp/hf-r$$`,
		"rename":       `echo a > x; echo b > y; mv x y; test "$(cat y)" = a; test ! -e x; mv -n y z; echo c > w; mv -n w z; test "$(cat z)" = a`,
		"directories":  `mkdir -p d/e/f; echo 1 > d/e/f/g; mv d D; test "$(cat D/e/f/g)" = 1; test ! -e d; ! rmdir D 2>/dev/null; rm -r D; test ! -e D`,
		"symlinks":     `echo t > target; ln -s target link; test "$(readlink link)" = target; test "$(cat link)" = t; ln -s /nowhere dangling; test -L dangling`,
		"modes":        `echo m > m; chmod 640 m; test $(stat -c %a m) = 640; touch -d 2010-01-01 m; test $(stat -c %Y m) = $(date -d 2010-01-01 +%s)`,
		"xattrs":       `echo v > v; setfattr -n user.colour -v blue v; test "$(getfattr --only-values -n user.colour v)" = blue; setfattr -x user.colour v; ! getfattr -n user.colour v 2>/dev/null`,
		"unlinked":     `echo keep > u; exec 3<u; rm u; test "$(cat <&3)" = keep; exec 3<&-; test ! -e u`,
		"tar":          `mkdir in; for i in $(seq 40); do head -c $((i*997)) /dev/urandom > in/$i; done; touch -d 2015-05-05 in/7; tar cf - in | (mkdir out; tar xf - -C out); diff -r in out/in; test $(stat -c %Y out/in/7) = $(stat -c %Y in/7)`,
		"sqlite":       `sqlite3 db 'create table t(a); insert into t values(1); insert into t values(2);'; sqlite3 db 'begin; insert into t values(3); commit;'; test "$(sqlite3 db 'select sum(a) from t')" = 6; test "$(sqlite3 db 'pragma integrity_check')" = ok`,
		"df":           `df . | tail -1 | grep -q hold; test $(df --output=size . | tail -1) -gt 0`,
		"find and du":  `mkdir -p n/a n/b; touch n/a/1 n/b/2; test $(find n -type f | wc -l) = 2; du -s n >/dev/null`,
		"fio":          `fio --name=v --filename=fio --size=8M --bs=4k --rw=randwrite --verify=crc32c --do_verify=1 --ioengine=psync --output=/dev/null`,
		"fsync":        `dd if=/dev/urandom of=s bs=64k count=20 conv=fsync status=none; test $(stat -c %s s) = 1310720`,
		"odd names":    `echo 1 > 'a b'; echo 2 > 'ü'; echo 3 > 'q?&<>"'; test "$(cat 'a b' 'ü' 'q?&<>"')" = "$(printf '1\n2\n3')"`,
		"many writers": `for i in $(seq 8); do (for j in $(seq 10); do echo $i $j > w$i-$j; done) & done; wait; test $(ls | grep -c '^w') = 80`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(s.MountDir, strings.ReplaceAll(name, " ", "-"))
			s.Run(2*minute, "bash", "-ec", "set -o pipefail; mkdir "+dir+"; cd "+dir+"\n"+script)
		})
	}
}

// TestFileIsObjectIsFile checks both directions of the one consistency domain.
func TestFileIsObjectIsFile(t *testing.T) {
	s := mounted(t)
	client, ctx := s.S3(), context.Background()
	put := func(key, body string) {
		t.Helper()
		if _, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(home), Key: &key, Body: strings.NewReader(body)}); err != nil {
			t.Fatal(err)
		}
	}
	put("dir/by-s3", "first")
	path := filepath.Join(s.MountDir, "dir", "by-s3")
	if out := s.Run(minute, "cat", path); out != "first" {
		t.Errorf("the mount reads %q after PUT", out)
	}
	put("dir/by-s3", "second, and longer")
	if out := s.Run(minute, "cat", path); out != "second, and longer" {
		t.Errorf("the mount reads %q after the second PUT", out)
	}
	s.Run(minute, "sh", "-c", "echo by mount > "+filepath.Join(s.MountDir, "dir", "by-mount"))
	object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(home), Key: aws.String("dir/by-mount")})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(object.Body)
	if err != nil || string(body) != "by mount\n" {
		t.Errorf("S3 reads %q, %v", body, err)
	}
	if err := object.Body.Close(); err != nil {
		t.Fatal(err)
	}
	s.Run(minute, "rm", path)
	if _, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(home), Key: aws.String("dir/by-s3")}); err == nil {
		t.Error("S3 still sees a file that was removed on the mount")
	}
}

// What S3 has acknowledged is seen by the next lookup on the mount, and the other way round, whoever changed what. The
// mount answers lookups from memory in between: it must notice every change.
func TestEveryChangeIsSeenByTheNextLookup(t *testing.T) {
	s := mounted(t)
	client, ctx := s.S3(), context.Background()
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	dir := filepath.Join(s.MountDir, "both")
	sizes := map[string]int64{} // of the files that there are
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			for round := range 400 {
				name := fmt.Sprint("f", random.IntN(4))
				path, key := filepath.Join(dir, name), aws.String("both/"+name)
				size := 1 + random.Int64N(5000)
				var err error
				switch random.IntN(8) {
				case 0, 1:
					_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(home), Key: key, Body: bytes.NewReader(make([]byte, size))})
					sizes[name] = size
				case 2:
					_, err = client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(home), Key: key})
					delete(sizes, name)
				case 3, 4:
					err = os.WriteFile(path, make([]byte, size), 0o644)
					sizes[name] = size
				case 5:
					if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) && sizes[name] == 0 {
						err = nil
					}
					delete(sizes, name)
				} // and now and then nothing changes
				if err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
				for i := range 4 {
					name := fmt.Sprint("f", i)
					info, err := os.Stat(filepath.Join(dir, name))
					if errors.Is(err, fs.ErrNotExist) && sizes[name] == 0 {
						continue
					}
					if err != nil || info.Size() != sizes[name] {
						return fmt.Errorf("round %d: %s is %v, %w; want %d bytes", round, name, info, err, sizes[name])
					}
					head, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(home), Key: aws.String("both/" + name)})
					if err != nil || aws.ToInt64(head.ContentLength) != sizes[name] {
						return fmt.Errorf("round %d: S3 has %v, %w; want %d bytes", round, head, err, sizes[name])
					}
				}
			}
			return nil
		}()
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(2 * minute):
		t.Fatal("the mount hangs")
	}
}

// `holdfast umount` takes the mount of `up` away and nothing else: S3 goes on, and the server still ends well.
func TestUnmountLeavesTheServerUp(t *testing.T) {
	s := mounted(t)
	if err := writeFile(filepath.Join(s.MountDir, "kept"), "kept"); err != nil {
		t.Fatal(err)
	}
	s.Holdfast("umount", s.MountDir)
	testkit.Poll(t, 20*time.Second, "the server to say so", func() bool { return strings.Contains(s.Output(), "the mount was taken away") })
	if got := s.Holdfast("cat", "home/kept"); got != "kept" {
		t.Errorf("the object reads %q", got)
	}
	s.Stop()
}

// TestSmallFilesAfterALargeOne writes more small files than a session remembers writes, after a file in many parts: the
// parts must not take the places of later writes.
func TestSmallFilesAfterALargeOne(t *testing.T) {
	s := mounted(t)
	s.Run(2*minute, "dd", "if=/dev/zero", "of="+filepath.Join(s.MountDir, "large"), "bs=1M", "count=300", "status=none")
	source := t.TempDir()
	for i := range 2200 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint("f", i)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		s.Run(2*minute, "cp", "-r", source, filepath.Join(s.MountDir, fmt.Sprint("copy", i)))
	}
}
