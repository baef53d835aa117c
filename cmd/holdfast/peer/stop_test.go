package peer

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestAPeerStopsWhileADriveHangs hangs a drive under writes, in its syncs only or in all it does: they go around it, and
// Close comes back within a time that an operator waits, after it closed the names, which hands over what this peer leads.
func TestAPeerStopsWhileADriveHangs(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]vfs.Rule{"syncs": {Op: vfs.OpSync, Hang: true}, "everything": {Hang: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := vfs.NewMemory(5)
			p := start(t, m)
			body := bytes.Repeat([]byte("x1"), 256<<10)
			keep(t, p, "a", body)
			rule.Path = drivePath(3) + "/"
			hang := m.Inject(rule)
			defer hang.Clear()
			for i := range 4 {
				keep(t, p, fmt.Sprint("k", i), body)
				wantRead(t, p, fmt.Sprint("k", i), body)
			}
			if hang.Fired() == 0 {
				t.Fatal("nothing hung")
			}
			c, begun := p.core.Load(), time.Now()
			err := closeWithin(t, p, 20*time.Second) // nine when the machine does nothing else
			if err == nil {
				t.Error("nothing is said of the drive that hangs")
			}
			t.Logf("closed after %v: %v", time.Since(begun), err)
			if c.host.Failed() == nil {
				t.Error("the names were not closed")
			}
		})
	}
}
