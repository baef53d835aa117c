package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
)

func exists(t testing.TB, f vfs.FS, name string) bool {
	t.Helper()
	_, err := f.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestSyncedThingsSurviveEveryCrash(t *testing.T) {
	for seed := range uint64(50) {
		m := vfs.NewMemory(seed)
		must(t, vfs.MkdirAll(m, "/a/b", 0o755))
		content := bytes.Repeat([]byte("kept "), 5000)
		file := create(t, m, "/a/b/f", content)
		must(t, file.Sync())
		must(t, m.SyncDir("/a/b"))
		m = m.Crash()
		wantContent(t, m, "/a/b/f", content)
		if _, err := file.ReadAt(make([]byte, 1), 0); !errors.Is(err, vfs.ErrPowerLost) {
			t.Fatalf("a handle from before the crash: %v", err)
		}
	}
}

// TestUnsyncedPagesAreOldNewOrTorn proves that each outcome comes up, page by page and sector by sector.
func TestUnsyncedPagesAreOldNewOrTorn(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		m := vfs.NewMemory(seed)
		file := create(t, m, "/f", bytes.Repeat([]byte{'o'}, 4*vfs.Align))
		must(t, file.Sync())
		must(t, m.SyncDir("/"))
		if _, err := file.WriteAt(bytes.Repeat([]byte{'n'}, 2*vfs.Align), vfs.Align); err != nil {
			t.Fatal(err)
		}
		got, err := vfs.ReadFile(m.Crash(), "/f", 1<<20)
		must(t, err)
		for page := range 4 {
			b := got[page*vfs.Align:][:vfs.Align]
			news := bytes.Count(b, []byte{'n'})
			kind := "torn"
			if news == 0 {
				kind = "old"
			} else if news == vfs.Align {
				kind = "new"
			}
			if news%512 != 0 || bytes.Count(b, []byte{'o'})+news != vfs.Align {
				t.Fatalf("page %d of seed %d is torn inside a sector", page, seed)
			}
			if page == 0 || page == 3 {
				if kind != "old" {
					t.Fatalf("synced page %d is %s", page, kind)
				}
				continue
			}
			seen[kind]++
		}
	}
	if seen["old"] < 10 || seen["new"] < 10 || seen["torn"] < 10 {
		t.Errorf("outcomes %v", seen)
	}
}

func TestUnsyncedSizesVary(t *testing.T) {
	sizes := map[int64]int{}
	for seed := range uint64(60) {
		m := vfs.NewMemory(seed)
		file := create(t, m, "/f", []byte("old"))
		must(t, file.Sync())
		must(t, m.SyncDir("/"))
		if _, err := file.WriteAt(make([]byte, 1000), 3); err != nil {
			t.Fatal(err)
		}
		info, err := m.Crash().Stat("/f")
		must(t, err)
		if info.Size < 3 || info.Size > 1003 {
			t.Fatalf("size %d", info.Size)
		}
		sizes[info.Size]++
	}
	if sizes[3] < 5 || sizes[1003] < 5 || len(sizes) < 10 {
		t.Errorf("sizes %v", sizes)
	}
}

func TestDirectoriesKeepAPrefixOfTheirChanges(t *testing.T) {
	prefixes := map[int]int{}
	for seed := range uint64(80) {
		m := vfs.NewMemory(seed)
		for i := range 5 {
			create(t, m, fmt.Sprintf("/f%d", i), nil)
		}
		m = m.Crash()
		count := 0
		for i := range 5 {
			if exists(t, m, fmt.Sprintf("/f%d", i)) {
				if count != i {
					t.Fatalf("seed %d: f%d survived without those before", seed, i)
				}
				count++
			}
		}
		prefixes[count]++
	}
	if len(prefixes) != 6 {
		t.Errorf("prefixes %v", prefixes)
	}
}

func TestRenamesLeaveOneNameAtLeast(t *testing.T) {
	both, source, target := 0, 0, 0
	for seed := range uint64(100) {
		m := vfs.NewMemory(seed)
		must(t, vfs.MkdirAll(m, "/a", 0o755))
		must(t, vfs.MkdirAll(m, "/b", 0o755))
		must(t, vfs.WriteFile(m, "/a/f", []byte("x"), 0o644))
		must(t, m.Rename("/a/f", "/b/f"))
		if seed%4 == 0 {
			must(t, m.SyncDir("/a"))
		}
		m = m.Crash()
		switch a, b := exists(t, m, "/a/f"), exists(t, m, "/b/f"); {
		case a && b:
			both++
		case a:
			source++
		case b:
			target++
		default:
			t.Fatalf("seed %d: the file is lost", seed)
		}
	}
	if both == 0 || source == 0 || target == 0 {
		t.Errorf("%d both, %d source, %d target", both, source, target)
	}
}

func TestReplacementIsOldOrNew(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		m := vfs.NewMemory(seed)
		must(t, vfs.WriteFile(m, "/f", []byte("old"), 0o644))
		var cut *vfs.Memory
		fault := m.Inject(vfs.Rule{After: int(seed % 12), Times: 1, Delay: func() { cut = m.Crash() }})
		err := vfs.WriteFile(m, "/f", []byte("new"), 0o644)
		if fault.Fired() == 0 {
			cut = m.Crash()
		}
		got, readErr := vfs.ReadFile(cut, "/f", 100)
		must(t, readErr)
		if s := string(got); s != "new" && (s != "old" || err == nil) {
			t.Fatalf("seed %d: %q after %v", seed, got, err)
		}
		seen[string(got)]++
	}
	if len(seen) != 2 {
		t.Errorf("outcomes %v", seen)
	}
}

func TestTheSameSeedCrashesTheSameWay(t *testing.T) {
	life := func() string {
		m := vfs.NewMemory(7)
		for i := range 20 {
			file := create(t, m, fmt.Sprintf("/f%02d", i), bytes.Repeat([]byte{byte(i)}, 10_000))
			if i%3 == 0 {
				must(t, file.Sync())
			}
			if i == 15 {
				must(t, m.SyncDir("/"))
			}
		}
		m = m.Crash()
		list, err := m.ReadDir("/")
		must(t, err)
		state := ""
		for _, entry := range list {
			content, err := vfs.ReadFile(m, "/"+entry.Name(), 1<<20)
			must(t, err)
			state += fmt.Sprintf("%s %x\n", entry.Name(), content)
		}
		return state
	}
	if first, again := life(), life(); first != again {
		t.Error("two lives of one seed differ")
	}
}

func TestKillKeepsWhatWasWrittenAndFreesLocks(t *testing.T) {
	m := vfs.NewMemory(1)
	create(t, m, "/f", []byte("written"))
	_, err := m.Lock("/lock")
	must(t, err)
	next := m.Kill()
	wantContent(t, next, "/f", []byte("written"))
	held, err := next.Lock("/lock")
	must(t, err)
	must(t, held.Close())
	_, err = m.Stat("/f")
	wantIs(t, err, vfs.ErrPowerLost)
	lost := 0
	for seed := range uint64(20) { // what a killed process wrote is still volatile
		m := vfs.NewMemory(seed)
		create(t, m, "/f", []byte("written"))
		if !exists(t, m.Kill().Crash(), "/f") {
			lost++
		}
	}
	if lost == 0 || lost == 20 {
		t.Errorf("%d of 20 unsynced files lost with the power", lost)
	}
}

func TestFailedSyncLosesPagesForGood(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		m := vfs.NewMemory(seed)
		file := create(t, m, "/f", make([]byte, vfs.Align))
		must(t, file.Sync())
		must(t, m.SyncDir("/"))
		_, err := file.WriteAt(bytes.Repeat([]byte("x"), vfs.Align), 0)
		must(t, err)
		fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Times: 1, Err: syscall.EIO})
		wantIs(t, file.Sync(), syscall.EIO)
		must(t, file.Sync()) // lies, as a kernel's does
		if fault.Fired() != 1 {
			t.Fatal("the fault did not fire")
		}
		got, err := vfs.ReadFile(m.Crash(), "/f", 1<<20)
		must(t, err)
		if bytes.Count(got, []byte("x")) != vfs.Align {
			lost++
		}
	}
	if lost == 0 {
		t.Error("a second sync made the pages durable")
	}
}

func TestRulesFireWhereAndWhenTheySay(t *testing.T) {
	m := vfs.NewMemory(1)
	must(t, m.Mkdir("/d1", 0o755))
	file := create(t, m, "/d1/f", nil)
	second := m.Inject(vfs.Rule{Op: vfs.OpWrite, Path: "/d1/", After: 1, Times: 2, Err: syscall.ENOSPC})
	glob := m.Inject(vfs.Rule{Op: vfs.OpRead, Path: "/d?/f", Err: syscall.EIO})
	for i, want := range []error{nil, syscall.ENOSPC, syscall.ENOSPC, nil} {
		if _, err := file.WriteAt([]byte("abc"), 0); !errors.Is(err, want) {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
	}
	_, err := file.ReadAt(make([]byte, 1), 0)
	wantIs(t, err, syscall.EIO)
	glob.Clear()
	glob.Clear()
	if _, err := file.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
	if second.Fired() != 2 || glob.Fired() != 1 {
		t.Errorf("fired %d and %d times", second.Fired(), glob.Fired())
	}
	short := m.Inject(vfs.Rule{Op: vfs.OpWrite, Short: true, Times: 1})
	n, err := file.WriteAt(make([]byte, 4096), 0)
	if n != 2048 || !errors.Is(err, syscall.EIO) || short.Fired() != 1 {
		t.Errorf("short write: %d, %v", n, err)
	}
}

func TestHangingOperationsEndWhenClearedOrWithThePower(t *testing.T) {
	m := vfs.NewMemory(1)
	file := create(t, m, "/f", nil)
	for _, end := range []string{"clear", "crash"} {
		fault := m.Inject(vfs.Rule{Op: vfs.OpSync, Hang: true})
		var group sync.WaitGroup
		var err error
		group.Go(func() { err = file.Sync() })
		for fault.Fired() == 0 {
			if _, err := m.Usage("/"); err != nil {
				t.Fatal(err)
			}
		}
		if end == "clear" {
			fault.Clear()
		} else {
			m.Crash()
		}
		group.Wait()
		if end == "clear" && err != nil || end == "crash" && !errors.Is(err, vfs.ErrPowerLost) {
			t.Errorf("%s: %v", end, err)
		}
	}
}

func TestCapacityGivesENOSPCAndSpaceComesBack(t *testing.T) {
	m := vfs.NewMemory(1)
	m.SetCapacity(10 * vfs.Align)
	file := create(t, m, "/f", make([]byte, 8*vfs.Align))
	n, err := file.WriteAt(make([]byte, 4*vfs.Align), 8*vfs.Align)
	if n != 2*vfs.Align || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d: %v", n, err)
	}
	must(t, file.PunchHole(0, 4*vfs.Align))
	must(t, file.Allocate(20*vfs.Align, 4*vfs.Align))
	wantIs(t, file.Allocate(30*vfs.Align, vfs.Align), syscall.ENOSPC)
	must(t, m.Remove("/f"))
	must(t, file.Close())
	u, err := m.Usage("/")
	must(t, err)
	if u.Free != 10*vfs.Align {
		t.Errorf("%d bytes free after the last handle closed", u.Free)
	}
}

func TestDirectoriesCanBeCarriedAwayAndBack(t *testing.T) {
	m := vfs.NewMemory(1)
	must(t, vfs.MkdirAll(m, "/mnt/d1", 0o755))
	must(t, vfs.WriteFile(m, "/mnt/d1/f", []byte("x"), 0o644))
	must(t, m.Move("/mnt/d1", "/mnt/away"))
	_, err := m.Stat("/mnt/d1/f")
	wantIs(t, err, fs.ErrNotExist)
	m = m.Crash()
	must(t, m.Move("/mnt/away", "/mnt/d1"))
	wantContent(t, m, "/mnt/d1/f", []byte("x"))
	must(t, m.Corrupt("/mnt/d1/f", 0, func(b []byte) { b[0] ^= 1 }))
	wantContent(t, m, "/mnt/d1/f", []byte("y"))
	wantContent(t, m.Crash(), "/mnt/d1/f", []byte("y"))
}

func TestRemoveAllIsDurable(t *testing.T) {
	m := vfs.NewMemory(1)
	must(t, vfs.MkdirAll(m, "/mnt/d1/sub", 0o755))
	must(t, vfs.WriteFile(m, "/mnt/d1/sub/f", make([]byte, 5000), 0o644))
	must(t, m.RemoveAll("/mnt/d1"))
	m = m.Crash()
	if exists(t, m, "/mnt/d1") {
		t.Error("a removed directory came back")
	}
	if _, err := m.OpenFile("/mnt/d1/f", os.O_RDWR|os.O_CREATE, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
}

func TestACopyHoldsTheSameAndLivesItsOwnLife(t *testing.T) {
	m := vfs.NewMemory(1)
	must(t, vfs.MkdirAll(m, "/a", 0o755))
	file := create(t, m, "/a/f", bytes.Repeat([]byte{'1'}, 3*vfs.Align)) // not synced
	copied := m.Copy(2)
	if _, err := file.WriteAt(bytes.Repeat([]byte{'2'}, vfs.Align), 0); err != nil {
		t.Fatal(err)
	}
	must(t, m.Remove("/a/f"))
	wantContent(t, copied, "/a/f", bytes.Repeat([]byte{'1'}, 3*vfs.Align))
	copied = copied.Crash()
	wantContent(t, copied, "/a/f", bytes.Repeat([]byte{'1'}, 3*vfs.Align))
	if exists(t, m, "/a/f") {
		t.Error("what was removed from the original is still there")
	}
}
