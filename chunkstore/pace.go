package chunkstore

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Read times are kept by drive and by size class: a class for each doubling from one leaf to the window of eight rows.
const (
	paceClasses = 6
	// paceSteps is the number of steps of a digest, four for each doubling from paceFirst on: to within a fifth, from
	// what a page cache takes to what nobody waits for.
	paceSteps = 4 * 18
	paceFirst = 16 * time.Microsecond
	// paceMemory is after how many samples the old ones count half, so that a digest follows its drive.
	paceMemory = 128
	// paceLook is how many samples lie between two looks at a percentile.
	paceLook = 16
	// slowFactor is how much slower than its neighbours a drive is before reads go around it: a busy disk is two or
	// three times as slow as an idle one, a failing one ten or more.
	slowFactor = 4
	// probeEvery is how often a slow drive is asked all the same, so that it is known when it is slow no more.
	probeEvery = 16
)

// paceClass is the size class of a read of so many bytes.
func paceClass(size int64) int {
	return min(bits.Len64(uint64(max(size-1, 0))/(16<<10)), paceClasses-1)
}

// paceDigest is a histogram of read times of one drive and one class. It takes 160 bytes.
type paceDigest struct {
	mu     sync.Mutex
	counts [paceSteps]uint16
	sum    int // of counts
	since  int // samples since the last look
	p95    atomic.Int64
}

// add counts a sample. It tells whether it looked at the percentile again.
func (d *paceDigest) add(took time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[paceStep(took)]++
	d.sum++
	if d.sum >= paceMemory {
		d.sum = 0
		for i := range d.counts {
			d.counts[i] /= 2
			d.sum += int(d.counts[i])
		}
	}
	if d.since++; d.since < paceLook {
		return false
	}
	d.since = 0
	rest := d.sum / 20
	for i := paceSteps - 1; i >= 0; i-- {
		if rest -= int(d.counts[i]); rest < 0 {
			d.p95.Store(int64(paceEdge(i)))
			break
		}
	}
	return true
}

// paceStep is the step of a digest that a time falls on.
func paceStep(took time.Duration) int {
	q := uint64(max(took, paceFirst) / (paceFirst / 4)) // in quarters of the first step, 4 and more
	octave := bits.Len64(q) - 3
	return min(4*octave+int(q>>octave&3), paceSteps-1)
}

// paceEdge is the upper edge of a step.
func paceEdge(step int) time.Duration {
	return paceFirst / 4 * time.Duration(4+step%4+1) << (step / 4)
}

// paces is what a Store knows of how fast its drives read.
type paces struct {
	// usual is the middle one of the drives' 95th percentiles, by class; zero while too few are known. One drive that
	// is slow does not change it, all of them do.
	usual [paceClasses]atomic.Int64
	// uneven says that a drive was slow when somebody last looked.
	uneven [paceClasses]atomic.Bool
}

// paceDrives is how many drives must be known before anything is usual.
const paceDrives = 4

// pace records how long a read of size bytes took.
func (s *Store) pace(m *member, size int64, took time.Duration) {
	class := paceClass(size)
	if !m.paces[class].add(took) {
		return
	}
	var known []int64
	for _, other := range s.config.Drives.list() {
		if p95 := other.paces[class].p95.Load(); p95 > 0 {
			known = append(known, p95)
		}
	}
	if len(known) < paceDrives {
		return
	}
	slices.Sort(known)
	s.paces.usual[class].Store(known[len(known)/2])
	s.paces.uneven[class].Store(s.isSlow(time.Duration(known[len(known)-1]), class))
}

// isSlow says whether a drive with this 95th percentile is much slower than the others.
func (s *Store) isSlow(p95 time.Duration, class int) bool {
	usual := time.Duration(s.paces.usual[class].Load())
	return usual > 0 && p95 > slowFactor*usual && p95 > s.config.Hedge
}

// slow says whether reads of this class should go around the drive.
func (s *Store) slow(m *member, class int) bool {
	return m != nil && s.isSlow(time.Duration(m.paces[class].p95.Load()), class)
}

// hedges says whether reads hedge at all, and now: not while memory is scarce.
func (s *Store) hedges() bool { return s.config.Hedge > 0 && !s.budget.scarce() }

// hedgeAfter is how long a read of this class waits before it asks other drives too; zero: it does not ask them.
func (s *Store) hedgeAfter(class int) time.Duration {
	usual := time.Duration(s.paces.usual[class].Load())
	if s.config.Hedge <= 0 || usual == 0 {
		return 0
	}
	return min(max(usual, s.config.Hedge), s.config.ReadDeadline/2)
}

// What reads may take beyond what they need: a twentieth, and what has been saved up, which is at first what lets a
// few reads hedge and at most a burst of a window of each kind.
const (
	hedgeShare      = 20
	hedgeFirstReads = 16
	hedgeFirstBytes = 8 << 20
	hedgeMostReads  = 64
	hedgeMostBytes  = 32 << 20
)

// allowance is what reads may take beyond what they need, counted in reads and in bytes, in parts of a hedgeShare.
type allowance struct {
	mu    sync.Mutex
	reads int64
	bytes int64
}

func newAllowance() *allowance {
	return &allowance{reads: hedgeFirstReads * hedgeShare, bytes: hedgeFirstBytes * hedgeShare}
}

// earn counts reads that are needed.
func (a *allowance) earn(reads, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads = min(a.reads+reads, hedgeMostReads*hedgeShare)
	a.bytes = min(a.bytes+bytes, hedgeMostBytes*hedgeShare)
}

// spend takes reads that are not, and tells whether there was enough left of both.
func (a *allowance) spend(reads, bytes int64) bool {
	reads, bytes = reads*hedgeShare, bytes*hedgeShare
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reads < reads || a.bytes < bytes {
		return false
	}
	a.reads -= reads
	a.bytes -= bytes
	return true
}
