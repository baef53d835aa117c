// Package route makes every peer a gateway for names: a Router is metadata.Names wherever the leader of the tablet is.
//
//	Router ─ Leader()? ─ this peer: its own Catalog
//	                   └ another:   a client of that peer (metadata/remote)
//
// A Router waits while nobody leads, follows the hints of peers that do not, and repeats every call whose answer was
// lost. An attempt that is under way while the leader moves is given up and counts as lost, so that a peer that hangs, or
// that does not know yet that it was deposed, holds nobody back. What may happen to a write that is repeated:
//
//	Put, Delete, Rename, SetAttr, SetFile,        the second time makes another version, deletes what came between, or
//	SetTags, CreateUpload, PutPart, Complete,     says that what the first time removed is not there: the Op tells
//	Abort, RenamePrefix
//	CreateBucket, DeleteBucket, SetVersioning     says that the bucket exists, or deletes the next one of the name: the Op
//	                                              tells of the tablet's part, from which the rest is finished
//	Stage, Discard                                takes a newer stage away when it comes late: the Op tells
//	Hold, Release                                 counts twice: the Op tells
//	PutRow                                        compares a revision and says ErrConflict after success; what is written
//	                                              there may be equal and another's: the Op tells
//	DeleteRow                                     deletes the next row of the key: the Op tells
//	Lend, DropFreed                               nothing: they only ever go one way, and freed rows have no successors
//	OpenSession                                   a session that nobody uses ends with its lease
//	TakeSession, RenewSession, CloseSession       nothing
//	LeaseBlock                                    a number is left out
//
// Where the Op tells, the write is applied once however often it is tried, and the second answer is that of the first. A
// write that comes without one gets one of the Router's own session (WithOp), which is opened for the first of them and
// ends with Close. SetVersioning alone has a gap: when its leader is lost between the bucket's row and the tablet's and
// somebody else sets the same bucket before the repetition, that goes second.
//
// A write fails with raft.ErrUnknownOutcome when an attempt was lost and there was no answer after it: the patience was
// over, the caller left, or the session ended meanwhile, which takes what it did out of memory. One that was refused after
// an attempt was lost is a metadata.MayFollow.
package route

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/metadata/remote"
)

const (
	// DefaultPatience is how long calls go on without a leader: two elections of the longest kind.
	DefaultPatience = 6 * time.Second
	// leastPatience is how long a call goes on at least, when others before it found no leader for long: whoever asks may
	// have another gateway to go to, and asks that one sooner.
	leastPatience = 500 * time.Millisecond
	// firstPause and lastPause are the waits between attempts.
	firstPause = 10 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	// watchEvery is how often an attempt under way looks whether its peer still leads.
	watchEvery = 250 * time.Millisecond
	// maxHops is how many hints are followed before a pause: two peers may name each other.
	maxHops = 2
)

// Config says what a Router finds peers by.
type Config struct {
	// Self is this peer.
	Self cluster.PeerID
	// Leader says which peer leads the tablet as far as this one knows, and whether that is this peer; ok is false while
	// nobody does. It is asked for every call and must not block.
	Leader func() (peer cluster.PeerID, local, ok bool)
	// Local is the Catalog over this peer's replica, nil while it does not lead. It must not block.
	Local func() metadata.Names
	// Remote asks another peer, nil when it is not known how to reach it. It must not block.
	Remote func(peer cluster.PeerID) metadata.Names
	// Alone says that the catalog is here and no other peer has a replica: no answer can be lost on the way, so writes
	// do without the Op that would let them be repeated. Nil means never. It must not block.
	Alone func() bool
	// Patience is how long calls go on while there is no leader: from the first call on that found none, and half a second
	// each at least. Zero means DefaultPatience, negative means no repetition.
	Patience time.Duration
}

// Router is metadata.Names wherever the leader is. It may be used concurrently, and must be closed.
type Router struct {
	config Config
	own    sessions
	lack   lack
	// localOnly routers refuse what another peer would have to answer.
	localOnly bool
}

var _ metadata.Names = (*Router)(nil)

// New returns a Router.
func New(c Config) *Router {
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	r := &Router{config: c}
	r.own.init(r)
	return r
}

// errNoLeader says that nobody led for as long as the call could wait.
var errNoLeader = fmt.Errorf("nobody leads the names: %w", metadata.ErrUnavailable)

// errMoved ends an attempt whose peer does not lead any more.
var errMoved = errors.New("the leader moved while the call was under way")

// class says what a call is: reads and writes are repeated after a loss, and after that a write is of unknown outcome. A
// write that happens once has no Op and is repeated only when it was refused.
type class uint8

const (
	read class = iota
	write
	once
)

// final is an error that ends a call whatever it is.
type final struct{ error }

// refused says that nothing was done.
func refused(err error) bool {
	return errors.Is(err, remote.ErrNotSent) || errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrUnknownOutcome)
}

// lost says that nobody knows what was done, and that another attempt may go better.
func lost(err error) bool {
	switch {
	case errors.Is(err, raft.ErrUnknownOutcome), errors.Is(err, remote.ErrLost), errors.Is(err, raft.ErrNotLeader):
		return true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return true // the caller's own context is looked at first
	case errors.Is(err, remote.ErrUnlisted), errors.Is(err, raft.ErrLogLost), errors.Is(err, kv.ErrBroken):
		return false
	}
	return errors.Is(err, metadata.ErrUnavailable) // a Catalog that is being closed
}

// target is where an attempt goes.
type target struct {
	peer  cluster.PeerID
	local bool
	names metadata.Names
}

// find says where to go, by a hint first; nil names when nobody is there.
func (r *Router) find(hint cluster.PeerID) target {
	if hint != (cluster.PeerID{}) {
		if t := r.target(hint, hint == r.config.Self); t.names != nil {
			return t
		}
	}
	peer, local, ok := r.config.Leader()
	if !ok {
		return target{}
	}
	return r.target(peer, local)
}

func (r *Router) target(peer cluster.PeerID, local bool) target {
	t := target{peer: peer, local: local}
	if local {
		t.peer, t.names = r.config.Self, r.config.Local()
	} else {
		t.names = r.config.Remote(peer)
	}
	return t
}

// ask is do with an answer, which an error may come with too.
func ask[A any](ctx context.Context, r *Router, c class, call func(context.Context, metadata.Names) (A, error)) (A, error) {
	var answer A
	err := r.do(ctx, c, func(ctx context.Context, n metadata.Names) error {
		var err error
		answer, err = call(ctx, n)
		return err
	})
	return answer, err
}

// do calls until there is an answer, or no hope.
func (r *Router) do(ctx context.Context, c class, call func(context.Context, metadata.Names) error) error {
	w := waiting{router: r, class: c, pause: firstPause}
	var hint cluster.PeerID
	for {
		if err := ctx.Err(); err != nil {
			return w.ended(err)
		}
		t := r.find(hint)
		if r.localOnly && (!t.local || t.names == nil) {
			return metadata.NotLeader{Peer: t.peer}
		}
		hint = cluster.PeerID{}
		err := errNoLeader
		if t.names != nil {
			err = r.attempt(ctx, t, call)
			var end final
			switch {
			case err == nil:
				r.lack.over()
				return nil
			case errors.As(err, &end):
				r.lack.over()
				return end.error
			}
			w.note(err)
			if !refused(err) && !lost(err) {
				r.lack.over() // that was an answer
			}
			if ctx.Err() != nil || t.local && errors.Is(err, raft.ErrStopped) || !refused(err) && (c == once || !lost(err)) {
				return w.ended(err)
			}
			hint = hintOf(err)
		}
		if !w.again(ctx, hint != (cluster.PeerID{}), err) {
			return w.ended(err)
		}
	}
}

// lack is what calls know together of a time without a leader.
type lack struct {
	mu sync.Mutex
	// first is when a call first found none after the last that did, and last when one found none last.
	first, last time.Time
}

// over says that a leader answered.
func (l *lack) over() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first = time.Time{}
}

// until is when a call that finds no leader now gives up.
func (l *lack) until(patience time.Duration) time.Time {
	patience = max(patience, 0)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first.IsZero() || now.Sub(l.last) > patience { // else it is another time without
		l.first = now
	}
	l.last = now
	until, least := l.first.Add(patience), now.Add(min(patience, leastPatience))
	if until.Before(least) {
		return least
	}
	return until
}

func hintOf(err error) cluster.PeerID {
	var hint metadata.LeaderHint
	if errors.As(err, &hint) {
		return hint.Leader()
	}
	return cluster.PeerID{}
}

// attempt calls once, for as long as the target leads.
func (r *Router) attempt(ctx context.Context, t target, call func(context.Context, metadata.Names) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := watch{router: r, peer: t.peer, ctx: ctx, cancel: cancel}
	w.begin()
	err := call(ctx, t.names)
	w.timer.Stop()
	if err != nil && errors.Is(context.Cause(ctx), errMoved) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return err
}

// watch looks whether the peer of an attempt still leads.
type watch struct {
	router *Router
	peer   cluster.PeerID
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	// armed is closed when timer is set: look may run before.
	armed chan struct{}
	// until is when the attempt is given up because nobody leads; zero while somebody does.
	until time.Time
}

func (w *watch) begin() {
	w.armed = make(chan struct{})
	w.timer = time.AfterFunc(watchEvery, w.look)
	close(w.armed)
}

func (w *watch) look() {
	<-w.armed
	if w.ctx.Err() != nil {
		return
	}
	peer, local, ok := w.router.config.Leader()
	if local {
		peer = w.router.config.Self
	}
	switch {
	case !ok && w.until.IsZero():
		w.until = w.router.lack.until(w.router.config.Patience)
	case ok && peer != w.peer, !ok && !time.Now().Before(w.until):
		w.cancel(errMoved)
		return
	case ok:
		w.until = time.Time{}
	}
	w.timer.Reset(watchEvery)
}

// waiting is the patience of one call.
type waiting struct {
	router *Router
	class  class
	pause  time.Duration
	until  time.Time // zero before the first failure
	hops   int       // hints followed since the last pause
	last   error
	// unknown is set once an attempt was lost: what comes after cannot say that nothing was done.
	unknown bool
}

// note takes in how an attempt failed.
func (w *waiting) note(err error) {
	w.unknown = w.unknown || w.class != read && lost(err) && !refused(err)
}

// again waits before another attempt, and tells whether there is to be one. A hint is followed at once.
func (w *waiting) again(ctx context.Context, hinted bool, err error) bool {
	w.last = err
	if w.until.IsZero() {
		w.until = w.router.lack.until(w.router.config.Patience)
	}
	left := time.Until(w.until)
	if left <= 0 {
		return false
	}
	if hinted && w.hops < maxHops {
		w.hops++
		return true
	}
	w.hops = 0
	// Half of the pause is random: those who wait for the same election do not all come at once.
	pause := min(w.pause/2+rand.N(w.pause/2+1), left)
	w.pause = min(2*w.pause, lastPause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// ended is the error of a call that ends without an answer: what the last attempt said is in it, and for a write of
// which an attempt was lost, that the outcome is unknown.
func (w *waiting) ended(err error) error {
	if w.last != nil && !errors.Is(err, w.last) {
		err = fmt.Errorf("%w (before: %w)", err, w.last)
	}
	if w.unknown && (refused(err) || lost(err) || errors.Is(err, metadata.ErrSessionFenced)) && !errors.Is(err, raft.ErrUnknownOutcome) {
		err = fmt.Errorf("%w: %w: %w", metadata.ErrUnavailable, raft.ErrUnknownOutcome, err)
	} else if w.unknown {
		err = metadata.MayFollow{Reason: err}
	}
	return err
}
