package peer

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// joinerConfig is a second peer's, with four drives.
func joinerConfig(n int, token string) Config {
	c := Config{Dir: testDir, Name: fmt.Sprintf("peer%d", n), Zone: fmt.Sprintf("z%d", n), Listen: "127.0.0.1:0", Peer: "127.0.0.1:0",
		Memory: testMemory, Version: "test", Join: token}
	for i := range 4 {
		c.Drives = append(c.Drives, drivePath(i+1))
	}
	return c
}

func newToken(t *testing.T, p *Peer) string {
	t.Helper()
	token, err := source{p, p.core.Load()}.Token(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return token.Token
}

// joinTo starts a peer on a machine of its own and waits until it serves.
func joinTo(t *testing.T, first *Peer, n int, fsys vfs.FS) *Peer {
	t.Helper()
	p, err := Start(t.Context(), joinerConfig(n, newToken(t, first)), testSeams(fsys))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	expect.Soon(t, "the peer to serve", func() bool { return len(p.notReady()) == 0 && p.RootKey() != nil })
	return p
}

// voters waits until the tablet has so many.
func voters(t *testing.T, p *Peer, want int) {
	t.Helper()
	expect.Soon(t, fmt.Sprintf("%d voters", want), func() bool {
		st, err := source{p, p.core.Load()}.Status(t.Context())
		if err != nil {
			return false
		}
		for _, g := range st.Groups {
			if len(g.Voters) != want || g.Leader == "" || len(g.Learners) > 0 {
				return false
			}
		}
		return len(st.Groups) == 2
	})
}

func TestPeersJoinAndServeTheSameNames(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	keep(t, p1, "a", testBody)
	p2 := joinTo(t, p1, 2, vfs.NewMemory(2))
	defer stop(t, p2)
	wantRead(t, p2, "a", testBody)
	keep(t, p2, "b", testBody)
	wantRead(t, p1, "b", testBody)
	if *p1.RootKey() != *p2.RootKey() {
		t.Error("the peers have different root keys")
	}
	p3 := joinTo(t, p2, 3, vfs.NewMemory(3)) // any peer lets others in
	defer stop(t, p3)
	voters(t, p3, 3)
	wantRead(t, p3, "b", testBody)
	keep(t, p3, "c", testBody)
	for _, p := range []*Peer{p1, p2, p3} {
		st, err := source{p, p.core.Load()}.Status(t.Context())
		if err != nil || len(st.Peers) != 3 || len(st.Drives) != testDrives+8 || st.DrivesUp != len(st.Drives) {
			t.Fatalf("%s sees %d peers, %d of %d drives: %v", p.config.Name, len(st.Peers), st.DrivesUp, len(st.Drives), err)
		}
		if st.Losses.Names.Peers != 1 {
			t.Errorf("%s: names survive the loss of %d peers", p.config.Name, st.Losses.Names.Peers)
		}
	}
}

// twoMore has two peers join, which run until the test ends, and waits until all three hold the names.
func twoMore(t *testing.T, first *Peer) (second *Peer) {
	t.Helper()
	second = joinTo(t, first, 2, vfs.NewMemory(2))
	t.Cleanup(func() { stop(t, second) })
	third := joinTo(t, first, 3, vfs.NewMemory(3))
	t.Cleanup(func() { stop(t, third) })
	voters(t, third, 3)
	return second
}

// TestAPeerThatLeadsStops checks that names go on when the peer that leads is stopped, and that it comes back as a follower.
func TestAPeerThatLeadsStops(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory(1)
	p1 := start(t, disk)
	p2 := twoMore(t, p1)
	keep(t, p1, "a", testBody)
	stop(t, p1)
	if _, err := p2.core.Load().names.Buckets(t.Context()); err != nil {
		t.Fatalf("names after the leader stopped: %v", err)
	}
	p1 = start(t, disk)
	defer stop(t, p1)
	expect.Soon(t, "the peer to serve again", func() bool { return len(p1.notReady()) == 0 })
	wantRead(t, p1, "a", testBody)
	voters(t, p1, 3)
}

func TestATokenLetsOnePeerIn(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	token := newToken(t, p1)
	p2, err := Start(t.Context(), joinerConfig(2, token), testSeams(vfs.NewMemory(2)))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p2)
	if _, err := Start(t.Context(), joinerConfig(3, token), testSeams(vfs.NewMemory(3))); !errors.Is(err, join.ErrTokenUsed) {
		t.Errorf("the token again: %v", err)
	}
	taken := joinerConfig(3, newToken(t, p1))
	taken.Name = "peer2"
	if _, err := Start(t.Context(), taken, testSeams(vfs.NewMemory(3))); !errors.Is(err, topology.ErrNameTaken) {
		t.Errorf("a name that is taken: %v", err)
	}
	cut := joinerConfig(4, newToken(t, p1)[:60])
	if _, err := Start(t.Context(), cut, testSeams(vfs.NewMemory(4))); !errors.Is(err, ErrConfig) {
		t.Errorf("half a token: %v", err)
	}
}

// TestAJoinSurvivesPowerLossAnywhere cuts the power of a joining peer after each number of steps: the next start, with
// the same command, finishes the join, and the cluster has one peer more and not two.
func TestAJoinSurvivesPowerLossAnywhere(t *testing.T) {
	const cuts, step = 12, 18
	var finished atomic.Int32
	t.Cleanup(func() { // after the cuts, which are parallel: each waits most of the time
		if n := finished.Load(); n > cuts/2 {
			t.Errorf("%d of %d cuts came too late to matter", n, cuts)
		}
	})
	for i := range cuts {
		t.Run(fmt.Sprintf("after %d", i*step), func(t *testing.T) {
			t.Parallel()
			p1 := start(t, vfs.NewMemory(1))
			defer stop(t, p1)
			token := newToken(t, p1)
			m := vfs.NewMemory(uint64(100 + i))
			power := m.Inject(vfs.Rule{After: i * step, Err: vfs.ErrPowerLost})
			if p, err := Start(t.Context(), joinerConfig(2, token), testSeams(m)); err == nil {
				expect.Soon(t, "the cut, or the end of the start", func() bool { return power.Fired() > 0 || p.core.Load() != nil })
				if p.core.Load() != nil {
					finished.Add(1)
				}
				if err := p.Close(); err != nil {
					t.Logf("close: %v", err)
				}
			}
			if power.Fired() == 0 {
				t.Fatal("the power was not cut")
			}
			p2, err := Start(t.Context(), joinerConfig(2, token), testSeams(m.Crash()))
			if err != nil {
				t.Fatal(err)
			}
			defer stop(t, p2)
			ready(t, p2)
			expect.Soon(t, "the peer to serve", func() bool { return len(p2.notReady()) == 0 && p2.RootKey() != nil })
			keep(t, p2, "a", testBody)
			wantRead(t, p1, "a", testBody)
			expect.Soon(t, "the first peer to know the second", func() bool { m := p1.topology(); return len(m.Members()) > 1 })
			if m := p1.topology(); len(m.Members()) != 2 || len(m.Drives) != testDrives+4 {
				t.Errorf("the cluster has %d peers and %d drives", len(m.Members()), len(m.Drives))
			}
		})
	}
}

// TestAPeerFindsItselfOnItsDrives removes the data directory of a peer that joined: its drives know who it is.
func TestAPeerFindsItselfOnItsDrives(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	m := vfs.NewMemory(2)
	p2 := joinTo(t, p1, 2, m)
	keep(t, p2, "a", testBody)
	id := p2.id()
	stop(t, p2)
	if err := m.RemoveAll(testDir); err != nil {
		t.Fatal(err)
	}
	p2, err := Start(t.Context(), joinerConfig(2, ""), testSeams(m))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p2)
	ready(t, p2)
	expect.Soon(t, "the peer to serve", func() bool { return len(p2.notReady()) == 0 && p2.RootKey() != nil })
	if p2.id() != id {
		t.Errorf("it became peer %v, and was %v", p2.id(), id)
	}
	wantRead(t, p2, "a", testBody)
}

// TestAClusterOlderThanPeersGetsWhatItLacks takes the rows and files of peers from a cluster of one, as releases before
// them left it: the next start adds them, and another peer can join.
func TestAClusterOlderThanPeersGetsWhatItLacks(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(1)
	p := start(t, m)
	keep(t, p, "a", testBody)
	c := p.core.Load()
	own := p.topology()
	var remove []root.Row
	for _, name := range []string{"authority", "trust", "gossip", "topology"} {
		remove = append(remove, root.Row{Kind: root.Cluster, Name: name})
	}
	remove = append(remove, root.Row{Kind: root.Peers, Name: own.Peers[0].ID.String()})
	c.workers.Close() // nobody puts them back
	if _, err := root.NewClient(c.host.Group(rootGroup)).Change(t.Context(), nil, remove); err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	for _, dir := range append([]string{testDir}, testConfig().Drives...) {
		if err := m.Remove(path.Join(dir, selfFile)); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, m)
	defer stop(t, p)
	wantRead(t, p, "a", testBody)
	if now := p.topology(); len(now.Peers) != 1 || now.Peers[0].ID != own.Peers[0].ID || now.Epoch == 0 || len(now.Groups) == 0 {
		t.Fatalf("the map is %+v", now)
	}
	p2 := joinTo(t, p, 2, vfs.NewMemory(2))
	defer stop(t, p2)
	wantRead(t, p2, "a", testBody)
}

// TestAPeerAloneGetsItsCertificateAgain loses every record of a peer that is alone in its cluster.
func TestAPeerAloneGetsItsCertificateAgain(t *testing.T) {
	t.Parallel()
	m := vfs.NewMemory(1)
	p := start(t, m)
	keep(t, p, "a", testBody)
	id, key := p.id(), p.self.Load().credentials.PublicKey()
	stop(t, p)
	for _, dir := range append([]string{testDir}, testConfig().Drives...) {
		if err := m.Remove(path.Join(dir, selfFile)); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, m)
	defer stop(t, p)
	if p.id() != id || p.self.Load().credentials.PublicKey().Equal(key) {
		t.Errorf("peer %v with the key of before: %v", p.id(), p.self.Load().credentials.PublicKey().Equal(key))
	}
	p2 := joinTo(t, p, 2, vfs.NewMemory(2))
	defer stop(t, p2)
	wantRead(t, p2, "a", testBody)
}

func TestADrainedPeerCanBeRemoved(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	p2 := joinTo(t, p1, 2, vfs.NewMemory(2))
	keep(t, p2, "a", testBody)
	act := func(action string, force bool) error {
		_, err := source{p1, p1.core.Load()}.ActOnPeer(t.Context(), "peer2", action, force)
		return err
	}
	if err := act(admin.Remove, false); !errors.Is(err, errNotEmpty) {
		t.Fatalf("remove a peer that holds data: %v", err)
	}
	if err := act(admin.Drain, false); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "the peer to be empty", func() bool { return act(admin.Remove, false) == nil })
	wantRead(t, p1, "a", testBody)
	expect.Soon(t, "the peer to be refused", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p2.core.Load().root.Rows(ctx, root.Keys, "", "", 0)
		return err != nil
	})
	if p1.core.Load().links.trust.Refusals().Of(trust.ErrRevoked) == 0 {
		t.Error("nothing of the removed peer was counted as refused")
	}
	if err := p2.Close(); err != nil {
		t.Log(err) // its names do not answer any more
	}
	st, err := source{p1, p1.core.Load()}.Status(t.Context())
	if err != nil || len(st.Peers) != 1 || len(st.Drives) != testDrives {
		t.Errorf("%d peers and %d drives are left: %v", len(st.Peers), len(st.Drives), err)
	}
}

func TestTheRecordOfAPeerIsReadBackOrRefused(t *testing.T) {
	p := start(t, vfs.NewMemory(1))
	defer stop(t, p)
	own := p.self.Load()
	text, err := own.encode(p.cluster)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeSelf(text, p.cluster)
	if err != nil || again.id != own.id || again.number != own.number || len(again.known.Peers) != 1 || len(again.gossip) != len(own.gossip) {
		t.Fatalf("read back: %+v %v", again, err)
	}
	hurt := strings.Replace(string(text), `"number": 1`, `"number": 2`, 1)
	if hurt == string(text) {
		t.Fatal("nothing was changed")
	}
	if _, err := decodeSelf([]byte(hurt), p.cluster); err == nil {
		t.Error("a record whose checksum differs was read")
	}
}
