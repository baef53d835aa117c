package membership

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast/holdfast/cluster"
)

// other is a key that is no peer's.
var other = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0xee}, ed25519.SeedSize))

func signOther(data []byte) ([]byte, error) { return ed25519.Sign(other, data), nil }

// TestWhoHasOnlyTheGossipKeyIsNobody: it says that it is peer 2, while that one runs and while it does not.
func TestWhoHasOnlyTheGossipKeyIsNobody(t *testing.T) {
	for _, runs := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 3, nil)
			g.awaitWhole(soon)
			real, want := g.peers[1], Alive
			if !runs {
				g.kill(2)
				await(t, soon, "dead", func() bool { return g.everywhere(func(m *Membership) bool { return seen(m, 2).State == Dead }) })
				want = Dead
			}
			config := g.config(2, g.wire.port())
			config.Sign = signOther
			liar := start(t, config)
			await(t, soon, "refused and counted", func() bool {
				return g.everywhere(func(m *Membership) bool { return m.Stats().Forged > 0 })
			})
			for range 60 {
				<-time.After(time.Second)
				for _, m := range g.peers {
					if m == nil {
						continue
					}
					if got := seen(m, 2); len(m.Members()) != 3 || got.State != want || got.Gossip.String() != g.known[1].Gossip {
						t.Fatalf("the liar was believed: %+v", got)
					}
				}
			}
			if runs && real.Stats().Duplicates != 0 {
				t.Error("a liar is no duplicate")
			}
			if s := g.peers[0].Stats(); s.Strangers != 0 || s.Unreadable != 0 || s.Duplicates != 0 {
				t.Errorf("counted as something else: %+v", s)
			}
			stop(t, liar)
		})
	}
}

// TestSignedDataIsBoundToItsAddress: the liar tells what peer 2 has signed, from another address.
func TestSignedDataIsBoundToItsAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		config := g.config(2, g.wire.port())
		config.Data.Incarnation, config.Sign, config.Timing.Rejoin = g.peers[1].name.incarnation, signOther, -1
		liar := start(t, config)
		liar.own.Store(g.peers[1].own.Load())
		if err := liar.list.UpdateNode(time.Second); err != nil {
			t.Fatal(err)
		}
		before := g.peers[0].Stats().Forged
		_ = liar.exchange(g.known[0])
		await(t, soon, "refused and counted", func() bool { return g.peers[0].Stats().Forged > before })
		if s := g.peers[0].Stats(); s.Duplicates != 0 || !g.whole() || !g.everywhere(g.isNow(2)) {
			t.Errorf("%s, stats %+v", states(g.peers[0]), s)
		}
		stop(t, liar)
	})
}

func TestOnlyThePeersOwnWordIsGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 1, nil)
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(2), ""}, Address{peerID(3), ""})
		g.mu.Unlock()
		m := g.peers[0]
		told := announcement{gossip: golden.gossip, Data: Data{Name: "n2", Incarnation: 5}}
		body, err := told.body()
		if err != nil {
			t.Fatal(err)
		}
		leaving := told
		leaving.leaving = true
		leavingBody, err := leaving.body()
		if err != nil {
			t.Fatal(err)
		}
		signed := func(key ed25519.PrivateKey, in cluster.ClusterID, id cluster.PeerID) []byte {
			return ed25519.Sign(key, statement(in, id, body))
		}
		good := signed(firstKey(peerID(2)), testCluster, peerID(2))
		flipped := bytes.Clone(good)
		flipped[10] ^= 1
		two := nodeName{peerID(2), 5}.String()
		for name, c := range map[string]struct {
			node      string
			ip        []byte
			port      uint16
			body      []byte
			signature []byte
			want      error
		}{
			"its own":                {two, []byte{10, 1, 2, 3}, 7000, body, good, nil},
			"another body":           {two, []byte{10, 1, 2, 3}, 7000, leavingBody, good, errForged},
			"no signature":           {two, []byte{10, 1, 2, 3}, 7000, body, nil, errForged},
			"half a signature":       {two, []byte{10, 1, 2, 3}, 7000, body, good[:32], errForged},
			"a flipped bit":          {two, []byte{10, 1, 2, 3}, 7000, body, flipped, errForged},
			"another key":            {two, []byte{10, 1, 2, 3}, 7000, body, signed(other, testCluster, peerID(2)), errForged},
			"of another peer":        {two, []byte{10, 1, 2, 3}, 7000, body, signed(firstKey(peerID(3)), testCluster, peerID(3)), errForged},
			"as another peer":        {nodeName{peerID(3), 5}.String(), []byte{10, 1, 2, 3}, 7000, body, good, errForged},
			"as another process":     {nodeName{peerID(2), 6}.String(), []byte{10, 1, 2, 3}, 7000, body, good, errForged},
			"for another cluster":    {two, []byte{10, 1, 2, 3}, 7000, body, signed(firstKey(peerID(2)), cluster.ClusterID{9}, peerID(2)), errForged},
			"at another address":     {two, []byte{10, 1, 2, 4}, 7000, body, good, errForged},
			"at another port":        {two, []byte{10, 1, 2, 3}, 7001, body, good, errForged},
			"at no address":          {two, nil, 7000, body, good, errForged},
			"as who is told, moved":  {m.name.String(), []byte{10, 1, 2, 3}, 7000, body, good, errForged},
			"as who is told, here":   {m.name.String(), m.gossip.Addr().AsSlice(), m.gossip.Port(), body, good, nil}, // memberlist refutes it
			"who is not in it":       {nodeName{peerID(8), 5}.String(), []byte{10, 1, 2, 3}, 7000, body, good, errStranger},
			"by the id alone":        {peerID(2).String(), []byte{10, 1, 2, 3}, 7000, body, good, errStranger},
			"a body that is cut":     {two, []byte{10, 1, 2, 3}, 7000, body[:len(body)-1], good, errBadData},
			"a body that is no body": {two, []byte{10, 1, 2, 3}, 7000, nil, good, errBadData},
		} {
			before := m.Stats()
			meta, err := pack(c.body, c.signature)
			if err != nil {
				t.Fatal(err)
			}
			err = delegate{m}.NotifyAlive(&memberlist.Node{Name: c.node, Addr: c.ip, Port: c.port, Meta: meta})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
			after := m.Stats()
			counts := map[error]uint64{
				errForged: after.Forged - before.Forged, errStranger: after.Strangers - before.Strangers, errBadData: after.Unreadable - before.Unreadable,
			}
			for why, n := range counts {
				if want := c.want == why; want != (n == 1) || n > 1 {
					t.Errorf("%s: %d counted as %v", name, n, why)
				}
			}
		}
	})
}

// TestAPeerWithANewKey: who learns of the key first refuses what was signed with the old one, until the peer has signed
// anew. Nobody who knew the peer before loses it.
func TestAPeerWithANewKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		g.awaitWhole(soon)
		g.mu.Lock()
		g.keys = map[cluster.PeerID]ed25519.PrivateKey{peerID(2): other}
		g.mu.Unlock()
		<-time.After(time.Minute)
		if !g.whole() {
			t.Errorf("lost by those who knew it: %s", states(g.peers[0]))
		}
		g.kill(1)
		g.comeBack(1, "")
		await(t, soon, "refused by who comes anew", func() bool {
			return g.peers[0].Stats().Forged > 0 && seen(g.peers[0], 2).State == Unseen && seen(g.peers[0], 3).State == Alive
		})
		if err := g.peers[1].Renew(context.Background()); err != nil {
			t.Fatal(err)
		}
		g.awaitWhole(soon)
		synctest.Wait()

		if err := g.peers[1].Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := g.peers[1].Renew(context.Background()); !errors.Is(err, errGateClosed) {
			t.Errorf("renewed by who has left: %v", err)
		}
	})
}

// TestOnePeerHasRoomForFewProcesses: a peer that signs one process after the other fills nobody's memory.
func TestOnePeerHasRoomForFewProcesses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 1, nil)
		g.mu.Lock()
		g.known = append(g.known, Address{peerID(7), ""})
		g.mu.Unlock()
		m := g.peers[0]
		hears := func(incarnation uint64) error {
			told := golden
			told.Incarnation, told.gossip, told.leaving = incarnation, netip.AddrPortFrom(golden.gossip.Addr(), uint16(7000+incarnation)), false
			node := &memberlist.Node{
				Name: nodeName{peerID(7), incarnation}.String(), Addr: told.gossip.Addr().AsSlice(), Port: told.gossip.Port(), Meta: encode(t, told),
			}
			err := delegate{m}.NotifyAlive(node)
			if err == nil {
				delegate{m}.NotifyJoin(node)
			}
			return err
		}
		for i := range uint64(livesLimit) {
			if err := hears(i + 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := hears(livesLimit + 1); !errors.Is(err, errCrowded) || m.Stats().Duplicates != 1 {
			t.Errorf("one too many: %v, %+v", err, m.Stats())
		}
		if err := hears(livesLimit); err != nil {
			t.Errorf("one that is known: %v", err)
		}
		delegate{m}.NotifyLeave(&memberlist.Node{Name: nodeName{peerID(7), 1}.String()})
		if err := hears(livesLimit + 1); err != nil {
			t.Errorf("when another is dead: %v", err)
		}
	})
}
