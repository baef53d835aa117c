package join

import (
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// TestWhoIsRefused: each reason has its error, its sentence and its count, changes nothing, and leaves the token good.
func TestWhoIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		// change spoils the ask or the token of a peer that would be let in.
		change func(r *realm, token *trust.Token, a *Ask)
		want   error
		code   string
		says   string
	}{
		{"a token of a revoked row", func(r *realm, token *trust.Token, _ *Ask) {
			if err := RevokeToken(r.Context(), r.client, token.ID); err != nil {
				r.Fatal(err)
			}
		}, trust.ErrTokenWrong, "token_wrong", "not one of this cluster's"},
		{"another token's secret", func(r *realm, token *trust.Token, _ *Ask) {
			other := r.token()
			other.ID = token.ID
			*token = *other
		}, trust.ErrTokenWrong, "token_wrong", "not one of this cluster's"},
		{"a token that has expired", func(r *realm, token *trust.Token, _ *Ask) {
			r.clock.ahead.Store(int64(trust.TokenLife + time.Second))
		}, trust.ErrTokenExpired, "token_expired", "ask for another"},
		{"a name that is taken", func(_ *realm, _ *trust.Token, a *Ask) { a.Name = "first" },
			topology.ErrNameTaken, "name_taken", `"first" is peer`},
		{"a clock that is slow", func(r *realm, _ *trust.Token, a *Ask) {
			a.Now = func() time.Time { return r.clock.now().Add(-maxSkew - time.Minute) }
		}, ErrClock, "clock", "set them"},
		{"a clock that is fast", func(r *realm, _ *trust.Token, a *Ask) {
			a.Now = func() time.Time { return r.clock.now().Add(maxSkew + time.Minute) }
		}, ErrClock, "clock", "set them"},
		{"an old release", func(_ *realm, _ *trust.Token, a *Ask) { a.Command = 2 },
			ErrOldRelease, "old_release", "up to 2, the cluster uses 3"},
		{"a drive of another peer", func(r *realm, _ *trust.Token, a *Ask) {
			a.Peer = join2(r, "other").Peer
			a.Drives[0].ID = r.topology().Drives[slot(r, r.first.id)].ID
		}, ErrDrive, "drive", `"first"`},
		{"drives of two peers", func(r *realm, _ *trust.Token, a *Ask) {
			other := join2(r, "other").Peer
			a.Drives[0].ID = r.topology().Drives[slot(r, r.first.id)].ID
			a.Drives[1].ID = r.topology().Drives[slot(r, other)].ID
		}, ErrDrive, "drive", "d"},
		{"a peer that nobody knows", func(_ *realm, _ *trust.Token, a *Ask) { a.Peer = cluster.PeerID{9} },
			topology.ErrUnknownPeer, "unknown_peer", "no such peer"},
		{"a peer that was removed", func(r *realm, _ *trust.Token, a *Ask) {
			a.Peer = join2(r, "other").Peer
			if _, err := Revoke(r.Context(), r.client, a.Peer, true); err != nil {
				r.Fatal(err)
			}
		}, ErrRemoved, "removed", "was removed"},
		{"a peer that comes back, and nothing tells who it was", func(_ *realm, _ *trust.Token, a *Ask) { a.Again = true },
			topology.ErrUnknownPeer, "unknown_peer", "with empty drives"},
		{"a peer that comes back with the drives of a removed one", func(r *realm, _ *trust.Token, a *Ask) {
			other := join2(r, "other").Peer
			a.Again, a.Drives[0].ID = true, r.topology().Drives[slot(r, other)].ID
			if _, err := Revoke(r.Context(), r.client, other, false); err != nil {
				r.Fatal(err)
			}
		}, topology.ErrUnknownPeer, "unknown_peer", "it was removed"},
		{"a peer that runs", func(r *realm, _ *trust.Token, a *Ask) {
			a.Peer = r.first.id
			r.first.alive.Store(r.first.id, true)
		}, ErrRunning, "running", "stop it first"},
		{"no number is left", func(r *realm, _ *trust.Token, _ *Ask) { fill(r) }, topology.ErrFull, "full", "no number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRealm(t, tcp)
			token, a := r.token(), r.ask("second", 2)
			test.change(r, token, &a)
			before, counted := r.topology(), r.first.join.Stats()
			answer, err := Join(t.Context(), transport.TCP{}, token, a)
			wantErr(t, err, test.want)
			if answer != nil || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not say %q", err, test.says)
			}
			if got := r.first.join.Stats(); got.Refused[test.code] == counted.Refused[test.code] || got.Admitted != counted.Admitted {
				t.Errorf("counts %+v", got)
			}
			if after := r.topology(); after.Epoch != before.Epoch {
				t.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
			}
			if _, kept, err := readToken(t.Context(), r.client, token.ID); err == nil && kept.Used() {
				t.Errorf("the token has admitted %v", kept.Peer)
			}
		})
	}
}

// join2 lets another peer in.
func join2(r *realm, name string) *Answer {
	r.Helper()
	answer, err := Join(r.Context(), transport.TCP{}, r.token(), r.ask(name, 2))
	if err != nil {
		r.Fatal(err)
	}
	return answer
}

// slot finds a drive of a peer.
func slot(r *realm, peer cluster.PeerID) int {
	for i, d := range r.topology().Drives {
		if d.Peer == peer {
			return i
		}
	}
	r.Fatal("no drive")
	return 0
}

// fill gives out the last number.
func fill(r *realm) {
	_, err := topology.Change(r.Context(), r.client, func(m *topology.Map) (topology.Extra, error) {
		m.Peers = append(m.Peers, topology.Peer{ID: cluster.PeerID{1}, Number: 1<<16 - 1, Name: "last", State: topology.Removed})
		return topology.Extra{}, nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

// TestARefusedPeerMayTryAgain: a name that is taken costs no token.
func TestARefusedPeerMayTryAgain(t *testing.T) {
	r := newRealm(t, tcp)
	token, a := r.token(), r.ask("first", 1)
	_, err := Join(t.Context(), transport.TCP{}, token, a)
	wantErr(t, err, topology.ErrNameTaken)
	a.Name = "second"
	if _, err := Join(t.Context(), transport.TCP{}, token, a); err != nil {
		t.Error(err)
	}
}

// TestAForgottenTokenHasExpired: the cluster knows it no more, but the token knows.
func TestAForgottenTokenHasExpired(t *testing.T) {
	r := newRealm(t, tcp)
	token := r.token()
	r.clock.ahead.Store(int64(2 * trust.TokenLife))
	r.token() // removes it
	_, err := Join(t.Context(), transport.TCP{}, token, r.ask("second", 1))
	wantErr(t, err, trust.ErrTokenExpired)
	if !strings.Contains(err.Error(), "it was good until") {
		t.Error(err)
	}
}

// TestAClockThatIsFarOff: the certificates already say so.
func TestAClockThatIsFarOff(t *testing.T) {
	r := newRealm(t, tcp)
	for _, off := range []time.Duration{-2 * trust.Validity, 2 * trust.Validity} {
		a := r.ask("second", 1)
		a.Now = func() time.Time { return time.Now().Add(off) }
		begin := time.Now()
		_, err := Join(t.Context(), transport.TCP{}, r.token(), a)
		wantErr(t, err, ErrClock)
		if took := time.Since(begin); took > patience/3 {
			t.Errorf("it took %v to say so", took)
		}
	}
}

// TestAnAskIsChecked: on the joining side before anybody is asked, and on the other side again.
func TestAnAskIsChecked(t *testing.T) {
	r := newRealm(t, tcp)
	for name, change := range map[string]func(a *Ask){
		"no name":            func(a *Ask) { a.Name = "" },
		"a long name":        func(a *Ask) { a.Name = strings.Repeat("n", maxName+1) },
		"a name of two":      func(a *Ask) { a.Name = "a\nb" },
		"blanks around":      func(a *Ask) { a.Zone = " z" },
		"no text":            func(a *Ask) { a.Rack = "\xff" },
		"no address":         func(a *Ask) { a.PeerAddress = "" },
		"no port":            func(a *Ask) { a.Gossip = "host" },
		"port 0":             func(a *Ask) { a.Gossip = "host:0" },
		"any address":        func(a *Ask) { a.PeerAddress = "0.0.0.0:9" },
		"any address of six": func(a *Ask) { a.S3 = "[::]:9" },
		"a long address":     func(a *Ask) { a.S3 = strings.Repeat("h", maxAddress) + ":1" },
		"a drive twice":      func(a *Ask) { a.Drives[1].ID = a.Drives[0].ID },
		"a drive's name":     func(a *Ask) { a.Drives[1].Name = a.Drives[0].Name },
		"no drive":           func(a *Ask) { a.Drives[0].ID = cluster.DriveID{} },
		"less than nothing":  func(a *Ask) { a.Drives[0].Size = -1 },
		"a long path":        func(a *Ask) { a.Drives[0].Path = strings.Repeat("p", maxPath+1) },
		"many drives":        func(a *Ask) { a.Drives = drives(maxDrives + 1) },
	} {
		a := r.ask("second", 2)
		change(&a)
		if _, err := Join(t.Context(), transport.TCP{}, r.token(), a); err == nil {
			t.Errorf("%s: let in", name)
		} else {
			wantErr(t, err, ErrBadAsk)
		}
		if name == "no text" {
			continue // JSON makes text of it
		}
		raw := r.dial()
		raw.wantRefused(t, raw.say(r.token(), &a, nil), ErrBadAsk)
	}
	if n := r.first.join.Stats(); n.Refused["bad_ask"] != 16 || n.Admitted != 0 {
		t.Errorf("counts %+v", n)
	}
	a := r.ask(strings.Repeat("n", maxName), maxDrives)
	a.S3 = strings.Repeat("h", maxAddress-2) + ":1"
	for i := range a.Drives {
		a.Drives[i].Path = strings.Repeat("p", maxPath)
	}
	if _, err := Join(t.Context(), transport.TCP{}, r.token(), a); err != nil {
		t.Error(err)
	}
}

// raw is a joining peer that says what the test wants.
type raw struct {
	*tls.Conn
	bound binding
}

// dial gets a pinned connection to the first peer.
func (r *realm) dial() *raw {
	r.Helper()
	conn, err := net.Dial("tcp", r.first.server.Addr())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	secure := tls.Client(conn, trust.PinnedConfig(r.founding.Authority.Pin(), r.clock.now))
	if err := secure.SetDeadline(time.Now().Add(patience)); err != nil {
		r.Fatal(err)
	}
	if err := secure.Handshake(); err != nil {
		r.Fatal(err)
	}
	bound, err := bindingOf(secure)
	if err != nil {
		r.Fatal(err)
	}
	return &raw{secure, bound}
}

// said is what goes over a connection.
type said struct {
	head head
	body []byte
}

// say goes through the conversation; change may spoil what is said. It returns what the cluster answers last.
func (c *raw) say(token *trust.Token, a *Ask, change func(*ask)) error {
	s, err := c.make(token, a, change)
	if err != nil {
		return err
	}
	return c.send(s)
}

func (c *raw) make(token *trust.Token, a *Ask, change func(*ask)) (*said, error) {
	if a.Request == nil {
		request, err := trust.NewRequest()
		if err != nil {
			return nil, err
		}
		a.Request = request
	}
	signed := a.sign(c.bound, token.ID)
	if change != nil {
		change(signed)
	}
	body, err := signed.encode()
	if err != nil {
		return nil, err
	}
	s := &said{head{token: token.ID, length: uint32(len(body)), digest: sha256.Sum256(body)}, body}
	s.head.proof = token.Prove(s.head.proven(c.bound))
	return s, nil
}

func (c *raw) send(s *said) error {
	if _, err := c.Write(s.head.encode()); err != nil {
		return err
	}
	if _, err := await(c.Conn, goOn); err != nil {
		return err
	}
	if _, err := c.Write(s.body); err != nil {
		return err
	}
	_, err := await(c.Conn, granted)
	return err
}

// wantRefused fails unless err is that refusal and the connection then ends.
func (c *raw) wantRefused(t *testing.T, err, want error) {
	t.Helper()
	wantErr(t, err, want)
	if n, err := c.Read(make([]byte, 1)); err == nil || n != 0 {
		t.Errorf("read on after a refusal: %d %v", n, err)
	}
}
