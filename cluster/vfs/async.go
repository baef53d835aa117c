package vfs

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SyncWrite is a WriteSync that StartWrites begins.
type SyncWrite struct {
	File File
	Data []byte // not to be changed before Done is called
	Off  int64
	// Done is called once, from any goroutine, with what WriteSync would return. It must not wait for other writes.
	Done func(error)
}

// StartWrites begins writes and does not wait for their ends. A file system that hangs holds up its own writes alone.
//
// Where it can it hands them to the kernel (Linux AIO). Five writes of 4 KiB to five files of one device were durable
// after 0.39 ms that way, and after 0.59 ms, with two and a half times the work, when five threads waited for one each.
func StartWrites(writes []SyncWrite) {
	var async []SyncWrite
	for _, w := range writes {
		if f, ok := w.File.(*osFile); ok && f.direct && len(w.Data) > 0 {
			async = append(async, w)
		} else {
			w.start()
		}
	}
	if len(async) == 0 {
		return
	}
	if ring := async[0].File.(*osFile).rings.take(); ring != nil {
		n := min(len(async), ringSize)
		b := &batch{ring: ring, submit: ring.submit, writes: async[:n:n], pending: map[uint64]SyncWrite{}, submitting: true}
		async = async[n:]
		go b.run()
	}
	for _, w := range async {
		w.start()
	}
}

func (w SyncWrite) start() {
	go func() { w.Done(w.File.WriteSync(w.Data, w.Off)) }()
}

const (
	// ringSize is how many writes one ring takes at a time: more files than a log has mirrors.
	ringSize = 16
	// spareRings is how many rings are kept for the next call.
	spareRings = 4
	// stuckAfter is how long the kernel may take to accept the writes of a call, which takes it microseconds: a file
	// system that is frozen accepts none before it thaws.
	stuckAfter = 20 * time.Millisecond

	opPwrite     = 1 // IOCB_CMD_PWRITE of linux/aio_abi.h
	flagResultFD = 1 // IOCB_FLAG_RESFD
)

// batch is one call of StartWrites: one goroutine hands the writes to the kernel, one after another, and then waits for
// their ends. When it is stuck with one, others go on with the rest.
type batch struct {
	ring   *ring
	submit func(SyncWrite, uint64) bool // of ring

	mu     sync.Mutex
	writes []SyncWrite // not begun
	begun  uint64
	// pending are those that the kernel has, or is being given. It keeps their memory alive, too.
	pending    map[uint64]SyncWrite
	submitting bool
	collecting bool
}

func (b *batch) run() {
	watch := time.AfterFunc(stuckAfter, b.goAround)
	for {
		w, id, ok := b.next()
		if !ok {
			break
		}
		if !b.submit(w, id) {
			b.take(id)
			w.start()
		}
	}
	watch.Stop()
	b.mu.Lock()
	b.submitting = false
	collecting := b.collecting
	b.collecting = true
	b.mu.Unlock()
	if collecting {
		b.ring.wake()
	} else {
		b.collect()
	}
}

// next takes the next write to submit.
func (b *batch) next() (w SyncWrite, id uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.writes) == 0 {
		return w, 0, false
	}
	w, id = b.writes[0], b.begun
	b.writes = b.writes[1:]
	b.begun++
	b.pending[id] = w
	return w, id, true
}

// take ends a write's being pending.
func (b *batch) take(id uint64) SyncWrite {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.pending[id]
	delete(b.pending, id)
	return w
}

// goAround goes on with the writes that are not begun while run is stuck with one.
func (b *batch) goAround() {
	b.mu.Lock()
	if !b.submitting {
		b.mu.Unlock()
		return
	}
	rest, collecting := b.writes, b.collecting
	b.writes, b.collecting = nil, true
	b.mu.Unlock()
	for _, w := range rest {
		w.start()
	}
	if !collecting {
		go b.collect()
	}
}

// over tells that nothing comes any more.
func (b *batch) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending) == 0 && !b.submitting
}

// collect tells how each write ended, and gives the ring back.
func (b *batch) collect() {
	for !b.over() {
		events, err := b.ring.wait()
		if err != nil {
			b.ring.pool.abandon(b)
			return
		}
		for _, e := range events {
			b.take(e.data).ended(e.res)
		}
	}
	if err := b.ring.pool.give(b.ring); err != nil {
		b.ring.pool.refuse()
	}
}

// iocb and event are struct iocb and struct io_event of linux/aio_abi.h.
type iocb struct {
	data     uint64
	_        uint32 // the kernel's
	rwFlags  int32
	opcode   uint16
	_        int16 // priority
	fd       uint32
	buf      uint64
	length   uint64
	offset   int64
	_        uint64 // reserved
	flags    uint32
	resultFD uint32
}

type event struct {
	data uint64
	_    uint64 // the iocb
	res  int64
	_    int64 // a second result
}

// ring is an AIO context with an eventfd that tells of completions, so that a goroutine waits for them without a
// thread. One batch uses it at a time.
type ring struct {
	pool    *ringPool
	context uintptr
	done    *os.File
	fd      int
	events  [ringSize]event
}

// ringPool keeps the rings that are not in use.
type ringPool struct {
	mu   sync.Mutex
	free []*ring
	// none is set when the kernel gives no rings.
	none bool
	// abandoned are batches of which nobody can tell how they ended.
	abandoned []*batch
}

// abandon keeps a batch whose ends could not be asked for. Its writes count as hanging, because the kernel may still do
// them: Done is never called, and their memory is never used for anything else.
func (p *ringPool) abandon(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.none = true
	p.abandoned = append(p.abandoned, b)
}

// take returns nil where there is no AIO.
func (p *ringPool) take() *ring {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		r := p.free[n-1]
		p.free = p.free[:n-1]
		return r
	}
	if p.none {
		return nil
	}
	r, err := newRing(p)
	p.none = err != nil
	return r
}

// give takes a ring back, or ends it when there are enough.
func (p *ringPool) give(r *ring) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < spareRings {
		p.free = append(p.free, r)
		return nil
	}
	return r.close()
}

func newRing(p *ringPool) (*ring, error) {
	r := &ring{pool: p}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, ringSize, uintptr(unsafe.Pointer(&r.context)), 0); errno != 0 {
		return nil, errno
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(err, r.destroy())
	}
	r.fd, r.done = fd, os.NewFile(uintptr(fd), "eventfd")
	return r, nil
}

func (r *ring) destroy() error {
	if _, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, r.context, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func (r *ring) close() error { return errors.Join(r.destroy(), r.done.Close()) }

// submit hands a write to the kernel, and tells whether it took it.
func (r *ring) submit(w SyncWrite, id uint64) (taken bool) {
	f := w.File.(*osFile)
	// Control fails only when the file was closed; WriteSync then says so.
	_ = f.conn.Control(func(fd uintptr) {
		block := &iocb{
			data: id, rwFlags: unix.RWF_DSYNC, opcode: opPwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(w.Data)))),
			length: uint64(len(w.Data)), offset: w.Off, flags: flagResultFD, resultFD: uint32(r.fd),
		}
		n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, r.context, 1, uintptr(unsafe.Pointer(&block)))
		taken = errno == 0 && n == 1
	})
	return taken
}

// wait returns what has ended, perhaps nothing, when there is news.
func (r *ring) wait() ([]event, error) {
	var count [8]byte
	least := uintptr(0)
	if _, err := r.done.Read(count[:]); err != nil {
		least = 1 // without the eventfd a thread waits
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, r.context, least, ringSize, uintptr(unsafe.Pointer(&r.events[0])), 0, 0)
		if errno == 0 {
			return r.events[:n], nil
		}
		if errno != unix.EINTR {
			return nil, errno
		}
	}
}

// wake ends a wait. A write to an eventfd fails only when it was closed, after which nobody waits.
func (r *ring) wake() {
	_, _ = r.done.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// refuse lets no more rings be made.
func (p *ringPool) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.none = true
}

// ended turns a result of the kernel into the one of WriteSync.
func (w SyncWrite) ended(res int64) {
	f := w.File.(*osFile)
	switch {
	case res < 0:
		w.Done(f.explain(&fs.PathError{Op: "write", Path: f.f.Name(), Err: syscall.Errno(-res)}, [][]byte{w.Data}))
	case res < int64(len(w.Data)):
		w.Data, w.Off = w.Data[res:], w.Off+res
		w.start()
	default:
		w.Done(nil)
	}
}
