package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/fusefs/local"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart/multiparttest"
)

// versions are all versions of the bucket, without what differs between two stores that got the same changes.
func versions(t *testing.T, kit *multiparttest.Kit, bucket metadata.BucketID) []string {
	t.Helper()
	var out []string
	l := metadata.ListVersions{Bucket: bucket, Max: 1000}
	for {
		page, err := kit.Store.ListVersions(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Versions {
			mode := uint32(0)
			if v.Attr != nil {
				mode = v.Attr.Mode
			}
			out = append(out, fmt.Sprintf("%s marker %v latest %v: %d bytes, %s, mode %o", v.Key, v.DeleteMarker, v.Latest, v.Size, v.ETag, mode))
		}
		if !page.Truncated {
			return out
		}
		l.AfterKey, l.AfterVersion, l.AfterNull = page.NextKey, page.NextVersion, false
	}
}

// program changes files below a directory of its own in two buckets in the same way: through the client, whose gateways
// fail, and in a store of its own that gets every change once.
type program struct {
	t        *testing.T
	random   *rand.Rand
	c, model tree.Objects
	dir      string
	files    map[string]*content
	side     int // which of the two names the subdirectory has
	inode    uint64
	done     *atomic.Int64
	running  *atomic.Int64
	failed   *atomic.Bool
}

// content is a file as a program knows it.
type content struct {
	data            []byte
	version, inward tree.Version // through the client, in the model
}

func (p *program) must(what string, err error) {
	if err != nil {
		p.failed.Store(true)
		panic(fmt.Sprintf("%s in %s: %v", what, p.dir, err))
	}
}

// run changes files until stop.
func (p *program) run(stop <-chan struct{}) {
	defer func() {
		if r := recover(); r != nil {
			p.failed.Store(true)
			p.t.Errorf("%v", r)
		}
	}()
	for {
		select {
		case <-stop:
			return
		default:
		}
		p.running.Add(1)
		p.step()
		p.running.Add(-1)
		p.done.Add(1)
	}
}

func (p *program) name() string {
	return p.dir + []string{"a", "b", "c", p.sub() + "d", p.sub() + "e"}[p.random.IntN(5)]
}

func (p *program) sub() string { return []string{"left/", "right/"}[p.side] }

func (p *program) step() {
	key := p.name()
	file := p.files[key]
	switch n := p.random.IntN(20); {
	case n < 5:
		p.publish(key, storetest.Body(p.random.Uint64(), 1+p.random.IntN(3000)))
	case n < 7:
		p.publish(key, storetest.Body(p.random.Uint64(), 20_000+p.random.IntN(50_000)))
	case n < 10:
		p.upload(key)
	case n < 12:
		p.stage(key)
	case file == nil:
		p.absent(key)
	case n < 14:
		p.read(key)
	case n < 16:
		p.rename(key, p.name())
	case n < 17:
		p.must("remove", p.c.Remove(context.Background(), key, false))
		p.must("remove in the model", p.model.Remove(context.Background(), key, false))
		delete(p.files, key)
	case n < 18:
		p.setAttr(key)
	default:
		p.renameDir()
	}
}

func (p *program) cond(key string) (cond, model tree.Cond) {
	f := p.files[key]
	if f == nil {
		return tree.Cond{Absent: true}, tree.Cond{Absent: true}
	}
	return tree.Cond{Base: f.version}, tree.Cond{Base: f.inward}
}

func (p *program) attr() tree.Attr {
	return tree.Attr{Mode: 0o100000 | uint32(p.random.IntN(0o777)), Mtime: time.Unix(1e9, 0)}
}

func (p *program) publish(key string, data []byte) {
	f := tree.File{Key: key, Data: data, Attr: p.attr(), Inode: p.inode}
	p.both(f, f, data)
}

// both publishes a file through the client and in the model.
func (p *program) both(f, model tree.File, data []byte) {
	f.Cond, model.Cond = p.cond(f.Key)
	info, err := p.c.Publish(context.Background(), f)
	p.must("publish "+f.Key, err)
	inward, err := p.model.Publish(context.Background(), model)
	p.must("publish in the model", err)
	p.files[f.Key] = &content{data, info.Version, inward.Version}
}

// upload publishes a file in parts, twice, the second time on the base of the first.
func (p *program) upload(key string) {
	first, second := storetest.Body(p.random.Uint64(), 150_000), storetest.Body(p.random.Uint64(), 30_000)
	begin := func(o tree.Objects) tree.Upload {
		up, err := o.Begin(context.Background(), key)
		p.must("begin", err)
		for i, part := range [][]byte{first, second} {
			p.must("part", o.Part(context.Background(), key, up, i+1, bytes.NewReader(part), int64(len(part))))
		}
		return up
	}
	up, inward := begin(p.c), begin(p.model)
	attr := p.attr()
	pieces := []tree.Piece{{Part: 1, Len: int64(len(first))}}
	p.both(tree.File{Key: key, Upload: up, Pieces: pieces, Attr: attr}, tree.File{Key: key, Upload: inward, Pieces: pieces, Attr: attr}, first)
	pieces = []tree.Piece{{Base: true, Len: 100_000}, {Part: 2, Len: int64(len(second))}}
	whole := append(slices.Clone(first[:100_000]), second...)
	p.both(tree.File{Key: key, Upload: up, Pieces: pieces, Attr: attr}, tree.File{Key: key, Upload: inward, Pieces: pieces, Attr: attr}, whole)
	got := make([]byte, len(second))
	n, err := p.c.ReadPart(context.Background(), key, up, 2, got, 0)
	if n != len(second) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, second) {
		p.must("read part", fmt.Errorf("%d bytes, %w", n, errors.Join(err, errors.New("they differ"))))
	}
	p.must("abort", p.c.Abort(context.Background(), key, up))
	p.must("abort in the model", p.model.Abort(context.Background(), key, inward))
}

// stage syncs a file, which is discarded or published then.
func (p *program) stage(key string) {
	data := storetest.Body(p.random.Uint64(), 5000)
	f := tree.File{Key: key, Data: data, Attr: p.attr(), Inode: p.inode}
	f.Cond, _ = p.cond(key)
	p.must("stage", p.c.Stage(context.Background(), f))
	if p.random.IntN(2) == 0 {
		p.must("discard", p.c.Discard(context.Background(), key, p.inode))
		return
	}
	p.both(f, f, data)
}

func (p *program) absent(key string) {
	found, err := p.c.(tree.Looker).Look(context.Background(), key)
	p.must("look", err)
	if found.File != nil {
		p.must("look", fmt.Errorf("%s is there", key))
	}
}

func (p *program) read(key string) {
	f := p.files[key]
	r, err := p.c.Open(context.Background(), key, f.version)
	p.must("open", err)
	got := make([]byte, len(f.data)+1)
	n, err := r.ReadAt(got, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], f.data) {
		p.must("read "+key, fmt.Errorf("%d of %d bytes, or other ones: %w", n, len(f.data), err))
	}
	p.must("close", r.Close())
}

func (p *program) rename(from, to string) {
	if from == to {
		return
	}
	info, err := p.c.Rename(context.Background(), from, to, false)
	p.must("rename", err)
	inward, err := p.model.Rename(context.Background(), from, to, false)
	p.must("rename in the model", err)
	p.files[to] = &content{p.files[from].data, info.Version, inward.Version}
	delete(p.files, from)
}

func (p *program) setAttr(key string) {
	attr, f := p.attr(), p.files[key]
	info, err := p.c.SetAttr(context.Background(), key, f.version, attr)
	p.must("set attributes", err)
	if info.Attr.Mode != attr.Mode {
		p.must("set attributes", fmt.Errorf("mode %o", info.Attr.Mode))
	}
	_, err = p.model.SetAttr(context.Background(), key, f.inward, attr)
	p.must("set attributes in the model", err)
}

// renameDir gives the subdirectory its other name.
func (p *program) renameDir() {
	from := p.dir + p.sub()
	moved := map[string]*content{}
	for key, f := range p.files {
		if strings.HasPrefix(key, from) {
			moved[key] = f
		}
	}
	if len(moved) == 0 {
		return
	}
	p.side = 1 - p.side
	to := p.dir + p.sub()
	p.must("rename directory", p.c.RenamePrefix(context.Background(), from, to))
	p.must("rename directory in the model", p.model.RenamePrefix(context.Background(), from, to))
	for key := range moved {
		name := to + strings.TrimPrefix(key, from)
		info, err := p.c.Stat(context.Background(), name)
		p.must("stat", err)
		inward, err := p.model.Stat(context.Background(), name)
		p.must("stat in the model", err)
		p.files[name] = &content{moved[key].data, info.Version, inward.Version}
		delete(p.files, key)
	}
}

// load is programs at work.
type load struct {
	t             *testing.T
	model         *multiparttest.Kit
	bucket        metadata.BucketID
	programs      []*program
	done, running atomic.Int64
	failed        atomic.Bool
	stop          chan struct{}
	stopped       sync.Once
	ended         sync.WaitGroup
}

func startLoad(t *testing.T, c tree.Objects, programs int) *load {
	t.Helper()
	l := &load{t: t, model: multiparttest.New(t, nil), stop: make(chan struct{})}
	l.bucket = l.model.Bucket("bucket", metadata.VersioningEnabled)
	session, err := l.model.Store.OpenSession(t.Context(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	model, err := local.New(local.Config{Store: l.model.Store, Bucket: l.bucket, Session: session})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.end)
	for i := range programs {
		p := &program{
			t: t, random: rand.New(rand.NewPCG(uint64(i), 7)), c: c, model: model, dir: fmt.Sprintf("p%d/", i),
			files: map[string]*content{}, inode: uint64(i + 1), done: &l.done, running: &l.running, failed: &l.failed,
		}
		l.programs = append(l.programs, p)
		l.ended.Go(func() { p.run(l.stop) })
	}
	return l
}

// more waits until n more steps were done.
func (l *load) more(n int64) {
	l.t.Helper()
	want := l.done.Load() + n
	for deadline := time.Now().Add(60 * time.Second); l.done.Load() < want; <-time.After(time.Millisecond) {
		if l.failed.Load() {
			l.t.FailNow()
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%d of %d steps after a minute", l.done.Load(), want)
		}
	}
}

// end stops the programs.
func (l *load) end() {
	l.t.Helper()
	l.stopped.Do(func() { close(l.stop) })
	l.ended.Wait()
}

// wantSame compares every version of the bucket with the model's.
func (l *load) wantSame(g *several) {
	l.t.Helper()
	got, want := versions(l.t, g.kit, g.bucket), versions(l.t, l.model, l.bucket)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			l.t.Fatalf("%d versions, want %d; the first that differs:\n%s\n%s", len(got), len(want),
				append(got, make([]string, i+1)...)[i], append(want, make([]string, i+1)...)[i])
		}
	}
	if len(want) < 50 {
		l.t.Fatalf("%d versions: nothing was tested", len(want))
	}
}
