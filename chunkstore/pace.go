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
	// paceLook is how many samples lie between two looks at the percentiles.
	paceLook = 16
	// slowFactor is how much slower than its neighbours a drive is before reads go around it: a busy disk is two or
	// three times as slow as an idle one, a failing one ten or more. It is measured at the 75th percentile: a drive that
	// is slow now and then has late reads, which is no reason to rebuild all that it holds, and a machine that is short
	// of processors makes a few reads of any drive slow.
	slowFactor = 4
	// lateFactor is how many of a drive's 95th percentiles pass before a read is late. At one of them, a third of the
	// rounds of eight reads would have a late one among drives that are all well, so that the twentieth was always used
	// up, for nothing: on a machine that is busy with the digests of what it reads, that cost 9 % of a GET. At two it is
	// one round in fifty of drives whose times are spread exponentially, and as good as none of those of busy processors.
	lateFactor = 2
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
	// p75 and p95 are the percentiles when it was last looked; zero before.
	p75, p95 atomic.Int64
}

// add counts a sample. It tells whether it looked at the percentiles again.
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
	above, step := 0, paceSteps
	for ; above <= d.sum/20; above += int(d.counts[step]) {
		step--
	}
	d.p95.Store(int64(paceEdge(step)))
	for ; above <= d.sum/4; above += int(d.counts[step]) {
		step--
	}
	d.p75.Store(int64(paceEdge(step)))
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
	// usual75 and usual95 are the middle ones of the drives' percentiles, by class; zero while too few are known. One
	// drive that is slow does not change them, all of them do.
	usual75, usual95 [paceClasses]atomic.Int64
}

const (
	// paceDrives is how many drives must be known before anything is usual.
	paceDrives = 4
	// paceSample is how many drives are looked at for what is usual, where there are more.
	paceSample = 32
)

// pace records how long a read of size bytes took.
func (s *Store) pace(m *member, size int64, took time.Duration) {
	class := paceClass(size)
	if !m.paces[class].add(took) {
		return
	}
	var members [paceSample]*member
	var p75, p95 [paceSample]int64
	n := 0
	for _, other := range members[:s.config.Drives.sample(members[:])] {
		if d := &other.paces[class]; d.p95.Load() > 0 && d.p75.Load() > 0 {
			p75[n], p95[n] = d.p75.Load(), d.p95.Load()
			n++
		}
	}
	if n < paceDrives {
		return
	}
	slices.Sort(p75[:n])
	slices.Sort(p95[:n])
	s.paces.usual75[class].Store(p75[n/2])
	s.paces.usual95[class].Store(p95[n/2])
}

// slow says whether reads of this class should go around the drive.
func (s *Store) slow(m *member, class int) bool {
	if m == nil {
		return false
	}
	usual, p75 := s.paces.usual75[class].Load(), m.paces[class].p75.Load()
	return usual > 0 && p75 > slowFactor*usual && p75 > int64(s.config.Hedge)
}

// hedges says whether reads hedge at all, and now: not while memory is scarce.
func (s *Store) hedges() bool { return s.config.Hedge > 0 && !s.budget.scarce() }

// lateAfter is how long after its beginning a read of this class is late; zero: never. A drive is measured by what it
// takes itself, so that one that is far away is not late for it, but not by more than slowFactor of what is usual.
func (s *Store) lateAfter(m *member, class int) time.Duration {
	usual := s.paces.usual95[class].Load()
	if s.config.Hedge <= 0 || usual == 0 {
		return 0
	}
	p95 := m.paces[class].p95.Load()
	if p95 == 0 || s.slow(m, class) {
		p95 = usual
	}
	late := lateFactor * time.Duration(min(p95, slowFactor*usual))
	return min(max(late, s.config.Hedge), s.config.ReadDeadline/2)
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
