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
				b.Put(fmt.Appendf(nil, "row-%d", k), binary.BigEndian.AppendUint64(nil, n))
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
	for i := range rowsInShard * rowShards * 2 {
		if _, err := db.Get(fmt.Appendf(nil, "none-%d", i)); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	for i := range db.rows.shards {
		if n := len(db.rows.shards[i].rows); n > rowsInShard {
			t.Errorf("%d rows are kept in a shard", n)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
