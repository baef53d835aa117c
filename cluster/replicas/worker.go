package replicas

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/worker"
)

const (
	// defaultEvery is how often a Worker looks at its groups.
	defaultEvery = time.Second
	// surveyEvery is how often a Worker asks all peers what they hold.
	surveyEvery = 30 * time.Second
	// callPatience bounds one call to a peer, and one change of a group.
	callPatience = 5 * time.Second
	// callsAtOnce bounds the peers that are asked at the same time.
	callsAtOnce = 8
	// createTries is how often a replica is created when the answer is lost; then another peer is tried.
	createTries = 3
	// refusedFor is how long a peer that could not be used is left alone.
	refusedFor = time.Minute
	// lingers is how long a replica that was taken out of its group stays on its peer: 25 heartbeats. As long as followers
	// do not know that it is out, they need its vote to elect another leader.
	lingers = 5 * time.Second
	// stepsAtOnce bounds the steps of one group until the others have their turn: a group with an even number of voters
	// must not wait for long.
	stepsAtOnce = 8
)

// Config says what a Worker works with.
type Config struct {
	// Host is that of this peer, Self.
	Host *raft.Host
	Self cluster.PeerID
	// Map is the newest topology. It must not block.
	Map func() topology.Map
	// Reachable tells whether a peer is, and since when. It is not asked for this one, and must not block.
	Reachable func(cluster.PeerID) (reachable bool, since time.Time)
	// Generation gives out a number for a replica's id that it never gives out again, and each time a higher one: root.Any.
	Generation func(context.Context) (uint64, error)
	Peers      Peers
	// Settings are asked for at every look. Nil means the defaults.
	Settings func() Settings
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Every is how often the Worker looks, about. Zero means 1 s.
	Every time.Duration
	// Log hears what is done. Nil means silence.
	Log *slog.Logger
}

// Worker carries out what Plan says for every group that this peer leads. Make it with New.
type Worker struct {
	config Config

	mu sync.Mutex // held while it works: two at once would break the reasoning of the package's doc
	// began is when Run did. Nobody counts as unreachable from before.
	began time.Time
	led   map[raft.GroupID]*leadership
	// surveyed is when all peers were asked last; zero asks them at once. left and leads are what they said.
	surveyed time.Time
	left     map[raft.GroupID][]Leftover
	leads    map[cluster.PeerID]int
	// lost are members whose peers answered that they do not hold them. The map is replaced, never changed.
	lost atomic.Pointer[map[lostReplica]bool]
	// spread is when a leadership was last given away because others lead less.
	spread time.Time
}

// lostReplica names a member of a group.
type lostReplica struct {
	group   raft.GroupID
	replica uint64
}

// leadership is what is remembered of a group while this peer leads it in one term.
type leadership struct {
	term     uint64
	elected  time.Time
	learners map[uint64]time.Time         // since when they are known
	failed   map[cluster.PeerID]time.Time // until when they are left alone
	removed  map[uint64]time.Time         // when they were taken out
}

var _ worker.Worker = (*Worker)(nil)

// New makes a Worker.
func New(c Config) *Worker {
	if c.Settings == nil {
		c.Settings = func() Settings { return Settings{} }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Every = cmp.Or(c.Every, defaultEvery)
	w := &Worker{config: c}
	w.lost.Store(&map[lostReplica]bool{})
	return w
}

// Name implements worker.Worker.
func (w *Worker) Name() string { return "replicas" }

// Run implements worker.Worker.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began, w.led = w.config.Now(), map[raft.GroupID]*leadership{}
	w.surveyed, w.left, w.leads = time.Time{}, nil, nil
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		w.round(ctx)
		// Not in step with Raft's clock: right after it has asked its followers for a sign of life no learner has given one.
		timer.Reset(w.config.Every*3/4 + rand.N(w.config.Every/2))
	}
}

// round looks once at every group that this peer leads.
func (w *Worker) round(ctx context.Context) {
	hosted, err := HostedBy(w.config.Host)
	if err != nil {
		w.config.Log.Debug("replicas are not looked at", "err", err)
		return
	}
	own := map[raft.GroupID]uint64{}
	for _, h := range hosted {
		if h.Leads {
			own[h.Group] = h.Replica
		}
	}
	maps.DeleteFunc(w.led, func(g raft.GroupID, _ *leadership) bool { return own[g] == 0 })
	if len(own) == 0 {
		w.surveyed = time.Time{} // what was heard is of no use when this peer leads again
		return
	}
	m := w.config.Map()
	if now := w.config.Now(); now.Sub(w.surveyed) >= surveyEvery {
		w.surveyed = now
		w.survey(ctx, &m, own)
	}
	for _, group := range slices.Sorted(maps.Keys(own)) {
		for range stepsAtOnce {
			if again := w.tend(ctx, &m, group, own[group]); !again || ctx.Err() != nil {
				break
			}
		}
	}
}

// survey asks all peers what they hold.
func (w *Worker) survey(ctx context.Context, m *topology.Map, own map[raft.GroupID]uint64) {
	w.left, w.leads = map[raft.GroupID][]Leftover{}, map[cluster.PeerID]int{w.config.Self: len(own)}
	before, holds := w.membersOf(own), map[cluster.PeerID][]Hosted{}
	defer func() { w.lose(m, before, holds) }()
	var mu sync.Mutex // guards left, leads and holds while peers answer
	var wait sync.WaitGroup
	slots := make(chan struct{}, callsAtOnce)
	for _, peer := range m.Members() {
		if _, away := w.away(peer.ID); away || peer.ID == w.config.Self {
			continue
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			short, cancel := context.WithTimeout(ctx, callPatience)
			defer cancel()
			list, err := w.config.Peers.List(short, peer.ID)
			if err != nil {
				w.config.Log.Debug("a peer does not tell its replicas", "peer", peer.ID.String(), "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			w.leads[peer.ID], holds[peer.ID] = 0, list
			for _, h := range list {
				if h.Leads {
					w.leads[peer.ID]++
				}
				if own[h.Group] != 0 && PeerNumber(h.Replica) == peer.Number {
					w.left[h.Group] = append(w.left[h.Group], Leftover{Peer: peer.ID, Replica: h.Replica})
				}
			}
		})
	}
	wait.Wait()
}

// membersOf are the replicas of the groups that this peer leads, as of what is applied here.
func (w *Worker) membersOf(own map[raft.GroupID]uint64) (list []lostReplica) {
	for group := range own {
		member := w.config.Host.Group(group)
		if member == nil {
			continue
		}
		voters, learners := member.Members()
		for _, replica := range slices.Concat(voters, learners) {
			list = append(list, lostReplica{group, replica})
		}
	}
	return list
}

// lose notes which of the replicas that were members before peers were asked none of them holds where it should be: see the
// package's doc. What is lost stays so while its peer is silent.
func (w *Worker) lose(m *topology.Map, before []lostReplica, holds map[cluster.PeerID][]Hosted) {
	known, lost := *w.lost.Load(), map[lostReplica]bool{}
	for _, r := range before {
		peer, ok := m.ByNumber(PeerNumber(r.replica))
		if !ok {
			continue
		}
		list, answered := holds[peer.ID]
		held := slices.ContainsFunc(list, func(h Hosted) bool { return h.Group == r.group && h.Replica == r.replica })
		switch {
		case held || !answered && !known[r]:
			continue
		case !known[r]:
			w.config.Log.Warn("a peer has lost its replica", "peer", peer.ID.String(), "group", uint64(r.group), "replica", r.replica)
		}
		lost[r] = true
	}
	w.lost.Store(&lost)
}

// away tells since when a peer is unreachable, but not from before this worker began: another's time is not known here.
func (w *Worker) away(peer cluster.PeerID) (since time.Time, away bool) {
	if peer == w.config.Self {
		return time.Time{}, false
	}
	reachable, since := w.config.Reachable(peer)
	if since.Before(w.began) {
		since = w.began
	}
	return since, !reachable
}

// tend makes the next step of a group that this peer leads. again says that another may follow at once.
func (w *Worker) tend(ctx context.Context, m *topology.Map, group raft.GroupID, own uint64) (again bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*callPatience)
	defer cancel()
	member := w.config.Host.Group(group)
	if member == nil {
		return false
	}
	// Most of the time there is nothing to do, which costs no message.
	leader := member.Leader()
	if leader.Replica != own || w.plan(ctx, m, member, own, leader.Term).Kind == None {
		return false
	}
	term, err := member.Barrier(ctx)
	if err != nil {
		w.config.Log.Debug("a group is not led now", "group", uint64(group), "err", err)
		return false
	}
	step := w.plan(ctx, m, member, own, term)
	if step.Kind == None {
		return false
	}
	err = w.carryOut(ctx, m, member, term, step)
	level := slog.LevelInfo
	if errors.Is(err, raft.ErrLearnerBehind) || errors.Is(err, raft.ErrChangeUnderWay) {
		level = slog.LevelDebug // it is asked again
	}
	w.config.Log.Log(ctx, level, "replicas", "group", uint64(group), "step", step.Kind.String(), "peer", step.Peer.String(),
		"replica", step.Replica, "why", step.Why, "err", err)
	return err == nil
}

// plan asks Plan.
func (w *Worker) plan(ctx context.Context, m *topology.Map, member raft.Member, own, term uint64) Step {
	now, group := w.config.Now(), member.ID()
	l := w.led[group]
	if l == nil || l.term != term {
		l = &leadership{
			term: term, elected: now, learners: map[uint64]time.Time{}, failed: map[cluster.PeerID]time.Time{}, removed: map[uint64]time.Time{},
		}
		w.led[group] = l
	}
	v := View{
		Now: now, Map: m, Group: group, Leader: own, Elected: l.elected, Leads: w.leads, Spread: w.spread,
		Unreachable: map[cluster.PeerID]time.Time{}, Failed: map[cluster.PeerID]bool{},
	}
	for _, peer := range m.Peers {
		if since, away := w.away(peer.ID); away {
			v.Unreachable[peer.ID] = since
		}
	}
	for peer, until := range l.failed {
		v.Failed[peer] = now.Before(until)
	}
	for _, left := range w.left[group] {
		known := now.Sub(l.elected) >= lingers && now.Sub(l.removed[left.Replica]) >= lingers
		if _, away := v.Unreachable[left.Peer]; !away && known {
			v.Left = append(v.Left, left)
		}
	}
	voters, learners := member.Members()
	lost := *w.lost.Load()
	for _, id := range voters {
		v.Members = append(v.Members, Replica{ID: id, Voter: true, Lost: id != own && lost[lostReplica{group, id}]})
	}
	for _, id := range learners {
		if l.learners[id].IsZero() {
			l.learners[id] = now
		}
		ready := w.config.Host.CaughtUp(ctx, group, id) == nil
		v.Members = append(v.Members, Replica{ID: id, CaughtUp: ready, Since: l.learners[id], Lost: lost[lostReplica{group, id}]})
	}
	return Plan(v, w.config.Settings())
}
