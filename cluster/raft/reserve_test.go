package raft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestAFullDiskLeavesRoomForDeletes fills the file system: names stay readable and a few more commands pass, and all is
// as before when space returns.
func TestAFullDiskLeavesRoomForDeletes(t *testing.T) {
	t.Run("with the next segments", func(t *testing.T) { fullDisk(t, false) })
	// Five segments of a log on the same device would take the reserve and more.
	t.Run("before they are made", func(t *testing.T) { fullDisk(t, true) })
}

func fullDisk(t *testing.T, early bool) {
	f := vfs.NewMemory(1)
	var late *vfs.Fault
	if early {
		// The first segments are made by Bootstrap, those after them by the keeper.
		late = f.Inject(vfs.Rule{Op: vfs.OpOpen, Path: logDir + "/new" + temporarySuffix, After: 5, Hang: true})
	}
	b := newBench(t, f, 12)
	b.config.WriteBuffer = 16 << 10
	h := b.bootstrap(t)
	var want []string
	say := func(command string) {
		t.Helper()
		propose(t, h, 1, command)
		want = append(want, command)
	}
	for i := range 50 {
		say(fmt.Sprintf("before-%d", i))
	}
	expect.Soon(t, "the reserve", h.reserved.Load)
	usage, err := f.Usage("/")
	if err != nil {
		t.Fatal(err)
	}
	f.SetCapacity(max(1, usage.Total-usage.Free))
	if early {
		expect.Soon(t, "the next segments to be made", func() bool { return late.Fired() >= 5 })
		late.Clear()
	}
	for i := range 40 {
		say(fmt.Sprintf("full-%d-%s", i, strings.Repeat("x", 100)))
		wantItems(t, h, 1, want)
	}
	if !h.Scarce() {
		t.Fatal("the reserve was not needed")
	}
	f.SetCapacity(0)
	expect.Soon(t, "a new reserve", func() bool { return !h.Scarce() && h.reserved.Load() })
	say("after")
	wantItems(t, h, 1, want)
	closeHost(t, h)
	h = b.open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
}
