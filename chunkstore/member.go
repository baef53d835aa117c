package chunkstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// The rules by which a drive is gone around although it says that it is up.
const (
	// maxHung puts that hang make writes avoid their drive after briefly, a single one after hungFor. A put counts from
	// the moment that its write went on without it; those of a client that went away return within briefly.
	maxHung = 2
	briefly = 250 * time.Millisecond
	hungFor = 2 * time.Second
	// avoidFor is how long a drive is avoided after it failed an operation or was slow: long enough that the waiting
	// is a small part of the time, short enough that a drive which recovered is used again soon.
	avoidFor = 5 * time.Second
)

// member is a registered drive and what was seen of it. It starts anew when the drive is added again.
type member struct {
	drive  Drive
	paces  [paceClasses]paceDigest
	probes atomic.Int64

	mu        sync.Mutex
	hungPuts  int       // puts that their writes went on without and that have not returned
	hungSince time.Time // when hungPuts last rose from zero
	hungReads int
	// readsHungSince is when hungReads last rose from zero.
	readsHungSince time.Time
	noPuts         time.Time // writes avoid the drive until then: it failed one
	slowPuts       time.Time // writes avoid the drive until then: it was too slow
	noReads        time.Time // reads avoid the drive until then
	// rows counts row buffers that puts under way on this drive may still read.
	rows int
	room chan struct{} // closed and replaced when rows falls
}

func newMember(drive Drive) *member {
	return &member{drive: drive, room: make(chan struct{})}
}

// probe says whether a drive that is slow is asked all the same, this time.
func (m *member) probe() bool { return m.probes.Add(1)%probeEvery == 0 }

// writable says whether new chunks may have shards here.
func (m *member) writable(now time.Time) bool {
	m.mu.Lock()
	suspect := m.putSuspect(now)
	m.mu.Unlock()
	if suspect {
		return false
	}
	status := m.drive.Status()
	return status.Down == nil && !status.Full
}

func (m *member) putSuspect(now time.Time) bool {
	hung := now.Sub(m.hungSince)
	return m.hungPuts >= maxHung && hung > briefly || m.hungPuts > 0 && hung > hungFor || now.Before(m.noPuts) || now.Before(m.slowPuts)
}

// usable says that the drive is up and neither fails nor hangs, though it may be slow. Where all drives are slow it is the load,
// and writes use them as they are.
func (m *member) usable(now time.Time) bool {
	m.mu.Lock()
	out := now.Before(m.noPuts) || m.hungPuts > 0 && now.Sub(m.hungSince) > hungFor
	m.mu.Unlock()
	if out {
		return false
	}
	status := m.drive.Status()
	return status.Down == nil && !status.Full
}

// hangs says that calls made long ago have not returned, so another one would not either.
func (m *member) hangs(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hungPuts > 0 && now.Sub(m.hungSince) > hungFor || m.hungReads > 0
}

// hanging tells for how long calls have been waiting for the drive; zero while it answers within hungFor.
func (m *member) hanging(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var longest time.Duration
	if m.hungPuts > 0 {
		longest = now.Sub(m.hungSince)
	}
	if m.hungReads > 0 {
		longest = max(longest, now.Sub(m.readsHungSince))
	}
	if longest <= hungFor {
		return 0
	}
	return longest
}

// readable says whether reads should ask this drive before they have tried the others.
func (m *member) readable(now time.Time) bool {
	m.mu.Lock()
	suspect := m.hungReads > 0 || now.Before(m.noReads)
	m.mu.Unlock()
	return !suspect && m.drive.Status().Down == nil
}

func (m *member) suspect(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.putSuspect(now) || m.hungReads > 0 || now.Before(m.noReads)
}

func (m *member) hangPut(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hungPuts == 0 {
		m.hungSince = now
	}
	m.hungPuts++
}

func (m *member) returnPut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hungPuts--
}

func (m *member) failPut(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noPuts = now.Add(avoidFor)
}

func (m *member) delayPut(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slowPuts = now.Add(avoidFor)
}

func (m *member) hangRead(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hungReads == 0 {
		m.readsHungSince = now
	}
	m.hungReads++
	m.noReads = now.Add(avoidFor)
}

func (m *member) returnRead() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hungReads--
}

// admit waits until puts under way on this drive hold less than limit rows, then charges rows to it. So a drive that
// hangs can pin only a part of the budget. False: ctx ended first.
func (m *member) admit(ctx context.Context, rows, limit int) bool {
	for {
		m.mu.Lock()
		if m.rows == 0 || m.rows+rows <= limit {
			m.rows += rows
			m.mu.Unlock()
			return true
		}
		room := m.room
		m.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return false
		}
	}
}

func (m *member) leave(rows int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows -= rows
	close(m.room)
	m.room = make(chan struct{})
}
