package tree_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// pnode is a file or directory of the reference: what POSIX says, in memory, without versions or publishing.
type pnode struct {
	data     []byte
	mode     uint32
	children map[string]*pnode // of a directory
}

func (p *pnode) dir() bool { return p.children != nil }

// phandle is an open file in both worlds.
type phandle struct {
	file   *pnode
	handle uint64
	append bool
}

// pair runs every operation in the tree and in the reference and compares.
type pair struct {
	*rapid.T
	tree *tree.Tree
	m    *treetest.Model
	root *pnode
	open []*phandle
}

var pairNames = []string{"a", "b", "c"}

// walk finds a directory of random depth in both.
func (p *pair) walk() (uint64, *pnode) {
	id, at := uint64(1), p.root
	for range rapid.IntRange(0, 2).Draw(p.T, "depth") {
		var names []string
		for _, n := range slices.Sorted(maps.Keys(at.children)) {
			if at.children[n].dir() {
				names = append(names, n)
			}
		}
		if len(names) == 0 {
			break
		}
		n := rapid.SampledFrom(names).Draw(p.T, "dir")
		e, err := p.tree.Lookup(p.Context(), id, n)
		if err != nil {
			p.Fatalf("lookup of directory %q: %v", n, err)
		}
		id, at = e.Node, at.children[n]
	}
	return id, at
}

func (p *pair) name() string { return rapid.SampledFrom(pairNames).Draw(p.T, "name") }

func (p *pair) want(what string, err, want error) bool {
	p.Helper()
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		p.Fatalf("%s: %v, want %v", what, err, want)
	}
	return err == nil
}

func (p *pair) lookup(dir uint64, at *pnode, name string) (tree.Entry, *pnode) {
	p.Helper()
	e, err := p.tree.Lookup(p.Context(), dir, name)
	n := at.children[name]
	if n == nil {
		p.want("lookup of "+name, err, tree.ErrNotExist)
		return e, nil
	}
	if err != nil {
		p.Fatalf("lookup of %q: %v", name, err)
	}
	if isDir := e.Stat.Mode&syscall.S_IFMT == syscall.S_IFDIR; isDir != n.dir() {
		p.Fatalf("%q is a directory: %v, want %v", name, isDir, n.dir())
	}
	if !n.dir() && (e.Stat.Size != int64(len(n.data)) || e.Stat.Mode&0o777 != n.mode) {
		p.Fatalf("%q has %d bytes and mode %o, want %d and %o", name, e.Stat.Size, e.Stat.Mode, len(n.data), n.mode)
	}
	return e, n
}

func (p *pair) Create(*rapid.T) {
	id, at := p.walk()
	name := p.name()
	excl := rapid.Bool().Draw(p.T, "excl")
	flags := uint32(syscall.O_RDWR | syscall.O_CREAT)
	if excl {
		flags |= syscall.O_EXCL
	}
	n := at.children[name]
	_, o, err := p.tree.Create(p.Context(), id, name, 0o644, 0, 0, flags)
	switch {
	case n != nil && excl:
		p.want("create", err, tree.ErrExists)
	case n != nil && n.dir():
		p.want("create", err, tree.ErrIsDir)
	case p.want("create", err, nil):
		if n == nil {
			n = &pnode{mode: 0o644}
			at.children[name] = n
		}
		p.open = append(p.open, &phandle{file: n, handle: o.Handle})
	}
}

func (p *pair) Open(*rapid.T) {
	id, at := p.walk()
	e, n := p.lookup(id, at, p.name())
	if n == nil || n.dir() {
		return
	}
	flags := uint32(syscall.O_RDWR)
	h := &phandle{file: n, append: rapid.Bool().Draw(p.T, "append")}
	if h.append {
		flags |= syscall.O_APPEND
	}
	if rapid.IntRange(0, 3).Draw(p.T, "trunc") == 0 {
		flags |= syscall.O_TRUNC
		n.data = nil
	}
	o, err := p.tree.Open(p.Context(), e.Node, flags, false)
	p.want("open", err, nil)
	h.handle = o.Handle
	p.open = append(p.open, h)
}

func (p *pair) pick() *phandle {
	if len(p.open) == 0 {
		p.Skip("nothing is open")
	}
	return rapid.SampledFrom(p.open).Draw(p.T, "handle")
}

func (p *pair) Write(*rapid.T) {
	h := p.pick()
	size := rapid.OneOf(rapid.IntRange(1, 50), rapid.IntRange(1, 150_000)).Draw(p.T, "size")
	off := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 200_000)).Draw(p.T, "off")
	data := bytes.Repeat([]byte{rapid.Byte().Draw(p.T, "byte")}, size)
	if h.append {
		off = len(h.file.data)
	}
	n, err := p.tree.Write(p.Context(), h.handle, data, int64(off), false)
	p.want("write", err, nil)
	if n != size {
		p.Fatalf("wrote %d of %d", n, size)
	}
	h.file.data = append(h.file.data, make([]byte, max(0, off+size-len(h.file.data)))...)
	copy(h.file.data[off:], data)
}

func (p *pair) Read(*rapid.T) {
	h := p.pick()
	off := rapid.IntRange(0, max(0, len(h.file.data))).Draw(p.T, "off")
	buf := make([]byte, rapid.IntRange(1, 300_000).Draw(p.T, "len"))
	n, err := p.tree.Read(p.Context(), h.handle, buf, int64(off))
	p.want("read", err, nil)
	want := h.file.data[off:min(len(h.file.data), off+len(buf))]
	if !bytes.Equal(buf[:n], want) {
		p.Fatalf("read at %d differs: %d bytes, want %d", off, n, len(want))
	}
}

func (p *pair) Truncate(*rapid.T) {
	id, at := p.walk()
	e, n := p.lookup(id, at, p.name())
	if n == nil || n.dir() {
		return
	}
	size := rapid.Int64Range(0, 250_000).Draw(p.T, "size")
	c := tree.Change{Size: &size}
	for _, h := range p.open {
		if h.file == n && rapid.Bool().Draw(p.T, "by handle") {
			c.Handle = h.handle
		}
	}
	s, err := p.tree.SetAttr(p.Context(), e.Node, c)
	p.want("truncate", err, nil)
	if s.Size != size {
		p.Fatalf("truncated to %d, want %d", s.Size, size)
	}
	n.data = append(n.data, make([]byte, max(0, int(size)-len(n.data)))...)[:size]
}

func (p *pair) Punch(*rapid.T) {
	h := p.pick()
	off, n := rapid.Int64Range(0, 100_000).Draw(p.T, "off"), rapid.Int64Range(1, 100_000).Draw(p.T, "len")
	p.want("punch", p.tree.Allocate(p.Context(), h.handle, off, n, 3), nil)
	if off < int64(len(h.file.data)) {
		clear(h.file.data[off:min(int64(len(h.file.data)), off+n)])
	}
}

func (p *pair) Chmod(*rapid.T) {
	id, at := p.walk()
	e, n := p.lookup(id, at, p.name())
	if n == nil || n.dir() {
		return
	}
	mode := rapid.SampledFrom([]uint32{0o600, 0o644, 0o755}).Draw(p.T, "mode")
	_, err := p.tree.SetAttr(p.Context(), e.Node, tree.Change{Mode: &mode})
	p.want("chmod", err, nil)
	n.mode = mode
}

func (p *pair) Flush(*rapid.T) { p.want("flush", p.tree.Flush(p.Context(), p.pick().handle), nil) }

func (p *pair) Fsync(*rapid.T) { p.want("fsync", p.tree.Fsync(p.Context(), p.pick().handle), nil) }

func (p *pair) Squeeze(*rapid.T) { p.want("squeeze", p.tree.Squeeze(), nil) }

func (p *pair) Close(*rapid.T) {
	h := p.pick()
	p.want("flush", p.tree.Flush(p.Context(), h.handle), nil)
	p.want("release", p.tree.Release(p.Context(), h.handle), nil)
	p.open = slices.DeleteFunc(p.open, func(o *phandle) bool { return o == h })
}

func (p *pair) Mkdir(*rapid.T) {
	id, at := p.walk()
	name := p.name()
	_, err := p.tree.Make(p.Context(), id, name, tree.Special{Mode: syscall.S_IFDIR | 0o755})
	if at.children[name] != nil {
		p.want("mkdir", err, tree.ErrExists)
	} else if p.want("mkdir", err, nil) {
		at.children[name] = &pnode{children: map[string]*pnode{}}
	}
}

func (p *pair) Remove(*rapid.T) {
	id, at := p.walk()
	name := p.name()
	n := at.children[name]
	if rapid.Bool().Draw(p.T, "rmdir") {
		err := p.tree.Rmdir(p.Context(), id, name)
		switch {
		case n == nil:
			p.want("rmdir", err, tree.ErrNotExist)
		case !n.dir():
			p.want("rmdir", err, tree.ErrNotDir)
		case len(n.children) > 0:
			p.want("rmdir", err, tree.ErrDirNotEmpty)
		case p.want("rmdir", err, nil):
			delete(at.children, name)
		}
		return
	}
	err := p.tree.Unlink(p.Context(), id, name)
	switch {
	case n == nil:
		p.want("unlink", err, tree.ErrNotExist)
	case n.dir():
		p.want("unlink", err, tree.ErrIsDir)
	case p.want("unlink", err, nil):
		delete(at.children, name)
	}
}

func (p *pair) Rename(*rapid.T) {
	fromID, from := p.walk()
	toID, to := p.walk()
	name, newName := p.name(), p.name()
	n, old := from.children[name], to.children[newName]
	flags := uint32(0)
	if rapid.IntRange(0, 3).Draw(p.T, "noreplace") == 0 {
		flags = tree.NoReplace
	}
	err := p.tree.Rename(p.Context(), fromID, name, toID, newName, flags)
	switch {
	case n == nil:
		p.want("rename", err, tree.ErrNotExist)
	case n == old:
		p.want("rename", err, nil)
	case old != nil && flags != 0:
		p.want("rename", err, tree.ErrExists)
	case old != nil && old.dir() && !n.dir():
		p.want("rename", err, tree.ErrIsDir)
	case old != nil && !old.dir() && n.dir():
		p.want("rename", err, tree.ErrNotDir)
	case n.dir() && contains(n, to):
		p.want("rename", err, tree.ErrInvalid)
	case old != nil && old.dir() && len(old.children) > 0:
		p.want("rename", err, tree.ErrDirNotEmpty)
	case p.want("rename", err, nil):
		delete(from.children, name)
		to.children[newName] = n
	}
}

func contains(dir, at *pnode) bool {
	if dir == at {
		return true
	}
	for _, c := range dir.children {
		if c.dir() && contains(c, at) {
			return true
		}
	}
	return false
}

// Check compares a directory: its names and what they are.
func (p *pair) Check(*rapid.T) {
	id, at := p.walk()
	h, err := p.tree.OpenDir(p.Context(), id)
	p.want("opendir", err, nil)
	defer p.tree.CloseDir(h)
	var got []string
	p.want("readdir", p.tree.ReadDir(p.Context(), h, 0, func(e tree.DirEntry) bool {
		got = append(got, e.Name)
		return true
	}), nil)
	got = got[2:]
	slices.Sort(got)
	if want := slices.Sorted(maps.Keys(at.children)); !slices.Equal(got, want) {
		p.Fatalf("directory lists %q, want %q", got, want)
	}
	for _, n := range pairNames {
		p.lookup(id, at, n)
	}
}

// keys is what the bucket must hold once everything is closed.
func (p *pnode) keys(prefix string, out map[string]*pnode) {
	for name, n := range p.children {
		if n.dir() {
			out[prefix+name+"/"] = n
			n.keys(prefix+name+"/", out)
		} else {
			out[prefix+name] = n
		}
	}
}

func (p *pair) finish() {
	for _, h := range p.open {
		p.want("flush", p.tree.Flush(p.Context(), h.handle), nil)
		p.want("release", p.tree.Release(p.Context(), h.handle), nil)
	}
	p.want("close", p.tree.Close(p.Context()), nil)
	want := map[string]*pnode{}
	p.root.keys("", want)
	if got := p.m.Keys(); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		p.Fatalf("the bucket holds %q, want %q", got, slices.Sorted(maps.Keys(want)))
	}
	for key, n := range want {
		if data, _ := p.m.Data(key); !strings.HasSuffix(key, "/") && !bytes.Equal(data, n.data) {
			p.Fatalf("object %q has %d bytes, want %d, or others", key, len(data), len(n.data))
		}
		if info, err := p.m.Stat(p.Context(), key); err != nil || !n.dir() && info.Attr.Mode&0o777 != n.mode {
			p.Fatalf("object %q has mode %o, want %o (%v)", key, info.Attr.Mode, n.mode, err)
		}
	}
	if u, s, r := p.m.Leftover(); u+s+r != 0 {
		p.Fatalf("left over: %d uploads, %d stages, %d readers", u, s, r)
	}
	if used := p.tree.DirtyBytes(); used != 0 {
		p.Fatalf("%d bytes of new data are still accounted", used)
	}
}

// The tree behaves like a POSIX file system in memory, and leaves exactly its files in the bucket.
func TestTreeBehavesLikePosix(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := treetest.NewModel()
		p := &pair{T: rt, m: m, tree: tree.New(tree.Config{Objects: m, Umask: 0o022}), root: &pnode{children: map[string]*pnode{}}}
		actions := map[string]func(*rapid.T){
			"create": p.Create, "open": p.Open, "write": p.Write, "write2": p.Write, "read": p.Read, "truncate": p.Truncate,
			"punch": p.Punch, "chmod": p.Chmod, "flush": p.Flush, "fsync": p.Fsync, "squeeze": p.Squeeze, "close": p.Close,
			"mkdir": p.Mkdir, "remove": p.Remove, "rename": p.Rename, "check": p.Check,
		}
		rt.Repeat(actions)
		p.finish()
	})
}
