package join

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestACallerIsRenewedAsWhatItIs: for its own id and roles, while it is in the cluster.
func TestACallerIsRenewedAsWhatItIs(t *testing.T) {
	r := newRealm(t, tcp)
	second, _ := r.join("second", 2)
	meet(t, second, r.first) // it asks for a certificate and checks whose it is

	issuer := &Issuer{Root: r.client, Now: r.clock.now}
	request, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	stranger := trust.Identity{Peer: cluster.PeerID(cluster.NewID()), Roles: trust.RolePeer}
	if _, err := issuer.Renew(t.Context(), stranger, request.Bytes()); !errors.Is(err, topology.ErrUnknownPeer) {
		t.Errorf("a peer that is not in the map: %v", err)
	}
	if _, err := issuer.Renew(t.Context(), trust.Identity{}, request.Bytes()); err == nil {
		t.Error("nobody was renewed")
	}
	if _, err := issuer.Renew(t.Context(), second.trust.Credentials().Identity(), []byte("no request")); !errors.Is(err, trust.ErrBadRequest) {
		t.Errorf("no request: %v", err)
	}
	operator := trust.Identity{Peer: stranger.Peer, Roles: trust.RoleAdmin}
	if _, err := issuer.Renew(t.Context(), operator, request.Bytes()); err != nil {
		t.Errorf("an operator, who is in no map: %v", err)
	}
	row, list, err := loadList(t.Context(), r.client)
	if err == nil {
		row.Value = list.Revoke(operator.Peer).Marshal()
		_, err = r.client.PutRow(t.Context(), row)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Renew(t.Context(), operator, request.Bytes()); !errors.Is(err, ErrRemoved) {
		t.Errorf("an operator who was revoked: %v", err)
	}
	if _, err := Revoke(t.Context(), r.client, second.id, true); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Renew(t.Context(), second.trust.Credentials().Identity(), request.Bytes()); !errors.Is(err, ErrRemoved) {
		t.Errorf("a peer that was removed: %v", err)
	}
	// The first peer's transport has not heard of it, the root group has.
	wantErr(t, call(t.Context(), t, second, r.first), ErrRemoved)
}

// keeper is a Renewer and what it stored.
type keeper struct {
	*Renewer
	s     *site
	mu    sync.Mutex
	saved []*trust.Credentials
	used  []*trust.Credentials
	fails int // of Save
}

func (s *site) keeper() *keeper {
	k := &keeper{s: s}
	k.Renewer = &Renewer{
		Trust: s.trust, Root: s.r.client, Peers: s.peers, Save: k.save, Renewed: k.renewed, Now: s.r.clock.now, Log: s.r.logger(),
	}
	return k
}

var errDisk = errors.New("no space left")

func (k *keeper) save(c *trust.Credentials) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fails > 0 {
		k.fails--
		return errDisk
	}
	k.saved = append(k.saved, c)
	return nil
}

// renewed checks the order: stored, in the row, in use.
func (k *keeper) renewed(c *trust.Credentials) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used = append(k.used, c)
	m, err := topology.Load(context.Background(), k.s.r.client)
	if err != nil {
		k.s.r.Error(err)
	}
	if p, _ := m.Peer(k.s.id); !p.Key.Equal(c.PublicKey()) || k.saved[len(k.saved)-1] != c || k.s.trust.Credentials() != c {
		k.s.r.Errorf("%s uses credentials that are not stored, or have another key than its row", k.s.name)
	}
}

func (k *keeper) counts() (saved, used int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.saved), len(k.used)
}

// run starts the worker until the test ends.
func (k *keeper) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestCertificatesAreRenewedInTime, again and again, with a new key each time and calls that go on; an attempt that
// fails is made again.
func TestCertificatesAreRenewedInTime(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		second, _ := r.join("second", 2)
		meet(t, r.first, second)
		meet(t, second, r.first)
		keepers := []*keeper{r.first.keeper(), second.keeper()}
		keepers[0].fails = 2
		for _, k := range keepers {
			k.run(t)
		}
		synctest.Wait()
		if saved, _ := keepers[0].counts(); saved != 0 {
			t.Error("renewed too soon")
		}
		const life = trust.Validity + time.Hour // as they are dated back
		for round := 1; round <= 3; round++ {
			r.clock.ahead.Add(int64(life / 3 * 2))
			time.Sleep(renewCheck + 10*renewPause)
			for _, k := range keepers {
				if saved, used := k.counts(); saved != round || used != round {
					t.Fatalf("round %d: %s has stored %d and used %d: %s", round, k.s.name, saved, used, r.log.String())
				}
			}
			meet(t, r.first, second)
			meet(t, second, r.first)
		}
		if keepers[0].fails != 0 || r.clock.ahead.Load() < int64(2*trust.Validity) {
			t.Error("nothing failed, or no certificate would have run out")
		}
		keys := map[string]bool{}
		for _, k := range keepers {
			for _, c := range k.saved {
				keys[string(c.PublicKey())] = true
			}
		}
		if len(keys) != 6 {
			t.Errorf("%d keys", len(keys))
		}
	})
}

// TestAPeerWithoutOthersRenewsItself.
func TestAPeerWithoutOthersRenewsItself(t *testing.T) {
	r := newRealm(t, tcp)
	k := r.first.keeper()
	r.clock.ahead.Store(int64(trust.Validity - time.Hour))
	k.run(t)
	expect.Soon(t, "the certificate is renewed", func() bool { _, used := k.counts(); return used == 1 })
	if !r.first.trust.Credentials().RenewAt().After(r.clock.now()) {
		t.Error("it is old")
	}
}

// TestAPeerWhoseOthersAreAwayRenewsItself in the last week, also when its certificate has run out: it could not let them
// in again without. A peer that was removed does not, nor one whose others are there.
func TestAPeerWhoseOthersAreAwayRenewsItself(t *testing.T) {
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		at      time.Duration
		prepare func(r *realm) error
		renewed bool
	}{
		"a week before its end": {at: trust.Validity - 8*day},
		"in the last week":      {at: trust.Validity - 6*day, renewed: true},
		"after its end":         {at: trust.Validity + 30*day, renewed: true},
		"removed": {at: trust.Validity - 6*day, prepare: func(r *realm) error {
			_, err := Revoke(r.Context(), r.client, r.first.id, true)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t, tcp)
			join2(r, "second")
			if c.prepare != nil {
				if err := c.prepare(r); err != nil {
					t.Fatal(err)
				}
			}
			r.clock.ahead.Store(int64(c.at))
			k, settled := r.first.keeper(), true
			err := k.attempt(t.Context(), &settled)
			if saved, used := k.counts(); (err == nil) != c.renewed || (used == 1) != c.renewed || saved != used {
				t.Errorf("stored %d, used %d: %v", saved, used, err)
			}
		})
	}
}

func TestWhoIsAway(t *testing.T) {
	away, there := fmt.Errorf("peer 2: %w", transport.ErrUnreachable), fmt.Errorf("peer 3: %w", transport.ErrBroken)
	for want, failed := range map[bool][][]error{
		true:  {nil, {away}, {away, transport.ErrUnknownPeer}},
		false: {{there}, {away, there}, {&transport.RemoteError{}}, {away, ErrRemoved}},
	} {
		for _, errs := range failed {
			if allAway(errs) != want {
				t.Errorf("%v: all are away: %v", errs, !want)
			}
		}
	}
}

// TestAKeyIsUsedWhenItsRowIsThere, and not before: what was stored meanwhile is used later, and asked for once.
func TestAKeyIsUsedWhenItsRowIsThere(t *testing.T) {
	r := newRealm(t, tcp)
	k := r.first.keeper()
	before := r.first.trust.Credentials()
	settled := true
	r.group.stopped.Store(true)
	r.clock.ahead.Store(int64(trust.Validity - time.Hour))
	for range 2 {
		wantErr(t, k.attempt(t.Context(), &settled), raft.ErrStopped)
		if saved, used := k.counts(); saved != 1 || used != 0 || r.first.trust.Credentials() != before {
			t.Fatalf("stored %d, used %d", saved, used)
		}
	}
	r.group.stopped.Store(false)
	if err := k.attempt(t.Context(), &settled); err != nil {
		t.Fatal(err)
	}
	if saved, used := k.counts(); saved != 1 || used != 1 || r.first.trust.Credentials() != k.saved[0] {
		t.Errorf("stored %d, used %d", saved, used)
	}
}

// TestAPeerIsRenewedByWhomItReaches, and by nobody when it reaches none; then it tries again.
func TestAPeerIsRenewedByWhomItReaches(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		second, _ := r.join("second", 2)
		third, _ := r.join("third", 2)
		for _, to := range []*site{r.first, third} {
			meet(t, second, to)
		}
		k := second.keeper()
		k.run(t)
		synctest.Wait()
		net.Partition("second")
		r.clock.ahead.Store(int64(trust.Validity / 4 * 3))
		time.Sleep(2 * renewCheck)
		if saved, _ := k.counts(); saved != 0 {
			t.Fatal("renewed by nobody")
		}
		net.Heal()
		net.PowerOff("first")
		time.Sleep(2 * renewLongPause)
		if saved, used := k.counts(); saved != 1 || used != 1 {
			t.Errorf("stored %d, used %d: %s", saved, used, r.log.String())
		}
	})
}

// TestTheRowFollowsTheStoredKey: a peer that stopped between storing its credentials and telling the root group of
// their key does that when it starts.
func TestTheRowFollowsTheStoredKey(t *testing.T) {
	r := newRealm(t, tcp)
	r.first.renew() // the key changes, the row does not
	k := r.first.keeper()
	k.run(t)
	expect.Soon(t, "the row has the key in use", func() bool {
		m := r.topology()
		p, _ := m.Peer(r.first.id)
		return p.Key.Equal(r.first.trust.Credentials().PublicKey())
	})
	if saved, _ := k.counts(); saved != 0 {
		t.Error("it was renewed for that")
	}
}

// TestAnExpiredCertificateIsNotRenewed: it opens nothing; the peer needs a token.
func TestAnExpiredCertificateIsNotRenewed(t *testing.T) {
	r := newRealm(t, tcp)
	second, _ := r.join("second", 2)
	r.clock.ahead.Store(int64(trust.Validity + time.Hour))
	r.first.renew()
	err := call(t.Context(), t, second, r.first)
	wantErr(t, err, transport.ErrUnreachable)
	// As often as it was tried.
	expect.Soon(t, "the refusal is counted", func() bool { return r.first.trust.Refusals().Of(trust.ErrExpired) > 0 })
}
