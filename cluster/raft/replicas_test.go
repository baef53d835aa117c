package raft

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// pointOf is how far a group is applied on a host.
func pointOf(t testing.TB, h *Host, g GroupID) (point applied) {
	t.Helper()
	c := h.core.Load()
	err := c.ask(testContext(t), func() error {
		if r := c.find(g); r != nil && !r.filling {
			point = r.point
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return point
}

// wantAlike waits until a group is at the same point of history on all hosts.
func wantAlike(t testing.TB, g GroupID, hosts ...*Host) {
	t.Helper()
	expect.Soon(t, fmt.Sprintf("group %d is alike on %d hosts", g, len(hosts)), func() bool {
		first := pointOf(t, hosts[0], g)
		for _, h := range hosts[1:] {
			if pointOf(t, h, g) != first {
				return false
			}
		}
		return first.index > 0
	})
}

// restart closes a host without a word to its file system and opens what the crash left.
func restart(t testing.TB, b *bench, h *Host, crash func() *vfs.Memory) (*bench, *Host) {
	t.Helper()
	f := crash()
	_ = h.Close() // its file system is gone
	b = b.on(f)
	return b, b.open(t)
}

func TestAGroupBeginsAtRunTime(t *testing.T) {
	net := newNetwork()
	hosts := threeHosts(t, net, 1)
	for i, h := range hosts {
		for range 2 { // the second time it is there
			if err := h.Create(testContext(t), 7, uint64(i+1), 1, 2, 3); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Create(testContext(t), 7, 9, 9); !errors.Is(err, ErrReplicaExists) {
			t.Fatalf("another replica beside the first: %v", err)
		}
		if err := h.Create(testContext(t), 8, 1, 2, 3); err == nil {
			t.Fatal("a replica that is none of its voters was made")
		}
	}
	for i := range 10 {
		say(t, 7, fmt.Sprint("command ", i), hosts...)
	}
	wantAlike(t, 7, hosts...)
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestRemovedReplicasNeverComeBack removes a replica and tries everything that could bring it back, across restarts with
// and without a checkpoint and a state.
func TestRemovedReplicasNeverComeBack(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newNetwork().join(newBench(t, f, 12), 1)
	h := b.bootstrap(t)
	if err := h.Create(testContext(t), 7, 5, 5); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		say(t, 7, fmt.Sprint("command ", i), h)
	}
	late := h.Group(7)
	if err := h.Remove(testContext(t), 7, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Propose(testContext(t), []byte("late")); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("propose to a removed replica: %v", err)
	}
	if list := countKeys(t, h, 7); list != 0 {
		t.Fatalf("%d keys of a removed replica are left", list)
	}
	check := func(when string) {
		t.Helper()
		for _, id := range []uint64{4, 5} {
			if err := h.Create(testContext(t), 7, id, id); !errors.Is(err, ErrReplicaRemoved) {
				t.Fatalf("%s: create replica %d again: %v", when, id, err)
			}
		}
		if err := h.Remove(testContext(t), 7, 5); err != nil {
			t.Fatalf("%s: remove it again: %v", when, err)
		}
		for _, to := range []uint64{5, 6} {
			message := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: ptr(1), To: ptr(to), Term: ptr(9)}
			batch := newBatch(b.config.Cluster)
			if err := batch.add(GroupMessage{7, message}); err != nil {
				t.Fatal(err)
			}
			if err := h.Receive(batch.take()); err != nil {
				t.Fatal(err)
			}
		}
		propose(t, h, 1, when)
		if h.Group(7) != nil {
			t.Fatalf("%s: the group is back", when)
		}
	}
	check("removed")
	b, h = restart(t, b, h, f.Kill)
	check("after a restart")
	if err := h.Checkpoint(testContext(t)); err != nil {
		t.Fatal(err)
	}
	f = b.config.FS.(*vfs.Memory)
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	b, h = restart(t, b, h, f.Crash)
	check("after a restart from a checkpoint")
	// Another replica takes the place.
	if err := h.Create(testContext(t), 7, 6, 6); err != nil {
		t.Fatal(err)
	}
	say(t, 7, "new", h)
	b, h = restart(t, b, h, b.config.FS.(*vfs.Memory).Crash)
	wantItems(t, h, 7, []string{"new"})
	for range 2 { // the log lets go of everything before
		if err := h.Checkpoint(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	f = b.config.FS.(*vfs.Memory)
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	_, h = restart(t, b, h, f.Crash)
	wantItems(t, h, 7, []string{"new"})
	closeHost(t, h)
}

// cutPower cuts the power before the n-th operation from now. What it returns cuts it at the latest, and tells what is left
// and whether the operation came.
func cutPower(f *vfs.Memory, n int) func() (after *vfs.Memory, fired bool) {
	var once sync.Once
	var after *vfs.Memory
	fired := false
	f.Inject(vfs.Rule{After: n, Times: 1, Delay: func() { once.Do(func() { after, fired = f.Crash(), true }) }})
	return func() (*vfs.Memory, bool) {
		once.Do(func() { after = f.Crash() })
		return after, fired
	}
}

// countKeys counts the keys of a group's machine.
func countKeys(t testing.TB, h *Host, g GroupID) (n int) {
	t.Helper()
	it := h.Group(1).State().Iterate((&counter{group: g}).Spans()[0])
	defer it.Close()
	for it.Next() {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPowerLossWhileReplicasComeAndGo cuts the power at every operation of a file system while a replica is removed, and
// the next one created, both of which must have happened wholly or not at all.
func TestPowerLossWhileReplicasComeAndGo(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 5
	}
	cuts := 0
	for n := 0; ; n += step {
		f := vfs.NewMemory(uint64(n))
		b := newBench(t, f, 3)
		h, err := Bootstrap(testContext(t), b.config, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Create(testContext(t), 7, 1, 1); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			say(t, 7, fmt.Sprint("old ", i), h)
		}
		cut := cutPower(f, n)
		removed := h.Remove(testContext(t), 7, 1)
		created := errors.New("not asked")
		if removed == nil {
			created = h.Create(testContext(t), 7, 2, 2)
		}
		after, fired := cut()
		_ = h.Close() // its file system is gone
		h = b.on(after).open(t)
		err = h.Create(testContext(t), 7, 1, 1)
		switch {
		case h.Group(7) == nil:
			if created == nil || !errors.Is(err, ErrReplicaRemoved) {
				t.Fatalf("cut %d: created %v, the old one again %v", n, created, err)
			}
			if keys := countKeys(t, h, 7); keys != 0 {
				t.Fatalf("cut %d: %d keys are left of a removed replica", n, keys)
			}
			if err := h.Create(testContext(t), 7, 2, 2); err != nil {
				t.Fatal(err)
			}
			say(t, 7, "new", h)
			wantItems(t, h, 7, []string{"new"})
		case err == nil: // the old one
			if removed == nil {
				t.Fatalf("cut %d: the removed replica is back", n)
			}
			wantItems(t, h, 7, []string{"old 0", "old 1", "old 2", "old 3"})
		case errors.Is(err, ErrReplicaExists): // the new one
			say(t, 7, "new", h)
			wantItems(t, h, 7, []string{"new"})
		default:
			t.Fatalf("cut %d: %v", n, err)
		}
		closeHost(t, h)
		if !fired {
			break
		}
		cuts++
	}
	t.Logf("power was cut %d times", cuts)
	if cuts < 5 {
		t.Errorf("only %d cuts", cuts)
	}
}
