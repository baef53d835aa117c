package wire

import (
	"io"
	"sync"
	"time"
)

// Watch ends a call when nothing moves: it calls fire once no byte moved for a while. Moved puts it off, Pause stops it
// while somebody thinks, End stops it for good.
//
// Package transport has a watchdog of another kind: it watches only while somebody waits for the network, and there may
// be several who do.
type Watch struct {
	silence time.Duration
	fire    func()

	mu     sync.Mutex
	timer  *time.Timer
	paused bool
	ended  bool
}

// NewWatch begins to watch. fire must not call the Watch.
func NewWatch(silence time.Duration, fire func()) *Watch {
	w := &Watch{silence: silence, fire: fire}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(silence, w.expire)
	return w
}

func (w *Watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && !w.paused {
		w.fire()
	}
}

// Moved says that bytes moved. It ends a pause.
func (w *Watch) Moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.paused = false
		w.timer.Reset(w.silence)
	}
}

// Pause stops the watch until bytes move again.
func (w *Watch) Pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = true
	w.timer.Stop()
}

// End stops the watch: when it returns fire is not running and will not run.
func (w *Watch) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// Reader is r, and tells the watch of every byte that comes.
func (w *Watch) Reader(r io.Reader) io.Reader { return watched{r, w} }

type watched struct {
	r     io.Reader
	watch *Watch
}

// Read implements io.Reader.
func (w watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.watch.Moved()
	}
	return n, err
}
