// Package treetest holds the model of tree.Objects, a bucket in memory with faults on demand, and the contract suite
// that the model and every real implementation pass.
package treetest

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// Model is a bucket in memory. Its zero value is not usable; see NewModel.
type Model struct {
	mu      sync.Mutex
	current map[string]*object
	uploads map[tree.Upload]map[int][]byte
	stages  map[uint64]tree.File // by inode
	next    int
	open    int
	calls   map[string]int
	bytes   int64
	publish []tree.Info
	fail    func(op, key string) error
}

type object struct {
	info tree.Info
	data []byte
}

// NewModel makes an empty bucket.
func NewModel() *Model {
	return &Model{
		current: map[string]*object{}, uploads: map[tree.Upload]map[int][]byte{},
		stages: map[uint64]tree.File{}, calls: map[string]int{},
	}
}

// Fail makes fn decide before every operation whether it fails. It runs without locks and may block. Nil: none does.
func (m *Model) Fail(fn func(op, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fn
}

// Calls is how often an operation ran, for example "Publish".
func (m *Model) Calls(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op]
}

// Stored is how many bytes of content were sent to the bucket.
func (m *Model) Stored() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// Published is every version ever made of a key by Publish, oldest first.
func (m *Model) Published(key string) []tree.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []tree.Info
	for _, i := range m.publish {
		if i.Key == key {
			out = append(out, i)
		}
	}
	return out
}

// Keys is every current key, sorted.
func (m *Model) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sorted("")
}

// Data is the content of the current version of a key.
func (m *Model) Data(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.current[key]
	if o == nil {
		return nil, false
	}
	return o.data, true
}

// Put makes a version as an S3 client does: without attributes of a mount.
func (m *Model) Put(key string, data []byte) tree.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commit(key, data, tree.Attr{Mtime: time.Now()})
}

// Leftover is how many uploads, stages and open readers there are.
func (m *Model) Leftover() (uploads, stages, readers int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.uploads), len(m.stages), m.open
}

// EndSession does what the store does with the stages of a mount that died: those whose base is current are published.
func (m *Model) EndSession() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, f := range m.stages {
		data, err := m.assemble(f)
		if err == nil && m.allowed(f.Key, f.Cond) == nil {
			m.commit(f.Key, data, f.Attr)
		}
		delete(m.stages, k)
	}
}

func (m *Model) before(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	m.calls[op]++
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		return fail(op, key)
	}
	return nil
}

func (m *Model) version() tree.Version {
	m.next++
	return tree.Version(fmt.Sprintf("v%06d", m.next))
}

func (m *Model) commit(key string, data []byte, attr tree.Attr) tree.Info {
	sum := md5.Sum(data)
	attr.Xattrs = maps.Clone(attr.Xattrs)
	info := tree.Info{Key: key, Version: m.version(), Size: int64(len(data)), ETag: hex.EncodeToString(sum[:]), Attr: attr}
	m.current[key] = &object{info: info, data: data}
	return info
}

func (m *Model) allowed(key string, c tree.Cond) error {
	o := m.current[key]
	switch {
	case c.Absent && o != nil:
		return tree.ErrExists
	case c.Base != "" && (o == nil || o.info.Version != c.Base):
		return tree.ErrConflict
	}
	return nil
}

// Stat implements tree.Objects.
func (m *Model) Stat(ctx context.Context, key string) (tree.Info, error) {
	if err := m.before(ctx, "Stat", key); err != nil {
		return tree.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.current[key]; o != nil {
		return o.info, nil
	}
	return tree.Info{}, tree.ErrNotExist
}

func (m *Model) sorted(prefix string) []string {
	var keys []string
	for k := range m.current {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// List implements tree.Objects.
func (m *Model) List(ctx context.Context, prefix, after string, limit int) (tree.Listing, error) {
	if err := m.before(ctx, "List", prefix); err != nil {
		return tree.Listing{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page tree.Listing
	last := ""
	for _, k := range m.sorted(prefix) {
		name := k
		if i := strings.IndexByte(k[len(prefix):], '/'); i >= 0 {
			name = k[:len(prefix)+i+1]
		}
		if name <= after || name == last {
			continue
		}
		if len(page.Entries)+len(page.Prefixes) == limit {
			page.Truncated, page.Next = true, last
			return page, nil
		}
		last = name
		if name == k && !strings.HasSuffix(name[len(prefix):], "/") {
			page.Entries = append(page.Entries, m.current[k].info)
		} else {
			page.Prefixes = append(page.Prefixes, name)
		}
	}
	return page, nil
}

// Exists implements tree.Objects.
func (m *Model) Exists(ctx context.Context, prefix string) (bool, error) {
	if err := m.before(ctx, "Exists", prefix); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.current {
		if strings.HasPrefix(k, prefix) {
			return true, nil
		}
	}
	return false, nil
}

type reader struct {
	m *Model
	*object
	once sync.Once
}

// Open implements tree.Objects.
func (m *Model) Open(ctx context.Context, key string, v tree.Version) (tree.Reader, error) {
	if err := m.before(ctx, "Open", key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.current[key]
	if o == nil || o.info.Version != v {
		return nil, tree.ErrNotExist
	}
	m.open++
	return &reader{m: m, object: o}, nil
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.m.before(context.Background(), "ReadAt", r.info.Key); err != nil {
		return 0, err
	}
	if off >= int64(len(r.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.once.Do(func() {
		r.m.mu.Lock()
		r.m.open--
		r.m.mu.Unlock()
	})
	return nil
}

// Info implements tree.Reader.
func (r *reader) Info() tree.Info { return r.info }

// Space implements tree.Objects.
func (m *Model) Space(ctx context.Context) (tree.Space, error) {
	if err := m.before(ctx, "Space", ""); err != nil {
		return tree.Space{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return tree.Space{Total: 1 << 40, Free: 1 << 39, Objects: int64(len(m.current))}, nil
}
