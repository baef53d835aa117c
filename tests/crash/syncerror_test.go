package crash

import (
	"context"
	"errors"
	"fmt"
	"path"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/tests/testkit"
)

// TestFailedSyncLosesNothingAcknowledged lets the sync of each kind of file fail once under load, cuts the power, and
// audits what was acknowledged before, during and after it.
func TestFailedSyncLosesNothingAcknowledged(t *testing.T) {
	const log, identity = "/names/log/", "/drives/d3/identity.b"
	for name, test := range map[string]struct {
		rule vfs.Rule
		// before prepares the stopped cluster; the rule is in force from the next start on.
		before func(t *testing.T, fs *vfs.Memory)
		// end says that the peer is closed in order, because only then the file is written.
		end bool
	}{
		"chunk file":            {rule: vfs.Rule{Op: vfs.OpSync, Path: "/drives/d3/volumes/", After: 3}},
		"chunk files, 4 drives": {rule: vfs.Rule{Op: vfs.OpSync, Path: "/drives/d[1-4]/volumes/*/*", After: 9, Times: 4}},
		"name of a chunk file":  {rule: vfs.Rule{Op: vfs.OpSyncDir, Path: "/drives/d3/volumes/"}, before: removeVolumes},
		"log segment":           {rule: vfs.Rule{Op: vfs.OpSync, Path: log, After: 20}},
		"log segments, 5 times": {rule: vfs.Rule{Op: vfs.OpSync, Path: log, After: 20, Times: 5}},
		"name of a log segment": {rule: vfs.Rule{Op: vfs.OpSyncDir, Path: "/names/log"}, before: loseLog},
		"mirror set":            {rule: vfs.Rule{Op: vfs.OpSync, Path: "/names/mirrors"}, before: loseMirror},
		"checkpoint":            {rule: vfs.Rule{Op: vfs.OpSync, Path: "/names/checkpoint/"}, end: true},
		"state":                 {rule: vfs.Rule{Op: vfs.OpSync, Path: "/dir/state/"}},
		"identity":              {rule: vfs.Rule{Op: vfs.OpSync, Path: identity}, before: remove(identity)},
		"ledger":                {rule: vfs.Rule{Op: vfs.OpSync, Path: "/drives/d3/ledger."}},
		"credentials":           {rule: vfs.Rule{Op: vfs.OpSync, Path: "/dir/credentials"}, before: remove("/dir/credentials")},
		"cluster":               {rule: vfs.Rule{Op: vfs.OpSync, Path: "/dir/cluster"}, before: remove("/dir/cluster")},
	} {
		t.Run(name, func(t *testing.T) {
			rule := test.rule
			rule.Err = syscall.EIO
			rule.Times = max(rule.Times, 1)
			failOneSync(t, rule, test.before, test.end)
		})
	}
}

func failOneSync(t *testing.T, rule vfs.Rule, before func(*testing.T, *vfs.Memory), end bool) {
	fs := vfs.NewMemory(uint64(len(rule.Path)))
	m := startMemoryPeer(t, fs)
	m.makeBucket("load")
	l := newLedger(t, "load")
	l.body = smallBody
	load := func(want int64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		done := make(chan int64, 1)
		begun := len(l.keys())
		go func() { done <- l.load(ctx, m, 4) }()
		testkit.Poll(t, 15*time.Second, "load", func() bool { return int64(len(l.keys())-begun) >= want })
		cancel()
		if n := <-done; n < want {
			t.Fatalf("%d writes were acknowledged, want %d", n, want)
		}
	}
	load(20)
	m.close()
	if before != nil {
		before(t, fs)
	}
	fault := fs.Inject(rule)
	m = startMemoryPeer(t, fs, func(_ *peer.Config, seams *peer.Seams) { seams.RepairEvery = 50 * time.Millisecond })
	load(60)
	if end {
		if err := m.peer.Close(); err != nil && !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
		m.http.CloseIdleConnections()
		fs = fs.Crash()
	} else {
		fs = fs.Crash()
		m.drop()
	}
	if fault.Fired() == 0 {
		t.Fatal("the fault did not fire")
	}
	m = startMemoryPeer(t, fs)
	l.audit(m)
	load(10)
	l.audit(m)
	m.close()
}

func remove(name string) func(*testing.T, *vfs.Memory) {
	return func(t *testing.T, fs *vfs.Memory) {
		t.Helper()
		if err := fs.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
}

// removeVolumes empties a drive of chunk files, so that repair makes new ones.
func removeVolumes(t *testing.T, fs *vfs.Memory) {
	t.Helper()
	remove("/drives/d3/volumes")(t, fs)
}

// loseMirror takes away a drive that holds the log, so that the set of mirrors changes.
func loseMirror(t *testing.T, fs *vfs.Memory) {
	t.Helper()
	if err := fs.Move(firstMirror(t, fs), "/gone"); err != nil {
		t.Fatal(err)
	}
}

// loseLog takes one copy of the log away, so that it is written again.
func loseLog(t *testing.T, fs *vfs.Memory) {
	t.Helper()
	remove(path.Join(firstMirror(t, fs), "names/log"))(t, fs)
}

// firstMirror is a drive that holds the log.
func firstMirror(t *testing.T, fs *vfs.Memory) string {
	t.Helper()
	for n := range 12 {
		dir := fmt.Sprint("/drives/d", n+1)
		segments, err := fs.ReadDir(path.Join(dir, "names/log"))
		if err == nil && len(segments) > 0 {
			return dir
		}
	}
	t.Fatal("no drive holds the log")
	return ""
}
