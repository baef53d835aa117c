package raft

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// long tells whether the long forms of the tests run, as in `make crash`: they go on where the short ones end.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// TestPowerLossLosesNothingAcknowledged cuts the power of everything at once under load, in 150 clusters, in its long
// form in 300: logs, checkpoints and state are on the same file system. Some runs go through several losses, some take
// checkpoints meanwhile.
func TestPowerLossLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	runs := 150
	switch {
	case long():
		runs = 300
	case testing.Short():
		runs = 30
	}
	acked := 0
	for seed := range uint64(runs) {
		f := vfs.NewMemory(seed)
		b := newBench(t, f, 12)
		b.config.CheckpointBytes = 96 << 10
		h := b.bootstrap(t)
		var lives []*load
		for life := range 1 + int(seed%3) {
			l := startLoad(h, 3, seed*10+uint64(life))
			target := 5 + int(seed*7%60)
			expect.Soon(t, "load is acknowledged", func() bool { return l.count() >= target })
			if seed%5 == 0 {
				if err := h.Checkpoint(testContext(t)); err != nil {
					t.Fatal(err)
				}
			}
			f = f.Crash()
			l.end()
			closeDead(t, h)
			b = b.on(f)
			h = b.open(t)
			list, err := items(h, 1)
			if err != nil {
				t.Fatalf("seed %d life %d: %v", seed, life, err)
			}
			lives = append(lives, l)
			if err := checkLives(lives, list); err != nil {
				t.Fatalf("seed %d life %d: %v", seed, life, err)
			}
			acked += len(l.acked)
		}
		closeHost(t, h)
	}
	t.Logf("%d acknowledged commands survived %d runs", acked, runs)
}

// checkLives is check for loads that went one after another onto the same log.
func checkLives(lives []*load, list []string) error {
	all := &load{acked: map[string]uint64{}, tried: map[string]bool{}}
	for _, l := range lives {
		maps.Copy(all.acked, l.acked)
		maps.Copy(all.tried, l.tried)
	}
	return all.check(list)
}

// closeDead ends a host whose file system lost power.
func closeDead(t *testing.T, h *Host) {
	t.Helper()
	// Whether the log was open when the power went, and so whether closing it failed, is left to chance.
	_ = h.Close()
}

// TestAnyFourDrivesMayBeMissing removes every set of 1 to 4 of 12 drives, and every third time the state too, and
// opens the rest. Names of drives stand in the log's member list, so all 793 sets differ in what is left.
func TestAnyFourDrivesMayBeMissing(t *testing.T) {
	t.Parallel()
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprintf("command %d", i))
		propose(t, h, 1, want[i])
	}
	closeHost(t, h)
	sets := 0
	for mask := range 1 << 12 {
		var gone []int
		for i := range 12 {
			if mask&(1<<i) != 0 {
				gone = append(gone, i)
			}
		}
		if len(gone) == 0 || len(gone) > 4 {
			continue
		}
		if testing.Short() && sets%20 != 0 {
			sets++
			continue
		}
		sets++
		g := f.Kill() // a copy; the one before it ends
		f = g
		part := copyTree(t, g)
		for _, i := range gone {
			if err := part.RemoveAll(driveDir(i)); err != nil {
				t.Fatal(err)
			}
		}
		if sets%3 == 0 {
			if err := part.RemoveAll(b.config.StateDir); err != nil {
				t.Fatal(err)
			}
		}
		h, err := Open(testContext(t), b.on(part).config)
		if err != nil {
			t.Fatalf("without drives %v: %v", gone, err)
		}
		wantItems(t, h, 1, want)
		propose(t, h, 1, "one more")
		closeHost(t, h)
	}
	if sets != 793 {
		t.Fatalf("%d sets, want 793", sets)
	}
}

// copyTree copies the drives and the state of a file system into a new one.
func copyTree(t *testing.T, f *vfs.Memory) *vfs.Memory {
	t.Helper()
	to := vfs.NewMemory(2)
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := f.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := vfs.MkdirAll(to, dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := dir + "/" + e.Name()
			if e.IsDir() {
				walk(name)
				continue
			}
			data, err := vfs.ReadFile(f, name, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			if err := vfs.WriteFile(to, name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	walk(drivesRoot)
	walk("/main")
	return to
}

// TestFiveMissingDrivesAreWaitedFor takes five drives away, wherever the mirrors are, and brings one back.
func TestFiveMissingDrivesAreWaitedFor(t *testing.T) {
	for first := range 8 {
		f := vfs.NewMemory(1)
		b := newBench(t, f, 12)
		h := b.bootstrap(t)
		propose(t, h, 1, "kept")
		closeHost(t, h)
		for i := first; i < first+5; i++ {
			if err := f.Move(driveDir(i), fmt.Sprintf("/away%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, err := Open(testContext(t), b.config); !errors.Is(err, ErrLogLost) {
				t.Fatalf("open without drives %d to %d: %v", first, first+4, err)
			}
		}
		if err := f.Move(fmt.Sprintf("/away%d", first+3), driveDir(first+3)); err != nil {
			t.Fatal(err)
		}
		h = b.open(t)
		wantItems(t, h, 1, []string{"kept"})
		closeHost(t, h)
	}
}

// TestStaleMirrorsAreNotTrusted lets the members of an old set come back alone after the log went on without them.
func TestStaleMirrorsAreNotTrusted(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	propose(t, h, 1, "old")
	old := h.Mirrors().Members
	for i, m := range old[:4] {
		if err := f.Move(m.Dir, fmt.Sprintf("/away%d", i)); err != nil {
			t.Fatal(err)
		}
		propose(t, h, 1, fmt.Sprintf("new %d", i))
		h.DriveDown(m.Drive)
	}
	expect.Soon(t, "five mirrors again", func() bool { return len(h.Mirrors().Members) == 5 })
	if s := h.Mirrors(); s.Tolerated < 2 {
		t.Fatalf("with 4 of 12 gone: %+v", s)
	}
	propose(t, h, 1, "newest")
	want, err := items(h, 1)
	if err != nil {
		t.Fatal(err)
	}
	now := h.Mirrors().Members
	closeHost(t, h)
	for i, m := range old[:4] {
		if err := f.Move(fmt.Sprintf("/away%d", i), m.Dir); err != nil {
			t.Fatal(err)
		}
	}
	// Three of the new mirrors are lost, the stale ones are here: the rest decides.
	for _, m := range now[:3] {
		if !slices.Contains(old[:4], m) {
			if err := f.RemoveAll(m.Dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	h = b.open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
}

// TestOnlyStaleDrivesAreAnError leaves only drives that the log went on without.
func TestOnlyStaleDrivesAreAnError(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	propose(t, h, 1, "old")
	for i := range 4 {
		if err := f.Move(driveDir(i), fmt.Sprintf("/away%d", i)); err != nil {
			t.Fatal(err)
		}
		h.DriveDown(driveID(i))
	}
	propose(t, h, 1, "new")
	closeHost(t, h)
	for i := range 4 {
		if err := f.Move(fmt.Sprintf("/away%d", i), driveDir(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 4; i < 12; i++ {
		if err := f.Move(driveDir(i), fmt.Sprintf("/away%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(testContext(t), b.config); !errors.Is(err, ErrLogLost) {
		t.Fatalf("open with stale drives alone: %v", err)
	}
}

// TestFailedSyncsLoseNothing injects errors into each kind of file under load.
func TestFailedSyncsLoseNothing(t *testing.T) {
	for _, rule := range []vfs.Rule{
		{Op: vfs.OpSync, Path: "d01/names/log/", Err: syscall.EIO},
		{Op: vfs.OpSync, Path: "/names/log/", After: 40, Times: 1, Err: syscall.EIO},
		{Op: vfs.OpWrite, Path: "d02/names/log/", After: 10, Times: 1, Short: true},
		{Op: vfs.OpWrite, Path: "d03/names/log/", After: 3, Err: syscall.ENOSPC},
		{Op: vfs.OpSync, Path: "d04/names/checkpoint/", Err: syscall.EIO},
		{Op: vfs.OpSync, Path: "d05/names/mirrors", Err: syscall.EIO},
		{Op: vfs.OpRename, Path: "d02/names/checkpoint/", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpWrite, Path: "/main/raft/state/", After: 30, Times: 1, Err: syscall.EIO},
		{Op: vfs.OpSync, Path: "/main/raft/state/", After: 1, Times: 1, Err: syscall.EIO},
		{Op: vfs.OpSyncDir, Path: "/main/raft/state", After: 1, Times: 1, Err: syscall.EIO},
	} {
		t.Run(string(rule.Op)+rule.Path, func(t *testing.T) {
			f := vfs.NewMemory(1)
			b := newBench(t, f, 12)
			b.config.WriteBuffer = 16 << 10
			h := b.bootstrap(t)
			fault := f.Inject(rule)
			l := startLoad(h, 4, 7)
			for range 3 {
				at := l.count()
				expect.Soon(t, "load goes on", func() bool { return l.count() >= at+100 })
				if err := h.Checkpoint(testContext(t)); err != nil && !errors.Is(err, ErrStopped) && !errors.Is(err, kv.ErrBroken) {
					t.Logf("checkpoint: %v", err)
				}
			}
			h.DriveDown(driveID(11)) // a new set is written on every drive
			expect.Soon(t, "the fault fires", func() bool { return fault.Fired() > 0 })
			at := l.count()
			expect.Soon(t, "load goes on after the fault", func() bool { return l.count() >= at+100 })
			l.end()
			expect.Soon(t, "five mirrors", func() bool { return len(h.Mirrors().Members) == 5 })
			fault.Clear()
			list, err := items(h, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.check(list); err != nil {
				t.Fatal(err)
			}
			f = f.Crash()
			closeDead(t, h)
			h = b.on(f).open(t)
			if list, err = items(h, 1); err != nil {
				t.Fatal(err)
			}
			if err := l.check(list); err != nil {
				t.Fatal(err)
			}
			closeHost(t, h)
		})
	}
}

// TestMirrorsMayDieOneAfterAnother moves drives away under load, without a word to the host, then all of the mirrors
// at once, and brings them back.
func TestMirrorsMayDieOneAfterAnother(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	l := startLoad(h, 4, 3)
	for i := range 6 {
		at := l.count()
		expect.Soon(t, "load goes on", func() bool { return l.count() >= at+50 })
		expect.Soon(t, "five mirrors", func() bool { return len(h.Mirrors().Members) == 5 })
		m := h.Mirrors().Members[i%5]
		if err := f.Move(m.Dir, "/away"+m.Drive.String()); err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "the mirror is dropped", func() bool { return !slices.Contains(h.Mirrors().Members, m) })
	}
	at := l.count()
	expect.Soon(t, "load goes on", func() bool { return l.count() >= at+50 })
	expect.Soon(t, "five mirrors on six drives", func() bool { return len(h.Mirrors().Members) == 5 })
	members := h.Mirrors().Members
	for _, m := range members {
		if err := f.Move(m.Dir, "/away"+m.Drive.String()); err != nil {
			t.Fatal(err)
		}
	}
	l.wait.Wait() // every worker gets an error that is not about an unknown outcome
	if err := h.Failed(); !errors.Is(err, ErrLogLost) && err == nil {
		t.Fatalf("host without mirrors: %v", err)
	}
	for _, m := range members {
		if err := f.Move("/away"+m.Drive.String(), m.Dir); err != nil {
			t.Fatal(err)
		}
		h.DriveUp(m)
	}
	expect.Soon(t, "the host serves again", func() bool { return h.Failed() == nil })
	propose(t, h, 1, "get")
	list, err := items(h, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.check(list); err != nil {
		t.Fatal(err)
	}
	closeHost(t, h)
}

// TestNothingIsAcknowledgedOnMovedDrivesAlone moves directories away between two commands. Writes into the open files
// still succeed then, so only a look at the path can tell.
func TestNothingIsAcknowledgedOnMovedDrivesAlone(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	propose(t, h, 1, "before")
	members := h.Mirrors().Members
	for _, m := range members[:4] {
		if err := f.Move(m.Dir, "/away"+m.Drive.String()); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, h, 1, "on one")
	if got := h.Mirrors().Members; !slices.Contains(got, members[4]) || slices.Contains(got, members[0]) {
		t.Fatalf("mirrors after four were moved away: %v", got)
	}
	expect.Soon(t, "five mirrors", func() bool { return len(h.Mirrors().Members) == 5 })
	for _, m := range h.Mirrors().Members {
		if err := f.Move(m.Dir, "/away"+m.Drive.String()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Group(1).Propose(testContext(t), []byte("on none")); err == nil {
		t.Fatal("acknowledged on directories that were moved away")
	}
	closeDead(t, h)
}

// TestAHungMirrorIsLeftBehind makes one mirror's writes hang.
func TestAHungMirrorIsLeftBehind(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.SlowMirror = 100_000_000
	h := b.bootstrap(t)
	propose(t, h, 1, "before")
	m := h.Mirrors().Members[2]
	fault := f.Inject(vfs.Rule{Op: vfs.OpSync, Path: m.Dir, Hang: true})
	propose(t, h, 1, "during")
	if fault.Fired() == 0 {
		t.Fatal("nothing hung")
	}
	if slices.Contains(h.Mirrors().Members, m) {
		t.Fatal("the hung mirror is still a member")
	}
	expect.Soon(t, "five mirrors", func() bool { return len(h.Mirrors().Members) == 5 })
	propose(t, h, 1, "after")
	fault.Clear()
	wantItems(t, h, 1, []string{"before", "during", "after"})
	closeHost(t, h)
	h = b.open(t)
	wantItems(t, h, 1, []string{"before", "during", "after"})
	closeHost(t, h)
}

// Many bytes in the page cache would hold up the appends when they are synced at last.
func TestPacedCheckpointSyncsAsItGoes(t *testing.T) {
	f := vfs.NewMemory(1)
	h := newBench(t, f, 12).bootstrap(t)
	defer closeHost(t, h)
	l := h.core.Load().log
	l.mu.Lock()
	members := l.drivesOf(l.set.members)
	l.mu.Unlock()
	syncs := f.Inject(vfs.Rule{Op: vfs.OpSync, Path: checkpointDir + "/new" + temporarySuffix})
	w := l.newBlocks(members, checkpointFile(99), true)
	const blocks = 3
	for range blocks {
		if err := w.add(t.Context(), blockMagic, make([]byte, paceBytes), false); err != nil {
			t.Fatal(err)
		}
	}
	if n, want := syncs.Fired(), blocks*len(members); n != want {
		t.Errorf("%d syncs of %d files while %d x %d bytes were written, want %d", n, len(members), blocks, paceBytes, want)
	}
	if err := w.abandon(); err != nil {
		t.Fatal(err)
	}
}

// TestCheckpointsBoundTheLog writes many segments' worth and looks at what is retained.
func TestCheckpointsBoundTheLog(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.CheckpointBytes = 4 * minSegment
	h := b.bootstrap(t)
	l := startLoad(h, 4, 3)
	expect.Soon(t, "the log lost its beginning", func() bool {
		c := h.core.Load()
		c.log.mu.Lock()
		defer c.log.mu.Unlock()
		return c.log.segments[0].number > 20
	})
	l.end()
	c := h.core.Load()
	c.checkpointing.Lock()
	// The log reaches back to the checkpoint before the last, and grows while a checkpoint is written.
	bound := int(2*max(c.host.config.CheckpointBytes, 2*c.lastSize)/minSegment) + 4
	c.checkpointing.Unlock()
	for _, m := range h.Mirrors().Members {
		d := drive{fs: f, dir: m.Dir}
		segments, err := d.numbers(logDir, segmentSuffix)
		if err != nil || len(segments) > bound {
			t.Fatalf("drive %s has %d segments of at most %d, %v", m.Dir, len(segments), bound, err)
		}
	}
	for round := range 4 {
		f = f.Crash()
		closeDead(t, h)
		b = b.on(f)
		if round%2 == 0 {
			if err := f.RemoveAll(b.config.StateDir); err != nil {
				t.Fatal(err)
			}
		}
		h = b.open(t)
		list, err := items(h, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.check(list); err != nil {
			t.Fatal(err)
		}
	}
	closeHost(t, h)
}
