package tree

import (
	"strings"
	"sync"
	"time"
)

// rootID is the node id of the mounted directory, as the kernel wants it.
const rootID = 1

type childName struct {
	name string
	dir  bool
}

// node is one file or directory that the kernel or an open handle knows.
type node struct {
	// id is the kernel's name of the node; ino is the inode number that people see. They differ only where two keys
	// carry the same inode number, or where a file was replaced elsewhere while it is open here.
	id, ino uint64
	dir     bool

	// commit serialises what changes the object of this node: publish, stage, rename, remove, attributes. It is held
	// over I/O: two commits of one file at once have no order.
	commit sync.Mutex

	// The rest is guarded by Tree.mu.

	parent   *node
	name     string // the key segment
	children map[childName]*node
	// unlinked is set when the name was removed or replaced here; such a file is never published.
	unlinked bool
	// detached is set when another file has the name now because it was replaced elsewhere.
	detached bool
	lookups  uint64
	opens    int
	// info is the published version; the zero Version means none. seq grows with every change of it made here.
	info Info
	seq  uint64
	// img is the content; nil while the file is not open.
	img *image
	// cached is the version whose pages the kernel may have.
	cached Version
	// moved is set when the version has another id since a directory above was renamed.
	moved bool
	// touched is when an entry of this directory was last changed here.
	touched time.Time
	// missed is the name that was last looked up here and not found.
	missed   childName
	missedAt time.Time
}

// table is the node table. All methods want Tree.mu.
type table struct {
	root *node
	byID map[uint64]*node
	next uint64
}

func newTable() table {
	root := &node{id: rootID, ino: rootID, dir: true, lookups: 1, children: map[childName]*node{}}
	return table{root: root, byID: map[uint64]*node{rootID: root}, next: 1 << 63}
}

// key is the object key of a file, or the prefix of a directory: "" for the root, else ending with "/".
func (n *node) key() string {
	if n.parent == nil {
		return ""
	}
	var names []string
	for at := n; at.parent != nil; at = at.parent {
		names = append(names, at.name)
	}
	var b strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteString(names[i])
		if i > 0 || n.dir {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// gone tells whether the node or a directory above it was removed.
func (n *node) gone() bool {
	for at := n; at != nil; at = at.parent {
		if at.unlinked {
			return true
		}
	}
	return false
}

// pending tells whether the file exists only here: created and not yet published.
func (n *node) pending() bool { return !n.dir && n.info.Version == "" && n.img != nil && !n.unlinked }

// add puts a new node under its parent.
func (t *table) add(parent *node, name string, dir bool, ino uint64) *node {
	n := &node{ino: ino, dir: dir, parent: parent, name: name}
	if dir {
		n.children = map[childName]*node{}
	}
	n.id = t.freshID(ino)
	t.byID[n.id] = n
	parent.children[childName{name, dir}] = n
	parent.missed = childName{}
	return n
}

// freshID is the inode number where no node has it as its id, else another number.
func (t *table) freshID(ino uint64) uint64 {
	id := ino
	for id == 0 || id == ^uint64(0) || t.byID[id] != nil {
		id = t.next
		t.next++
	}
	return id
}

// leave takes a node out of its directory; its open handles keep it.
func (t *table) leave(n *node) {
	if c := (childName{n.name, n.dir}); n.parent.children[c] == n {
		delete(n.parent.children, c)
	}
}

// move gives a node a new place.
func (t *table) move(n, parent *node, name string) {
	t.leave(n)
	old := n.parent
	n.parent, n.name = parent, name
	if !n.detached {
		parent.children[childName{name, n.dir}] = n
		parent.missed = childName{}
	}
	t.drop(old)
}

// drop forgets nodes that nobody knows any more, up to the root.
func (t *table) drop(n *node) {
	for n != nil && n.parent != nil && n.lookups == 0 && n.opens == 0 && n.img == nil && len(n.children) == 0 {
		if t.byID[n.id] != n {
			return
		}
		parent := n.parent
		t.leave(n)
		delete(t.byID, n.id)
		n = parent
	}
}
