package repair

import (
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// refusalKept is how long a refusal counts that is not seen again. It is long, since who does not use the place does not
// see it either, and not for ever, since a drive forgets what was deleted once all of a volume was.
const refusalKept = time.Hour

// Place is a drive that a slot of a volume may lie on.
type Place struct {
	Volume chunkstore.VolumeID
	Slot   int
	Drive  cluster.DriveID
}

// refusal is that a drive says of a chunk which other drives hold that it was deleted. It is so for a moment while a
// chunk is deleted, and lasting where a slot lay once and was moved away from.
type refusal struct {
	pass   int       // of the first time
	lasted bool      // it was seen in a later pass too
	last   time.Time // when it was seen last
}

// Refused says that a drive cannot take the shards of a slot, because some of them were deleted there while they live on
// elsewhere: the slot needs another home.
func (w *Worker) Refused(p Place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.refusals[p]
	return ok && r.lasted && time.Since(r.last) < refusalKept
}

// refuse notes a refusal and says whether it lasts.
func (w *Worker) refuse(p Place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.refusals[p]
	if !ok || time.Since(r.last) >= refusalKept {
		r = refusal{pass: w.pass}
	}
	r.lasted = r.lasted || r.pass < w.pass
	r.last = time.Now()
	w.refusals[p] = r
	return r.lasted
}

// expire forgets old refusals.
func (w *Worker) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, r := range w.refusals {
		if time.Since(r.last) >= refusalKept {
			delete(w.refusals, p)
		}
	}
}
