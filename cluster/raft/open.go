package raft

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	etcd "go.etcd.io/raft/v3"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
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

// retainedAtOpen is how many bytes of applied entries a group with other voters keeps when the log is opened: after a
// power loss of everything some replicas lack the last entries of others, which must not cost them a snapshot.
const retainedAtOpen = 64 << 10

// bootstrapSlow is how long a drive may take for a step of the bootstrap: all drives are needed, so there is nothing to be
// won by giving one up early.
const bootstrapSlow = 10 * time.Second

// createLog writes the first frame and then the first mirror set. Until the latter is on every drive nothing exists.
func createLog(c Config, groups []GroupID) error {
	l := newLog(c, c.Mirrors)
	l.slow = max(l.slow, bootstrapSlow)
	if len(l.up) < len(c.Mirrors) || len(c.Mirrors) == 0 {
		return fmt.Errorf("bootstrap: %d of %d drives are here, all are needed", len(l.up), len(c.Mirrors))
	}
	papers, blank := l.readPapers()
	if len(papers) < len(c.Mirrors) {
		return fmt.Errorf("bootstrap: %d of %d drives can be read, all are needed", len(papers), len(c.Mirrors))
	}
	if !blank {
		return errors.New("bootstrap: the drives hold a log already")
	}
	all := l.reachable()
	members := all[:min(len(all), l.want)]
	for _, id := range members {
		d := l.drives[id]
		d.files.Lock()
		d.io.Lock()
		err := d.wipe() // what a bootstrap that did not finish left
		d.io.Unlock()
		d.files.Unlock()
		if err != nil {
			return fmt.Errorf("bootstrap: drive %s: %w", d, err)
		}
	}
	var records []record
	for _, g := range groups {
		records = append(records,
			record{kind: kindMembership, group: g, term: c.Replica, payload: appendVoters(nil, c.Voters)},
			hardState{term: firstPoint.term, commit: firstPoint.index}.record(g))
	}
	l.mu.Lock()
	l.set = mirrorSet{members: members, electorate: all, previous: all}
	l.noted = l.set
	err := l.appendFrame(append(records, record{kind: kindSettle}))
	if err == nil && len(l.set.members) < len(members) {
		err = errors.New("a mirror failed")
	}
	if err == nil {
		l.set = mirrorSet{members: members, electorate: all}
		err = l.changeSet(members)
	}
	if err == nil && len(l.set.electorate) < len(all) {
		err = errors.New("a drive failed")
	}
	l.mu.Unlock()
	if err = errors.Join(err, l.close()); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
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
	snapshots map[uint64]uint64
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
	c := &collector{groups: map[GroupID]*groupLog{}, tombs: map[GroupID]tombstone{}, held: held, newest: l.set, snapshots: map[uint64]uint64{}}
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

func closeState(db *kv.DB) error {
	if db == nil {
		return nil
	}
	return db.Close()
}

// openState opens the state DB as it lies there, or returns nil when it must be rebuilt.
func openState(c Config, fresh bool) *kv.DB {
	dir := c.StateDir + stateDirName
	if _, err := c.FS.Stat(dir); err != nil || fresh {
		return nil
	}
	db, err := kv.Open(kv.Config{FS: c.FS, Dir: dir, WriteBuffer: c.WriteBuffer, BlockCache: c.BlockCache, Log: c.Log})
	if err != nil {
		c.Log.Warn("state database is rebuilt", "dir", dir, "err", err)
		return nil
	}
	return db
}

// readWith reads the log and keeps the state DB only when it is a prefix of the log: the applied point of every group
// lies on it, hash and all. Otherwise it closes the DB and sets it to nil.
func (o *opened) readWith(db **kv.DB, c Config) error {
	if *db != nil {
		err := o.readOver(*db)
		if err == nil || !errors.Is(err, errForeignState) {
			return err
		}
		c.Log.Warn("state database is rebuilt", "dir", c.StateDir, "err", err)
		if err := (*db).Close(); err != nil {
			c.Log.Warn("state database cannot be closed", "dir", c.StateDir, "err", err)
		}
		*db = nil
	}
	return o.read(nil)
}

// errForeignState says that the state is not a prefix of the log.
var errForeignState = errors.New("state does not match the log")

// readOver reads the log against a state.
func (o *opened) readOver(db *kv.DB) error {
	points := map[GroupID]applied{}
	held := map[GroupID]heldState{}
	ids, err := groupsIn(db)
	if err != nil {
		return fmt.Errorf("%w: %w", errForeignState, err)
	}
	for _, id := range ids {
		a, err := getApplied(db, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errForeignState, err)
		}
		m, stamp, err := getMembers(db, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errForeignState, err)
		}
		points[id], held[id] = a, heldState{index: a.index, stamp: stamp}
		if len(m.voters)+len(m.learners) > 1 {
			held[id] = heldState{index: a.index, stamp: stamp, retain: retainedAtOpen}
		}
	}
	if err := o.read(held); err != nil {
		return err
	}
	for _, g := range o.groups {
		have, known := points[g.id]
		if err := g.check(have, known && held[g.id].stamp == g.stamp); err != nil {
			return err
		}
	}
	return nil
}

// check compares what a state has of the group with the log. What the log can make good is no error.
func (g *groupLog) check(have applied, known bool) error {
	switch {
	case !known && !g.fresh:
		return fmt.Errorf("%w: group %d is not in it", errForeignState, g.id)
	case !known, have.index < g.base.index && g.snapshot != 0:
		return nil // begin fills it
	case have.index > g.last():
		// Only what every mirror had is applied. So the log lost its end, and a rebuilt state would hide that.
		return fmt.Errorf("%w: group %d is applied up to %d and its log ends with %d", ErrLogDamaged, g.id, have.index, g.last())
	}
	if want, ok := g.point(have.index); !ok || want.hash != have.hash || have.index > firstPoint.index && want.term != have.term {
		return fmt.Errorf("%w: group %d at %d", errForeignState, g.id, have.index)
	}
	return nil
}

// groupsIn lists the groups that have an applied row.
func groupsIn(db *kv.DB) ([]GroupID, error) {
	it := db.Iterate(kv.Span{Start: []byte(appliedRow), End: []byte(appliedRow + "\xff\xff\xff\xff\xff\xff\xff\xff\xff")})
	defer it.Close()
	var ids []GroupID
	for it.Next() {
		id, err := rowGroup(it.Key())
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, it.Err()
}

// rebuild fills a new state DB from the newest checkpoint that can be read, or leaves it empty when the log reaches
// back to the beginning.
func (o *opened) rebuild(c Config) (*kv.DB, error) {
	dir := c.StateDir + stateDirName
	complete := o.log.segments[0].first == 1
	for i := len(o.heads) - 1; i >= 0 || complete; i-- {
		if err := kv.Destroy(c.FS, dir); err != nil {
			return nil, err
		}
		db, err := kv.Open(kv.Config{FS: c.FS, Dir: dir, WriteBuffer: c.WriteBuffer, BlockCache: c.BlockCache, Log: c.Log})
		if err != nil {
			return nil, err
		}
		if i < 0 {
			return db, nil // begin begins every group in it
		}
		head := o.heads[i]
		if err = o.log.restore(o.log.drivesOf(o.members), head, db); err == nil {
			c.Log.Info("state database restored", "checkpoint", head.number)
			return db, nil
		}
		c.Log.Warn("checkpoint cannot be restored", "number", head.number, "err", err)
		if err := db.Close(); err != nil {
			c.Log.Warn("state database cannot be closed", "dir", dir, "err", err)
		}
	}
	return nil, fmt.Errorf("%w: none of %d checkpoints can be read", ErrLogDamaged, len(o.heads))
}

// begin makes the replicas of the groups over the state.
func (c *core) begin(groups []*groupLog) error {
	if err := c.clearForeign(groups); err != nil {
		return err
	}
	byID := map[GroupID]*replica{}
	for _, g := range groups {
		machine := c.host.config.Machines(g.id)
		point, m, err := c.settleState(g, machine.Spans())
		if err != nil {
			return err
		}
		if point.index < g.base.index || point.index > g.last() {
			return fmt.Errorf("%w: group %d restored at %d, its log has %d to %d", ErrLogDamaged, g.id, point.index, g.base.index, g.last())
		}
		r, err := c.newReplica(g, machine, point, m)
		if err != nil {
			return err
		}
		byID[g.id] = r
		c.order = append(c.order, r)
	}
	c.groups.Store(&byID)
	c.log.setWant(c.wantMirrors())
	return nil
}

// newReplica makes the replica of a group whose state is settled.
func (c *core) newReplica(g *groupLog, machine Machine, point applied, m members) (*replica, error) {
	retain := 0
	if !m.only(g.replica) || len(m.learners) > 0 {
		retain = retainedAtOpen
	}
	g.shed(point.index, retain)
	g.hard.commit = max(g.hard.commit, point.index)
	r := &replica{
		id: g.id, replica: g.replica, members: m, point: point, durable: g.last(),
		hard: g.hard, begun: g.begun, stamp: g.stamp, holds: map[uint64]uint64{},
		sendable: c.host.config.Snapshots != nil,
		store:    newEntryStore(g.before(), g.hard, m.conf(), g.entries),
		machine:  machine,
		alone:    m.only(g.replica),
	}
	r.store.snapshot = r.snapshotMetadata
	if g.last() > point.index {
		// A checkpoint taken before these are applied must not let go of any frame.
		r.unapplied = []appended{{index: g.last(), seq: c.log.segments[0].first}}
	}
	var err error
	if r.node, err = etcd.NewRawNode(c.raftConfig(r)); err != nil {
		return nil, fmt.Errorf("group %d: %w", g.id, err)
	}
	r.hint.Store(&Leader{Term: g.hard.term})
	r.must = c.host.reachedBefore(g.id)
	r.caughtUp.Store(r.point.index >= r.must)
	r.machine.Restored()
	if r.alone {
		if err := r.node.Campaign(); err != nil {
			return nil, fmt.Errorf("group %d: %w", g.id, err)
		}
	}
	c.touch(r)
	return r, nil
}

func (c *core) raftConfig(r *replica) *etcd.Config {
	return &etcd.Config{
		ID: r.replica, ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks, Storage: r.store,
		Applied: r.point.index, MaxSizePerMsg: maxMessageBytes, MaxCommittedSizePerReady: maxCommittedApply,
		MaxUncommittedEntriesSize: maxUncommitted, MaxInflightMsgs: maxInflightMsgs, MaxInflightBytes: maxInflightBytes,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true, ReadOnlyOption: etcd.ReadOnlySafe,
		Logger: raftLogger{c.host.config.Log.With("group", uint64(r.id))},
	}
}
