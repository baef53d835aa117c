package peer

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// gossiping are seams of a peer that takes part in the gossip, on sockets of this machine.
func gossiping(fsys vfs.FS, out *expect.Buffer) Seams {
	s := testSeams(fsys)
	s.NoGossip, s.RotateEvery, s.Log = false, 200*time.Millisecond, slog.New(slog.NewTextHandler(out, nil))
	return s
}

// stateAt is how one peer sees another by gossip.
func stateAt(p *Peer, of cluster.PeerID) membership.State {
	c := p.core.Load()
	if c == nil {
		return membership.Unseen
	}
	for _, m := range c.links.gossip.Members() {
		if m.ID == of {
			return m.State
		}
	}
	return membership.Unseen
}

// TestARemovedPeerLosesTheGossipKey removes one of four peers by force, while another is away. The two that are up take
// another key by themselves, and what the removed one says, which still runs, is dropped and counted. The one that was
// away has the key of before, and comes back.
func TestARemovedPeerLosesTheGossipKey(t *testing.T) {
	t.Parallel()
	out := new(expect.Buffer)
	var peers []*Peer
	disks := []*vfs.Memory{vfs.NewMemory(1), vfs.NewMemory(2), vfs.NewMemory(3), vfs.NewMemory(4)}
	for n, disk := range disks {
		config := testConfig()
		config.Peer = "127.0.0.1:0"
		if n > 0 {
			config = joinerConfig(n+1, newToken(t, peers[0]))
		}
		p, err := Start(t.Context(), config, gossiping(disk, out))
		if err != nil {
			t.Fatal(err)
		}
		ready(t, p)
		peers = append(peers, p)
	}
	voters(t, peers[0], 3)
	first, sleeper, third, removed := peers[0], peers[1], peers[2], peers[3]
	defer stop(t, first)
	defer stop(t, third)
	for _, p := range peers {
		for _, q := range peers {
			expect.Soon(t, "all to be alive to each other", func() bool { return stateAt(p, q.id()).Up() })
		}
	}
	old := first.self.Load().gossip
	stop(t, sleeper)
	long := func(what string, ok func() bool) { // a peer that is away is waited for
		t.Helper()
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for end := time.Now().Add(time.Minute); !ok(); <-ticker.C {
			if time.Now().After(end) {
				t.Fatalf("waited too long for %s: %s", what, out)
			}
		}
	}
	long("the peer to be removed", func() bool {
		_, err := source{first, first.core.Load()}.ActOnPeer(t.Context(), removed.config.Name, admin.Remove, true)
		return err == nil
	})
	rotated := func(p *Peer) bool {
		keys := p.self.Load().gossip
		return len(keys) == 1 && !slices.Contains(old, keys[0])
	}
	long("the two to have one new key", func() bool { return rotated(first) && rotated(third) })
	key := first.self.Load().gossip[0]
	if third.self.Load().gossip[0] != key {
		t.Error("they have different keys")
	}
	if slices.Contains(removed.self.Load().gossip, key) {
		t.Error("the removed peer has the new key")
	}
	for _, p := range []*Peer{first, third} {
		before := p.core.Load().links.gossip.Stats().WrongKey
		expect.Soon(t, "what the removed peer says to be dropped", func() bool { return p.core.Load().links.gossip.Stats().WrongKey > before })
		if stateAt(p, removed.id()).Up() {
			t.Error("the removed peer is alive to the gossip")
		}
	}
	if !stateAt(first, third.id()).Up() || !stateAt(third, first.id()).Up() {
		t.Error("the two do not hear each other any more")
	}
	if err := removed.Close(); err != nil {
		t.Log(err) // its names do not answer any more
	}
	if !strings.Contains(out.String(), "the gossip key is rotated") {
		t.Error("the log does not tell of it")
	}

	config := joinerConfig(2, "")
	back, err := Start(t.Context(), config, gossiping(disks[1], out))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, back)
	long("who slept to have the key", func() bool { return rotated(back) })
	long("who slept to be alive", func() bool { return stateAt(first, back.id()).Up() && stateAt(back, third.id()).Up() })
	if text := out.String(); strings.Contains(text, string(key[:])) {
		t.Error("the log shows the key")
	}
}
