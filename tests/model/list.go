package model

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/metadata"
)

// common gives the common prefix that a key falls under, "" when it stands for itself.
func common(key, prefix, delimiter string) string {
	if delimiter == "" {
		return ""
	}
	i := strings.Index(key[len(prefix):], delimiter)
	if i < 0 {
		return ""
	}
	return key[:len(prefix)+i+len(delimiter)]
}

// List returns one page of current objects, by looking at all of them.
func (s *Store) List(_ context.Context, l metadata.List) (metadata.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page metadata.Page
	b, err := s.bucket(l.Bucket)
	if err != nil || l.Max == 0 {
		return page, err
	}
	last := ""
	for _, key := range slices.Sorted(maps.Keys(b.keys)) {
		if b.current(key) == nil || !strings.HasPrefix(key, l.Prefix) || key <= l.After {
			continue
		}
		prefix := common(key, l.Prefix, l.Delimiter)
		if prefix != "" && (prefix == l.After || prefix == last) {
			continue
		}
		if len(page.Versions)+len(page.Prefixes) == l.Max {
			page.Truncated, page.Next = true, last
			return page, nil
		}
		if prefix != "" {
			page.Prefixes, last = append(page.Prefixes, prefix), prefix
			continue
		}
		page.Versions, last = append(page.Versions, b.shown(key, b.current(key))), key
	}
	return page, nil
}

// ListVersions returns one page of all versions.
func (s *Store) ListVersions(_ context.Context, l metadata.ListVersions) (metadata.VersionsPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page metadata.VersionsPage
	b, err := s.bucket(l.Bucket)
	if err != nil || l.Max == 0 {
		return page, err
	}
	var lastKey string
	var lastVersion metadata.VersionID
	for _, key := range slices.Sorted(maps.Keys(b.keys)) {
		if !strings.HasPrefix(key, l.Prefix) || key < l.AfterKey {
			continue
		}
		prefix := common(key, l.Prefix, l.Delimiter)
		if prefix != "" && (prefix == l.AfterKey || prefix == lastKey) {
			continue
		}
		for _, v := range b.behind(key, l) {
			if len(page.Versions)+len(page.Prefixes) == l.Max {
				page.Truncated, page.NextKey, page.NextVersion = true, lastKey, lastVersion
				return page, nil
			}
			if prefix != "" {
				page.Prefixes, lastKey, lastVersion = append(page.Prefixes, prefix), prefix, metadata.VersionID{}
				break
			}
			page.Versions, lastKey, lastVersion = append(page.Versions, b.shown(key, v)), key, v.record.ID
		}
	}
	return page, nil
}

// behind gives the versions of a key that come behind the markers of a listing.
func (b *bucket) behind(key string, l metadata.ListVersions) []*version {
	list := b.keys[key]
	switch {
	case key != l.AfterKey || l.AfterKey == "":
		return list
	case l.AfterNull:
		i := slices.IndexFunc(list, func(v *version) bool { return v.record.Null })
		if i < 0 {
			return nil
		}
		return list[i+1:]
	case l.AfterVersion.IsZero():
		return nil
	}
	i := slices.IndexFunc(list, func(v *version) bool { return v.record.ID.String() < l.AfterVersion.String() })
	if i < 0 {
		return nil
	}
	return list[i:]
}

// Uploads returns one page of the uploads under way.
func (s *Store) Uploads(_ context.Context, l metadata.ListUploads) (metadata.UploadsPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page metadata.UploadsPage
	b, err := s.bucket(l.Bucket)
	if err != nil || l.Max == 0 {
		return page, err
	}
	rows := slices.SortedFunc(maps.Values(b.uploads), func(x, y *upload) int {
		return cmp.Or(strings.Compare(x.row.Key, y.row.Key), strings.Compare(x.row.ID.String(), y.row.ID.String()))
	})
	var lastKey string
	var lastID metadata.UploadID
	for _, u := range rows {
		key := u.row.Key
		behind := key > l.AfterKey || key == l.AfterKey && !l.AfterUpload.IsZero() && u.row.ID.String() > l.AfterUpload.String()
		if u.row.Internal || !strings.HasPrefix(key, l.Prefix) || !behind && l.AfterKey != "" {
			continue
		}
		prefix := common(key, l.Prefix, l.Delimiter)
		if prefix != "" && (prefix == l.AfterKey || prefix == lastKey) {
			continue
		}
		if len(page.Uploads)+len(page.Prefixes) == l.Max {
			page.Truncated, page.NextKey, page.NextUpload = true, lastKey, lastID
			return page, nil
		}
		if prefix != "" {
			page.Prefixes, lastKey, lastID = append(page.Prefixes, prefix), prefix, metadata.UploadID{}
			continue
		}
		page.Uploads, lastKey, lastID = append(page.Uploads, u.row), key, u.row.ID
	}
	return page, nil
}
