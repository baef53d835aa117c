package raft

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestACheckpointGoesAroundAMirrorThatHangs hangs every operation on the checkpoints of one mirror, while nothing is
// appended that would find it out.
func TestACheckpointGoesAroundAMirrorThatHangs(t *testing.T) {
	t.Parallel()
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.SlowMirror = 100 * time.Millisecond
	h := b.bootstrap(t)
	propose(t, h, 1, "kept")
	bad := h.Mirrors().Members[1]
	fault := f.Inject(vfs.Rule{Path: bad.Dir + checkpointDir, Hang: true})
	done := make(chan error, 1)
	go func() { done <- h.Checkpoint(context.Background()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the checkpoint hangs with its mirror")
	}
	if fault.Fired() == 0 {
		t.Fatal("nothing hung")
	}
	expect.Soon(t, "another mirror takes its place", func() bool {
		members := h.Mirrors().Members
		for _, m := range members {
			if m == bad {
				return false
			}
		}
		return len(members) == 5
	})
	propose(t, h, 1, "more")
	fault.Clear()
	closeHost(t, h)
	h = b.open(t)
	wantItems(t, h, 1, []string{"kept", "more"})
	closeHost(t, h)
}

// TestCloseLeavesAMirrorThatHangsBehind closes a host while a mirror hangs in a write that everybody else has done.
func TestCloseLeavesAMirrorThatHangsBehind(t *testing.T) {
	t.Parallel()
	f := vfs.NewMemory(2)
	b := newBench(t, f, 12)
	b.config.SlowMirror = time.Second
	h := b.bootstrap(t)
	fault := f.Inject(vfs.Rule{Path: h.Mirrors().Members[1].Dir + logDir, Op: vfs.OpSync, Hang: true})
	propose(t, h, 1, "kept")
	if fault.Fired() == 0 {
		t.Fatal("nothing hung")
	}
	begun := time.Now()
	if err := h.Close(); err == nil {
		t.Error("nothing is said of the mirror that hangs")
	}
	if took := time.Since(begun); took > 8*time.Second { // three where the machine does nothing else
		t.Errorf("Close took %v", took)
	}
	fault.Clear()
	h = b.open(t)
	wantItems(t, h, 1, []string{"kept"})
	closeHost(t, h)
}
