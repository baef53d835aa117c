// Package drivetest holds the contract of chunkstore.Drive as tests. Every implementation passes Run.
package drivetest

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Shard is one shard made for a test: what Put takes and what Read must give back.
type Shard struct {
	Header  chunkstore.Header
	Chunk   chunkstore.Chunk
	Cells   [][]byte
	Payload []byte
}

// NewShard makes a shard of a chunk of size bytes with a payload drawn from key, size and nothing else, so the same
// arguments give the same bytes. The roots of the other eleven shards are drawn too.
func NewShard(key chunkstore.ShardKey, epoch cluster.Epoch, size uint32) *Shard {
	random := rand.NewChaCha8(sha256.Sum256([]byte(key.String() + string(rune(size)))))
	layout := erasure.Default.Layout(int64(size))
	s := &Shard{Payload: vfs.Aligned(int(layout.ShardSize()))}
	fill(random, s.Payload)
	s.Header = chunkstore.Header{Key: key, Epoch: epoch, Size: size, Layout: layout}
	fill(random, s.Header.Owner[:])
	for off := int64(0); off < layout.ShardSize(); off += layout.Cell {
		cell := s.Payload[off : off+layout.Cell]
		s.Cells = append(s.Cells, cell)
	}
	for i := range s.Header.Roots {
		fill(random, s.Header.Roots[i][:])
	}
	s.Rehash()
	return s
}

// Rehash makes the header and the chunk fit the payload after a test changed it.
func (s *Shard) Rehash() {
	h := &s.Header
	h.Leaves = nil
	for _, cell := range s.Cells {
		for at := int64(0); at < h.Layout.Cell; at += h.Layout.Leaf {
			h.Leaves = append(h.Leaves, sha256.Sum256(cell[at:min(at+h.Layout.Leaf, h.Layout.Cell)]))
		}
	}
	if h.Key.Shard < chunkstore.Shards {
		h.Roots[h.Key.Shard] = chunkstore.Root(h.Leaves)
	}
	digest := h.Digest()
	s.Chunk = chunkstore.Chunk{Volume: h.Key.Volume, ID: h.Key.Chunk, Size: h.Size, Digest: [16]byte(digest[:16])}
}

// fill fills p with random bytes; ChaCha8.Read never fails.
func fill(random *rand.ChaCha8, p []byte) {
	if _, err := random.Read(p); err != nil {
		panic(err)
	}
}

// Put writes the shard to a drive.
func (s *Shard) Put(ctx context.Context, d chunkstore.Drive) error {
	return d.Put(ctx, &s.Header, s.Cells)
}

// Read reads the whole payload from a drive.
func (s *Shard) Read(ctx context.Context, d chunkstore.Drive) ([]byte, error) {
	got := make([]byte, len(s.Payload))
	err := d.Read(ctx, s.Chunk, s.Header.Key.Shard, 0, got)
	return got, err
}

// Key names a shard of the given numbers.
func Key(volume chunkstore.VolumeID, seq uint32, shard uint8) chunkstore.ShardKey {
	return chunkstore.ShardKey{Volume: volume, Chunk: chunkstore.ChunkID{Block: 1<<48 | 7, Seq: seq}, Shard: shard}
}
