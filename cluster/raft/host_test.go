package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// counter is a test machine: a command is any text; the machine keeps every command under its place in the order and
// returns the place. A command that begins with "get" returns how many there were, one with "walk" counts them.
type counter struct {
	group    GroupID
	restored int
}

func (c *counter) prefix() string { return fmt.Sprintf("m/%d/", c.group) }

func (c *counter) Apply(_, _ uint64, command []byte, r kv.Reader, b kv.Batch) any {
	n := uint64(0)
	value, err := r.Get([]byte(c.prefix() + "count"))
	switch {
	case err == nil:
		n = binary.BigEndian.Uint64(value)
	case !errors.Is(err, kv.ErrNotFound):
		panic(err)
	}
	if strings.HasPrefix(string(command), "get") {
		return n
	}
	if strings.HasPrefix(string(command), "walk") {
		b.Put([]byte(c.prefix()+"walked"), command)
		return [2]uint64{n, c.walk(r)}
	}
	b.Put([]byte(c.prefix()+"count"), binary.BigEndian.AppendUint64(nil, n+1))
	b.Put(fmt.Appendf(nil, "%sitem/%08d", c.prefix(), n), command)
	return n
}

func (c *counter) walk(r kv.Reader) (n uint64) {
	it := r.Iterate(kv.Span{Start: []byte(c.prefix() + "item/"), End: []byte(c.prefix() + "item0")})
	defer it.Close()
	for it.Next() {
		n++
	}
	if err := it.Err(); err != nil {
		panic(err)
	}
	return n
}

func (c *counter) Spans() []kv.Span {
	return []kv.Span{{Start: []byte(c.prefix()), End: []byte(c.prefix() + "\xff")}}
}

func (c *counter) Restored() { c.restored++ }

const drivesRoot = "/drives"

// bench is a set of drives and a config for them.
type bench struct {
	config Config
}

func driveDir(i int) string { return fmt.Sprintf("%s/d%02d", drivesRoot, i+1) }

func driveID(i int) cluster.DriveID { return cluster.DriveID{byte(i + 1), 0xdd} }

func newBench(t testing.TB, f vfs.FS, drives int) *bench {
	t.Helper()
	b := &bench{config: Config{
		FS: f, StateDir: "/main/raft", Cluster: cluster.ClusterID{1, 2, 3},
		Machines:    func(g GroupID) Machine { return &counter{group: g} },
		SegmentSize: minSegment, WriteBuffer: 64 << 10, BlockCache: 1 << 20,
		Tick: 20 * time.Millisecond, SlowMirror: 5 * time.Second,
	}}
	if os.Getenv("RAFT_TEST_LOG") != "" {
		b.config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for i := range drives {
		if err := vfs.MkdirAll(f, driveDir(i), 0o700); err != nil {
			t.Fatal(err)
		}
		b.config.Mirrors = append(b.config.Mirrors, Mirror{Drive: driveID(i), Dir: driveDir(i)})
	}
	return b
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (b *bench) bootstrap(t testing.TB) *Host {
	t.Helper()
	h, err := Bootstrap(testContext(t), b.config, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (b *bench) open(t testing.TB) *Host {
	t.Helper()
	h, err := Open(testContext(t), b.config)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// on returns the bench over another file system.
func (b *bench) on(f vfs.FS) *bench {
	c := b.config
	c.FS = f
	return &bench{config: c}
}

func closeHost(t testing.TB, h *Host) {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

func propose(t testing.TB, h *Host, g GroupID, command string) uint64 {
	t.Helper()
	result, err := h.Group(g).Propose(testContext(t), []byte(command))
	if err != nil {
		t.Fatalf("propose %q: %v", command, err)
	}
	return result.(uint64)
}

// items reads all commands of a group in order.
func items(h *Host, g GroupID) ([]string, error) {
	prefix := fmt.Sprintf("m/%d/item/", g)
	it := h.Group(g).State().Iterate(kv.Span{Start: []byte(prefix), End: []byte(prefix + "\xff")})
	defer it.Close()
	var list []string
	for it.Next() {
		if want := fmt.Sprintf("%s%08d", prefix, len(list)); string(it.Key()) != want {
			return nil, fmt.Errorf("item %s where %s was due", it.Key(), want)
		}
		list = append(list, string(it.Value()))
	}
	return list, it.Err()
}

func wantItems(t testing.TB, h *Host, g GroupID, want []string) {
	t.Helper()
	got, err := items(h, g)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("group %d has %d items, want %d", g, len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("group %d item %d is %q, want %q", g, i, got[i], want[i])
		}
	}
}

func TestProposalsAreAppliedOnceInOrder(t *testing.T) {
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	if _, err := Open(testContext(t), b.config); !errors.Is(err, ErrNotBootstrapped) {
		t.Fatalf("open of blank drives: %v", err)
	}
	h := b.bootstrap(t)
	var want [3][]string
	for round := range 4 {
		for i := range 300 {
			g := GroupID(1 + i%2)
			command := fmt.Sprintf("round %d command %d", round, i)
			if n := propose(t, h, g, command); n != uint64(len(want[g])) {
				t.Fatalf("command %q came %d-th, want %d", command, n, len(want[g]))
			}
			want[g] = append(want[g], command)
		}
		for g := GroupID(1); g <= 2; g++ {
			wantItems(t, h, g, want[g])
			if term, err := h.Group(g).Barrier(testContext(t)); err != nil || term == 0 {
				t.Fatalf("barrier: term %d, %v", term, err)
			}
		}
		if status := h.Mirrors(); len(status.Members) != 5 || status.Tolerated != 4 {
			t.Fatalf("mirrors: %+v", status)
		}
		if round == 2 {
			if err := h.Checkpoint(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		closeHost(t, h)
		if round == 1 || round == 2 {
			if err := f.RemoveAll(b.config.StateDir); err != nil {
				t.Fatal(err)
			}
		}
		h = b.open(t)
		wantItems(t, h, 1, want[1])
		wantItems(t, h, 2, want[2])
	}
	if _, err := Bootstrap(testContext(t), b.config, 1); err == nil {
		t.Fatal("a second bootstrap was accepted")
	}
	late := h.Group(1)
	closeHost(t, h)
	if _, err := late.Propose(testContext(t), []byte("late")); !errors.Is(err, ErrStopped) {
		t.Fatalf("propose after close: %v", err)
	}
}

func TestTheLongestCommandPasses(t *testing.T) {
	b := newBench(t, vfs.NewMemory(1), 12)
	b.config.SegmentSize, b.config.WriteBuffer = 0, 0
	h := b.bootstrap(t)
	longest := strings.Repeat("z", MaxCommand)
	for i := range 5 { // more than one segment
		if n := propose(t, h, 1, longest); n != uint64(i) {
			t.Fatalf("command %d came %d-th", i, n)
		}
	}
	if _, err := h.Group(1).Propose(testContext(t), []byte(longest+"z")); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one byte more: %v", err)
	}
	closeHost(t, h)
	h = b.open(t)
	wantItems(t, h, 1, []string{longest, longest, longest, longest, longest})
	closeHost(t, h)
}

// load proposes from several goroutines until it is stopped and remembers what was acknowledged.
type load struct {
	mu    sync.Mutex
	acked map[string]uint64 // command → place
	tried map[string]bool
	errs  []error
	stop  context.CancelFunc
	wait  sync.WaitGroup
}

func startLoad(h *Host, workers int, seed uint64) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{acked: map[string]uint64{}, tried: map[string]bool{}, stop: stop}
	g := h.Group(1)
	for w := range workers {
		l.wait.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := 0; ctx.Err() == nil; i++ {
				command := fmt.Sprintf("s%d-w%d-%d-%s", seed, w, i, strings.Repeat("x", random.IntN(400)))
				l.mu.Lock()
				l.tried[command] = true
				l.mu.Unlock()
				n, err := g.Propose(ctx, []byte(command))
				l.mu.Lock()
				if err != nil {
					l.errs = append(l.errs, err)
				} else {
					l.acked[command] = n.(uint64)
				}
				l.mu.Unlock()
				if err != nil && !errors.Is(err, ErrUnknownOutcome) {
					return
				}
			}
		})
	}
	return l
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

func (l *load) end() {
	l.stop()
	l.wait.Wait()
}

// check finds every acknowledged command at its place, none twice, and nothing that nobody proposed.
func (l *load) check(list []string) error {
	seen := map[string]int{}
	for i, command := range list {
		if at, twice := seen[command]; twice {
			return fmt.Errorf("command %.24q is there at %d and %d", command, at, i)
		}
		if !l.tried[command] {
			return fmt.Errorf("command %.24q at %d was never proposed", command, i)
		}
		seen[command] = i
	}
	for command, place := range l.acked {
		if at, ok := seen[command]; !ok || uint64(at) != place {
			return fmt.Errorf("acknowledged command %.24q of place %d is at %d (%v)", command, place, at, ok)
		}
	}
	return nil
}

// Whoever was answered knows that everybody was told of the commit before.
func TestAppliedIsToldBeforeTheAnswer(t *testing.T) {
	b := newBench(t, vfs.NewMemory(1), 4)
	var told [3]atomic.Uint64
	b.config.Applied = func(g GroupID, index uint64) { told[g].Store(index) }
	h := b.bootstrap(t)
	defer closeHost(t, h)
	other := told[2].Load()
	for i := range 100 {
		before := told[1].Load()
		propose(t, h, 1, fmt.Sprint("command ", i))
		if after := told[1].Load(); after != before+1 {
			t.Fatalf("index %d was told before a command and %d when it was answered", before, after)
		}
	}
	if told[2].Load() != other {
		t.Error("another group's index moved")
	}
}
