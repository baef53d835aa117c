package raft

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// onDisk is a bench on real directories of one device.
func onDisk(t testing.TB, drives int) *bench {
	b := newBench(t, vfs.NewMemory(1), 0)
	root := t.TempDir()
	b.config.FS, b.config.StateDir = vfs.OS(), root+"/raft"
	b.config.SegmentSize, b.config.WriteBuffer, b.config.Tick = 0, 0, 0
	for i := range drives {
		dir := fmt.Sprintf("%s/d%02d", root, i+1)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		b.config.Mirrors = append(b.config.Mirrors, Mirror{Drive: driveID(i), Dir: dir})
	}
	return b
}

// fsyncRate is how many appends of 512 bytes one writer makes durable a second in a preallocated file.
func fsyncRate(b *testing.B, dir string) float64 {
	d := &drive{fs: vfs.OS(), dir: dir}
	name := dir + "/rate"
	if err := d.writeNew(name, nil, 4<<20); err != nil {
		b.Fatal(err)
	}
	file, err := vfs.OS().OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	const count = 500
	begun := time.Now()
	for i := range int64(count) {
		if err := writeAll(file, make([]byte, sector), i*sector); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	rate := count / time.Since(begun).Seconds()
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	return rate
}

// BenchmarkPropose measures acknowledged commands of 400 bytes with five mirrors on one device, beside the fsyncs that
// one writer of one file gets from it.
func BenchmarkPropose(b *testing.B) {
	for _, proposers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("proposers=%d", proposers), func(b *testing.B) {
			bench := onDisk(b, 12)
			rate := fsyncRate(b, bench.config.Mirrors[0].Dir)
			h, err := Bootstrap(context.Background(), bench.config, 1, 2)
			if err != nil {
				b.Fatal(err)
			}
			command := []byte(strings.Repeat("c", 400))
			b.ResetTimer()
			var wait sync.WaitGroup
			for w := range proposers {
				wait.Go(func() {
					for i := w; i < b.N; i += proposers {
						if _, err := h.Group(2).Propose(context.Background(), command); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wait.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(rate, "fsyncs/s-one-writer")
			if err := h.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// TestRestartReplaysFast opens a log of 100,000 commands without a state.
func TestRestartReplaysFast(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100,000 commands")
	}
	f := vfs.NewMemory(1)
	b := newBench(t, f, 12)
	b.config.SegmentSize, b.config.WriteBuffer = 4<<20, 0
	b.config.CheckpointBytes = 1 << 40
	h := b.bootstrap(t)
	const total = 100_000
	command := []byte(strings.Repeat("c", 100))
	var wait sync.WaitGroup
	for w := range 256 {
		wait.Go(func() {
			for i := w; i < total; i += 256 {
				if _, err := h.Group(1).Propose(context.Background(), command); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	f = f.Kill()
	closeDead(t, h)
	if err := f.RemoveAll(b.config.StateDir); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	h = b.on(f).open(t)
	took := time.Since(begun)
	if list, err := items(h, 1); err != nil || len(list) != total {
		t.Fatalf("%d of %d commands, %v", len(list), total, err)
	}
	t.Logf("%d commands replayed in %v", total, took)
	if took > slowdown*20*time.Second { // 3 s on a quiet machine; this bound only catches what grew out of proportion
		t.Errorf("replay took %v", took)
	}
	closeHost(t, h)
}
