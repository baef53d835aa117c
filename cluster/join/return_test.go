package join

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// TestAPeerComesBack: with a token it keeps its id and number, however it can tell who it is.
func TestAPeerComesBack(t *testing.T) {
	for name, change := range map[string]func(r *realm, before *Answer, a *Ask){
		"by its id":     func(_ *realm, before *Answer, a *Ask) { a.Peer, a.Drives = before.Peer, drives(1) },
		"by its drives": func(*realm, *Answer, *Ask) {},
		"by its old key": func(r *realm, before *Answer, a *Ask) {
			a.Old, a.Drives = before.Credentials, nil
			r.first.alive.Store(before.Peer, true) // its key says more than the hint
		},
		"by an expired certificate": func(r *realm, before *Answer, a *Ask) {
			a.Old = before.Credentials
			r.clock.ahead.Store(int64(trust.Validity + time.Hour))
			r.first.renew()
			r.first.alive.Store(before.Peer, true)
		},
		"with another name and place": func(_ *realm, _ *Answer, a *Ask) {
			a.Name, a.Zone, a.PeerAddress = "renamed", "z9", "elsewhere:1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t, tcp)
			a := r.ask("second", 3)
			before, err := Join(t.Context(), transport.TCP{}, r.token(), a)
			if err != nil {
				t.Fatal(err)
			}
			drained := a.Drives[0].ID
			setDrive(r, drained, topology.Draining)
			a.Request = nil
			change(r, before, &a)
			after, err := Join(t.Context(), transport.TCP{}, r.token(), a)
			if err != nil {
				t.Fatal(err)
			}
			if !after.Returned || after.Peer != before.Peer || after.Number != before.Number {
				t.Errorf("it came back as %v, %d; was %v, %d", after.Peer, after.Number, before.Peer, before.Number)
			}
			m := r.topology()
			p, _ := m.Peer(after.Peer)
			if len(m.Peers) != 2 || p.Name != a.Name || p.Zone != a.Zone || p.Peer != a.PeerAddress || !p.Key.Equal(after.Credentials.PublicKey()) {
				t.Errorf("peer %+v", p)
			}
			if d, ok := m.Drive(drained); !ok || d.State != topology.Draining || d.Peer != after.Peer {
				t.Errorf("a drive that was drained is %+v", d)
			}
			if stats := r.first.join.Stats(); stats.Admitted != 1 || stats.Rejoined != 1 {
				t.Errorf("counts %+v", stats)
			}
			meet(t, r.start("again", after.Credentials, after.List, nil), r.first)
		})
	}
}

// renew gives a peer a certificate of the clock's time.
func (s *site) renew() {
	s.r.Helper()
	credentials, err := issue(s.r.founding.Authority, s.id, s.r.clock.now())
	if err == nil {
		err = s.trust.SetCredentials(credentials)
	}
	if err != nil {
		s.r.Fatal(err)
	}
}

func setDrive(r *realm, id [16]byte, state topology.State) {
	r.Helper()
	_, err := topology.Change(r.Context(), r.client, func(m *topology.Map) (topology.Extra, error) {
		d, _ := m.Drive(id)
		d.State = state
		return topology.Extra{}, m.SetDrive(d)
	})
	if err != nil {
		r.Fatal(err)
	}
}

// TestACopyDoesNotTakeThePlace: neither with the id and the drives of a peer that runs, nor with another key for it.
func TestACopyDoesNotTakeThePlace(t *testing.T) {
	r := newRealm(t, tcp)
	a := r.ask("second", 3)
	before, err := Join(t.Context(), transport.TCP{}, r.token(), a)
	if err != nil {
		t.Fatal(err)
	}
	other := join2(r, "other")
	r.first.alive.Store(before.Peer, true)
	a.Request = nil
	_, err = Join(t.Context(), transport.TCP{}, r.token(), a) // its drives tell
	wantErr(t, err, ErrRunning)

	// An old key that is another peer's, with the id of the one that runs.
	c, token := r.dial(), r.token()
	a.Peer = before.Peer
	c.wantRefused(t, c.say(token, &a, func(signed *ask) {
		signed.before = other.Credentials.Sign(returnUse, returning(c.bound, token.ID, a.Request.PublicKey()))
	}), ErrRunning)
	if m := r.topology(); !m.Peers[1].Key.Equal(before.Credentials.PublicKey()) {
		t.Error("its key was replaced")
	}
}

// TestDrivesOfARemovedPeerAreFree: they may come with a new peer.
func TestDrivesOfARemovedPeerAreFree(t *testing.T) {
	r := newRealm(t, tcp)
	a := r.ask("second", 3)
	before, err := Join(t.Context(), transport.TCP{}, r.token(), a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Revoke(t.Context(), r.client, before.Peer, false); err != nil {
		t.Fatal(err)
	}
	a.Request = nil
	after, err := Join(t.Context(), transport.TCP{}, r.token(), a)
	if err != nil || after.Returned || after.Number != 3 || after.Peer == before.Peer {
		t.Fatal(after, err)
	}
	m := r.topology()
	if d, _ := m.Drive(a.Drives[0].ID); d.Peer != after.Peer {
		t.Errorf("drive %+v", d)
	}
}
