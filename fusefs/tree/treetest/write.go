package treetest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// Begin implements tree.Objects.
func (m *Model) Begin(ctx context.Context, key string) (tree.Upload, error) {
	if err := m.before(ctx, "Begin", key); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	up := tree.Upload(fmt.Sprintf("%d %s", m.next, key))
	m.uploads[up] = map[int][]byte{}
	return up, nil
}

func (m *Model) parts(key string, up tree.Upload) (map[int][]byte, error) {
	if _, began, _ := strings.Cut(string(up), " "); began != key {
		return nil, fmt.Errorf("upload of %q named with key %q: %w", began, key, tree.ErrInvalid)
	}
	parts := m.uploads[up]
	if parts == nil {
		return nil, tree.ErrNotExist
	}
	return parts, nil
}

// Part implements tree.Objects.
func (m *Model) Part(ctx context.Context, key string, up tree.Upload, n int, body io.ReadSeeker, size int64) error {
	if err := m.before(ctx, "Part", key); err != nil {
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if int64(len(data)) != size || n < 1 || n > 10_000 {
		return fmt.Errorf("part %d of %d bytes has %d: %w", n, size, len(data), tree.ErrInvalid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	parts, err := m.parts(key, up)
	if err != nil {
		return err
	}
	parts[n] = data
	m.bytes += size
	return nil
}

// ReadPart implements tree.Objects.
func (m *Model) ReadPart(ctx context.Context, key string, up tree.Upload, n int, p []byte, off int64) (int, error) {
	if err := m.before(ctx, "ReadPart", key); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	parts, err := m.parts(key, up)
	if err != nil {
		return 0, err
	}
	data, ok := parts[n]
	if !ok {
		return 0, tree.ErrNotExist
	}
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	if got := copy(p, data[off:]); got < len(p) {
		return got, io.EOF
	}
	return len(p), nil
}

// Abort implements tree.Objects.
func (m *Model) Abort(ctx context.Context, key string, up tree.Upload) error {
	if err := m.before(ctx, "Abort", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.parts(key, up); err != nil {
		return err
	}
	delete(m.uploads, up)
	return nil
}

func (m *Model) assemble(f tree.File) ([]byte, error) {
	if f.Pieces == nil {
		return append([]byte(nil), f.Data...), nil
	}
	var out []byte
	for i, p := range f.Pieces {
		var from []byte
		switch {
		case p.Hole:
			from = make([]byte, p.Off+p.Len)
		case p.Base:
			o := m.current[f.Key]
			if o == nil || f.Cond.Base == "" || o.info.Version != f.Cond.Base {
				return nil, tree.ErrConflict
			}
			from = o.data
		default:
			data, ok := m.uploads[f.Upload][p.Part]
			if !ok {
				return nil, fmt.Errorf("piece %d names part %d: %w", i, p.Part, tree.ErrNotExist)
			}
			from = data
		}
		if p.Len <= 0 || p.Off < 0 || p.Off+p.Len > int64(len(from)) {
			return nil, fmt.Errorf("piece %d is %+v of %d bytes: %w", i, p, len(from), tree.ErrInvalid)
		}
		out = append(out, from[p.Off:p.Off+p.Len]...)
	}
	return out, nil
}

// Stage implements tree.Objects.
func (m *Model) Stage(ctx context.Context, f tree.File) error {
	if err := m.before(ctx, "Stage", f.Key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.Cond.Base != "" {
		if err := m.allowed(f.Key, f.Cond); err != nil {
			return err
		}
	}
	data, err := m.assemble(f)
	if err != nil {
		return err
	}
	// A stage keeps its bytes by itself, whatever becomes of the upload.
	f.Pieces, f.Data = nil, data
	m.stages[f.Inode] = f
	return nil
}

// Staged is the content that fsync made durable for an inode, to be published as key.
func (m *Model) Staged(key string, inode uint64) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.stages[inode]
	return f.Data, ok && f.Key == key
}

// Discard implements tree.Objects.
func (m *Model) Discard(ctx context.Context, key string, inode uint64) error {
	if err := m.before(ctx, "Discard", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.stages, inode)
	return nil
}

// Publish implements tree.Objects.
func (m *Model) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	if err := m.before(ctx, "Publish", f.Key); err != nil {
		return tree.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.allowed(f.Key, f.Cond); err != nil {
		return tree.Info{}, err
	}
	data, err := m.assemble(f)
	if err != nil {
		return tree.Info{}, err
	}
	if f.Pieces == nil {
		m.bytes += int64(len(f.Data))
	}
	info := m.commit(f.Key, data, f.Attr)
	m.publish = append(m.publish, info)
	delete(m.stages, f.Inode)
	return info, nil
}

// SetAttr implements tree.Objects.
func (m *Model) SetAttr(ctx context.Context, key string, v tree.Version, a tree.Attr) (tree.Info, error) {
	if err := m.before(ctx, "SetAttr", key); err != nil {
		return tree.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.current[key]
	if o == nil {
		return tree.Info{}, tree.ErrNotExist
	}
	if o.info.Version != v {
		return tree.Info{}, tree.ErrConflict
	}
	a.Xattrs = maps.Clone(a.Xattrs)
	after := *o
	after.info.Attr = a
	m.current[key] = &after
	return after.info, nil
}

func (m *Model) move(from, to string) tree.Info {
	o := *m.current[from]
	delete(m.current, from)
	o.info.Key, o.info.Version = to, m.version()
	if o.info.Attr.Mode != 0 {
		o.info.Attr.Ctime = time.Now()
	}
	m.current[to] = &o
	return o.info
}

// Rename implements tree.Objects.
func (m *Model) Rename(ctx context.Context, from, to string, noReplace bool) (tree.Info, error) {
	if err := m.before(ctx, "Rename", from); err != nil {
		return tree.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.current[from] == nil:
		return tree.Info{}, tree.ErrNotExist
	case noReplace && m.current[to] != nil:
		return tree.Info{}, tree.ErrExists
	case from == to:
		return m.current[from].info, nil
	}
	return m.move(from, to), nil
}

// RenamePrefix implements tree.Objects.
func (m *Model) RenamePrefix(ctx context.Context, from, to string) error {
	if err := m.before(ctx, "RenamePrefix", from); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.current {
		if strings.HasPrefix(k, to) && k != to {
			return tree.ErrDirNotEmpty
		}
	}
	keys := m.sorted(from)
	if len(keys) == 0 {
		return tree.ErrNotExist
	}
	for _, k := range keys {
		m.move(k, to+strings.TrimPrefix(k, from))
	}
	return nil
}

// Remove implements tree.Objects.
func (m *Model) Remove(ctx context.Context, key string, empty bool) error {
	if err := m.before(ctx, "Remove", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if empty {
		for k := range m.current {
			if strings.HasPrefix(k, key) && k != key {
				return tree.ErrDirNotEmpty
			}
		}
	}
	if m.current[key] == nil {
		return tree.ErrNotExist
	}
	delete(m.current, key)
	return nil
}
