package raft

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestWhatAKilledProcessLeftSurvivesAPowerLoss kills a host under load, opens it again, and cuts the power: what was
// acknowledged in either life is there, and so is what the second life had read from page caches and shown.
func TestWhatAKilledProcessLeftSurvivesAPowerLoss(t *testing.T) {
	t.Parallel()
	runs := 60
	if testing.Short() {
		runs = 15
	}
	acked, shown := 0, 0
	for seed := range uint64(runs) {
		f := vfs.NewMemory(seed)
		b := newBench(t, f, 12)
		h := b.bootstrap(t)
		first := startLoad(h, 4, 2*seed)
		target := 100 + int(seed*37%200)
		expect.Soon(t, "load is acknowledged", func() bool { return first.count() >= target })
		if seed%3 == 0 { // the keeper stands between the name of a segment and its sync
			hang := f.Inject(vfs.Rule{Op: vfs.OpSyncDir, Path: logDir, Hang: true})
			expect.Soon(t, "a segment is made", func() bool { return hang.Fired() > 0 })
		}
		f = f.Kill()
		first.end()
		closeDead(t, h)
		b = b.on(f)
		h = b.open(t)
		seen, err := items(h, 1)
		if err != nil {
			t.Fatal(err)
		}
		second := startLoad(h, 1+int(seed%4), 2*seed+1)
		target = int(seed % 3 * 40)
		expect.Soon(t, "load is acknowledged again", func() bool { return second.count() >= target })
		f = f.Crash()
		second.end()
		closeDead(t, h)
		h = b.on(f).open(t)
		list, err := items(h, 1)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := checkLives([]*load{first, second}, list); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(list) < len(seen) || !slices.Equal(list[:len(seen)], seen) {
			t.Fatalf("seed %d: %d commands were shown after the kill, %d are there after the power loss", seed, len(seen), len(list))
		}
		acked, shown = acked+len(first.acked)+len(second.acked), shown+len(seen)
		closeHost(t, h)
	}
	t.Logf("%d acknowledged and %d shown commands survived %d runs", acked, shown, runs)
}

// TestASyncThatFailsOnEveryMirrorLosesNothingAcknowledged fails the sync of one append on all mirrors at once, as one
// device under all directories does. Page caches then show a frame that no medium holds and no later sync writes. The
// host goes on, in the same process or in the next, and then the power is cut.
func TestASyncThatFailsOnEveryMirrorLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	runs := 60
	if testing.Short() {
		runs = 10
	}
	for seed := range uint64(runs) {
		f := vfs.NewMemory(seed)
		b := newBench(t, f, 12)
		h := b.bootstrap(t)
		long := strings.Repeat("y", 9000) // pages of its own, which the next append does not write again
		for i := range 1 + int(seed%12) {
			propose(t, h, 1, fmt.Sprintf("%d%s", i, long[:i*700]))
		}
		fault := f.Inject(vfs.Rule{Op: vfs.OpSync, Path: segmentSuffix, Err: syscall.EIO, Times: 5})
		if _, err := h.Group(1).Propose(testContext(t), []byte("hit"+long)); err == nil {
			t.Fatal("an append that failed everywhere was acknowledged")
		}
		if fault.Fired() != 5 {
			t.Fatalf("%d syncs failed", fault.Fired())
		}
		if seed%2 == 0 {
			f = f.Kill()
			closeDead(t, h)
			h = b.on(f).open(t)
		}
		expect.Soon(t, "the host goes on", func() bool {
			_, err := h.Group(1).Propose(testContext(t), fmt.Appendf(nil, "long%s", long))
			return err == nil
		})
		seen, err := items(h, 1)
		if err != nil {
			t.Fatal(err)
		}
		f = f.Crash()
		closeDead(t, h)
		h, err = Open(testContext(t), b.on(f).config)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		list, err := items(h, 1)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(list) < len(seen) || !slices.Equal(list[:len(seen)], seen) {
			t.Fatalf("seed %d: %d commands were shown, %d are there after the power loss", seed, len(seen), len(list))
		}
		closeHost(t, h)
	}
}

// TestASegmentWhoseNameIsNotDurableTakesNoAppend fails every sync of the log directories: a segment made meanwhile has a
// name that a power loss takes away, with all that was appended to it.
func TestASegmentWhoseNameIsNotDurableTakesNoAppend(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		f := vfs.NewMemory(seed)
		b := newBench(t, f, 12)
		h := b.bootstrap(t)
		fault := f.Inject(vfs.Rule{Op: vfs.OpSyncDir, Path: logDir, Err: syscall.EIO})
		l := startLoad(h, 4, seed)
		expect.Soon(t, "several segments are filled or the log ends", func() bool { return l.count() >= 1500 || h.Failed() != nil })
		if fault.Fired() == 0 || l.count() == 0 {
			t.Fatalf("%d syncs failed, %d commands were acknowledged", fault.Fired(), l.count())
		}
		f = f.Crash()
		l.end()
		closeDead(t, h)
		h, err := Open(testContext(t), b.on(f).config)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		list, err := items(h, 1)
		if err == nil {
			err = l.check(list)
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		closeHost(t, h)
	}
}

// TestAWriteThatHungDoesNotComeLate hangs one append on every mirror until the log is given up, lets later operations
// pass, and lets the hung writes go at the end: they must not replace what was acknowledged meanwhile.
func TestAWriteThatHungDoesNotComeLate(t *testing.T) {
	t.Parallel()
	seeds := uint64(2)
	if long() {
		seeds = 4
	}
	for seed := range seeds {
		f := vfs.NewMemory(seed)
		b := newBench(t, f, 12)
		b.config.SlowMirror = 30 * time.Millisecond
		h := b.bootstrap(t)
		for i := range 1 + int(seed) {
			propose(t, h, 1, fmt.Sprint("before ", i))
		}
		fault := f.Inject(vfs.Rule{Op: vfs.OpWrite, Path: segmentSuffix, Hang: true, Times: 5})
		if _, err := h.Group(1).Propose(testContext(t), []byte("hung")); err == nil || fault.Fired() != 5 {
			t.Fatalf("propose: %v, %d writes hang", err, fault.Fired())
		}
		var acked []string
		tick := time.NewTicker(50 * time.Millisecond)
		for i := range 60 { // whether it is taken or refused now, it says so
			<-tick.C
			ctx, cancel := context.WithTimeout(testContext(t), time.Second)
			command := fmt.Sprint("after ", i)
			if _, err := h.Group(1).Propose(ctx, []byte(command)); err == nil {
				acked = append(acked, command)
			}
			cancel()
		}
		tick.Stop()
		fault.Clear()
		expect.Soon(t, "the host takes proposals again", func() bool {
			ctx, cancel := context.WithTimeout(testContext(t), time.Second)
			defer cancel()
			_, err := h.Group(1).Propose(ctx, []byte("after all"))
			return err == nil
		})
		acked = append(acked, "after all")
		f = f.Crash()
		closeDead(t, h)
		h, err := Open(testContext(t), b.on(f).config)
		if err != nil {
			t.Fatalf("seed %d: %v (%d were acknowledged while writes hung)", seed, err, len(acked)-1)
		}
		list, err := items(h, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range acked {
			if !slices.Contains(list, command) {
				t.Fatalf("seed %d: %q was acknowledged and is gone; there is %q", seed, command, list)
			}
		}
		closeHost(t, h)
	}
}
