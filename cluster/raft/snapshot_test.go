package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// alone bootstraps a peer that is the only voter of groups 1 and 2.
func (n *network) alone(t testing.TB, f vfs.FS, peer byte, groups ...GroupID) (*bench, *Host) {
	t.Helper()
	b := n.join(newBench(t, f, 12), peer)
	b.config.Replica = uint64(peer)
	h, err := Bootstrap(testContext(t), b.config, groups...)
	if err != nil {
		t.Fatal(err)
	}
	n.attach(peer, h)
	return b, h
}

// TestALearnerGetsTheStateAndGrowsUp adds a replica on a second peer to a group that one peer had alone, makes it a voter
// and the leader, and takes the first one out.
func TestALearnerGetsTheStateAndGrowsUp(t *testing.T) {
	net := newNetwork()
	_, first := net.alone(t, vfs.NewMemory(1), 1, 1, 2)
	f := vfs.NewMemory(2)
	b, second := net.alone(t, f, 2)
	ctx := testContext(t)
	var want []string
	add := func(n int, among ...*Host) {
		t.Helper()
		for range n {
			want = append(want, fmt.Sprint("command ", len(want)))
			say(t, 2, want[len(want)-1], among...)
		}
	}
	add(100, first)
	g := first.Group(2)
	if err := g.Promote(ctx, 102); !errors.Is(err, ErrNoReplica) {
		t.Fatalf("promote an unknown replica: %v", err)
	}
	if err := g.AddLearner(ctx, 102); err != nil {
		t.Fatal(err)
	}
	if err := g.Promote(ctx, 102); !errors.Is(err, ErrLearnerBehind) {
		t.Fatalf("promote a learner that is not there: %v", err)
	}
	add(100, first)
	if second.Group(2) != nil {
		t.Fatal("messages made a replica")
	}
	if err := second.Create(ctx, 2, 102); err != nil {
		t.Fatal(err)
	}
	wantAlike(t, 2, first, second)
	wantItems(t, second, 2, want)
	if _, err := second.Group(2).Propose(ctx, []byte("no")); !leaderHint(err, 1) {
		t.Fatalf("propose to a learner: %v", err)
	}
	add(50, first)
	wantAlike(t, 2, first, second)
	if net.snapshots != 1 {
		t.Errorf("%d snapshots, want 1", net.snapshots)
	}
	if s := first.Mirrors(); s.Want != 5 {
		t.Errorf("mirrors with a learner: %+v", s)
	}
	if err := g.Promote(ctx, 102); err != nil {
		t.Fatal(err)
	}
	if voters, learners := g.Members(); len(voters) != 2 || len(learners) != 0 {
		t.Fatalf("voters %v, learners %v", voters, learners)
	}
	add(10, first)
	// The whole life of the replica survives a power loss and the loss of the state.
	f = f.Crash()
	_ = second.Close()
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	b = b.on(f)
	second = b.open(t)
	net.attach(2, second)
	wantAlike(t, 2, first, second)
	wantItems(t, second, 2, want)
	expect.Soon(t, "the learner takes over", func() bool { return g.Transfer(ctx, 102) == nil })
	if err := g.Remove(ctx, 1); !leaderHint(err, 102) {
		t.Fatalf("remove by a follower: %v", err)
	}
	add(10, second)
	expect.Soon(t, "the first is removed", func() bool {
		err := second.Group(2).Remove(ctx, 1)
		if err != nil && !errors.Is(err, ErrChangeUnderWay) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := second.Group(2).Remove(ctx, 102); !errors.Is(err, ErrMember) {
		t.Fatalf("remove the last voter: %v", err)
	}
	add(10, second)
	if err := first.Remove(ctx, 2, 1); err != nil {
		t.Fatal(err)
	}
	wantItems(t, second, 2, want)
	if term, err := second.Group(2).Barrier(ctx); err != nil || term == 0 {
		t.Fatalf("barrier of the last voter: %d, %v", term, err)
	}
	closeHost(t, first)
	closeHost(t, second)
}

// leaderHint tells whether an error says who leads.
func leaderHint(err error, replica uint64) bool {
	var hint *NotLeaderError
	return errors.Is(err, ErrNotLeader) && errors.As(err, &hint) && hint.Leader.Replica == replica && hint.Leader.Term > 0
}

// sent is a snapshot as a leader sends it to replica 102 of group 2, which has all the commands.
func sentSnapshot(t testing.TB, commands []string) []byte {
	t.Helper()
	net := newNetwork()
	_, h := net.alone(t, vfs.NewMemory(1), 1, 1, 2)
	defer closeHost(t, h)
	for _, c := range commands {
		propose(t, h, 2, c)
	}
	var whole bytes.Buffer
	net.spoil = func(r io.Reader) io.Reader { return io.TeeReader(r, &whole) }
	_, second := net.alone(t, vfs.NewMemory(2), 2)
	defer closeHost(t, second)
	if err := second.Create(testContext(t), 2, 102); err != nil {
		t.Fatal(err)
	}
	if err := h.Group(2).AddLearner(testContext(t), 102); err != nil {
		t.Fatal(err)
	}
	wantAlike(t, 2, h, second)
	return whole.Bytes()
}

func commands(n, size int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("command %d %s", i, bytes.Repeat([]byte("x"), size)))
	}
	return list
}

// TestADamagedSnapshotChangesNothing cuts and flips a stream at many places.
func TestADamagedSnapshotChangesNothing(t *testing.T) {
	want := commands(300, 5000)
	whole := sentSnapshot(t, want)
	if len(whole) < 1<<20 {
		t.Fatalf("the snapshot has only %d bytes", len(whole))
	}
	_, h := newNetwork().alone(t, vfs.NewMemory(3), 2, 1)
	ctx := testContext(t)
	if err := h.Install(ctx, 2, bytes.NewReader(whole)); !errors.Is(err, ErrNoReplica) {
		t.Fatalf("install without a replica: %v", err)
	}
	if err := h.Create(ctx, 2, 101); err != nil {
		t.Fatal(err)
	}
	if err := h.Install(ctx, 2, bytes.NewReader(whole)); !errors.Is(err, ErrNoReplica) {
		t.Fatalf("install for another replica: %v", err)
	}
	if err := errors.Join(h.Remove(ctx, 2, 101), h.Create(ctx, 2, 102)); err != nil {
		t.Fatal(err)
	}
	if err := h.Install(ctx, 3, bytes.NewReader(whole)); !errors.Is(err, ErrSnapshot) {
		t.Fatalf("install as another group: %v", err)
	}
	for at := 0; at < len(whole); at += 1 + len(whole)/40 {
		hurt := bytes.Clone(whole)
		hurt[at] ^= 1
		for _, stream := range [][]byte{hurt, whole[:at]} {
			if err := h.Install(ctx, 2, bytes.NewReader(stream)); !errors.Is(err, ErrSnapshot) {
				t.Fatalf("%d of %d bytes, hurt at %d: %v", len(stream), len(whole), at, err)
			}
		}
	}
	foreign, err := withPair(whole, rowKey(appliedRow, 1), []byte("not its own"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Install(ctx, 2, bytes.NewReader(foreign)); !errors.Is(err, ErrSnapshot) {
		t.Fatalf("a row of the driver's own: %v", err)
	}
	if n := countKeys(t, h, 2); n != 0 || pointOf(t, h, 2).index != 0 {
		t.Fatalf("%d keys came of it", n)
	}
	if err := h.Install(ctx, 2, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	wantItems(t, h, 2, want)
	if err := h.Install(ctx, 2, bytes.NewReader(whole)); err != nil { // it has it already
		t.Fatal(err)
	}
	closeHost(t, h)
}

// withPair is a stream with the head of another, and one pair.
func withPair(whole, key, value []byte) ([]byte, error) {
	at := blockAt{cluster: cluster.ClusterID{1, 2, 3}}
	first, err := readBlock(bytes.NewReader(whole), at, digest{})
	payload := binary.LittleEndian.AppendUint32(nil, uint32(len(key)))
	payload = append(append(binary.LittleEndian.AppendUint32(payload, uint32(len(value))), key...), value...)
	at.index = 1
	last, _ := encodeBlock(at, blockMagic, true, first.digest, payload)
	return append(bytes.Clone(first.raw), last...), err
}

// TestPowerLossDuringAnInstallLeavesTheOldStateOrTheNew cuts the power at every operation of a file system while a
// snapshot replaces an older state, and twice in a row: while the next start makes good for the first.
func TestPowerLossDuringAnInstallLeavesTheOldStateOrTheNew(t *testing.T) {
	t.Parallel()
	before, after := commands(3, 10), commands(60, 1000)
	older, newer := sentSnapshot(t, before), sentSnapshot(t, after)
	step := 1
	if testing.Short() {
		step = 7
	}
	cuts, kept := 0, 0
	for n := 0; ; n += step {
		f := vfs.NewMemory(uint64(n))
		b := newNetwork().join(newBench(t, f, 3), 2)
		b.config.WriteBuffer = 16 << 10
		b.config.Tick = time.Hour // no message counts here, and no election
		h, err := Bootstrap(testContext(t), b.config)
		if err != nil {
			t.Fatal(err)
		}
		ctx := testContext(t)
		if err := errors.Join(h.Create(ctx, 2, 102), h.Install(ctx, 2, bytes.NewReader(older))); err != nil {
			t.Fatal(err)
		}
		cut := cutPower(f, n)
		installed := h.Install(ctx, 2, bytes.NewReader(newer))
		f, fired := cut()
		_ = h.Close() // its file system is gone
		b = b.on(f)
		if n%3 == 1 {
			if err := f.RemoveAll(b.config.StateDir); err != nil {
				t.Fatal(err)
			}
		}
		if n%2 == 1 { // the start that follows loses power too
			again := cutPower(f, n%97)
			if h, err := Open(ctx, b.config); err == nil {
				f, _ = again()
				_ = h.Close()
			} else {
				f, _ = again()
			}
			b = b.on(f)
		}
		h = b.open(t)
		list, err := items(h, 2)
		if err != nil {
			t.Fatal(err)
		}
		want := after
		if len(list) == len(before) {
			want = before
			kept++
			if installed == nil {
				t.Fatalf("cut %d: an installed snapshot is gone", n)
			}
		}
		wantItems(t, h, 2, want)
		if err := h.Install(ctx, 2, bytes.NewReader(newer)); err != nil {
			t.Fatalf("cut %d: install again: %v", n, err)
		}
		wantItems(t, h, 2, after)
		closeHost(t, h)
		if !fired {
			break
		}
		cuts++
	}
	t.Logf("power was cut %d times, the old state was kept %d times", cuts, kept)
	if kept == 0 || kept >= cuts {
		t.Errorf("of %d cuts %d kept the old state", cuts, kept)
	}
}

// TestSnapshotsAreKeptAsLongAsTheLogNeedsThem installs one, has new mirrors made, loses the state and drives, and looks
// that the file goes when two checkpoints have taken its place.
func TestSnapshotsAreKeptAsLongAsTheLogNeedsThem(t *testing.T) {
	want := commands(20, 100)
	stream := sentSnapshot(t, want)
	f := vfs.NewMemory(4)
	b, h := newNetwork().alone(t, f, 2, 1)
	ctx := testContext(t)
	if err := errors.Join(h.Create(ctx, 2, 102), h.Install(ctx, 2, bytes.NewReader(stream))); err != nil {
		t.Fatal(err)
	}
	files := func(f *vfs.Memory) (n int) {
		for _, m := range b.config.Mirrors {
			entries, err := f.ReadDir(m.Dir + snapshotDir)
			if err == nil {
				n += len(entries)
			}
		}
		return n
	}
	for range 5 {
		m := h.Mirrors().Members[0]
		h.DriveDown(m.Drive)
		if err := f.RemoveAll(m.Dir); err != nil {
			t.Fatal(err)
		}
		expect.Soon(t, "five mirrors", func() bool { return len(h.Mirrors().Members) == 5 })
	}
	if n := files(f); n != 5 {
		t.Fatalf("the snapshot is on %d mirrors, want 5", n)
	}
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	b, h = restart(t, b, h, f.Kill)
	wantItems(t, h, 2, want)
	f = b.config.FS.(*vfs.Memory)
	if n := files(f); n != 5 || h.core.Load().snapshotBytes(0) < 20*100 {
		t.Fatalf("after a restart the snapshot is on %d mirrors and counts %d bytes", n, h.core.Load().snapshotBytes(0))
	}
	// The keeper takes two checkpoints for the sake of the file, as soon as it takes more than it may.
	_ = h.Close()
	b.config.CheckpointBytes = 2000
	h = b.open(t)
	expect.Soon(t, "the snapshot is gone", func() bool { return files(f) == 0 })
	if n := len(h.core.Load().keptFiles()); n != keptCheckpoints {
		t.Errorf("%d files are kept", n)
	}
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	_, h = restart(t, b, h, f.Crash)
	wantItems(t, h, 2, want)
	closeHost(t, h)
}

// TestSnapshotsGoAtTheirPace measures a stream against its rate on a clock of its own.
func TestSnapshotsGoAtTheirPace(t *testing.T) {
	p := &pacer{rate: 1000}
	ctx, cancel := context.WithCancel(t.Context())
	if err := p.wait(ctx, 500); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := p.wait(ctx, 1_000_000); err != nil { // after the half second of the first
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("bytes of half a second took %v", took)
	}
	cancel()
	if err := p.wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait of a thousand seconds ended with %v", err)
	}
}

// TestAStreamIsTheStateAtItsPoint reads a stream while commands go on.
func TestAStreamIsTheStateAtItsPoint(t *testing.T) {
	whole := sentSnapshot(t, commands(10, 10))
	var prev digest
	stream := bytes.NewReader(whole)
	found := map[string]bool{}
	for index := uint64(0); ; index++ {
		b, err := readBlock(stream, blockAt{cluster: newBench(t, vfs.NewMemory(1), 0).config.Cluster, index: index}, prev)
		if err != nil {
			t.Fatal(err)
		}
		prev = b.digest
		if index == 0 {
			head, err := decodeSnapshotHead(b.magic, b.payload)
			if err != nil || head.group != 2 || head.to != 102 || head.from != 1 || !head.members.has(102) {
				t.Fatalf("%+v, %v", head, err)
			}
			continue
		}
		for rest := b.payload; len(rest) > 0; {
			key, _, after, err := decodePair(rest)
			if err != nil {
				t.Fatal(err)
			}
			found[string(key)], rest = true, after
		}
		if b.last {
			break
		}
	}
	if stream.Len() > 0 || len(found) != 11 {
		t.Errorf("%d bytes after the last block, %d keys, want 10 items and their count", stream.Len(), len(found))
	}
	for key := range found {
		if !inSpan(key, (&counter{group: 2}).Spans()[0]) {
			t.Errorf("key %q is not of the group", key)
		}
	}
}

func inSpan(key string, span kv.Span) bool {
	return key >= string(span.Start) && key < string(span.End)
}
