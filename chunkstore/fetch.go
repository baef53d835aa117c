package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/holdfast/holdfast/chunkstore/erasure"
)

// fetch reads one window of one chunk: the touched leaves of the touched data shards, and where those cannot be had,
// the same columns of other shards to rebuild them from.
type fetch struct {
	store  *Store
	chunk  Chunk
	volume Volume
	geo    geometry
	window *window
	// members are the drives of the slots, nil where one is missing.
	members [Shards]*member

	have  [Shards]piece // verified bytes in the window
	fault [Shards]error // why a shard cannot be read
	// around are the shards not asked yet because their drive is suspect, slow or far.
	around uint16
	// slow are the shards on drives that are much slower than the others.
	slow uint16
}

var errAround = errors.New("gone around")

// fetch fills a window with a geometry's span. rows are its memory; they belong to the window from then on.
func (s *Store) fetch(ctx context.Context, c Chunk, geo geometry, w *window) error {
	v, err := s.volumes.row(ctx, c.Volume)
	if err != nil {
		return fmt.Errorf("read chunk %v: %w", c.ID, err)
	}
	f := &fetch{store: s, chunk: c, volume: v, geo: geo, window: w}
	err = f.run(ctx)
	if err != nil && ctx.Err() == nil && f.moved(ctx) {
		*f = fetch{store: s, chunk: c, volume: f.volume, geo: geo, window: w}
		err = f.run(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("read chunk %v: %w", c.ID, err)
	}
	f.report(ctx)
	return nil
}

// moved reads the volume row again and tells whether the slots changed.
func (f *fetch) moved(ctx context.Context) bool {
	now, err := f.store.volumes.refresh(ctx, f.volume.ID)
	if err != nil || now.Slots == f.volume.Slots {
		return false
	}
	f.volume = now
	return true
}

func (f *fetch) run(ctx context.Context) error {
	f.store.config.Drives.slots(&f.volume.Slots, &f.members)
	var memory [Shards]int
	want := memory[:0]
	for i := range dataCells {
		if !f.geo.need(i).empty() && f.fault[i] == nil {
			want = append(want, i)
		}
	}
	want, columns := f.avoidSlow(want)
	if columns.empty() {
		columns = f.preferNear(want)
	}
	if err := f.read(ctx, want, columns, f.store.config.ReadDeadline, false); err != nil {
		return err
	}
	lost := f.lost()
	if lost == 0 {
		return nil
	}
	return f.rebuild(ctx, lost)
}

// preferNear puts parity shards of near drives in the place of as many data shards of far ones, in want, where whole cells
// of all data shards are read: to rebuild a shard takes less of a processor than to move it between peers, and nothing of
// the network. It returns the columns to read of all, which is empty when nothing was changed.
func (f *fetch) preferNear(want []int) piece {
	s := f.store
	if s.config.Near == nil || len(want) != dataCells {
		return piece{}
	}
	columns := f.geo.need(0)
	for i := range dataCells {
		if f.geo.need(i) != columns {
			return piece{}
		}
	}
	now, at, changed := s.config.Now(), 0, int64(0)
	for p := dataCells; p < Shards; p++ {
		if m := f.members[p]; m == nil || f.slow>>p&1 != 0 || !s.config.Near(f.volume.Slots[p]) || !m.readable(now) {
			continue
		}
		for at < len(want) && s.config.Near(f.volume.Slots[want[at]]) {
			at++
		}
		if at == len(want) {
			break
		}
		// It is the last resort, as every shard that was gone around.
		f.around |= 1 << want[at]
		f.fault[want[at]] = errAround
		want[at] = p
		at++
		changed++
	}
	if changed == 0 {
		return piece{}
	}
	s.stats.nearer.Add(changed)
	return columns
}

// lost returns the needed data shards that are not there.
func (f *fetch) lost() uint16 {
	var mask uint16
	for i := range dataCells {
		if !f.have[i].holds(f.geo.need(i)) {
			mask |= 1 << i
		}
	}
	return mask
}

// rebuild computes the lost shards from eight others, asking for as many more as it takes.
func (f *fetch) rebuild(ctx context.Context, lost uint16) error {
	for {
		columns := f.columns(lost)
		sources := f.sources(lost, columns)
		missing := dataCells - bits.OnesCount16(sources)
		if missing <= 0 {
			return f.reconstruct(ctx, lost, columns)
		}
		ask := f.candidates(lost, columns, missing)
		wait, last := f.store.config.ReadDeadline, false
		if len(ask) == 0 {
			ask, wait, last = f.suspects(), slowCall, true
		}
		if len(ask) == 0 {
			return f.tooFew()
		}
		if err := f.read(ctx, ask, columns, wait, last); err != nil {
			return err
		}
		if lost = f.lost(); lost == 0 {
			return nil
		}
	}
}

// columns are the bytes of every shard that it takes to rebuild the lost ones.
func (f *fetch) columns(lost uint16) piece {
	var columns piece
	for i := range dataCells {
		if lost>>i&1 != 0 {
			columns = columns.hull(f.geo.need(i))
		}
	}
	return columns
}

func (f *fetch) sources(lost uint16, columns piece) uint16 {
	var mask uint16
	for i := range Shards {
		if lost>>i&1 == 0 && f.have[i].holds(columns) && !f.have[i].empty() {
			mask |= 1 << i
		}
	}
	return mask
}

// candidates returns up to n shards that were not found wanting, those on slow drives last, data shards first: some of
// them were needed anyway.
func (f *fetch) candidates(lost uint16, columns piece, n int) []int {
	var ask, slow []int
	for i := range Shards {
		switch {
		case lost>>i&1 != 0 || f.fault[i] != nil || f.have[i].holds(columns):
		case f.slow>>i&1 != 0:
			slow = append(slow, i)
		default:
			ask = append(ask, i)
		}
	}
	ask = append(ask, slow...)
	return ask[:min(n, len(ask))]
}

// suspects returns the shards that were gone around, the last resort.
func (f *fetch) suspects() []int {
	var ask []int
	for i := range Shards {
		if f.around>>i&1 != 0 {
			ask = append(ask, i)
		}
	}
	return ask
}

func (f *fetch) tooFew() error {
	readable := 0
	var first error
	for i := range Shards {
		switch {
		case f.fault[i] == nil:
			readable++
		case first == nil:
			first = fmt.Errorf("shard %d: %v", i, f.fault[i])
		}
	}
	return fmt.Errorf("%d of %d shards of volume %d are readable, %d needed (%v): %w",
		readable, Shards, f.chunk.Volume, dataCells, first, ErrLost)
}

// reconstruct computes the lost shards over the columns and proves them where their leaves are known.
func (f *fetch) reconstruct(ctx context.Context, lost uint16, columns piece) error {
	sources := f.sources(lost, columns)
	for off := columns.lo; off < columns.hi; {
		n := min(columns.hi-off, erasure.Cell-off%erasure.Cell)
		var cells [Shards][]byte
		for i := range cells {
			switch {
			case sources>>i&1 != 0:
				cells[i] = f.window.slice(i, off, n)
			case lost>>i&1 != 0:
				cells[i] = f.window.slice(i, off, n)[:0]
			}
		}
		if err := f.store.codec.Reconstruct(cells[:], uint64(lost)); err != nil {
			return err
		}
		off += n
	}
	f.store.stats.rebuilt.Add(1)
	for i := range dataCells {
		if lost>>i&1 == 0 {
			continue
		}
		if err := f.prove(ctx, i, columns); err != nil {
			return err
		}
		f.have[i] = columns
	}
	return nil
}

// prove compares rebuilt bytes with the shard's own leaves when its header can still be read. The cells that they were
// computed from were verified, so a difference means that the code or the memory of this process is broken.
func (f *fetch) prove(ctx context.Context, shard int, columns piece) error {
	if !errors.Is(f.fault[shard], ErrDamaged) {
		return nil
	}
	m := f.members[shard]
	if m == nil {
		return nil
	}
	key := ShardKey{Volume: f.chunk.Volume, Chunk: f.chunk.ID, Shard: uint8(shard)}
	h, err := call(ctx, f.store, m, f.store.config.ReadDeadline, nil, func(ctx context.Context) (*Header, error) {
		return m.drive.Header(ctx, key)
	})
	if err != nil || h.Verify(f.chunk) != nil {
		return nil // the header is damaged too: there is nothing to compare with
	}
	// The cells of a data shard lie back to back in a window, so this is one piece.
	if err := h.VerifyPayload(f.geo.base()+columns.lo, f.window.slice(shard, columns.lo, columns.size())); err != nil {
		return fmt.Errorf("rebuilt: %w", err)
	}
	return nil
}

// report hands damaged and missing shards on drives that are up to repair. A shard that has moved is not missing.
func (f *fetch) report(ctx context.Context) {
	var mask, missing uint16
	for i, err := range f.fault {
		switch {
		case errors.Is(err, ErrDamaged):
			mask |= 1 << i
		case errors.Is(err, ErrNotFound):
			missing |= 1 << i
		}
	}
	if missing != 0 && !f.moved(ctx) {
		mask |= missing
	}
	if mask != 0 {
		f.store.damage.report(f.chunk, mask)
	}
}
