package raft

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/cluster"
)

// newLog looks at the drives that are here.
func newLog(c Config, mirrors []Mirror) *mirroredLog {
	l := &mirroredLog{
		logConfig: logConfig{cluster: c.Cluster, want: c.firstMirrors(), segmentSize: c.SegmentSize, slow: c.SlowMirror, log: c.Log},
		drives:    map[cluster.DriveID]*drive{},
		up:        map[cluster.DriveID]bool{},
		work:      make(chan struct{}, 1),
	}
	for _, m := range mirrors {
		d, err := newDrive(c.FS, m)
		if err != nil {
			c.Log.Warn("drive is not here", "drive", m.Drive.String(), "dir", m.Dir, "err", err)
			continue
		}
		l.drives[m.Drive], l.up[m.Drive] = d, true
	}
	return l
}

// readPapers reads what every drive knows about mirror sets, all at once. A drive that cannot be read counts as
// missing. blank tells that all drives could be read and none ever held anything.
func (l *mirroredLog) readPapers() (papers map[cluster.DriveID]ballotPaper, blank bool) {
	// A drive that is given up may answer at any time later, so what it writes to is not what is returned.
	var mu sync.Mutex
	answers := map[cluster.DriveID]ballotPaper{}
	_, failed := l.each(l.reachable(), func(d *drive) error {
		p, err := d.readPaper(l.cluster)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			answers[d.id] = p
		}
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	papers = map[cluster.DriveID]ballotPaper{}
	blank = len(failed) == 0
	for id, err := range failed {
		// A drive whose paper is damaged does not count now; it gets a new paper with the next set.
		if !errors.Is(err, errPaper) {
			l.drop(map[cluster.DriveID]error{id: err})
		}
	}
	for id, p := range answers {
		if failed[id] != nil {
			continue // it answered too late
		}
		papers[id] = p
		l.promised = max(l.promised, p.promised, p.set.ballot)
		blank = blank && p.set.epoch == 0
	}
	return papers, blank
}

// opened is a log that was read, with what it says.
type opened struct {
	log     *mirroredLog
	groups  []*groupLog
	members []cluster.DriveID
	heads   []checkpointHead
	damaged []segmentHead
	uneven  bool // some drive here does not know the newest set
	// tombs and snapshots are those of the collector.
	tombs     map[GroupID]tombstone
	snapshots map[uint64]heldFile
}

// drivesOf are the drives behind ids.
func (l *mirroredLog) drivesOf(ids []cluster.DriveID) []*drive {
	var list []*drive
	for _, id := range ids {
		list = append(list, l.drives[id])
	}
	return list
}

// findLog finds the newest mirror set and its members that are here. It writes nothing.
func findLog(l *mirroredLog) (*opened, error) {
	here := len(l.up)
	papers, blank := l.readPapers()
	set, err := judge(papers)
	if errors.Is(err, ErrNotBootstrapped) && !blank {
		err = fmt.Errorf("%w: %d drives cannot be read and the others know no mirror set", ErrLogLost, here-len(papers))
	}
	if err != nil {
		return nil, err
	}
	l.set = set
	o := &opened{log: l}
	for _, id := range l.reachable() {
		p, known := papers[id]
		o.uneven = o.uneven || !known || !p.set.equal(set)
	}
	for _, id := range set.members {
		if _, here := papers[id]; here {
			o.members = append(o.members, id)
		}
	}
	if len(o.members) == 0 {
		return nil, fmt.Errorf("%w: none of the %d mirrors of set %d is here", ErrLogLost, len(set.members), set.epoch)
	}
	return o, nil
}

// read reads the log against what the state holds. It writes nothing.
func (o *opened) read(held map[GroupID]heldState) error {
	l := o.log
	c := &collector{groups: map[GroupID]*groupLog{}, tombs: map[GroupID]tombstone{}, held: held, newest: l.set, snapshots: map[uint64]heldFile{}}
	heads, err := l.heads(o.members)
	if err != nil {
		return err
	}
	if heads = contiguous(heads); len(heads) == 0 {
		return fmt.Errorf("%w: no segment on any of %d mirrors", ErrLogDamaged, len(o.members))
	}
	first := heads[0].first
	// A checkpoint is of use when the log reaches back to it.
	usable := slices.DeleteFunc(slices.Clone(o.heads), func(h checkpointHead) bool { return h.seq+1 < first })
	if first > 1 && len(usable) == 0 {
		return fmt.Errorf("%w: the log begins with frame %d and no checkpoint before it can be read", ErrLogDamaged, first)
	}
	if len(usable) > 0 {
		maps.Copy(c.tombs, usable[0].tombs)
		for _, p := range usable[0].groups {
			c.groups[p.group] = newGroupLog(p, held[p.group])
		}
	}
	if o.damaged, err = l.walk(o.members, c.visit); err != nil {
		return err
	}
	if c.newest.newer(l.set) {
		return fmt.Errorf("%w: the log knows mirror set %d, the drives only %d", ErrLogLost, c.newest.epoch, l.set.epoch)
	}
	if n := len(usable); n > 0 && usable[n-1].seq > l.last {
		return fmt.Errorf("%w: checkpoint %d covers frame %d and the log ends with %d", ErrLogDamaged, usable[n-1].number, usable[n-1].seq, l.last)
	}
	o.heads, o.groups, o.tombs, o.snapshots = usable, o.groups[:0], c.tombs, c.snapshots
	for _, g := range c.groups {
		o.groups = append(o.groups, g)
	}
	slices.SortFunc(o.groups, func(a, b *groupLog) int { return cmp.Compare(a.id, b.id) })
	return nil
}

// adopt makes the log ready for appends: hurt copies are rewritten, the last frame is made durable, and drives that are
// missing or new go out of or into the set.
func (o *opened) adopt() error {
	l := o.log
	left, err := l.heal(o.members, o.damaged)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if left, err = l.confirm(left); err != nil {
		return err
	}
	l.tail = tail{}
	l.noted = l.set
	if o.uneven || !slices.Equal(l.reachable(), l.set.electorate) || len(left) < len(l.set.members) {
		return l.changeSet(left)
	}
	return nil
}

// openCore opens log and state. Nothing is written before the log is proved.
func openCore(h *Host, mirrors []Mirror, fresh bool) (_ *core, err error) {
	c := h.config
	l := newLog(c, mirrors)
	defer func() {
		if err != nil {
			h.leave(l)
		}
	}()
	o, err := findLog(l)
	if err != nil {
		return nil, err
	}
	o.heads, err = o.log.checkpoints(o.log.drivesOf(o.members))
	if err != nil {
		return nil, err
	}
	db := openState(c, fresh)
	if err := o.readWith(&db, c); err != nil {
		return nil, errors.Join(err, closeState(db))
	}
	if err := o.adopt(); err != nil {
		return nil, errors.Join(err, o.log.close(), closeState(db))
	}
	if db == nil {
		if db, err = o.rebuild(c); err != nil {
			return nil, errors.Join(err, o.log.close())
		}
	}
	core := &core{
		host: h, log: o.log, db: db, tombs: o.tombs, snapshots: o.snapshots, rows: map[string][]byte{},
		out: outbox{}, sends: sendQueue{wake: make(chan struct{}, 1)},
		points: make(chan pointRequest), orders: make(chan order), ended: make(chan struct{}), changing: semaphore.NewWeighted(1),
	}
	core.groups.Store(new(map[GroupID]*replica))
	core.afterCheckpoints(o.heads)
	core.lastSnapshot.Store(o.log.sweepSnapshots(o.log.set.members, o.snapshots))
	if err := core.begin(o.groups); err != nil {
		return nil, errors.Join(err, core.close())
	}
	return core, nil
}
