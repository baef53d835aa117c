package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// round is one fault of a run, from its beginning to its end.
type round struct {
	c      *cluster
	h      *history
	random *rand.Rand
	name   string
	// undo takes away what Heal does not.
	undo []func() error
	// fired are what must be so at the round's end.
	fired []func() error
	// handedOver is set once leadership went away and came back over a proposal that waited.
	handedOver bool
}

// fault hurts the cluster. Its hold says for how long.
type fault struct {
	name string
	do   func(r *round)
}

// faults are all that can happen. A run draws some of them; over 20 seeds each comes up.
var faults = []fault{
	{"leader isolated", func(r *round) { r.isolate(r.c.leader(r.random)) }},
	{"halves", func(r *round) {
		nodes := r.shuffled()
		r.partition(nodes[:2], nodes[2:])
	}},
	{"one-way", func(r *round) {
		nodes := r.shuffled()
		if r.random.IntN(2) == 0 {
			nodes[0] = r.c.leader(r.random)
		}
		for _, other := range r.c.nodes {
			if other == nodes[0] {
				continue
			}
			if r.random.IntN(2) == 0 || other == nodes[1] {
				r.cut(nodes[0], other)
			}
		}
	}},
	{"one-way, deaf", func(r *round) {
		deaf := r.c.leader(r.random)
		for _, other := range r.c.nodes {
			if other != deaf {
				r.cut(other, deaf)
			}
		}
	}},
	{"bridge", func(r *round) {
		nodes := r.shuffled() // the last one reaches both sides
		r.partition(nodes[:2], nodes[2:4])
	}},
	{"flapping", func(r *round) {
		flapping := r.pick()
		for range 6 {
			r.isolate(flapping)
			r.hold(300*time.Millisecond, 1500*time.Millisecond)
			r.probe()
			r.c.net.Heal()
			r.hold(100*time.Millisecond, 800*time.Millisecond)
		}
	}},
	{"crash", func(r *round) { r.crash(r.pick()) }},
	{"leader crash", func(r *round) { r.crash(r.c.leader(r.random)) }},
	{"two crash", func(r *round) { r.crash(r.shuffled()[:2]...) }},
	{"all lose power", func(r *round) { r.crash(r.c.nodes...) }},
	{"restart", func(r *round) {
		n := r.pick()
		if err := n.stop(); err != nil {
			r.c.complain("%s: %s", r.name, oneLine(err))
		}
		r.undo = append(r.undo, func() error { return n.start("") })
	}},
	{"pause", func(r *round) { r.pause(r.pick()) }},
	{"leader pause", func(r *round) { r.pause(r.c.leader(r.random)) }},
	{"refuse and reset", func(r *round) {
		n := r.pick()
		r.c.net.Refuse(n.name)
		r.mustFail(n, n, syscall.ECONNREFUSED)
		broken := 0
		for _, other := range r.c.nodes {
			if other != n {
				broken += r.c.net.Reset(n.name, other.name)
			}
		}
		r.must(func() error {
			if broken == 0 {
				return errors.New("no connection was reset")
			}
			return nil
		})
	}},
	{"answers lost", func(r *round) {
		for range 8 {
			r.loseAnswers()
		}
	}},
	{"leader stopped, and leads again", func(r *round) {
		for range 6 {
			r.leadAgain()
		}
	}},
	{"slow drive", func(r *round) {
		late := time.Duration(50+r.random.IntN(400)) * time.Millisecond
		r.drive(vfs.Rule{Path: shards, Delay: func() { pause(late) }})
	}},
	{"slow sync", func(r *round) {
		r.drive(vfs.Rule{Op: vfs.OpSync, Path: shards, Delay: func() { pause(2 * time.Second) }})
	}},
	{"full drive", func(r *round) { r.drive(vfs.Rule{Op: vfs.OpWrite, Err: syscall.ENOSPC}) }},
	{"failing drive", func(r *round) { r.drive(vfs.Rule{Op: vfs.OpWrite, Err: syscall.EIO}) }},
	{"failing sync", func(r *round) { r.drive(vfs.Rule{Op: vfs.OpSync, Times: 1 + r.random.IntN(3), Err: syscall.EIO}) }},
	{"unreadable drive", func(r *round) { r.drive(vfs.Rule{Op: vfs.OpRead, Err: syscall.EIO}) }},
	{"hanging drive", func(r *round) { r.drive(vfs.Rule{Path: shards, Hang: true}) }},
	{"clock jump", func(r *round) { r.jump(time.Duration(r.random.Int64N(int64(20*time.Minute))) - 10*time.Minute) }},
	{"clock jump of hours", func(r *round) { r.jump(time.Duration(r.random.Int64N(int64(12*time.Hour))) - 6*time.Hour) }},
	{"shake", func(r *round) {
		for range 12 {
			r.c.net.Shake()
			r.hold(200*time.Millisecond, time.Second)
		}
		r.isolate(r.pick())
	}},
	{"drain", func(r *round) { r.drain() }},
	{"gateway taken for gone", func(r *round) { r.takenForGone() }},
	{"crash behind a cut", func(r *round) {
		nodes := r.shuffled()
		r.isolate(nodes[0])
		r.hold(time.Second, 3*time.Second)
		r.crash(nodes[1])
	}},
	{"crash, and the newer side too", func(r *round) { // who comes back first knows the least
		leader := r.c.leader(r.random)
		r.crash(leader)
		r.hold(2*time.Second, 4*time.Second)
		r.crash(r.c.leader(r.random))
	}},
}

// shards is where a drive keeps them. What waits is kept away from the log: its lock is held while drives write, and the
// time of a bubble stands still while somebody waits for a sync.Mutex.
const shards = "/volumes"

func (r *round) shuffled() []*node {
	nodes := append([]*node(nil), r.c.nodes...)
	r.random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return nodes
}

func (r *round) pick() *node { return r.c.nodes[r.random.IntN(len(r.c.nodes))] }

func (r *round) hold(least, most time.Duration) {
	pause(least + time.Duration(r.random.Int64N(int64(most-least))))
}

func (r *round) must(so func() error) { r.fired = append(r.fired, so) }

// mustFail notes that no connection from one node to another comes about while the fault lasts.
func (r *round) mustFail(from, to *node, want error) {
	r.must(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		conn, err := r.c.net.Host(from.name).Dial(ctx, to.name+":9001")
		if err == nil {
			return errors.Join(fmt.Errorf("%s still reaches %s", from.name, to.name), conn.Close())
		}
		if !errors.Is(err, want) {
			return fmt.Errorf("%s to %s: %w", from.name, to.name, err)
		}
		return nil
	})
}

func (r *round) cut(from, to *node) {
	r.c.net.Cut(from.name, to.name)
	r.mustFail(from, to, context.DeadlineExceeded)
}

func (r *round) partition(one, other []*node) {
	for _, a := range one {
		for _, b := range other {
			r.cut(a, b)
			r.cut(b, a)
		}
	}
}

func (r *round) isolate(n *node) {
	for _, other := range r.c.nodes {
		if other != n {
			r.cut(n, other)
			r.cut(other, n)
		}
	}
}

func (r *round) pause(n *node) {
	r.c.net.Pause(n.name)
	r.mustFail(n, n, context.DeadlineExceeded)
}

// crash cuts the power of nodes at once; they come back at the round's end.
func (r *round) crash(nodes ...*node) {
	var wait sync.WaitGroup
	for _, n := range nodes {
		if n.up() == nil {
			continue // it is down already
		}
		wait.Go(n.crash)
		r.undo = append(r.undo, func() error { return n.start("") })
	}
	wait.Wait()
	down := len(r.undo)
	r.must(func() error {
		if down == 0 {
			return errors.New("nobody was there to crash")
		}
		return nil
	})
}

// drive hurts one drive of a node.
func (r *round) drive(rule vfs.Rule) {
	n := r.pick()
	rule.Path = n.drives[r.random.IntN(len(n.drives))] + rule.Path
	fault := n.files().Inject(rule)
	r.must(func() error {
		return eventually(time.Minute, func() error { // writers avoid a drive for a while after it was down
			if fault.Fired() == 0 {
				return fmt.Errorf("drive %s was not asked for anything", rule.Path)
			}
			return nil
		})
	})
	r.undo = append(r.undo, func() error {
		fault.Clear()
		return nil
	})
}

// jump sets a node's clock wrong until the round's end.
func (r *round) jump(by time.Duration) { r.skew(r.pick(), by) }

func (r *round) skew(n *node, by time.Duration) {
	n.skew.Store(int64(by))
	r.c.skewed.Store(true)
	asked := n.asked.Load()
	r.must(func() error {
		if n.asked.Load() == asked {
			return fmt.Errorf("nobody looked at the clock of %s", n.name)
		}
		return nil
	})
	r.undo = append(r.undo, func() error {
		n.skew.Store(0)
		return nil
	})
}

// probe checks that the fault is there.
func (r *round) probe() {
	for _, so := range r.fired {
		if err := so(); err != nil {
			r.c.invalid("%s did not happen: %v", r.name, err)
		}
	}
	r.fired = nil
}

// hurt makes a fault under load, holds it, and takes it away.
func (c *cluster) hurt(h *history, random *rand.Rand, f fault) {
	r := &round{c: c, h: h, random: random, name: f.name}
	for end := time.Now().Add(10 * time.Second); h.inFlight.Load() == 0; pause(time.Millisecond) {
		if time.Now().After(end) {
			c.invalid("%s: there was no load", f.name)
			break
		}
	}
	f.do(r)
	r.hold(2*time.Second, 7*time.Second)
	r.probe()
	c.net.Heal()
	for _, undo := range r.undo {
		if err := undo(); err != nil {
			c.complain("after %s: %s", f.name, oneLine(err))
		}
	}
}

// takenForGone makes the leader seal the open volumes of a gateway that goes on afterwards: it cannot reach it, and its
// clock says that this has been so for an hour. A gateway that writes meanwhile misses the leader's drives, and opens other
// volumes; mostly it has nothing to do, and goes on with those that it has when all is well again.
func (r *round) takenForGone() {
	leader, gateway := r.c.leader(r.random), r.pick()
	for gateway == leader {
		gateway = r.pick()
	}
	if r.random.IntN(4) > 0 {
		gateway.idle.Store(true)
		r.undo = append(r.undo, func() error {
			r.hold(3*time.Second, 5*time.Second) // its drives are there again
			gateway.idle.Store(false)
			return nil
		})
		pause(patience + time.Second) // what its clients have under way
	}
	r.cut(leader, gateway)
	r.cut(gateway, leader)
	r.hold(3*time.Second, 5*time.Second)
	r.skew(leader, time.Hour)
	r.hold(32*time.Second, 35*time.Second) // it looks every 30 s
}

// loseAnswers lets the leader do what two gateways ask for, and loses what it answers: they must ask again.
func (r *round) loseAnswers() {
	leader, broken := r.c.leader(r.random), 0
	var deaf []*node
	for _, n := range r.shuffled() {
		if n != leader && len(deaf) < 2 { // a majority still hears it
			r.cut(leader, n)
			deaf = append(deaf, n)
		}
	}
	r.hold(100*time.Millisecond, 400*time.Millisecond)
	r.probe()
	for _, n := range deaf {
		broken += r.c.net.Reset(leader.name, n.name)
	}
	r.c.net.Heal()
	r.must(func() error {
		if broken == 0 {
			return errors.New("no connection was reset")
		}
		return nil
	})
	r.hold(200*time.Millisecond, 600*time.Millisecond)
}

// leadAgain stops the leader between deciding writes and proposing them. Meanwhile another one leads; when it goes on it
// leads again, and what it had decided is of a term that is over.
func (r *round) leadAgain() {
	leader, next := r.c.leader(r.random), r.pick()
	for next == leader {
		next = r.pick()
	}
	g := &gate{opened: make(chan struct{})}
	leader.gate.Store(g)
	r.hold(100*time.Millisecond, 300*time.Millisecond)
	err := leader.lead(next)
	if err == nil {
		r.hold(500*time.Millisecond, 1500*time.Millisecond)
		err = next.lead(leader)
	}
	leader.gate.Store(nil)
	close(g.opened)
	r.handedOver = r.handedOver || err == nil && g.waiting.Load() > 0
	r.must(func() error {
		if !r.handedOver {
			return fmt.Errorf("no proposal waited while another node led: %w", err)
		}
		return nil
	})
	r.hold(500*time.Millisecond, time.Second)
}

// usedDrive is a drive that clients write to.
func (r *round) usedDrive() (name string, err error) {
	err = eventually(time.Minute, func() error {
		p := r.pick().up()
		if p == nil {
			return errors.New("the peer is down")
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		volumes, err := p.Admin().Volumes(ctx)
		if err != nil {
			return err
		}
		open := slices.DeleteFunc(volumes, func(v admin.Volume) bool { return v.State != "open" })
		if len(open) == 0 {
			return errors.New("no volume is open")
		}
		slots := open[r.random.IntN(len(open))].Slots
		name = slots[r.random.IntN(len(slots))]
		return nil
	})
	return name, err
}

// drain empties a drive while clients write to its volumes, and takes it back at the end.
func (r *round) drain() {
	name, err := r.usedDrive()
	if err != nil {
		r.c.complain("no drive to drain: %s", oneLine(err))
		return
	}
	act := func(action string) error {
		return eventually(time.Minute, func() error {
			p := r.pick().up()
			if p == nil {
				return errors.New("the peer is down")
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := p.Admin().ActOnDrive(ctx, name, action, false)
			return err
		})
	}
	if err := act(admin.Drain); err != nil {
		r.c.complain("drain %s: %s", name, oneLine(err))
	}
	// Volumes are looked at every ten seconds, and those that cannot stand another loss go first.
	before := r.c.fences.count()
	r.hold(15*time.Second, 25*time.Second)
	r.must(func() error {
		return eventually(time.Minute, func() error {
			if r.c.fences.count() == before {
				return errors.New("no volume was sealed")
			}
			return nil
		})
	})
	r.undo = append(r.undo, func() error { return act(admin.Undrain) })
}
