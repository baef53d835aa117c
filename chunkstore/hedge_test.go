package chunkstore_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/storetest"
)

// moody is a drive whose reads take as long as pick says, and may do worse.
type moody struct {
	chunkstore.Drive
	mu    sync.Mutex
	pick  func() time.Duration
	wrong bool // reads leave garbage and end with ErrDamaged
	deaf  bool // reads do not end with their context
}

func (d *moody) Read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	d.mu.Lock()
	delay, wrong, deaf := d.pick(), d.wrong, d.deaf
	d.mu.Unlock()
	ended := ctx.Done()
	if deaf {
		ended, ctx = nil, context.WithoutCancel(ctx)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
		return ctx.Err()
	}
	if wrong {
		for i := range dst {
			dst[i] = 0xDB
		}
		return fmt.Errorf("read: %w", chunkstore.ErrDamaged)
	}
	return d.Drive.Read(ctx, want, shard, off, dst)
}

func (d *moody) set(edit func(d *moody)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(d)
}

func always(delay time.Duration) func() time.Duration { return func() time.Duration { return delay } }

// herd is a Store over twelve moody drives with one chunk, of which the drive of slot i is drives[i].
type herd struct {
	*storetest.Kit
	drives  [chunkstore.Shards]*moody
	body    []byte
	written chunkstore.Written
}

const healthy = time.Millisecond

// small is a chunk of one row of short cells, quick to verify.
const small = 8 * leaf

func newHerd(t *testing.T, size int, change func(*chunkstore.Config)) *herd {
	h := &herd{Kit: storetest.New(t, 12, func(c *chunkstore.Config) {
		c.ReadDeadline, c.Hedge = 10*time.Second, 2*healthy
		if change != nil {
			change(c)
		}
	})}
	h.body = storetest.Body(1, size)
	h.written = h.Write(h.body)
	for i, d := range h.Slots(h.written.Chunks[0]) {
		h.drives[i] = &moody{Drive: d, pick: always(healthy)}
		h.Set.Remove(d.ID())
		if err := h.Set.Add(h.drives[i]); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// read reads n bytes from off and tells how long it took.
func (h *herd) read(off, n int64) time.Duration {
	h.T.Helper()
	begun := time.Now()
	got := make([]byte, n)
	if err := h.Store.ReadAt(h.T.Context(), h.written.Chunks[0], off, got); err != nil {
		h.T.Fatal(err)
	}
	took := time.Since(begun)
	if !bytes.Equal(got, h.body[off:off+n]) {
		h.T.Fatalf("wrong bytes at %d", off)
	}
	return took
}

// rows reads the first row count times and returns the times in order of length.
func (h *herd) rows(count int) []time.Duration {
	h.T.Helper()
	times := make([]time.Duration, count)
	for i := range times {
		times[i] = h.read(0, min(int64(len(h.body)), row))
	}
	slices.Sort(times)
	return times
}

func percentile(sorted []time.Duration, p int) time.Duration { return sorted[len(sorted)*p/100] }

// wantFewHedges fails unless reads beyond what was needed are a twentieth of reads, and what may be saved up.
func (h *herd) wantFewHedges(reads int64) {
	h.T.Helper()
	if s := h.Store.Stats(); s.HedgeReads > reads/20+80 {
		h.T.Errorf("%d of %d reads were beyond what was needed", s.HedgeReads, reads)
	}
}

// TestOneSlowDriveDoesNotSlowReads: one of the drives becomes a hundred times as slow. The slowest reads stay near those
// before, at no more than a twentieth of reads more; when the drive recovers it is read again.
func TestOneSlowDriveDoesNotSlowReads(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHerd(t, small, nil)
			before := percentile(h.rows(200), 99)
			h.drives[2].set(func(d *moody) { d.pick, d.deaf = always(100*healthy), deaf })
			times := h.rows(2000)
			if p99 := percentile(times, 99); p99 > before+4*healthy {
				t.Errorf("p99 is %v, %v before", p99, before)
			}
			s := h.Store.Stats()
			if s.Hedges == 0 || s.HedgesWon == 0 || s.Avoided == 0 {
				t.Errorf("nothing was hedged: %+v", s)
			}
			if s.Around != 0 {
				t.Errorf("a slow drive counts as hanging: %+v", s)
			}
			h.wantFewHedges(2200 * 8)
			h.drives[2].set(func(d *moody) { d.pick = always(healthy) })
			h.rows(6000)
			avoided := h.Store.Stats().Avoided
			h.rows(200)
			if again := h.Store.Stats().Avoided; again != avoided {
				t.Errorf("%d reads still avoid a drive that recovered", again-avoided)
			}
		})
	}
}

// TestWithoutHedgingReadsWait proves that the drive of the test above is in the way.
func TestWithoutHedgingReadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, small, func(c *chunkstore.Config) { c.Hedge = -1 })
		h.rows(200)
		h.drives[2].set(func(d *moody) { d.pick = always(100 * healthy) })
		if p50 := percentile(h.rows(200), 50); p50 != 100*healthy {
			t.Errorf("p50 is %v", p50)
		}
		if s := h.Store.Stats(); s.Hedges+s.Avoided != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestSmallReadsHedge: a read that touches one shard takes eight others when it is late, which is why few of them may.
func TestSmallReadsHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, small, nil)
		for i := range 2000 { // every drive, so that all are known
			h.read(int64(i%8)*leaf, leaf)
		}
		h.drives[0].set(func(d *moody) { d.pick = always(100 * healthy) })
		if took := h.read(0, leaf); took > 10*healthy {
			t.Errorf("a small read took %v", took)
		}
		for range 1000 {
			h.read(0, leaf)
		}
		if s := h.Store.Stats(); s.HedgesWon == 0 {
			t.Errorf("stats %+v", s)
		}
		h.wantFewHedges(3001)
	})
}

// TestDrivesThatAreSlowAlikeAreNotAskedTwice: all drives become a hundred times as slow at once, and then take times that
// vary. Reads beyond what is needed stay a twentieth.
func TestDrivesThatAreSlowAlikeAreNotAskedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, small, nil)
		h.rows(500)
		all := func(pick func() time.Duration) {
			for _, d := range h.drives {
				d.set(func(d *moody) { d.pick = pick })
			}
		}
		all(always(100 * healthy))
		h.rows(500)
		s := h.Store.Stats()
		h.wantFewHedges(1000 * 8)
		h.rows(500)
		if again := h.Store.Stats(); again.HedgeReads != s.HedgeReads || again.Avoided != 0 {
			t.Errorf("slow is usual now, and still %+v, before %+v", again, s)
		}
		random := rand.New(rand.NewPCG(3, 4))
		var mu sync.Mutex
		all(func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(random.ExpFloat64() * float64(10*healthy))
		})
		h.rows(3000)
		if s := h.Store.Stats(); s.HedgesWon == 0 {
			t.Errorf("nothing was hedged: %+v", s)
		}
		h.wantFewHedges(4500 * 8)
	})
}

// TestFarDrivesAreNotLate: drives on other peers take longer than those here. Each is measured by itself, so reads of a
// cluster that is well ask nobody twice. Where the near ones are the most and much faster, they are enough.
func TestFarDrivesAreNotLate(t *testing.T) {
	for _, c := range []struct {
		name  string
		far   int // how many drives, from slot 0 on
		takes time.Duration
		avoid bool
	}{
		{"Eight", 8, 20 * healthy, false},
		{"FourNotMuchSlower", 4, 3 * healthy, false},
		{"FourMuchSlower", 4, 20 * healthy, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHerd(t, small, nil)
				for _, d := range h.drives[:c.far] {
					d.set(func(d *moody) { d.pick = always(c.takes) })
				}
				h.rows(100)
				for _, d := range h.drives[:4] { // so that the parity shards are read too, and all drives are known
					h.Set.Remove(d.ID())
				}
				h.rows(100)
				for _, d := range h.drives[:4] {
					if err := h.Set.Add(d); err != nil {
						t.Fatal(err)
					}
				}
				h.rows(200)
				before := h.Store.Stats()
				times := h.rows(1000)
				s := h.Store.Stats()
				if avoids := s.Avoided > before.Avoided; avoids != c.avoid || !avoids && s.Hedges != before.Hedges {
					t.Errorf("reads of drives that are well: %+v, before %+v", s, before)
				}
				h.wantFewHedges(1400 * 8)
				if p50 := percentile(times, 50); c.avoid && p50 != healthy {
					t.Errorf("p50 is %v, the near drives take %v", p50, healthy)
				}
			})
		})
	}
}

// TestLateAnswersDoNotSpoilWhatWasRebuilt: drives that were left behind write to their memory afterwards, late and wrong.
func TestLateAnswersDoNotSpoilWhatWasRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, 4*row, nil)
		h.rows(100)
		for round := range 16 {
			slow := h.drives[round%8]
			wrong := round%2 == 0
			slow.set(func(d *moody) { d.pick, d.wrong, d.deaf = always(20*healthy), wrong, true })
			for i := range 4 {
				h.read(int64(i)*row, row)
			}
			// A stream whose windows stand in memory while the late answers come.
			r := h.Store.Read(t.Context(), storetest.Refs(h.written.Chunks), 0, int64(len(h.body)))
			var got []byte
			p := make([]byte, 100_000)
			for {
				n, err := r.Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					break
				}
				time.Sleep(7 * healthy)
			}
			if err := r.Close(); err != nil || !bytes.Equal(got, h.body) {
				t.Fatalf("round %d: wrong bytes of %d: %v", round, len(got), err)
			}
			slow.set(func(d *moody) { d.pick, d.wrong, d.deaf = always(healthy), false, false })
			time.Sleep(time.Second)
			h.rows(10)
		}
		if s := h.Store.Stats(); s.HedgesWon < 8 {
			t.Errorf("stats %+v", s)
		}
		synctest.Wait()
		if health, err := h.Store.Health(t.Context()); err != nil || health.MemoryUsed != 0 {
			t.Errorf("memory is held: %d bytes, %v", health.MemoryUsed, err)
		}
	})
}

// TestHungDriveBehindAHedgeCountsAsHanging: a read that was left behind and never ends is found by its deadline.
func TestHungDriveBehindAHedgeCountsAsHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, small, func(c *chunkstore.Config) { c.ReadDeadline = time.Second })
		h.rows(200)
		h.drives[1].set(func(d *moody) { d.pick, d.deaf = always(time.Minute), true })
		if took := h.read(0, small); took > 10*healthy {
			t.Errorf("it took %v", took)
		}
		time.Sleep(2 * time.Second)
		id := h.drives[1].ID()
		if hanging := h.Set.Hanging(id, time.Now().Add(2*time.Second)); hanging == 0 || h.Store.Stats().Around != 1 {
			t.Errorf("hanging for %v: %+v", hanging, h.Store.Stats())
		}
		time.Sleep(time.Minute)
		if hanging := h.Set.Hanging(id, time.Now()); hanging != 0 {
			t.Errorf("it returned and still hangs for %v", hanging)
		}
	})
}

// TestScarceMemoryDoesNotHedge: what is left behind keeps its memory, so a Store that is short of it waits.
func TestScarceMemoryDoesNotHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, small, nil)
		h.rows(200)
		h.drives[2].set(func(d *moody) { d.pick = always(100 * healthy) })
		release, err := h.Store.HoldMemory(8)
		if err != nil {
			t.Fatal(err)
		}
		if fastest := h.rows(50)[0]; fastest != 100*healthy || h.Store.Stats().Hedges != 0 {
			t.Errorf("a read took %v: %+v", fastest, h.Store.Stats())
		}
		release()
		if p50 := percentile(h.rows(200), 50); p50 > 10*healthy {
			t.Errorf("with memory a read takes %v", p50)
		}
	})
}
