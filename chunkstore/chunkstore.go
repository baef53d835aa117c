// Package chunkstore keeps chunks: it cuts a stream into chunks of at most 8 MiB, codes each with Reed–Solomon 8+4,
// writes the twelve shards to chunk files on twelve drives, and reads spans back from whatever shards are left.
//
//	stream ─ rows of 8 data cells ─ encode 4 parity cells ─ leaf SHA-256 ─┬─ shard 0  → drive
//	                                                                     ├─ …
//	                                                                     └─ shard 11 → drive
//
// A byte here does not know its name: objects, keys and buckets live in package metadata, which this package never
// imports. The one place that says where a chunk lies is the row of its volume (interface Volumes).
package chunkstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/chunkstore/hashkern"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

// Errors of this floor. Every error of a Drive, of Volumes and of Store wraps one of these or a context error.
var (
	// ErrNotFound says that a drive holds no such shard, or that no such volume exists.
	ErrNotFound = errors.New("not found")
	// ErrDamaged says that bytes failed their digest. It is never used for anything else.
	ErrDamaged = errors.New("damaged")
	// ErrLost says that fewer shards of a chunk are readable than it takes to rebuild it. Nothing is deleted for it.
	ErrLost = errors.New("too few shards are readable")
	// ErrStaleVolume says that the caller used an older epoch of a volume: read its row again.
	ErrStaleVolume = errors.New("stale volume epoch")
	// ErrFull says that the drive takes no new shards (95 % used, or ENOSPC). Deletes still work.
	ErrFull = errors.New("drive is full")
	// ErrDriveDown says that the drive is missing, failed or closed.
	ErrDriveDown = errors.New("drive is down")
	// ErrDeleted says that the chunk was deleted on this drive; it can never be written there again.
	ErrDeleted = errors.New("chunk was deleted")
	// ErrSlowDown says that the write could not be stored durably enough, or found no memory, in time. Nothing of it
	// is visible; the client may try again.
	ErrSlowDown = errors.New("store is overloaded or too few drives are healthy; try again later")
)

// Shards is the number of shards of a chunk in the default scheme, 8 data + 4 parity.
const Shards = 12

// MaxChunk is the most bytes that one chunk holds: 16 rows of eight 64 KiB cells.
const MaxChunk = 8 << 20

// VolumeID numbers a volume. Zero names none.
type VolumeID uint64

// ChunkID belongs to exactly one write attempt and is never used again. Block is leased from the root group (its
// upper 16 bits are the cluster's incarnation, renewed at every restore of the metadata); Seq counts inside the block.
type ChunkID struct {
	Block uint64
	Seq   uint32
}

func (c ChunkID) String() string { return fmt.Sprintf("%016x.%08x", c.Block, c.Seq) }

// Digest is a SHA-256.
type Digest [sha256.Size]byte

// Chunk says all that it takes to read a chunk and to prove what was read. Shape: 56 bytes as written by AppendChunk.
type Chunk struct {
	Volume VolumeID
	ID     ChunkID
	// Size is the number of data bytes, 1..MaxChunk. With the scheme it gives the layout (erasure.Layout).
	Size uint32
	// Digest is the first 16 bytes of the chunk's digest (ChunkDigest), which covers every leaf of every shard.
	Digest [16]byte
}

// Ref is a span of a chunk, the unit that manifests list: bytes Off..Off+Len of the chunk's data.
type Ref struct {
	Chunk
	Off, Len uint32
}

// ChunkDigest computes the digest of a chunk: SHA-256 over id, size and the twelve shard roots, where a root is
// SHA-256 over the leaf digests of one shard. So one header proves its shard's leaves, and the sixteen bytes in a
// manifest prove the header.
func ChunkDigest(id ChunkID, size uint32, roots *[Shards]Digest) Digest {
	h := sha256.New()
	var head [16]byte
	binary.LittleEndian.PutUint64(head[0:], id.Block)
	binary.LittleEndian.PutUint32(head[8:], id.Seq)
	binary.LittleEndian.PutUint32(head[12:], size)
	h.Write(head[:])
	for i := range roots {
		h.Write(roots[i][:])
	}
	var d Digest
	h.Sum(d[:0])
	return d
}

// Root computes the root of a shard's leaf digests.
func Root(leaves []Digest) Digest {
	h := sha256.New()
	for i := range leaves {
		h.Write(leaves[i][:])
	}
	var d Digest
	h.Sum(d[:0])
	return d
}

// ShardKey names one shard of one chunk. A drive may hold several shards of a chunk when slots double up.
type ShardKey struct {
	Volume VolumeID
	Chunk  ChunkID
	Shard  uint8 // 0..7 data, 8..11 parity
}

func (k ShardKey) String() string {
	return fmt.Sprintf("chunk %v shard %d of volume %d", k.Chunk, k.Shard, k.Volume)
}

// Header is what a drive keeps beside the payload of a shard, sealed with the cluster's integrity key.
type Header struct {
	Key    ShardKey
	Epoch  cluster.Epoch // the epoch of the volume row that the writer used
	Size   uint32        // data bytes of the whole chunk
	Layout erasure.Layout
	Owner  [16]byte // who wrote it; a diagnostic, never a reason to delete
	Roots  [Shards]Digest
	Leaves []Digest // Layout.Leaves() digests of this shard's payload
}

// Digest is the chunk digest that the header claims. A reader compares its first 16 bytes with the manifest's.
func (h *Header) Digest() Digest { return ChunkDigest(h.Key.Chunk, h.Size, &h.Roots) }

// Verify checks that the header is consistent in itself and belongs to want. It returns nil or an ErrDamaged.
func (h *Header) Verify(want Chunk) error {
	switch d := h.Digest(); {
	case h.Key.Volume != want.Volume || h.Key.Chunk != want.ID || h.Size != want.Size:
		return fmt.Errorf("header of %v where chunk %v of %d bytes was expected: %w", h.Key, want.ID, want.Size, ErrDamaged)
	case len(h.Leaves) != h.Layout.Leaves() || h.Layout != erasure.Default.Layout(int64(h.Size)):
		return fmt.Errorf("header of %v: layout does not fit: %w", h.Key, ErrDamaged)
	case Root(h.Leaves) != h.Roots[h.Key.Shard]:
		return fmt.Errorf("header of %v: leaves do not fit the root: %w", h.Key, ErrDamaged)
	case [16]byte(d[:16]) != want.Digest:
		return fmt.Errorf("header of %v: chunk digest differs: %w", h.Key, ErrDamaged)
	}
	return nil
}

// VerifyPayload checks payload bytes of this shard, read from off, against the leaf digests. off stands on the
// boundary of a leaf and p ends on one (or at the end of the shard); else, and when a leaf differs, it is ErrDamaged.
func (h *Header) VerifyPayload(off int64, p []byte) error {
	for len(p) > 0 {
		first, length, err := h.leafAt(off, p)
		if err != nil {
			return err
		}
		a := p[:length]
		if p, off = p[length:], off+length; len(p) == 0 {
			return h.verifyLeaf(first, sha256.Sum256(a))
		}
		second, length, err := h.leafAt(off, p)
		if err != nil {
			return err
		}
		sumA, sumB := hashkern.SumPair(a, p[:length])
		p, off = p[length:], off+length
		if err := cmp.Or(h.verifyLeaf(first, sumA), h.verifyLeaf(second, sumB)); err != nil {
			return err
		}
	}
	return nil
}

// leafAt returns the number and the length of the leaf that payload from off begins with.
func (h *Header) leafAt(off int64, p []byte) (leaf, length int64, err error) {
	perCell := int64(h.Layout.Leaves()) / h.Layout.Rows
	row, at := off/h.Layout.Cell, off%h.Layout.Cell
	leaf = row*perCell + at/h.Layout.Leaf
	length = min(h.Layout.Leaf, h.Layout.Cell-at)
	if at%h.Layout.Leaf != 0 || int64(len(p)) < length || leaf >= int64(len(h.Leaves)) {
		return 0, 0, fmt.Errorf("%v: bytes at %d do not stand on leaves: %w", h.Key, off, ErrDamaged)
	}
	return leaf, length, nil
}

func (h *Header) verifyLeaf(leaf int64, sum Digest) error {
	if sum != h.Leaves[leaf] {
		return fmt.Errorf("%v: leaf %d differs from its digest: %w", h.Key, leaf, ErrDamaged)
	}
	return nil
}

// Drive is one drive: a directory of this peer, a drive of another peer, or the memory model. Package
// chunkstore/drivetest holds the contract as tests, which every implementation passes.
//
// All methods may be called concurrently. A method that gives ErrDriveDown uses nothing of the caller's memory any more,
// but what it was asked for may have become durable, and on a drive of another peer may still become so: the outcome of a
// Put, Delete or Seal is then unknown. Each may be asked for again. A Put of unknown outcome never becomes durable after
// a Delete of its key or a Seal of its volume above its epoch has returned nil.
type Drive interface {
	ID() cluster.DriveID
	// Put makes a shard durable: after nil it survives power loss. cells is the payload in order, Layout.ShardSize()
	// bytes in all, each cell aligned to vfs.Align in address and length; Put does not change or keep it after it
	// returned, and it returns only when nothing will read it any more. Put of a key that exists replaces it (repair
	// does so); of a deleted key fails with ErrDeleted; with an epoch below the sealed one fails with ErrStaleVolume.
	Put(ctx context.Context, h *Header, cells [][]byte) error
	// Header returns the header of a shard, its seal verified. Not found: ErrNotFound; wrong seal: ErrDamaged.
	Header(ctx context.Context, key ShardKey) (*Header, error)
	// Read fills dst with the payload from off. off is a multiple of Layout.Leaf, len(dst) a multiple too except at the
	// end of the shard. Only those bytes are read from the medium. Every leaf is verified against the header and the
	// header against want before Read returns nil; otherwise ErrDamaged, ErrNotFound or ErrDriveDown.
	Read(ctx context.Context, want Chunk, shard uint8, off int64, dst []byte) error
	// Delete forgets the shards for ever and gives their space back; deleting what is not there succeeds and is
	// remembered too. Durable on return.
	Delete(ctx context.Context, keys []ShardKey) error
	// Seal makes the drive refuse durably every Put to the volume with an epoch below epoch.
	Seal(ctx context.Context, volume VolumeID, epoch cluster.Epoch) error
	// Shards lists the shards of a volume that are held here, deleted ones not included, in order of key.
	Shards(ctx context.Context, volume VolumeID) ([]ShardInfo, error)
	// Volumes lists the volumes of which anything is held here, in order.
	Volumes(ctx context.Context) ([]VolumeUse, error)
	// Check reads a whole shard and verifies all of it (scrub, fsck --deep).
	Check(ctx context.Context, key ShardKey) error
	Status() DriveStatus
	// Close stops the drive. Puts under way end with nil or ErrDriveDown.
	Close() error
}

// ShardInfo is a row of Drive.Shards: enough to rebuild a chunk's reference from drives alone.
type ShardInfo struct {
	Key    ShardKey
	Epoch  cluster.Epoch
	Size   uint32
	Digest [16]byte
}

// VolumeUse is a row of Drive.Volumes. Bytes counts live records with their headers; a chunk file holds Files of them.
type VolumeUse struct {
	Volume VolumeID
	Shards int
	Bytes  int64 // live
	Length int64 // of the chunk files, deleted and torn regions included
}

// DriveStatus tells how a drive does. Down is nil while the drive works; else it says why it does not.
type DriveStatus struct {
	ID     cluster.DriveID
	Name   string // d1 … d12
	Path   string
	Down   error
	Full   bool
	Device uint64
	Total  int64 // bytes of the file system
	Free   int64
	Shards int64 // live shards held
	Bytes  int64 // their bytes, headers included
	// Damaged counts the records that failed a digest since the drive was opened.
	Damaged int64
}

// VolumeState tells what may happen to a volume.
type VolumeState uint8

// A volume is born open (takes chunks), becomes sealed (its slots may move) and never opens again.
const (
	VolumeOpen VolumeState = iota + 1
	VolumeSealed
)

// Volume is a volume row. Slots[i] is the drive that holds shard i; where it differs from Home[i], the volume doubles
// up on a healthy drive and the shard goes home when the home drive is back.
type Volume struct {
	ID    VolumeID
	Group uint32 // the placement group it was made from
	Epoch cluster.Epoch
	State VolumeState
	// Owner is the peer that writes to the volume while it is open, the one that opened it; it never changes. Zero: the
	// row is of a time when there was one peer only.
	Owner cluster.PeerID
	Home  [Shards]cluster.DriveID
	Slots [Shards]cluster.DriveID
}

// DoubledUp says that the volume survives fewer losses of drives where its shards are than it would at home. One that
// merely waits for its move to another home is not.
func (v *Volume) DoubledUp() bool {
	if v.Slots == v.Home {
		return false
	}
	return placement.Tolerates(placement.Slots(v.Slots), allShards) < placement.Tolerates(placement.Slots(v.Home), allShards)
}

// Intent names the shards of a chunk that were not durable when its version was committed. It is committed in the same
// metadata entry and removed when every missing shard is verified on its drive.
type Intent struct {
	Chunk   Chunk
	Missing uint16 // bit i: shard i
}

// Volumes is what Store needs of names. Package metadata implements it through an adapter of cmd/holdfast/peer.
// All calls are linearizable.
type Volumes interface {
	// Volume returns a volume row, ErrNotFound when there is none.
	Volume(ctx context.Context, id VolumeID) (Volume, error)
	// CreateVolume commits v with a new id and epoch 1.
	CreateVolume(ctx context.Context, v Volume) (Volume, error)
	// UpdateVolume commits v with epoch v.Epoch+1 if the stored epoch equals v.Epoch, else ErrStaleVolume. It returns
	// the new row.
	UpdateVolume(ctx context.Context, v Volume) (Volume, error)
	// ListVolumes returns up to max rows with ids above after, in order.
	ListVolumes(ctx context.Context, after VolumeID, max int) ([]Volume, error)
	// DropVolume removes the row of a sealed volume that holds no chunk any more.
	DropVolume(ctx context.Context, id VolumeID) error
	// LeaseChunkBlock returns a number for ChunkID.Block that was never returned before.
	LeaseChunkBlock(ctx context.Context) (uint64, error)
	// Groups returns the placement groups with their twelve home drives.
	Groups(ctx context.Context) ([]Group, error)
	// AddIntent commits an intent outside of a version's commit (damage found by a read or a check).
	AddIntent(ctx context.Context, in Intent) error
	// Intents returns up to max intents after the given chunk (zero: from the first), in order.
	Intents(ctx context.Context, after Chunk, max int) ([]Intent, error)
	// ResolveIntent removes the intent of a chunk.
	ResolveIntent(ctx context.Context, chunk Chunk) error
}

// Group is a placement group: a stored set of twelve slots on drives.
type Group struct {
	ID    uint32
	Slots [Shards]cluster.DriveID
}
