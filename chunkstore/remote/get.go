package remote

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// checkPut refuses what no drive takes before any of it is sent.
func checkPut(h *chunkstore.Header, cells [][]byte) error {
	if err := checkHeader(h); err != nil {
		return err
	}
	if int64(len(cells)) != h.Layout.Rows {
		return fmt.Errorf("%d cells do not fit the layout: %w", len(cells), chunkstore.ErrDamaged)
	}
	for _, cell := range cells {
		if !vfs.IsAligned(cell) || int64(len(cell)) != h.Layout.Cell {
			return fmt.Errorf("a cell of %d bytes is not one of the layout, aligned to %d: %w", len(cell), vfs.Align, chunkstore.ErrDamaged)
		}
	}
	return nil
}

func (d *Drive) header(ctx context.Context, key chunkstore.ShardKey) (h *chunkstore.Header, err error) {
	err = d.ask(ctx, kindHeader, appendKey(nil, key), func(c *call) error {
		r, err := c.answer()
		if err != nil {
			return err
		}
		c.drain()
		if h, err = takeHeader(r); err == nil && h.Key != key {
			err = lie("the header of %v", h.Key)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// takeHeader takes the header that stands behind an answer.
func takeHeader(r *reader) (*chunkstore.Header, error) {
	h := r.header()
	if r.end("header") != nil {
		return nil, lie("a header that contradicts itself")
	}
	return h, nil
}

func (d *Drive) read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	s := span{shard: shard, off: off, n: int64(len(dst))}
	if !s.fits(want) {
		return fmt.Errorf("bytes %d to %d do not lie in the shard: %w", off, off+s.n, chunkstore.ErrDamaged)
	}
	return d.ask(ctx, kindRead, appendSpan(nil, want, s), func(c *call) error {
		r, err := c.answer()
		if err != nil {
			return err
		}
		h, err := takeHeader(r)
		if err != nil {
			return err
		}
		if h.Key.Shard != shard {
			return lie("the header of %v", h.Key)
		}
		if err := h.Verify(want); err != nil {
			return err
		}
		return c.receive(h, off, dst)
	})
}

// receive takes the pieces of a shard into dst and verifies each against the header, which was verified.
func (c *call) receive(h *chunkstore.Header, off int64, dst []byte) error {
	for first := true; first || len(dst) > 0; first = false {
		k, r, err := c.next()
		if err != nil {
			return err
		}
		if k != kindPiece {
			return fmt.Errorf("%v where a piece should be: %w", k, ErrProtocol)
		}
		n := int64(r.u32())
		if err := r.end("piece"); err != nil {
			return err
		}
		if n > int64(len(dst)) || n == 0 && len(dst) > 0 {
			return lie("%d bytes where %d are left", n, len(dst))
		}
		if err := c.receivePiece(h, off, dst[:n]); err != nil {
			return err
		}
		dst, off = dst[n:], off+n
	}
	c.drain()
	return nil
}

// receivePiece verifies a cell's worth while the rest of the piece is on its way.
func (c *call) receivePiece(h *chunkstore.Header, off int64, dst []byte) error {
	for len(dst) > 0 {
		part := dst[:min(len(dst), erasure.Cell)]
		if _, err := io.ReadFull(c.frames.r, part); err != nil {
			return cutOff(err)
		}
		if err := h.VerifyPayload(off, part); err != nil {
			return fmt.Errorf("arrived from the peer: %w", err)
		}
		dst, off = dst[len(part):], off+int64(len(part))
	}
	return nil
}

// The most rows of a list that a peer is believed to have.
const (
	// maxShards is what a volume holds where all twelve slots of it are on one drive: chunk files of 1 GiB, and some
	// more, full of the shortest records, 8 KiB.
	maxShards = 2 << 20
	// maxVolumes is a drive of 1 PB full of chunk files.
	maxVolumes = 1 << 20
)

// Shards implements chunkstore.Drive.
func (d *Drive) Shards(ctx context.Context, volume chunkstore.VolumeID) ([]chunkstore.ShardInfo, error) {
	var list []chunkstore.ShardInfo
	err := d.ask(ctx, kindShards, le.AppendUint64(nil, uint64(volume)), func(c *call) error {
		return c.rows(shardRow, maxShards, func(r *reader) error {
			row := r.shardRow()
			if row.Key.Volume != volume || row.Key.Shard >= chunkstore.Shards ||
				len(list) > 0 && compareKeys(list[len(list)-1].Key, row.Key) >= 0 {
				return lie("%v out of order", row.Key)
			}
			list = append(list, row)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("shards of volume %d on drive %v: %w", volume, d.id, err)
	}
	return list, nil
}

func compareKeys(a, b chunkstore.ShardKey) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Chunk.Block, b.Chunk.Block),
		cmp.Compare(a.Chunk.Seq, b.Chunk.Seq), cmp.Compare(a.Shard, b.Shard))
}

// Volumes implements chunkstore.Drive.
func (d *Drive) Volumes(ctx context.Context) ([]chunkstore.VolumeUse, error) {
	var list []chunkstore.VolumeUse
	err := d.ask(ctx, kindVolumes, nil, func(c *call) error {
		return c.rows(volumeRow, maxVolumes, func(r *reader) error {
			row := r.volumeRow()
			if row.Bytes < 0 || row.Length < 0 || len(list) > 0 && list[len(list)-1].Volume >= row.Volume {
				return lie("volume %d out of order", row.Volume)
			}
			list = append(list, row)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("volumes on drive %v: %w", d.id, err)
	}
	return list, nil
}

// rows hands the rows of a list to take, until the answer that ends it.
func (c *call) rows(size, most int, take func(*reader) error) error {
	for n := 0; ; {
		k, r, err := c.next()
		if err != nil {
			return err
		}
		if k == kindAnswer {
			c.drain()
			return r.end("answer")
		}
		if n += len(r.b) / size; k != kindRows || len(r.b)%size != 0 || len(r.b) == 0 {
			return fmt.Errorf("%v of %d bytes in a list: %w", k, len(r.b), ErrProtocol)
		}
		if n > most {
			return lie("a list of more than %d rows", most)
		}
		for len(r.b) > 0 {
			if err := take(r); err != nil {
				return err
			}
		}
	}
}
