package peer

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// sickness is what may befall a drive of a running peer, and what status must say of it.
type sickness struct {
	name   string
	rules  []vfs.Rule // of the drive's paths
	state  slotKind
	reason string
}

func sicknesses() []sickness {
	readOnly := []vfs.Rule{}
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpTruncate, vfs.OpAllocate, vfs.OpPunch, vfs.OpRename,
		vfs.OpRemove, vfs.OpMkdir} {
		readOnly = append(readOnly, vfs.Rule{Op: op, Err: syscall.EROFS})
	}
	return []sickness{
		{name: "everything hangs", rules: []vfs.Rule{{Hang: true}}, state: slotHanging, reason: "not answer"},
		{name: "writes and syncs hang", rules: []vfs.Rule{{Op: vfs.OpWrite, Hang: true}, {Op: vfs.OpAllocate, Hang: true},
			{Op: vfs.OpSync, Hang: true}, {Op: vfs.OpSyncDir, Hang: true}}, state: slotHanging, reason: "not answer"},
		{name: "reads hang", rules: []vfs.Rule{{Op: vfs.OpRead, Hang: true}}, state: slotHanging, reason: "not answer"},
		{name: "read-only", rules: readOnly, state: slotReadOnly, reason: "read-only"},
		{name: "full", rules: []vfs.Rule{{Op: vfs.OpWrite, Err: syscall.ENOSPC}, {Op: vfs.OpAllocate, Err: syscall.ENOSPC}}, state: slotUp,
			reason: "full"},
	}
}

// TestAPeerLivesWithASickDrive lets each fault befall a drive that holds the log too, under a running peer: writes and
// reads go on, status says what is wrong, the peer stops and starts with the fault, and all is well when it has passed.
func TestAPeerLivesWithASickDrive(t *testing.T) {
	t.Parallel()
	for seed, sick := range sicknesses() {
		t.Run(sick.name, func(t *testing.T) {
			t.Parallel()
			m := vfs.NewMemory(uint64(seed))
			p := start(t, m)
			body := bytes.Repeat([]byte(sick.name), 64<<10)
			keep(t, p, "before", body)
			dir := p.core.Load().host.Mirrors().Members[0].Dir
			faults := inject(m, dir, sick.rules)
			written := 0
			write := func() {
				key := fmt.Sprint("k", written)
				begun := time.Now()
				keep(t, p, key, body)
				wantRead(t, p, key, body)
				if took := time.Since(begun); took > time.Minute { // a second or two where the machine does nothing else
					t.Errorf("a write and a read took %v", took)
				}
				written++
			}
			said := func(state slotKind) func() bool {
				return func() bool {
					write()
					row, st := driveRow(t, p, dir)
					if row.State == string(slotHanging) && (st.DrivesUp == testDrives || st.Losses.Bytes.Drives > 3) {
						t.Errorf("with a drive that hangs %d are up and %d more losses are survived", st.DrivesUp, st.Losses.Bytes.Drives)
					}
					return row.State == string(state) && strings.Contains(row.Reason, sick.reason) && !st.Whole()
				}
			}
			patiently(t, "status to say so", said(sick.state))
			fired(t, faults)
			wantRead(t, p, "before", body)

			begun := time.Now()
			err := closeWithin(t, p, 2*time.Minute)
			t.Logf("%d writes; closed after %v: %v", written, time.Since(begun), err)
			m = m.Kill()
			faults = inject(m, dir, sick.rules)
			p = start(t, m)
			wantRead(t, p, "before", body)
			for i := range written {
				wantRead(t, p, fmt.Sprint("k", i), body)
			}
			patiently(t, "status to say so after a restart", said(sick.state))
			fired(t, faults)

			for _, f := range faults {
				f.Clear()
			}
			patiently(t, "the drive to be well", func() bool {
				row, st := driveRow(t, p, dir)
				return row.State == string(slotUp) && row.Reason == "" && st.DrivesUp == testDrives
			})
			write()
			for i := range written {
				wantRead(t, p, fmt.Sprint("k", i), body)
			}
			patiently(t, "repair to finish", func() bool { _, st := driveRow(t, p, dir); return st.Whole() })
			stop(t, p)
		})
	}
}

func inject(m *vfs.Memory, dir string, rules []vfs.Rule) []*vfs.Fault {
	var faults []*vfs.Fault
	for _, r := range rules {
		r.Path = dir + "/"
		faults = append(faults, m.Inject(r))
	}
	return faults
}

func fired(t *testing.T, faults []*vfs.Fault) {
	t.Helper()
	n := 0
	for _, f := range faults {
		n += f.Fired()
	}
	if n == 0 {
		t.Fatal("the fault never fired")
	}
}

func driveRow(t *testing.T, p *Peer, dir string) (admin.Drive, *admin.Status) {
	t.Helper()
	st, err := source{p, p.core.Load()}.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range st.Drives {
		if d.Path == dir {
			return d, st
		}
	}
	t.Fatalf("status does not know %s", dir)
	return admin.Drive{}, nil
}

// patiently is poll for what a fault delays on a machine under load.
func patiently(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited too long for %s", what)
		case <-ticker.C:
		}
	}
}

func closeWithin(t *testing.T, p *Peer, limit time.Duration) error {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- p.Close() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		t.Fatalf("Close did not come back within %v", limit)
		return nil
	}
}

// TestACheckIsPatientWithADriveThatIsLate hangs the reads of a drive for longer than a call waits: a check asks again.
func TestACheckIsPatientWithADriveThatIsLate(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(77)
	p := start(t, m)
	defer stop(t, p)
	for i := range 3 {
		keep(t, p, fmt.Sprint("k", i), testBody)
	}
	fault := m.Inject(vfs.Rule{Op: vfs.OpRead, Path: drivePath(4) + "/volumes/", Hang: true})
	defer fault.Clear()
	time.AfterFunc(12*time.Second, fault.Clear) // a call waits for ten
	report, err := source{p, p.core.Load()}.Fsck(t.Context(), true, func(e admin.FsckEvent) error {
		if e.Problem != nil {
			t.Errorf("problem: %+v", e.Problem)
		}
		return nil
	})
	if err != nil || !report.Sound() || report.Chunks < 3 || fault.Fired() == 0 {
		t.Errorf("report %+v, %v, the fault fired %d times", report, err, fault.Fired())
	}
}
