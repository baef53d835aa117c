package topology

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/kv/kvtest"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
)

// alone is a group of one replica that applies at once.
type alone struct {
	db      *kv.DB
	machine *root.Machine
	mu      sync.Mutex
	index   uint64
}

func (g *alone) ID() raft.GroupID { return 1 }

func (g *alone) Propose(_ context.Context, command []byte) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	b := g.db.NewBatch()
	result := g.machine.Apply(g.index, 1, command, g.db, b)
	return result, g.db.Write(b)
}

func (g *alone) Barrier(context.Context) (uint64, error) { return 1, nil }
func (g *alone) State() kv.Reader                        { return g.db }
func (g *alone) Snapshot() (raft.Snapshot, error)        { return g.db.Snapshot() }

func newClient(t *testing.T) *root.Client {
	t.Helper()
	return root.NewClient(&alone{db: kvtest.Open(t), machine: root.New()})
}

func id(n int) cluster.ID { return cluster.ID{byte(n >> 8), byte(n)} }

// peerWith is a peer and its drives.
func peerWith(n, drives int) (Peer, []Drive) {
	p := Peer{ID: cluster.PeerID(id(n)), Name: fmt.Sprintf("p%d", n), Zone: fmt.Sprintf("z%d", n%3), Peer: fmt.Sprintf("10.0.0.%d:9001", n)}
	var list []Drive
	for i := range drives {
		list = append(list, Drive{ID: cluster.DriveID(id(n*100 + i + 1)), Name: fmt.Sprintf("d%d", i+1), Path: "/d", Peer: p.ID, Device: 7, Size: 1 << 40, State: Active})
	}
	return p, list
}

func join(m *Map, n, drives int) error {
	p, list := peerWith(n, drives)
	if _, err := m.AddPeer(p); err != nil {
		return err
	}
	for _, d := range list {
		if err := m.SetDrive(d); err != nil {
			return err
		}
	}
	return nil
}

func TestAMapGrowsAndItsGroupsWithIt(t *testing.T) {
	ctx, client := t.Context(), newClient(t)
	var first Map
	if err := join(&first, 1, 12); err != nil {
		t.Fatal(err)
	}
	rows, err := FoundingRows(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PutRows(ctx, rows); err != nil {
		t.Fatal(err)
	}
	m, err := Load(ctx, client)
	if err != nil || m.Epoch != 1 || len(m.Peers) != 1 || len(m.Drives) != 12 || len(m.Groups) != placement.Count(12) {
		t.Fatalf("founded: %+v %v", m, err)
	}
	grown, err := Change(ctx, client, func(m *Map) (Extra, error) { return Extra{}, join(m, 2, 4) })
	if err != nil || grown.Epoch != 2 || grown.Peers[1].Number != 2 {
		t.Fatalf("grown: %+v %v", grown, err)
	}
	if len(grown.Groups) != placement.Count(16) || grown.Groups[0].Number != m.Groups[len(m.Groups)-1].Number+1 {
		t.Fatalf("%d groups from number %d", len(grown.Groups), grown.Groups[0].Number)
	}
	// What changes nothing commits nothing.
	same, err := Change(ctx, client, func(*Map) (Extra, error) { return Extra{}, nil })
	if err != nil || same.Epoch != 2 {
		t.Fatalf("unchanged: epoch %d %v", same.Epoch, err)
	}
	// A drained peer leaves the groups.
	drained, err := Change(ctx, client, func(m *Map) (Extra, error) {
		p, _ := m.Peer(cluster.PeerID(id(2)))
		p.State = Draining
		return Extra{}, m.SetPeer(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range drained.Groups {
		for _, d := range g.Slots {
			if at, _ := drained.Drive(d); at.Peer == cluster.PeerID(id(2)) {
				t.Fatalf("group %d has a slot on a draining peer", g.Number)
			}
		}
	}
	// A removed peer leaves its number behind.
	gone, err := Change(ctx, client, func(m *Map) (Extra, error) {
		p, _ := m.Peer(cluster.PeerID(id(2)))
		p.State = Removed
		if err := m.SetPeer(p); err != nil {
			return Extra{}, err
		}
		_, list := peerWith(2, 4)
		for _, d := range list {
			if err := m.RemoveDrive(d.ID); err != nil {
				return Extra{}, err
			}
		}
		return Extra{}, join(m, 3, 1)
	})
	if err != nil || len(gone.Members()) != 2 || gone.Peers[2].Number != 3 || len(gone.Drives) != 13 {
		t.Fatalf("removed: %+v %v", gone, err)
	}
	if p, ok := gone.ByNumber(2); !ok || p.State != Removed {
		t.Fatalf("number 2: %+v", p)
	}
	if _, err := gone.Named("p2"); !errors.Is(err, ErrUnknownPeer) {
		t.Fatalf("removed peer by name: %v", err)
	}
}

func TestChangesMeetAndNoneIsLost(t *testing.T) {
	ctx, client := t.Context(), newClient(t)
	var w sync.WaitGroup
	for n := 1; n <= 8; n++ {
		w.Go(func() {
			if _, err := Change(ctx, client, func(m *Map) (Extra, error) { return Extra{}, join(m, n, 2) }); err != nil {
				t.Error(err)
			}
		})
	}
	w.Wait()
	m, err := Load(ctx, client)
	if err != nil || m.Epoch != 8 || len(m.Peers) != 8 || len(m.Drives) != 16 || len(m.Groups) == 0 {
		t.Fatalf("epoch %d, %d peers, %d drives, %d groups, %v", m.Epoch, len(m.Peers), len(m.Drives), len(m.Groups), err)
	}
	for i, p := range m.Peers {
		if int(p.Number) != i+1 {
			t.Fatalf("peer %d has number %d", i+1, p.Number)
		}
	}
}

func TestExtraRowsChangeWithTheMap(t *testing.T) {
	ctx, client := t.Context(), newClient(t)
	token, err := client.PutRow(ctx, root.Row{Kind: root.Tokens, Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	use := func(n int) error {
		_, err := Change(ctx, client, func(m *Map) (Extra, error) {
			if _, err := client.Row(ctx, root.Tokens, "t"); err != nil {
				return Extra{}, err
			}
			return Extra{Remove: []root.Row{token}}, join(m, n, 1)
		})
		return err
	}
	if err := use(1); err != nil {
		t.Fatal(err)
	}
	if err := use(2); !errors.Is(err, root.ErrNotFound) {
		t.Fatalf("a token worked twice: %v", err)
	}
}

func TestNamesAreUnique(t *testing.T) {
	var m Map
	if err := join(&m, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := m.AddPeer(Peer{ID: cluster.PeerID(id(9)), Name: "p1"}); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("a second p1: %v", err)
	}
}
