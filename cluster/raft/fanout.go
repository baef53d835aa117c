package raft

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// writeMembers appends on all members at once and returns which have it and why others have not. buf is not written
// again after it returns, so a hung device may still read it.
func (l *mirroredLog) writeMembers(members []cluster.DriveID, at place, buf []byte) (done []cluster.DriveID, failed map[cluster.DriveID]error) {
	drives := l.drivesOf(members)
	return l.await(members, func(answer func(cluster.DriveID, error)) {
		var writes []vfs.SyncWrite
		for _, d := range drives {
			if !d.ready(at.segment) {
				l.writes.Go(func() { answer(d.id, d.append(at, buf, l.segmentSize)) })
				continue
			}
			l.writes.Add(1)
			writes = append(writes, vfs.SyncWrite{File: d.file, Data: buf, Off: at.off, Done: func(err error) {
				defer l.writes.Done()
				answer(d.id, d.appended(err))
			}})
		}
		vfs.StartWrites(writes)
	})
}

// each runs an operation on drives at once. A drive that is late when most are done has failed; so has every drive
// that is late after much longer. Caller holds mu.
func (l *mirroredLog) each(ids []cluster.DriveID, operate func(*drive) error) (done []cluster.DriveID, failed map[cluster.DriveID]error) {
	drives := l.byID(ids)
	return l.fanOut(ids, func(id cluster.DriveID) error { return operate(drives[id]) })
}

// byID are drives, for use without mu. Caller holds mu.
func (l *mirroredLog) byID(ids []cluster.DriveID) map[cluster.DriveID]*drive {
	drives := make(map[cluster.DriveID]*drive, len(ids))
	for _, id := range ids {
		drives[id] = l.drives[id]
	}
	return drives
}

// fanOut is each for callers that know their drives; it needs no lock.
func (l *mirroredLog) fanOut(ids []cluster.DriveID, operate func(cluster.DriveID) error) (done []cluster.DriveID, failed map[cluster.DriveID]error) {
	return l.await(ids, func(answer func(cluster.DriveID, error)) {
		for _, id := range ids {
			l.writes.Go(func() { answer(id, operate(id)) })
		}
	})
}

// await waits for the answers of drives, each of which begin sees to. It is woken once, when the last has answered.
func (l *mirroredLog) await(ids []cluster.DriveID, begin func(answer func(cluster.DriveID, error))) (done []cluster.DriveID, failed map[cluster.DriveID]error) {
	if len(ids) == 0 {
		return nil, nil
	}
	t := tally{waiting: slices.Clone(ids), failed: map[cluster.DriveID]error{}, complete: make(chan struct{})}
	begin(t.answer)
	// Steps are counted instead of looking at a clock: while this process stands still, its drives are not late.
	ticker := time.NewTicker(l.slow / stepsToSlow)
	defer ticker.Stop()
	for steps := 1; ; steps++ {
		select {
		case <-t.complete:
			return t.done, t.failed
		case <-ticker.C:
			if steps >= patience*stepsToSlow || steps >= stepsToSlow && t.most(len(ids)) {
				return t.close()
			}
		}
	}
}

// tally counts the answers of drives.
type tally struct {
	mu       sync.Mutex
	waiting  []cluster.DriveID
	done     []cluster.DriveID
	failed   map[cluster.DriveID]error
	closed   bool
	complete chan struct{} // closed when nobody is waited for; nothing changes then
}

// answer notes what a drive answered, unless it is too late.
func (t *tally) answer(id cluster.DriveID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(d cluster.DriveID) bool { return d == id })
	if err != nil {
		t.failed[id] = err
	} else {
		t.done = append(t.done, id)
	}
	if len(t.waiting) == 0 {
		t.closed = true
		close(t.complete)
	}
}

// most tells whether more than half have done it.
func (t *tally) most(all int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.done) > all/2
}

// close ends the waiting: those that have not answered have failed.
func (t *tally) close() (done []cluster.DriveID, failed map[cluster.DriveID]error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, id := range t.waiting {
		t.failed[id] = errSlow
	}
	return t.done, t.failed
}

// errSlow is why a drive has failed that let the others wait.
var errSlow = errors.New("did not answer in time")

// values are errors that name their drives.
func values(failed map[cluster.DriveID]error) []error {
	var list []error
	for id, err := range failed {
		list = append(list, fmt.Errorf("drive %s: %w", id, err))
	}
	return list
}
