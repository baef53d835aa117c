package treetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// Run is the contract of tree.Objects: every implementation passes it. open gives an empty bucket each time.
func Run(t *testing.T, open func(t *testing.T) tree.Objects) {
	for name, fn := range map[string]func(*suite){
		"Publish":         (*suite).publish,
		"Conditions":      (*suite).conditions,
		"Attributes":      (*suite).attributes,
		"List":            (*suite).list,
		"Parts":           (*suite).parts,
		"PartsInParallel": (*suite).partsInParallel,
		"Base":            (*suite).base,
		"Stage":           (*suite).stage,
		"Rename":          (*suite).rename,
		"RenamedUpload":   (*suite).renamedUpload,
		"RenamePrefix":    (*suite).renamePrefix,
		"Remove":          (*suite).remove,
		"Readers":         (*suite).readers,
		"OddKeys":         (*suite).oddKeys,
		"Look":            (*suite).look,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			fn(&suite{T: t, ctx: ctx, o: open(t)})
		})
	}
}

type suite struct {
	*testing.T
	ctx context.Context
	o   tree.Objects
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wantErr(err, sentinel error) {
	s.Helper()
	if !errors.Is(err, sentinel) {
		s.Fatalf("error is %v, want %v", err, sentinel)
	}
}

func fileAttr(mode uint32) tree.Attr {
	return tree.Attr{Mode: syscall.S_IFREG | mode, Mtime: time.Unix(1_700_000_000, 123_456_789)}
}

func (s *suite) put(key, data string) tree.Info {
	s.Helper()
	info, err := s.o.Publish(s.ctx, tree.File{Key: key, Data: []byte(data), Attr: fileAttr(0o644)})
	s.must(err)
	return info
}

func (s *suite) wantData(key, want string) tree.Info {
	s.Helper()
	info, err := s.o.Stat(s.ctx, key)
	s.must(err)
	if info.Size != int64(len(want)) || info.Key != key || info.Version == "" {
		s.Fatalf("stat of %q is %+v, want %d bytes", key, info, len(want))
	}
	r, err := s.o.Open(s.ctx, key, info.Version)
	s.must(err)
	s.wantReader(r, want)
	s.must(r.Close())
	return info
}

func (s *suite) wantReader(r tree.Reader, want string) {
	s.Helper()
	got := make([]byte, len(want)+1)
	n, err := r.ReadAt(got, 0)
	if n != len(want) || !errors.Is(err, io.EOF) || string(got[:n]) != want {
		s.Fatalf("read %.40q (%d bytes, %v), want %.40q (%d bytes)", got[:n], n, err, want, len(want))
	}
	if len(want) > 2 {
		if n, err := r.ReadAt(got[:1], 1); n != 1 || err != nil || got[0] != want[1] {
			s.Fatalf("read at 1: %d bytes %q, %v", n, got[:1], err)
		}
	}
	if n, err := r.ReadAt(got[:1], int64(len(want))); n != 0 || !errors.Is(err, io.EOF) {
		s.Fatalf("read at the end: %d bytes, %v", n, err)
	}
}

func (s *suite) wantNone(key string) {
	s.Helper()
	_, err := s.o.Stat(s.ctx, key)
	s.wantErr(err, tree.ErrNotExist)
}

func (s *suite) publish() {
	s.wantNone("a")
	before := s.put("a", "one")
	s.wantData("a", "one")
	after := s.put("a", "two!")
	if before.Version == after.Version {
		s.Fatal("two versions have one id")
	}
	s.wantData("a", "two!")
	s.put("empty", "")
	s.wantData("empty", "")
	big := strings.Repeat("0123456789abcdef", 1<<16)
	s.put("big", big)
	s.wantData("big", big)
	sp, err := s.o.Space(s.ctx)
	s.must(err)
	if sp.Total <= 0 || sp.Free < 0 || sp.Free > sp.Total {
		s.Fatalf("space is %+v", sp)
	}
}

func (s *suite) conditions() {
	f := tree.File{Key: "a", Data: []byte("x"), Attr: fileAttr(0o600), Cond: tree.Cond{Absent: true}}
	one, err := s.o.Publish(s.ctx, f)
	s.must(err)
	_, err = s.o.Publish(s.ctx, f)
	s.wantErr(err, tree.ErrExists)
	f.Cond, f.Data = tree.Cond{Base: one.Version}, []byte("y")
	two, err := s.o.Publish(s.ctx, f)
	s.must(err)
	_, err = s.o.Publish(s.ctx, f)
	s.wantErr(err, tree.ErrConflict)
	s.wantData("a", "y")
	s.must(s.o.Remove(s.ctx, "a", false))
	f.Cond = tree.Cond{Base: two.Version}
	_, err = s.o.Publish(s.ctx, f)
	s.wantErr(err, tree.ErrConflict)
	s.wantNone("a")
}

func (s *suite) wantAttr(got, want tree.Attr) {
	s.Helper()
	same := got.Mode == want.Mode && got.UID == want.UID && got.GID == want.GID && got.Rdev == want.Rdev &&
		got.Target == want.Target && got.Inode == want.Inode && got.Mtime.Equal(want.Mtime) &&
		maps.EqualFunc(got.Xattrs, want.Xattrs, bytes.Equal)
	if !same {
		s.Fatalf("attributes are %+v, want %+v", got, want)
	}
}

func (s *suite) attributes() {
	want := tree.Attr{
		Mode: syscall.S_IFLNK | 0o777, UID: 1, GID: 2, Rdev: 3, Target: "where\xff/to", Inode: 1 << 60,
		Mtime: time.Unix(1, 2), Atime: time.Unix(3, 4), Ctime: time.Unix(5, 6),
		Xattrs: map[string][]byte{"user.a": []byte("plain"), "user.b": {0, 255, '\n'}, "user.empty": {}},
	}
	info, err := s.o.Publish(s.ctx, tree.File{Key: "a", Data: []byte("body"), Attr: want, Inode: want.Inode})
	s.must(err)
	s.wantAttr(info.Attr, want)
	info, err = s.o.Stat(s.ctx, "a")
	s.must(err)
	s.wantAttr(info.Attr, want)
	want.Mode, want.Mtime, want.Xattrs = syscall.S_IFLNK|0o700, time.Unix(1_000_000_000, 999_999_999), map[string][]byte{"user.c": []byte("c")}
	after, err := s.o.SetAttr(s.ctx, "a", info.Version, want)
	s.must(err)
	s.wantAttr(after.Attr, want)
	page, err := s.o.List(s.ctx, "", "", 10)
	s.must(err)
	if len(page.Entries) != 1 {
		s.Fatalf("listing is %+v", page)
	}
	s.wantAttr(page.Entries[0].Attr, want)
	s.wantData("a", "body")
	_, err = s.o.SetAttr(s.ctx, "a", "no such version", want)
	if !errors.Is(err, tree.ErrConflict) && !errors.Is(err, tree.ErrNotExist) {
		s.Fatalf("attributes of another version: %v", err)
	}
	_, err = s.o.SetAttr(s.ctx, "nothing", after.Version, want)
	if !errors.Is(err, tree.ErrConflict) && !errors.Is(err, tree.ErrNotExist) {
		s.Fatalf("attributes of nothing: %v", err)
	}
}

func (s *suite) list() {
	for _, k := range []string{"a", "a-b", "a/1", "a/2/3", "b/", "b/x", "c", "d/e"} {
		s.put(k, k)
	}
	for prefix, want := range map[string][]string{
		"":    {"a", "a-b", "a/", "b/", "c", "d/"},
		"a/":  {"a/1", "a/2/"},
		"b/":  {"b/", "b/x"},
		"a":   {"a", "a-b", "a/"},
		"no/": nil,
	} {
		for limit := 1; limit <= 7; limit++ {
			var got []string
			for after, pages := "", 0; ; pages++ {
				page, err := s.o.List(s.ctx, prefix, after, limit)
				s.must(err)
				if n := len(page.Entries) + len(page.Prefixes); n > limit || n == 0 && page.Truncated || pages > 10 {
					s.Fatalf("page %d of %q by %d is %+v", pages, prefix, limit, page)
				}
				names := slices.Clone(page.Prefixes)
				for _, e := range page.Entries {
					names = append(names, e.Key)
					if e.Size != int64(len(e.Key)) || e.Version == "" {
						s.Fatalf("entry is %+v", e)
					}
				}
				slices.Sort(names)
				got = append(got, names...)
				if !page.Truncated {
					break
				}
				after = page.Next
			}
			if !slices.Equal(got, want) {
				s.Fatalf("%q by %d lists %q, want %q", prefix, limit, got, want)
			}
		}
	}
	for prefix, want := range map[string]bool{"a/": true, "b/": true, "c/": false, "d": true, "x": false} {
		got, err := s.o.Exists(s.ctx, prefix)
		s.must(err)
		if got != want {
			s.Fatalf("exists %q is %v", prefix, got)
		}
	}
}

func (s *suite) rename() {
	attr := fileAttr(0o640)
	attr.Xattrs = map[string][]byte{"user.k": []byte("v")}
	_, err := s.o.Publish(s.ctx, tree.File{Key: "a", Data: []byte("content"), Attr: attr})
	s.must(err)
	info, err := s.o.Rename(s.ctx, "a", "b/c", true)
	s.must(err)
	if info.Key != "b/c" || info.Size != 7 {
		s.Fatalf("renamed to %+v", info)
	}
	s.wantAttr(info.Attr, attr)
	s.wantNone("a")
	if got := s.wantData("b/c", "content"); got.Version != info.Version {
		s.Fatalf("version is %q, rename said %q", got.Version, info.Version)
	}
	s.put("d", "other")
	_, err = s.o.Rename(s.ctx, "b/c", "d", true)
	s.wantErr(err, tree.ErrExists)
	_, err = s.o.Rename(s.ctx, "b/c", "d", false)
	s.must(err)
	s.wantData("d", "content")
	s.wantNone("b/c")
	_, err = s.o.Rename(s.ctx, "b/c", "e", false)
	s.wantErr(err, tree.ErrNotExist)
	big := strings.Repeat("large object ", 100_000)
	s.put("big", big)
	_, err = s.o.Rename(s.ctx, "big", "bigger", false)
	s.must(err)
	s.wantData("bigger", big)
}

func (s *suite) renamePrefix() {
	s.put("d/", "")
	for i := range 25 {
		s.put(fmt.Sprintf("d/%02d", i), fmt.Sprint(i))
		s.put(fmt.Sprintf("d/sub/%02d", i), fmt.Sprint(i))
	}
	s.put("da", "not below")
	s.must(s.o.RenamePrefix(s.ctx, "d/", "e/f/"))
	s.wantNone("d/")
	s.wantNone("d/07")
	s.wantData("e/f/", "")
	s.wantData("e/f/07", "7")
	s.wantData("e/f/sub/24", "24")
	s.wantData("da", "not below")
	s.put("t/", "")
	s.put("t/x", "x")
	s.wantErr(s.o.RenamePrefix(s.ctx, "e/f/", "t/"), tree.ErrDirNotEmpty)
	s.wantData("e/f/07", "7")
	s.must(s.o.Remove(s.ctx, "t/x", false))
	s.must(s.o.RenamePrefix(s.ctx, "e/f/", "t/"))
	s.wantData("t/sub/24", "24")
	s.wantErr(s.o.RenamePrefix(s.ctx, "nothing/", "u/"), tree.ErrNotExist)
}

func (s *suite) remove() {
	s.put("a", "x")
	s.must(s.o.Remove(s.ctx, "a", false))
	s.wantNone("a")
	s.wantErr(s.o.Remove(s.ctx, "a", false), tree.ErrNotExist)
	s.put("d/", "")
	s.put("d/f", "x")
	s.wantErr(s.o.Remove(s.ctx, "d/", true), tree.ErrDirNotEmpty)
	s.must(s.o.Remove(s.ctx, "d/f", false))
	s.must(s.o.Remove(s.ctx, "d/", true))
	s.wantErr(s.o.Remove(s.ctx, "d/", true), tree.ErrNotExist)
}

// readers checks that an open version stays readable.
func (s *suite) readers() {
	for _, size := range []int{10, 100_000, 3 << 20} {
		old := strings.Repeat("o", size)
		for name, gone := range map[string]func(key string){
			"replaced": func(key string) { s.put(key, "new") },
			"removed":  func(key string) { s.must(s.o.Remove(s.ctx, key, false)) },
			"renamed": func(key string) {
				_, err := s.o.Rename(s.ctx, key, key+"-2", false)
				s.must(err)
			},
		} {
			key := fmt.Sprintf("%s-%d", name, size)
			info := s.put(key, old)
			r, err := s.o.Open(s.ctx, key, info.Version)
			s.must(err)
			gone(key)
			s.wantReader(r, old)
			if r.Info().Version != info.Version || r.Info().Size != int64(size) {
				s.Fatalf("reader's info is %+v", r.Info())
			}
			s.must(r.Close())
		}
	}
	_, err := s.o.Open(s.ctx, "nothing", "v")
	s.wantErr(err, tree.ErrNotExist)
}

func (s *suite) oddKeys() {
	keys := []string{
		"a", "a/b", "a//b", "./x", "../y", "z/./..", "with space", "ünï", "\xff\xfe\x01", "line\nbreak", "q?a=b&c#d%41", "+", "x/",
		strings.Repeat("k", 1024), "//", "/lead",
	}
	for _, k := range keys {
		s.put(k, "of "+k)
	}
	for _, k := range keys {
		s.wantData(k, "of "+k)
		up := s.begin(k)
		s.part(k, up, 1, "part of "+k)
		_, err := s.o.Publish(s.ctx, tree.File{Key: k, Upload: up, Attr: fileAttr(0o600), Pieces: []tree.Piece{{Part: 1, Len: int64(8 + len(k))}}})
		s.must(err)
		s.must(s.o.Abort(s.ctx, k, up))
		s.wantData(k, "part of "+k)
	}
	for _, k := range keys {
		s.must(s.o.Remove(s.ctx, k, false))
		s.wantNone(k)
	}
}

func (s *suite) look() {
	l, ok := s.o.(tree.Looker)
	if !ok {
		return // an optional speed-up
	}
	s.put("file", "x")
	s.put("both", "x")
	s.put("both/f", "x")
	s.put("dir/", "")
	for key, want := range map[string]struct{ file, dir, marker bool }{
		"file": {file: true}, "both": {file: true, dir: true}, "dir": {dir: true, marker: true}, "none": {},
	} {
		got, err := l.Look(s.ctx, key)
		s.must(err)
		if (got.File != nil) != want.file || got.Dir != want.dir || (got.Marker != nil) != want.marker {
			s.Fatalf("look %q: %+v, want %+v", key, got, want)
		}
	}
}
