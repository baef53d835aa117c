package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

const (
	// deepParallel is how many chunks a deep check reads at once: enough to keep twelve drives busy, few enough to
	// leave clients their share.
	deepParallel = 4
	// tellEvery is how often a check says how far it is.
	tellEvery = time.Second
	// latePause is how long to wait for a drive that does not answer before it is asked again, and maxPauses how often in
	// one check: a minute for each of those that run in parallel.
	latePause = time.Second
	maxPauses = 60 * deepParallel
	allShards = 1<<chunkstore.Shards - 1
)

// Fsck implements admin.Source. It lists first what the drives hold and walks the names then, so that a shard which no
// name leads to is an orphan (or of a write that is under way); a shard that a name leads to and the listing lacks is
// looked for again before it counts as missing.
func (s source) Fsck(ctx context.Context, deep bool, see func(admin.FsckEvent) error) (*admin.FsckReport, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	f := &fsck{core: s.core, deep: deep, see: see, began: time.Now(), told: time.Now(), held: make(map[chunkstore.ChunkID]*holding),
		report: admin.FsckReport{Deep: deep}, names: make(map[uint64]string)}
	if err := f.list(ctx); err != nil {
		return nil, fmt.Errorf("list what the drives hold: %w", err)
	}
	if err := f.walk(ctx); err != nil {
		return nil, err
	}
	f.countOrphans()
	f.report.Took = time.Since(f.began)
	return &f.report, nil
}

// holding is what the drives hold of one chunk, and what the walk found out about it.
type holding struct {
	shards uint16 // that stand on the drive of their slot
	extra  uint8  // shards that stand elsewhere, left by a move
	bytes  int64  // payload of all of them
	named  bool
	judged bool
	freed  bool // no name but part rows that go with the freed row can lead to it
}

type fsck struct {
	core  *core
	deep  bool
	see   func(admin.FsckEvent) error
	began time.Time
	names map[uint64]string // of buckets, by id
	// pauses counts how often the check waited for a drive that did not answer.
	pauses atomic.Int64

	mu     sync.Mutex // guards what follows; deep checks run in parallel
	told   time.Time
	held   map[chunkstore.ChunkID]*holding
	report admin.FsckReport
}

// list asks every drive what it holds.
func (f *fsck) list(ctx context.Context) error {
	buckets, err := f.core.names.Buckets(ctx)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		f.names[uint64(b.ID)] = b.Name
	}
	slots := make(map[chunkstore.VolumeID][chunkstore.Shards]cluster.DriveID)
	err = chunkstore.EachVolume(ctx, f.core.volumes(), func(v chunkstore.Volume) error {
		slots[v.ID] = v.Slots
		return nil
	})
	if err != nil {
		return err
	}
	drives := f.core.peer.drives.All()
	m := f.core.watcher.Map()
	f.report.DrivesDown = max(0, len(m.Drives)-len(drives))
	for _, d := range drives {
		err := f.listDrive(ctx, d, slots)
		if errors.Is(err, chunkstore.ErrDriveDown) { // it went while it was asked
			f.report.DrivesDown++
			continue
		}
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.Status().Name, err)
		}
	}
	return nil
}

func (f *fsck) listDrive(ctx context.Context, d chunkstore.Drive, slots map[chunkstore.VolumeID][chunkstore.Shards]cluster.DriveID) error {
	uses, err := d.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, use := range uses {
		shards, err := d.Shards(ctx, use.Volume)
		if err != nil {
			return err
		}
		home := slots[use.Volume]
		for _, info := range shards {
			h := f.held[info.Key.Chunk]
			if h == nil {
				h = &holding{}
				f.held[info.Key.Chunk] = h
			}
			f.report.Shards++
			h.bytes += int64(info.Size) / 8 // one of eight data shards; parity weighs the same
			if int(info.Key.Shard) < chunkstore.Shards && home[info.Key.Shard] == d.ID() {
				h.shards |= 1 << info.Key.Shard
			} else {
				h.extra++
			}
		}
	}
	return nil
}

// walk goes over all names and judges every chunk that they lead to.
func (f *fsck) walk(ctx context.Context) error {
	if err := f.core.names.Survey(ctx, f.count); err != nil {
		return fmt.Errorf("count the names: %w", err)
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(deepParallel)
	err := f.core.objects.Survey(inner, func(n multipart.Named) error {
		waits := n.At.Freed != nil || n.At.Row != nil // to be deleted: its chunks may be gone already
		switch {
		case n.Err != nil && waits:
			return nil
		case n.Err != nil:
			return f.unreadable(n)
		}
		if f.first(n, waits) {
			group.Go(func() error { return f.judge(inner, n) })
		}
		return f.tell()
	})
	// The first error of a judgement ends the walk, which then says that it was cancelled.
	if groupErr := group.Wait(); groupErr != nil {
		return groupErr
	}
	return err
}

// count counts one record.
func (f *fsck) count(at metadata.Surveyed) error {
	switch {
	case at.Version != nil:
		f.report.Versions++
	case at.Part != nil:
		f.report.Parts++
	case at.Stage != nil:
		f.report.Staged++
	case at.Freed != nil && at.Freed.Shared:
		f.report.Shared++
	case at.Freed != nil:
		f.report.Freed++
	}
	return nil
}

// first marks a chunk as named and tells whether it is to be judged: once, and not when it only waits to be deleted. Part
// rows stay as long as the freed row that names them: while a drive is down, chunks that it alone still holds.
func (f *fsck) first(n multipart.Named, waits bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := n.Chunk
	h := f.held[c.ID]
	if h == nil {
		h = &holding{}
		f.held[c.ID] = h
	}
	h.named = true
	h.freed = h.freed || n.At.Freed != nil && !n.At.Freed.Shared
	if h.judged || waits || h.freed && n.At.Part != nil {
		return false
	}
	h.judged = true
	f.report.Chunks++
	f.report.Bytes += int64(c.Size)
	return true
}

// judge finds out how a chunk is.
func (f *fsck) judge(ctx context.Context, n multipart.Named) error {
	f.mu.Lock()
	whole := f.held[n.Chunk.ID].shards == allShards
	f.mu.Unlock()
	if whole && !f.deep {
		return nil
	}
	result, err := f.check(ctx, n.Chunk)
	if errors.Is(err, chunkstore.ErrNotFound) { // not even its volume exists
		result, err = chunkstore.CheckResult{Missing: allShards, Losses: -1}, nil
	}
	if err != nil {
		return fmt.Errorf("check chunk %v: %w", n.Chunk.ID, err)
	}
	if result.Good == allShards || f.gone(ctx, n) {
		return nil
	}
	if err := f.order(ctx, n.Chunk, result); err != nil {
		return err
	}
	kind := "missing"
	switch {
	case result.Losses < 0:
		kind = "lost"
	case result.Damaged != 0:
		kind = "damaged"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == "lost" {
		f.report.Lost++
	} else {
		f.report.Degraded++
	}
	problem := f.problem(kind, n)
	problem.Detail = fmt.Sprintf("%d of %d shards are good, %d missing, %d damaged, %d on drives that are down or do not answer", bits.OnesCount16(result.Good),
		chunkstore.Shards, bits.OnesCount16(result.Missing), bits.OnesCount16(result.Damaged), bits.OnesCount16(result.Unreachable))
	return f.see(admin.FsckEvent{Problem: &problem})
}

// check is Store.Check with more patience: a drive that is up and did not answer in time is asked again, so that a
// machine under load is not taken for one whose drives are gone.
func (f *fsck) check(ctx context.Context, c chunkstore.Chunk) (chunkstore.CheckResult, error) {
	for {
		result, err := f.core.chunks.Check(ctx, c)
		if err != nil || result.Unreachable == 0 || !f.late(ctx, c, result.Unreachable) {
			return result, err
		}
		timer := time.NewTimer(latePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return result, ctx.Err()
		}
	}
}

// late tells whether a drive of these shards is up, and the check has waited for such drives less than it may.
func (f *fsck) late(ctx context.Context, c chunkstore.Chunk, shards uint16) bool {
	v, err := f.core.volumes().Volume(ctx, c.Volume)
	if err != nil {
		return false
	}
	for i, id := range v.Slots {
		if d, here := f.core.peer.drives.Get(id); shards>>i&1 != 0 && here && d.Status().Down == nil {
			return f.pauses.Add(1) <= maxPauses
		}
	}
	return false
}

// order tells repair what to rebuild of a chunk: the shards that are damaged or missing on drives that are up.
func (f *fsck) order(ctx context.Context, c chunkstore.Chunk, result chunkstore.CheckResult) error {
	mask := result.Damaged | result.Missing
	if mask == 0 || result.Losses < 0 { // on drives that are down, or beyond repair
		return nil
	}
	if err := f.core.volumes().AddIntent(ctx, chunkstore.Intent{Chunk: c, Missing: mask}); err != nil {
		return fmt.Errorf("record the damage of chunk %v: %w", c.ID, err)
	}
	f.core.repair.Kick()
	return nil
}

// gone tells whether the name that led to a chunk went away meanwhile, so that its shards may have too.
func (f *fsck) gone(ctx context.Context, n multipart.Named) bool {
	if v := n.At.Version; v != nil {
		_, err := f.core.names.Version(ctx, n.At.Bucket, n.At.Key, v.ID, v.Null)
		return isGone(err)
	}
	if p := n.At.Part; p != nil {
		parts, err := f.core.names.Parts(ctx, n.At.Bucket, n.At.Key, n.At.PartOf, p.Number-1, 1)
		return isGone(err) || err == nil && (len(parts) == 0 || !bytes.Equal(parts[0].Manifest, p.Manifest))
	}
	return false
}

func isGone(err error) bool {
	for _, gone := range []error{metadata.ErrNoSuchBucket, metadata.ErrNoSuchKey, metadata.ErrNoSuchVersion, metadata.ErrNoSuchUpload} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

func (f *fsck) problem(kind string, n multipart.Named) admin.FsckProblem {
	p := admin.FsckProblem{Kind: kind, Bucket: f.names[uint64(n.At.Bucket)], Key: n.At.Key}
	if n.At.Version != nil && !n.At.Version.Null {
		p.Version = n.At.Version.ID.String()
	}
	if n.Err == nil {
		p.Chunk = n.Chunk.ID.String()
	}
	return p
}

func (f *fsck) unreadable(n multipart.Named) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Unreadable++
	problem := f.problem("manifest", n)
	problem.Detail = n.Err.Error()
	return f.see(admin.FsckEvent{Problem: &problem})
}

// tell says now and then how far the check is.
func (f *fsck) tell() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.told) < tellEvery {
		return nil
	}
	f.told = time.Now()
	return f.see(admin.FsckEvent{Progress: &admin.FsckProgress{Versions: f.report.Versions, Chunks: f.report.Chunks, Bytes: f.report.Bytes}})
}

// countOrphans counts what no name led to.
func (f *fsck) countOrphans() {
	for _, h := range f.held {
		if !h.named {
			f.report.Orphans += int64(bits.OnesCount16(h.shards)) + int64(h.extra)
			f.report.OrphanBytes += h.bytes
		}
	}
}
