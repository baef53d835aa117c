package metadata

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// modelVersion is one version in the model: its id is taken from the answer of the Catalog.
type modelVersion struct {
	id     VersionID
	null   bool
	marker bool
	text   string
}

// model is S3's rules over plain slices: per key the versions, newest first.
type model struct {
	versioning Versioning
	keys       map[string][]modelVersion
}

func (m *model) current(key string) *modelVersion {
	if vs := m.keys[key]; len(vs) > 0 && !vs[0].marker {
		return &vs[0]
	}
	return nil
}

func (m *model) dropNull(key string) {
	m.keys[key] = slices.DeleteFunc(m.keys[key], func(v modelVersion) bool { return v.null })
}

func (m *model) push(key string, v modelVersion) {
	v.null = m.versioning != VersioningEnabled
	if v.null {
		m.dropNull(key)
	}
	m.keys[key] = append([]modelVersion{v}, m.keys[key]...)
}

func (m *model) sorted() []string {
	var keys []string
	for key, vs := range m.keys {
		if len(vs) > 0 {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

func (m *model) usage() Usage {
	var u Usage
	for _, vs := range m.keys {
		for i, v := range vs {
			if i == 0 && !v.marker {
				u.Objects++
				u.Bytes += int64(len(v.text))
			} else {
				u.Versions++
				u.VersionBytes += int64(len(v.text))
			}
		}
	}
	return u
}

// list is the naive listing of current keys, or of all versions with versions set: entries are keys (with the id where
// versions are listed) and prefixes end with "*".
func (m *model) list(prefix, delimiter string, versions bool) []string {
	var out []string
	for _, key := range m.sorted() {
		if !strings.HasPrefix(key, prefix) || (!versions && m.current(key) == nil) {
			continue
		}
		if i := strings.Index(key[len(prefix):], delimiter); delimiter != "" && i >= 0 {
			common := key[:len(prefix)+i+len(delimiter)] + "*"
			if len(out) == 0 || out[len(out)-1] != common {
				out = append(out, common)
			}
			continue
		}
		if !versions {
			out = append(out, key)
			continue
		}
		for i, v := range m.keys[key] {
			out = append(out, fmt.Sprintf("%s@%v null=%v marker=%v latest=%v", key, v.id, v.null, v.marker, i == 0))
		}
	}
	return out
}

var weirdKeys = []string{
	"a", "a/", "a/b", "a/b/", "a//b", "a/b/c", "a\x00", "a\x00b", "a\x00\x01", "a\x00\xff", "a\xff", "b", "b/\xff\xff",
	"ab", "a-", "a.b", "../x", "dir/one", "dir/two", "dir/two/three", "é", "日本/語", "\xff", "\xff\xff", "\x00",
	"z", strings.Repeat("k", maxKey),
}

type machineTest struct {
	w      *world
	bucket BucketID
	model  model
	n      int
}

func (m *machineTest) text() string {
	m.n++
	return fmt.Sprintf("text %d %s", m.n, strings.Repeat("x", (m.n%7)*150))
}

func drawKey(t *rapid.T) string { return rapid.SampledFrom(weirdKeys).Draw(t, "key") }

func (m *machineTest) put(t *rapid.T) {
	key, text := drawKey(t), m.text()
	p := object(m.bucket, key, text)
	current := m.model.current(key)
	var want error
	switch rapid.IntRange(0, 6).Draw(t, "condition") {
	case 0:
		p.If.NoneMatch = "*"
		if current != nil {
			want = ErrPrecondition
		}
	case 1:
		p.If.NoBase = true
		if current != nil {
			want = ErrConflict
		}
	case 2:
		if current != nil {
			p.If.Base = current.id
		}
	case 3:
		p.If.Match = etag("never stored")
		want = ErrPrecondition
		if current == nil {
			want = ErrNoSuchKey
		}
	case 4:
		p.If.Match = "*"
		if current == nil {
			want = ErrNoSuchKey
		}
	}
	v, err := m.w.Put(m.w.ctx, p)
	if !errors.Is(err, want) {
		t.Fatalf("put %q %+v: %v, want %v", key, p.If, err, want)
	}
	if err != nil {
		return
	}
	m.model.push(key, modelVersion{id: v.ID, text: text})
}

func (m *machineTest) remove(t *rapid.T) {
	key := drawKey(t)
	d, err := m.w.Delete(m.w.ctx, Delete{Bucket: m.bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	current := m.model.current(key)
	if d.Found != (current != nil) {
		t.Fatalf("delete %q found %v", key, d.Found)
	}
	if m.model.versioning == Unversioned {
		m.model.dropNull(key)
		return
	}
	m.model.push(key, modelVersion{id: d.Version, marker: true})
}

func (m *machineTest) removeVersion(t *rapid.T) {
	key := drawKey(t)
	d := Delete{Bucket: m.bucket, Key: key}
	vs := m.model.keys[key]
	at := -1
	if len(vs) > 0 && rapid.Bool().Draw(t, "existing") {
		at = rapid.IntRange(0, len(vs)-1).Draw(t, "at")
		d.Version = &vs[at].id
	} else if rapid.Bool().Draw(t, "null") {
		d.Null = true
		at = slices.IndexFunc(vs, func(v modelVersion) bool { return v.null })
	} else {
		d.Version = &VersionID{Clock: 1 << 40}
	}
	got, err := m.w.Delete(m.w.ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	if got.Found != (at >= 0) {
		t.Fatalf("delete version of %q: %+v, model has it at %d", key, got, at)
	}
	if at >= 0 {
		if got.DeleteMarker != vs[at].marker || got.Version != vs[at].id || got.Null != vs[at].null {
			t.Fatalf("delete version of %q: %+v, want %+v", key, got, vs[at])
		}
		m.model.keys[key] = slices.Delete(slices.Clone(vs), at, at+1)
	}
}

func (m *machineTest) rename(t *rapid.T) {
	from, to := drawKey(t), drawKey(t)
	v, err := m.w.Rename(m.w.ctx, Rename{Bucket: m.bucket, From: from, To: to})
	m.moved(t, from, to, v.ID, err)
}

// moved does a rename in the model.
func (m *machineTest) moved(t *rapid.T, from, to string, id VersionID, err error) {
	current := m.model.current(from)
	if current == nil {
		if !errors.Is(err, ErrNoSuchKey) {
			t.Fatalf("rename of missing %q: %v", from, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if from == to {
		return
	}
	text := current.text
	m.model.keys[from] = slices.Clone(m.model.keys[from])[1:]
	if len(m.model.keys[from]) > 0 {
		marker, err := m.w.Current(m.w.ctx, m.bucket, from)
		if !errors.Is(err, ErrDeleteMarker) {
			t.Fatalf("renamed away from %q with versions below: %v", from, err)
		}
		m.model.push(from, modelVersion{id: marker.ID, marker: true})
	}
	m.model.push(to, modelVersion{id: id, text: text})
}

func (m *machineTest) versioning(t *rapid.T) {
	v := rapid.SampledFrom([]Versioning{VersioningEnabled, VersioningSuspended}).Draw(t, "versioning")
	if err := m.w.SetVersioning(m.w.ctx, "bucket", v); err != nil {
		t.Fatal(err)
	}
	m.model.versioning = v
}

func (m *machineTest) upload(t *rapid.T) {
	key := drawKey(t)
	u, err := m.w.CreateUpload(m.w.ctx, m.bucket, Upload{Key: key}, Op{})
	if err != nil {
		t.Fatal(err)
	}
	whole := ""
	var listed []CompletePart
	for i := range rapid.IntRange(1, 5).Draw(t, "parts") {
		text := m.text()
		part := Part{Number: i*3 + 1, Size: int64(len(text)), ETag: etag(text), Manifest: []byte(text)}
		if _, err := m.w.PutPart(m.w.ctx, m.bucket, key, u.ID, part, nil, Op{}); err != nil {
			t.Fatal(err)
		}
		if i == 0 || rapid.Bool().Draw(t, "listed") {
			whole += text
			listed = append(listed, CompletePart{Number: part.Number, ETag: part.ETag})
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "abort") == 0 {
		if err := m.w.Abort(m.w.ctx, m.bucket, key, u.ID, Op{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	v, err := m.w.Complete(m.w.ctx, Complete{Bucket: m.bucket, Key: key, Upload: u.ID, Parts: listed, MinPartSize: -1})
	if err != nil {
		t.Fatal(err)
	}
	m.model.push(key, modelVersion{id: v.ID, text: whole})
}

// check compares everything that can be seen.
func (m *machineTest) check(t *rapid.T) {
	u, err := m.w.Usage(m.w.ctx, m.bucket)
	if err != nil {
		t.Fatal(err)
	}
	if want := m.model.usage(); u != want {
		t.Fatalf("usage %+v, want %+v", u, want)
	}
	prefix := rapid.SampledFrom([]string{"", "a", "a/", "dir/", "\x00", "日", "\xff", "nothing"}).Draw(t, "prefix")
	delimiter := rapid.SampledFrom([]string{"", "/", "b", "\x00", "/b"}).Draw(t, "delimiter")
	max := rapid.IntRange(1, 5).Draw(t, "max")
	if got, want := m.listed(t, prefix, delimiter, max), m.model.list(prefix, delimiter, false); !slices.Equal(got, want) {
		t.Fatalf("list %q %q by %d:\n%q\nwant\n%q", prefix, delimiter, max, got, want)
	}
	if got, want := m.listedVersions(t, prefix, delimiter, max), m.model.list(prefix, delimiter, true); !slices.Equal(got, want) {
		t.Fatalf("list versions %q %q by %d:\n%s\nwant\n%s", prefix, delimiter, max, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	m.checkBodies(t)
}

// checkBodies reads every version by its id, and the current one and the null one as such.
func (m *machineTest) checkBodies(t *rapid.T) {
	for key, vs := range m.model.keys {
		for i, want := range vs {
			v, err := m.w.Version(m.w.ctx, m.bucket, key, want.id, false)
			if err != nil {
				t.Fatalf("version %v of %q: %v", want.id, key, err)
			}
			if text := m.body(t, v); text != want.text || v.Latest != (i == 0) || v.DeleteMarker != want.marker {
				t.Fatalf("version %v of %q: %+v with %q, want %q latest %v", want.id, key, v, text, want.text, i == 0)
			}
			if want.null {
				if n, err := m.w.Version(m.w.ctx, m.bucket, key, VersionID{}, true); err != nil || n.ID != want.id {
					t.Fatalf("null version of %q: %v %v", key, n.ID, err)
				}
			}
		}
		v, err := m.w.Current(m.w.ctx, m.bucket, key)
		if want := m.model.current(key); want == nil {
			if !errors.Is(err, ErrNoSuchKey) || errors.Is(err, ErrDeleteMarker) != (len(vs) > 0) {
				t.Fatalf("current of %q without one: %v", key, err)
			}
		} else if err != nil || v.ID != want.id {
			t.Fatalf("current of %q: %v %v, want %v", key, v.ID, err, want.id)
		}
	}
}

// body is the text of a version, put together from its parts where it has parts.
func (m *machineTest) body(t *rapid.T, v Version) string {
	if len(v.Parts) == 0 {
		return string(v.Manifest)
	}
	parts, err := m.w.Parts(m.w.ctx, m.bucket, v.PartsKey, v.PartsOf, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, run := range v.Parts {
		for _, p := range parts {
			if p.Number >= run.First && p.Number < run.First+run.Count {
				text += string(p.Manifest)
			}
		}
	}
	return text
}

func (m *machineTest) listed(t *rapid.T, prefix, delimiter string, max int) []string {
	var out []string
	for after := ""; ; {
		page, err := m.w.List(m.w.ctx, List{Bucket: m.bucket, Prefix: prefix, Delimiter: delimiter, After: after, Max: max})
		if err != nil {
			t.Fatal(err)
		}
		var entries []string
		for _, v := range page.Versions {
			entries = append(entries, v.Key)
		}
		for _, p := range page.Prefixes {
			entries = append(entries, p+"*")
		}
		if len(entries) > max || (page.Truncated && len(entries) != max) {
			t.Fatalf("page of %d entries, max %d, truncated %v", len(entries), max, page.Truncated)
		}
		sort.Slice(entries, func(i, j int) bool {
			return strings.TrimSuffix(entries[i], "*") < strings.TrimSuffix(entries[j], "*")
		})
		out = append(out, entries...)
		if !page.Truncated {
			return out
		}
		after = page.Next
	}
}

func (m *machineTest) listedVersions(t *rapid.T, prefix, delimiter string, max int) []string {
	var out []string
	l := ListVersions{Bucket: m.bucket, Prefix: prefix, Delimiter: delimiter, Max: max}
	for {
		page, err := m.w.ListVersions(m.w.ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		// Entries of a page come in two lists; by key they make one.
		prefixes := page.Prefixes
		for _, v := range page.Versions {
			for len(prefixes) > 0 && prefixes[0] < v.Key {
				out, prefixes = append(out, prefixes[0]+"*"), prefixes[1:]
			}
			out = append(out, fmt.Sprintf("%s@%v null=%v marker=%v latest=%v", v.Key, v.ID, v.Null, v.DeleteMarker, v.Latest))
		}
		for _, p := range prefixes {
			out = append(out, p+"*")
		}
		if !page.Truncated {
			return out
		}
		l.AfterKey, l.AfterVersion = page.NextKey, page.NextVersion
	}
}

// TestCatalogKeepsS3Semantics runs random operations against the model.
func TestCatalogKeepsS3Semantics(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		m := &machineTest{w: w, bucket: w.bucket("bucket", Unversioned), model: model{keys: map[string][]modelVersion{}}}
		// Unversioned buckets get a fair share of the runs.
		versions := rapid.Bool().Draw(rt, "versions")
		actions := map[string]func(*rapid.T){
			"put": m.put, "put again": m.put, "delete": m.remove, "delete version": m.removeVersion,
			"rename": m.rename, "upload": m.upload, "": m.check,
		}
		if versions {
			actions["versioning"] = m.versioning
		}
		rt.Repeat(actions)
		w.must(w.catalog.Close())
	})
}
