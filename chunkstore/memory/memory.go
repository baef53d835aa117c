// Package memory is the reference model of chunkstore.Drive: shards in a map, verified as a disk verifies them, with
// switches that make the drive fail, hang, be slow, be full, go away, or rot. The tests of the store stand on it, and
// the disk drive is held to the same contract (package drivetest).
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// recordHeader is what a disk adds to each shard, so that the sizes told are those of a disk.
const recordHeader = 4096

// Drive is a drive in memory. Use New.
type Drive struct {
	id cluster.DriveID

	mu      sync.Mutex
	name    string
	device  uint64
	total   int64
	down    error
	full    bool
	closed  bool
	faults  map[Op]*fault
	calls   map[Op]int
	fired   map[Op]int
	shards  map[chunkstore.ShardKey]*record
	deleted map[chunkstore.ShardKey]bool
	sealed  map[chunkstore.VolumeID]cluster.Epoch
	length  map[chunkstore.VolumeID]int64
	bytes   int64

	damaged atomic.Int64
	read    atomic.Int64
}

var _ chunkstore.Drive = (*Drive)(nil)

// record is one stored shard. It is never changed in place, so readers need no lock.
type record struct {
	header  chunkstore.Header
	forged  bool // the header's seal was broken by DamageHeader
	payload []byte
}

func (r *record) bytes() int64 { return int64(len(r.payload)) + recordHeader }

// New returns an empty drive.
func New(id cluster.DriveID) *Drive {
	return &Drive{
		id:      id,
		name:    id.String()[:8],
		total:   1 << 40,
		faults:  map[Op]*fault{},
		calls:   map[Op]int{},
		fired:   map[Op]int{},
		shards:  map[chunkstore.ShardKey]*record{},
		deleted: map[chunkstore.ShardKey]bool{},
		sealed:  map[chunkstore.VolumeID]cluster.Epoch{},
		length:  map[chunkstore.VolumeID]int64{},
	}
}

// SetTotal sets how large the drive is.
func (d *Drive) SetTotal(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total = bytes
}

// ID implements chunkstore.Drive.
func (d *Drive) ID() cluster.DriveID { return d.id }

// Put implements chunkstore.Drive.
func (d *Drive) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	if err := d.enter(ctx, OpPut); err != nil {
		return fmt.Errorf("put %v: %w", h.Key, err)
	}
	size := 0
	for _, cell := range cells {
		if !vfs.IsAligned(cell) {
			return fmt.Errorf("put %v: a cell is not aligned to %d bytes: %w", h.Key, vfs.Align, chunkstore.ErrDamaged)
		}
		size += len(cell)
	}
	if h.Key.Shard >= chunkstore.Shards || int64(size) != h.Layout.ShardSize() || len(h.Leaves) != h.Layout.Leaves() ||
		chunkstore.Root(h.Leaves) != h.Roots[h.Key.Shard] {
		return fmt.Errorf("put %v: %d bytes and %d leaves do not fit the layout: %w", h.Key, size, len(h.Leaves), chunkstore.ErrDamaged)
	}
	r := &record{header: *h, payload: slices.Concat(cells...)}
	r.header.Leaves = slices.Clone(h.Leaves)

	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.stopped() != nil:
		return fmt.Errorf("put %v: %w", h.Key, d.stopped())
	case d.deleted[h.Key]:
		return fmt.Errorf("put %v: %w", h.Key, chunkstore.ErrDeleted)
	case h.Epoch < d.sealed[h.Key.Volume]:
		return fmt.Errorf("put %v at epoch %d: %w", h.Key, h.Epoch, chunkstore.ErrStaleVolume)
	case d.full:
		return fmt.Errorf("put %v: %w", h.Key, chunkstore.ErrFull)
	}
	d.drop(h.Key)
	d.shards[h.Key] = r
	d.bytes += r.bytes()
	d.length[h.Key.Volume] += r.bytes()
	return nil
}

// drop forgets a shard. Callers hold mu.
func (d *Drive) drop(key chunkstore.ShardKey) {
	if r, ok := d.shards[key]; ok {
		d.bytes -= r.bytes()
		delete(d.shards, key)
	}
}

// Header implements chunkstore.Drive.
func (d *Drive) Header(ctx context.Context, key chunkstore.ShardKey) (*chunkstore.Header, error) {
	if err := d.enter(ctx, OpHeader); err != nil {
		return nil, fmt.Errorf("header of %v: %w", key, err)
	}
	r, err := d.find(key)
	if err != nil {
		return nil, fmt.Errorf("header of %v: %w", key, err)
	}
	h := r.header
	h.Leaves = slices.Clone(h.Leaves)
	return &h, nil
}

func (d *Drive) find(key chunkstore.ShardKey) (*record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.shards[key]
	switch {
	case d.stopped() != nil:
		return nil, d.stopped()
	case !ok:
		return nil, chunkstore.ErrNotFound
	case r.forged:
		d.damaged.Add(1)
		return nil, fmt.Errorf("seal of the header: %w", chunkstore.ErrDamaged)
	}
	return r, nil
}

// Read implements chunkstore.Drive.
func (d *Drive) Read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	key := chunkstore.ShardKey{Volume: want.Volume, Chunk: want.ID, Shard: shard}
	if err := d.enter(ctx, OpRead); err != nil {
		return fmt.Errorf("read %v: %w", key, err)
	}
	r, err := d.find(key)
	if err != nil {
		return fmt.Errorf("read %v: %w", key, err)
	}
	if err := r.header.Verify(want); err != nil {
		d.damaged.Add(1)
		return fmt.Errorf("read %v: %w", key, err)
	}
	if off < 0 || off+int64(len(dst)) > int64(len(r.payload)) {
		return fmt.Errorf("read %v: bytes %d to %d of %d: %w", key, off, off+int64(len(dst)), len(r.payload), chunkstore.ErrDamaged)
	}
	d.read.Add(int64(copy(dst, r.payload[off:])))
	if err := r.header.VerifyPayload(off, dst); err != nil {
		d.damaged.Add(1)
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// Delete implements chunkstore.Drive.
func (d *Drive) Delete(ctx context.Context, keys []chunkstore.ShardKey) error {
	if err := d.enter(ctx, OpDelete); err != nil {
		return fmt.Errorf("delete %d shards: %w", len(keys), err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stopped(); err != nil {
		return fmt.Errorf("delete %d shards: %w", len(keys), err)
	}
	for _, key := range keys {
		d.drop(key)
		d.deleted[key] = true
	}
	return nil
}

// Seal implements chunkstore.Drive.
func (d *Drive) Seal(ctx context.Context, volume chunkstore.VolumeID, epoch cluster.Epoch) error {
	if err := d.enter(ctx, OpSeal); err != nil {
		return fmt.Errorf("seal volume %d: %w", volume, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stopped(); err != nil {
		return fmt.Errorf("seal volume %d: %w", volume, err)
	}
	d.sealed[volume] = max(d.sealed[volume], epoch)
	return nil
}

// Shards implements chunkstore.Drive.
func (d *Drive) Shards(ctx context.Context, volume chunkstore.VolumeID) ([]chunkstore.ShardInfo, error) {
	if err := d.enter(ctx, OpList); err != nil {
		return nil, fmt.Errorf("shards of volume %d: %w", volume, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stopped(); err != nil {
		return nil, fmt.Errorf("shards of volume %d: %w", volume, err)
	}
	var list []chunkstore.ShardInfo
	for key, r := range d.shards {
		if key.Volume == volume {
			digest := r.header.Digest()
			list = append(list, chunkstore.ShardInfo{Key: key, Epoch: r.header.Epoch, Size: r.header.Size,
				Digest: [16]byte(digest[:16])})
		}
	}
	slices.SortFunc(list, func(a, b chunkstore.ShardInfo) int { return compareKeys(a.Key, b.Key) })
	return list, nil
}

func compareKeys(a, b chunkstore.ShardKey) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Chunk.Block, b.Chunk.Block),
		cmp.Compare(a.Chunk.Seq, b.Chunk.Seq), cmp.Compare(a.Shard, b.Shard))
}

// Volumes implements chunkstore.Drive.
func (d *Drive) Volumes(ctx context.Context) ([]chunkstore.VolumeUse, error) {
	if err := d.enter(ctx, OpList); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	uses := map[chunkstore.VolumeID]chunkstore.VolumeUse{}
	for key, r := range d.shards {
		use := uses[key.Volume]
		use.Volume, use.Length = key.Volume, d.length[key.Volume]
		use.Shards++
		use.Bytes += r.bytes()
		uses[key.Volume] = use
	}
	list := make([]chunkstore.VolumeUse, 0, len(uses))
	for _, use := range uses {
		list = append(list, use)
	}
	slices.SortFunc(list, func(a, b chunkstore.VolumeUse) int { return cmp.Compare(a.Volume, b.Volume) })
	return list, nil
}

// Check implements chunkstore.Drive.
func (d *Drive) Check(ctx context.Context, key chunkstore.ShardKey) error {
	if err := d.enter(ctx, OpCheck); err != nil {
		return fmt.Errorf("check %v: %w", key, err)
	}
	r, err := d.find(key)
	if err != nil {
		return fmt.Errorf("check %v: %w", key, err)
	}
	if chunkstore.Root(r.header.Leaves) != r.header.Roots[key.Shard] {
		err = fmt.Errorf("leaves of %v do not fit the root: %w", key, chunkstore.ErrDamaged)
	} else {
		err = r.header.VerifyPayload(0, r.payload)
	}
	if err != nil {
		d.damaged.Add(1)
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// Status implements chunkstore.Drive. It never waits, whatever the switches say.
func (d *Drive) Status() chunkstore.DriveStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return chunkstore.DriveStatus{
		ID: d.id, Name: d.name, Path: "memory:" + d.name, Down: d.stopped(), Full: d.full, Device: d.device,
		Total: d.total, Free: max(d.total-d.bytes, 0), Shards: int64(len(d.shards)), Bytes: d.bytes,
		Damaged: d.damaged.Load(),
	}
}

// Close implements chunkstore.Drive. Calls that hang by a switch end.
func (d *Drive) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	for _, f := range d.faults {
		f.lift()
	}
	return nil
}

// stopped tells why the drive does nothing, nil when it works. Callers hold mu.
func (d *Drive) stopped() error {
	if d.closed {
		return fmt.Errorf("closed: %w", chunkstore.ErrDriveDown)
	}
	if d.down == nil || errors.Is(d.down, chunkstore.ErrDriveDown) {
		return d.down
	}
	return fmt.Errorf("%w: %w", chunkstore.ErrDriveDown, d.down)
}
