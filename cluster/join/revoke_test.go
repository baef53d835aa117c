package join

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// TestARemovedPeerIsRefused: in the map and on the list, by one command; its name is free, its number is not.
func TestARemovedPeerIsRefused(t *testing.T) {
	r := newRealm(t, tcp)
	second, third := join2(r, "second"), join2(r, "third")
	before := r.topology()
	m, err := Revoke(t.Context(), r.client, second.Peer, false)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := m.ByNumber(2); p.State != topology.Removed || m.Epoch != before.Epoch+1 || len(m.Drives) != 16 || len(m.Placeable()) != 14 {
		t.Errorf("peer %+v, epoch %d after %d, %d drives, %d placeable", p, m.Epoch, before.Epoch, len(m.Drives), len(m.Placeable()))
	}
	_, list, err := loadList(t.Context(), r.client)
	if err != nil || list.Epoch != 2 || !slices.Equal(list.Revoked, []cluster.PeerID{second.Peer}) {
		t.Errorf("list %d: %v, %v", list.Epoch, list.Revoked, err)
	}
	if again, err := Revoke(t.Context(), r.client, second.Peer, false); err != nil || again.Epoch != m.Epoch {
		t.Errorf("again: epoch %d, %v", again.Epoch, err)
	}
	if m, err = Revoke(t.Context(), r.client, second.Peer, true); err != nil || len(m.Drives) != 14 {
		t.Errorf("its drives too: %d, %v", len(m.Drives), err)
	}
	if m, err = Revoke(t.Context(), r.client, third.Peer, true); err != nil || len(m.Drives) != 12 {
		t.Errorf("with its drives: %d, %v", len(m.Drives), err)
	}
	if _, list, err = loadList(t.Context(), r.client); err != nil || list.Epoch != 3 || len(list.Revoked) != 2 {
		t.Errorf("list %d: %v, %v", list.Epoch, list.Revoked, err)
	}
	if _, err := Revoke(t.Context(), r.client, cluster.PeerID{1}, true); !errors.Is(err, topology.ErrUnknownPeer) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := Revoke(t.Context(), r.client, r.first.id, true); !errors.Is(err, ErrLastPeer) {
		t.Errorf("the last one: %v", err)
	}
	if answer := join2(r, "second"); answer.Number != 4 || answer.Peer == second.Peer || len(answer.List.Revoked) != 2 {
		t.Errorf("another of its name: number %d", answer.Number)
	}
}

// TestAnAnswerOfARemovedPeerIsNotRepeated.
func TestAnAnswerOfARemovedPeerIsNotRepeated(t *testing.T) {
	r := newRealm(t, tcp)
	token, a := r.token(), r.ask("second", 1)
	request, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	a.Request = request
	answer, err := Join(t.Context(), transport.TCP{}, token, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Revoke(t.Context(), r.client, answer.Peer, true); err != nil {
		t.Fatal(err)
	}
	_, err = Join(t.Context(), transport.TCP{}, token, a)
	wantErr(t, err, ErrRemoved)
}

// TestARemovedPeerIsCutOffEverywhere: each peer learns of it by the map's epoch, within seconds, and what it had open is
// closed.
func TestARemovedPeerIsCutOffEverywhere(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		second, _ := r.join("second", 2)
		third, _ := r.join("third", 2)
		sites := []*site{r.first, second, third}
		var saved sync.Map
		for _, s := range sites {
			follow(t, r, s, &saved)
		}
		meet(t, third, r.first)
		meet(t, third, second)
		if _, err := Revoke(t.Context(), r.client, third.id, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		for _, s := range sites[:2] {
			if list := s.trust.List(); list.Epoch != 2 || !s.trust.Revoked(third.id) {
				t.Errorf("%s has list %d", s.name, list.Epoch)
			}
			if epoch, _ := saved.Load(s.name); epoch != cluster.Epoch(2) {
				t.Errorf("%s has stored list %v", s.name, epoch)
			}
			if err := call(t.Context(), t, third, s); !errors.Is(err, transport.ErrUnreachable) {
				t.Errorf("the removed peer calls %s: %v", s.name, err)
			}
			time.Sleep(3 * time.Second)
			if s.trust.Refusals().Of(trust.ErrRevoked) == 0 {
				t.Errorf("%s refused nobody", s.name)
			}
		}
		meet(t, second, r.first)
	})
}

// follow starts what keeps a peer's list.
func follow(t *testing.T, r *realm, s *site, saved *sync.Map) {
	t.Helper()
	watcher := topology.NewWatcher(r.client, r.topology(), r.logger())
	lists := &Lists{
		Root: r.client, Trust: s.trust, Current: watcher.Current, Log: r.logger(),
		Save:    func(list trust.List) error { saved.Store(s.name, list.Epoch); return nil },
		Changed: func(trust.List) { s.server.TrustChanged(); s.peers.TrustChanged() },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- watcher.Run(ctx) }()
	go func() { done <- lists.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

// TestAListIsTakenOnceAndStored: an old one is passed over, one that could not be stored is stored later.
func TestAListIsTakenOnceAndStored(t *testing.T) {
	r := newRealm(t, tcp)
	second := join2(r, "second")
	changed, saved, fails := 0, 0, 1
	lists := &Lists{Root: r.client, Trust: r.first.trust, Changed: func(trust.List) { changed++ }, Save: func(trust.List) error {
		if fails > 0 {
			fails--
			return errDisk
		}
		saved++
		return nil
	}}
	refresh := func(want error, wantChanged, wantSaved int) {
		t.Helper()
		if err := lists.Refresh(t.Context()); !errors.Is(err, want) {
			t.Errorf("refresh: %v, want %v", err, want)
		}
		if changed != wantChanged || saved != wantSaved {
			t.Errorf("changed %d, stored %d, want %d, %d", changed, saved, wantChanged, wantSaved)
		}
	}
	refresh(nil, 0, 0)
	if _, err := Revoke(t.Context(), r.client, second.Peer, true); err != nil {
		t.Fatal(err)
	}
	refresh(errDisk, 1, 0)
	refresh(nil, 1, 1)
	refresh(nil, 1, 1)
	if err := r.first.trust.SetList(r.first.trust.List().Revoke(cluster.PeerID{5})); err != nil {
		t.Fatal(err)
	}
	refresh(nil, 1, 1) // the row is older than what is in use
	if err := r.client.DeleteRow(t.Context(), root.Cluster, listName, 0); err != nil {
		t.Fatal(err)
	}
	refresh(ErrNoSecrets, 1, 1)
}
