package crash

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// rot damages files of a memory file system as ageing media and clumsy hands do. What it does is durable at once.
type rot struct {
	t      *testing.T
	random *rand.Rand
	fs     *vfs.Memory
	// old is what files held some rounds ago, for writes that never reached the medium and restored backups.
	old map[string][]byte
	// done counts damage by kind of file and by kind of damage.
	done map[string]int
}

// The kinds of files, by a part of their names.
var rotten = []struct{ kind, part string }{
	{"chunk file", "/volumes/"}, {"ledger", "/ledger."}, {"log", "/names/log/"}, {"checkpoint", "/names/checkpoint/"},
	{"mirror set", "/names/mirrors"}, {"identity", "/identity."}, {"state", "/dir/state/"}, {"directory", "/dir/"},
}

// maxRotten bounds a file that is read whole.
const maxRotten = 1 << 30

func kindOf(name string) string {
	for _, r := range rotten {
		if strings.Contains(name, r.part) {
			return r.kind
		}
	}
	return ""
}

// files lists the files below a directory that can be damaged, by kind.
func (r *rot) files(dir string) map[string][]string {
	r.t.Helper()
	found := map[string][]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := r.fs.ReadDir(dir)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, entry := range entries {
			name := path.Join(dir, entry.Name())
			switch kind := kindOf(name); {
			case entry.IsDir():
				walk(name)
			case kind != "" && entry.Name() != "lock" && entry.Name() != "LOCK":
				found[kind] = append(found[kind], name)
			}
		}
	}
	walk(dir)
	return found
}

// remember keeps what all files hold now, for later rounds to put back.
func (r *rot) remember() {
	r.t.Helper()
	r.old = map[string][]byte{}
	for _, dir := range []string{"/drives", "/dir"} {
		for _, names := range r.files(dir) {
			for _, name := range names {
				r.old[name] = r.content(name)
			}
		}
	}
}

func (r *rot) content(name string) []byte {
	r.t.Helper()
	data, err := vfs.ReadFile(r.fs, name, maxRotten)
	if os.IsNotExist(err) { // a running peer removed it meanwhile
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

// attack damages files on up to four of twelve drives and, every other time, in the peer's own directory. It fails the
// test when nothing could be damaged, and returns what it did.
func (r *rot) attack() (did []string) {
	r.t.Helper()
	hurt := func(dir string, most int) {
		files := r.files(dir)
		kinds := make([]string, 0, len(files))
		for kind := range files {
			kinds = append(kinds, kind)
		}
		slices.Sort(kinds)
		for range 1 + r.random.IntN(most) {
			kind := kinds[r.random.IntN(len(kinds))]
			name := files[kind][r.random.IntN(len(files[kind]))]
			if what := r.damage(name); what != "" {
				did = append(did, what+" "+name)
				r.done[kind]++
				r.done["by "+what]++
				if kind == "identity" { // both copies gone is a drive that is gone, another test
					kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == kind })
				}
			}
		}
	}
	for len(did) == 0 {
		for _, d := range r.random.Perm(12)[:1+r.random.IntN(4)] {
			hurt(fmt.Sprint("/drives/d", d+1), 4)
		}
	}
	if r.random.IntN(2) == 0 {
		hurt("/dir", 3)
	}
	return did
}

// damage changes one file and says how, or gives "" when the way it drew would change nothing.
func (r *rot) damage(name string) string {
	r.t.Helper()
	before := r.content(name)
	end := len(bytes.TrimRight(before, "\x00"))
	if end == 0 {
		return ""
	}
	old, pages := r.old[name], (end+vfs.Align-1)/vfs.Align
	page := func(data []byte, n int) []byte {
		return data[min(n*vfs.Align, len(data)):min((n+1)*vfs.Align, len(data))]
	}
	switch r.random.IntN(7) {
	case 0:
		at := r.random.IntN(end)
		r.write(name, at, []byte{before[at] ^ 1<<r.random.IntN(8)})
		return "flip"
	case 1:
		r.truncate(name, r.random.IntN(end))
		return "truncate"
	case 2:
		size := []int{512, 4 << 10, 64 << 10}[r.random.IntN(3)]
		at := r.random.IntN(end) / 512 * 512
		size = min(size, len(before)-at)
		if len(bytes.TrimLeft(before[at:at+size], "\x00")) == 0 {
			return ""
		}
		r.write(name, at, make([]byte, size))
		return "zero"
	case 3:
		a, b := r.random.IntN(pages), r.random.IntN(pages)
		one, two := page(before, a), page(before, b)
		if len(one) != len(two) || bytes.Equal(one, two) {
			return ""
		}
		r.write(name, a*vfs.Align, two)
		r.write(name, b*vfs.Align, one)
		return "swap"
	case 4:
		n := r.random.IntN(pages)
		was, is := page(old, n), page(before, n)
		if len(was) == 0 || len(was) != len(is) || bytes.Equal(was, is) {
			return ""
		}
		r.write(name, n*vfs.Align, was)
		return "old block"
	case 5:
		if len(old) == 0 || bytes.Equal(old, before) {
			return ""
		}
		r.truncate(name, 0)
		r.write(name, 0, old)
		return "old file"
	default:
		if err := r.fs.RemoveAll(name); err != nil {
			r.t.Fatal(err)
		}
		return "remove"
	}
}

func (r *rot) write(name string, at int, data []byte) {
	r.t.Helper()
	r.change(name, func(f vfs.File) error {
		_, err := f.WriteAt(data, int64(at))
		return err
	})
	after := r.content(name)
	if len(after) < at+len(data) || !bytes.Equal(after[at:at+len(data)], data) {
		r.t.Fatalf("%s was not damaged at %d", name, at)
	}
}

func (r *rot) truncate(name string, size int) {
	r.t.Helper()
	r.change(name, func(f vfs.File) error { return f.Truncate(int64(size)) })
}

func (r *rot) change(name string, deed func(vfs.File) error) {
	r.t.Helper()
	f, err := r.fs.OpenFile(name, os.O_RDWR, fs.FileMode(0))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := deed(f); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// tally is a log that counts what was said.
type tally struct {
	mu   sync.Mutex
	said map[string]int
}

func (l *tally) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *tally) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *tally) WithGroup(string) slog.Handler                    { return l }
func (l *tally) Handle(_ context.Context, record slog.Record) error {
	if testing.Verbose() && record.Level >= slog.LevelWarn {
		text := record.Message
		record.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		fmt.Fprintln(os.Stderr, text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[record.Message]++
	return nil
}

// count tells how often lines with a part were said.
func (l *tally) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for text, times := range l.said {
		if strings.Contains(text, part) {
			n += times
		}
	}
	return n
}
