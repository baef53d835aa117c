package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
)

// crowd are peers of a realm as far as their gossip keys go.
type crowd struct {
	t     *testing.T
	r     *realm
	peers map[cluster.PeerID]*gossiper
	order []cluster.PeerID
}

// gossiper is one of them.
type gossiper struct {
	GossipKeys
	ring  []membership.Key // in use
	saved []membership.Key
	list  cluster.Epoch
	away  bool
}

func newCrowd(t *testing.T, n int) *crowd {
	c := &crowd{t: t, r: newRealm(t, tcp), peers: map[cluster.PeerID]*gossiper{}}
	ids := []cluster.PeerID{c.r.first.id}
	_, err := topology.Change(t.Context(), c.r.client, func(m *topology.Map) (topology.Extra, error) {
		for i := len(m.Peers); i < n; i++ {
			ids = append(ids, cluster.PeerID(cluster.NewID()))
			if _, err := m.AddPeer(topology.Peer{ID: ids[i], Name: fmt.Sprint("peer", i+1)}); err != nil {
				return topology.Extra{}, err
			}
		}
		return topology.Extra{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		c.peers[id] = c.started(c.r.founding.Gossip)
	}
	c.order = ids
	return c
}

// started is a peer that starts with keys that it has stored.
func (c *crowd) started(keys []membership.Key) *gossiper {
	p := &gossiper{ring: keys, saved: keys, list: 1}
	p.GossipKeys = GossipKeys{
		Root: c.r.client, Held: keys, Log: c.r.logger(),
		Use:  func(keys []membership.Key) error { p.ring = keys; return nil },
		Save: func(keys []membership.Key) error { p.saved = keys; return nil },
	}
	return p
}

// remove takes a peer out of the cluster, and of the crowd.
func (c *crowd) remove(id cluster.PeerID) (keys []membership.Key) {
	c.t.Helper()
	if _, err := Revoke(c.t.Context(), c.r.client, id, true); err != nil {
		c.t.Fatal(err)
	}
	keys = c.peers[id].ring
	delete(c.peers, id)
	c.order = slices.DeleteFunc(c.order, func(other cluster.PeerID) bool { return other == id })
	return keys
}

func (c *crowd) holdings(context.Context) (map[cluster.PeerID]Holding, error) {
	all := map[cluster.PeerID]Holding{}
	for id, p := range c.peers {
		if !p.away {
			all[id] = Holding{List: p.list, Keys: p.Prints()}
		}
	}
	return all, nil
}

// leader is the rotation as a peer that has just begun to lead does it.
func (c *crowd) leader() *Rotation {
	return &Rotation{Root: c.r.client, Holdings: c.holdings, Log: c.r.logger()}
}

// hears lets a peer read the list of whom the cluster trusts.
func (c *crowd) hears(p *gossiper) {
	c.t.Helper()
	_, list, err := loadList(c.t.Context(), c.r.client)
	if err != nil {
		c.t.Fatal(err)
	}
	p.list = list.Epoch
}

// follow lets a peer read the keys.
func (c *crowd) follow(p *gossiper) {
	c.t.Helper()
	if _, err := p.Refresh(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	if !slices.Equal(p.ring, p.saved) {
		c.t.Error("a peer uses other keys than it has stored")
	}
}

// understood fails unless all that are up open what each of them seals.
func (c *crowd) understood(when string) {
	c.t.Helper()
	for a, p := range c.peers {
		for b, q := range c.peers {
			if !p.away && !q.away && !slices.Contains(q.ring, p.ring[0]) {
				c.t.Fatalf("%s: %v does not open what %v seals", when, b, a)
			}
		}
	}
}

// settled says whether all that are up have one key, the same.
func (c *crowd) settled() (key membership.Key, ok bool) {
	for _, p := range c.peers {
		if p.away {
			continue
		}
		if len(p.ring) != 1 || key != (membership.Key{}) && p.ring[0] != key {
			return key, false
		}
		key = p.ring[0]
	}
	return key, true
}

// TestTheGossipKeyRotatesWhenAPeerIsRemoved makes rotations with the steps of leader and peers in any order, leaders that
// die before and after each of theirs, peers that sleep through it, and a second removal in the middle.
func TestTheGossipKeyRotatesWhenAPeerIsRemoved(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			c := newCrowd(t, 6)
			for range 3 { // nobody was removed: nothing happens
				if stepped, err := c.leader().Step(t.Context()); stepped || err != nil {
					t.Fatalf("a step without a reason: %v", err)
				}
			}
			known := c.remove(c.order[5])
			sleeper := c.peers[c.order[4]]
			sleeper.away = true
			again := -1
			if seed%2 == 1 {
				again = 5 + random.IntN(20)
			}
			leader := c.leader()
			begun := false
			for i := range 400 {
				if i == again {
					known = append(known, c.remove(c.order[3])...)
				}
				id := c.order[random.IntN(len(c.order))]
				switch what := random.IntN(4); {
				case what == 0 && !c.peers[id].away:
					c.hears(c.peers[id])
				case what == 1 && !c.peers[id].away:
					c.follow(c.peers[id])
				case what == 2:
					stepped, err := leader.Step(t.Context())
					if errors.Is(err, raft.ErrStopped) {
						t.Fatal(err)
					}
					begun = begun || stepped
				case what == 3:
					c.dies(random.IntN(2) == 0)
					leader = c.leader()
				}
				c.understood(fmt.Sprint("after ", i))
				if key, ok := c.settled(); ok && begun && i > again && !slices.Contains(known, key) && c.done() {
					break
				}
			}
			key, ok := c.settled()
			if !ok || !c.done() || slices.Contains(known, key) {
				t.Fatalf("the rotation did not end, or with a key that a removed peer knows: %v", ok)
			}
			// Who slept opens nothing that the others seal, until it has read the row.
			sleeper.away = false
			if slices.Contains(sleeper.ring, key) {
				t.Fatal("the sleeping peer has the new key")
			}
			back := c.started(sleeper.saved)
			c.peers[c.order[len(c.order)-1]] = back
			c.follow(back)
			c.understood("when it is back")
			c.hears(back)
			if stepped, err := c.leader().Step(t.Context()); stepped || err != nil {
				t.Errorf("one more step: %v", err)
			}
		})
	}
}

// done says whether no rotation is due.
func (c *crowd) done() bool {
	rows, err := c.leader().load(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return rows.state.turn == settled && rows.list.Epoch == rows.state.list
}

// dies lets a leader try a step and not hear what came of it: the command was made, or not.
func (c *crowd) dies(made bool) {
	c.t.Helper()
	if !made {
		c.r.group.stopped.Store(true)
		defer c.r.group.stopped.Store(false)
	}
	lost := func(context.Context, []byte) error { return raft.ErrStopped }
	c.r.group.after.Store(&lost)
	defer c.r.group.after.Store(nil)
	if stepped, _ := c.leader().Step(c.t.Context()); stepped {
		c.t.Error("a leader that died heard of its step")
	}
}

// TestTheNewKeyWaitsUntilTheRemovedPeerIsRefused: it could read the row otherwise.
func TestTheNewKeyWaitsUntilTheRemovedPeerIsRefused(t *testing.T) {
	c := newCrowd(t, 3)
	c.remove(c.order[2])
	for i, id := range c.order {
		if stepped, err := c.leader().Step(t.Context()); stepped || err == nil {
			t.Fatalf("%d of 2 refuse it, and a key was made: %v", i, err)
		}
		if _, keys, err := loadGossip(t.Context(), c.r.client); err != nil || len(keys) != 1 {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		c.hears(c.peers[id])
	}
	if stepped, err := c.leader().Step(t.Context()); !stepped || err != nil {
		t.Errorf("when all refuse it: %v", err)
	}
	failing := c.leader()
	failing.Holdings = func(context.Context) (map[cluster.PeerID]Holding, error) { return nil, errBroken }
	if stepped, err := failing.Step(t.Context()); stepped || !errors.Is(err, errBroken) {
		t.Errorf("when somebody does not answer: %v", err)
	}
}

// TestWorkersRotateByThemselves runs the workers in simulated time: a removal is all that is done.
func TestWorkersRotateByThemselves(t *testing.T) {
	c := newCrowd(t, 4)
	keys := c.remove(c.order[3])
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		run := func(work func(context.Context) error) { go func() { ended <- work(ctx) }() }
		for _, p := range c.peers {
			c.hears(p)
			run(p.Run)
		}
		run(c.leader().Run)
		run(c.leader().Run) // two lead for a while
		time.Sleep(time.Minute)
		synctest.Wait()
		if key, ok := c.settled(); !ok || slices.Contains(keys, key) {
			t.Errorf("after a minute: %v", ok)
		}
		cancel()
		for range len(c.peers) + 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestARotationThatWaitsForLongIsToldOnce: one of two that are up does not hear for long that a peer was removed.
func TestARotationThatWaitsForLongIsToldOnce(t *testing.T) {
	c := newCrowd(t, 3)
	keys := c.remove(c.order[2])
	late := c.order[1]
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		run := func(work func(context.Context) error) { go func() { ended <- work(ctx) }() }
		c.hears(c.peers[c.order[0]])
		for _, p := range c.peers {
			run(p.Run)
		}
		leader := c.leader()
		var hearing sync.Mutex
		leader.Holdings = func(ctx context.Context) (map[cluster.PeerID]Holding, error) {
			hearing.Lock()
			defer hearing.Unlock()
			return c.holdings(ctx)
		}
		run(leader.Run)
		told := func(when string, want int) {
			t.Helper()
			time.Sleep(rotationPatience - rotationEvery)
			synctest.Wait()
			if got := strings.Count(c.r.log.String(), "level=WARN"); got != want {
				t.Errorf("%s it is told %d times: %s", when, got, &c.r.log)
			}
		}
		told("at first", 0)
		told("later", 1)
		told("much later", 1)
		if text := c.r.log.String(); !strings.Contains(text, late.String()) {
			t.Errorf("it does not say who is waited for: %s", text)
		}
		hearing.Lock()
		c.hears(c.peers[late])
		hearing.Unlock()
		told("when it has heard", 1)
		if key, ok := c.settled(); !ok || slices.Contains(keys, key) {
			t.Errorf("the key was not rotated: %v", ok)
		}
		cancel()
		for range len(c.peers) + 1 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestKeysThatCannotBeKeptAreToldOnce: storing them fails, then it works, then using them fails.
func TestKeysThatCannotBeKeptAreToldOnce(t *testing.T) {
	c := newCrowd(t, 1)
	p := c.peers[c.order[0]]
	var broken atomic.Value // what fails now
	broken.Store("")
	failing := func(what string, then func([]membership.Key) error) func([]membership.Key) error {
		return func(keys []membership.Key) error {
			if broken.Load() == what {
				return errBroken
			}
			return then(keys)
		}
	}
	p.Save, p.Use = failing("save", p.Save), failing("use", p.Use)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		for i, what := range []string{"save", "use"} {
			broken.Store(what)
			row, _, err := loadGossip(t.Context(), c.r.client)
			if err == nil {
				row.Value = marshalGossip([]membership.Key{NewGossipKey()})
				_, err = c.r.client.PutRow(t.Context(), row)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * rotationEvery)
			synctest.Wait()
			if got := strings.Count(c.r.log.String(), "level=WARN"); got != i+1 {
				t.Errorf("it is told %d times: %s", got, &c.r.log)
			}
			broken.Store("")
			time.Sleep(2 * rotationEvery)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestTheStateOfARotationIsReadBackOrRefused(t *testing.T) {
	for _, state := range []rotation{{settled, 0}, {spreading, 7}, {using, 1<<64 - 1}} {
		if again, err := parseRotation(state.marshal()); err != nil || again != state {
			t.Errorf("%+v is read as %+v: %v", state, again, err)
		}
	}
	good := rotation{spreading, 7}.marshal()
	for name, bad := range map[string][]byte{
		"nothing": nil, "a part": good[:len(good)-1], "more": append(bytes.Clone(good), 0), "another format": append([]byte("HFGOSRT2"), good[8:]...),
		"another turn": rotation{using + 1, 7}.marshal(), "a flipped bit": append(bytes.Clone(good[:9]), append([]byte{good[9] ^ 1}, good[10:]...)...),
	} {
		if _, err := parseRotation(bad); !errors.Is(err, ErrBadRotation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRealm(t, tcp)
	if _, err := r.client.PutRow(t.Context(), root.Row{Kind: root.Cluster, Name: rotationName, Value: good}); err != nil {
		t.Fatal(err)
	}
	lonely := &Rotation{Root: r.client}
	if _, err := lonely.Step(t.Context()); !errors.Is(err, ErrBadRotation) {
		t.Errorf("a rotation with one key: %v", err)
	}
}

func FuzzRotation(f *testing.F) {
	f.Add(rotation{spreading, 7}.marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := sha256.Sum256(data)
		for _, b := range [][]byte{data, append(bytes.Clone(data), sum[:]...)} {
			if r, err := parseRotation(b); err == nil && !bytes.Equal(r.marshal(), b) {
				t.Errorf("%x is read as %+v", b, r)
			}
		}
	})
}
