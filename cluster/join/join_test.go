package join

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// TestAPeerJoins goes all the way over loopback: from a token on a terminal to two peers that call each other.
func TestAPeerJoins(t *testing.T) {
	r := newRealm(t, tcp)
	token, a := r.token(), r.ask("second", 4)
	answer, err := Join(t.Context(), transport.TCP{}, token, a)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Number != 2 || answer.Returned || answer.IntegrityKey != [32]byte{7} || answer.Credentials.Cluster() != r.id ||
		len(answer.Gossip) != 1 || answer.Gossip[0] != r.founding.Gossip[0] || len(answer.Peers) != 2 {
		t.Errorf("answer: number %d, peers %v", answer.Number, answer.Peers)
	}
	m := r.topology()
	p, ok := m.Peer(answer.Peer)
	want := topology.Peer{
		ID: answer.Peer, Number: 2, Name: "second", Zone: "z2", Rack: "r1", Peer: "second:1", Gossip: "second:2", S3: "second:3",
		State: topology.Active, Key: answer.Credentials.PublicKey(), Command: 3,
	}
	if !ok || !p.Key.Equal(want.Key) || answer.Epoch != m.Epoch || !answer.Peers[1].Key.Equal(want.Key) {
		t.Errorf("peer %+v, epoch %d of %d", p, answer.Epoch, m.Epoch)
	}
	p.Key, want.Key = nil, nil
	if answer.Peers[1].Key = nil; !samePeer(p, want) || !samePeer(answer.Peers[1], want) {
		t.Errorf("peer %+v, told %+v, want %+v", p, answer.Peers[1], want)
	}
	for _, d := range a.Drives {
		d.Peer, d.State = answer.Peer, topology.Active
		if got, ok := m.Drive(d.ID); !ok || got != d {
			t.Errorf("drive %+v, want %+v", got, d)
		}
	}
	if kept := r.kept(token); kept.Peer != answer.Peer || !kept.Key.Equal(answer.Credentials.PublicKey()) {
		t.Errorf("the token has admitted %v", kept.Peer)
	}
	if stats := r.first.join.Stats(); stats.Admitted != 1 || stats.Rejoined+stats.Repeated != 0 || len(stats.Refused) != 0 {
		t.Errorf("counts %+v", stats)
	}
	second := r.start("second", answer.Credentials, answer.List, nil)
	meet(t, second, r.first)
	meet(t, r.first, second)
	if text := r.log.String(); !strings.Contains(text, `msg="a peer was admitted"`) || strings.Contains(text, "WARN") {
		t.Errorf("log: %s", text)
	}
}

func samePeer(a, b topology.Peer) bool {
	return a.ID == b.ID && a.Number == b.Number && a.Name == b.Name && a.Zone == b.Zone && a.Rack == b.Rack && a.Peer == b.Peer &&
		a.Gossip == b.Gossip && a.S3 == b.S3 && a.TLS == b.TLS && a.State == b.State && a.Command == b.Command
}

// meet has one peer ask the other to renew its certificate: a call that needs a role.
func meet(t *testing.T, from, to *site) {
	t.Helper()
	if err := call(t.Context(), t, from, to); err != nil {
		t.Errorf("%s calls %s: %v", from.name, to.name, err)
	}
}

func call(ctx context.Context, t *testing.T, from, to *site) error {
	t.Helper()
	request, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	from.peers.Set(to.id, to.server.Addr())
	renewer := &Renewer{Peers: from.peers}
	certificate, err := renewer.ask(ctx, to.id, request.Bytes())
	if err != nil {
		return err
	}
	credentials, err := request.Complete(certificate)
	if err == nil && credentials.Identity() != from.trust.Credentials().Identity() {
		err = errors.New("a certificate of somebody else: " + credentials.Identity().String())
	}
	return err
}

// TestATokenAdmitsOnePeer: whoever comes second is refused, also at another peer, and told who was admitted.
func TestATokenAdmitsOnePeer(t *testing.T) {
	r := newRealm(t, tcp)
	second, _ := r.join("second", 1)
	token := r.token(r.first)
	if _, err := Join(t.Context(), transport.TCP{}, token, r.ask("third", 1)); err != nil {
		t.Fatal(err)
	}
	before := r.topology().Epoch
	for _, at := range []*site{r.first, second} {
		token.Addresses = []string{at.server.Addr()}
		_, err := Join(t.Context(), transport.TCP{}, token, r.ask("fourth", 1))
		wantErr(t, err, ErrTokenUsed)
		if !strings.Contains(err.Error(), `"third"`) {
			t.Errorf("%v does not say who was admitted", err)
		}
		if at.join.Stats().Refused["token_used"] != 1 {
			t.Errorf("counts %+v", at.join.Stats())
		}
	}
	if m := r.topology(); m.Epoch != before || len(m.Peers) != 3 {
		t.Errorf("epoch %d after %d, peers %v", m.Epoch, before, m.Peers)
	}
}

// TestTwoPeersWithOneToken: two machines use it at the same moment, at two peers.
func TestTwoPeersWithOneToken(t *testing.T) {
	r := newRealm(t, tcp)
	second, _ := r.join("second", 1)
	for i := range 8 {
		token := r.token()
		before := len(r.topology().Peers)
		errs := make([]error, 2)
		var both sync.WaitGroup
		for j, at := range []*site{r.first, second} {
			both.Go(func() {
				mine := *token
				mine.Addresses = []string{at.server.Addr()}
				_, errs[j] = Join(t.Context(), transport.TCP{}, &mine, r.ask(string(rune('a'+2*i+j)), 1))
			})
		}
		both.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v, %v", i, errs[0], errs[1])
		}
		if errs[0] == nil {
			errs[0] = errs[1]
		}
		wantErr(t, errs[0], ErrTokenUsed)
		if m := r.topology(); len(m.Peers) != before+1 {
			t.Fatalf("round %d: %d peers after %d", i, len(m.Peers), before)
		}
	}
	stats := r.first.join.Stats().Admitted + second.join.Stats().Admitted
	if stats != 1+8 {
		t.Errorf("%d were admitted", stats)
	}
}

// TestManyPeersJoinAtOnce: each gets a number of its own.
func TestManyPeersJoinAtOnce(t *testing.T) {
	r := newRealm(t, tcp)
	const n = 10
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		token := r.token()
		all.Go(func() { _, errs[i] = Join(t.Context(), transport.TCP{}, token, r.ask(string(rune('a'+i)), 2)) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	m := r.topology()
	for i, p := range m.Peers {
		if int(p.Number) != i+1 || len(m.Peers) != n+1 || len(m.Drives) != 12+2*n {
			t.Fatalf("peers %+v, %d drives", m.Peers, len(m.Drives))
		}
	}
}

// TestALaterAddressHelps: the first ones of the token lead to nobody, to another cluster, and to what is no peer.
func TestALaterAddressHelps(t *testing.T) {
	r, other := newRealm(t, tcp), newRealm(t, tcp)
	closed := r.start("closed", r.founding.Credentials, r.founding.List, func(c *transport.ServerConfig) { c.Join = nil })
	nobody, err := transport.TCP{}.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	token := r.token()
	token.Addresses = []string{nobody.Addr().String(), other.first.server.Addr(), closed.server.Addr(), r.first.server.Addr()}
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), transport.TCP{}, token, r.ask("second", 1)); err != nil {
		t.Fatal(err)
	}
	if closed.trust.Refusals().Of(trust.ErrOtherProtocol) != 1 {
		t.Error("the peer that admits nobody was not asked")
	}

	token.Addresses = []string{other.first.server.Addr()}
	_, err = Join(t.Context(), transport.TCP{}, token, r.ask("third", 1))
	wantErr(t, err, ErrUnreachable)
	wantErr(t, err, ErrOtherCluster)
}
