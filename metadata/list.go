package metadata

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// maxSteps is how many rows a listing steps over behind a common prefix before it seeks: a seek costs about as much
// as 24 to 30 steps (measured on goleveldb).
const maxSteps = 24

// List returns one page of current objects, and of the prefixes that they have in common up to the delimiter, in byte
// order. Every write acknowledged before the call is in it; the page is of one point in time.
func (c *Catalog) List(ctx context.Context, l List) (Page, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Page{}, err
	}
	if _, err := s.bucket(l.Bucket); err != nil {
		return Page{}, err
	}
	page, err := s.list(l)
	if err != nil {
		return Page{}, fmt.Errorf("list %q: %w", l.Prefix, unavailable(err))
	}
	return page, nil
}

func (s state) list(l List) (Page, error) {
	var page Page
	if l.Max <= 0 {
		return page, nil
	}
	w := newWalk(s.r, record.FamilyCurrent, l.Bucket, l.Prefix, l.Delimiter)
	defer w.close()
	w.start(l.After)
	for w.ok() {
		if len(page.Versions)+len(page.Prefixes) == l.Max {
			page.Truncated = true
			break
		}
		if w.common != "" {
			page.Prefixes = append(page.Prefixes, w.common)
			page.Next = w.common
			w.skip(w.common)
			continue
		}
		var v record.Version
		if err := proto.Unmarshal(w.it.Value(), &v); err != nil {
			return Page{}, fmt.Errorf("read row %x: %w", w.it.Key(), err)
		}
		found := toVersion(w.key, &v, nil)
		found.Latest = true
		page.Versions = append(page.Versions, found)
		page.Next = w.key
		w.next()
	}
	if !page.Truncated {
		page.Next = ""
	}
	return page, w.err
}

// walk goes over the rows of a family whose object keys begin with a prefix.
type walk struct {
	it        kv.Iterator
	family    byte
	bucket    BucketID
	prefix    string
	delimiter string

	valid bool
	err   error
	// key is the object key of the row, rest what follows it; common is the key up to the first delimiter behind the
	// prefix, "" when it has none.
	key    string
	rest   []byte
	common string
}

func newWalk(r kv.Reader, family byte, bucket BucketID, prefix, delimiter string) *walk {
	rows := record.PrefixRows(family, uint64(bucket), prefix)
	it := r.Iterate(kv.Span{Start: rows, End: record.After(rows)})
	return &walk{it: it, family: family, bucket: bucket, prefix: prefix, delimiter: delimiter}
}

func (w *walk) close() { w.it.Close() }

// start moves to the first row behind the object key after, and behind all keys below it where it is a common prefix.
func (w *walk) start(after string) {
	switch {
	case after == "" || after < w.prefix:
		w.settle(w.it.Next())
	case w.commonOf(after) == after:
		w.seek(record.After(record.PrefixRows(w.family, uint64(w.bucket), after)))
	default:
		// No row of the key itself is longer than this: what follows an object key is at most 24 bytes.
		w.seek(record.After(record.KeyRow(w.family, uint64(w.bucket), after)))
	}
}

// commonOf is the common prefix that a key falls under, "" when it falls under none.
func (w *walk) commonOf(key string) string {
	if w.delimiter == "" || len(key) < len(w.prefix) {
		return ""
	}
	if i := strings.Index(key[len(w.prefix):], w.delimiter); i >= 0 {
		return key[:len(w.prefix)+i+len(w.delimiter)]
	}
	return ""
}

func (w *walk) seek(row []byte) {
	if row == nil {
		w.valid = false
		return
	}
	w.settle(w.it.Seek(row))
}

func (w *walk) next() { w.settle(w.it.Next()) }

// settle reads the row that the iterator stands on.
func (w *walk) settle(valid bool) {
	w.valid = valid
	if !valid {
		w.err = w.it.Err()
		return
	}
	_, key, rest, err := record.SplitKeyRow(w.it.Key())
	if err != nil {
		w.valid, w.err = false, fmt.Errorf("read row %x: %w", w.it.Key(), err)
		return
	}
	w.key, w.rest, w.common = key, rest, w.commonOf(key)
}

func (w *walk) ok() bool { return w.valid && w.err == nil }

// skip moves behind all keys below a common prefix: a few steps, then a seek.
func (w *walk) skip(common string) {
	target := record.After(record.PrefixRows(w.family, uint64(w.bucket), common))
	for range maxSteps {
		if !w.it.Next() {
			w.settle(false)
			return
		}
		if target != nil && bytes.Compare(w.it.Key(), target) >= 0 {
			w.settle(true)
			return
		}
	}
	w.seek(target)
}

// ListVersions returns one page of all versions and delete markers, by key, the newest first within a key.
func (c *Catalog) ListVersions(ctx context.Context, l ListVersions) (VersionsPage, error) {
	if _, err := c.tablet.Barrier(ctx); err != nil {
		return VersionsPage{}, unavailable(err)
	}
	// Two iterators are merged: they must be of the same point in time.
	snapshot, err := c.tablet.Snapshot()
	if err != nil {
		return VersionsPage{}, unavailable(err)
	}
	defer snapshot.Close()
	s := state{snapshot}
	if _, err := s.bucket(l.Bucket); err != nil {
		return VersionsPage{}, err
	}
	page, err := s.listVersions(l)
	if err != nil {
		return VersionsPage{}, fmt.Errorf("list versions of %q: %w", l.Prefix, unavailable(err))
	}
	return page, nil
}

// versionsMerge walks current and noncurrent versions together.
type versionsMerge struct {
	current, older *walk
	page           VersionsPage
	max            int
	// top is the last key of which a version was seen: the first one of a key is the latest.
	top string
}

func (s state) listVersions(l ListVersions) (VersionsPage, error) {
	if l.Max <= 0 {
		return VersionsPage{}, nil
	}
	m := &versionsMerge{
		current: newWalk(s.r, record.FamilyCurrent, l.Bucket, l.Prefix, l.Delimiter),
		older:   newWalk(s.r, record.FamilyVersions, l.Bucket, l.Prefix, l.Delimiter),
		max:     l.Max,
	}
	defer m.current.close()
	defer m.older.close()
	if err := m.start(s, l); err != nil {
		return VersionsPage{}, err
	}
	for m.step() {
	}
	if err := m.current.err; err != nil {
		return VersionsPage{}, err
	}
	if err := m.older.err; err != nil {
		return VersionsPage{}, err
	}
	if !m.page.Truncated {
		m.page.NextKey, m.page.NextVersion = "", VersionID{}
	}
	return m.page, nil
}

// start moves both walks behind the markers of the request.
func (m *versionsMerge) start(s state, l ListVersions) error {
	id := l.AfterVersion
	if l.AfterNull {
		v, _, err := s.find(l.Bucket, l.AfterKey, nil, true)
		if err != nil {
			return err
		}
		if v != nil {
			id = toID(v.Id)
		}
	}
	m.current.start(l.AfterKey)
	if id == (VersionID{}) || l.AfterKey < l.Prefix {
		m.older.start(l.AfterKey)
		return nil
	}
	// The page goes on inside the key. A current version above id was seen, or is newer than the listing.
	m.top = l.AfterKey
	m.older.seek(append(record.VersionRow(record.FamilyVersions, uint64(l.Bucket), l.AfterKey, id.Clock, id.Random), 0))
	current, err := s.current(l.Bucket, l.AfterKey)
	if err != nil || current == nil {
		return err
	}
	if v := toID(current.Id); v.Clock < id.Clock || (v.Clock == id.Clock && v.Random < id.Random) {
		m.current.seek(record.KeyRow(record.FamilyCurrent, uint64(l.Bucket), l.AfterKey))
	}
	return nil
}

// step takes the next version or prefix into the page and tells whether to go on.
func (m *versionsMerge) step() bool {
	w := m.current
	if !w.ok() || (m.older.ok() && m.older.key < w.key) {
		w = m.older
	}
	if !w.ok() || m.current.err != nil || m.older.err != nil {
		return false
	}
	if len(m.page.Versions)+len(m.page.Prefixes) == m.max {
		m.page.Truncated = true
		return false
	}
	if common := w.common; common != "" {
		m.page.Prefixes = append(m.page.Prefixes, common)
		m.page.NextKey, m.page.NextVersion = common, VersionID{}
		for _, w := range []*walk{m.current, m.older} {
			if w.ok() && w.common == common {
				w.skip(common)
			}
		}
		return true
	}
	var r record.Version
	if err := proto.Unmarshal(w.it.Value(), &r); err != nil {
		w.err = fmt.Errorf("read row %x: %w", w.it.Key(), err)
		return false
	}
	v := toVersion(w.key, &r, nil)
	v.Latest = w == m.current || m.top != w.key
	m.top = w.key
	m.page.Versions = append(m.page.Versions, v)
	m.page.NextKey, m.page.NextVersion = v.Key, v.ID
	w.next()
	return true
}
