package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/fusefs/local"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/multiparttest"
)

func TestMain(m *testing.M) {
	// goleveldb's buffer pool wakes up once more after its DB was closed, and ends then.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

type mount struct {
	*local.Objects
	kit    *multiparttest.Kit
	bucket metadata.BucketID
	t      testing.TB
}

func newMount(t testing.TB, versioning metadata.Versioning, prefix string) mount {
	t.Helper()
	k := multiparttest.New(t, nil)
	m := mount{kit: k, bucket: k.Bucket("home", versioning), t: t}
	m.Objects = m.open(prefix)
	return m
}

// open opens the bucket in a session of its own.
func (m mount) open(prefix string) *local.Objects {
	m.t.Helper()
	session, err := m.kit.Store.OpenSession(m.t.Context(), 24*time.Hour)
	if err != nil {
		m.t.Fatal(err)
	}
	o, err := local.New(local.Config{Store: m.kit.Store, Bucket: m.bucket, Prefix: prefix, Session: session})
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

func (m mount) publish(f tree.File) tree.Info {
	m.t.Helper()
	if f.Inode == 0 {
		f.Inode = 1
	}
	info, err := m.Publish(m.t.Context(), f)
	if err != nil {
		m.t.Fatalf("publish %q: %v", f.Key, err)
	}
	return info
}

func (m mount) want(key string, body []byte) tree.Info {
	m.t.Helper()
	info, err := m.Stat(m.t.Context(), key)
	if err != nil {
		m.t.Fatalf("stat %q: %v", key, err)
	}
	m.wantVersion(key, info.Version, body)
	return info
}

func (m mount) wantVersion(key string, v tree.Version, body []byte) {
	m.t.Helper()
	r, err := m.Open(m.t.Context(), key, v)
	if err != nil {
		m.t.Fatalf("open %q: %v", key, err)
	}
	got := make([]byte, len(body)+1)
	n, err := r.ReadAt(got, 0)
	if err != io.EOF || !bytes.Equal(got[:n], body) {
		m.t.Fatalf("read %q: %d bytes, %v, want %d", key, n, err, len(body))
	}
	if err := r.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m mount) begin(key string, parts ...[]byte) tree.Upload {
	m.t.Helper()
	up, err := m.Begin(m.t.Context(), key)
	if err != nil {
		m.t.Fatal(err)
	}
	for i, p := range parts {
		if err := m.Part(m.t.Context(), key, up, i+1, bytes.NewReader(p), int64(len(p))); err != nil {
			m.t.Fatal(err)
		}
	}
	return up
}

func file(mode uint32) tree.Attr {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	return tree.Attr{
		Mode: syscall.S_IFREG | mode, UID: 1000, GID: 100, Mtime: at, Atime: at.Add(1), Ctime: at.Add(2), Inode: 99,
		Xattrs: map[string][]byte{"user.colour": []byte("blue"), "user.Über": {0, 1}, "user.bin": {0xff}, "user.x-csp-meta-z": []byte("m")},
	}
}

func TestFilesKeepContentAndAttributes(t *testing.T) {
	for _, prefix := range []string{"", "deep/er/"} {
		m := newMount(t, metadata.Unversioned, prefix)
		for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 3 << 20} {
			key := fmt.Sprint("dir/f", size)
			body := storetest.Body(1, size)
			want := file(0o640)
			got := m.publish(tree.File{Key: key, Data: body, Attr: want})
			if !reflect.DeepEqual(got.Attr, want) || got.Key != key || got.Size != int64(size) {
				t.Fatalf("published %+v", got)
			}
			if stat := m.want(key, body); !reflect.DeepEqual(stat, got) {
				t.Fatalf("stat %+v, published %+v", stat, got)
			}
			v, err := m.kit.Store.Current(t.Context(), m.bucket, prefix+key)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(v.Meta, map[string]string{"x-amz-meta-colour": "blue", "x-csp-meta-z": "m"}) {
				t.Fatalf("S3 sees %v", v.Meta)
			}
		}
	}
}

func TestSetAttrChangesTheVersionInPlace(t *testing.T) {
	m := newMount(t, metadata.VersioningEnabled, "")
	body := storetest.Body(1, 100_000)
	info := m.publish(tree.File{Key: "f", Data: body, Attr: file(0o600)})
	attr := file(0o755)
	attr.Xattrs = map[string][]byte{"user.other": []byte("x")}
	after, err := m.SetAttr(t.Context(), "f", info.Version, attr)
	if err != nil || after.Version != info.Version || !reflect.DeepEqual(after.Attr, attr) {
		t.Fatalf("%+v, %v", after, err)
	}
	if stat := m.want("f", body); !reflect.DeepEqual(stat, after) {
		t.Fatalf("stat %+v", stat)
	}
	next := m.publish(tree.File{Key: "f", Data: body, Attr: attr, Cond: tree.Cond{Base: info.Version}})
	if _, err := m.SetAttr(t.Context(), "f", info.Version, attr); !errors.Is(err, tree.ErrConflict) {
		t.Fatal(err)
	}
	if next.Version == info.Version {
		t.Fatal("a publish made no new version")
	}
}

func TestObjectsOfS3AreFiles(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "p/")
	body := storetest.Body(1, 1000)
	v, err := m.kit.Store.Put(t.Context(), multipart.Put{
		Bucket: m.bucket, Key: "p/f", Body: multipart.Body{Reader: bytes.NewReader(body), Size: 1000},
		Meta: multipart.Meta{Headers: map[string]string{"content-type": "text/x"}, User: map[string]string{"x-amz-meta-a": "1"}, Tags: map[string]string{"t": "u"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	info := m.want("f", body)
	if info.Attr.Mode != 0 || !info.Attr.Mtime.Equal(v.Modified) || string(info.Attr.Xattrs["user.a"]) != "1" || info.ETag != v.ETag {
		t.Fatalf("%+v", info)
	}
	// What a mount cannot say of an object goes on when it writes it.
	m.publish(tree.File{Key: "f", Data: body[:10], Attr: file(0o644), Cond: tree.Cond{Base: info.Version}})
	after, err := m.kit.Store.Current(t.Context(), m.bucket, "p/f")
	if err != nil || after.Headers["content-type"] != "text/x" || after.Tags["t"] != "u" || after.Meta["x-amz-meta-a"] != "" {
		t.Fatalf("%+v, %v", after, err)
	}
}

func TestConditionsOfPublish(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "")
	first := m.publish(tree.File{Key: "f", Data: []byte("1"), Cond: tree.Cond{Absent: true}})
	if _, err := m.Publish(t.Context(), tree.File{Key: "f", Data: []byte("2"), Inode: 1, Cond: tree.Cond{Absent: true}}); !errors.Is(err, tree.ErrExists) {
		t.Fatal(err)
	}
	m.publish(tree.File{Key: "f", Data: []byte("3"), Cond: tree.Cond{Base: first.Version}})
	if _, err := m.Publish(t.Context(), tree.File{Key: "f", Data: []byte("4"), Inode: 1, Cond: tree.Cond{Base: first.Version}}); !errors.Is(err, tree.ErrConflict) {
		t.Fatal(err)
	}
	m.want("f", []byte("3"))
	if _, err := m.Publish(t.Context(), tree.File{Key: "f", Inode: 1, Cond: tree.Cond{Base: "no version"}}); !errors.Is(err, tree.ErrConflict) {
		t.Fatal(err)
	}
}

func TestUploadFollowsARenamedFile(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "")
	a, b := storetest.Body(1, 300_000), storetest.Body(2, 200_000)
	up := m.begin("old", a, b)
	pieces := []tree.Piece{{Part: 1, Len: 300_000}}
	first := m.publish(tree.File{Key: "old", Upload: up, Pieces: pieces, Cond: tree.Cond{Absent: true}})
	moved, err := m.Rename(t.Context(), "old", "new", false)
	if err != nil {
		t.Fatal(err)
	}
	if moved.Version == first.Version {
		t.Fatal("a rename gives a new version")
	}
	pieces = append(pieces, tree.Piece{Part: 2, Len: 200_000})
	m.publish(tree.File{Key: "new", Upload: up, Pieces: pieces, Cond: tree.Cond{Base: moved.Version}})
	got := make([]byte, 10)
	if n, err := m.ReadPart(t.Context(), "old", up, 2, got, 199_995); n != 5 || err != io.EOF || !bytes.Equal(got[:5], b[199_995:]) {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := m.ReadPart(t.Context(), "old", up, 3, got, 0); !errors.Is(err, tree.ErrNotExist) {
		t.Fatal(err)
	}
	if err := m.Abort(t.Context(), "old", up); err != nil {
		t.Fatal(err)
	}
	m.kit.Settle()
	m.kit.WantClean()
	m.want("new", append(bytes.Clone(a), b...))
	if _, err := m.Stat(t.Context(), "old"); !errors.Is(err, tree.ErrNotExist) {
		t.Fatal(err)
	}
	if err := m.Part(t.Context(), "new", up, 1, bytes.NewReader(a), int64(len(a))); !errors.Is(err, tree.ErrInvalid) {
		t.Fatal(err)
	}
}

func TestStagedFilesAreThereWhenTheirMountIsNot(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "p/")
	small, large := storetest.Body(1, 5000), storetest.Body(2, 500_000)
	dying := m.open("p/")
	if err := dying.Stage(t.Context(), tree.File{Key: "small", Data: small, Attr: file(0o600), Inode: 4, Cond: tree.Cond{Absent: true}}); err != nil {
		t.Fatal(err)
	}
	up, err := dying.Begin(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	if err := dying.Part(t.Context(), "large", up, 1, bytes.NewReader(large), int64(len(large))); err != nil {
		t.Fatal(err)
	}
	stage := tree.File{Key: "large", Upload: up, Pieces: []tree.Piece{{Part: 1, Len: int64(len(large))}}, Inode: 5, Attr: file(0o600)}
	if err := dying.Stage(t.Context(), stage); err != nil {
		t.Fatal(err)
	}
	if err := dying.Stage(t.Context(), tree.File{Key: "gone", Data: large, Inode: 6}); err != nil {
		t.Fatal(err)
	}
	if err := dying.Discard(t.Context(), "gone", 6); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stat(t.Context(), "small"); !errors.Is(err, tree.ErrNotExist) {
		t.Fatalf("a staged file is visible: %v", err)
	}
	// The upload is given back, but the stage needs it.
	if err := dying.Abort(t.Context(), "large", up); err != nil {
		t.Fatal(err)
	}
	m.kit.Settle()
	if err := dying.EndSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.kit.Settle()
	m.want("small", small)
	if info := m.want("large", large); info.Attr.Mode != syscall.S_IFREG|0o600 {
		t.Fatalf("%+v", info)
	}
	if _, err := m.Stat(t.Context(), "gone"); !errors.Is(err, tree.ErrNotExist) {
		t.Fatal(err)
	}
	m.kit.WantClean()
	if err := dying.Stage(t.Context(), stage); !errors.Is(err, tree.ErrIO) && !errors.Is(err, tree.ErrNotExist) {
		t.Fatalf("stage of a session that is over: %v", err)
	}
}

// An inode has one stage. One under the file's new name takes the place of the one under its old name.
func TestAStageGoesWithARenamedFile(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "")
	dying := m.open("")
	for _, key := range []string{"before", "after"} {
		if err := dying.Stage(t.Context(), tree.File{Key: key, Data: []byte(key), Inode: 5, Cond: tree.Cond{Absent: true}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := dying.EndSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.want("after", []byte("after"))
	if _, err := m.Stat(t.Context(), "before"); !errors.Is(err, tree.ErrNotExist) {
		t.Fatalf("the stage under the old name was published: %v", err)
	}
}

// What a small file synced replaces only the version that it was based on.
func TestAStageOfASmallFileDoesNotReplaceANewerVersion(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "")
	base := m.publish(tree.File{Key: "f", Data: []byte("old")})
	dying := m.open("")
	f := tree.File{Key: "f", Data: []byte("synced"), Inode: 5, Cond: tree.Cond{Base: base.Version}}
	if err := dying.Stage(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	m.publish(tree.File{Key: "f", Data: []byte("newer")})
	if err := dying.EndSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.want("f", []byte("newer"))
}

func TestOpenFilesOutliveTheirNames(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "")
	body := storetest.Body(1, 3<<20)
	info := m.publish(tree.File{Key: "f", Data: body})
	r, err := m.Open(t.Context(), "f", info.Version)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), "f", false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- m.kit.Store.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	m.kit.Clock.Advance(6 * time.Minute)
	got := make([]byte, len(body))
	if _, err := r.ReadAt(got[:100], 0); err != nil { // takes the hold
		t.Fatal(err)
	}
	m.kit.Clock.Advance(time.Hour)
	if _, err := m.kit.Store.Free(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadAt(got, 0); n != len(body) || err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(got, 0); !errors.Is(err, tree.ErrBadHandle) {
		t.Fatal(err)
	}
	m.kit.Settle()
	if n := m.kit.Shards(); n != 0 {
		t.Fatalf("%d shards are left", n)
	}
}

func TestRemoveAndDirectories(t *testing.T) {
	for _, versioning := range []metadata.Versioning{metadata.Unversioned, metadata.VersioningEnabled} {
		m := newMount(t, versioning, "top/")
		for _, key := range []string{"d/", "d/a", "d/b/c", "e/f", "g/"} {
			m.publish(tree.File{Key: key, Data: []byte(key)})
		}
		for _, c := range []struct {
			key   string
			empty bool
			want  error
		}{
			{"none", false, tree.ErrNotExist}, {"none/", true, tree.ErrNotExist}, {"d/", true, tree.ErrDirNotEmpty},
			{"e/", true, tree.ErrDirNotEmpty}, {"g/", true, nil}, {"g/", true, tree.ErrNotExist}, {"d/a", false, nil},
			{"d/a", false, tree.ErrNotExist},
		} {
			if err := m.Remove(t.Context(), c.key, c.empty); !errors.Is(err, c.want) {
				t.Fatalf("remove %q: %v, want %v", c.key, err, c.want)
			}
		}
		page, err := m.kit.Store.ListVersions(t.Context(), metadata.ListVersions{Bucket: m.bucket, Prefix: "top/none", Max: 10})
		if err != nil || len(page.Versions) != 0 {
			t.Fatalf("removing nothing left %+v, %v", page.Versions, err)
		}
		if err := m.RenamePrefix(t.Context(), "d/", "e/"); !errors.Is(err, tree.ErrDirNotEmpty) {
			t.Fatal(err)
		}
		if err := m.RenamePrefix(t.Context(), "d/", "d/x/"); !errors.Is(err, tree.ErrInvalid) {
			t.Fatal(err)
		}
		if err := m.RenamePrefix(t.Context(), "d/", "h/"); err != nil {
			t.Fatal(err)
		}
		m.want("h/b/c", []byte("d/b/c"))
		if err := m.RenamePrefix(t.Context(), "d/", "i/"); !errors.Is(err, tree.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := m.Rename(t.Context(), "h/b/c", "e/f", true); !errors.Is(err, tree.ErrExists) {
			t.Fatal(err)
		}
		if _, err := m.Rename(t.Context(), "nothing", "e/f", false); !errors.Is(err, tree.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func TestListGoesPageByPage(t *testing.T) {
	m := newMount(t, metadata.Unversioned, "top/")
	for _, key := range []string{"d/", "d/a", "d/b/c", "d/b/d", "d/c", "d/e/", "d/z"} {
		m.publish(tree.File{Key: key, Data: []byte("x")})
	}
	var got []string
	after := ""
	for {
		page, err := m.List(t.Context(), "d/", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			got = append(got, e.Key)
		}
		got = append(got, page.Prefixes...)
		if len(page.Entries)+len(page.Prefixes) > 2 {
			t.Fatalf("page %+v", page)
		}
		if !page.Truncated {
			break
		}
		after = page.Next
	}
	if want := []string{"d/", "d/a", "d/b/", "d/c", "d/e/", "d/z"}; !equalSets(got, want) {
		t.Fatalf("listed %v, want %v", got, want)
	}
	found, err := m.Look(t.Context(), "d")
	if err != nil || found.File != nil || !found.Dir || found.Marker == nil {
		t.Fatalf("%+v, %v", found, err)
	}
	found, err = m.Look(t.Context(), "d/b")
	if err != nil || found.File != nil || !found.Dir || found.Marker != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	found, err = m.Look(t.Context(), "d/z")
	if err != nil || found.File == nil || found.Dir {
		t.Fatalf("%+v, %v", found, err)
	}
	space, err := m.Space(t.Context())
	if err != nil || space.Objects != 7 {
		t.Fatalf("%+v, %v", space, err)
	}
}

func equalSets(a, b []string) bool {
	set := map[string]int{}
	for _, s := range a {
		set[s]++
	}
	for _, s := range b {
		set[s]--
	}
	for _, n := range set {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestRepeatedRequestsAreAppliedOnce(t *testing.T) {
	m := newMount(t, metadata.VersioningEnabled, "")
	ctx := tree.WithOp(t.Context(), tree.Op{Seq: 1})
	f := tree.File{Key: "f", Data: storetest.Body(1, 100_000), Inode: 3, Cond: tree.Cond{Absent: true}}
	first, err := m.Publish(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Publish(ctx, f)
	if err != nil || again.Version != first.Version {
		t.Fatalf("%+v, %v", again, err)
	}
	m.kit.WantClean()
	ctx = tree.WithOp(t.Context(), tree.Op{Seq: 2})
	up, err := m.Begin(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if same, err := m.Begin(ctx, "g"); err != nil || same != up {
		t.Fatalf("%q and %q, %v", up, same, err)
	}
	seq := uint64(2)
	twice := func(what string, do func(context.Context) error) (late func()) {
		t.Helper()
		seq++
		ctx := tree.WithOp(t.Context(), tree.Op{Seq: seq})
		for range 2 {
			if err := do(ctx); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		return func() {
			t.Helper()
			if err := do(ctx); err != nil {
				t.Fatalf("%s, late: %v", what, err)
			}
		}
	}
	lateAbort := twice("abort", func(ctx context.Context) error { return m.Abort(ctx, "g", up) })
	m.publish(tree.File{Key: "d/a", Data: []byte("a")})
	lateMove := twice("rename directory", func(ctx context.Context) error { return m.RenamePrefix(ctx, "d/", "e/") })
	twice("rename it back", func(ctx context.Context) error { return m.RenamePrefix(ctx, "e/", "d/") })
	stage := func(data string) func(context.Context) error {
		return func(ctx context.Context) error {
			return m.Stage(ctx, tree.File{Key: "s", Data: []byte(data), Inode: 9, Cond: tree.Cond{Absent: true}})
		}
	}
	lateStage := twice("stage", stage("first"))
	lateDiscard := twice("discard", func(ctx context.Context) error { return m.Discard(ctx, "s", 9) })
	twice("stage again", stage("second"))
	for _, late := range []func(){lateAbort, lateMove, lateStage, lateDiscard} {
		late()
	}
	m.want("d/a", []byte("a"))
	if err := m.EndSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.want("s", []byte("second"))
}

// The second try comes to a gateway that remembers nothing of the first, which was applied: the version that it is based
// on is gone, because the first try replaced it.
func TestAPublishIsKnownAgainAfterItsBaseIsGone(t *testing.T) {
	for _, versioning := range []metadata.Versioning{metadata.Unversioned, metadata.VersioningEnabled} {
		m := newMount(t, versioning, "p/")
		base := m.publish(tree.File{Key: "f", Data: storetest.Body(1, 300_000)})
		attempts := 0
		seq := uint64(1)
		twice := func(f tree.File) tree.Info {
			t.Helper()
			attempts++
			seq++
			f.Inode, f.Cond = 1, tree.Cond{Base: base.Version}
			ctx := tree.WithOp(t.Context(), tree.Op{Seq: seq})
			first, err := m.Publish(ctx, f)
			if err != nil {
				t.Fatal(err)
			}
			again, err := m.Publish(ctx, f)
			if err != nil || !reflect.DeepEqual(again, first) {
				t.Fatalf("versioning %v: first %+v, then %+v, %v", versioning, first, again, err)
			}
			base = first
			return first
		}
		small := storetest.Body(2, 100_000)
		twice(tree.File{Key: "f", Data: small})
		up := m.begin("f", storetest.Body(3, 200_000))
		twice(tree.File{Key: "f", Upload: up, Pieces: []tree.Piece{{Base: true, Len: 100_000}, {Part: 1, Len: 200_000}}})
		m.want("f", append(bytes.Clone(small), storetest.Body(3, 200_000)...))
		twice(tree.File{Key: "f", Upload: up, Pieces: []tree.Piece{{Part: 1, Len: 200_000}}})
		if err := m.Abort(t.Context(), "f", up); err != nil {
			t.Fatal(err)
		}
		m.kit.Settle()
		m.want("f", storetest.Body(3, 200_000))
		m.kit.WantClean()
		page, err := m.kit.Store.ListVersions(t.Context(), metadata.ListVersions{Bucket: m.bucket, Max: 100})
		want := 1
		if versioning == metadata.VersioningEnabled {
			want += attempts
		}
		if err != nil || len(page.Versions) != want {
			t.Fatalf("versioning %v: %d versions, want %d; %v", versioning, len(page.Versions), want, err)
		}
		// A base that another writer replaced is a conflict, however often it is tried.
		other := m.publish(tree.File{Key: "f", Data: small})
		for range 2 {
			ctx := tree.WithOp(t.Context(), tree.Op{Seq: 100})
			_, err := m.Publish(ctx, tree.File{Key: "f", Data: small[:10], Inode: 1, Cond: tree.Cond{Base: base.Version}})
			if !errors.Is(err, tree.ErrConflict) {
				t.Fatal(err)
			}
		}
		if now := m.want("f", small); now.Version != other.Version {
			t.Fatal("a conflict changed the file")
		}
	}
}

func TestContract(t *testing.T) {
	for _, versioning := range []metadata.Versioning{metadata.Unversioned, metadata.VersioningEnabled} {
		t.Run(fmt.Sprint("versioning ", versioning), func(t *testing.T) {
			treetest.Run(t, func(t *testing.T) tree.Objects { return newMount(t, versioning, "").Objects })
		})
	}
}
