package chunkstore

import (
	"runtime"
	"sync"

	"github.com/holdfast/holdfast/chunkstore/hashkern"
)

// hasher digests the rows of all writes. While every core has one in hand, those that wait are taken along two at a
// time: two MD5 streams at once take a third more time than one (hashkern.BenchmarkKernels), and none waits for another
// when cores are free.
type hasher struct {
	cores int

	mu      sync.Mutex
	running int // at most cores
	waiting []*hashJob
}

// hashJob is a row whose write waits.
type hashJob struct {
	work hashkern.Work
	// turn tells whether the job is to run now; else another took it along and it is done. It has room for the answer.
	turn chan bool
}

func newHasher() *hasher { return &hasher{cores: runtime.NumCPU()} }

// run does the work and returns when it is done.
func (h *hasher) run(work hashkern.Work) {
	if work.MD5 == nil {
		hashkern.Run(work)
		return
	}
	if !h.enter(work) {
		return
	}
	if other := h.next(); other != nil {
		hashkern.RunTwo(work, other.work)
		other.turn <- false
	} else {
		hashkern.Run(work)
	}
	h.leave()
}

// enter waits for a core; false says that the work was done meanwhile.
func (h *hasher) enter(work hashkern.Work) bool {
	h.mu.Lock()
	if h.running < h.cores {
		h.running++
		h.mu.Unlock()
		return true
	}
	job := &hashJob{work: work, turn: make(chan bool, 1)}
	h.waiting = append(h.waiting, job)
	h.mu.Unlock()
	return <-job.turn
}

// next takes the job that waits longest.
func (h *hasher) next() *hashJob {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.popLocked()
}

func (h *hasher) popLocked() *hashJob {
	if len(h.waiting) == 0 {
		return nil
	}
	job := h.waiting[0]
	h.waiting = h.waiting[1:]
	return job
}

// leave hands the core to the job that waits longest.
func (h *hasher) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if job := h.popLocked(); job != nil {
		job.turn <- true
		return
	}
	h.running--
}
