package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/chunkstore/hashkern"
	"github.com/holdfast/holdfast/cluster"
)

// errGiven stands for a shard that a rebuild must not ask for, because it is the one to rebuild.
var errGiven = errors.New("the shard to rebuild")

// Restore makes sure that a drive holds a shard of a chunk, verified: when it is not whole there already it is copied
// from its slot of v, or rebuilt from other shards, proved against the chunk's digest, put, and checked. ErrDeleted
// says that the chunk was deleted on that drive, ErrLost that too few shards are readable, ErrStaleVolume that v is not
// the row of the volume any more, before or after: another peer moves it, and whether the shard is where the row says
// is not known.
func (s *Store) Restore(ctx context.Context, c Chunk, shard int, v Volume, to cluster.DriveID) error {
	m := s.config.Drives.member(to)
	if m == nil {
		return fmt.Errorf("restore shard %d of chunk %v: drive %v is missing: %w", shard, c.ID, to, ErrDriveDown)
	}
	at := v
	at.Slots[shard] = to
	err := s.restoreUnlessThere(ctx, c, shard, v, at, m)
	if err == nil || errors.Is(err, ErrDeleted) {
		// Of a slot that moved meanwhile only a copy was deleted.
		if e := s.volumes.still(ctx, v); e != nil {
			err = e
		}
	}
	if err != nil {
		return fmt.Errorf("restore shard %d of chunk %v to drive %v: %w", shard, c.ID, to, err)
	}
	return nil
}

func (s *Store) restoreUnlessThere(ctx context.Context, c Chunk, shard int, v, at Volume, to *member) error {
	if s.checkShard(ctx, c, at, shard) == nil {
		return nil
	}
	if err := s.volumes.still(ctx, v); err != nil {
		return err
	}
	s.budget.join()
	defer s.budget.leave()
	return s.restore(ctx, c, shard, v, to)
}

func (s *Store) restore(ctx context.Context, c Chunk, shard int, v Volume, to *member) error {
	proof, err := s.proof(ctx, c, v)
	if err != nil {
		return err
	}
	layout := erasure.Default.Layout(int64(c.Size))
	w, err := s.takeWindow(ctx, (int(layout.Rows)+Shards-1)/Shards)
	if err != nil {
		return err
	}
	defer w.release()
	cells := make([][]byte, layout.Rows)
	for i := range cells {
		cells[i] = w.rows[i/Shards].cell(i%Shards, erasure.Cell)[:layout.Cell]
	}
	if v.Slots[shard] == to.drive.ID() || s.copyShard(ctx, c, shard, v, cells) != nil {
		if err := s.rebuildShard(ctx, c, shard, v, cells); err != nil {
			return err
		}
	}
	h := &Header{
		Key: ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(shard)}, Epoch: v.Epoch, Size: c.Size,
		Layout: layout, Owner: proof.Owner, Roots: proof.Roots,
	}
	var leaves [][]byte
	for _, cell := range cells {
		leaves = cutLeaves(leaves, cell, layout.Leaf)
	}
	sums := make([]hashkern.Digest, len(leaves))
	hashkern.Sum256(leaves, sums)
	for _, sum := range sums {
		h.Leaves = append(h.Leaves, Digest(sum))
	}
	if err := h.Verify(c); err != nil {
		return fmt.Errorf("rebuilt: %w", err)
	}
	if err := s.putShard(ctx, h, to, w, cells); err != nil {
		return err
	}
	s.stats.restored.Add(1)
	s.stats.restoredSize.Add(layout.ShardSize())
	return nil
}

// putShard puts and checks a shard. The memory stays with a put that hangs.
func (s *Store) putShard(ctx context.Context, h *Header, to *member, w *window, cells [][]byte) error {
	_, err := call(ctx, s, to, slowCall, w, func(ctx context.Context) (struct{}, error) {
		err := to.drive.Put(ctx, h, cells)
		if err == nil {
			err = to.drive.Check(ctx, h.Key)
		}
		return struct{}{}, err
	})
	return err
}

// proof returns a header of any shard of the chunk that fits its digest: all carry the roots of all.
func (s *Store) proof(ctx context.Context, c Chunk, v Volume) (*Header, error) {
	var first error
	for i, id := range v.Slots {
		m := s.config.Drives.member(id)
		if m == nil {
			continue
		}
		key := ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(i)}
		h, err := call(ctx, s, m, s.config.ReadDeadline, nil, func(ctx context.Context) (*Header, error) {
			return m.drive.Header(ctx, key)
		})
		if err == nil {
			if err = h.Verify(c); err == nil {
				return h, nil
			}
		}
		if e := ctx.Err(); e != nil {
			return nil, e
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("no header of it is readable (%v): %w", first, ErrLost)
}

// takeWindow takes n row buffers for background work.
func (s *Store) takeWindow(ctx context.Context, n int) (*window, error) {
	var rows []*row
	for range n {
		r, err := s.budget.take(ctx, rowWait)
		if err != nil {
			for _, r := range rows {
				r.release()
			}
			return nil, err
		}
		rows = append(rows, r)
	}
	return newWindow(rows), nil
}

// copyShard reads a whole shard from its slot. The memory stays with a read that hangs, so nothing else may be read
// into it then: the copy goes to memory of its own first.
func (s *Store) copyShard(ctx context.Context, c Chunk, shard int, v Volume, cells [][]byte) error {
	m := s.config.Drives.member(v.Slots[shard])
	if m == nil || !m.readable(s.config.Now()) {
		return ErrDriveDown
	}
	for i, cell := range cells {
		scratch, err := s.takeWindow(ctx, 1)
		if err != nil {
			return err
		}
		buf := scratch.rows[0].cell(0, int64(len(cell)))
		_, err = call(ctx, s, m, slowCall, scratch, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, m.drive.Read(ctx, c, uint8(shard), int64(i)*int64(len(cell)), buf)
		})
		if err == nil {
			copy(cell, buf)
		}
		scratch.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// rebuildShard computes a shard from the others, row by row.
func (s *Store) rebuildShard(ctx context.Context, c Chunk, shard int, v Volume, cells [][]byte) error {
	layout := erasure.Default.Layout(int64(c.Size))
	width := dataCells * layout.Cell
	for r := range layout.Rows {
		span := piece{r * width, (r + 1) * width}
		if shard < dataCells {
			span.lo += int64(shard) * layout.Cell
			span.hi = span.lo + layout.Cell
		}
		w, err := s.takeWindow(ctx, 1)
		if err != nil {
			return err
		}
		f := &fetch{store: s, chunk: c, volume: v, geo: newGeometry(int64(c.Size), span, 1), window: w}
		f.fault[shard] = errGiven
		if err = f.run(ctx); err == nil {
			err = f.extract(shard, cells[r])
		}
		w.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// extract gives one cell of a fetched row: a data cell as it is, a parity cell computed from the data cells.
func (f *fetch) extract(shard int, cell []byte) error {
	n := int64(len(cell))
	if shard < dataCells {
		copy(cell, f.window.slice(shard, 0, n))
		return nil
	}
	var cells [Shards][]byte
	for i := range dataCells {
		cells[i] = f.window.slice(i, 0, n)
	}
	cells[shard] = cell[:0]
	return f.store.codec.Reconstruct(cells[:], 1<<shard)
}

// ShardsOn lists the shards of a volume on one drive, as Drive.Shards does, and does not wait for a drive that hangs.
func (s *Store) ShardsOn(ctx context.Context, id cluster.DriveID, volume VolumeID) ([]ShardInfo, error) {
	m := s.config.Drives.member(id)
	if m == nil {
		return nil, fmt.Errorf("drive %v is missing: %w", id, ErrDriveDown)
	}
	return call(ctx, s, m, slowCall, nil, func(ctx context.Context) ([]ShardInfo, error) { return m.drive.Shards(ctx, volume) })
}

// DeleteOn deletes shards on one drive: copies that a volume's row does not name any more.
func (s *Store) DeleteOn(ctx context.Context, id cluster.DriveID, keys []ShardKey) error {
	m := s.config.Drives.member(id)
	if m == nil {
		return fmt.Errorf("drive %v is missing: %w", id, ErrDriveDown)
	}
	_, err := call(ctx, s, m, slowCall, nil, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.drive.Delete(ctx, keys)
	})
	return err
}

// Repaired says that all shards of a chunk were restored, so that damage found later is recorded again.
func (s *Store) Repaired(c Chunk) { s.damage.forget(c) }
