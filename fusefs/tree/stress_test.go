package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// A file of the stress test is a row of blocks. Each block belongs to one goroutine, which knows what must stand there; the
// file itself is everybody's: all write, sync, close, truncate above the blocks, punch, squeeze and rename it at once.
const (
	stressFiles  = 3
	stressBlock  = 40_000
	stressActors = 4
	stressSteps  = 150
)

type actor struct {
	*mount
	rng   *rand.Rand
	id    int
	nodes []uint64
	mine  [stressFiles][]byte
}

func (a *actor) at() int64 { return int64(a.id * stressBlock) }

// step does one thing to one file and checks what the actor can know of it.
func (a *actor) step(ctx context.Context) error {
	i := a.rng.IntN(stressFiles)
	o, err := a.Open(ctx, a.nodes[i], syscall.O_RDWR, false)
	if err != nil {
		return err
	}
	var errs []error
	for range 1 + a.rng.IntN(4) {
		errs = append(errs, a.touch(ctx, o.Handle, i))
	}
	if a.rng.IntN(4) > 0 {
		errs = append(errs, a.Flush(ctx, o.Handle))
	}
	return errors.Join(append(errs, a.Release(ctx, o.Handle))...)
}

func (a *actor) touch(ctx context.Context, h uint64, i int) error {
	off := a.rng.IntN(stressBlock)
	n := 1 + a.rng.IntN(min(stressBlock-off, 1<<a.rng.IntN(16)))
	switch a.rng.IntN(9) {
	case 0, 1, 2:
		p := bytes.Repeat([]byte{byte(1 + a.rng.IntN(255))}, n)
		copy(a.mine[i][off:], p)
		_, err := a.Write(ctx, h, p, a.at()+int64(off), false)
		return err
	case 3:
		clear(a.mine[i][off : off+n])
		return a.Allocate(ctx, h, a.at()+int64(off), int64(n), 3)
	case 4:
		return a.Fsync(ctx, h)
	case 5:
		return a.Squeeze()
	case 6: // behind all blocks, so that nobody's bytes go
		size := int64(stressActors*stressBlock + a.rng.IntN(1000))
		_, err := a.SetAttr(ctx, a.nodes[i], tree.Change{Size: &size})
		return err
	}
	got := make([]byte, n)
	if m, err := a.Read(ctx, h, got, a.at()+int64(off)); err != nil || m != n {
		return fmt.Errorf("read of %d bytes: %d, %w", n, m, err)
	}
	if !bytes.Equal(got, a.mine[i][off:off+n]) {
		return fmt.Errorf("file %d: %d bytes at %d of block %d are not what was written", i, n, off, a.id)
	}
	return nil
}

// mover renames the directories and the files that the actors use, until done.
func (f *mount) mover(ctx context.Context, rng *rand.Rand, dir uint64, done *atomic.Bool) error {
	at := "d"
	names := [stressFiles]string{}
	for i := range names {
		names[i] = fmt.Sprint("f", i)
	}
	for n := 0; !done.Load(); n++ {
		if rng.IntN(2) == 0 {
			to := fmt.Sprint("d", n)
			if err := f.Rename(ctx, 1, at, 1, to, 0); err != nil {
				return err
			}
			at = to
			continue
		}
		i := rng.IntN(stressFiles)
		to := fmt.Sprint("f", i, "-", n)
		if err := f.Rename(ctx, dir, names[i], dir, to, 0); err != nil {
			return err
		}
		names[i] = to
	}
	if err := f.Rename(ctx, 1, at, 1, "d", 0); err != nil {
		return err
	}
	for i, name := range names {
		if to := fmt.Sprint("f", i); name != to {
			if err := f.Rename(ctx, dir, name, dir, to, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestManyProgramsOnFewFiles(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for round := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed+round), func(t *testing.T) { stress(t, seed+round) })
	}
}

func stress(t *testing.T, seed uint64) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := newMount(t, treetest.NewModel(), tree.Config{Memory: 1})
	dir := f.mkdir(1, "d")
	nodes := make([]uint64, stressFiles)
	for i := range nodes {
		nodes[i] = f.save(dir.Node, fmt.Sprint("f", i), string(make([]byte, stressActors*stressBlock))).Node
	}
	var wg sync.WaitGroup
	var moving sync.WaitGroup
	var done atomic.Bool
	actors := make([]*actor, stressActors)
	for id := range actors {
		a := &actor{mount: f, rng: rand.New(rand.NewPCG(seed, uint64(id))), id: id, nodes: nodes}
		for i := range a.mine {
			a.mine[i] = make([]byte, stressBlock)
		}
		actors[id] = a
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range stressSteps {
				if err := a.step(ctx); err != nil {
					t.Errorf("actor %d, step %d: %v", id, n, err)
					return
				}
			}
		}()
	}
	moving.Add(1)
	go func() {
		defer moving.Done()
		if err := f.mover(ctx, rand.New(rand.NewPCG(seed, 99)), dir.Node, &done); err != nil {
			t.Errorf("mover: %v", err)
		}
	}()
	wg.Wait()
	done.Store(true)
	moving.Wait()
	if t.Failed() {
		return
	}
	for i := range stressFiles {
		key := fmt.Sprint("d/f", i)
		data, _ := f.m.Data(key)
		if len(data) < stressActors*stressBlock {
			t.Fatalf("%s has %d bytes", key, len(data))
		}
		for _, a := range actors {
			if !bytes.Equal(data[a.at():a.at()+stressBlock], a.mine[i]) {
				t.Errorf("block %d of %s is not what was written", a.id, key)
			}
		}
	}
	f.wantNoLeftovers()
}
