package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	idleGroups = 1000
	idleHosts  = 3
	idleDrives = 4
	// idlePatience is how long the groups may take to be led.
	idlePatience = time.Minute
)

// hosts are peers of one process: their file systems are in memory, and batches go from one to the other by hand.
type hosts struct {
	mu  sync.Mutex // guards all
	all map[cluster.PeerID]*raft.Host
}

// Send implements raft.Transport.
func (h *hosts) Send(to cluster.PeerID, batch []byte) {
	h.mu.Lock()
	host := h.all[to]
	h.mu.Unlock()
	if host != nil {
		// What a host refuses is lost, as on a network; Raft would notice that no group is led.
		_ = host.Receive(slices.Clone(batch))
	}
}

func idlePeer(_ raft.GroupID, replica uint64) (cluster.PeerID, bool) {
	return cluster.PeerID{byte(replica)}, true
}

// still is a group in which nothing is proposed.
type still struct{ group raft.GroupID }

// Apply implements raft.Machine.
func (s still) Apply(uint64, uint64, []byte, kv.Reader, kv.Batch) any {
	panic(fmt.Sprintf("group %d holds a command", s.group))
}

// Spans implements raft.Machine.
func (s still) Spans() []kv.Span {
	start := binary.BigEndian.AppendUint64([]byte("still/"), uint64(s.group))
	return []kv.Span{{Start: start, End: append(slices.Clone(start), 0xff)}}
}

// Restored implements raft.Machine.
func (s still) Restored() {}

// idleReplicas measures what a peer with 1,000 replicas uses of a core while nothing happens: three hosts with a replica
// of each of 1,000 groups, in this process, so the network's part is not in it.
func (b *bench) idleReplicas(ctx context.Context) (err error) {
	h := &hosts{all: map[cluster.PeerID]*raft.Host{}}
	defer func() {
		for _, host := range h.all {
			err = errors.Join(err, host.Close())
		}
	}()
	for replica := uint64(1); replica <= idleHosts; replica++ {
		if err := h.begin(ctx, replica); err != nil {
			return err
		}
	}
	if err := h.led(ctx); err != nil {
		return err
	}
	used, began := usedCPU(), time.Now()
	timer := time.NewTimer(time.Duration(b.options.seconds) * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	share := 100 * float64(usedCPU()-used) / float64(time.Since(began)) / idleHosts
	b.add(figure{Name: "CPU of 1,000 idle replicas", Value: share, Unit: "% of a core", Bar: 7, AtMost: true,
		Beside: "each of 3 hosts in one process"})
	return h.led(ctx)
}

// begin makes one host with a replica of every group.
func (h *hosts) begin(ctx context.Context, replica uint64) error {
	memory := vfs.NewMemory(replica)
	var mirrors []raft.Mirror
	for drive := range idleDrives {
		mirror := raft.Mirror{Drive: cluster.DriveID{byte(replica), byte(drive)}, Dir: fmt.Sprintf("/drives/d%d", drive)}
		if err := vfs.MkdirAll(memory, mirror.Dir, 0o700); err != nil {
			return err
		}
		mirrors = append(mirrors, mirror)
	}
	var groups []raft.GroupID
	for id := range raft.GroupID(idleGroups) {
		groups = append(groups, id+1)
	}
	host, err := raft.Bootstrap(ctx, raft.Config{
		FS: memory, StateDir: "/state", Mirrors: mirrors, Cluster: cluster.ClusterID{1},
		Machines: func(group raft.GroupID) raft.Machine { return still{group} },
		Replica:  replica, Voters: []uint64{1, 2, 3}, Transport: h, PeerOf: idlePeer,
	}, groups...)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[cluster.PeerID{byte(replica)}] = host
	return nil
}

// led waits until every replica knows a leader.
func (h *hosts) led(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, idlePatience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		without := 0
		for _, host := range h.all {
			for id := range raft.GroupID(idleGroups) {
				if host.Group(id+1).Leader().Replica == 0 {
					without++
				}
			}
		}
		if without == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d idle replicas know no leader: %w", without, idleHosts*idleGroups, ctx.Err())
		}
	}
}

// usedCPU is what this process has used of processors.
func usedCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // of this process it never fails
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
