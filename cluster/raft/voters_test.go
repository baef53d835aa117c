package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// network carries messages and snapshots between hosts of one process. A host that is cut off gets none.
type network struct {
	mu    sync.Mutex
	hosts map[cluster.PeerID]*Host
	cut   map[cluster.PeerID]bool
	// batches counts those that were carried; snapshots those that were installed.
	batches, snapshots int
	// rule tells which messages are carried; nil means all.
	rule func(from, to cluster.PeerID, m GroupMessage) bool
	// spoil changes a snapshot's stream on its way; nil leaves it as it is.
	spoil func(io.Reader) io.Reader
}

func newNetwork() *network {
	return &network{hosts: map[cluster.PeerID]*Host{}, cut: map[cluster.PeerID]bool{}}
}

// peerID is the peer of a replica in these tests: ids are 100 x generation + peer.
func peerID(replica uint64) cluster.PeerID { return cluster.PeerID{byte(replica % 100)} }

func peerOf(_ GroupID, replica uint64) (cluster.PeerID, bool) { return peerID(replica), true }

type port struct {
	net  *network
	from cluster.PeerID
}

// to is a peer that can be reached, nil for one that cannot.
func (p port) to(peer cluster.PeerID) *Host {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.cut[p.from] || p.net.cut[peer] {
		return nil
	}
	return p.net.hosts[peer]
}

func (p port) Send(peer cluster.PeerID, batch []byte) {
	to := p.to(peer)
	if to == nil {
		return
	}
	p.net.mu.Lock()
	p.net.batches++
	rule := p.net.rule
	p.net.mu.Unlock()
	if rule != nil {
		batch = filtered(batch, to.config.Cluster, func(m GroupMessage) bool { return rule(p.from, peer, m) })
	}
	if err := to.Receive(slices.Clone(batch)); err != nil {
		panic(err)
	}
}

// filtered is a batch with some of its messages.
func filtered(sealed []byte, id cluster.ClusterID, which func(GroupMessage) bool) []byte {
	list, err := decodeBatch(sealed, id)
	if err != nil {
		panic(err)
	}
	b := newBatch(id)
	b.data = make([]byte, batchHeader)
	for _, m := range list {
		if !which(m) {
			continue
		}
		if err := b.add(m); err != nil {
			panic(err)
		}
	}
	return b.take()
}

// setRule makes another rule for messages.
func (n *network) setRule(rule func(from, to cluster.PeerID, m GroupMessage) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rule = rule
}

// snapshots is the other half of a port.
type snapshots port

func (s snapshots) Send(ctx context.Context, to PeerReplica, stream io.Reader) error {
	host := port(s).to(to.Peer)
	if host == nil {
		return errors.New("cut off")
	}
	s.net.mu.Lock()
	if s.net.spoil != nil {
		stream = s.net.spoil(stream)
	}
	s.net.mu.Unlock()
	if err := host.Install(ctx, to.Group, stream); err != nil {
		return err
	}
	s.net.mu.Lock()
	s.net.snapshots++
	s.net.mu.Unlock()
	return nil
}

// setCut cuts a peer off, or brings it back.
func (n *network) setCut(peer cluster.PeerID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[peer] = cut
}

// join makes the bench that of a peer on the network.
func (n *network) join(b *bench, peer byte) *bench {
	b.config.Transport = port{n, cluster.PeerID{peer}}
	b.config.Snapshots = snapshots{n, cluster.PeerID{peer}}
	b.config.PeerOf = peerOf
	return b
}

func (n *network) attach(peer byte, h *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[cluster.PeerID{peer}] = h
}

// threeHosts bootstraps a group of three voters.
func threeHosts(t testing.TB, net *network, groups ...GroupID) []*Host {
	t.Helper()
	_, hosts := threeBenches(t, net, groups...)
	return hosts
}

func threeBenches(t testing.TB, net *network, groups ...GroupID) (benches []*bench, hosts []*Host) {
	t.Helper()
	for id := uint64(1); id <= 3; id++ {
		b := net.join(newBench(t, vfs.NewMemory(id), 4), byte(id))
		b.config.Replica, b.config.Voters = id, []uint64{1, 2, 3}
		h, err := Bootstrap(testContext(t), b.config, groups...)
		if err != nil {
			t.Fatal(err)
		}
		net.attach(byte(id), h)
		benches, hosts = append(benches, b), append(hosts, h)
	}
	return benches, hosts
}

// say proposes through whoever leads, and retries what certainly was not accepted.
func say(t testing.TB, g GroupID, command string, among ...*Host) (leader *Host) {
	t.Helper()
	expect.Soon(t, "a leader accepts "+command, func() bool {
		for _, h := range among {
			_, err := h.Group(g).Propose(testContext(t), []byte(command))
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
	return leader
}

// TestThreeVotersSurviveTheLossOfOne runs the same driver with three peers: a leader is elected, commands go through
// it, it is cut off, another leads, and the one that returns catches up.
func TestThreeVotersSurviveTheLossOfOne(t *testing.T) {
	net := newNetwork()
	hosts := threeHosts(t, net, 1)
	for _, h := range hosts {
		if s := h.Mirrors(); s.Want != 3 || len(s.Members) != 3 {
			t.Fatalf("mirrors of one of three voters: %+v", s)
		}
	}
	var want []string
	var leader *Host
	for i := range 20 {
		want = append(want, fmt.Sprintf("first %d", i))
		leader = say(t, 1, want[i], hosts...)
	}
	if term, err := leader.Group(1).Barrier(testContext(t)); err != nil || term == 0 {
		t.Fatalf("barrier of the leader: %d, %v", term, err)
	}
	var others []*Host
	for i, h := range hosts {
		if h == leader {
			net.setCut(peerID(uint64(i+1)), true)
		} else {
			others = append(others, h)
		}
	}
	for i := range 20 {
		want = append(want, fmt.Sprintf("second %d", i))
		say(t, 1, want[20+i], others...)
	}
	for i := range hosts {
		net.setCut(peerID(uint64(i+1)), false)
	}
	want = append(want, "third")
	say(t, 1, "third", others...) // the old leader may not know yet that it is none
	for i, h := range hosts {
		expect.Soon(t, fmt.Sprintf("host %d has everything", i+1), func() bool {
			list, err := items(h, 1)
			return err == nil && len(list) == len(want)
		})
		wantItems(t, h, 1, want)
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestAfterAPowerLossOfAllNobodyNeedsASnapshot lets one voter lack the last entries, which the others have applied, when
// all lose power: those must still be there to be sent.
func TestAfterAPowerLossOfAllNobodyNeedsASnapshot(t *testing.T) {
	net := newNetwork()
	benches, hosts := threeBenches(t, net, 1)
	for i := range 30 {
		say(t, 1, fmt.Sprint("command ", i), hosts...)
	}
	wantAlike(t, 1, hosts...)
	leader := leaderOf(t, 1, hosts...)
	behind := 0
	for i, h := range hosts {
		if h != leader {
			behind = i
		}
	}
	net.setCut(peerID(uint64(behind+1)), true)
	for i := range 20 {
		say(t, 1, fmt.Sprint("without one ", i), hosts...)
	}
	before := pointOf(t, leader, 1)
	for i, h := range hosts {
		net.setCut(peerID(uint64(i+1)), true)
		benches[i], hosts[i] = restart(t, benches[i], h, benches[i].config.FS.(*vfs.Memory).Kill)
		net.attach(byte(i+1), hosts[i])
	}
	if at := pointOf(t, hosts[behind], 1); at.index+20 > before.index {
		t.Fatalf("the one behind has entry %d of %d", at.index, before.index)
	}
	for i := range hosts {
		net.setCut(peerID(uint64(i+1)), false)
	}
	say(t, 1, "last", hosts...)
	wantAlike(t, 1, hosts...)
	if net.snapshots != 0 {
		t.Errorf("%d snapshots were sent", net.snapshots)
	}
	for _, h := range hosts {
		closeHost(t, h)
	}
}

// TestAHeartbeatBeyondTheLogIsRefused lets a leader know more of a replica than that has: it lost its log, which Raft
// takes for a reason to end the process.
func TestAHeartbeatBeyondTheLogIsRefused(t *testing.T) {
	b := newBench(t, vfs.NewMemory(1), 4)
	b.config.Replica, b.config.Voters = 1, []uint64{1, 2, 3}
	h, err := Bootstrap(testContext(t), b.config, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, commit := range []uint64{50, 1} {
		batch := newBatch(b.config.Cluster)
		beat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: ptr(2), To: ptr(1), Term: ptr(9), Commit: &commit}
		if err := errors.Join(batch.add(GroupMessage{1, beat}), h.Receive(batch.take())); err != nil {
			t.Fatal(err)
		}
	}
	expect.Soon(t, "the sound heartbeat is taken", func() bool { return h.Group(1).Leader() == Leader{Replica: 2, Term: 9} })
	closeHost(t, h)
}
