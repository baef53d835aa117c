package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// openVolumes is how many volumes take chunks at a time: one more than it takes to write on while one is
	// replaced. Each is another file to sync on every drive, so more would cost small writes dearly.
	openVolumes = 2
	// volumesEach is how many full volumes a drive has room for at least, and minVolumeSize what a volume grows to however
	// small its drives are. On drives of 2 GiB and more a slot is then less than the hundredth of one, and drives can be
	// filled evenly. A drive that shares its device with others counts with all of it.
	volumesEach   = 128
	minVolumeSize = 16 << 20
	// listPage is how many rows are read at a time.
	listPage = 1000
	// sealAgain is how long to wait before a volume that could not be sealed is tried again.
	sealAgain = time.Second
)

// openVolume is a volume that takes chunks. Its fields belong to volumeSet.mu.
type openVolume struct {
	row    Volume
	size   int64 // at which it is sealed
	length int64 // of its longest chunk file, about
	busy   int   // chunks under way
	closed bool  // takes no more chunks
	// makeshift, when not zero, is the time at which the volume is replaced: it was opened on drives that are slow.
	makeshift time.Time
	opened    time.Time // zero: by an earlier process
}

// volumeSet keeps the volumes that take chunks, and a cache of volume rows.
//
// Open volumes of an earlier process of this peer are used again when all of their drives are healthy, up to openVolumes
// of them; their epoch is unchanged and chunk ids never repeat, so nothing of the earlier process can be confused with
// the new. The others of this peer are sealed in the background, and so are those that have no owner. Those of other
// peers are theirs: whoever writes to one, and when it is sealed, is up to its owner while it lives (SealAbandoned).
type volumeSet struct {
	store *Store

	mu       sync.Mutex
	rows     map[VolumeID]cachedRow
	open     []*openVolume
	retiring []*openVolume
	adopted  bool          // the volumes of the earlier process were looked at
	opening  chan struct{} // closed when the opening that is under way ends; nil when none is

	kick chan struct{} // something to do for run
}

func newVolumeSet(s *Store) *volumeSet {
	return &volumeSet{store: s, rows: make(map[VolumeID]cachedRow), kick: make(chan struct{}, 1)}
}

// pick returns a volume whose drives are all healthy for one chunk; the caller calls done with it. It opens one when
// there is none, and fails with ErrSlowDown when too few drives are healthy for that.
func (vs *volumeSet) pick(ctx context.Context) (*openVolume, error) {
	for {
		vs.mu.Lock()
		v := vs.choose()
		if v != nil {
			v.busy++
			vs.mu.Unlock()
			return v, nil
		}
		opening := vs.opening
		if opening == nil {
			opening = make(chan struct{})
			vs.opening = opening
			vs.mu.Unlock()
			err := vs.openOne(ctx)
			vs.mu.Lock()
			vs.opening = nil
			vs.mu.Unlock()
			close(opening)
			if err != nil {
				return nil, err
			}
			continue
		}
		vs.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// choose is called with mu held. It retires the volumes that cannot take chunks now, and returns the least busy of
// the others; of equals the oldest, so that small writes meet in one file and share its sync.
func (vs *volumeSet) choose() *openVolume {
	now := vs.store.config.Now()
	var best *openVolume
	healthy := vs.open[:0:0]
	for _, v := range vs.open {
		if v.length >= v.size || !vs.store.fit(v, now) {
			vs.toRetiring(v)
			continue
		}
		healthy = append(healthy, v)
		if best == nil || v.busy < best.busy {
			best = v
		}
	}
	vs.open = healthy
	if best != nil && len(healthy) < openVolumes {
		vs.wake()
	}
	return best
}

// done says that a chunk of so many bytes in each chunk file is finished with v, stored or not.
func (vs *volumeSet) done(v *openVolume, bytes int64) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	v.busy--
	v.length += bytes
	if v.closed && v.busy == 0 {
		vs.wake()
	}
}

// retire stops new chunks from going to v; it is sealed when those under way are done.
func (vs *volumeSet) retire(v *openVolume) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.remove(v.row.ID)
}

// remove is called with mu held.
func (vs *volumeSet) remove(id VolumeID) {
	for i, v := range vs.open {
		if v.row.ID == id {
			vs.open = append(vs.open[:i:i], vs.open[i+1:]...)
			vs.toRetiring(v)
			return
		}
	}
}

// Regroup stops writing to the open volumes of placement groups that there are no more: the topology has changed, and new
// volumes stand where it wants them. The old ones are sealed, so that they can move.
func (s *Store) Regroup(ctx context.Context, groups []Group) error {
	s.volumes.mu.Lock()
	adopted := s.volumes.adopted
	s.volumes.mu.Unlock()
	if !adopted {
		if err := s.volumes.adopt(ctx); err != nil {
			return err
		}
	}
	current := make(map[uint32]bool, len(groups))
	for _, g := range groups {
		current[g.ID] = true
	}
	s.volumes.mu.Lock()
	defer s.volumes.mu.Unlock()
	var old []VolumeID
	for _, v := range s.volumes.open {
		if !current[v.row.Group] {
			old = append(old, v.row.ID)
		}
	}
	for _, id := range old {
		s.volumes.remove(id)
	}
	return nil
}

func (vs *volumeSet) toRetiring(v *openVolume) {
	v.closed = true
	vs.retiring = append(vs.retiring, v)
	vs.wake()
}

func (vs *volumeSet) wake() {
	select {
	case vs.kick <- struct{}{}:
	default:
	}
}

// openOne adopts what an earlier process left open, or opens a new volume.
func (vs *volumeSet) openOne(ctx context.Context) error {
	vs.mu.Lock()
	adopted := vs.adopted
	vs.mu.Unlock()
	if !adopted {
		if err := vs.adopt(ctx); err != nil {
			return err
		}
		vs.mu.Lock()
		found := len(vs.open) > 0
		vs.mu.Unlock()
		if found {
			return nil
		}
	}
	row, slow, err := vs.plan(ctx)
	if err != nil {
		return err
	}
	row, err = vs.store.config.Volumes.CreateVolume(ctx, row)
	if err != nil {
		return fmt.Errorf("open a volume: %w", err)
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.remember(row)
	v := &openVolume{row: row, size: vs.store.volumeSize(row.Slots), opened: vs.store.config.Now()}
	if slow {
		v.makeshift = vs.store.config.Now().Add(avoidFor)
	}
	vs.open = append(vs.open, v)
	return nil
}

// adopt looks once at the open volumes of this peer that are there already, and at those that have no owner. The latter
// it does not use: another peer may do so at the same time, and to seal a volume is safe whoever writes to it.
func (vs *volumeSet) adopt(ctx context.Context) error {
	var found []Volume
	err := EachVolume(ctx, vs.store.config.Volumes, func(v Volume) error {
		if v.State == VolumeOpen && (v.Owner == vs.store.config.Self || v.Owner == cluster.PeerID{}) {
			found = append(found, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	lengths := vs.store.volumeLengths(ctx)
	now := vs.store.config.Now()
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if vs.adopted {
		return nil
	}
	vs.adopted = true
	for _, row := range found {
		vs.remember(row)
		v := &openVolume{row: row, size: vs.store.volumeSize(row.Slots), length: lengths[row.ID]}
		if row.Owner == vs.store.config.Self && len(vs.open) < openVolumes && v.length < v.size && vs.store.allAre(row.Slots, now, (*member).writable) {
			vs.open = append(vs.open, v)
		} else {
			vs.toRetiring(v)
		}
	}
	return nil
}

// volumeLengths asks every drive that answers for the length of its chunk files.
func (s *Store) volumeLengths(ctx context.Context) map[VolumeID]int64 {
	lengths := make(map[VolumeID]int64)
	for _, m := range s.config.Drives.all() {
		uses, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) ([]VolumeUse, error) { return m.drive.Volumes(ctx) })
		if err != nil {
			continue // a drive that cannot tell its volumes takes no chunks of them either
		}
		for _, use := range uses {
			lengths[use.Volume] = max(lengths[use.Volume], use.Length)
		}
	}
	return lengths
}

// fit says whether a volume can take chunks now.
func (s *Store) fit(v *openVolume, now time.Time) bool {
	if v.makeshift.IsZero() {
		return s.allAre(v.row.Slots, now, (*member).writable) && !s.homeAgain(v, now)
	}
	return now.Before(v.makeshift) && s.allAre(v.row.Slots, now, (*member).usable)
}

// homeAgain says that a volume which is doubled up need not be any more, so that another one spreads its shards better.
// Drives that come and go replace a volume once in avoidFor at most.
func (s *Store) homeAgain(v *openVolume, now time.Time) bool {
	return v.row.Slots != v.row.Home && now.Sub(v.opened) >= avoidFor && s.allAre(v.row.Home, now, s.lasting)
}

// volumeSize is the length of chunk files at which a volume on these drives is sealed: a small part of the smallest
// drive, so that its slots can be dealt out evenly, and at most what the configuration says.
func (s *Store) volumeSize(slots DriveIDs) int64 {
	size := s.config.VolumeSize
	for _, id := range slots {
		if m := s.config.Drives.member(id); m != nil {
			if total := m.drive.Status().Total; total > 0 {
				size = min(size, max(total/volumesEach, minVolumeSize))
			}
		}
	}
	return size
}

// allAre says whether every one of these drives is here and ok holds for it.
func (s *Store) allAre(slots DriveIDs, now time.Time, ok func(*member, time.Time) bool) bool {
	for i, id := range slots {
		if i > 0 && id == slots[i-1] {
			continue
		}
		m := s.config.Drives.member(id)
		if m == nil || !ok(m, now) {
			return false
		}
	}
	return true
}

// run opens and seals volumes in the background until the Store is closed.
func (vs *volumeSet) run() {
	ctx := vs.store.life
	again := time.NewTimer(sealAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-vs.kick:
		case <-again.C:
		}
		if vs.sealRetired(ctx) > 0 {
			again.Reset(sealAgain)
		}
		vs.fillUp(ctx)
	}
}

// fillUp opens one more volume when some but too few are open.
func (vs *volumeSet) fillUp(ctx context.Context) {
	vs.mu.Lock()
	if n := len(vs.open); n == 0 || n >= openVolumes || vs.opening != nil {
		vs.mu.Unlock()
		return
	}
	opening := make(chan struct{})
	vs.opening = opening
	vs.mu.Unlock()
	err := vs.openOne(ctx)
	vs.mu.Lock()
	vs.opening = nil
	vs.mu.Unlock()
	close(opening)
	if err != nil && ctx.Err() == nil {
		vs.store.config.Log.Warn("no further volume could be opened; writes share the open one", "err", err)
	}
}

// sealRetired seals the volumes that are closed and idle. It returns how many are left to try again.
func (vs *volumeSet) sealRetired(ctx context.Context) int {
	vs.mu.Lock()
	var idle []*openVolume
	for _, v := range vs.retiring {
		if v.busy == 0 {
			idle = append(idle, v)
		}
	}
	vs.mu.Unlock()
	for _, v := range idle {
		if _, err := vs.store.Seal(ctx, v.row.ID); err != nil && !errors.Is(err, ErrNotFound) {
			continue // it stays in the list; status shows it as open meanwhile
		}
		vs.mu.Lock()
		for i, r := range vs.retiring {
			if r == v {
				vs.retiring = append(vs.retiring[:i:i], vs.retiring[i+1:]...)
				break
			}
		}
		vs.mu.Unlock()
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	left := 0
	for _, v := range vs.retiring {
		if v.busy == 0 {
			left++
		}
	}
	return left
}
