package root

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// voters are hosts that reach each other, by peer. Replica n is on peer n.
type voters struct {
	mu    sync.Mutex
	hosts map[cluster.PeerID]*raft.Host
	doors map[cluster.PeerID]http.Handler
}

func (v *voters) host(peer cluster.PeerID) *raft.Host {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hosts[peer]
}

// Send implements raft.Transport.
func (v *voters) Send(to cluster.PeerID, batch []byte) {
	if h := v.host(to); h != nil {
		if err := h.Receive(slices.Clone(batch)); err != nil {
			panic(err)
		}
	}
}

func onPeer(replica uint64) cluster.PeerID { return cluster.PeerID{byte(replica)} }

// start makes three voters of the root group.
func startVoters(t *testing.T) *voters {
	t.Helper()
	v := &voters{hosts: map[cluster.PeerID]*raft.Host{}, doors: map[cluster.PeerID]http.Handler{}}
	for replica := uint64(1); replica <= 3; replica++ {
		fs := vfs.NewMemory(replica)
		if err := vfs.MkdirAll(fs, "/drive", 0o700); err != nil {
			t.Fatal(err)
		}
		h, err := raft.Bootstrap(t.Context(), raft.Config{
			FS: fs, StateDir: "/state", Cluster: cluster.ClusterID{1}, Mirrors: []raft.Mirror{{Drive: cluster.DriveID{byte(replica)}, Dir: "/drive"}},
			Machines: func(raft.GroupID) raft.Machine { return New() }, Replica: replica, Voters: []uint64{1, 2, 3}, Transport: v,
			PeerOf:      func(_ raft.GroupID, replica uint64) (cluster.PeerID, bool) { return onPeer(replica), true },
			SegmentSize: 1 << 20, Tick: 20 * time.Millisecond, SlowMirror: 5 * time.Second,
		}, 1)
		if err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		v.hosts[onPeer(replica)] = h
		v.mu.Unlock()
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return v
}

// router is that of a peer, with or without a replica.
func (v *voters) router(self cluster.PeerID) *Router {
	c := Config{
		Self: self, Known: func() []cluster.PeerID { return []cluster.PeerID{onPeer(1), onPeer(2), onPeer(3), onPeer(4)} },
		Leader: func() (cluster.PeerID, bool, bool) { return cluster.PeerID{}, false, false },
		Remote: func(peer cluster.PeerID) Seat { return Remote(door{v, peer}, "http://peer") },
	}
	if h := v.host(self); h != nil {
		c.Local = Local(func() raft.Group { return h.Group(1) })
		c.Leader = func() (cluster.PeerID, bool, bool) {
			replica := h.Group(1).Leader().Replica
			return onPeer(replica), onPeer(replica) == self, replica != 0
		}
	}
	r := NewRouter(c)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doors[self] = Handler(r.Here())
	return r
}

// door is the way to a peer's handler.
type door struct {
	voters *voters
	peer   cluster.PeerID
}

// Do implements Doer.
func (d door) Do(r *http.Request) (*http.Response, error) {
	d.voters.mu.Lock()
	h := d.voters.doors[d.peer]
	d.voters.mu.Unlock()
	if h == nil {
		return nil, errCut
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestThreeVotersAndAPeerWithout has four peers count in one row while real voters hand leadership on, and the leader
// is closed in the end.
func TestThreeVotersAndAPeerWithout(t *testing.T) {
	v := startVoters(t)
	var clients []*Client
	for replica := uint64(1); replica <= 4; replica++ {
		clients = append(clients, At(v.router(onPeer(replica))))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	counted := 0
	round := func(clients []*Client) {
		var mu sync.Mutex
		var work sync.WaitGroup
		for _, c := range clients {
			work.Go(func() {
				for range 5 {
					n := countOnce(ctx, t, c)
					mu.Lock()
					counted += n
					mu.Unlock()
				}
			})
		}
		work.Wait()
	}
	moves := 0
	for i := range 6 {
		var moved sync.WaitGroup
		moved.Go(func() {
			if handOn(ctx, v, uint64(i%3+1)) {
				moves++
			}
		})
		round(clients)
		moved.Wait()
	}
	if moves < 2 {
		t.Fatalf("leadership moved %d times", moves)
	}
	leader := v.leader(t)
	closed := v.host(leader)
	v.mu.Lock()
	delete(v.hosts, leader)
	delete(v.doors, leader)
	v.mu.Unlock()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	left := slices.Delete(slices.Clone(clients), int(leader[0])-1, int(leader[0]))
	round(left)
	for i, c := range left {
		row, err := c.Row(ctx, Users, "count")
		if err != nil || row.Revision != uint64(counted) || counted != 6*4*5+3*5 {
			t.Errorf("client %d reads %d of %d: %v", i, row.Revision, counted, err)
		}
	}
}

// countOnce changes the row until nobody else was faster.
func countOnce(ctx context.Context, t *testing.T, c *Client) int {
	for {
		row, err := c.Row(ctx, Users, "count")
		if err == nil || errors.Is(err, ErrNotFound) {
			row.Kind, row.Name, row.Value = Users, "count", fmt.Append(nil, row.Revision)
			if _, err = c.PutRow(ctx, row); err == nil {
				return 1
			}
		}
		if !errors.Is(err, ErrConflict) {
			t.Errorf("count: %v", err)
			return 0
		}
	}
}

// handOn hands leadership to another replica, and tells whether whoever leads did.
func handOn(ctx context.Context, v *voters, to uint64) bool {
	for peer := uint64(1); peer <= 3; peer++ {
		g := v.host(onPeer(peer)).Group(1)
		if g.Leader().Replica != to && g.Transfer(ctx, to) == nil {
			return true
		}
	}
	return false
}

// leader is the peer that leads, once one does.
func (v *voters) leader(t *testing.T) cluster.PeerID {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		for peer := uint64(1); peer <= 3; peer++ {
			if v.host(onPeer(peer)).Group(1).Leader().Replica == peer {
				return onPeer(peer)
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("nobody leads")
		}
	}
}
