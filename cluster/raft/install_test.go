package raft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestAnInstallHoldsUpNothingElse stops the filling of a state half-way. The host's other group works on, the group goes
// on behind the snapshot, nobody reads half a state, and no checkpoint has it. Then it goes on, or the power is lost.
func TestAnInstallHoldsUpNothingElse(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
			net := newNetwork()
			_, first := net.alone(t, vfs.NewMemory(1), 1, 1, 2)
			f := vfs.NewMemory(2)
			b, second := net.alone(t, f, 2, 5)
			ctx := testContext(t)
			want := commands(20, 100)
			for _, command := range want {
				propose(t, first, 2, command)
			}
			gate := make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			defer open()
			fault := f.Inject(vfs.Rule{Op: vfs.OpRead, Path: snapshotDir, Delay: func() { <-gate }})
			if err := errors.Join(second.Create(ctx, 2, 102), first.Group(2).AddLearner(ctx, 102)); err != nil {
				t.Fatal(err)
			}
			c := second.core.Load()
			look := func(what func(r *replica) bool) func() bool {
				return func() (yes bool) {
					if err := c.ask(ctx, func() error { yes = what(c.find(2)); return nil }); err != nil {
						t.Fatal(err)
					}
					return yes
				}
			}
			expect.Soon(t, "the state is being filled", look(func(r *replica) bool { return r.filling && !r.caughtUp.Load() }))
			expect.Soon(t, "the filling is held up", func() bool { return fault.Fired() > 0 })
			for i := range 20 {
				propose(t, second, 5, fmt.Sprint("other group ", i))
				want = append(want, fmt.Sprint("behind the snapshot ", i))
				propose(t, first, 2, want[len(want)-1])
			}
			expect.Soon(t, "the group goes on", look(func(r *replica) bool { return r.filling && r.handed >= pointOf(t, first, 2).index }))
			short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			if err := second.Checkpoint(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a checkpoint of half a state: %v", err)
			}
			if crash {
				f = f.Crash()
				open()
				_ = second.Close() // its file system is gone
				second = b.on(f).open(t)
				net.attach(2, second)
			}
			open()
			wantAlike(t, 2, first, second)
			wantItems(t, second, 2, want)
			if list, err := items(second, 5); err != nil || len(list) != 20 {
				t.Fatalf("%d items of the other group, %v", len(list), err)
			}
			closeHost(t, first)
			closeHost(t, second)
		})
	}
}

// TestAReplicaWithoutItsSnapshotSaysSo takes the state and every copy of the snapshot away.
func TestAReplicaWithoutItsSnapshotSaysSo(t *testing.T) {
	net := newNetwork()
	_, first := net.alone(t, vfs.NewMemory(1), 1, 1, 2)
	propose(t, first, 2, "kept")
	f := vfs.NewMemory(2)
	b, second := net.alone(t, f, 2, 5)
	ctx := testContext(t)
	if err := errors.Join(second.Create(ctx, 2, 102), first.Group(2).AddLearner(ctx, 102)); err != nil {
		t.Fatal(err)
	}
	wantAlike(t, 2, first, second)
	f = f.Crash()
	_ = second.Close() // its file system is gone
	b = b.on(f)
	away := map[string]string{}
	for i, m := range b.config.Mirrors {
		source, target := m.Dir+snapshotDir, fmt.Sprintf("/away%d", i)
		if err := f.Move(source, target); err == nil {
			away[target] = source
		}
	}
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(ctx, b.config); !errors.Is(err, ErrLogDamaged) {
			t.Fatalf("open without the snapshot: %v", err)
		}
	}
	for target, source := range away {
		if err := f.RemoveAll(source); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := f.Move(target, source); err != nil {
			t.Fatal(err)
		}
	}
	second = b.open(t)
	net.attach(2, second)
	wantItems(t, second, 2, []string{"kept"})
	closeHost(t, first)
	closeHost(t, second)
}
