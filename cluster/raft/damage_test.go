package raft

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// smallLog makes a host with few commands and closes it so that the log has no checkpoint. It returns the commands and
// the file system.
func smallLog(t *testing.T) (*bench, *vfs.Memory, []string, []Mirror) {
	t.Helper()
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.closeCheckpointMin = 1 << 40
	h := b.bootstrap(t)
	var want []string
	for i := range 4 {
		want = append(want, fmt.Sprintf("command %d", i))
		propose(t, h, 1, want[i])
	}
	members := h.Mirrors().Members
	closeHost(t, h)
	return b, f, want, members
}

// used is the length of the log in the only segment of a drive.
func used(t *testing.T, b *bench, f vfs.FS, dir string) (name string, length int64) {
	t.Helper()
	name = dir + logDir + "/0000000000000001.seg"
	data, err := vfs.ReadFile(f, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(segmentHeader)
	for {
		fr, err := decodeFrame(data[end:], b.config.Cluster, place{1, end})
		if err != nil {
			return name, end
		}
		end += fr.size
	}
}

// TestFlippedBytesAreRepaired flips bytes all over the log on one mirror, or on all mirrors but one, and wants
// the commands exactly and the log rewritten. The state is removed, so everything comes from the log.
func TestFlippedBytesAreRepaired(t *testing.T) {
	t.Parallel()
	b, f, want, members := smallLog(t)
	_, length := used(t, b, f, members[0].Dir)
	const step = 29 // every byte is flipped in TestEveryFlippedByteReadsRight; here the whole host starts
	for off := int64(0); off < length; off += step {
		part := copyTree(t, f)
		if err := part.RemoveAll(b.config.StateDir); err != nil {
			t.Fatal(err)
		}
		hurt := members[:1]
		if off%2 == 0 {
			hurt = members[1:]
		}
		for _, m := range hurt {
			flip(t, part, m.Dir+logDir+"/0000000000000001.seg", off)
		}
		h := b.on(part).open(t)
		wantItems(t, h, 1, want)
		end, err := vfs.ReadFile(part, members[0].Dir+logDir+"/0000000000000001.seg", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members[1:] {
			other, err := vfs.ReadFile(part, m.Dir+logDir+"/0000000000000001.seg", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(end[:length], other[:length]) {
				t.Fatalf("flip at %d: mirror %s was not rewritten", off, m.Dir)
			}
		}
		closeHost(t, h)
	}
}

// TestEveryFlippedByteReadsRight flips every byte of the log on one mirror and on all mirrors but one, and reads it.
func TestEveryFlippedByteReadsRight(t *testing.T) {
	t.Parallel()
	b, f, want, members := smallLog(t)
	name, length := used(t, b, f, members[0].Dir)
	if err := b.config.complete(); err != nil {
		t.Fatal(err)
	}
	o, err := findLog(newLog(b.config, b.config.Mirrors))
	if err != nil {
		t.Fatal(err)
	}
	for off := range length {
		hurt := members[off%5 : off%5+1]
		if off%2 == 0 {
			hurt = append(slices.Clone(members[:off%5]), members[off%5+1:]...)
		}
		for twice := range 2 {
			for _, m := range hurt {
				flip(t, f, strings.Replace(name, members[0].Dir, m.Dir, 1), off)
			}
			if twice == 1 {
				break // the second flip puts the byte back
			}
			if err := o.read(nil); err != nil {
				t.Fatalf("flip at %d: %v", off, err)
			}
			if len(o.damaged) != 1 {
				t.Fatalf("flip at %d was not seen", off)
			}
			var got []string
			for _, e := range o.groups[0].entries {
				if len(e.GetData()) > proposalHeader {
					got = append(got, string(e.GetData()[proposalHeader:]))
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("flip at %d: read %q", off, got)
			}
		}
	}
}

func flip(t *testing.T, f *vfs.Memory, name string, off int64) {
	t.Helper()
	if err := f.Corrupt(name, off, func(p []byte) { p[0] ^= 1 << (off % 8) }); err != nil {
		t.Fatal(err)
	}
}

// TestTheSameDamageOnAllMirrorsIsAnError flips a byte of each frame on every mirror. The last frame with content has an
// empty one after it, so its loss is seen too.
func TestTheSameDamageOnAllMirrorsIsAnError(t *testing.T) {
	b, f, want, members := smallLog(t)
	name, length := used(t, b, f, members[0].Dir)
	data, err := vfs.ReadFile(f, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for off := int64(segmentHeader); off < length; {
		fr, err := decodeFrame(data[off:], b.config.Cluster, place{1, off})
		if err != nil {
			t.Fatal(err)
		}
		part := copyTree(t, f)
		if err := part.RemoveAll(b.config.StateDir); err != nil {
			t.Fatal(err)
		}
		for i, m := range members { // at different bytes of the same frame
			flip(t, part, strings.Replace(name, members[0].Dir, m.Dir, 1), off+int64(i)*11)
		}
		h, err := Open(testContext(t), b.on(part).config)
		switch {
		case errors.Is(err, ErrLogDamaged):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			// Only the empty last frame may be lost without an error.
			if off+fr.size < length {
				t.Fatalf("frame at %d is damaged on all mirrors and the log opened", off)
			}
			wantItems(t, h, 1, want)
			closeHost(t, h)
		}
		off += fr.size
	}
	if refused < 5 {
		t.Fatalf("%d frames refused", refused)
	}
}

// TestDifferentDamageOnEachMirrorIsRepaired hurts another frame on each of the mirrors, truncates one segment and
// removes one, and swaps two frames of the same size on another.
func TestDifferentDamageOnEachMirrorIsRepaired(t *testing.T) {
	b, f, want, members := smallLog(t)
	name, length := used(t, b, f, members[0].Dir)
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	path := func(i int) string { return strings.Replace(name, members[0].Dir, members[i].Dir, 1) }
	flip(t, f, path(0), segmentHeader+20)
	flip(t, f, path(1), length-sector+10)
	if err := f.Corrupt(path(2), 0, func(p []byte) { clear(p[:segmentHeader+sector]) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(path(3)); err != nil {
		t.Fatal(err)
	}
	if err := f.Corrupt(path(4), length-3*sector, func(p []byte) {
		a := slices.Clone(p[:sector])
		copy(p[:sector], p[sector:2*sector])
		copy(p[sector:2*sector], a)
	}); err != nil {
		t.Fatal(err)
	}
	h := b.open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
	for i := range members {
		if _, n := used(t, b, f, members[i].Dir); n < length {
			t.Fatalf("mirror %d ends at %d of %d", i, n, length)
		}
	}
}

// TestDamagedCheckpointsAreRepaired flips bytes all over the checkpoints of one mirror and of all mirrors but one, with
// the state gone and the log's beginning too.
func TestDamagedCheckpointsAreRepaired(t *testing.T) {
	t.Parallel()
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.CheckpointBytes = 1 << 40
	h := b.bootstrap(t)
	for i := range 5 { // segments to forget
		for j := range 40 {
			propose(t, h, 1, fmt.Sprintf("%d %d %s", i, j, strings.Repeat("y", 2000)))
		}
		if err := h.Checkpoint(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := items(h, 1)
	if err != nil {
		t.Fatal(err)
	}
	members := h.Mirrors().Members
	if h.core.Load().log.segments[0].number < 3 {
		t.Fatal("the log's beginning is still there")
	}
	closeHost(t, h)
	name := func(m Mirror, i int) string {
		list, err := (&drive{fs: f, dir: m.Dir}).numbers(checkpointDir, checkpointSuffix)
		if err != nil || len(list) != 2 {
			t.Fatalf("checkpoints of %s: %v, %v", m.Dir, list, err)
		}
		return (&drive{dir: m.Dir}).blockPath(checkpointFile(list[i]))
	}
	whole, err := vfs.ReadFile(f, name(members[0], 1), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		part := copyTree(t, f)
		if err := part.RemoveAll(b.config.StateDir); err != nil {
			t.Fatal(err)
		}
		hurt := members[:1]
		if round%2 == 0 {
			hurt = members[:4]
		}
		for _, m := range hurt {
			for off := int64(round); off < int64(len(whole)); off += 5000 {
				flip(t, part, name(m, 1), off)
			}
		}
		h := b.on(part).open(t)
		wantItems(t, h, 1, want)
		for _, m := range hurt {
			expect.Soon(t, "the checkpoint is rewritten", func() bool {
				data, err := vfs.ReadFile(part, name(m, 1), 1<<30)
				return err == nil && slices.Equal(data, whole)
			})
		}
		closeHost(t, h)
	}
	// The newest one is gone everywhere: the older one and the log after it give the same.
	part := copyTree(t, f)
	if err := part.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		flip(t, part, name(m, 1), int64(len(whole)/2))
	}
	h = b.on(part).open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
	for _, m := range members {
		for i := range 2 {
			flip(t, f, name(m, i), 100)
		}
	}
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testContext(t), b.config); !errors.Is(err, ErrLogDamaged) {
		t.Fatalf("open without any checkpoint: %v", err)
	}
}

// TestFlippedPapersAreSeen flips every byte of names/mirrors on one drive; both copies hurt count as a missing drive.
func TestFlippedPapersAreSeen(t *testing.T) {
	b, f, want, members := smallLog(t)
	data, err := vfs.ReadFile(f, members[0].Dir+paperName, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < int64(len(data)); off += 61 {
		part := copyTree(t, f)
		flip(t, part, members[0].Dir+paperName, off)
		if off%2 == 0 {
			flip(t, part, members[0].Dir+paperName, (off+int64(len(data))/2)%int64(len(data)))
		}
		h := b.on(part).open(t)
		wantItems(t, h, 1, want)
		closeHost(t, h)
		again, err := vfs.ReadFile(part, members[0].Dir+paperName, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodePaper(again, b.config.Cluster); err != nil {
			t.Fatalf("flip at %d: %v", off, err)
		}
	}
}

// TestStateThatDoesNotMatchIsRebuilt puts the state of another history under a log.
func TestStateThatDoesNotMatchIsRebuilt(t *testing.T) {
	b, f, want, _ := smallLog(t)
	other := newBench(t, vfs.NewMemory(2), 12)
	h := other.bootstrap(t)
	for i := range 2 {
		propose(t, h, 1, fmt.Sprintf("another %d", i))
	}
	closeHost(t, h)
	foreign := other.config.FS
	dir := b.config.StateDir + stateDirName
	if err := f.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := vfs.MkdirAll(f, dir, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := foreign.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := vfs.ReadFile(foreign, dir+"/"+e.Name(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if err := vfs.WriteFile(f, dir+"/"+e.Name(), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h = b.open(t)
	wantItems(t, h, 1, want)
	closeHost(t, h)
}

// TestAStateAheadOfTheLogIsAnError cuts the end of the log on all mirrors, the empty last frame too. The log alone looks
// whole then; the state knows better.
func TestAStateAheadOfTheLogIsAnError(t *testing.T) {
	b, f, _, members := smallLog(t)
	name, length := used(t, b, f, members[0].Dir)
	for _, m := range members {
		err := f.Corrupt(strings.Replace(name, members[0].Dir, m.Dir, 1), length-4*sector, func(p []byte) { clear(p[:4*sector]) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(testContext(t), b.config); !errors.Is(err, ErrLogDamaged) {
		t.Fatalf("open of a log that ends before its state: %v", err)
	}
}

// TestABrokenStateIsRebuiltUnderLoad breaks the state DB while commands and reads go on; none of them may fail.
func TestABrokenStateIsRebuiltUnderLoad(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.WriteBuffer = 16 << 10
	h := b.bootstrap(t)
	l := startLoad(h, 4, 5)
	for range 5 {
		at := l.count()
		expect.Soon(t, "load goes on", func() bool { return l.count() >= at+100 })
		fault := f.Inject(vfs.Rule{Op: vfs.OpWrite, Path: "/main/raft/state/", Times: 1, Err: errors.New("broken cable")})
		expect.Soon(t, "the fault fires", func() bool { return fault.Fired() > 0 })
		if _, err := h.Group(1).State().Get([]byte("m/1/count")); err != nil {
			t.Fatalf("read while the state is rebuilt: %v", err)
		}
	}
	at := l.count()
	expect.Soon(t, "load goes on", func() bool { return l.count() >= at+100 })
	l.end()
	for _, err := range l.errs {
		if !errors.Is(err, ErrUnknownOutcome) && !strings.Contains(err.Error(), "canceled") {
			t.Fatalf("a proposal failed: %v", err)
		}
	}
	if len(l.errs) > 4 {
		t.Fatalf("%d proposals failed, only those cancelled at the end may: %v", len(l.errs), l.errs[0])
	}
	list, err := items(h, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.check(list); err != nil {
		t.Fatal(err)
	}
	closeHost(t, h)
}
