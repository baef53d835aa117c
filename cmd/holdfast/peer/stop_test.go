package peer

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestAPeerStopsWhileADriveHangs hangs the syncs of a drive under writes: they go around it, and Close comes back.
func TestAPeerStopsWhileADriveHangs(t *testing.T) {
	m := vfs.NewMemory(5)
	p := start(t, m)
	body := bytes.Repeat([]byte("x1"), 256<<10)
	keep(t, p, "a", body)
	hang := m.Inject(vfs.Rule{Path: drivePath(3) + "/", Hang: true, Op: vfs.OpSync})
	defer hang.Clear()
	for i := range 4 {
		keep(t, p, fmt.Sprint("k", i), body)
		wantRead(t, p, fmt.Sprint("k", i), body)
	}
	if hang.Fired() == 0 {
		t.Fatal("nothing hung")
	}
	closed := make(chan error, 1)
	begun := time.Now()
	go func() { closed <- p.Close() }()
	select {
	case err := <-closed:
		if err == nil {
			t.Error("nothing is said of the drive that hangs")
		}
		t.Logf("closed after %v: %v", time.Since(begun), err)
	case <-time.After(45 * time.Second):
		t.Fatal("Close never came back")
	}
}
