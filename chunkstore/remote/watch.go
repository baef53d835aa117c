package remote

import (
	"io"
	"sync"
	"time"
)

// watch ends a call when nothing moves. moved re-arms it, pause stops it while a drive works, end stops it for good:
// after end returned, fire is not running and will not run.
type watch struct {
	silence time.Duration
	fire    func()

	mu     sync.Mutex
	timer  *time.Timer
	paused bool
	ended  bool
}

func newWatch(silence time.Duration, fire func()) *watch {
	w := &watch{silence: silence, fire: fire}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(silence, w.expire)
	return w
}

func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && !w.paused {
		w.fire()
	}
}

// moved says that bytes moved. It ends a pause.
func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.paused = false
		w.timer.Reset(w.silence)
	}
}

func (w *watch) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = true
	w.timer.Stop()
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// watchedReader tells a watch of every byte that comes.
type watchedReader struct {
	r     io.Reader
	watch *watch
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.watch.moved()
	}
	return n, err
}
