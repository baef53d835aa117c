package raft

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// logConfig is what a mirroredLog needs to know.
type logConfig struct {
	cluster     cluster.ClusterID
	want        int
	segmentSize int64
	// slow is how long a mirror may take for an append while most others are done.
	slow time.Duration
	log  *slog.Logger
}

// maxFrameBody bounds the records of one append, unless one alone is longer. It is at most a quarter of a segment.
const maxFrameBody = 8 << 20

// patience is how many times longer than slow an append waits when most mirrors are late: then the machine is slow,
// not a drive.
const patience = 10

// stepsToSlow is how many steps are counted until a drive is slow.
const stepsToSlow = 4

// mirroredLog is the log of every group of a peer: one chain of frames, alike on every member of the mirror set.
//
// At most one append is in flight, and it is acknowledged when every member has it. So when any copy holds frame n+1,
// frame n was acknowledged; recovery rests on that.
type mirroredLog struct {
	logConfig

	mu     sync.Mutex // held during appends and set changes, I/O included: they are one sequence
	drives map[cluster.DriveID]*drive
	up     map[cluster.DriveID]bool // drives that are in use; a member that failed is not until it returns
	set    mirrorSet
	ballot uint64 // promised to this process; 0 before its first set change
	next   place
	// page is what stands in the page of next before it: appends write whole pages.
	page   []byte
	last   uint64 // sequence number of the last frame
	digest digest // of the last frame
	noted  mirrorSet
	// promised is the highest ballot seen.
	promised uint64
	segments []segmentHead // those that are retained, oldest first
	tail     tail          // what was read last, until it is durable
	bytes    int64         // appended since the log was opened
	settled  bool          // the last frame proves the one before
	failure  error

	// joining is held by whoever makes a mirror, and shared by those who write files that every mirror must have.
	joining sync.RWMutex

	// work tells the keeper that segments or mirrors are wanted. It has room for one.
	work chan struct{}
	// writes counts appends and set writes in flight, hung ones too.
	writes sync.WaitGroup
}

func (l *mirroredLog) wake() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// maxBody is the bound of the records of one frame.
func (l *mirroredLog) maxBody() int { return int(min(maxFrameBody, l.segmentSize/4)) }

// append makes records durable on every mirror. An error means that the log has ended for this process; whether the
// records survive is unknown then. seq is the number of the frame that holds the last record.
func (l *mirroredLog) append(records []record) (seq uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+records[n].size() <= l.maxBody()) {
			size += records[n].size()
			n++
		}
		if err := l.appendFrame(records[:n]); err != nil {
			return 0, err
		}
		records = records[n:]
	}
	return l.last, nil
}

// appendFrame appends one frame. Caller holds mu.
func (l *mirroredLog) appendFrame(records []record) error {
	if l.failure != nil {
		return l.failure
	}
	if !l.noted.equal(l.set) {
		records = append([]record{{kind: kindMirrors, index: l.set.epoch, term: l.set.ballot, payload: l.set.append(nil)}}, records...)
	}
	body := 0
	for _, r := range records {
		body += r.size()
	}
	at, first := l.next, l.last+1
	buf := vfs.Aligned(int(roundUp(segmentHeader+pageSize+frameSize(body), pageSize)))[:0]
	begins := at.segment == 0 || at.off+frameSize(body) > l.segmentSize
	if begins {
		at = place{segment: at.segment + 1, off: segmentHeader}
		buf = append(buf, segmentHead{number: at.segment, first: first, prev: l.digest}.encode(l.cluster)...)
	} else {
		buf = append(buf, l.page...)
	}
	writeAt := place{segment: at.segment, off: at.off - int64(len(buf))}
	if at.off+frameSize(body) > l.segmentSize {
		return fmt.Errorf("append %d bytes to a log with segments of %d: %w", body, l.segmentSize, ErrTooLarge)
	}
	buf, sum := appendFrame(buf, l.cluster, at, first, l.digest, records)
	end := len(buf)
	if err := l.write(writeAt, buf[:roundUp(int64(end), pageSize)]); err != nil {
		l.failure = err
		return err
	}
	before := l.digest
	l.last, l.digest = first, sum
	l.next = place{segment: at.segment, off: at.off + frameSize(body)}
	l.page = slices.Clone(buf[int64(end)/pageSize*pageSize : end])
	l.bytes += frameSize(body)
	l.noted = l.set
	l.settled = len(records) == 1 && records[0].kind == kindSettle
	if begins {
		l.segments = append(l.segments, segmentHead{number: at.segment, first: first, prev: before})
		l.wake()
	}
	return nil
}

// write writes buf to every member and replaces the set when one failed. Caller holds mu.
func (l *mirroredLog) write(at place, buf []byte) error {
	members := l.set.members
	done, failed := l.writeMembers(members, at, buf)
	if len(done) == 0 {
		return fmt.Errorf("append to the log: no mirror took it: %w", errors.Join(values(failed)...))
	}
	if len(failed) == 0 {
		return nil
	}
	for _, id := range members {
		if err, bad := failed[id]; bad {
			l.log.Warn("log mirror dropped", "drive", l.drives[id].String(), "err", err)
			l.up[id] = false
		}
	}
	if err := l.changeSet(done); err != nil {
		return err
	}
	l.wake()
	return nil
}

// changeSet makes members, less those that cannot be reached, the mirror set, and every drive that can be reached its
// electorate. See mirrorSet for why it may be trusted. Caller holds mu.
func (l *mirroredLog) changeSet(members []cluster.DriveID) error {
	electorate := l.reachable()
	if l.ballot == 0 {
		ballot := l.promised + 1
		done, failed := l.each(electorate, func(d *drive) error {
			return d.writePaper(l.cluster, ballotPaper{promised: ballot, set: l.set})
		})
		if l.drop(failed); common(done, l.set.electorate) <= spare(len(l.set.electorate)) {
			return fmt.Errorf("%w: %d drives promised a new mirror set", ErrLogLost, len(done))
		}
		l.ballot, l.promised, electorate = ballot, ballot, done
	}
	epoch := l.set.epoch
	for {
		epoch++
		slices.SortFunc(electorate, compareDrives)
		next := mirrorSet{
			ballot: l.ballot, epoch: epoch, electorate: electorate, previous: l.set.electorate,
			members: slices.DeleteFunc(slices.Clone(members), func(d cluster.DriveID) bool { return !slices.Contains(electorate, d) }),
		}
		if len(next.members) == 0 || common(electorate, l.set.electorate) <= spare(len(l.set.electorate)) {
			return fmt.Errorf("%w: %d mirrors and %d of %d drives are left", ErrLogLost,
				len(next.members), common(electorate, l.set.electorate), len(l.set.electorate))
		}
		done, failed := l.each(electorate, func(d *drive) error {
			return d.writePaper(l.cluster, ballotPaper{promised: l.ballot, set: next})
		})
		if len(failed) == 0 {
			l.set = next
			l.log.Info("log mirrors changed", "epoch", next.epoch, "mirrors", len(next.members), "drives", len(electorate))
			return nil
		}
		l.drop(failed)
		electorate = done
	}
}

// drop takes drives out of use until they return. Caller holds mu.
func (l *mirroredLog) drop(failed map[cluster.DriveID]error) {
	for id, err := range failed {
		l.log.Warn("drive dropped from the mirrors' electorate", "drive", l.drives[id].String(), "err", err)
		l.up[id] = false
	}
}

// reachable returns the drives in use. Caller holds mu.
func (l *mirroredLog) reachable() []cluster.DriveID {
	var list []cluster.DriveID
	for id, up := range l.up {
		if up {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, compareDrives)
	return list
}

func compareDrives(a, b cluster.DriveID) int { return slices.Compare(a[:], b[:]) }

// lastSeq is the number of the last frame.
func (l *mirroredLog) lastSeq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// failed tells why the log has ended for this process; nil while it has not.
func (l *mirroredLog) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// setWant says how many mirrors there should be.
func (l *mirroredLog) setWant(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want != n {
		l.want = n
		l.wake()
	}
}

// settle appends a frame without content when the last frame has none after it: then damage to that frame on every
// mirror can be told from an append that was never acknowledged.
func (l *mirroredLog) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled || l.failure != nil {
		return l.failure
	}
	return l.appendFrame([]record{{kind: kindSettle}})
}

// driveDown takes a drive out of use and out of the set.
func (l *mirroredLog) driveDown(id cluster.DriveID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up[id] || l.failure != nil {
		return l.failure
	}
	l.up[id] = false
	defer l.wake()
	if err := l.changeSet(without(l.set.members, []cluster.DriveID{id})); err != nil {
		l.failure = err
		return err
	}
	return nil
}

// driveUp brings a drive into use: it learns the set and may become a mirror.
func (l *mirroredLog) driveUp(d *drive) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	if old := l.drives[d.id]; old != nil {
		if l.up[d.id] {
			return nil
		}
		if err := old.retireHandle(); err != nil {
			return err
		}
	}
	l.drives[d.id], l.up[d.id] = d, true
	defer l.wake()
	if err := l.changeSet(l.set.members); err != nil {
		l.failure = err
		return err
	}
	return nil
}

// status tells the mirrors and how many more drives may be lost.
func (l *mirroredLog) status() MirrorStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := MirrorStatus{Want: min(l.want, len(l.reachable())), Epoch: l.set.epoch, Failure: l.failure}
	for _, id := range l.set.members {
		s.Members = append(s.Members, Mirror{Drive: id, Dir: l.drives[id].dir})
	}
	if l.failure == nil {
		s.Tolerated = max(0, min(len(l.set.members)-1, spare(len(l.set.electorate))))
	}
	return s
}

// closePatience is how many times longer than slow close waits for writes under way: all that was acknowledged is on the
// members, so these are of drives that were given up, or of an append that nobody waits for any more.
const closePatience = 3

// close waits for what is in flight, for a while: a hung device is left behind.
func (l *mirroredLog) close() error {
	idle := make(chan struct{})
	go func() {
		l.writes.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(closePatience * l.slow):
		return errors.New("close the log: a drive hangs in a write")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.failure = ErrStopped
	}
	var errs []error
	for _, d := range l.drives {
		if !d.io.TryLock() {
			continue // it hangs
		}
		errs = append(errs, d.closeSegment())
		d.io.Unlock()
	}
	return errors.Join(errs...)
}
