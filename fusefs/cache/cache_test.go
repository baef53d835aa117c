package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/fusefs/cache"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// store is the model as a gateway has it: one commit after another, and a mark that moves with each of them after it can
// be seen.
type store struct {
	*treetest.Model
	mu    sync.Mutex
	index atomic.Uint64
	page  atomic.Uint64
	lost  atomic.Bool // the mark cannot be trusted
	looks atomic.Int64
}

func newStore() *store { return &store{Model: treetest.NewModel()} }

func (s *store) mark() (page, index uint64, trusted bool) {
	return s.page.Load(), s.index.Load(), !s.lost.Load()
}

// change makes one commit, when do succeeds.
func (s *store) change(do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := do()
	if err == nil {
		s.index.Add(1)
	}
	return err
}

func (s *store) Publish(ctx context.Context, f tree.File) (info tree.Info, err error) {
	err = s.change(func() error { info, err = s.Model.Publish(ctx, f); return err })
	return info, err
}

func (s *store) SetAttr(ctx context.Context, key string, v tree.Version, a tree.Attr) (info tree.Info, err error) {
	err = s.change(func() error { info, err = s.Model.SetAttr(ctx, key, v, a); return err })
	return info, err
}

func (s *store) Rename(ctx context.Context, from, to string, noReplace bool) (info tree.Info, err error) {
	err = s.change(func() error { info, err = s.Model.Rename(ctx, from, to, noReplace); return err })
	return info, err
}

func (s *store) RenamePrefix(ctx context.Context, from, to string) error {
	return s.change(func() error { return s.Model.RenamePrefix(ctx, from, to) })
}

func (s *store) Remove(ctx context.Context, key string, empty bool) error {
	return s.change(func() error { return s.Model.Remove(ctx, key, empty) })
}

// Look is atomic, as the gateway's is.
func (s *store) Look(ctx context.Context, key string) (found tree.Found, err error) {
	s.looks.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	stat := func(key string) *tree.Info {
		info, err := s.Stat(ctx, key)
		if err != nil {
			return nil
		}
		return &info
	}
	found.File, found.Marker = stat(key), stat(key+"/")
	found.Dir, err = s.Exists(ctx, key+"/")
	return found, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func look(t *testing.T, o tree.Looker, key string) tree.Found {
	t.Helper()
	found, err := o.Look(t.Context(), key)
	must(t, err)
	return found
}

func publish(t *testing.T, o tree.Objects, key string) tree.Info {
	t.Helper()
	info, err := o.Publish(t.Context(), tree.File{Key: key, Data: []byte(key)})
	must(t, err)
	return info
}

func TestTheContractHolds(t *testing.T) {
	treetest.Run(t, func(*testing.T) tree.Objects {
		s := newStore()
		return cache.New(s, s.mark)
	})
}

// A tree that is copied in, as cp -r asks for it.
func TestCopyOfATreeAsksForNothing(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	mkdir := func(key string) {
		if found := look(t, o, key); found.Dir {
			t.Fatalf("%s is there", key)
		}
		publish(t, o, key+"/")
	}
	mkdir("a")
	for i := range 3 {
		dir := fmt.Sprint("a/", i)
		mkdir(dir)
		for k := range 50 {
			if !look(t, o, "a").Dir || !look(t, o, dir).Dir {
				t.Fatal("the directory is gone")
			}
			key := fmt.Sprint(dir, "/", k)
			if found := look(t, o, key); found.File != nil || found.Dir {
				t.Fatalf("%s is there", key)
			}
			publish(t, o, key)
		}
	}
	// a before it was made; each directory once after.
	if n := s.looks.Load(); n != 5 {
		t.Errorf("%d lookups of the gateway for 150 files in 3 directories, want 5", n)
	}
	for range 10 {
		look(t, o, "a/1/7")
	}
	if n := s.looks.Load(); n != 6 {
		t.Errorf("%d lookups after one file was looked at ten times, want 6", n)
	}
}

func TestAChangeOfAnotherIsSeenAtOnce(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	look(t, o, "d")
	publish(t, o, "d/")
	look(t, o, "d")
	if found := look(t, o, "d/f"); found.File != nil {
		t.Fatal("d/f is there")
	}
	info := publish(t, s, "d/f")
	if found := look(t, o, "d/f"); found.File == nil || found.File.Version != info.Version {
		t.Errorf("the file of another is not seen: %+v", found)
	}
	must(t, s.Remove(t.Context(), "d/f", false))
	must(t, s.Remove(t.Context(), "d/", false))
	if found := look(t, o, "d"); found.Dir {
		t.Error("a directory that another removed is still there")
	}
	// A directory that exists through its keys alone gets a marker.
	publish(t, s, "p/x")
	look(t, o, "p")
	publish(t, o, "p/")
	if found := look(t, o, "p/x"); found.File == nil {
		t.Error("a directory that had keys is taken for empty")
	}
	// Between the beginning and the end of one's own change.
	look(t, o, "x")
	s.Fail(func(op, key string) error {
		if op == "Publish" && key == "x/" {
			s.Fail(nil)
			s.Model.Put("x/other", []byte("other"))
			s.index.Add(1)
		}
		return nil
	})
	publish(t, o, "x/")
	if found := look(t, o, "x/other"); found.File == nil {
		t.Error("a directory that was not empty is taken for empty")
	}
}

func TestNothingIsRememberedWithoutATrustedMark(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	publish(t, o, "a")
	look(t, o, "a")
	s.lost.Store(true)
	must(t, s.Model.Remove(t.Context(), "a", false)) // the mark does not move: the gateway is dead
	if found := look(t, o, "a"); found.File != nil {
		t.Error("answered from memory while the mark cannot be trusted")
	}
	s.lost.Store(false)
	s.index.Add(1)
	if found := look(t, o, "a"); found.File != nil {
		t.Error("what was learned without a mark is remembered")
	}
	hits := o.Hits()
	look(t, o, "a")
	if o.Hits() != hits+1 {
		t.Error("nothing is remembered with a mark that is trusted again")
	}
}

func TestAnAnswerIsTheCallersOwn(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	_, err := o.Publish(t.Context(), tree.File{Key: "a", Attr: tree.Attr{Mode: 0o100644, Xattrs: map[string][]byte{"user.a": []byte("b")}}})
	must(t, err)
	for range 3 {
		found := look(t, o, "a")
		if len(found.File.Attr.Xattrs) != 1 || found.File.Size != 0 {
			t.Fatalf("%+v", found.File)
		}
		found.File.Size = 7
		clear(found.File.Attr.Xattrs)
	}
}

func TestLargeAttributesAreNotRemembered(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	for size, want := range map[int]int64{1000: 1, 2000: 2} {
		key := fmt.Sprint(size)
		_, err := o.Publish(t.Context(), tree.File{Key: key, Attr: tree.Attr{Xattrs: map[string][]byte{"user.a": make([]byte, size)}}})
		must(t, err)
		before := s.looks.Load()
		look(t, o, key)
		look(t, o, key)
		if n := s.looks.Load() - before; n != want {
			t.Errorf("%d bytes: %d lookups of the gateway, want %d", size, n, want)
		}
	}
}

// Every answer is compared with the store's while two clients change it, one of them through the cache.
func TestAnswersAreTheStores(t *testing.T) {
	hits := uint64(0)
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := newStore()
		o := cache.New(s, s.mark)
		name := func() string {
			key := []string{"a", "b", "c"}[random.IntN(3)]
			for random.IntN(2) == 0 && len(key) < 6 {
				key += []string{"/a", "/b", "//c"}[random.IntN(8)*3/8]
			}
			return key
		}
		for range 200 {
			var who tree.Objects = o
			if random.IntN(20) == 0 {
				who = s
			}
			var err error
			ctx := t.Context()
			switch key := name(); random.IntN(24) {
			case 0, 1, 2, 3:
				_, err = who.Publish(ctx, tree.File{Key: key, Data: []byte(key), Cond: tree.Cond{Absent: random.IntN(3) == 0}})
			case 4, 5:
				_, err = who.Publish(ctx, tree.File{Key: key + "/"})
			case 6:
				err = who.Remove(ctx, key, false)
			case 7:
				err = who.Remove(ctx, key+"/", true)
			case 8:
				_, err = who.Rename(ctx, key, name(), random.IntN(2) == 0)
			case 9:
				err = who.RenamePrefix(ctx, key+"/", name()+"/")
			case 10:
				s.index.Add(1) // housekeeping
			case 11:
				s.lost.Store(!s.lost.Load())
			}
			_ = err // the two stores below are one: whatever happened is to be seen
			key := name()
			if got, want := look(t, o, key), look(t, s, key); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: %s is %+v, remembered as %+v", seed, key, want, got)
			}
		}
		hits += o.Hits()
	}
	if hits < 2000 {
		t.Errorf("%d answers came from memory: the test tests nothing", hits)
	}
}

// An answer that was on its way while its key was published here is not remembered, from whichever side it came.
func TestAnswersThatCrossAChange(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		s := newStore()
		o := cache.New(s, s.mark)
		look(t, o, "d")
		publish(t, o, "d/")
		late := newCrossing(s)
		o = cache.New(late, s.mark)
		answered := make(chan tree.Found)
		go func() {
			found, err := o.Look(context.Background(), "d/f")
			if err != nil {
				t.Error(err)
			}
			answered <- found
		}()
		<-late.asked
		if when == "before" {
			late.ask <- struct{}{} // it looks, and its answer is held
			<-late.looked
			publish(t, o, "d/f")
		} else {
			publish(t, o, "d/f")
			late.ask <- struct{}{}
			<-late.looked
		}
		late.answer <- struct{}{}
		if found := <-answered; (found.File == nil) != (when == "before") {
			t.Fatalf("%s: %+v", when, found)
		}
		late.off.Store(true)
		for range 2 {
			if found := look(t, o, "d/f"); found.File == nil {
				t.Errorf("an answer from %s the publish is remembered: %+v", when, found)
			}
		}
	}
}

// crossing lets a test hold lookups before they are asked and before they are answered.
type crossing struct {
	*store
	off           atomic.Bool
	asked, looked chan struct{}
	ask, answer   chan struct{}
}

func newCrossing(s *store) *crossing {
	return &crossing{store: s, asked: make(chan struct{}), looked: make(chan struct{}), ask: make(chan struct{}), answer: make(chan struct{})}
}

func (c *crossing) Look(ctx context.Context, key string) (tree.Found, error) {
	if c.off.Load() {
		return c.store.Look(ctx, key)
	}
	c.asked <- struct{}{}
	<-c.ask
	found, err := c.store.Look(ctx, key)
	c.looked <- struct{}{}
	<-c.answer
	return found, err
}

// Clients publish at once, some through the cache; whoever looks sees what was acknowledged before.
func TestAcknowledgedVersionsAreSeen(t *testing.T) {
	s := newStore()
	o := cache.New(s, s.mark)
	const keys, rounds = 4, 2000
	var newest [keys]atomic.Int64
	var group sync.WaitGroup
	for w := range keys {
		group.Go(func() {
			var who tree.Objects = o
			if w == 0 {
				who = s
			}
			for i := range rounds {
				// The size counts the versions.
				if _, err := who.Publish(t.Context(), tree.File{Key: fmt.Sprint("k", w), Data: make([]byte, i+1)}); err != nil {
					t.Error(err)
					return
				}
				newest[w].Store(int64(i + 1))
			}
		})
		group.Go(func() {
			for i := range 4 * rounds {
				n := (w + i) % keys
				want := newest[n].Load()
				found, err := o.Look(t.Context(), fmt.Sprint("k", n))
				if err != nil || want > 0 && (found.File == nil || found.File.Size < want) {
					t.Errorf("k%d: version %d was acknowledged, found %+v, %v", n, want, found.File, err)
					return
				}
			}
		})
	}
	group.Wait()
	for range 2 {
		for n := range keys {
			if found := look(t, o, fmt.Sprint("k", n)); found.File.Size != rounds {
				t.Errorf("k%d ends at version %d", n, found.File.Size)
			}
		}
	}
}
