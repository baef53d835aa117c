package replicas

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
)

// world is a cluster as far as Plan sees it: steps change it at once.
type world struct {
	t       *testing.T
	random  *rand.Rand
	view    View
	set     Settings
	next    uint64
	slow    map[uint64]int // steps until a learner has caught up
	history []string
}

func newWorld(t *testing.T, seed uint64, set Settings) *world {
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 1)), set: set, slow: map[uint64]int{}}
	w.view = View{Now: time.Unix(1e9, 0), Map: &topology.Map{Epoch: 1}, Group: 2, Unreachable: map[cluster.PeerID]time.Time{}, Failed: map[cluster.PeerID]bool{}}
	w.join("a", "")
	w.view.Members, w.view.Leader = []Replica{{ID: 1, Voter: true}}, 1
	return w
}

func (w *world) join(zone, rack string) topology.Peer {
	n := uint16(len(w.view.Map.Peers) + 1)
	p := topology.Peer{ID: cluster.PeerID{byte(n)}, Number: n, Name: fmt.Sprint("p", n), Zone: zone, Rack: rack, State: topology.Active}
	w.view.Map.Peers = append(w.view.Map.Peers, p)
	return p
}

func (w *world) peerOf(replica uint64) *topology.Peer {
	return &w.view.Map.Peers[PeerNumber(replica)-1]
}

func (w *world) reaches(p *topology.Peer) bool {
	_, away := w.view.Unreachable[p.ID]
	return !away
}

// votes counts the voters, and those that can be reached.
func (w *world) votes() (all, reachable int) {
	for _, m := range w.view.Members {
		if m.Voter {
			all++
			if w.reaches(w.peerOf(m.ID)) && !m.Lost {
				reachable++
			}
		}
	}
	return all, reachable
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.history {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// members are the replicas as text.
func (w *world) members() (list []string) {
	for _, m := range w.view.Members {
		kind := "learner"
		if m.Voter {
			kind = "voter"
		}
		list = append(list, fmt.Sprintf("%s %x", kind, m.ID))
	}
	return list
}

func (w *world) note(format string, args ...any) {
	w.history = append(w.history, fmt.Sprintf(format, args...))
}

// elect makes a leader when the one that was cannot lead.
func (w *world) elect() bool {
	all, reachable := w.votes()
	if reachable < majority(all) {
		return false
	}
	var can []uint64
	for _, m := range w.view.Members {
		if m.Voter && w.reaches(w.peerOf(m.ID)) && !m.Lost {
			can = append(can, m.ID)
		}
	}
	if !slices.Contains(can, w.view.Leader) {
		w.view.Leader = can[w.random.IntN(len(can))]
	}
	return true
}

// run carries out steps until there are none, most at most, and checks every one.
func (w *world) run(most int) (done bool) {
	w.t.Helper()
	added, removed := map[uint16]bool{}, map[uint16]bool{}
	for range most {
		if !w.elect() {
			return true
		}
		for i := range w.view.Members {
			m := &w.view.Members[i]
			if !m.Voter && w.reaches(w.peerOf(m.ID)) && !m.Lost {
				w.slow[m.ID]--
				m.CaughtUp = w.slow[m.ID] < 0
			}
		}
		step := Plan(w.view, w.set)
		if step.Kind == None {
			if slices.ContainsFunc(w.view.Members, func(m Replica) bool { return !m.Voter && !m.CaughtUp && !m.Lost && w.reaches(w.peerOf(m.ID)) }) {
				continue
			}
			return true
		}
		w.note("%v peer %v replica %x: %s; members %+v, leader %x", step.Kind, step.Peer[0], step.Replica, step.Why, w.members(), w.view.Leader)
		lost := slices.ContainsFunc(w.view.Members, func(m Replica) bool { return m.ID == step.Replica && m.Lost })
		w.apply(step)
		number := uint16(step.Peer[0])
		switch step.Kind {
		case Add:
			added[number] = true
		case Remove:
			removed[number] = !lost || removed[number]
		}
		if added[number] && removed[number] {
			w.fatal("peer %d was added and removed while nothing changed", number)
		}
	}
	return false
}

func (w *world) apply(step Step) {
	w.t.Helper()
	all, reachable := w.votes()
	if reachable < majority(all) {
		w.fatal("%v without a majority", step.Kind)
	}
	at := slices.IndexFunc(w.view.Members, func(m Replica) bool { return m.ID == step.Replica })
	switch step.Kind {
	case Add:
		p := w.peerOf(uint64(step.Peer[0]))
		if p.State != topology.Active || !w.reaches(p) {
			w.fatal("a replica on a peer that is %s", p.State)
		}
		if slices.ContainsFunc(w.view.Members, func(m Replica) bool { return PeerNumber(m.ID) == p.Number && !m.Lost }) {
			w.fatal("two replicas on peer %d", p.Number)
		}
		w.next++
		id := ReplicaID(w.next, p.Number)
		w.view.Members = append(w.view.Members, Replica{ID: id, Since: w.view.Now})
		w.slow[id] = w.random.IntN(3)
	case Promote:
		if m := w.view.Members[at]; m.Voter || !m.CaughtUp {
			w.fatal("promote %+v", m)
		}
		w.view.Members[at].Voter = true
	case Transfer:
		if m := w.view.Members[at]; !m.Voter || !w.reaches(w.peerOf(m.ID)) || w.peerOf(m.ID).State != topology.Active {
			w.fatal("leadership for %+v", m)
		}
		w.view.Leader = step.Replica
	case Remove:
		if step.Replica == w.view.Leader {
			w.fatal("the leader is removed")
		}
		if w.view.Members[at].Voter && all%2 == 1 && all <= w.size() {
			w.fatal("a voter is removed before another is there")
		}
		if m := w.view.Members[at]; !m.Voter && !m.CaughtUp && w.view.Now.Sub(m.Since) >= 30*time.Minute {
			w.view.Failed[step.Peer] = true
		}
		w.view.Members = slices.Delete(w.view.Members, at, at+1)
	default:
		w.fatal("step %v", step.Kind)
	}
	if all, reachable = w.votes(); reachable < majority(all) {
		w.fatal("no majority after %v", step.Kind)
	}
}

// pool are the peers that can have voters; those with a down voter apart.
func (w *world) pool() (fit, unready, gone []topology.Peer) {
	for _, p := range w.view.Map.Peers {
		if p.State != topology.Active {
			continue
		}
		since, away := w.view.Unreachable[p.ID]
		away10 := away && w.view.Now.Sub(since) >= 10*time.Minute
		voter := slices.ContainsFunc(w.view.Members, func(m Replica) bool { return m.Voter && PeerNumber(m.ID) == p.Number && !m.Lost })
		member := slices.ContainsFunc(w.view.Members, func(m Replica) bool { return PeerNumber(m.ID) == p.Number && !m.Lost })
		switch {
		case away10 && voter:
			gone = append(gone, p)
		case away10:
		case away && !member:
			unready = append(unready, p)
		default:
			fit = append(fit, p)
		}
	}
	return fit, unready, gone
}

func (w *world) size() int {
	fit, unready, gone := w.pool()
	active := 0
	for _, p := range w.view.Map.Peers {
		if p.State == topology.Active {
			active++
		}
	}
	return min(w.set.Target(w.view.Group, active), odd(len(fit)+len(unready)+len(gone)))
}

// evenness is what choose minimises, for one choice.
func evenness(peers []topology.Peer) [2]int {
	zones, racks := map[string]int{}, map[[2]string]int{}
	for _, p := range peers {
		zones[p.Zone]++
		racks[rackOf(p)]++
	}
	var sum [2]int
	for _, n := range zones {
		sum[0] += n * n
	}
	for _, n := range racks {
		sum[1] += n * n
	}
	return sum
}

// best tries all choices of n of the pool that include all of must.
func best(must, pool []topology.Peer, n int) [2]int {
	least := [2]int{math.MaxInt, math.MaxInt}
	var try func(chosen, left []topology.Peer)
	try = func(chosen, left []topology.Peer) {
		if len(chosen) == n {
			if e := evenness(chosen); slices.Compare(e[:], least[:]) < 0 {
				least = e
			}
			return
		}
		for i := range left {
			if len(left)-i < n-len(chosen) {
				return
			}
			try(append(slices.Clip(chosen), left[i]), left[i+1:])
		}
	}
	try(must, pool)
	return least
}

// begin is a leader that knows of no failures.
func (w *world) begin() {
	clear(w.view.Failed)
	for i := range w.view.Members {
		w.view.Members[i].Since = w.view.Now
	}
}

// wantBest checks the end of a run: as many voters as there should be, spread as well as the peers allow.
func (w *world) wantBest() (checked bool) {
	w.t.Helper()
	all, reachable := w.votes()
	if reachable < majority(all) {
		return false
	}
	size := w.size()
	fit, unready, gone := w.pool()
	if len(unready) > 0 || len(fit)+len(gone) == 0 {
		return false
	}
	if all > size && all%2 == 1 && reachable == majority(all) {
		return false // nobody may go while others are away
	}
	if all != size || len(w.view.Members) != all {
		w.fatal("%d voters and %d learners, want %d", all, len(w.view.Members)-all, size)
	}
	must, pool := []topology.Peer(nil), fit
	if len(fit) < size {
		must, pool = fit, gone
	}
	var have []topology.Peer
	for _, m := range w.view.Members {
		have = append(have, *w.peerOf(m.ID))
	}
	if got, want := evenness(have), best(must, pool, size); got != want {
		w.fatal("evenness %v, the best is %v", got, want)
	}
	return true
}

// change does one thing to the peers.
func (w *world) change() {
	peers := w.view.Map.Peers
	p := &peers[w.random.IntN(len(peers))]
	// Most of the time those who go leave a majority.
	may := func() bool {
		all, reachable := w.votes()
		voter := slices.ContainsFunc(w.view.Members, func(m Replica) bool { return m.Voter && PeerNumber(m.ID) == p.Number && !m.Lost })
		return !voter || reachable > majority(all) || w.random.IntN(20) == 0
	}
	switch w.random.IntN(9) {
	case 0, 1:
		if len(peers) < 14 {
			n := w.join(fmt.Sprintf("%c", 'a'+w.random.IntN(4)), fmt.Sprint(w.random.IntN(3)))
			w.note("peer %d joins in %s/%s", n.Number, n.Zone, n.Rack)
		}
	case 2:
		if p.State == topology.Active {
			p.State = topology.Draining
			w.note("peer %d drains", p.Number)
		}
	case 3:
		if p.State == topology.Draining {
			p.State = topology.Active
			w.note("peer %d is active again", p.Number)
		}
	case 4:
		if w.random.IntN(3) == 0 && may() {
			p.State = topology.Removed
			w.view.Unreachable[p.ID] = w.view.Now
			w.note("peer %d is removed", p.Number)
		}
	case 5:
		if w.reaches(p) && may() {
			w.view.Unreachable[p.ID] = w.view.Now
			w.note("peer %d is away", p.Number)
		}
	case 6:
		if p.State != topology.Removed {
			delete(w.view.Unreachable, p.ID)
			w.note("peer %d is back", p.Number)
		}
	case 7:
		w.view.Now = w.view.Now.Add(time.Duration(w.random.IntN(8)) * time.Minute)
		w.note("it is %s", w.view.Now.Format(time.TimeOnly))
	case 8:
		if w.random.IntN(2) == 0 && w.reaches(p) && may() {
			w.wipe(p)
		}
	}
}

// wipe lets a peer lose the replica that it holds.
func (w *world) wipe(p *topology.Peer) {
	for i := range w.view.Members {
		if m := &w.view.Members[i]; PeerNumber(m.ID) == p.Number && !m.Lost {
			m.Lost = true
			w.note("peer %d loses replica %x", p.Number, m.ID)
		}
	}
}

// TestPlansConverge lets peers come, go, drain, die and return at random, and carries out what Plan says: each step keeps
// a majority of reachable voters, none undoes another, and the end is the best that the peers allow.
func TestPlansConverge(t *testing.T) {
	t.Parallel()
	count := uint64(5000)
	if testing.Short() {
		count = 1000
	}
	checked, blocked := 0, 0
	for seed := range count {
		set := Settings{}
		if seed%3 == 1 {
			set.Voters = 1 + int(seed/3%9)
		}
		w := newWorld(t, seed, set)
		for range 5 + w.random.IntN(30) {
			w.change()
			if w.random.IntN(3) == 0 {
				if !w.run(300) {
					w.fatal("seed %d: it does not end", seed)
				}
			} else {
				w.run(w.random.IntN(4))
			}
		}
		// Who is away stays away.
		w.view.Now = w.view.Now.Add(time.Hour)
		w.begin()
		w.note("an hour later")
		if !w.run(300) {
			w.fatal("seed %d: it does not end", seed)
		}
		if w.wantBest() {
			checked++
		} else {
			blocked++
		}
		// All come back.
		for _, p := range w.view.Map.Peers {
			if p.State != topology.Removed {
				delete(w.view.Unreachable, p.ID)
			}
		}
		w.begin()
		w.note("all are back")
		if !w.run(300) {
			w.fatal("seed %d: it does not end", seed)
		}
		w.wantBest()
	}
	t.Logf("%d ends were the best, %d had no majority or nobody to spare", checked, blocked)
	if checked < int(count)/2 || blocked == 0 {
		t.Error("the runs do not show what they should")
	}
}

// TestChooseIsExact compares choose with all choices there are.
func TestChooseIsExact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(t, seed, Settings{})
		for range random.IntN(9) {
			w.join(fmt.Sprintf("%c", 'a'+random.IntN(3)), fmt.Sprint(random.IntN(3)))
		}
		var candidates []candidate
		voters := map[uint16]bool{}
		for _, p := range w.view.Map.Peers {
			c := candidate{peer: p, voter: random.IntN(2) == 0}
			voters[p.Number] = c.voter
			candidates = append(candidates, c)
		}
		n := 1 + random.IntN(len(candidates))
		kept := func(peers []topology.Peer) (count int) {
			for _, p := range peers {
				if voters[p.Number] {
					count++
				}
			}
			return count
		}
		cost := func(peers []topology.Peer) [3]int {
			e := evenness(peers)
			return [3]int{e[0], e[1], -kept(peers)}
		}
		least := [3]int{math.MaxInt}
		for set := range 1 << len(candidates) {
			var peers []topology.Peer
			for i, c := range candidates {
				if set>>i&1 == 1 {
					peers = append(peers, c.peer)
				}
			}
			if c := cost(peers); len(peers) == n && slices.Compare(c[:], least[:]) < 0 {
				least = c
			}
		}
		var got []topology.Peer
		for _, c := range choose(candidates, n) {
			got = append(got, c.peer)
		}
		if cost(got) != least {
			t.Fatalf("seed %d: %d of %d: cost %v, the least is %v", seed, n, len(candidates), cost(got), least)
		}
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		set          Settings
		active       int
		tablet, root int
	}{
		{Settings{}, 0, 1, 1}, {Settings{}, 1, 1, 1}, {Settings{}, 2, 1, 1}, {Settings{}, 3, 3, 3}, {Settings{}, 4, 3, 3},
		{Settings{}, 5, 5, 5}, {Settings{}, 40, 5, 5}, {Settings{RootVoters: 9}, 12, 5, 9}, {Settings{RootVoters: 9}, 8, 5, 7},
		{Settings{Voters: 9}, 9, 9, 5}, {Settings{Voters: 4}, 12, 3, 5}, {Settings{Voters: 2}, 12, 1, 5}, {Settings{Voters: 1}, 12, 1, 5},
		{Settings{Voters: 11, RootVoters: 99}, 50, 9, 9}, {Settings{Voters: 3}, 2, 1, 1},
	} {
		if got := test.set.Target(2, test.active); got != test.tablet {
			t.Errorf("%+v with %d peers: %d voters, want %d", test.set, test.active, got, test.tablet)
		}
		if got := test.set.Target(RootGroup, test.active); got != test.root {
			t.Errorf("%+v with %d peers: %d voters of the root group, want %d", test.set, test.active, got, test.root)
		}
	}
}

func TestToleratedLossesAreTheWorstCase(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		zones string // of the voters; capital: unreachable
		want  Losses
	}{
		{"a", Losses{0, 0}}, {"ab", Losses{0, 0}}, {"abc", Losses{1, 1}}, {"aab", Losses{1, 0}}, {"aaa", Losses{1, 0}},
		{"abcde", Losses{2, 2}}, {"aabbc", Losses{2, 1}}, {"aaabb", Losses{2, 0}}, {"aabbcc", Losses{2, 1}},
		{"abC", Losses{0, 0}}, {"aBC", Losses{-1, -1}}, {"aabbC", Losses{1, 0}}, {"abcdeFg", Losses{2, 2}}, {"aabbccdde", Losses{4, 2}},
	} {
		var voters []topology.Peer
		for i, zone := range test.zones {
			voters = append(voters, topology.Peer{Number: uint16(i + 1), Zone: string(zone), State: topology.Active})
		}
		got := Tolerated(voters, func(p topology.Peer) bool { return p.Zone >= "a" })
		if got != test.want {
			t.Errorf("voters in %s: %+v, want %+v", test.zones, got, test.want)
		}
	}
}

// TestAPeerThatReturnsInTimeChangesNothing keeps a voter's peer away for as long as may be.
func TestAPeerThatReturnsInTimeChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, Settings{})
	for range 3 {
		w.join("a", "")
	}
	if !w.run(100) || !w.wantBest() {
		t.Fatal("it does not begin well")
	}
	before := slices.Clone(w.view.Members)
	var away cluster.PeerID
	for _, m := range before {
		if m.ID != w.view.Leader {
			away = w.peerOf(m.ID).ID
		}
	}
	w.view.Unreachable[away] = w.view.Now
	w.view.Now = w.view.Now.Add(10*time.Minute - time.Nanosecond)
	if step := Plan(w.view, w.set); step.Kind != None {
		t.Fatalf("after less than 10 minutes: %+v", step)
	}
	w.view.Now = w.view.Now.Add(time.Nanosecond)
	if step := Plan(w.view, w.set); step.Kind != Add {
		t.Fatalf("after 10 minutes: %+v", step)
	}
	delete(w.view.Unreachable, away)
	if step := Plan(w.view, w.set); step.Kind != None || !slices.Equal(w.view.Members, before) {
		t.Fatalf("when it is back: %+v", step)
	}
}

// TestALearnerThatDoesNotCatchUpIsGivenUp has one learner that never does, with another peer to try and without.
func TestALearnerThatDoesNotCatchUpIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, spare := range []bool{true, false} {
		w := newWorld(t, 1, Settings{})
		w.join("b", "")
		w.join("c", "")
		if spare {
			w.join("d", "")
		}
		w.view.Members = append(w.view.Members, Replica{ID: 0x10002, Since: w.view.Now}, Replica{ID: 0x20003, CaughtUp: true, Since: w.view.Now})
		w.view.Now = w.view.Now.Add(30*time.Minute - 1)
		if step := Plan(w.view, w.set); step.Kind != None {
			t.Fatalf("in its time: %+v", step)
		}
		w.view.Now = w.view.Now.Add(1)
		if step := Plan(w.view, w.set); step.Kind != Remove || step.Replica != 0x10002 {
			t.Fatalf("after its time: %+v", step)
		}
		w.view.Members = slices.Delete(w.view.Members, 1, 2)
		w.view.Failed = map[cluster.PeerID]bool{{2}: true}
		step := Plan(w.view, w.set)
		if want := (Step{Kind: Add, Peer: cluster.PeerID{4}}); spare && (step.Kind != want.Kind || step.Peer != want.Peer) {
			t.Fatalf("with a spare: %+v", step)
		}
		if !spare && step.Kind != None {
			t.Fatalf("without a spare: %+v", step)
		}
		w.view.Failed = nil
		if step := Plan(w.view, w.set); !spare && (step.Kind != Add || step.Peer != cluster.PeerID{2}) {
			t.Fatalf("when it may be tried again: %+v", step)
		}
	}
}

// TestAnOldMapChangesNothing has a member that the map does not know.
func TestAnOldMapChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, Settings{})
	w.view.Map.Peers[0].State = topology.Draining
	w.join("a", "")
	w.view.Members = append(w.view.Members, Replica{ID: 0x10002, Voter: true})
	if step := Plan(w.view, w.set); step.Kind != Transfer {
		t.Fatalf("with a new map: %+v", step)
	}
	w.view.Members = append(w.view.Members, Replica{ID: 0x20003, Voter: true})
	if step := Plan(w.view, w.set); step.Kind != None {
		t.Fatalf("with an old map: %+v", step)
	}
}

// TestLeadersAreSpread has two groups led by one of three peers.
func TestLeadersAreSpread(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, Settings{})
	for range 3 {
		w.join("a", "")
	}
	if !w.run(100) || w.view.Leader != 1 {
		t.Fatal("it does not begin well")
	}
	w.view.Elected, w.view.Leads = w.view.Now, map[cluster.PeerID]int{{1}: 2, {2}: 1, {3}: 0}
	want := func(when string, kind Kind, peer byte) {
		t.Helper()
		step := Plan(w.view, w.set)
		if step.Kind != kind || kind != None && step.Peer != (cluster.PeerID{peer}) {
			t.Errorf("%s: %+v, want %v to peer %d", when, step, kind, peer)
		}
	}
	want("just elected", None, 0)
	w.view.Now = w.view.Now.Add(30 * time.Second)
	want("settled", Spread, 3)
	w.view.Spread = w.view.Now.Add(-5*time.Minute + 1)
	want("less than 5 minutes after the last", None, 0)
	w.view.Now = w.view.Now.Add(1)
	want("5 minutes after the last", Spread, 3)
	w.view.Unreachable[cluster.PeerID{3}] = w.view.Now
	want("the least loaded is away", None, 0)
	delete(w.view.Unreachable, cluster.PeerID{3})
	w.view.Unreachable[cluster.PeerID{2}] = w.view.Now
	want("another voter is away", None, 0)
	delete(w.view.Unreachable, cluster.PeerID{2})
	w.view.Members[1].Lost = true
	if step := Plan(w.view, w.set); step.Kind == Spread {
		t.Errorf("a voter is lost: %+v", step)
	}
	w.view.Members[1].Lost = false
	delete(w.view.Leads, cluster.PeerID{3})
	want("nothing is known of the least loaded", None, 0)
	w.view.Leads[cluster.PeerID{3}], w.view.Leads[cluster.PeerID{1}] = 0, 1
	want("it would only swap", None, 0)
	w.view.Map.Peers[0].State = topology.Draining
	want("draining", Transfer, 3)
	w.view.Failed = map[cluster.PeerID]bool{{3}: true}
	want("draining, and the first does not take it", Transfer, 2)
}

// TestWhoLeavesGoesFirst has more to do than one thing.
func TestWhoLeavesGoesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, Settings{})
	for range 4 {
		w.join("a", "")
	}
	if !w.run(100) {
		t.Fatal("it does not end")
	}
	order := func(a, b Replica) int { return cmp.Compare(PeerNumber(a.ID), PeerNumber(b.ID)) }
	slices.SortFunc(w.view.Members, order)
	w.join("b", "")
	w.join("c", "")
	w.view.Map.Peers[2].State = topology.Draining // peer 3
	if !w.run(4 + 2) {                            // two steps pass while a learner catches up
		t.Log("more is to be done")
	}
	if slices.ContainsFunc(w.view.Members, func(m Replica) bool { return PeerNumber(m.ID) == 3 }) {
		w.fatal("the draining peer still has a voter")
	}
	if !w.run(100) || !w.wantBest() {
		w.fatal("it does not end well")
	}
}
