// Package repair brings every chunk back to twelve whole shards on their home drives: it rebuilds what intents name,
// what a drive that returned does not hold, and moves shards home that doubled up on other drives or whose volume got
// another home (package rebalance).
//
//	intents, drives that came back ─ survey ─ jobs, least redundancy first ─ Store.Restore ─ rows, intents resolved
//
// A move reads each shard once where it is, writes it once, and reads it once more where it went; only a shard that
// cannot be read there is rebuilt from eight others. Several shards are under way at a time, so that the drive they go
// to syncs them together.
//
// It never deletes a shard that may be the last of its kind: the only deletes are of copies at a place that a volume's
// row does not name for them, after the copy at the place that it names was checked, and of what was deleted at the
// place that it names and is at none of the others. What was deleted while a drive was away is deleted there by whoever
// frees chunks, not here.
//
// Workers of several peers may run at once over the same rows, as they do for a moment when the leader changes: a move
// counts only if its row had not changed meanwhile, and what the loser copied is cleared away as a leftover. A worker
// that stops in the middle leaves copies and rows that the next one goes on from.
package repair

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

const (
	// DefaultInterval is how often intents are looked for when no drive comes or goes.
	DefaultInterval = 5 * time.Second
	// DefaultShare is the part of the time that repair works while all chunks survive the loss of one drive more;
	// otherwise it does not pause.
	DefaultShare = 0.5
	// slowPass is how long a pass takes until the log says what it is at: moves of many volumes take hours.
	slowPass = time.Minute
	// tellWaiting is how often the log says that a volume waits.
	tellWaiting = time.Minute
	// intentsPerPass bounds the memory of one pass; the next one takes the rest.
	intentsPerPass = 10_000
)

// Config is what a Worker is made from.
type Config struct {
	Store   *chunkstore.Store
	Volumes chunkstore.Volumes
	Drives  *chunkstore.Drives
	// Interval is how often intents are looked for. Zero means DefaultInterval.
	Interval time.Duration
	// Share is the part of the time, up to 1, that repair works. Zero means DefaultShare.
	Share float64
	// Removed says that a drive has left the topology and does not return, so that what it alone held is not waited for.
	// It is asked after the row that names the drive was read, and must know of all that had joined until then. Nil: none
	// has left.
	Removed func(context.Context, cluster.DriveID) bool
	Log     *slog.Logger // nil: slog.Default()
}

// Progress is what the last pass found and what all passes did.
type Progress struct {
	// UnderProtected is the exact number of chunks with a shard that is missing, damaged, on a drive that is down, or
	// doubled up on a drive, so that fewer losses of drives are survived than at home. A volume that merely waits for
	// its move to another home is not among them. It is 0 when repair is done.
	UnderProtected int64
	// Away is the number of volumes with shards away from their home drives, for whatever reason.
	Away int64
	// Intents is the number of intents left.
	Intents int64
	// Remains is the number of chunks of which all slots answer and too few hold a shard to rebuild the others: what is
	// left of writes that were given up, for sweep to delete. (Were one of them named, it would be lost: fsck tells.)
	Remains int64
	// Restored, Moved and Failed count shards restored, slots moved home, and attempts that failed, since the start.
	Restored int64
	Moved    int64
	Failed   int64
	// Cleared counts the copies that moves which were cut off had left, and that were deleted.
	Cleared int64
}

// Worker repairs. Make it with New.
type Worker struct {
	config Config
	kick   chan struct{} // holds one wake-up

	doing atomic.Pointer[string] // what a pass is at

	changed atomic.Pointer[<-chan struct{}] // where Run hears of drives that come and go; nil outside of it

	run sync.Mutex // one pass at a time; held over I/O by design

	mu       sync.Mutex // guards progress and refusals
	progress Progress
	refusals map[Place]refusal

	// The rest belongs to the pass under way.
	pass     int                                  // its number
	seen     map[cluster.DriveID]chunkstore.Drive // drives that were up at the last pass
	volumes  map[chunkstore.VolumeID]*known
	littered map[cluster.DriveID]struct{} // drives that may hold copies which no row names
	cleared  time.Time                    // when all drives were last looked through for such copies
	resting  time.Duration                // pause owed for work done
	failed   int                          // shards of this pass that could not be restored, and why the last of them
	failure  error
}

// known is what the last survey of a volume found, so that a quiet volume is not listed again.
type known struct {
	row   chunkstore.Volume // at the last pass
	up    uint16            // slots on drives that are up
	dirty bool              // some slot may lack shards
	// strays are drives of the volume that hold shards of slots which are neither theirs nor to be.
	strays map[cluster.DriveID]struct{}

	epoch    cluster.Epoch // of the row that was surveyed
	surveyed time.Time
	listed   uint16 // slots that were up then
	chunks   int64  // union of all slots that answered, without remains
	remains  int64
	// waits is since when the volume should be brought in order and cannot be, or when that was told last; zero: it is or can.
	waits time.Time
	short map[chunkstore.ChunkID]struct{} // chunks with shards missing on drives that are up
}

func (k *known) note(v chunkstore.Volume, s survey) {
	k.epoch, k.surveyed, k.listed, k.strays = v.Epoch, time.Now(), k.up, s.strays
	k.chunks, k.remains = 0, 0
	for _, h := range s.held {
		if s.remains(h) {
			k.remains++
		} else {
			k.chunks++
		}
	}
}

// New returns a Worker.
func New(config Config) *Worker {
	if config.Interval == 0 {
		config.Interval = DefaultInterval
	}
	if config.Share <= 0 || config.Share > 1 {
		config.Share = DefaultShare
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	w := &Worker{config: config, kick: make(chan struct{}, 1)}
	w.forget()
	return w
}

// forget makes the next pass look at everything.
func (w *Worker) forget() {
	w.mu.Lock()
	w.refusals = make(map[Place]refusal)
	w.mu.Unlock()
	w.seen, w.cleared, w.resting = nil, time.Time{}, 0
	w.volumes = make(map[chunkstore.VolumeID]*known)
	w.littered = make(map[cluster.DriveID]struct{})
}

// Name says what the worker is called in status.
func (w *Worker) Name() string { return "repair" }

// Progress returns what the last pass found.
func (w *Worker) Progress() Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.progress
}

// Kick makes Run look at the intents now, for one who has just written some.
func (w *Worker) Kick() {
	select {
	case w.kick <- struct{}{}:
	default: // it was woken already
	}
}

// Run repairs until ctx ends: at once, when drives come or go, when kicked, and every Interval. It may be called again
// later, and then takes nothing for known: another worker may have been at work since.
func (w *Worker) Run(ctx context.Context) error {
	w.run.Lock()
	w.forget()
	w.run.Unlock()
	changed, cancel := w.config.Drives.Subscribe()
	defer cancel()
	w.changed.Store(&changed)
	defer w.changed.Store(nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-w.kick:
		case <-timer.C:
		}
		if _, err := w.RunOnce(ctx); err != nil {
			return err
		}
		timer.Reset(w.config.Interval)
	}
}

// at notes what the pass is at, for who wonders.
func (w *Worker) at(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.doing.Store(&text)
}

// wait notes that a volume cannot be brought in order in this pass, and why. It is logged when it stays so.
func (w *Worker) wait(id chunkstore.VolumeID, why error) {
	k := w.volumes[id]
	now := time.Now()
	switch {
	case k.waits.IsZero():
		k.waits = now
	case now.Sub(k.waits) >= tellWaiting:
		w.config.Log.Warn("a volume waits to be brought in order", "volume", id, "why", why)
		k.waits = now
	}
}

// RunOnce makes one pass and returns what is left. An error means that rows could not be read or changed; shards that
// could not be restored are counted, logged and tried again by the next pass.
func (w *Worker) RunOnce(ctx context.Context) (Progress, error) {
	w.run.Lock()
	defer w.run.Unlock()
	select {
	case <-w.kick: // it is heard now
	default:
	}
	w.failed, w.failure = 0, nil
	w.pass++
	begun := time.Now()
	slow := time.AfterFunc(slowPass, func() {
		w.config.Log.Info("a pass of repair takes long", "since", begun, "at", *w.doing.Load())
	})
	defer slow.Stop()
	w.at("volume rows")
	rows, err := w.observe(ctx)
	if err != nil {
		return w.Progress(), err
	}
	intents, err := w.intents(ctx, rows)
	if err != nil {
		return w.Progress(), err
	}
	w.at("%d chunks known to be damaged or short", len(intents))
	if err := w.settle(ctx, intents); err != nil {
		return w.Progress(), err
	}
	if err := w.tendAll(ctx, rows); err != nil {
		return w.Progress(), err
	}
	w.at("leftovers of moves")
	if err := w.clear(ctx, rows); err != nil {
		return w.Progress(), err
	}
	if w.failed > 0 {
		w.config.Log.Warn("shards could not be restored; the next pass tries again", "shards", w.failed, "err", w.failure)
	}
	err = w.count(ctx)
	return w.Progress(), err
}
