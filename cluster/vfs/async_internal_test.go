package vfs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// A file system that is frozen takes no write before it thaws: the kernel holds up whoever hands it one.
func TestAWriteThatIsStuckHoldsUpNoOther(t *testing.T) {
	system := OS()
	dir := t.TempDir()
	var writes []SyncWrite
	type end struct {
		file int
		err  error
	}
	ends := make(chan end, 5)
	for i := range 5 {
		name := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(name, make([]byte, Align), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := system.OpenFile(name, os.O_RDWR|Direct, 0)
		if err != nil {
			t.Skip("no direct I/O in the directory for temporary files: ", err)
		}
		defer file.Close()
		file.(*osFile).device = uint64(i) // as if each were on a file system of its own
		writes = append(writes, SyncWrite{File: file, Data: Aligned(Align), Done: func(err error) { ends <- end{i, err} }})
	}
	ring := system.(osFS).rings.take()
	if ring == nil {
		t.Skip("this kernel gives no AIO context")
	}
	const stuck = 2
	thaw := make(chan struct{})
	b := newBatch(ring, writes)
	b.submit = func(writes []SyncWrite, first int) writeSet {
		if first == stuck {
			<-thaw
		}
		return ring.submit(writes, first)
	}
	finished := make(chan struct{})
	go func() {
		b.run()
		close(finished)
	}()
	wait := func() end {
		t.Helper()
		select {
		case e := <-ends:
			return e
		case <-time.After(30 * time.Second):
			t.Fatal("a write did not end")
			return end{}
		}
	}
	for range 4 {
		if e := wait(); e.file == stuck || e.err != nil {
			t.Fatalf("write %d ended first: %v", e.file, e.err)
		}
	}
	close(thaw)
	if e := wait(); e.file != stuck || e.err != nil {
		t.Fatalf("write %d ended last: %v", e.file, e.err)
	}
	<-finished
	pool := system.(osFS).rings
	free := func() bool {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return len(pool.free) == 1
	}
	for deadline := time.Now().Add(30 * time.Second); !free(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the ring did not come back")
		}
	}
}
