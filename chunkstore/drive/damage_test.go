package drive_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// smallDrive makes a drive with a few shards, one of them deleted, closed in order when footed is true.
func smallDrive(t testing.TB, footed bool) (*vfs.Memory, []*drivetest.Shard, *drivetest.Shard) {
	t.Helper()
	m := newMemory(t, 1)
	d := open(t, m, func(c *drive.Config) {
		if footed {
			c.FileSize = 24 << 10 // the file is full, so it ends with an index record
		}
	})
	var shards []*drivetest.Shard
	for i := range uint32(3) {
		s := drivetest.NewShard(drivetest.Key(1, i, 2), 1, 1+i)
		must(t, s.Put(t.Context(), d))
		shards = append(shards, s)
	}
	gone := drivetest.NewShard(drivetest.Key(1, 9, 2), 1, 1)
	must(t, gone.Put(t.Context(), d))
	must(t, d.Delete(t.Context(), []chunkstore.ShardKey{gone.Header.Key}))
	must(t, d.Close())
	return m, shards, gone
}

// TestEveryByteOfALiveRecordIsCovered flips a bit of every single byte of a chunk file under an open drive: Check finds it
// exactly when the byte belongs to a live record, and Read never gives wrong bytes.
func TestEveryByteOfALiveRecordIsCovered(t *testing.T) {
	m, shards, _ := smallDrive(t, false)
	name := chunkFiles(t, m)[0]
	info, err := m.Stat(name)
	must(t, err)
	d := open(t, m)
	for at := range info.Size {
		kept := spoil(t, m, name, at, 1)
		for i, s := range shards {
			// Behind two pages of file header each record has a page of header and a page of payload.
			first := int64(2+2*i) * vfs.Align
			hit := at >= first && at < first+2*vfs.Align
			if !hit && at%64 != 0 {
				continue
			}
			if err := d.Check(t.Context(), s.Header.Key); hit != errors.Is(err, chunkstore.ErrDamaged) || !hit && err != nil {
				t.Fatalf("byte %d, shard %d: %v", at, i, err)
			}
			if got, err := s.Read(t.Context(), d); err == nil && !bytes.Equal(got, s.Payload) {
				t.Fatalf("byte %d: wrong bytes of shard %d", at, i)
			}
		}
		must(t, m.Corrupt(name, at, func(b []byte) { copy(b, kept) }))
	}
}

// TestEveryFlippedBitIsFoundOrHarmless flips bits all over the chunk files of a small drive that is opened anew each
// time, and zeroes whole pages: what is read is right or refused, and nothing deleted comes back.
func TestEveryFlippedBitIsFoundOrHarmless(t *testing.T) {
	for _, footed := range []bool{false, true} {
		m, shards, gone := smallDrive(t, footed)
		hurt := 0
		for _, name := range chunkFiles(t, m) {
			info, err := m.Stat(name)
			must(t, err)
			for at := int64(0); at < info.Size; at += flipStep() {
				kept := spoil(t, m, name, at, 1)
				hurt += inspect(t, m, shards, gone)
				must(t, m.Corrupt(name, at, func(b []byte) { copy(b, kept) }))
			}
			for at := int64(0); at < info.Size; at += vfs.Align {
				kept := spoil(t, m, name, at, vfs.Align)
				hurt += inspect(t, m, shards, gone)
				must(t, m.Corrupt(name, at, func(b []byte) { copy(b, kept) }))
			}
		}
		if hurt == 0 {
			t.Fatal("no flip hurt a shard")
		}
	}
}

// TestEveryFlippedBitOfTheLedgerIsHarmless does so to the ledger, which is written anew whenever a page of it is bad.
func TestEveryFlippedBitOfTheLedgerIsHarmless(t *testing.T) {
	m, shards, gone := smallDrive(t, false)
	rewritten := 0
	for at := int64(0); ; at += 3 * flipStep() {
		name := ledgers(t, m)[0]
		info, err := m.Stat(name)
		must(t, err)
		if at >= info.Size {
			break
		}
		spoil(t, m, name, at, 1+int64(at%2)*(vfs.Align-1-at%vfs.Align))
		if inspect(t, m, shards, gone) != 0 {
			t.Fatalf("byte %d of the ledger hurt a shard", at)
		}
		if now := ledgers(t, m); len(now) != 1 {
			t.Fatalf("ledgers %v", now)
		} else if now[0] != name {
			rewritten++
		}
	}
	if rewritten == 0 {
		t.Fatal("no damaged ledger was written anew")
	}
}

func ledgers(t testing.TB, m *vfs.Memory) (names []string) {
	t.Helper()
	list, err := m.ReadDir(home)
	must(t, err)
	for _, entry := range list {
		if strings.HasPrefix(entry.Name(), "ledger.") {
			names = append(names, home+"/"+entry.Name())
		}
	}
	return names
}

// flipStep is how far apart the flipped bytes stand: coprime to the page, so that every kind of field is met.
func flipStep() int64 {
	if testing.Short() {
		return 101
	}
	return 29
}

// spoil flips a bit of a byte, or zeroes more than one byte, and returns what was there.
func spoil(t testing.TB, m *vfs.Memory, name string, at, length int64) (kept []byte) {
	t.Helper()
	must(t, m.Corrupt(name, at, func(b []byte) {
		b = b[:min(length, int64(len(b)))]
		kept = bytes.Clone(b)
		if len(b) == 1 {
			b[0] ^= 1 << (at % 8)
		} else {
			clear(b)
		}
	}))
	return kept
}

// inspect opens the drive and holds every read to: the right bytes, or an error that says damaged or not found.
func inspect(t testing.TB, m *vfs.Memory, shards []*drivetest.Shard, gone *drivetest.Shard) (hurt int) {
	t.Helper()
	d, err := tryOpen(t, m)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	for _, s := range shards {
		got, err := s.Read(t.Context(), d)
		switch {
		case err == nil && !bytes.Equal(got, s.Payload):
			t.Fatalf("wrong bytes of %v", s.Header.Key)
		case err != nil && !errors.Is(err, chunkstore.ErrDamaged) && !errors.Is(err, chunkstore.ErrNotFound):
			t.Fatal(err)
		case err != nil:
			hurt++
		}
	}
	if _, err := gone.Read(t.Context(), d); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Fatalf("the deleted shard: %v", err)
	}
	wantIs(t, gone.Put(t.Context(), d), chunkstore.ErrDeleted)
	return hurt
}

func TestDamagedIndexRecordsAreReplacedByScanning(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	for i := range uint32(100) {
		must(t, drivetest.NewShard(drivetest.Key(1, i, 0), 1, 1).Put(t.Context(), d))
	}
	must(t, d.Close())
	name := chunkFiles(t, m)[0]
	info, err := m.Stat(name)
	must(t, err)
	for _, back := range []int64{1, vfs.Align + 1, 3*vfs.Align - 1} {
		must(t, m.Corrupt(name, info.Size-back, func(b []byte) { b[0] ^= 4 }))
		d := open(t, m)
		for i := range uint32(100) {
			drivetest.WantRead(t, d, drivetest.NewShard(drivetest.Key(1, i, 0), 1, 1))
		}
		must(t, d.Close())
	}
}

func TestTruncatedChunkFileGivesNoWrongBytes(t *testing.T) {
	m, shards, gone := smallDrive(t, false)
	name := chunkFiles(t, m)[0]
	info, err := m.Stat(name)
	must(t, err)
	for size := info.Size; size >= 0; size -= 2048 {
		f, err := m.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			break // a file cut to its header was removed: nothing can be in it
		}
		must(t, f.Truncate(size))
		must(t, f.Sync())
		must(t, f.Close())
		inspect(t, m, shards, gone)
	}
}

// TestUserBytesThatLookLikeRecordsAreNotRecords stores a copy of a chunk file as payload.
func TestUserBytesThatLookLikeRecordsAreNotRecords(t *testing.T) {
	m, _, _ := smallDrive(t, false)
	copied, err := vfs.ReadFile(m, chunkFiles(t, m)[0], 1<<20)
	must(t, err)
	m = newMemory(t, 2)
	d := open(t, m)
	s := drivetest.NewShard(drivetest.Key(1, 50, 2), 1, 1<<20)
	copy(s.Payload, copied)
	s.Rehash()
	must(t, s.Put(t.Context(), d))
	must(t, m.Corrupt(chunkFiles(t, m)[0], 2*vfs.Align, func(b []byte) { b[9] ^= 1 })) // its header is lost
	d = open(t, m.Kill())
	if n := d.Status().Shards; n != 0 {
		t.Errorf("%d shards found in user bytes", n)
	}
}

// TestRemovedChunkFileTakesNoMoreWrites removes a file under an open drive: a put to it is not acknowledged, since the
// bytes would go with the last handle, and the next one makes a new file.
func TestRemovedChunkFileTakesNoMoreWrites(t *testing.T) {
	m := newMemory(t, 1)
	d := open(t, m)
	lost := drivetest.NewShard(drivetest.Key(1, 1, 2), 1, 1)
	must(t, lost.Put(t.Context(), d))
	for _, name := range chunkFiles(t, m) {
		must(t, m.Remove(name))
	}
	if err := drivetest.NewShard(drivetest.Key(1, 2, 2), 1, 2).Put(t.Context(), d); err == nil {
		t.Error("a put to a removed file was acknowledged")
	}
	must(t, lost.Put(t.Context(), d))
	must(t, d.Check(t.Context(), lost.Header.Key))
	must(t, d.Close())
	d = open(t, m)
	must(t, d.Check(t.Context(), lost.Header.Key))
	must(t, d.Close())
}
