package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
)

const testDir = "/state"

// open opens a DB with small buffers, so that journals rotate and tables are written and compacted.
func open(t testing.TB, f vfs.FS) *DB {
	t.Helper()
	db, err := Open(Config{FS: f, Dir: testDir, WriteBuffer: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func itemKey(i int) []byte { return fmt.Appendf(nil, "item/%08d", i) }

// itemValue differs for every item and does not compress away.
func itemValue(i int) []byte {
	value := make([]byte, 60+i%90)
	r := rand.New(rand.NewPCG(uint64(i), 7))
	for j := range value {
		value[j] = byte(r.Uint32())
	}
	return value
}

// put writes item i and the count of items in one batch, as the driver writes effects and the applied index.
func put(db *DB, i int) error {
	b := db.NewBatch()
	b.Put(itemKey(i), itemValue(i))
	b.Put([]byte("applied"), binary.BigEndian.AppendUint64(nil, uint64(i+1)))
	return db.Write(b)
}

// count checks that the DB holds exactly the first n items for some n and returns n.
func count(db *DB) (int, error) {
	n := 0
	value, err := db.Get([]byte("applied"))
	switch {
	case err == nil:
		n = int(binary.BigEndian.Uint64(value))
	case !errors.Is(err, ErrNotFound):
		return 0, err
	}
	it := db.Iterate(Span{Start: []byte("item/"), End: []byte("item0")})
	defer it.Close()
	seen := 0
	for it.Next() {
		if string(it.Key()) != string(itemKey(seen)) || string(it.Value()) != string(itemValue(seen)) {
			return 0, fmt.Errorf("HOLE: item %d of %d is %s", seen, n, it.Key())
		}
		seen++
	}
	if err := it.Err(); err != nil {
		return 0, err
	}
	if seen != n {
		return 0, fmt.Errorf("HOLE: %d items, %d applied", seen, n)
	}
	for i := 0; i < n; i += 7 {
		if value, err := db.Get(itemKey(i)); err != nil || string(value) != string(itemValue(i)) {
			if errors.Is(err, ErrNotFound) || err == nil {
				return 0, fmt.Errorf("HOLE: item %d: %v", i, err)
			}
			return 0, err
		}
	}
	return n, nil
}

func TestReadsSeeEveryWriteInOrder(t *testing.T) {
	for name, f := range map[string]vfs.FS{"memory": vfs.NewMemory(1), "disk": vfs.OS()} {
		t.Run(name, func(t *testing.T) {
			dir := testDir
			if name == "disk" {
				dir = t.TempDir() + "/state"
			}
			db, err := Open(Config{FS: f, Dir: dir, WriteBuffer: 16 << 10})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 2000 {
				if err := put(db, i); err != nil {
					t.Fatal(err)
				}
			}
			snap, err := db.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			b.Delete(itemKey(5))
			if err := db.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Get(itemKey(5)); !errors.Is(err, ErrNotFound) {
				t.Fatalf("deleted key: %v", err)
			}
			if _, err := snap.Get(itemKey(5)); err != nil {
				t.Fatalf("snapshot lost a key: %v", err)
			}
			it := snap.Iterate(Span{Start: itemKey(10), End: itemKey(20)})
			if !it.Last() || string(it.Key()) != string(itemKey(19)) || !it.Prev() || !it.Seek(itemKey(15)) ||
				string(it.Key()) != string(itemKey(15)) || it.Seek(itemKey(20)) {
				t.Fatalf("iterator moves wrongly, at %s: %v", it.Key(), it.Err())
			}
			it.Close()
			it.Close()
			snap.Close()
			b.Reset()
			b.Put(itemKey(5), itemValue(5))
			if err := db.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Get(itemKey(5)); !errors.Is(err, ErrClosed) {
				t.Fatalf("get after close: %v", err)
			}
			if db, err = Open(Config{FS: f, Dir: dir}); err != nil {
				t.Fatal(err)
			}
			if n, err := count(db); n != 2000 || err != nil {
				t.Fatalf("after reopen: %d items, %v", n, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if err := Destroy(f, dir); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("destroyed directory: %v", err)
			}
		})
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	f := vfs.NewMemory(1)
	db := open(t, f)
	if _, err := Open(Config{FS: f, Dir: testDir}); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPowerLossLeavesAPrefix cuts the power of a DB that is written without sync while journals rotate. What opens
// must be the first n writes for some n; what does not open must say ErrBroken.
func TestPowerLossLeavesAPrefix(t *testing.T) {
	var prefixes, broken, lost int
	for seed := range uint64(200) {
		f := vfs.NewMemory(seed)
		db := open(t, f)
		total := 50 + int(seed)*9%900
		for i := range total {
			if err := put(db, i); err != nil {
				t.Fatal(err)
			}
		}
		after := f.Crash()
		if err := put(db, total); !errors.Is(err, ErrBroken) {
			t.Fatalf("seed %d: write after power loss: %v", seed, err)
		}
		again, err := Open(Config{FS: after, Dir: testDir})
		if err != nil {
			if !errors.Is(err, ErrBroken) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			broken++
			continue
		}
		n, err := count(again)
		if err != nil || n > total {
			t.Fatalf("seed %d: %d of %d items: %v", seed, n, total, err)
		}
		prefixes++
		if n < total {
			lost++
		}
		if err := put(again, n); err != nil {
			t.Fatalf("seed %d: write after recovery: %v", seed, err)
		}
		if m, err := count(again); m != n+1 || err != nil {
			t.Fatalf("seed %d: %d items after recovery and a write to %d: %v", seed, m, n, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("200 power losses: %d opened with a prefix (%d shorter than written), %d refused", prefixes, lost, broken)
	if prefixes < 20 || lost < 10 {
		t.Fatalf("only %d opened and %d lost a tail: the test exercises too little", prefixes, lost)
	}
}

// TestKillLosesNothing ends the process at any point: everything written is still there.
func TestKillLosesNothing(t *testing.T) {
	f := vfs.NewMemory(3)
	total := 0
	for round := range 20 {
		db := open(t, f)
		if n, err := count(db); n != total || err != nil {
			t.Fatalf("round %d: %d of %d items: %v", round, n, total, err)
		}
		for range 1 + round*17 {
			if err := put(db, total); err != nil {
				t.Fatal(err)
			}
			total++
		}
		f = f.Kill()
	}
}

// TestEveryFlippedByteIsSeen flips each byte of each file of a small DB with tables, a manifest and a journal. A flip
// in the last journal record reads as a torn tail and gives a shorter prefix, which the log replays.
func TestEveryFlippedByteIsSeen(t *testing.T) {
	f := vfs.NewMemory(5)
	db := open(t, f)
	const total = 220
	for i := range total {
		if err := put(db, i); err != nil {
			t.Fatal(err)
		}
		if i == total-30 { // opening writes the journals so far into tables
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = open(t, f)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := f.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	files, kinds := map[string][]byte{}, map[string]int{}
	for _, e := range entries {
		data, err := vfs.ReadFile(f, testDir+"/"+e.Name(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = data
		if fd, ok := parseName(e.Name()); ok {
			kinds[fd.Type.String()]++
		}
	}
	if kinds["table"] == 0 || kinds["manifest"] != 1 || kinds["journal"] == 0 {
		t.Fatalf("the DB has not every kind of file: %v", kinds)
	}
	var refused, same, shorter int
	for name, data := range files {
		step := max(1, len(data)/700) // every byte of the small files, a dense sample of tables
		for off := 0; off < len(data); off += step {
			n, err := openDamaged(t, files, name, off, byte(1<<(off%8)))
			switch {
			case errors.Is(err, ErrBroken):
				refused++
			case err != nil:
				t.Fatalf("%s byte %d: %v", name, off, err)
			case n == total:
				same++
			case n < total && strings.HasSuffix(name, ".log"):
				shorter++
			default:
				t.Fatalf("%s byte %d: %d of %d items and no error", name, off, n, total)
			}
		}
	}
	t.Logf("%d refused, %d unchanged, %d a shorter prefix", refused, same, shorter)
	if refused < 500 {
		t.Fatalf("only %d flips were refused", refused)
	}
}

// openDamaged opens and reads a copy of files in which one byte is changed.
func openDamaged(t *testing.T, files map[string][]byte, name string, off int, mask byte) (int, error) {
	t.Helper()
	f := vfs.NewMemory(1)
	if err := vfs.MkdirAll(f, testDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for n, data := range files {
		if n == name {
			data = append([]byte(nil), data...)
			data[off] ^= mask
		}
		if err := vfs.WriteFile(f, testDir+"/"+n, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := Open(Config{FS: f, Dir: testDir})
	if err != nil {
		return 0, err
	}
	n, err := count(db)
	if closed := db.Close(); closed != nil && !errors.Is(closed, ErrBroken) {
		t.Fatal(closed)
	}
	return n, err
}

// TestMissingAndShortFilesAreSeen removes and truncates each file of a DB.
func TestMissingAndShortFilesAreSeen(t *testing.T) {
	f := vfs.NewMemory(5)
	db := open(t, f)
	const total = 400
	for i := range total {
		if err := put(db, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := f.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, part := range []int64{0, 1, 2, 3} { // quarters that are left; 0 removes the file
			g := vfs.NewMemory(1)
			if err := vfs.MkdirAll(g, testDir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, o := range entries {
				data, err := vfs.ReadFile(f, testDir+"/"+o.Name(), 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if o.Name() == e.Name() {
					if part == 0 {
						continue
					}
					data = data[:int64(len(data))*part/4]
				}
				if err := vfs.WriteFile(g, testDir+"/"+o.Name(), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			db, err := Open(Config{FS: g, Dir: testDir})
			if errors.Is(err, ErrBroken) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if n, err := count(db); err != nil && !errors.Is(err, ErrBroken) {
				t.Fatalf("%s cut to %d/4: %v", e.Name(), part, err)
			} else if err == nil && n != total && !strings.HasSuffix(e.Name(), ".log") {
				t.Fatalf("%s cut to %d/4: %d items", e.Name(), part, n)
			}
			if err := db.Close(); err != nil && !errors.Is(err, ErrBroken) {
				t.Fatal(err)
			}
		}
	}
}

// TestAnyFileErrorBreaksForEver injects one error of each kind of write; the DB must refuse every later call, also
// reads, and the files must still hold a prefix.
func TestAnyFileErrorBreaksForEver(t *testing.T) {
	for _, rule := range []vfs.Rule{
		{Op: vfs.OpWrite, Path: ".log", After: 5, Times: 1, Err: syscall.EIO},
		{Op: vfs.OpWrite, Path: ".log", After: 40, Times: 1, Short: true},
		{Op: vfs.OpSync, Path: ".log", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpSync, Path: ".ldb", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpWrite, Path: ".ldb", Times: 1, Err: syscall.ENOSPC},
		{Op: vfs.OpSync, Path: "MANIFEST", Times: 1, Err: syscall.EIO},
		{Op: vfs.OpSyncDir, Path: testDir, Times: 1, Err: syscall.EIO},
	} {
		t.Run(string(rule.Op)+rule.Path, func(t *testing.T) {
			f := vfs.NewMemory(9)
			db := open(t, f)
			fault := f.Inject(rule)
			var failed error
			wrote := 0
			for i := range 200_000 {
				if failed = put(db, i); failed != nil {
					break
				}
				wrote++
				if fault.Fired() > 0 && i > 100_000 {
					break
				}
			}
			if fault.Fired() == 0 || !errors.Is(failed, ErrBroken) {
				t.Fatalf("fault fired %d times, write gave %v", fault.Fired(), failed)
			}
			if err := put(db, wrote); !errors.Is(err, ErrBroken) {
				t.Fatalf("later write: %v", err)
			}
			if _, err := db.Get(itemKey(0)); !errors.Is(err, ErrBroken) {
				t.Fatalf("later read: %v", err)
			}
			if err := db.Close(); !errors.Is(err, ErrBroken) {
				t.Fatalf("close: %v", err)
			}
			again, err := Open(Config{FS: f, Dir: testDir})
			if err != nil {
				if !errors.Is(err, ErrBroken) {
					t.Fatal(err)
				}
				return
			}
			if n, err := count(again); err != nil || n > wrote+1 {
				t.Fatalf("%d items of %d: %v", n, wrote, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestReadErrorBreaks makes the device fail while a table is read.
func TestReadErrorBreaks(t *testing.T) {
	f := vfs.NewMemory(9)
	db := open(t, f)
	for i := range 2000 {
		if err := put(db, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, f)
	fault := f.Inject(vfs.Rule{Op: vfs.OpRead, Path: ".ldb", Err: syscall.EIO})
	if _, err := count(db); !errors.Is(err, ErrBroken) || fault.Fired() == 0 {
		t.Fatalf("read gave %v, fault fired %d times", err, fault.Fired())
	}
	fault.Clear()
	if _, err := db.Get(itemKey(0)); !errors.Is(err, ErrBroken) {
		t.Fatalf("get after a read error: %v", err)
	}
	if err := db.Close(); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, valid := readRecords(data)
		total := 0
		for _, r := range records {
			total += len(r)
		}
		if valid > len(data) || total > len(data) {
			t.Fatalf("%d bytes gave %d records of %d bytes up to %d", len(data), len(records), total, valid)
		}
		if valid < len(data) {
			readableAfter(data, valid)
		}
		m := manifest{tables: map[int64]int64{}}
		if err := m.add(data); err == nil && m.tables == nil {
			t.Fatal("tables vanished")
		}
	})
}
