package raft

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// cpuTime is what this process has used of processors.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkIdle measures what 1,000 groups of three replicas cost each of their three hosts while nothing is proposed. An
// operation is a second.
func BenchmarkIdle(b *testing.B) {
	const groups = 1000
	var ids []GroupID
	for id := range GroupID(groups) {
		ids = append(ids, id+1)
	}
	net := newNetwork()
	var hosts []*Host
	for id := uint64(1); id <= 3; id++ {
		bench := net.join(newBench(b, vfs.NewMemory(id), 4), byte(id))
		bench.config.Replica, bench.config.Voters = id, []uint64{1, 2, 3}
		bench.config.SegmentSize, bench.config.Tick = 0, 0
		h, err := Bootstrap(context.Background(), bench.config, ids...)
		if err != nil {
			b.Fatal(err)
		}
		net.attach(byte(id), h)
		hosts = append(hosts, h)
	}
	led := func() (n int) {
		for _, h := range hosts {
			c := h.core.Load()
			if err := c.ask(context.Background(), func() error {
				for _, r := range c.order {
					if r.leader && r.point.term == r.term {
						n++
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
		return n
	}
	expect.Soon(b, "every group is led", func() bool { return led() == groups })
	net.mu.Lock()
	batches := net.batches
	net.mu.Unlock()
	b.ResetTimer()
	used := cpuTime(b)
	<-time.After(time.Duration(b.N) * time.Second)
	used = cpuTime(b) - used
	b.StopTimer()
	net.mu.Lock()
	batches = net.batches - batches
	net.mu.Unlock()
	b.ReportMetric(100*used.Seconds()/float64(b.N)/float64(len(hosts)), "%cpu/host")
	b.ReportMetric(float64(batches)/float64(b.N)/float64(len(hosts)), "batches/s/host")
	if n := led(); n != groups {
		b.Errorf("%d of %d groups are led", n, groups)
	}
	for _, h := range hosts {
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
