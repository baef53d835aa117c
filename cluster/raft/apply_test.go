package raft

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Entries of one append are applied as one batch; a command that walks over rows still sees every entry before it.
func TestAWalkSeesTheEntriesBeforeIt(t *testing.T) {
	b := newBench(t, vfs.NewMemory(1), 12)
	h := b.bootstrap(t)
	var walks atomic.Int64
	var wait sync.WaitGroup
	for w := range 64 {
		wait.Go(func() {
			for i := range 20 {
				command := fmt.Sprintf("%d of %d", i, w)
				if (i+w)%5 == 0 {
					command = "walk"
				}
				result, err := h.Group(1).Propose(context.Background(), []byte(command))
				if err != nil {
					t.Error(err)
					return
				}
				if counts, ok := result.([2]uint64); ok {
					walks.Add(1)
					if counts[0] != counts[1] {
						t.Errorf("a walk found %d of %d items", counts[1], counts[0])
					}
				}
			}
		})
	}
	wait.Wait()
	if n := walks.Load(); n != 64*4 {
		t.Errorf("%d walks ran", n)
	}
	closeHost(t, h)
}

// The view of a command in the middle of a batch: it reads what commands before it wrote, nothing of its own, and is
// stopped when it iterates.
func TestACommandReadsTheBatchBeforeIt(t *testing.T) {
	db, err := kv.Open(kv.Config{FS: vfs.NewMemory(1), Dir: "/db"})
	if err != nil {
		t.Fatal(err)
	}
	a := &application{db: db, batch: db.NewBatch(), rows: map[string][]byte{}}
	read := func(v *entryView, key string) string {
		value, err := v.Get([]byte(key))
		if err != nil {
			return err.Error()
		}
		return string(value)
	}
	first := &entryView{application: a}
	first.Put([]byte("kept"), []byte("1"))
	first.Put([]byte("gone"), []byte("1"))
	first.Put([]byte("empty"), nil)
	if got := read(first, "kept"); got != kv.ErrNotFound.Error() {
		t.Errorf("a command reads its own write: %q", got)
	}
	it := first.Iterate(kv.Span{}) // nothing is in the batch yet
	it.Close()
	first.keep()
	second := &entryView{application: a}
	second.Delete([]byte("gone"))
	second.keep()
	third := &entryView{application: a}
	for key, want := range map[string]string{"kept": "1", "empty": "", "gone": kv.ErrNotFound.Error(), "never": kv.ErrNotFound.Error()} {
		if got := read(third, key); got != want {
			t.Errorf("%s reads %q, want %q", key, got, want)
		}
	}
	func() {
		defer func() {
			if recover() == nil || !third.alone {
				t.Error("a command iterates past the batch")
			}
		}()
		third.Iterate(kv.Span{})
	}()
	if err := db.Write(a.batch); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// An append writes whole pages, so it writes the end of the one before again; after a reopen too, on every mirror.
func TestAppendsKeepTheFramesOfTheirPage(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	random := rand.New(rand.NewPCG(1, 2))
	var want []string
	for range 12 {
		for range 10 {
			command := strings.Repeat("x", 1+random.IntN(3000)) + fmt.Sprint(len(want))
			propose(t, h, 1, command)
			want = append(want, command)
		}
		if random.IntN(2) == 0 {
			closeHost(t, h)
		} else {
			f = f.Kill()
			closeDead(t, h)
		}
		b = b.on(f)
		h = b.open(t)
	}
	members := h.Mirrors().Members
	closeHost(t, h)
	// Only the log is left to read from.
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	for _, m := range members[1:] {
		if err := f.RemoveAll(m.Dir + logDir); err != nil {
			t.Fatal(err)
		}
	}
	h = b.open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
}
