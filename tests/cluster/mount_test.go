package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/tests/testkit"
)

// What is written and closed at one mount is there at another, through another gateway, at once.
func TestMountsAtDifferentGatewaysSeeTheSameFiles(t *testing.T) {
	c, _ := begin(t, testkit.ClusterOptions{Peers: 3, Drives: 4})
	one, two := c.Nodes()[1].Mount("ledger"), c.Nodes()[2].Mount("ledger")
	for i := range 30 {
		from, to := one.Dir, two.Dir
		if i%2 == 1 {
			from, to = to, from
		}
		name := fmt.Sprintf("shared%d", i%3) // so that the other one remembers what it was
		body := bodyOf(fmt.Sprint(name, i), 1+i*5000)
		if err := os.WriteFile(filepath.Join(from, name), body, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("write %d of %s: the other mount reads %d bytes, want %d: %v", i, name, len(got), len(body), err)
		}
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Size() != int64(len(body)) {
			t.Fatalf("write %d of %s: stat says %v, %v", i, name, info, err)
		}
		if i%5 != 4 {
			continue
		}
		if err := os.Remove(filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(from, name)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s was removed at one mount, and stat at the other says %v", name, err)
		}
	}
	one.Stop()
	two.Stop()
}

// The gateway of a mount dies while programs work: none gets an error, and everything is done once.
func TestAMountGoesOnWhenItsGatewayDies(t *testing.T) {
	c, _ := begin(t, testkit.ClusterOptions{Peers: 3, Drives: 4})
	gateway := c.Nodes()[1]
	m := gateway.Mount("ledger")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	programs, ctx := errgroup.WithContext(ctx)
	var rounds atomic.Int64
	const programsCount = 4
	for p := range programsCount {
		programs.Go(func() error { return onceOnly(ctx, m.Dir, p, &rounds) })
	}
	for kills := range pick(2, 6) {
		before := rounds.Load()
		testkit.Poll(t, time.Minute, "programs at work", func() bool { return ctx.Err() != nil || rounds.Load() > before+2*programsCount })
		at := time.Now()
		gateway.Kill()
		before = rounds.Load()
		testkit.Poll(t, 2*time.Minute, "programs to go on", func() bool { return ctx.Err() != nil || rounds.Load() > before+2*programsCount })
		t.Logf("%s killed: programs went on within %v", gateway.Name, time.Since(at).Round(time.Millisecond))
		start(gateway)
		c.WaitWhole(wholeLimit)
		gateway = c.Nodes()[kills%3] // the mount may use any now: a kill may hit the one that it uses or not
	}
	cancel()
	if err := programs.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("a program got an error: %v", err)
	}
	other := c.Nodes()[2].Mount("ledger")
	for p := range programsCount {
		if err := sameTree(filepath.Join(m.Dir, fmt.Sprint("p", p)), filepath.Join(other.Dir, fmt.Sprint("p", p))); err != nil {
			t.Error(err)
		}
	}
}

// onceOnly is a program whose every step fails when it is done twice: exclusive creation, renames, appends, removal.
func onceOnly(ctx context.Context, root string, program int, rounds *atomic.Int64) error {
	dir := filepath.Join(root, fmt.Sprint("p", program))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		name := filepath.Join(dir, fmt.Sprintf("f%04d", i))
		body := bodyOf(name, 1+i*i*700%300_000)
		if err := writeOnce(name, body); err != nil {
			return err
		}
		if err := os.Rename(name, name+".done"); err != nil {
			return err
		}
		got, err := os.ReadFile(name + ".done")
		if err != nil || !bytes.Equal(got, body) {
			return fmt.Errorf("%s: read %d bytes, wrote %d: %w", name, len(got), len(body), err)
		}
		if i%3 == 1 {
			if err := os.Remove(name + ".done"); err != nil {
				return err
			}
		}
		if err := os.Mkdir(name+".d", 0o755); err != nil {
			return err
		}
		if err := os.Remove(name + ".d"); err != nil {
			return err
		}
		rounds.Add(1)
	}
	return nil
}

// writeOnce makes a file that must not be there, in two halves with an fsync after each.
func writeOnce(name string, body []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	half := len(body) / 2
	for _, part := range [][]byte{body[:half], body[half:]} {
		if _, err := f.Write(part); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// sameTree compares two directories, names and content.
func sameTree(one, two string) error {
	entries, err := os.ReadDir(one)
	if err != nil {
		return err
	}
	others, err := os.ReadDir(two)
	if err != nil {
		return err
	}
	if len(entries) == 0 || len(entries) != len(others) {
		return fmt.Errorf("%s has %d entries, %s has %d", one, len(entries), two, len(others))
	}
	for i, entry := range entries {
		if entry.Name() != others[i].Name() {
			return fmt.Errorf("%s has %s where %s has %s", one, entry.Name(), two, others[i].Name())
		}
		a, errA := os.ReadFile(filepath.Join(one, entry.Name()))
		b, errB := os.ReadFile(filepath.Join(two, entry.Name()))
		if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
			return fmt.Errorf("%s differs between mounts: %w", entry.Name(), err)
		}
	}
	return nil
}
