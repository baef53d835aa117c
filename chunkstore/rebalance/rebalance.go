// Package rebalance brings data to where the topology wants it. It plans (Make, a function of values) which volumes get
// another home, and changes the home in their rows, a few at a time; package repair then moves their shards there.
//
//	drives, volume rows, bytes ─ Make ─ changes ─ rows with another Home ─ repair copies ─ rows with Slots = Home
//
// A home changes because a home drive leaves, because the volume survives fewer losses than a new one would (after
// peers, racks or zones were added), or because a drive is much emptier or fuller than the others. Only sealed volumes move;
// volumes that are open on a drive that leaves are sealed first, and their writers go on elsewhere.
//
// The rows are all that is kept of a plan: whoever leads next goes on from them. A change is made only if the row has not
// changed meanwhile, so two that run at once do not undo each other's work.
package rebalance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
)

const (
	// DefaultInterval is how often the worker looks whether volumes have arrived, and drives have changed.
	DefaultInterval = 10 * time.Second
	// busyInterval is how often it looks while volumes are on their way: small ones arrive in no time, and the next wait
	// for their place.
	busyInterval = time.Second
	// DefaultShare is the part of the time that planning may take. The moves themselves are paced by repair.
	DefaultShare = 0.1
	// DefaultAway is how many volumes are on their way at a time: enough that no drive waits for the next, and few enough
	// that what is copied twice when a plan changes in the middle is little.
	DefaultAway = 4
	// DefaultCalm is how long the drives must be the same until volumes move for their sake: some machines that are set up
	// one after the other, or start after a blackout.
	DefaultCalm = 30 * time.Second
	// deniedFor is how long a drive is not offered a slot again after it was found to hold leftovers of the volume, or did
	// not answer.
	deniedFor = time.Minute
	// listWait is how long a drive is waited for that shall list its volumes.
	listWait = 10 * time.Second
)

// Config is what a Worker is made from.
type Config struct {
	Store   *chunkstore.Store
	Volumes chunkstore.Volumes
	// Registry holds the drives that can be reached; they are asked for the bytes of volumes.
	Registry *chunkstore.Drives
	// Drives tells of every drive of the topology what it is to the slots of volumes. One that is not told of is taken to
	// be removed, so an error is the answer of one who does not know. The placement groups of new volumes must have no
	// drive that leaves, else volumes are opened there and sealed again for ever.
	Drives func(context.Context) ([]Drive, error)
	// Refused says that a drive cannot take a slot (repair.Worker.Refused). Nil: every drive can.
	Refused func(repair.Place) bool
	// Kick is called after homes were changed (repair.Worker.Kick). Nil: repair finds out by itself.
	Kick func()
	// Away is how many volumes are on their way at a time. Zero means DefaultAway.
	Away int
	// Interval is how often to look while nothing is on its way. Zero means DefaultInterval.
	Interval time.Duration
	// Calm is how long the drives must be the same until volumes move because they are fragile or drives are uneven; what
	// must leave a drive does not wait. Zero means DefaultCalm; negative: nothing waits.
	Calm time.Duration
	// Share is the part of the time, up to 1, that planning takes. Zero means DefaultShare.
	Share float64
	Log   *slog.Logger // nil: slog.Default()
}

// Progress is what the last pass found and what all passes saw done.
type Progress struct {
	// Volumes and Bytes are left to be moved, about. They are 0 when all is where the topology wants it.
	Volumes int
	Bytes   int64
	// Underway is the number of those volumes that are moving now.
	Underway int
	// Homeless is the number of volumes that must leave a drive and have nowhere to go.
	Homeless int
	// Open is the number of open volumes on drives that leave, which are being sealed.
	Open int
	// MovedVolumes and MovedBytes arrived since the start.
	MovedVolumes int64
	MovedBytes   int64
}

// Worker rebalances. Make it with New.
type Worker struct {
	config Config

	run sync.Mutex // one pass at a time; held over I/O by design

	mu       sync.Mutex // guards progress
	progress Progress

	// The rest belongs to the pass under way.
	pending map[chunkstore.VolumeID]int64 // bytes of the volumes that move
	denied  map[repair.Place]time.Time    // when a place was denied
	calm    calm
}

// New returns a Worker.
func New(config Config) *Worker {
	if config.Away <= 0 {
		config.Away = DefaultAway
	}
	if config.Interval == 0 {
		config.Interval = DefaultInterval
	}
	if config.Calm == 0 {
		config.Calm = DefaultCalm
	}
	if config.Share <= 0 || config.Share > 1 {
		config.Share = DefaultShare
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	return &Worker{config: config, pending: make(map[chunkstore.VolumeID]int64), denied: make(map[repair.Place]time.Time)}
}

// Name says what the worker is called in status.
func (w *Worker) Name() string { return "rebalance" }

// Progress returns what the last pass found.
func (w *Worker) Progress() Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.progress
}

// Run makes passes until ctx ends. It may be called again later; what others moved meanwhile it does not count.
func (w *Worker) Run(ctx context.Context) error {
	w.run.Lock()
	clear(w.pending)
	w.run.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		begun := time.Now()
		p, err := w.RunOnce(ctx)
		if err != nil {
			return err
		}
		interval := w.config.Interval
		if p.Volumes > 0 {
			interval = min(interval, busyInterval)
		}
		owed := time.Duration(float64(time.Since(begun)) * (1/w.config.Share - 1))
		timer.Reset(max(interval, owed))
	}
}

// RunOnce makes one pass: it looks how far the volumes under way are, and gives others another home while there is room.
// An error means that drives or rows could not be read or changed.
func (w *Worker) RunOnce(ctx context.Context) (Progress, error) {
	w.run.Lock()
	defer w.run.Unlock()
	drives, err := w.config.Drives(ctx)
	if err != nil {
		return w.Progress(), fmt.Errorf("drives of the topology: %w", err)
	}
	volumes, err := w.volumes(ctx)
	if err != nil {
		return w.Progress(), err
	}
	open, err := w.seal(ctx, drives, volumes)
	if err != nil {
		return w.Progress(), err
	}
	w.arrived(volumes)
	c := Cluster{Drives: drives, Volumes: volumes, Restless: w.calm.restless(time.Now(), drives, w.config.Calm), Refused: w.refused}
	plan := Make(c, w.config.Away)
	if err := w.carryOut(ctx, plan.Changes); err != nil {
		return w.Progress(), err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &w.progress
	p.Volumes, p.Bytes, p.Underway, p.Homeless, p.Open = plan.Volumes, plan.Bytes, plan.Underway, plan.Homeless, open
	return *p, nil
}

// volumes reads the rows, and from the drives how much each slot takes. A drive that does not answer tells nothing; the
// others of the volume do.
func (w *Worker) volumes(ctx context.Context) ([]Volume, error) {
	bytes := make(map[cluster.DriveID]map[chunkstore.VolumeID]int64)
	for _, d := range w.config.Registry.All() {
		bounded, cancel := context.WithTimeout(ctx, listWait)
		uses, err := d.Volumes(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		held := make(map[chunkstore.VolumeID]int64, len(uses))
		for _, use := range uses {
			held[use.Volume] = use.Bytes
		}
		bytes[d.ID()] = held
	}
	var volumes []Volume
	err := chunkstore.EachVolume(ctx, w.config.Volumes, func(row chunkstore.Volume) error {
		v := Volume{Volume: row}
		for i, id := range row.Slots {
			if slices.Index(row.Slots[:], id) < i {
				continue
			}
			slots := int64(0)
			for _, other := range row.Slots {
				if other == id {
					slots++
				}
			}
			v.Bytes = max(v.Bytes, bytes[id][row.ID]/slots)
		}
		volumes = append(volumes, v)
		return nil
	})
	return volumes, err
}

// seal seals the open volumes that have a slot on a drive that leaves, or a home there. Whoever writes to one is told so by the
// drives, and goes on in another volume. It returns how many are still open.
func (w *Worker) seal(ctx context.Context, drives []Drive, volumes []Volume) (open int, err error) {
	states := make(map[cluster.DriveID]State, len(drives))
	for _, d := range drives {
		states[d.ID] = d.State
	}
	leaves := func(id cluster.DriveID) bool {
		state, known := states[id]
		return !known || state == Leaves
	}
	for i := range volumes {
		v := &volumes[i]
		if v.State != chunkstore.VolumeOpen || !slices.ContainsFunc(v.Slots[:], leaves) && !slices.ContainsFunc(v.Home[:], leaves) {
			continue
		}
		row, err := w.config.Store.Seal(ctx, v.ID)
		switch {
		case err == nil:
			v.Volume = row
		case errors.Is(err, chunkstore.ErrDriveDown) || errors.Is(err, chunkstore.ErrStaleVolume) || errors.Is(err, chunkstore.ErrNotFound):
			open++ // too few slots answer, or another changes it now: the next pass
		default:
			return open, err
		}
	}
	return open, nil
}

// arrived counts the volumes that were on their way and are at home now, and learns which are on their way.
func (w *Worker) arrived(volumes []Volume) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows := make(map[chunkstore.VolumeID]struct{}, len(volumes))
	for i := range volumes {
		v := &volumes[i]
		rows[v.ID] = struct{}{}
		away := int64(0)
		for slot := range v.Slots {
			if v.Slots[slot] != v.Home[slot] {
				away++
			}
		}
		switch bytes, ok := w.pending[v.ID]; {
		case away > 0:
			w.pending[v.ID] = max(bytes, away*v.Bytes)
		case ok:
			w.progress.MovedVolumes++
			w.progress.MovedBytes += bytes
			delete(w.pending, v.ID)
		}
	}
	for id := range w.pending {
		if _, ok := rows[id]; !ok {
			delete(w.pending, id)
		}
	}
}

func (w *Worker) refused(p repair.Place) bool {
	if at, ok := w.denied[p]; ok && time.Since(at) < deniedFor {
		return true
	}
	return w.config.Refused != nil && w.config.Refused(p)
}

// carryOut changes the homes in the rows.
func (w *Worker) carryOut(ctx context.Context, changes []Change) error {
	for p, at := range w.denied {
		if time.Since(at) >= deniedFor {
			delete(w.denied, p)
		}
	}
	changed := false
	for _, c := range changes {
		ok, err := w.admitted(ctx, c)
		if err != nil {
			return err
		}
		if !ok {
			continue // the next pass finds another place
		}
		_, err = w.config.Store.UpdateVolume(ctx, c.Row)
		if errors.Is(err, chunkstore.ErrStaleVolume) || errors.Is(err, chunkstore.ErrNotFound) {
			continue // another changed it meanwhile: the next pass
		}
		if err != nil {
			return err
		}
		changed = true
		delete(w.pending, c.Row.ID) // of a move that was called off
		if c.Bytes > 0 {
			w.pending[c.Row.ID] = c.Bytes
		}
		w.config.Log.Info("volume gets another home", "volume", c.Row.ID, "reason", c.Reason.String(), "slots", c.Slots, "bytes", c.Bytes)
	}
	if changed && w.config.Kick != nil {
		w.config.Kick()
	}
	return nil
}

// admitted asks the drives that get slots whether they hold leftovers of the volume. Repair deletes those, and the
// deletion must not meet the copies of the new move.
func (w *Worker) admitted(ctx context.Context, c Change) (bool, error) {
	ok := true
	for i, id := range c.Row.Home {
		if c.Slots>>i&1 == 0 || id == c.Row.Slots[i] {
			continue
		}
		infos, err := w.config.Store.ShardsOn(ctx, id, c.Row.ID)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err != nil || slices.ContainsFunc(infos, func(info chunkstore.ShardInfo) bool {
			shard := int(info.Key.Shard)
			return shard == i || c.Row.Slots[shard] != id && c.Row.Home[shard] != id
		}) {
			w.denied[repair.Place{Volume: c.Row.ID, Slot: i, Drive: id}] = time.Now()
			ok = false
		}
	}
	return ok, nil
}

// Empty says whether no volume row names any of these drives, as a place of shards or as a home: then they hold nothing
// that is still needed, and may be taken away. left is the number of volumes that do.
func Empty(ctx context.Context, volumes chunkstore.Volumes, drives ...cluster.DriveID) (empty bool, left int, err error) {
	err = chunkstore.EachVolume(ctx, volumes, func(v chunkstore.Volume) error {
		for _, id := range drives {
			if slices.Contains(v.Slots[:], id) || slices.Contains(v.Home[:], id) {
				left++
				break
			}
		}
		return nil
	})
	if err != nil {
		return false, left, err
	}
	return left == 0, left, nil
}
