package fusefs_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs"
)

// These are the traces of what shell tools send, from the tools themselves.

func TestEchoMakesExactlyOneVersion(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.sh(`echo x > f`)
	s.wantVersions("f", 1)
	s.wantData("f", "x\n")
	s.sh(`echo longer > f; cat f >/dev/null; stat f >/dev/null`)
	s.wantVersions("f", 2)
	s.sh(`echo tail >> f`)
	s.wantVersions("f", 3)
	s.wantData("f", "longer\ntail\n")
	s.sh(`: > f`)
	s.settled("the empty version", func() bool { return len(s.m.Published("f")) == 4 })
	s.wantData("f", "")
}

func TestCopyKeepsTimesModesAndAttributes(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("setfattr", "getfattr")
	s.sh(`mkdir "$T/src"; echo body > "$T/src/f"; chmod 640 "$T/src/f"; touch -d '2001-02-03 04:05:06.123456789' "$T/src/f"
		ln -s f "$T/src/link"; mkdir "$T/src/d"; mkfifo "$T/src/pipe"; touch -d '1999-01-01' "$T/src/d"
		cp -p "$T/src/f" f
		[ "$(stat -c '%a %Y %y' f)" = "$(stat -c '%a %Y %y' "$T/src/f")" ]
		cp -a "$T/src" all; diff -r --no-dereference "$T/src/d" all/d
		[ "$(readlink all/link)" = f ]; [ -p all/pipe ]
		[ "$(stat -c '%a %y' all/f)" = "$(stat -c '%a %y' "$T/src/f")" ]
		[ "$(stat -c %y all/d)" = "$(stat -c %y "$T/src/d")" ]
		setfattr -n user.color -v blue f; getfattr --only-values -n user.color f | grep -qx blue
		cp -a f g; getfattr --only-values -n user.color g | grep -qx blue`)
	s.wantVersions("f", 1)
	s.wantVersions("all/f", 1)
	a := s.m.Published("f")[0].Attr
	if want := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.Local); !a.Mtime.Equal(want) {
		t.Errorf("the published version has mtime %v, want %v", a.Mtime, want)
	}
}

func TestRsyncLeavesOneVersionAndTransfersOnce(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("rsync")
	s.sh(`mkdir -p "$T/src/a/b"; for i in $(seq 50); do echo "$i" > "$T/src/a/f$i"; done
		head -c 3000000 /dev/urandom > "$T/src/a/b/big"; ln -s f1 "$T/src/a/l"; : > "$T/src/empty"
		rsync -a "$T/src/" out/
		again=$(rsync -ai "$T/src/" out/); [ -z "$again" ] || { echo "second run: $again"; exit 1; }
		sum=$(rsync -aicAX --checksum "$T/src/" out/ 2>/dev/null || rsync -aic "$T/src/" out/); [ -z "$sum" ] || { echo "checksum run: $sum"; exit 1; }
		diff -r "$T/src" out`)
	for _, k := range s.m.Keys() {
		if strings.Contains(k, "/.") {
			t.Errorf("a temporary key is left: %q", k)
		}
	}
	// The temporary file was published once, under its own name, and moved.
	s.wantVersions("out/a/f7", 0)
	if data, ok := s.m.Data("out/a/f7"); !ok || string(data) != "7\n" {
		t.Errorf("out/a/f7 is %q", data)
	}
}

func TestTarUnpacksWithOneCommitAFile(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("tar")
	s.sh(`mkdir "$T/src"; for i in $(seq 100); do echo "$i" > "$T/src/f$i"; done; touch -d '2003-04-05 06:07:08' "$T/src"/f*
		tar -C "$T" -cf "$T/x.tar" src; tar xf "$T/x.tar"; diff -r "$T/src" src
		[ "$(stat -c '%y %a' src/f9)" = "$(stat -c '%y %a' "$T/src/f9")" ]
		tar cf - src | tar tf - | wc -l | grep -qx 101`)
	for i := range 100 {
		s.wantVersions(fmt.Sprintf("src/f%d", i+1), 1)
	}
	if n := s.m.Calls("SetAttr"); n > 3 {
		t.Errorf("%d attribute commits beside the publishes, want the directory's three", n)
	}
}

func TestSqliteWithRollbackJournalAndWAL(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("sqlite3")
	s.sh(`sqlite3 db "create table t(a); "
		for i in $(seq 20); do echo "insert into t values($i);"; done | sqlite3 db
		[ "$(sqlite3 db 'select sum(a) from t')" = 210 ]; [ "$(sqlite3 db 'pragma integrity_check')" = ok ]`)
	if n := len(s.m.Published("db")); n > 4 {
		t.Errorf("three sessions made %d versions", n)
	}
	if n := s.m.Calls("Stage"); n < 20 {
		t.Errorf("20 transactions staged %d times", n)
	}
	s.sh(`sqlite3 wal "pragma journal_mode=wal; create table t(a);" >/dev/null
		for i in $(seq 20); do echo "insert into t values($i);"; done | sqlite3 wal
		[ "$(sqlite3 wal 'select count(*) from t')" = 20 ]; [ "$(sqlite3 wal 'pragma integrity_check')" = ok ]`)
}

func TestGitCloneCommitAndFsck(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("git")
	s.sh(`git init -q "$T/repo"; cd "$T/repo"; mkdir d; for i in $(seq 60); do echo "file $i" > "d/f$i"; done
		ln -s d/f1 link; git add -A; git commit -qm one; head -c 2000000 /dev/urandom > big; git add -A; git commit -qm two
		cd "$M"; git clone -q "$T/repo" clone; git -C clone fsck --strict --full
		[ -z "$(git -C clone status --porcelain)" ]; diff -r --exclude=.git "$T/repo" clone
		cd clone; echo more >> d/f1; git commit -qam three; git gc -q; git fsck --strict --full; [ "$(git rev-list --count HEAD)" = 3 ]`)
}

func TestVimOverwritesInPlace(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("vim")
	s.sh(`echo one > f; chmod 600 f
		vim -es -u NONE -c '%s/one/two/' -c 'wq' f; [ "$(cat f)" = two ]; [ "$(stat -c %a f)" = 600 ]
		vim -es -u NONE --cmd 'set backup writebackup backupcopy=no' -c '%s/two/three/' -c 'wq' f; [ "$(cat f)" = three ]`)
	if keys := s.m.Keys(); slices.ContainsFunc(keys, func(k string) bool { return strings.HasSuffix(k, ".swp") }) {
		t.Errorf("a swap file is left: %q", keys)
	}
}

func TestDdOfALargeFileGoesUpInParts(t *testing.T) {
	s := serve(t, fusefs.Config{})
	sum := s.sh(`head -c 50000000 /dev/urandom > "$T/big"; dd if="$T/big" of=big bs=1M 2>/dev/null
		cmp "$T/big" big; sha256sum < "$T/big" | cut -d' ' -f1`)
	s.wantVersions("big", 1)
	data, _ := s.m.Data("big")
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != strings.TrimSpace(sum) {
		t.Errorf("object has SHA-256 %s, file %s", got, sum)
	}
	if n := s.m.Calls("Part"); n != 6 {
		t.Errorf("50 MB went up in %d parts, want 6", n)
	}
	before := s.m.Stored()
	s.sh(`printf XYZ | dd of=big bs=1 seek=30000000 conv=notrunc 2>/dev/null
		[ "$(dd if=big bs=1 skip=30000000 count=3 2>/dev/null)" = XYZ ]`)
	if n := s.m.Stored() - before; n != 3 {
		t.Errorf("three changed bytes sent %d", n)
	}
	s.sh(`truncate -s 10M big; [ "$(stat -c %s big)" = 10485760 ]
		truncate -s 20M big; tail -c 10485760 big | tr -d '\0' | wc -c | grep -qx 0`)
	data, _ = s.m.Data("big")
	if len(data) != 20<<20 || bytes.ContainsFunc(data[10<<20:], func(r rune) bool { return r != 0 }) {
		t.Errorf("after truncate the object has %d bytes", len(data))
	}
}

func TestFallocateAndHoles(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("fallocate")
	s.sh(`fallocate -l 1M f; [ "$(stat -c %s f)" = 1048576 ]
		printf abcdefghij > g; fallocate -p -o 2 -l 3 g; [ "$(tr '\0' . < g)" = ab...fghij ]
		fallocate -n -o 0 -l 100 g; [ "$(stat -c %s g)" = 10 ]
		if fallocate -c -o 0 -l 4096 f 2>/dev/null; then exit 1; fi`)
	s.wantData("g", "ab\x00\x00\x00fghij")
}

func TestMoveOfFilesAndDirectories(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.sh(`mkdir -p d/e; echo 1 > d/e/f; mv d/e/f d/g; mv d dd; [ "$(cat dd/g)" = 1 ]; mkdir x; mv dd x/; [ "$(cat x/dd/g)" = 1 ]
		echo 2 > h; mv -n h x/dd/g; [ -e h ]; mv -f h x/dd/g; [ "$(cat x/dd/g)" = 2 ]
		if mv x x/dd/ 2>/dev/null; then exit 1; fi
		if rmdir x 2>/dev/null; then exit 1; fi; rm -r x; [ -z "$(ls -A)" ]`)
	if keys := s.m.Keys(); len(keys) != 0 {
		t.Errorf("keys are left: %q", keys)
	}
}

func TestUnlinkWhileOpen(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.sh(`echo content > f; exec 3<f 4>>f; rm f; [ "$(cat <&3)" = content ]; echo more >&4; exec 4>&-
		[ ! -e f ]; exec 3<&-; [ -z "$(ls -A)" ]`)
	s.wantVersions("f", 1)
	if keys := s.m.Keys(); len(keys) != 0 {
		t.Errorf("keys are left: %q", keys)
	}
}

func TestChangesThroughS3AreSeenAtOnce(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.m.Put("dir/f", []byte("first"))
	s.sh(`[ "$(cat dir/f)" = first ]; [ "$(ls)" = dir ]`)
	for i := range 20 {
		want := fmt.Sprintf("version %d", i)
		s.m.Put("dir/f", []byte(want))
		if got := s.sh(`cat dir/f`); got != want {
			t.Fatalf("the mount shows %q, the bucket has %q", got, want)
		}
	}
	// A directory made by its keys stays when its last file goes.
	s.sh(`rm dir/f; [ -d dir ]; rmdir dir; [ -z "$(ls -A)" ]`)
}

func TestEveryKeyIsReachable(t *testing.T) {
	s := serve(t, fusefs.Config{})
	long := strings.Repeat("long", 100)
	keys := []string{"a", "a/b", "c//d", "e/./f", "e/../g", "h/", "i//", long, "j/" + long + "/k", "%hf:x", "per%cent", "nul\x00byte", "\xff\xfe"}
	for _, k := range keys {
		if k != "h/" {
			s.m.Put(k, []byte("content of "+k))
		}
	}
	s.m.Put("marker/", []byte("a marker with content"))
	out := s.sh(`find . -type f -print0 | sort -z | xargs -0 cat | tr '\0' '?'`)
	for _, k := range keys {
		if k != "h/" && !strings.Contains(out, strings.ReplaceAll("content of "+k, "\x00", "?")) {
			t.Errorf("key %q is not reached: %q", k, out)
		}
	}
	if !strings.Contains(out, "a marker with content") {
		t.Error("the marker's content is not reached")
	}
	s.sh(`find . -type f -delete; find . -mindepth 1 -delete; [ -z "$(ls -A)" ]`)
	if left := s.m.Keys(); len(left) != 0 {
		t.Errorf("keys are left: %q", left)
	}
}

func TestLargeListingsCostPagesNotLookups(t *testing.T) {
	s := serve(t, fusefs.Config{})
	const n = 3500
	for i := range n {
		s.m.Put(fmt.Sprintf("d/f%05d", i), nil)
	}
	before := s.m.Calls("List")
	if out := strings.TrimSpace(s.sh(`ls -f d | wc -l`)); out != fmt.Sprint(n+2) {
		t.Fatalf("ls shows %s names", out)
	}
	if got := s.m.Calls("List") - before; got > 8 {
		t.Errorf("%d names took %d pages", n, got)
	}
	stats := s.m.Calls("Stat")
	if out := strings.TrimSpace(s.sh(`find d -type f -newermt 2000-01-01 | wc -l`)); out != fmt.Sprint(n) {
		t.Fatalf("find sees %s files", out)
	}
	t.Logf("find of %d files made %d Stat calls", n, s.m.Calls("Stat")-stats)
}

func TestSetUserIDIsClearedByWritesAndChown(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.sh(`echo x > f; chmod 6755 f; [ "$(stat -c %a f)" = 6755 ]; chown 1234:1234 f; [ "$(stat -c '%a %u %g' f)" = "755 1234 1234" ]`)
}

func TestLocksHoldInsideTheMount(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("flock")
	s.sh(`: > l; exec 3>l; flock 3; if flock -n l true; then exit 1; fi; exec 3>&-; flock -n l true`)
}

func TestMappedMemoryIsWritten(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("python3")
	s.sh(`head -c 100000 /dev/zero > f
		python3 -c "
import mmap
with open('f','r+b') as f:
    m = mmap.mmap(f.fileno(), 0); m[5000:5005] = b'hello'; m.flush(); m.close()
"
		[ "$(dd if=f bs=1 skip=5000 count=5 2>/dev/null)" = hello ]`)
	data, _ := s.m.Data("f")
	if len(data) != 100000 || string(data[5000:5005]) != "hello" {
		t.Error("the mapped write is not in the object")
	}
}

// What SEMANTICS.md lists among the exceptions.
func TestExceptionsAreAsTheyAreWritten(t *testing.T) {
	s := serve(t, fusefs.Config{})
	s.need("perl", "python3")
	s.sh(`
mkdir -p d/sub/deep; touch d/sub/deep/leaf
[ "$(stat -c %h d)" = 2 ]
perl -MFile::Find -e 'find(sub { print "$File::Find::name\n" }, "d")' | grep -qx d/sub/deep/leaf
n=$(printf %0255d 0); mkdir -p "$n/$n/$n"
touch "$n/$n/$n/$(printf %0255d 1)" # 1,023 bytes
mkdir "$n/$n/$n/$(printf %0254d 2)" # 1,022 and its slash
touch "$n/$n/$n/$(printf %0254d 2)/x" # 1,024
! touch "$n/$n/$n/$(printf %0254d 2)/xy" 2> $T/long
grep -q 'File name too long' $T/long
touch suid; chmod 4755 suid
python3 -c 'import os; os.chown("suid", -1, -1)'
[ "$(stat -c %a suid)" = 4755 ]
touch -d 2020-01-01 old; was=$(stat -c %Z old); sleep 1.1; mv old new
[ "$(stat -c %Z new)" -gt "$was" ]
[ "$(stat -c %Y new)" = "$(date -d 2020-01-01 +%s)" ]
`)
}
