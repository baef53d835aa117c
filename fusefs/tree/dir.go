package tree

import (
	"context"
	"sort"
	"strings"
	"sync"
	"syscall"
)

// listPage is how many names one request to the store brings: S3's page.
const listPage = 1000

// DirEntry is one name of a listing. Off is where the listing goes on behind it.
type DirEntry struct {
	Name  string
	Inode uint64
	Mode  uint32 // the type bits count
	Off   uint64

	dir  bool
	self bool // "." or ".."
	info Info
	node *node // of a file that is not published yet
	name string
}

// dirHandle is one open directory. It holds one page of names at a time; to go back it lists the page again from where
// that began.
type dirHandle struct {
	node *node

	mu      sync.Mutex
	pending []DirEntry // what only this mount has, as it was at the first read
	own     map[childName]bool
	loaded  bool
	// starts[i] is the name behind which page i begins; offsets of entries are first[i] and up.
	starts []string
	first  []uint64
	page   int
	list   []DirEntry
	// next is the name behind which the page after list begins; done when there is none.
	next string
	done bool
}

// headEntries is how many entries stand before the pending ones: "." and "..".
const headEntries = 2

// OpenDir opens a directory for reading.
func (t *Tree) OpenDir(ctx context.Context, id uint64) (uint64, error) {
	n, err := t.dirNode(id)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n.opens++
	h := t.nextHandle
	t.nextHandle++
	t.dirs[h] = &dirHandle{node: n}
	return h, nil
}

// CloseDir ends a directory handle.
func (t *Tree) CloseDir(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.dirs[id]; d != nil {
		delete(t.dirs, id)
		d.node.opens--
		t.drop(d.node)
	}
}

// ReadDir hands out the entries from off on until yield returns false for one, which is then not consumed.
func (t *Tree) ReadDir(ctx context.Context, id, off uint64, yield func(DirEntry) bool) error {
	t.mu.Lock()
	d := t.dirs[id]
	t.mu.Unlock()
	if d == nil {
		return ErrBadHandle
	}
	d.mu.Lock()
	defer d.mu.Unlock() // over I/O: one handle is read by one program
	if !d.loaded || off == 0 {
		t.loadPending(d)
	}
	for {
		e, ok, err := t.entryAt(ctx, d, off)
		if err != nil || !ok {
			return err
		}
		if !yield(e) {
			return nil
		}
		off = e.Off
	}
}

// loadPending begins a listing: it notes what the store does not have yet.
func (t *Tree) loadPending(d *dirHandle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parent := d.node
	if parent.parent != nil {
		parent = parent.parent
	}
	d.pending = []DirEntry{
		{Name: ".", Inode: d.node.ino, Mode: syscall.S_IFDIR, self: true},
		{Name: "..", Inode: parent.ino, Mode: syscall.S_IFDIR, self: true},
	}
	d.own = map[childName]bool{}
	for c, n := range d.node.children {
		if n.pending() {
			d.own[c] = true
			d.pending = append(d.pending, DirEntry{
				Name: escapeName(c.name, d.node.children[childName{c.name, true}] != nil), Inode: n.ino, Mode: syscall.S_IFREG, node: n, name: c.name,
			})
		}
	}
	sort.Slice(d.pending[headEntries:], func(i, j int) bool {
		return d.pending[headEntries+i].Name < d.pending[headEntries+j].Name
	})
	for i := range d.pending {
		d.pending[i].Off = uint64(i + 1)
	}
	d.starts, d.first = []string{""}, []uint64{uint64(len(d.pending))}
	d.page, d.list, d.next, d.done, d.loaded = -1, nil, "", false, true
}

// entryAt is the entry behind off.
func (t *Tree) entryAt(ctx context.Context, d *dirHandle, off uint64) (DirEntry, bool, error) {
	if off < uint64(len(d.pending)) {
		return d.pending[off], true, nil
	}
	for {
		if d.page >= 0 && off >= d.first[d.page] && off < d.first[d.page]+uint64(len(d.list)) {
			return d.list[off-d.first[d.page]], true, nil
		}
		page := sort.Search(len(d.first), func(i int) bool { return d.first[i] > off }) - 1
		if page == d.page { // behind the page that is here
			if d.done {
				return DirEntry{}, false, nil
			}
			d.starts = append(d.starts[:page+1], d.next)
			d.first = append(d.first[:page+1], d.first[page]+uint64(len(d.list)))
			page++
		}
		if err := t.loadPage(ctx, d, page); err != nil {
			return DirEntry{}, false, err
		}
		if len(d.list) == 0 && d.done {
			return DirEntry{}, false, nil
		}
	}
}

// loadPage lists page i of the directory.
func (t *Tree) loadPage(ctx context.Context, d *dirHandle, i int) error {
	t.moves.RLock()
	defer t.moves.RUnlock()
	t.mu.Lock()
	prefix, gone := d.node.key(), d.node.gone()
	t.mu.Unlock()
	d.page, d.list, d.done = i, nil, true
	if gone {
		return nil
	}
	after := ""
	if d.starts[i] != "" {
		after = prefix + d.starts[i]
	}
	page, err := t.objects.List(ctx, prefix, after, listPage)
	if err != nil {
		d.page = -1
		return wrap("list", prefix, err)
	}
	shadowed, err := t.shadowed(ctx, page)
	if err != nil {
		d.page = -1
		return err
	}
	d.list = t.merge(d, prefix, page, shadowed)
	for k := range d.list {
		d.list[k].Off = d.first[i] + uint64(k) + 1
	}
	d.done, d.next = !page.Truncated, strings.TrimPrefix(page.Next, prefix)
	return nil
}

// shadowed are the entries of the page beside which a directory of the same name exists. Such a directory may lie on a
// later page only if the last name of this page starts with the entry's.
func (t *Tree) shadowed(ctx context.Context, page Listing) (map[string]bool, error) {
	dirs := make(map[string]bool, len(page.Prefixes))
	last := ""
	for _, p := range page.Prefixes {
		dirs[strings.TrimSuffix(p, "/")] = true
		last = max(last, p)
	}
	if !page.Truncated {
		return dirs, nil
	}
	if n := len(page.Entries); n > 0 {
		last = max(last, page.Entries[n-1].Key)
	}
	for _, e := range page.Entries {
		if dirs[e.Key] || !strings.HasPrefix(last, e.Key) || last >= e.Key+"/" {
			continue
		}
		found, err := t.objects.Exists(ctx, e.Key+"/")
		if err != nil {
			return nil, wrap("look up", e.Key, err)
		}
		dirs[e.Key] = found
	}
	return dirs, nil
}

// merge puts the objects and the prefixes of a page into one list in byte order.
func (t *Tree) merge(d *dirHandle, prefix string, page Listing, shadowed map[string]bool) []DirEntry {
	out := make([]DirEntry, 0, len(page.Entries)+len(page.Prefixes))
	entries, prefixes := page.Entries, page.Prefixes
	for len(entries) > 0 || len(prefixes) > 0 {
		if len(prefixes) == 0 || len(entries) > 0 && entries[0].Key < prefixes[0] {
			e := entries[0]
			entries = entries[1:]
			name := e.Key[len(prefix):]
			if name == "" && e.Size == 0 || d.own[childName{name, false}] {
				continue // the directory itself, or shown already
			}
			a := t.complete(e.Attr, false)
			ino := e.Attr.Inode
			if ino == 0 {
				ino = inodeOf(e.Key)
			}
			out = append(out, DirEntry{Name: escapeName(name, shadowed[e.Key]), Inode: ino, Mode: a.Mode, info: e, name: name})
			continue
		}
		p := prefixes[0]
		prefixes = prefixes[1:]
		name := strings.TrimSuffix(p[len(prefix):], "/")
		out = append(out, DirEntry{Name: escapeName(name, false), Inode: t.dirInode(d.node, name, p), Mode: syscall.S_IFDIR, dir: true, name: name})
	}
	return out
}

// dirInode is the inode number of a listed directory: the one that is known, else the derived one. A marker that was
// not read yet may carry another; stat tells.
func (t *Tree) dirInode(parent *node, name, prefix string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := parent.children[childName{name, true}]; n != nil {
		return n.ino
	}
	return inodeOf(prefix)
}

// Enter is the lookup that a READDIRPLUS makes of an entry it was just handed, without another request for files. A
// zero Entry means that the kernel has to look the name up itself.
func (t *Tree) Enter(id uint64, e DirEntry) Entry {
	t.mu.Lock()
	d := t.dirs[id]
	if d == nil || e.self || e.dir || d.node.gone() {
		t.mu.Unlock()
		return Entry{}
	}
	n := e.node
	if n == nil {
		n = d.node.children[childName{e.name, false}]
		// What this mount made or changed since the page was read is newer than the page.
		if n == nil {
			n = t.upsertLocked(d.node, childName{e.name, false}, e.info)
		} else if n.info.Version != e.info.Version {
			t.mu.Unlock()
			return Entry{}
		}
	} else if n.unlinked {
		t.mu.Unlock()
		return Entry{}
	}
	t.mu.Unlock()
	return t.entry(n)
}
