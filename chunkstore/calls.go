package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// slowCall is how long a call of background work or of an administrator waits for a drive.
	slowCall = 10 * time.Second

	allShards uint16 = 1<<Shards - 1
)

// call runs f on a drive and waits for it until ctx ends or wait is over; then it returns and leaves f to itself, and
// to f the memory of w, which may be nil. A drive on which a call hangs is not called again before that one returned.
func call[T any](ctx context.Context, s *Store, m *member, wait time.Duration, w *window, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if m.hangs(s.config.Now()) {
		return none, fmt.Errorf("calls hang on it: %w", ErrDriveDown)
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ch := make(chan answer, 1)
	var state atomic.Int32
	if w != nil {
		w.retain()
	}
	release := func() {
		if w != nil {
			w.release()
		}
	}
	ok := s.spawn(func() {
		defer release()
		value, err := f(bounded)
		ch <- answer{value, err}
		if !state.CompareAndSwap(readRunning, readDone) && state.Load() == readHung {
			m.returnRead()
		}
	})
	if !ok {
		release()
		return none, ErrClosed
	}
	select {
	case a := <-ch:
		return a.value, a.err
	case <-bounded.Done():
	}
	if err := ctx.Err(); err != nil {
		state.CompareAndSwap(readRunning, readLeft)
		return none, err
	}
	m.hangRead(s.config.Now())
	if !state.CompareAndSwap(readRunning, readHung) {
		m.returnRead() // it returned in the same moment
	}
	return none, fmt.Errorf("no answer for %v: %w", wait, ErrDriveDown)
}

// driveSlots are the slots of a volume that one drive holds.
type driveSlots struct {
	drive cluster.DriveID
	mask  uint16
}

func (d driveSlots) count() int { return bits.OnesCount16(d.mask) }

// bySlots groups the slots in mask by drive, in order of the first slot.
func bySlots(slots DriveIDs, mask uint16) []driveSlots {
	var drives []driveSlots
	for i, id := range slots {
		if mask>>i&1 == 0 {
			continue
		}
		at := slices.IndexFunc(drives, func(d driveSlots) bool { return d.drive == id })
		if at < 0 {
			at = len(drives)
			drives = append(drives, driveSlots{drive: id})
		}
		drives[at].mask |= 1 << i
	}
	return drives
}

// chunkIDs hands out chunk ids from leased blocks.
type chunkIDs struct {
	lease func(context.Context) (uint64, error)

	// mu is held over a lease as well: no write can go on without one.
	mu    sync.Mutex
	block uint64
	next  uint64 // Seq of the next id; above the range of Seq: lease first
	have  bool
}

func (c *chunkIDs) take(ctx context.Context) (ChunkID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.have || c.next > 1<<32-1 {
		block, err := c.lease(ctx)
		if err != nil {
			return ChunkID{}, fmt.Errorf("lease chunk ids: %w", err)
		}
		c.block, c.next, c.have = block, 0, true
	}
	id := ChunkID{Block: c.block, Seq: uint32(c.next)}
	c.next++
	return id, nil
}

// The bounds of the deadline that writes set their slowest drives (DESIGN: three times the 95th percentile).
const (
	minPutDeadline = 250 * time.Millisecond
	maxPutDeadline = 2 * time.Second
	latencySamples = 256
	latencyRefresh = 32 // samples between two looks at the percentile
)

// latency keeps the durations of the last puts.
type latency struct {
	mu      sync.Mutex
	samples [latencySamples]time.Duration
	n       int
	p95     time.Duration
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.samples[l.n%latencySamples] = d
	l.n++
	if l.n%latencyRefresh == 0 {
		sorted := slices.Clone(l.samples[:min(l.n, latencySamples)])
		slices.Sort(sorted)
		l.p95 = sorted[len(sorted)*95/100]
	}
}

// deadline is how long a write waits for its slowest drives.
func (l *latency) deadline() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(max(3*l.p95, minPutDeadline), maxPutDeadline)
}

// isContext says that err is the end of a context and tells nothing about a drive.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
