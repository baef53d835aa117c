package raft

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// network carries messages between hosts of one process, through their encoding. A host that is cut off gets none.
type network struct {
	mu    sync.Mutex
	hosts map[uint64]*Host
	cut   map[uint64]bool
}

type port struct {
	net  *network
	from uint64
}

func (p port) Send(group GroupID, messages []*raftpb.Message) {
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		p.net.mu.Lock()
		to := p.net.hosts[m.GetTo()]
		if p.net.cut[p.from] || p.net.cut[m.GetTo()] {
			to = nil
		}
		p.net.mu.Unlock()
		if to == nil {
			continue
		}
		arrived := new(raftpb.Message)
		if err := proto.Unmarshal(data, arrived); err != nil {
			panic(err)
		}
		to.Deliver(group, arrived)
	}
}

// TestThreeVotersSurviveTheLossOfOne runs the same driver with three peers: a leader is elected, commands go through
// it, it is cut off, another leads, and the one that returns catches up.
func TestThreeVotersSurviveTheLossOfOne(t *testing.T) {
	net := &network{hosts: map[uint64]*Host{}, cut: map[uint64]bool{}}
	var hosts []*Host
	for id := uint64(1); id <= 3; id++ {
		b := newBench(t, vfs.NewMemory(id), 4)
		b.config.Cluster = cluster.ClusterID{byte(id)}
		b.config.Replica, b.config.Voters = id, []uint64{1, 2, 3}
		b.config.Transport = port{net, id}
		h, err := Bootstrap(testContext(t), b.config, 1)
		if err != nil {
			t.Fatal(err)
		}
		if s := h.Mirrors(); s.Want != 3 || len(s.Members) != 3 {
			t.Fatalf("mirrors of one of three voters: %+v", s)
		}
		net.mu.Lock()
		net.hosts[id] = h
		net.mu.Unlock()
		hosts = append(hosts, h)
	}
	var want []string
	// say proposes through whoever leads, and retries what certainly was not accepted.
	say := func(command string, among ...*Host) (leader *Host) {
		t.Helper()
		eventually(t, "a leader accepts "+command, func() bool {
			for _, h := range among {
				_, err := h.Group(1).Propose(testContext(t), []byte(command))
				if err == nil {
					leader = h
					return true
				}
				if !errors.Is(err, ErrNotLeader) {
					t.Fatalf("propose %q: %v", command, err)
				}
			}
			return false
		})
		want = append(want, command)
		return leader
	}
	var leader *Host
	for i := range 20 {
		leader = say(fmt.Sprintf("first %d", i), hosts...)
	}
	if term, err := leader.Group(1).Barrier(testContext(t)); err != nil || term == 0 {
		t.Fatalf("barrier of the leader: %d, %v", term, err)
	}
	var others []*Host
	for id, h := range net.hosts {
		if h == leader {
			net.mu.Lock()
			net.cut[id] = true
			net.mu.Unlock()
		} else {
			others = append(others, h)
		}
	}
	for i := range 20 {
		say(fmt.Sprintf("second %d", i), others...)
	}
	net.mu.Lock()
	clear(net.cut)
	net.mu.Unlock()
	say("third", others...) // the old leader may not know yet that it is none
	for i, h := range hosts {
		eventually(t, fmt.Sprintf("host %d has everything", i+1), func() bool {
			list, err := items(h, 1)
			return err == nil && len(list) == len(want)
		})
		wantItems(t, h, 1, want)
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}
