package tree

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// source is a Reader that several reads share and that is closed after the last of them.
type source struct {
	Reader
	mu     sync.Mutex
	refs   int
	closed bool
}

// newSource takes over r; the caller holds one reference.
func newSource(r Reader) *source { return &source{Reader: r, refs: 1} }

func (s *source) hold() *source {
	s.mu.Lock()
	s.refs++
	s.mu.Unlock()
	return s
}

func (s *source) release() error {
	s.mu.Lock()
	s.refs--
	last := s.refs == 0 && !s.closed
	if last {
		s.closed = true
	}
	s.mu.Unlock()
	if last {
		return s.Close()
	}
	return nil
}

const (
	// firstWindow and lastWindow bound what one sequential reader fetches ahead: it starts with one chunk row pair and
	// doubles to a whole chunk, so a short read wastes little and a long one keeps all drives busy.
	firstWindow = 1 << 20
	lastWindow  = 8 << 20
	// windowsAhead is how many windows one reader has in flight beside the one it reads from.
	windowsAhead = 2
	// nearby is how far from the expected place a read still counts as sequential: the kernel sends its read-ahead
	// out of order.
	nearby = 2 << 20
)

// window is one span of a version that is or was fetched ahead.
type window struct {
	off  int64
	data []byte
	// done is closed when data and err are set.
	done chan struct{}
	err  error
	cost int64
	// uses counts who may still touch data: the list of its handle, its fetch, and reads. The last one gives it back.
	uses   atomic.Int32
	budget *budget
}

func newWindow(off, cost int64, b *budget) *window {
	win := &window{off: off, cost: cost, done: make(chan struct{}), budget: b}
	win.uses.Store(1)
	return win
}

func (win *window) end() int64 { return win.off + win.cost }

func (win *window) hold() *window {
	win.uses.Add(1)
	return win
}

func (win *window) release() {
	if win.uses.Add(-1) > 0 {
		return
	}
	if len(win.data) == lastWindow {
		largest.Put((*[lastWindow]byte)(win.data))
	}
	win.data = nil
	win.budget.give(win.cost)
}

// largest keeps the memory of windows of the last size: a long read would have the heap grow by one, clear it and give
// it up again every few milliseconds.
var largest = sync.Pool{New: func() any { return new([lastWindow]byte) }}

// memory is room for n bytes of a window.
func memory(n int64) []byte {
	if n == lastWindow {
		return largest.Get().(*[lastWindow]byte)[:]
	}
	return make([]byte, n)
}

// windows is the read-ahead of one open file handle.
type windows struct {
	budget *budget
	wg     *sync.WaitGroup

	mu      sync.Mutex
	version Version
	// next is where a sequential reader goes on; streak counts the sequential reads before.
	next   int64
	streak int
	size   int64 // of the next window
	list   []*window
}

// read fills p from off, which lies inside the version with len(p) bytes, from the windows or from src.
func (w *windows) read(ctx context.Context, background context.Context, src *source, p []byte, off int64) error {
	info := src.Info()
	w.mu.Lock()
	if w.version != info.Version {
		w.dropLocked(0, true)
		w.version, w.next, w.streak, w.size = info.Version, 0, 0, firstWindow
	}
	end := off + int64(len(p))
	sequential := off <= w.next+nearby && end >= w.next-nearby
	if sequential {
		w.streak++
		w.next = max(w.next, end)
		w.dropLocked(off-nearby, false)
	} else {
		w.streak = 0
		w.next = end
		w.dropLocked(0, true)
		w.size = firstWindow
	}
	if sequential && (w.streak > 1 || info.Size <= firstWindow) {
		w.aheadLocked(background, src, off, end, info.Size)
	}
	list := make([]*window, len(w.list))
	for i, win := range w.list {
		list[i] = win.hold()
	}
	w.mu.Unlock()
	defer func() {
		for _, win := range list {
			win.release()
		}
	}()
	return readThrough(ctx, list, src, p, off)
}

// aheadLocked starts windows so that [off, end) and windowsAhead more are on their way.
func (w *windows) aheadLocked(background context.Context, src *source, off, end, size int64) {
	from := off
	if n := len(w.list); n > 0 {
		from = w.list[n-1].end()
	}
	if from < off-nearby || from > end+(windowsAhead+1)*lastWindow {
		return
	}
	for waiting := w.countAfterLocked(end); from < size && (from < end || waiting < windowsAhead); {
		n := min(w.size, size-from)
		for n > firstWindow && !w.budget.try(n) {
			n /= 2
		}
		if n <= firstWindow && !w.budget.try(n) {
			return
		}
		win := newWindow(from, n, w.budget)
		w.list = append(w.list, win)
		w.wg.Add(1)
		go win.hold().fetch(background, w.wg, src.hold())
		from += n
		w.size = min(2*w.size, lastWindow)
		if win.off >= end {
			waiting++
		}
	}
}

func (w *windows) countAfterLocked(end int64) int {
	n := 0
	for _, win := range w.list {
		if win.off >= end {
			n++
		}
	}
	return n
}

func (win *window) fetch(ctx context.Context, wg *sync.WaitGroup, src *source) {
	defer wg.Done()
	defer win.release()
	data := memory(win.cost)
	n, err := readAt(ctx, src, data, win.off)
	if err == nil && int64(n) < win.cost {
		err = io.ErrUnexpectedEOF
	}
	if cerr := src.release(); err == nil {
		err = cerr
	}
	win.data, win.err = data, err
	close(win.done)
}

// dropLocked forgets the windows that end at or before off, or all.
func (w *windows) dropLocked(off int64, all bool) {
	kept := w.list[:0]
	for _, win := range w.list {
		if !all && win.end() > off {
			kept = append(kept, win)
			continue
		}
		win.release()
	}
	clear(w.list[len(kept):])
	w.list = kept
}

// close gives the windows back.
func (w *windows) close() {
	w.mu.Lock()
	w.dropLocked(0, true)
	w.mu.Unlock()
}

// readThrough takes what the windows have and reads the rest. A window that failed is no error by itself: the bytes
// are read again.
func readThrough(ctx context.Context, list []*window, src *source, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := copyWindow(ctx, list, p, off)
		if err != nil {
			return err
		}
		if n == 0 {
			n = gap(list, off, len(p))
			if _, err := readAt(ctx, src, p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func copyWindow(ctx context.Context, list []*window, p []byte, off int64) (int, error) {
	for _, win := range list {
		if off < win.off || off >= win.end() {
			continue
		}
		select {
		case <-win.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if win.err == nil {
			return copy(p, win.data[off-win.off:]), nil
		}
	}
	return 0, nil
}

// gap is how many of n bytes at off lie before the next good window.
func gap(list []*window, off int64, n int) int {
	for _, win := range list {
		if win.off > off && win.off < off+int64(n) {
			n = int(win.off - off)
		}
	}
	return n
}

// readAt fills p; fewer bytes than p are io.ErrUnexpectedEOF, because the caller asks inside the file only.
func readAt(ctx context.Context, src *source, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := src.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
