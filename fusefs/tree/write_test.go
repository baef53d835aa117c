package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

func TestCloseTellsTheTruth(t *testing.T) {
	f := setup(t)
	for _, op := range []string{"Publish", "Part", "Begin"} {
		t.Run(op, func(t *testing.T) {
			_, h := f.create(1, op)
			var fired bool
			f.m.Fail(func(o, _ string) error {
				if o == op {
					fired = true
					return fmt.Errorf("injected: %w", tree.ErrNoSpace)
				}
				return nil
			})
			size := 10
			if op != "Publish" {
				size = 9 << 20
			}
			_, werr := f.Write(t.Context(), h, make([]byte, size), 0, false)
			if err := f.Flush(t.Context(), h); !errors.Is(err, tree.ErrNoSpace) && !errors.Is(werr, tree.ErrNoSpace) {
				t.Fatalf("close returns %v, want no space", err)
			}
			if err := f.Fsync(t.Context(), h); op != "Publish" && !errors.Is(err, tree.ErrNoSpace) {
				t.Fatalf("fsync returns %v, want no space", err)
			}
			if !fired {
				t.Fatal("the fault did not fire")
			}
			f.wantVersions(op, 0)
			f.m.Fail(nil)
			f.close(h) // the data is still there: a second close stores it
			data, _ := f.m.Data(op)
			if len(data) != size {
				t.Fatalf("object has %d bytes, want %d", len(data), size)
			}
		})
	}
}

func TestWritersWaitForMemory(t *testing.T) {
	m := treetest.NewModel()
	f := newMount(t, m, tree.Config{Memory: 64 << 20, Uploads: 2})
	gate := make(chan struct{})
	m.Fail(func(op, _ string) error {
		if op == "Part" {
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for i := range 4 {
		_, h := f.create(1, fmt.Sprint(i))
		wg.Add(1)
		go func() {
			defer wg.Done()
			block := make([]byte, 1<<20)
			for j := range 40 {
				if _, err := f.Write(context.Background(), h, block, int64(j)<<20, false); err != nil {
					errs <- err
					return
				}
			}
			errs <- errors.Join(f.Flush(context.Background(), h), f.Release(context.Background(), h))
		}()
	}
	deadline := time.Now().Add(5 * time.Second)
	for f.DirtyBytes() < 48<<20 {
		if time.Now().After(deadline) {
			t.Fatalf("only %d bytes are in memory", f.DirtyBytes())
		}
		<-time.After(time.Millisecond)
	}
	if used := f.DirtyBytes(); used > 64<<20 {
		t.Fatalf("%d bytes in memory, the bound is 64 MiB", used)
	}
	close(gate)
	wg.Wait()
	for range 4 {
		f.must(<-errs)
	}
	for i := range 4 {
		if data, _ := m.Data(fmt.Sprint(i)); len(data) != 40<<20 {
			t.Fatalf("file %d has %d bytes", i, len(data))
		}
	}
}

func TestFullMemoryWithADeadStoreIsAnErrorNotAHang(t *testing.T) {
	m := treetest.NewModel()
	f := newMount(t, m, tree.Config{Memory: 64 << 20})
	m.Fail(func(op, _ string) error {
		if op == "Part" {
			return tree.ErrIO
		}
		return nil
	})
	_, h := f.create(1, "f")
	block := make([]byte, 1<<20)
	var err error
	for j := 0; err == nil && j < 200; j++ {
		_, err = f.Write(t.Context(), h, block, int64(j)<<20, false)
	}
	f.want(err, tree.ErrIO)
	f.must(f.Unlink(t.Context(), 1, "f"))
	f.release(h)
}

func TestDirectoryTimes(t *testing.T) {
	f := setup(t)
	d := f.mkdir(1, "d")
	old := time.Unix(1_000_000_000, 5)
	_, err := f.SetAttr(t.Context(), d.Node, tree.Change{Mtime: &old})
	f.must(err)
	f.save(d.Node, "f", "x")
	s, err := f.GetAttr(t.Context(), d.Node)
	f.must(err)
	if time.Since(s.Mtime) > time.Minute {
		t.Fatalf("a new entry left the directory's mtime at %v", s.Mtime)
	}
	s, err = f.SetAttr(t.Context(), d.Node, tree.Change{Mtime: &old})
	f.must(err)
	if !s.Mtime.Equal(old) || !f.lookup(1, "d").Stat.Mtime.Equal(old) {
		t.Fatalf("mtime is %v, want what was set", s.Mtime)
	}
}

func TestSequentialReadsComeInWindows(t *testing.T) {
	for _, memory := range []int64{0, 2 << 20, -1} {
		m := treetest.NewModel()
		f := newMount(t, m, tree.Config{ReadMemory: memory})
		data := make([]byte, 33<<20+123)
		for i := range data {
			data[i] = byte(i ^ i>>8 ^ i>>16)
		}
		m.Put("f", data)
		_, h := f.open("f", syscall.O_RDONLY)
		buf := make([]byte, 128<<10)
		for off := 0; off < len(data); off += len(buf) {
			// The kernel's read-ahead arrives out of order.
			at := int64(off ^ 1<<17)
			n, err := f.Read(t.Context(), h, buf, at)
			f.must(err)
			want := data[min(int(at), len(data)):min(int(at)+len(buf), len(data))]
			if !bytes.Equal(buf[:n], want) {
				t.Fatalf("read at %d: %d bytes, or others, want %d", at, n, len(want))
			}
		}
		calls := m.Calls("ReadAt")
		if memory == 0 && calls > 12 {
			t.Errorf("33 MiB took %d requests", calls)
		}
		for range 200 { // random reads fetch nothing ahead
			at := rand.Int64N(int64(len(data)))
			n, err := f.Read(t.Context(), h, buf[:4096], at)
			f.must(err)
			if want := data[at:min(int(at)+4096, len(data))]; !bytes.Equal(buf[:n], want) {
				t.Fatalf("random read at %d differs", at)
			}
		}
		f.close(h)
		f.wantNoLeftovers()
	}
}

func TestSmallFilesAreReadInOneRequest(t *testing.T) {
	f := setup(t)
	f.m.Put("f", bytes.Repeat([]byte("x"), 900_000))
	_, h := f.open("f", syscall.O_RDONLY)
	if got := f.read(h); len(got) != 900_000 {
		t.Fatalf("read %d bytes", len(got))
	}
	if n := f.m.Calls("ReadAt"); n != 1 {
		t.Errorf("900 kB took %d requests", n)
	}
	f.close(h)
}

// Programs write parts of one file, sync it and close it at the same time.
func TestWritersOfOneFileDoNotLoseEachOthersBytes(t *testing.T) {
	f := setup(t)
	const size, each = 1 << 20, 1 << 18
	f.m.Put("f", make([]byte, size))
	var wg sync.WaitGroup
	for w := range 4 {
		_, h := f.open("f", syscall.O_RDWR)
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx := context.Background()
			var errs []error
			for i := 0; i < each; i += 1000 {
				p := bytes.Repeat([]byte{byte(1 + w*50 + i%49)}, min(1000, each-i))
				_, err := f.Write(ctx, h, p, int64(w*each+i), false)
				errs = append(errs, err)
				got := make([]byte, len(p))
				_, err = f.Read(ctx, h, got, int64(w*each+i))
				if errs = append(errs, err); !bytes.Equal(got, p) {
					errs = append(errs, fmt.Errorf("writer %d reads back other bytes at %d", w, i))
				}
				switch i / 1000 % 7 {
				case 2:
					errs = append(errs, f.Flush(ctx, h))
				case 4:
					errs = append(errs, f.Fsync(ctx, h))
				case 6:
					errs = append(errs, f.Squeeze())
				}
			}
			if err := errors.Join(append(errs, f.Flush(ctx, h), f.Release(ctx, h))...); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	data, _ := f.m.Data("f")
	for w := range 4 {
		for i := 0; i < each; i++ {
			if want := byte(1 + w*50 + i/1000*1000%49); data[w*each+i] != want {
				t.Fatalf("byte %d of writer %d is %d, want %d", i, w, data[w*each+i], want)
			}
		}
	}
	if n := len(f.m.Published("f")); n < 10 {
		t.Fatalf("only %d publishes ran between the writes", n)
	}
	f.wantNoLeftovers()
}

// A read fetches a part while writers replace it and their commits give its number to other bytes.
func TestAPartIsNotUsedAgainWhileItIsRead(t *testing.T) {
	f := setup(t)
	f.m.Put("f", make([]byte, 1<<20))
	_, h := f.open("f", syscall.O_RDWR)
	page := func(c string) string { return strings.Repeat(c, 1000) }
	store := func(data string, off int64) {
		t.Helper()
		f.write(h, data, off)
		f.must(f.Fsync(t.Context(), h))
	}
	store(page("a"), 0)

	entered, leave := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	f.m.Fail(func(op, _ string) error {
		if op == "ReadPart" && once.CompareAndSwap(false, true) {
			close(entered)
			<-leave
		}
		return nil
	})
	read := make(chan string, 1)
	go func() {
		got := make([]byte, 1000)
		n, err := f.Read(t.Context(), h, got, 0)
		if err != nil {
			t.Error(err)
		}
		read <- string(got[:n])
	}()
	<-entered
	store(page("b"), 0) // nothing of the first part is left
	for i := range int64(3) {
		store(page("c"), 10_000*(i+1)) // some part, perhaps with its number
	}
	close(leave)
	if got := <-read; got != page("a") && got != page("b") {
		t.Fatalf("the read gives %q..., which never stood there", got[:4])
	}
	f.close(h)
	f.wantVersions("f", 1)
	f.wantNoLeftovers()
}

// Another client replaced the object while it was open here: the last close wins, whole.
func TestLastCloseWins(t *testing.T) {
	f := setup(t)
	base := bytes.Repeat([]byte("base"), 100_000)
	f.m.Put("f", base)
	e, h := f.open("f", syscall.O_RDWR)
	_, reader := f.open("f", syscall.O_RDONLY)
	f.read(reader)
	f.write(h, "mine", 10)
	f.m.Put("f", []byte("theirs"))
	f.close(h)
	want := slices.Clone(base)
	copy(want[10:], "mine")
	f.wantData("f", string(want))
	f.close(reader)

	// Replaced while open and clean: the handle keeps its version, new opens see the new one.
	_, h = f.open("f", syscall.O_RDONLY)
	f.read(h)
	f.m.Put("f", []byte("newer"))
	now := f.lookup(1, "f")
	if now.Node == e.Node {
		t.Fatal("the new version has the node of the open one")
	}
	if got := f.read(h); got != string(want) {
		t.Fatal("the open handle does not read its version")
	}
	_, h2 := f.open("f", syscall.O_RDONLY)
	if got := f.read(h2); got != "newer" {
		t.Fatalf("a new open reads %q", got)
	}
	f.close(h)
	f.close(h2)
	f.wantNoLeftovers()
}

func TestExclusiveCreateIsCheckedAgainAtClose(t *testing.T) {
	f := setup(t)
	_, o, err := f.Create(t.Context(), 1, "lock", 0o644, 0, 0, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL)
	f.must(err)
	f.write(o.Handle, "mine", 0)
	f.m.Put("lock", []byte("theirs"))
	f.want(f.Flush(t.Context(), o.Handle), tree.ErrExists)
	f.want(f.Release(t.Context(), o.Handle), tree.ErrExists)
	f.wantData("lock", "theirs")
}

// A database that syncs after every page does not run out of parts: their numbers are used again, and small parts are
// gathered.
func TestManySyncsDoNotRunOutOfParts(t *testing.T) {
	for name, c := range map[string]struct{ syncs, places, page int }{
		"pages again and again": {10_100, 48, 2048}, // more than there are part numbers
		"many small places":     {1_300, 1_300, 16}, // more than are kept before they are gathered
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			want := make([]byte, 128<<10)
			f.m.Put("db", slices.Clone(want))
			_, h := f.open("db", syscall.O_RDWR)
			for i := range c.syncs {
				off := i * 37 % c.places * (len(want) / c.places)
				p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, c.page/2)
				copy(want[off:], p)
				f.write(h, string(p), int64(off))
				f.must(f.Fsync(t.Context(), h))
			}
			if n := f.m.Calls("Stage"); n != c.syncs {
				t.Fatalf("%d stages, want %d", n, c.syncs)
			}
			f.close(h)
			f.wantData("db", string(want))
			f.wantVersions("db", 1)
			f.wantNoLeftovers()
		})
	}
}
