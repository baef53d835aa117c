package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// flaky is a bucket whose answers get lost: each hook, when it is set, runs instead of the operation.
type flaky struct {
	*treetest.Model
	part    func(key string, up tree.Upload, n int, data []byte) error
	publish func(tree.File) (tree.Info, error)
	stage   func(tree.File) error
	rename  func(from, to string) (tree.Info, error)
	starts  atomic.Int64
}

// restart makes the store forget which versions are open.
func (o *flaky) restart() { o.starts.Add(1) }

type held struct {
	tree.Reader
	o     *flaky
	start int64
}

func (r held) ReadAt(p []byte, off int64) (int, error) {
	if r.o.starts.Load() != r.start {
		return 0, tree.ErrNotExist
	}
	return r.Reader.ReadAt(p, off)
}

func (o *flaky) Open(ctx context.Context, key string, v tree.Version) (tree.Reader, error) {
	r, err := o.Model.Open(ctx, key, v)
	if err != nil {
		return nil, err
	}
	return held{r, o, o.starts.Load()}, nil
}

func (o *flaky) Part(ctx context.Context, key string, up tree.Upload, n int, body io.ReadSeeker, size int64) error {
	if o.part == nil {
		return o.Model.Part(ctx, key, up, n, body, size)
	}
	data, err := io.ReadAll(body)
	return errors.Join(err, o.part(key, up, n, data))
}

func (o *flaky) store(ctx context.Context, key string, up tree.Upload, n int, data []byte) error {
	return o.Model.Part(ctx, key, up, n, bytes.NewReader(data), int64(len(data)))
}

func (o *flaky) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	if o.publish == nil {
		return o.Model.Publish(ctx, f)
	}
	return o.publish(f)
}

func (o *flaky) Stage(ctx context.Context, f tree.File) error {
	if o.stage == nil {
		return o.Model.Stage(ctx, f)
	}
	return o.stage(f)
}

func (o *flaky) Rename(ctx context.Context, from, to string, noReplace bool) (tree.Info, error) {
	if o.rename == nil {
		return o.Model.Rename(ctx, from, to, noReplace)
	}
	return o.rename(from, to)
}

func setupFlaky(t testing.TB) (*mount, *flaky) {
	t.Helper()
	o := &flaky{Model: treetest.NewModel()}
	return newMount(t, o.Model, tree.Config{Objects: o}), o
}

// within fails the test if fn hangs.
func within(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

func changed(base string, at int, with string) string { return base[:at] + with + base[at+len(with):] }

// The object of an open file was replaced elsewhere. What is done to the open file concerns its own content only.
func TestAReplacedOpenFileKeepsToItsContent(t *testing.T) {
	base, theirs := strings.Repeat("mine", 50_000), strings.Repeat("other", 60_000)
	mode := uint32(0o600)
	for name, do := range map[string]func(f *mount, node uint64) (key string){
		"chmod": func(f *mount, node uint64) string {
			_, err := f.SetAttr(t.Context(), node, tree.Change{Mode: &mode})
			f.must(err)
			return "f"
		},
		"chmod after a removal": func(f *mount, node uint64) string {
			f.must(f.m.Remove(t.Context(), "f", false))
			_, err := f.SetAttr(t.Context(), node, tree.Change{Mode: &mode})
			f.must(err)
			return "f"
		},
		"nothing": func(*mount, uint64) string { return "f" },
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			f.m.Put("f", []byte(base))
			e, h := f.open("f", syscall.O_RDWR)
			f.read(h)
			f.m.Put("f", []byte(theirs))
			key := do(f, e.Node)
			if got := f.read(h); got != base {
				t.Fatalf("the open file reads %d bytes of another version", len(got))
			}
			f.write(h, "here", 1000)
			f.close(h)
			f.wantData(key, changed(base, 1000, "here"))
			f.wantNoLeftovers()
		})
	}
	t.Run("rename", func(t *testing.T) {
		f := setup(t)
		f.m.Put("f", []byte(base))
		_, h := f.open("f", syscall.O_RDWR)
		f.write(h, "here", 1000)
		f.m.Put("f", []byte(theirs))
		f.must(f.Rename(t.Context(), 1, "f", 1, "g", 0))
		f.close(h)
		f.wantData("g", changed(base, 1000, "here"))
		f.wantNoLeftovers()
	})
}

// The last close wins also when nothing of the version before was read until another client replaced it.
func TestTheVersionAChangeBeganWithStaysReadable(t *testing.T) {
	f := setup(t)
	base := strings.Repeat("base", 100_000)
	f.m.Put("f", []byte(base))
	_, h := f.open("f", syscall.O_WRONLY)
	f.write(h, "mine", 10)
	f.m.Put("f", []byte("theirs"))
	f.close(h)
	f.wantData("f", changed(base, 10, "mine"))
	f.wantNoLeftovers()
}

// After a close that published, programs that have the file open read what was published or an error, never a mixture
// with what another client put there.
func TestAPublishedOpenFileDoesNotTurnIntoAnother(t *testing.T) {
	f := setup(t)
	f.m.Put("f", bytes.Repeat([]byte("a"), 100_000))
	_, h := f.open("f", syscall.O_RDWR)
	f.write(h, "b", 0)
	f.flush(h)
	f.m.Put("f", bytes.Repeat([]byte("c"), 100_000))
	buf := make([]byte, 10)
	if n, err := f.Read(t.Context(), h, buf, 50_000); err == nil && string(buf[:n]) != "aaaaaaaaaa" {
		t.Fatalf("read %q", buf[:n])
	} else if err != nil {
		f.want(err, tree.ErrStale)
	}
	f.close(h)
	f.wantNoLeftovers()
}

// What the last close could not store is given up: the kernel must not go on showing it.
func TestPagesOfContentThatWasGivenUpAreNotKept(t *testing.T) {
	f := setup(t)
	f.m.Put("f", []byte("before"))
	_, h := f.open("f", syscall.O_RDWR)
	f.read(h)
	f.close(h)
	_, h = f.open("f", syscall.O_RDWR)
	f.write(h, "AFTER", 0)
	f.m.Fail(func(op, _ string) error {
		if op == "Publish" {
			return tree.ErrNoSpace
		}
		return nil
	})
	f.want(f.Flush(t.Context(), h), tree.ErrNoSpace)
	f.want(f.Release(t.Context(), h), tree.ErrNoSpace)
	f.m.Fail(nil)
	e := f.lookup(1, "f")
	o, err := f.Open(t.Context(), e.Node, syscall.O_RDONLY, false)
	f.must(err)
	if o.Keep {
		t.Error("the kernel keeps pages that were never stored")
	}
	if got := f.read(o.Handle); got != "before" {
		t.Errorf("read %q", got)
	}
	f.close(o.Handle)
}

// A commit waits for the attempt to store a part that a writer began while the commit waited for the attempt before.
func TestACommitNamesOnlyPartsThatAreStored(t *testing.T) {
	injected := errors.New("the way to the store is bad")
	f, o := setupFlaky(t)
	f.m.Put("f", make([]byte, 1<<20))
	_, h := f.open("f", syscall.O_RDWR)
	_, h2 := f.open("f", syscall.O_RDWR)
	type attempt struct{ entered, fail chan struct{} }
	var next atomic.Pointer[attempt] // the one that fails
	o.part = func(key string, up tree.Upload, n int, data []byte) error {
		if a := next.Swap(nil); a != nil {
			close(a.entered)
			<-a.fail
			return injected
		}
		<-time.After(time.Millisecond) // there is time for the commit to go wrong
		return o.store(context.Background(), key, up, n, data)
	}
	for i := range 50 {
		first := &attempt{make(chan struct{}), make(chan struct{})}
		next.Store(first)
		f.write(h, "x", int64(i*100))
		flushed := make(chan error, 1)
		go func() { flushed <- f.Flush(context.Background(), h) }()
		<-first.entered
		close(first.fail)
		var err error
		for k, over := 0, false; !over; k++ {
			select {
			case err = <-flushed:
				over = true
			default:
				if k < 100 { // writers that wait for memory send again what failed
					f.write(h2, "y", int64(500_000+k*100))
					_ = f.Squeeze()
				}
			}
		}
		if err != nil && !errors.Is(err, injected) {
			t.Fatalf("flush %d: %v", i, err)
		}
	}
	f.close(h2)
	f.close(h)
}

// A part whose request got no answer may arrive late. By then its number must not stand for other bytes.
func TestALatePartHurtsNobody(t *testing.T) {
	f, o := setupFlaky(t)
	base := strings.Repeat("-", 1<<20)
	f.m.Put("f", []byte(base))
	_, h := f.open("f", syscall.O_RDWR)
	var late func()
	o.part = func(key string, up tree.Upload, n int, data []byte) error {
		late = func() { f.must(o.store(t.Context(), key, up, n, data)) }
		return tree.ErrIO
	}
	f.write(h, "aaaa", 0)
	f.want(f.Fsync(t.Context(), h), tree.ErrIO)
	o.part = nil
	want := base
	for i := range 2 {
		text := strings.Repeat(string(rune('b'+i)), 4)
		f.write(h, text, int64(i%2*100))
		want = changed(want, i%2*100, text)
		f.must(f.Fsync(t.Context(), h))
	}
	late()
	f.close(h)
	f.wantData("f", want)
	f.wantNoLeftovers()
}

// A sync without an answer may be stored all the same: the numbers of its parts are not used for other bytes before a
// later sync replaced it.
func TestPartsOfASyncWithoutAnAnswerAreKept(t *testing.T) {
	f, o := setupFlaky(t)
	f.m.Put("f", make([]byte, 1<<20))
	_, h := f.open("f", syscall.O_RDWR)
	var named []tree.Piece
	o.stage = func(s tree.File) error {
		if named == nil {
			named = s.Pieces
		}
		return tree.ErrIO
	}
	o.part = func(key string, up tree.Upload, n int, data []byte) error {
		for _, p := range named {
			if p.Part == n {
				t.Errorf("part %d, which a stage may name, gets other bytes", n)
			}
		}
		return o.store(t.Context(), key, up, n, data)
	}
	for range 5 {
		f.write(h, "aaaa", 0)
		f.want(f.Fsync(t.Context(), h), tree.ErrIO)
	}
	o.stage, o.part = nil, nil
	f.close(h)
	f.wantNoLeftovers()
}

// A publish without an answer may arrive late. It does not replace what was published after it.
func TestALatePublishReplacesNothing(t *testing.T) {
	for name, existing := range map[string]bool{"new file": false, "existing file": true} {
		t.Run(name, func(t *testing.T) {
			f, o := setupFlaky(t)
			if existing {
				f.m.Put("f", []byte("zero"))
			}
			_, h := uint64(0), uint64(0)
			if existing {
				_, h = f.open("f", syscall.O_RDWR)
			} else {
				_, h = f.create(1, "f")
			}
			f.write(h, "first", 0)
			var late tree.File
			o.publish = func(p tree.File) (tree.Info, error) { late = p; return tree.Info{}, tree.ErrIO }
			f.want(f.Flush(t.Context(), h), tree.ErrIO)
			o.publish = nil
			f.write(h, "second", 0)
			f.close(h)
			if _, err := o.Model.Publish(t.Context(), late); err == nil {
				t.Error("the late publish was done")
			}
			f.wantData("f", "second")
		})
	}
}

// An exclusive create whose answer was lost does not find itself in its way.
func TestAnExclusiveCreateRecognisesItself(t *testing.T) {
	f, o := setupFlaky(t)
	_, opened, err := f.Create(t.Context(), 1, "lock", 0o644, 0, 0, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL)
	f.must(err)
	f.write(opened.Handle, "mine", 0)
	o.publish = func(p tree.File) (tree.Info, error) {
		o.publish = nil
		_, err := o.Model.Publish(t.Context(), p)
		return tree.Info{}, errors.Join(err, tree.ErrIO)
	}
	f.want(f.Flush(t.Context(), opened.Handle), tree.ErrIO)
	f.close(opened.Handle)
	f.wantData("lock", "mine")
}

func TestARenameWhoseAnswerWasLostIsDone(t *testing.T) {
	f, o := setupFlaky(t)
	f.save(1, "a", "content")
	o.rename = func(from, to string) (tree.Info, error) {
		_, err := o.Model.Rename(t.Context(), from, to, false)
		f.must(err)
		return tree.Info{}, tree.ErrNotExist // the store forgot the request and does it again
	}
	f.must(f.Rename(t.Context(), 1, "a", 1, "b", 0))
	o.rename = func(string, string) (tree.Info, error) { return tree.Info{}, tree.ErrNotExist }
	f.want(f.Rename(t.Context(), 1, "b", 1, "c", 0), tree.ErrNotExist) // that one was not done
}

// What was synced goes with its file, and is there under its last name when the mount dies.
func TestASyncFollowsARename(t *testing.T) {
	for name, rename := range map[string]func(f *mount, dir uint64) (key string){
		"file": func(f *mount, dir uint64) string {
			f.must(f.Rename(t.Context(), dir, "f", dir, "g", 0))
			return "d/g"
		},
		"directory": func(f *mount, _ uint64) string {
			f.must(f.Rename(t.Context(), 1, "d", 1, "e", 0))
			return "e/f"
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			dir := f.mkdir(1, "d")
			e, h := f.create(dir.Node, "f")
			f.write(h, "synced", 0)
			f.must(f.Fsync(t.Context(), h))
			key := rename(f, dir.Node)
			if data, ok := f.m.Staged(key, e.Stat.Inode); !ok || string(data) != "synced" {
				t.Errorf("the store has %q for %s: %v", data, key, ok)
			}
			f.m.EndSession()
			f.wantData(key, "synced")
			f.close(h)
		})
	}
}

// What a small file has synced is published when the mount dies only if nobody stored something newer.
func TestASyncedSmallFileDoesNotReplaceANewerVersion(t *testing.T) {
	for name, create := range map[string]bool{"created": true, "changed": false} {
		t.Run(name, func(t *testing.T) {
			m := treetest.NewModel()
			f := newMount(t, m, tree.Config{})
			var h uint64
			if create {
				_, h = f.create(1, "f")
			} else {
				m.Put("f", []byte("old"))
				_, h = f.open("f", syscall.O_RDWR)
			}
			f.write(h, "synced", 0)
			f.must(f.Fsync(t.Context(), h))
			m.Put("f", []byte("newer"))
			m.EndSession()
			f.wantData("f", "newer")
			f.close(h) // but the mount is not dead, and the last close wins
			f.wantData("f", "synced")
		})
	}
}

// Two programs append: what each writes at once stays together, also where it goes over the end of a part.
func TestAppendsStayWhole(t *testing.T) {
	f := setup(t)
	f.save(1, "log", "")
	const size, each = 3 << 20, 8
	var wg sync.WaitGroup
	for _, c := range []byte("ab") {
		_, h := f.open("log", syscall.O_WRONLY|syscall.O_APPEND)
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := bytes.Repeat([]byte{c}, size)
			for range each {
				if n, err := f.Write(context.Background(), h, p, 0, false); n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
			if err := errors.Join(f.Flush(context.Background(), h), f.Release(context.Background(), h)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	data, _ := f.m.Data("log")
	if len(data) != 2*size*each {
		t.Fatalf("the log has %d bytes", len(data))
	}
	for off := 0; off < len(data); off += size {
		if p := data[off : off+size]; bytes.Count(p, p[:1]) != size {
			t.Fatalf("the append at %d is torn", off)
		}
	}
}

// A commit that needs memory to save what another client replaced does not wait for itself when nothing can be stored.
func TestACommitWithoutMemoryIsAnErrorNotAHang(t *testing.T) {
	f := newMount(t, treetest.NewModel(), tree.Config{Memory: 1})
	f.m.Put("f", make([]byte, 100<<20))
	_, h := f.open("f", syscall.O_RDWR)
	buf := make([]byte, 1)
	if _, err := f.Read(t.Context(), h, buf, 0); err != nil {
		t.Fatal(err)
	}
	f.write(h, "x", 0)
	f.m.Put("f", []byte("theirs"))
	var published atomic.Bool
	f.m.Fail(func(op, _ string) error {
		switch {
		case op == "Publish":
			published.Store(true)
		case op == "Part" && published.Load():
			return tree.ErrNoSpace
		}
		return nil
	})
	within(t, "the flush", func() { f.want(f.Flush(t.Context(), h), tree.ErrNoSpace) })
	f.m.Fail(nil)
	f.close(h)
}

// A writer that waits for memory sends what there is, not nothing.
func TestWaitingWritersSendNoEmptyParts(t *testing.T) {
	o := &flaky{Model: treetest.NewModel()}
	f := newMount(t, o.Model, tree.Config{Objects: o, Memory: 1})
	held := make(chan struct{})
	o.part = func(key string, up tree.Upload, n int, data []byte) error {
		if len(data) == 0 {
			t.Error("an empty part is stored")
		}
		<-held
		return o.store(t.Context(), key, up, n, data)
	}
	_, big := f.create(1, "big")
	for i := range int64(60) {
		f.write(big, strings.Repeat("x", 1<<20), i<<20)
	}
	_, small := f.create(1, "small")
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		f.write(small, strings.Repeat("y", 8<<20), 0)
	}()
	<-time.After(20 * time.Millisecond)
	close(held)
	within(t, "the waiting writer", func() { <-wrote })
	f.close(big)
	f.close(small)
}

// A rename or an unlink that fails leaves the file that it would have removed as it was, what it synced included.
func TestAFailedReplacementLeavesTheSync(t *testing.T) {
	for _, published := range []bool{true, false} {
		for _, op := range []string{"Rename", "Remove"} {
			if op == "Remove" && !published {
				continue // nothing but the stage is removed
			}
			t.Run(fmt.Sprint(op, " published ", published), func(t *testing.T) {
				f := setup(t)
				f.save(1, "source", "source")
				e, h := f.create(1, "target")
				if published {
					f.write(h, "published", 0)
					f.flush(h)
				}
				f.write(h, "synced", 0)
				f.must(f.Fsync(t.Context(), h))
				f.m.Fail(func(o, _ string) error {
					if o == op {
						return tree.ErrIO
					}
					return nil
				})
				if op == "Rename" {
					f.want(f.Rename(t.Context(), 1, "source", 1, "target", 0), tree.ErrIO)
				} else {
					f.want(f.Unlink(t.Context(), 1, "target"), tree.ErrIO)
				}
				f.m.Fail(nil)
				if _, ok := f.m.Staged("target", e.Stat.Inode); !ok {
					t.Error("what was synced is gone")
				}
				f.close(h)
			})
		}
	}
}

// Memory that a program mapped is written after it closed the file: it is published with the last writer, not with the
// last reader.
func TestWritesAfterTheCloseArePublishedWithTheLastWriter(t *testing.T) {
	f := setup(t)
	f.m.Put("f", []byte("before"))
	_, r := f.open("f", syscall.O_RDONLY)
	_, w := f.open("f", syscall.O_RDWR)
	f.write(w, "during", 0)
	f.flush(w)
	f.write(w, "mapped", 0)
	f.release(w)
	f.wantData("f", "mapped")
	f.close(r)
}

// Another client changes the attributes of a file that is open here.
func TestAttributesOfAnOpenFileFollowTheStore(t *testing.T) {
	f := setup(t)
	e := f.save(1, "f", "content")
	_, h := f.open("f", syscall.O_RDWR)
	info, err := f.m.Stat(t.Context(), "f")
	f.must(err)
	set := func(mode uint32) {
		info.Attr.Mode = syscall.S_IFREG | mode
		_, err = f.m.SetAttr(t.Context(), "f", info.Version, info.Attr)
		f.must(err)
	}
	set(0o640)
	s, err := f.GetAttr(t.Context(), e.Node)
	f.must(err)
	if s.Mode&0o777 != 0o640 {
		t.Errorf("fstat shows %o", s.Mode)
	}
	set(0o604)
	if now := f.lookup(1, "f"); now.Stat.Mode&0o777 != 0o604 {
		t.Errorf("stat shows %o", now.Stat.Mode)
	}
	f.write(h, "C", 0)
	f.close(h)
	info, err = f.m.Stat(t.Context(), "f")
	f.must(err)
	if info.Attr.Mode&0o777 != 0o604 {
		t.Errorf("the publish brought the old mode back: %o", info.Attr.Mode)
	}
}

// A file is opened and read while the directory above it gets another name.
func TestAFileIsOpenedWhileItsDirectoryMoves(t *testing.T) {
	f := setup(t)
	d := f.mkdir(1, "d")
	e := f.save(d.Node, "f", "content")
	_, other := f.create(d.Node, "other")
	f.write(other, "x", 0)
	f.flush(other)
	_, o, err := f.Create(t.Context(), d.Node, "f", 0, 0, 0, syscall.O_RDONLY)
	f.must(err)
	f.read(o.Handle)
	f.close(o.Handle)

	entered, leave := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	f.m.Fail(func(op, key string) error {
		if op == "Stat" && key == "e/other" && once.CompareAndSwap(false, true) {
			close(entered)
			<-leave
		}
		return nil
	})
	moved := make(chan error, 1)
	go func() { moved <- f.Rename(t.Context(), 1, "d", 1, "e", 0) }()
	<-entered
	opened := make(chan string, 1)
	go func() {
		o, err := f.Open(context.Background(), e.Node, syscall.O_RDONLY, false)
		if err != nil {
			opened <- err.Error()
			return
		}
		buf := make([]byte, 100)
		n, err := f.Read(context.Background(), o.Handle, buf, 0)
		opened <- fmt.Sprint(string(buf[:n]), err)
		_ = f.Release(context.Background(), o.Handle)
	}()
	<-time.After(20 * time.Millisecond)
	close(leave)
	f.must(<-moved)
	if got := <-opened; got != "content<nil>" {
		t.Errorf("read gives %s", got)
	}
	f.close(other)
	f.wantData("e/other", "x")
}

// A gateway that restarted does not hold versions open. One that is still there is opened again, under its present name.
func TestAnOpenFileIsReadOnAfterARestart(t *testing.T) {
	f, o := setupFlaky(t)
	content := strings.Repeat("content", 500_000)
	f.m.Put("f", []byte(content))
	f.m.Put("gone", []byte(content))
	_, h := f.open("f", syscall.O_RDONLY)
	_, gone := f.open("gone", syscall.O_RDONLY)
	buf := make([]byte, 10)
	for _, h := range []uint64{h, gone} {
		if _, err := f.Read(t.Context(), h, buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	f.must(f.Rename(t.Context(), 1, "f", 1, "g", 0))
	f.must(f.Unlink(t.Context(), 1, "gone"))
	o.restart()
	if f.read(h) != content {
		t.Error("the file reads otherwise")
	}
	_, err := f.Read(t.Context(), gone, buf, 0)
	f.want(err, tree.ErrStale)
	f.close(h)
	f.close(gone)
	f.wantNoLeftovers()
}

// Emptying what is empty is a change too.
func TestTruncatingAnEmptyFileSetsItsTime(t *testing.T) {
	f := setup(t)
	e := f.save(1, "f", "")
	<-time.After(2 * time.Millisecond)
	_, h := f.open("f", syscall.O_WRONLY|syscall.O_TRUNC)
	f.close(h)
	if now := f.lookup(1, "f"); !now.Stat.Mtime.After(e.Stat.Mtime) {
		t.Error("the time of change stays")
	}
}

func TestRenameChangesTheChangeTime(t *testing.T) {
	f := setup(t)
	f.save(1, "f", "x")
	e := f.lookup(1, "f")
	<-time.After(2 * time.Millisecond)
	f.must(f.Rename(t.Context(), 1, "f", 1, "g", 0))
	now := f.lookup(1, "g")
	if !now.Stat.Ctime.After(e.Stat.Ctime) || !now.Stat.Mtime.Equal(e.Stat.Mtime) {
		t.Errorf("ctime %v, before %v; mtime %v, before %v", now.Stat.Ctime, e.Stat.Ctime, now.Stat.Mtime, e.Stat.Mtime)
	}
}
