package transport

import (
	"sync"
	"time"
)

// watchdog bites when something that should move does not for a while. It watches only between enter and leave, so that
// who thinks, or waits for somebody else, is not taken for stalled. The zero watchdog never bites.
type watchdog struct {
	limit time.Duration
	// bite is called at most once, with mu held: what it acts on still lives while it does.
	bite func()

	mu    sync.Mutex
	timer *time.Timer
	// waits is how many wait, less how many let them wait.
	waits int
	// by is when the present wait has lasted too long: a timer that fired for the wait before is too early.
	by     time.Time
	bitten bool
}

// enter begins a wait, or ends what leave began.
func (w *watchdog) enter() { w.change(1) }

// leave ends a wait, or begins a time in which nobody can expect anything. It says whether the watchdog has bitten.
func (w *watchdog) leave() (stalled bool) { return w.change(-1) }

func (w *watchdog) change(by int) (stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits += by
	switch {
	case w.limit <= 0 || w.bitten:
	case w.waits <= 0:
		if w.timer != nil {
			w.timer.Stop()
		}
	case w.timer == nil:
		w.by = time.Now().Add(w.limit)
		w.timer = time.AfterFunc(w.limit, w.expired)
	default:
		w.by = time.Now().Add(w.limit)
		w.timer.Reset(w.limit)
	}
	return w.bitten
}

func (w *watchdog) expired() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waits > 0 && !w.bitten && !time.Now().Before(w.by) {
		w.bitten = true
		w.bite()
	}
}
