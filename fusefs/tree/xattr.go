package tree

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// maxXattr is the largest value of one attribute (XATTR_SIZE_MAX), maxXattrs all names and values of one file
	// together: the record of a version is one row.
	maxXattr  = 64 << 10
	maxXattrs = 64 << 10

	// XattrCreate and XattrReplace are the flags of SetXattr.
	XattrCreate  = 1
	XattrReplace = 2
)

func (t *Tree) xattrs(ctx context.Context, id uint64) (map[string][]byte, error) {
	n, err := t.node(id)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	known := n.img != nil || n.unlinked || n.parent == nil
	t.mu.Unlock()
	if !known {
		if err := t.refresh(ctx, n); err != nil {
			return nil, err
		}
	}
	if content := t.content(n); content != nil {
		return content.Attr.Xattrs, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.info.Attr.Xattrs, nil
}

// GetXattr is one extended attribute. Names outside user.* are ErrNoAttr, POSIX ACLs ErrUnsupported.
func (t *Tree) GetXattr(ctx context.Context, id uint64, name string) ([]byte, error) {
	if strings.HasPrefix(name, "system.posix_acl_") {
		return nil, ErrUnsupported
	}
	if !strings.HasPrefix(name, "user.") {
		return nil, ErrNoAttr
	}
	all, err := t.xattrs(ctx, id)
	if err != nil {
		return nil, err
	}
	v, ok := all[name]
	if !ok {
		return nil, ErrNoAttr
	}
	return v, nil
}

// ListXattr is the names of the extended attributes, sorted.
func (t *Tree) ListXattr(ctx context.Context, id uint64) ([]string, error) {
	all, err := t.xattrs(ctx, id)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// SetXattr sets one extended attribute; only user.* can be set.
func (t *Tree) SetXattr(ctx context.Context, id uint64, name string, value []byte, flags uint32) error {
	if !strings.HasPrefix(name, "user.") {
		return ErrUnsupported
	}
	if len(value) > maxXattr {
		return ErrTooMuch
	}
	return t.editXattrs(ctx, id, func(all map[string][]byte) error {
		_, there := all[name]
		switch {
		case there && flags&XattrCreate != 0:
			return ErrExists
		case !there && flags&XattrReplace != 0:
			return ErrNoAttr
		}
		all[name] = slices.Clone(value)
		total := 0
		for k, v := range all {
			total += len(k) + len(v)
		}
		if total > maxXattrs {
			return ErrTooMuch
		}
		return nil
	})
}

// RemoveXattr removes one extended attribute.
func (t *Tree) RemoveXattr(ctx context.Context, id uint64, name string) error {
	if !strings.HasPrefix(name, "user.") {
		return ErrUnsupported
	}
	return t.editXattrs(ctx, id, func(all map[string][]byte) error {
		if _, there := all[name]; !there {
			return ErrNoAttr
		}
		delete(all, name)
		return nil
	})
}

func (t *Tree) editXattrs(ctx context.Context, id uint64, fn func(map[string][]byte) error) error {
	if err := t.writable(); err != nil {
		return err
	}
	n, err := t.node(id)
	if err != nil {
		return err
	}
	return t.edit(ctx, n, func(a Attr) (Attr, error) {
		all := maps.Clone(a.Xattrs)
		if all == nil {
			all = map[string][]byte{}
		}
		if err := fn(all); err != nil {
			return a, err
		}
		a.Xattrs, a.Ctime = all, time.Now()
		return a, nil
	})
}
