// Package crash kills the running binary, moves its drives away, and gives it bad input, and checks that nothing
// acknowledged is lost. Every fault test asserts that its fault fired and that load was in flight.
//
// `make test` runs a short form of the tests that repeat a fault many times, `make crash` (HOLDFAST_LONG=1) the long one:
//
//	                             make test                            make crash
//	TestKillUnderLoad            12 kills                             50 kills
//	TestPowerLoss                100 power cuts                       1000 power cuts
//	TestEveryLossOfFourDrives    all 78 sets of one or two drives,    all 793 sets of one to four
//	                             20 each of three and of four
//	TestBitRot                   50 rounds                            1000 rounds
//
// What is drawn is drawn anew in each run, so that many short runs see what one long run sees. Tests that mostly wait, for
// a session to lapse or a drive to be given up, are parallel: they run side by side after the others.
package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/testkit"
)

// long tells whether the long forms of the tests run.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

func TestKillUnderLoad(t *testing.T) {
	kills := 12
	if long() {
		kills = 50
	}
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("load")
	l := newLedger(t, "load")
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var acked, slowest int64
	for range kills {
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan int64, 1)
		go func() { result <- l.load(ctx, s, 6) }()
		deadline := time.NewTimer(time.Duration(300+random.IntN(700)) * time.Millisecond)
		<-deadline.C
		s.Kill() // the load is still running
		cancel()
		n := <-result
		if n == 0 {
			t.Log("a round in which nothing was acknowledged")
		}
		acked += n
		s.Start()
		slowest = max(slowest, int64(s.WaitReady(30*time.Second)))
	}
	if acked < int64(kills) {
		t.Fatalf("only %d writes were acknowledged in %d rounds: there was no load", acked, kills)
	}
	t.Logf("%d acknowledged writes, %d kills, slowest restart %v", acked, kills, time.Duration(slowest))
	if slowest > int64(5*time.Second) {
		t.Errorf("a restart took %v, more than 5 s", time.Duration(slowest))
	}
	l.audit(s)
	if out, err := s.Try(3*time.Minute, testkit.Binary(t), "fsck", "--deep"); err != nil {
		t.Errorf("fsck --deep: %v\n%s", err, out)
	}
}

func status(t *testing.T, s *testkit.Server) admin.Status {
	t.Helper()
	var st admin.Status
	out, err := s.Try(time.Minute, testkit.Binary(t), "status", "--json")
	if json.Unmarshal([]byte(out), &st) != nil {
		t.Fatalf("status --json: %v\n%s", err, out)
	}
	return st
}

// move moves drive directories of a server away, and the returned function moves them back.
func move(t *testing.T, s *testkit.Server, drives ...int) (back func()) {
	t.Helper()
	aside := filepath.Join(filepath.Dir(s.Dir), "aside")
	if err := os.MkdirAll(aside, 0o755); err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range drives {
		rename(filepath.Join(s.Dir, "drives", fmt.Sprint("d", n)), filepath.Join(aside, fmt.Sprint("d", n)))
	}
	return func() {
		t.Helper()
		for _, n := range drives {
			rename(filepath.Join(aside, fmt.Sprint("d", n)), filepath.Join(s.Dir, "drives", fmt.Sprint("d", n)))
		}
	}
}

// during runs load around a change and demands that the load went on through it.
func during(t *testing.T, s *testkit.Server, l *ledger, change func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan int64, 1)
	go func() { result <- l.load(ctx, s, 4) }()
	before := len(l.keys())
	testkit.Poll(t, 30*time.Second, "load before the change", func() bool { return len(l.keys()) > before+10 })
	change()
	after := len(l.keys())
	testkit.Poll(t, 60*time.Second, "writes to go on after the change", func() bool { return len(l.keys()) > after+10 })
	cancel()
	if n := <-result; n < 20 {
		t.Fatalf("only %d writes were acknowledged around the change", n)
	}
}

func drivesUp(t *testing.T, s *testkit.Server, want int) {
	t.Helper()
	testkit.Poll(t, 30*time.Second, fmt.Sprint(want, " drives up"), func() bool { return status(t, s).DrivesUp == want })
}

// A server that stood still, as one in a virtual machine that was frozen, does not take its drives for dead.
func TestAServerThatStoodStillGoesOn(t *testing.T) {
	t.Parallel()
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("load")
	l := newLedger(t, "load")
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(s.PID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	during(t, s, l, func() {
		signal(syscall.SIGSTOP)
		defer signal(syscall.SIGCONT)
		before := len(l.keys())
		pause := time.NewTimer(12 * time.Second) // longer than the log waits for a drive
		<-pause.C
		if n := len(l.keys()) - before; n > 4 {
			t.Errorf("%d writes began while the server stood still", n)
		}
	})
	drivesUp(t, s, 12)
	if out := s.Output(); strings.Contains(out, "log mirror dropped") || strings.Contains(out, "interrupted") {
		t.Errorf("the server took its drives for dead:\n%s", out)
	}
	l.audit(s)
}

func TestDrivesMovedAwayUnderLoad(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("load")
	l := newLedger(t, "load")
	var back []func()
	during(t, s, l, func() {
		back = append(back, move(t, s, 2, 5, 8, 11))
		drivesUp(t, s, 8)
	})
	l.audit(s)
	old := l.keys()

	// Four drives are gone; what is written now survives two more losses, also across a restart.
	late := newLedger(t, "load")
	late.next = 500_000
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	if n := late.load(ctx, s, 4); n < 10 {
		t.Fatalf("with 4 of 12 drives gone only %d writes were acknowledged", n)
	}
	cancel()
	s.Stop()
	s.Start()
	s.WaitReady(30 * time.Second)
	l.audit(s)
	back = append(back, move(t, s, 1, 6))
	drivesUp(t, s, 6)
	late.audit(s)

	// What was written on twelve drives misses six of them now: an error, never a lie, and nothing is deleted.
	client := s.S3(func(o *s3.Options) { o.RetryMaxAttempts = 1 })
	failed := 0
	for _, key := range old {
		content, err := get(context.Background(), client, "load", key)
		if err != nil {
			if strings.Contains(err.Error(), "NoSuchKey") {
				t.Errorf("%s: %v", key, err)
			}
			failed++
		} else if string(content) != string(body(key)) {
			t.Errorf("%s reads wrong bytes with six drives gone", key)
		}
	}
	if failed == 0 {
		t.Error("no read failed with six of twelve drives gone: the fault did not fire")
	}
	for _, b := range back {
		b()
	}
	drivesUp(t, s, 12)
	l.audit(s)
	late.audit(s)
	testkit.Poll(t, 2*time.Minute, "repair to finish", func() bool { st := status(t, s); return st.Whole() })
	if out, err := s.Try(3*time.Minute, testkit.Binary(t), "fsck", "--deep"); err != nil {
		t.Errorf("fsck --deep after all drives came home: %v\n%s", err, out)
	}
}

func TestRestartWithDrivesGone(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("load")
	l := newLedger(t, "load")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if l.load(ctx, s, 4) < 10 {
		t.Fatal("no load")
	}
	random := rand.New(rand.NewPCG(2, uint64(time.Now().UnixNano())))
	for range 4 {
		s.Kill()
		perm := random.Perm(12)
		drives := make([]int, 4)
		for i := range drives {
			drives[i] = perm[i] + 1
		}
		// The peer's own state goes too: it is a cache.
		if err := os.RemoveAll(filepath.Join(s.Dir, "state")); err != nil {
			t.Fatal(err)
		}
		t.Log("restart without drives", drives)
		back := move(t, s, drives...)
		s.Start()
		s.WaitReady(30 * time.Second)
		l.audit(s)
		s.Kill()
		back()
		s.Start()
		s.WaitReady(30 * time.Second)
	}

	// Five gone: it says so, serves nothing wrong, and serves again when one is back.
	s.Kill()
	back5 := move(t, s, 1, 3, 5, 7)
	back1 := move(t, s, 9)
	s.Start()
	testkit.Poll(t, 30*time.Second, "status to name the missing drives", func() bool {
		out, _ := s.Try(time.Minute, testkit.Binary(t), "status", "--json")
		var st admin.Status
		return json.Unmarshal([]byte(out), &st) == nil && !st.Ready && len(st.Reasons) > 0
	})
	if _, err := get(context.Background(), s.S3(func(o *s3.Options) { o.RetryMaxAttempts = 1 }), "load", l.keys()[0]); err == nil || strings.Contains(err.Error(), "NoSuchKey") {
		t.Errorf("a read with five drives gone gives %v", err)
	}
	back1()
	testkit.Poll(t, 30*time.Second, "service with eight drives", s.Ready)
	l.audit(s)
	back5()
	drivesUp(t, s, 12)
	l.audit(s)
}

// TestOwnStateRemoved takes everything away but the drives.
func TestOwnStateRemoved(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("load")
	l := newLedger(t, "load")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if l.load(ctx, s, 4) < 10 {
		t.Fatal("no load")
	}
	s.Kill()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for _, entry := range entries {
		if entry.Name() != "drives" {
			if err := os.RemoveAll(filepath.Join(s.Dir, entry.Name())); err != nil {
				t.Fatal(err)
			}
			removed++
		}
	}
	if removed == 0 {
		t.Fatal("the peer keeps nothing beside its drives: nothing was removed")
	}
	s.Start()
	s.WaitReady(30 * time.Second)
	l.audit(s)
}

// TestFsyncedFilesSurviveTheDeathOfEverything writes files through the mount, fsyncs them without closing them, and
// kills server and mount at once.
func TestFsyncedFilesSurviveTheDeathOfEverything(t *testing.T) {
	s := testkit.Up(t, testkit.Options{Mount: true})
	for round := range 3 {
		program := fmt.Sprintf(`
import os, sys, time
for i in range(20):
    body = bytes((%d * 31 + i * 7 + j) %% 251 for j in range(1000)) * (1 + i * i * 3)
    fd = os.open(os.path.join(sys.argv[1], "r%d-f%%d" %% i), os.O_WRONLY | os.O_CREAT)
    os.write(fd, body)
    os.fsync(fd)
    print("synced", i, flush=True)
time.sleep(60)
`, round, round)
		command := exec.Command("/usr/bin/python3", "-c", program, s.MountDir)
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		var seen strings.Builder
		buffer := make([]byte, 1024)
		for !strings.Contains(seen.String(), "synced 19\n") {
			n, err := out.Read(buffer)
			seen.Write(buffer[:n])
			if err != nil {
				t.Fatalf("writer ended early: %v\n%s", err, seen.String())
			}
		}
		s.Kill() // the files are still open
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		s.Start()
		s.WaitReady(30 * time.Second)
	}
	t.Parallel() // other tests run while the sessions of the dead mounts lapse
	for round := range 3 {
		for i := range 20 {
			want := make([]byte, 0, 1000)
			for j := range 1000 {
				want = append(want, byte((round*31+i*7+j)%251))
			}
			all := strings.Repeat(string(want), 1+i*i*3)
			name := fmt.Sprintf("r%d-f%d", round, i)
			// The dead mount's session must lapse, which takes 75 s, before its stages are published.
			testkit.Poll(t, 2*time.Minute, "publication of "+name, func() bool {
				_, err := s.S3().HeadObject(context.Background(), &s3.HeadObjectInput{Bucket: aws.String("home"), Key: &name})
				return err == nil
			})
			content, err := get(context.Background(), s.S3(), "home", name)
			if err != nil || string(content) != all {
				t.Errorf("%s: %v, %d bytes, want %d", name, err, len(content), len(all))
			}
		}
	}
}
