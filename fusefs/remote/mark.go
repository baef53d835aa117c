package remote

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mark is a page of memory that a gateway shares with the mounts of its own machine. It tells them, without a
// question, whether anything was committed: the gateway stores the index of every commit there before it acknowledges
// it. The numbers are of the machine's byte order, because no other ever sees them.
//
//	magic (8) ─ instance (16) ─ time namespace (8) ─ index (8) ─ until (8) ─ retired (8)
//
// Until is a time of CLOCK_MONOTONIC, which is one clock for a machine: the gateway promises that nothing is
// acknowledged before that time without the index showing it. It renews the promise all the time while there are
// mounts, so that one that died, or stands still, is trusted for markLease at most. The next gateway acknowledges
// nothing before those of the one before it have ended: see Mark.Wait.
//
// The index shows every commit only while all of them pass one gateway. One that gets company retires its mark first:
// the page then says for good that it means nothing.
//
// A reader loads the index first and the time after it. If the promise holds then, the index was true when it was loaded,
// whatever stood still in between.
const (
	markMagic = 0x31304b52414d4648 // "HFMARK01"
	markSize  = 4096
	// markLease is how long a mark is trusted after its gateway died.
	markLease = 250 * time.Millisecond
	// markEvery is how often the promise is renewed.
	markEvery = markLease / 5
	// markHeader tells a mount of the same machine where the mark is: path, space, instance.
	markHeader = "Holdfast-Mark"
)

// The fields of a page, as indices of 64-bit words.
const (
	wordMagic = iota
	wordInstance
	wordInstance2
	wordNamespace
	wordIndex
	wordUntil
	wordRetired // not 0: never to be trusted again
)

var errMark = errors.New("no mark of this gateway")

// page is a mapping of a mark.
type page struct{ bytes []byte }

func mapPage(fd, protection int) (page, error) {
	bytes, err := unix.Mmap(fd, 0, markSize, protection, unix.MAP_SHARED)
	return page{bytes}, err
}

func (p page) word(i int) *uint64 { return (*uint64)(unsafe.Pointer(&p.bytes[8*i])) }

func (p page) instance() [16]byte {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:], atomic.LoadUint64(p.word(wordInstance)))
	binary.NativeEndian.PutUint64(id[8:], atomic.LoadUint64(p.word(wordInstance2)))
	return id
}

// monotonic is the time of CLOCK_MONOTONIC in nanoseconds; 0 when there is none.
func monotonic() uint64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return uint64(now.Nano())
}

// timeNamespace tells processes apart whose CLOCK_MONOTONIC differs.
func timeNamespace() (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat("/proc/self/ns/time", &st)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // a kernel without time namespaces
	}
	return st.Ino, err
}

// Mark is the gateway's side.
type Mark struct {
	page  page
	file  *os.File
	place string // what markHeader says
	began uint64 // monotonic
	stop  chan struct{}
	done  sync.WaitGroup

	mu sync.Mutex
	// users counts the sessions of mounts.
	users int
	// retired: nothing is promised any more.
	retired bool
}

// NewMark makes a mark. Without one mounts ask.
func NewMark() (*Mark, error) {
	began := monotonic()
	fd, err := unix.MemfdCreate("holdfast-mark", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a mark: %w", err)
	}
	file := os.NewFile(uintptr(fd), "holdfast-mark")
	namespace, err := timeNamespace()
	if err == nil {
		err = unix.Ftruncate(fd, markSize)
	}
	if err == nil { // a page that is cut short would end whoever reads it
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	var p page
	if err == nil {
		p, err = mapPage(fd, unix.PROT_READ|unix.PROT_WRITE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a mark: %w", err), file.Close())
	}
	_, _ = rand.Read(p.bytes[8*wordInstance : 8*wordNamespace]) // never fails
	*p.word(wordNamespace), *p.word(wordMagic) = namespace, markMagic
	id := p.instance()
	m := &Mark{page: p, file: file, began: began, stop: make(chan struct{}),
		place: fmt.Sprintf("/proc/%d/fd/%d %s", os.Getpid(), fd, hex.EncodeToString(id[:]))}
	m.done.Go(m.renew)
	return m, nil
}

// Set stores the index of a commit that can be seen and was not acknowledged yet.
func (m *Mark) Set(index uint64) { atomic.StoreUint64(m.page.word(wordIndex), index) }

// Wait returns when no mark of an earlier gateway of this store is trusted any more. Nothing may be committed before.
func (m *Mark) Wait() {
	for {
		left := markLease - time.Duration(monotonic()-m.began)
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
}

// renew keeps the promise while anybody reads it.
func (m *Mark) renew() {
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-ticker.C:
			m.promise()
		}
	}
}

// promise begins the promise anew where anybody reads it.
func (m *Mark) promise() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := monotonic(); now > 0 && m.users > 0 && !m.retired {
		atomic.StoreUint64(m.page.word(wordUntil), now+uint64(markLease))
	}
}

// use tells how many sessions there are that may read the mark.
func (m *Mark) use(sessions int) {
	m.mu.Lock()
	m.users = sessions
	m.mu.Unlock()
	m.promise()
}

// offer is what markHeader says to a new session; empty once the mark is retired.
func (m *Mark) offer() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.retired {
		return ""
	}
	return m.place
}

// Retire takes the mark out of use for good, because commits will be acknowledged that it does not show: those of
// another gateway. The first of them must come after Retire has returned, which is when no mount trusts the mark any
// more, one that was just reading it included. It may be called again; Set does no harm after it.
func (m *Mark) Retire() {
	m.mu.Lock()
	m.retired = true
	atomic.StoreUint64(m.page.word(wordRetired), 1)
	until := atomic.SwapUint64(m.page.word(wordUntil), 0)
	m.mu.Unlock()
	// A mount that loaded the promise and stood still right then has compared it with a clock that went on; waiting for its
	// end covers every answer that was given on it.
	for now := monotonic(); now > 0 && now < until; now = monotonic() {
		time.Sleep(time.Duration(until - now))
	}
}

// Close takes the promise back. The page stays where it is: a log that hangs may set the index of a commit yet.
func (m *Mark) Close() error {
	close(m.stop)
	m.done.Wait()
	m.mu.Lock()
	m.retired = true
	atomic.StoreUint64(m.page.word(wordUntil), 0)
	m.mu.Unlock()
	return m.file.Close()
}

// markReader is a mount's side.
type markReader struct {
	mu   sync.RWMutex
	page page
	open bool
	// pages counts those that were followed, so that the index of one is not taken for that of another.
	pages uint64
}

// follow opens the mark that a gateway told of. On another machine, in a container of its own or as another user there
// is none, or not the one that was meant.
func (r *markReader) follow(place string) error {
	path, text, _ := strings.Cut(place, " ")
	want, err := hex.DecodeString(text)
	if err != nil || len(want) != 16 || !strings.HasPrefix(path, "/proc/") {
		return errMark
	}
	namespace, err := timeNamespace()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err == nil && seals&unix.F_SEAL_SHRINK == 0 {
		err = errMark
	}
	var p page
	if err == nil {
		p, err = mapPage(int(file.Fd()), unix.PROT_READ)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		if p.bytes != nil {
			err = errors.Join(err, unix.Munmap(p.bytes))
		}
		return err
	}
	ours := *p.word(wordMagic) == markMagic && p.instance() == [16]byte(want) && *p.word(wordNamespace) == namespace
	if !ours || atomic.LoadUint64(p.word(wordRetired)) != 0 {
		return errors.Join(errMark, unix.Munmap(p.bytes))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.closeLocked()
	r.page, r.open = p, true
	r.pages++
	return err
}

// read is the number of the page, its index, and whether that can be trusted.
func (r *markReader) read() (page, index uint64, trusted bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.open {
		return r.pages, 0, false
	}
	index = atomic.LoadUint64(r.page.word(wordIndex))
	until, now := atomic.LoadUint64(r.page.word(wordUntil)), monotonic()
	return r.pages, index, now > 0 && now < until && atomic.LoadUint64(r.page.word(wordRetired)) == 0
}

func (r *markReader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closeLocked()
}

func (r *markReader) closeLocked() error {
	if !r.open {
		return nil
	}
	r.open = false
	return unix.Munmap(r.page.bytes)
}
