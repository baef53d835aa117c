package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// Whoever writes at the same time: what is kept is what the DB has.
func TestKeptRowsFollowTheOrderOfTheDB(t *testing.T) {
	db, err := Open(Config{FS: vfs.NewMemory(1), Dir: "/db"})
	if err != nil {
		t.Fatal(err)
	}
	const keys, writers, rounds = 4, 4, 500
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for n := range rounds {
				b := db.NewBatch()
				for k := range keys {
					b.Put(fmt.Appendf(nil, "row-%d", k), fmt.Appendf(nil, "%d of %d", n, w))
				}
				if err := db.Write(b); err != nil {
					t.Error(err)
				}
				for k := range keys {
					key := fmt.Appendf(nil, "row-%d", k)
					db.order.Lock()
					kept, err := db.Get(key)
					stored, storedErr := db.level.Get(key, nil)
					db.order.Unlock()
					if err != nil || storedErr != nil || string(kept) != string(stored) {
						t.Errorf("row %d is kept as %q, stored as %q: %v, %v", k, kept, stored, err, storedErr)
					}
				}
			}
		})
	}
	wait.Wait()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A Get that begins after a Write returned sees what it wrote, whatever rows are kept in memory.
func TestKeptRowsAreNeverOlderThanAWrite(t *testing.T) {
	db, err := Open(Config{FS: vfs.NewMemory(1), Dir: "/db"})
	if err != nil {
		t.Fatal(err)
	}
	const keys, rounds = 8, 2000
	var written [keys]atomic.Uint64 // the value of the last Write that returned
	var wait sync.WaitGroup
	done := make(chan struct{})
	for k := range keys {
		key := fmt.Appendf(nil, "row-%d", k)
		for range 3 {
			wait.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					least := written[k].Load()
					value, err := db.Get(key)
					got := uint64(0)
					if err == nil {
						got = binary.BigEndian.Uint64(value)
					} else if deleted := least%5 == 0 || (least+1)%5 == 0; !errors.Is(err, ErrNotFound) || !deleted && written[k].Load() == least {
						t.Errorf("row %d after write %d: %v", k, least, err)
						return
					}
					if err == nil && got < least {
						t.Errorf("row %d is %d after write %d", k, got, least)
						return
					}
				}
			})
		}
	}
	for n := uint64(1); n <= rounds; n++ {
		b := db.NewBatch()
		for k := range keys {
			if n%5 == 0 {
				b.Delete(fmt.Appendf(nil, "row-%d", k))
			} else {
				value := binary.BigEndian.AppendUint64(nil, n)
				if n%7 == 0 {
					value = append(value, make([]byte, maxRow)...) // too large to be kept
				}
				b.Put(fmt.Appendf(nil, "row-%d", k), value)
			}
		}
		if err := db.Write(b); err != nil {
			t.Fatal(err)
		}
		for k := range keys {
			written[k].Store(n)
		}
	}
	close(done)
	wait.Wait()
	for i := range rowsInGeneration * rowShards * 4 {
		if _, err := db.Get(fmt.Appendf(nil, "none-%d", i)); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	for i := range db.rows.shards {
		young, old := len(db.rows.shards[i].young), len(db.rows.shards[i].old)
		if young > rowsInGeneration || old > rowsInGeneration || old == 0 {
			t.Errorf("%d young and %d old rows are kept in a shard", young, old)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
