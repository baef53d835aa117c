package repair

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

const (
	// together is how many shards are restored at a time, so that a drive syncs several with one fdatasync. Each takes up
	// to three rows of memory, so these fit into the least memory of a Store.
	together = 8
	// batch is how many shards are restored between two pauses.
	batch = 4 * together
)

// job is one shard to restore.
type job struct {
	chunk  chunkstore.Chunk
	shard  int
	volume chunkstore.Volume // where shards of the chunk are
	to     cluster.DriveID
	losses int         // that the chunk survives now; below one there is no pause after it
	done   func(error) // told how it went, in the goroutine of the pass
}

// restore does jobs in about their order, several at a time, and pauses between batches as the share asks. It returns an
// error only when ctx has ended.
func (w *Worker) restore(ctx context.Context, jobs []job) error {
	for part := range slices.Chunk(jobs, batch) {
		begun := time.Now()
		errs := w.restoreBatch(ctx, part)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		urgent := false
		for i, j := range part {
			w.restored(errs[i])
			j.done(errs[i])
			urgent = urgent || j.losses < 1
		}
		if urgent {
			continue // one more loss would lose it, or it cannot be read: no pause before the next
		}
		if err := w.rest(ctx, time.Since(begun)); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) restoreBatch(ctx context.Context, jobs []job) []error {
	var (
		errs = make([]error, len(jobs))
		next atomic.Int64
		wait sync.WaitGroup
	)
	for range min(together, len(jobs)) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(jobs); i = int(next.Add(1)) - 1 {
				j := jobs[i]
				errs[i] = w.config.Store.Restore(ctx, j.chunk, j.shard, j.volume, j.to)
			}
		})
	}
	wait.Wait()
	return errs
}

// restored counts the outcome of a Store.Restore.
func (w *Worker) restored(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.progress.Restored++
		return
	}
	w.progress.Failed++
	if !errors.Is(err, chunkstore.ErrDeleted) {
		w.failed++
		w.failure = err // it names shard, chunk and drive
	}
}

// rest pauses for work that took so long. It returns an error only when ctx has ended.
func (w *Worker) rest(ctx context.Context, worked time.Duration) error {
	w.resting += time.Duration(float64(worked) * (1/w.config.Share - 1))
	if w.resting < 10*time.Millisecond {
		return nil // too short for a timer to measure; owed
	}
	timer := time.NewTimer(w.resting)
	defer timer.Stop()
	w.resting = 0
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
