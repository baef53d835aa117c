package drive_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// ledgerOfActs is what a test knows of a drive: every shard with what was acknowledged about it.
type ledgerOfActs struct {
	shards map[chunkstore.ShardKey]*drivetest.Shard
	acked  map[chunkstore.ShardKey]bool // put acknowledged, no delete tried
	gone   map[chunkstore.ShardKey]bool // delete acknowledged
}

// verify holds a drive opened after a crash against what was acknowledged.
func (l *ledgerOfActs) verify(t testing.TB, d chunkstore.Drive) {
	t.Helper()
	for key, s := range l.shards {
		got, err := s.Read(t.Context(), d)
		switch {
		case l.acked[key]:
			if err != nil || !bytes.Equal(got, s.Payload) {
				t.Fatalf("%s: acknowledged %v is lost: %v", t.Name(), key, err)
			}
			if err := d.Check(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		case l.gone[key]:
			if !errors.Is(err, chunkstore.ErrNotFound) {
				t.Fatalf("deleted %v reads: %v", key, err)
			}
			if err := s.Put(t.Context(), d); !errors.Is(err, chunkstore.ErrDeleted) {
				t.Fatalf("deleted %v can be put: %v", key, err)
			}
		case err == nil && !bytes.Equal(got, s.Payload):
			t.Fatalf("unacknowledged %v gives wrong bytes", key)
		case err != nil && !errors.Is(err, chunkstore.ErrNotFound) && !errors.Is(err, chunkstore.ErrDamaged):
			t.Fatalf("unacknowledged %v: %v", key, err)
		}
	}
}

// TestPowerLoss cuts the power of a drive under load again and again. Every seed draws another load, another moment
// and another outcome of every unsynced page.
func TestPowerLoss(t *testing.T) {
	const runs = 400
	cut := 0
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { cut += losePower(t, seed) })
	}
	if cut < runs {
		t.Fatalf("power was cut in the middle of an operation %d times only", cut)
	}
}

// losePower lives through three power losses of one seed. It returns how many of them came within an operation.
func losePower(t *testing.T, seed uint64) (cut int) {
	random := rand.New(rand.NewPCG(seed, 1))
	m := newMemory(t, seed)
	l := &ledgerOfActs{map[chunkstore.ShardKey]*drivetest.Shard{}, map[chunkstore.ShardKey]bool{}, map[chunkstore.ShardKey]bool{}}
	for range 3 {
		d, err := tryOpen(t, m, func(c *drive.Config) { c.FileSize = 1 << 18 })
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		l.verify(t, d)
		// Power goes at a random write, sync, directory sync or punch from here on.
		op := []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpPunch, vfs.OpRename, vfs.OpOpen}[random.IntN(6)]
		var next *vfs.Memory
		fault := m.Inject(vfs.Rule{Op: op, Path: home, After: random.IntN(40), Times: 1, Delay: func() { next = m.Crash() }})
		act(t, d, l, random, func() bool { return fault.Fired() > 0 })
		if next == nil {
			next = m.Crash()
		} else {
			cut++
		}
		m = next
	}
	d, err := tryOpen(t, m)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	l.verify(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return cut
}

// act puts, replaces, deletes and seals at random until stop says so or 60 acts are done.
func act(t testing.TB, d chunkstore.Drive, l *ledgerOfActs, random *rand.Rand, stop func() bool) {
	for range 60 {
		if stop() {
			return
		}
		key := drivetest.Key(chunkstore.VolumeID(1+random.IntN(2)), uint32(random.IntN(10)), uint8(random.IntN(2)))
		switch s := l.shards[key]; {
		case s == nil || random.IntN(4) > 0 && !l.gone[key]:
			if s == nil {
				s = drivetest.NewShard(key, 1, 1+uint32(random.IntN(150_000)))
				l.shards[key] = s
			}
			if err := s.Put(t.Context(), d); err == nil {
				l.acked[key] = true
			} else if !anyOf(err, chunkstore.ErrDriveDown, chunkstore.ErrDeleted, chunkstore.ErrFull) {
				t.Fatal(err)
			}
		default:
			delete(l.acked, key) // from here on it may be there or not, until the delete is acknowledged
			if err := d.Delete(t.Context(), []chunkstore.ShardKey{key}); err == nil {
				l.gone[key] = true
			} else if !anyOf(err, chunkstore.ErrDriveDown, chunkstore.ErrFull) {
				t.Fatal(err)
			}
		}
	}
}

// TestCrashAtEveryStep cuts the power at every single operation of a short life of a drive: the table of FORMAT.md.
func TestCrashAtEveryStep(t *testing.T) {
	steps := 0
	for _, op := range []vfs.Op{vfs.OpOpen, vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpRemove, vfs.OpMkdir,
		vfs.OpAllocate, vfs.OpPunch, vfs.OpTruncate, vfs.OpLock} {
		for after := 0; ; after++ {
			m := newMemory(t, uint64(after))
			var next *vfs.Memory
			fault := m.Inject(vfs.Rule{Op: op, Path: home, After: after, Times: 1, Delay: func() { next = m.Crash() }})
			l := &ledgerOfActs{map[chunkstore.ShardKey]*drivetest.Shard{}, map[chunkstore.ShardKey]bool{}, map[chunkstore.ShardKey]bool{}}
			sealed := shortLife(t, m, l)
			if fault.Fired() == 0 {
				break
			}
			steps++
			d, err := tryOpen(t, next)
			if err != nil {
				t.Fatalf("%s %d: %v", op, after, err)
			}
			l.verify(t, d)
			err = drivetest.NewShard(drivetest.Key(1, 99, 0), 1, 5000).Put(t.Context(), d)
			if sealed && !errors.Is(err, chunkstore.ErrStaleVolume) {
				t.Fatalf("%s %d: the seal is lost: %v", op, after, err)
			}
			must(t, d.Close())
		}
	}
	if steps < 60 {
		t.Fatalf("only %d steps were cut", steps)
	}
}

// shortLife opens a drive, puts, replaces, deletes, fills a file, seals and closes. It goes on after errors.
func shortLife(t testing.TB, m *vfs.Memory, l *ledgerOfActs) (sealed bool) {
	d, err := drive.Open(t.Context(), drive.Config{FS: m, Dir: home, Cluster: identity.Cluster, Reserve: -1, Watch: -1,
		FileSize: 64 << 10})
	if err != nil {
		return false
	}
	for i := range uint32(8) {
		s := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 30_000*(1+i%3))
		l.shards[s.Header.Key] = s
		for range 1 + i%2 {
			if s.Put(t.Context(), d) == nil {
				l.acked[s.Header.Key] = true
			}
		}
		if i%3 == 2 {
			delete(l.acked, s.Header.Key)
			l.gone[s.Header.Key] = d.Delete(t.Context(), []chunkstore.ShardKey{s.Header.Key}) == nil
		}
	}
	sealed = d.Seal(t.Context(), 1, 2) == nil
	if err := d.Close(); err != nil && !errors.Is(err, vfs.ErrPowerLost) {
		t.Fatal(err)
	}
	return sealed
}

func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 2))
		m := newMemory(t, seed)
		l := &ledgerOfActs{map[chunkstore.ShardKey]*drivetest.Shard{}, map[chunkstore.ShardKey]bool{}, map[chunkstore.ShardKey]bool{}}
		for range 3 {
			var next *vfs.Memory
			fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: home, After: 3 + random.IntN(20), Times: 1,
				Delay: func() { next = m.Kill() }})
			d, err := tryOpen(t, m, func(c *drive.Config) { c.FileSize = 1 << 18 })
			if err != nil {
				wantIs(t, err, vfs.ErrPowerLost)
				m = next
				continue
			}
			act(t, d, l, random, func() bool { return fault.Fired() > 0 })
			if next == nil {
				next = m.Kill()
			}
			m = next
		}
		d := open(t, m)
		l.verify(t, d)
		// What the killed process wrote and Open took in must survive a power loss now.
		held := map[chunkstore.ShardKey]bool{}
		for key := range l.shards {
			held[key] = d.Check(t.Context(), key) == nil
		}
		d = open(t, m.Crash())
		for key, s := range l.shards {
			if held[key] {
				drivetest.WantRead(t, d, s)
			}
		}
	}
}

// TestFailedSync proves that a failed sync acknowledges nothing, is not repeated on the same file, and loses nothing
// that was acknowledged before or after.
func TestFailedSync(t *testing.T) {
	for _, path := range []string{"/volumes/", "/ledger."} {
		for after := range 6 {
			m := newMemory(t, uint64(after))
			d := open(t, m)
			l := &ledgerOfActs{map[chunkstore.ShardKey]*drivetest.Shard{}, map[chunkstore.ShardKey]bool{}, map[chunkstore.ShardKey]bool{}}
			fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: path, After: after, Times: 1, Err: syscall.EIO})
			failures := 0
			for i := range uint32(12) {
				s := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 9000)
				l.shards[s.Header.Key] = s
				if err := s.Put(t.Context(), d); err == nil {
					l.acked[s.Header.Key] = true
				} else {
					wantIs(t, err, chunkstore.ErrDriveDown)
					failures++
				}
				if i%2 == 1 {
					delete(l.acked, s.Header.Key)
					must(t, d.Delete(t.Context(), []chunkstore.ShardKey{s.Header.Key}))
					l.gone[s.Header.Key] = true
				}
			}
			if fault.Fired() != 1 {
				t.Fatalf("the fault fired %d times", fault.Fired())
			}
			if path == "/volumes/" && failures != 1 {
				t.Fatalf("%d puts failed of one failed sync", failures)
			}
			must(t, d.Status().Down)
			l.verify(t, d)
			l.verify(t, open(t, m.Crash()))
		}
	}
}

func TestThreeFailedSyncsTakeTheDriveDown(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Path: "/volumes/", Err: syscall.EIO})
	for i := range uint32(5) {
		err := drivetest.NewShard(drivetest.Key(1, i, 0), 1, 9000).Put(t.Context(), d)
		wantIs(t, err, chunkstore.ErrDriveDown)
	}
	wantIs(t, d.Status().Down, chunkstore.ErrDriveDown)
	if fault.Fired() != 3 {
		t.Errorf("%d syncs were tried", fault.Fired())
	}
}

func TestFailedAndShortWrites(t *testing.T) {
	for _, rule := range []vfs.Rule{
		{Op: vfs.OpWrite, Path: "/volumes/", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpWrite, Path: "/volumes/", Times: 1, Err: syscall.EIO, Short: true},
		{Op: vfs.OpWrite, Path: "/volumes/", Times: 1, Err: syscall.ENOSPC, Short: true},
		{Op: vfs.OpAllocate, Path: "/volumes/", Times: 2, Err: syscall.ENOSPC},
		{Op: vfs.OpWrite, Path: "/ledger", Times: 1, Err: syscall.EIO, Short: true},
		{Op: vfs.OpRename, Path: "/ledger", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpMkdir, Path: "/volumes/", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpSyncDir, Path: "/volumes/", Times: 1, Err: syscall.EIO},
	} {
		for after := range 4 {
			t.Run(fmt.Sprintf("%s%s%v%d", rule.Op, rule.Path[1:], rule.Err, after), func(t *testing.T) {
				m := newMemory(t, uint64(after))
				d := open(t, m)
				rule.After = after
				fault := m.Inject(rule)
				l := &ledgerOfActs{map[chunkstore.ShardKey]*drivetest.Shard{}, map[chunkstore.ShardKey]bool{}, map[chunkstore.ShardKey]bool{}}
				act(t, d, l, rand.New(rand.NewPCG(uint64(after), 3)), func() bool { return false })
				if fault.Fired() == 0 && rule.Op == vfs.OpWrite {
					t.Fatal("the fault did not fire")
				}
				must(t, d.Status().Down)
				l.verify(t, d)
				l.verify(t, open(t, m.Crash()))
			})
		}
	}
}

func anyOf(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
