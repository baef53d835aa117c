package remote

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
)

// The sizes of what FORMAT.md draws, in bytes.
const (
	callSize  = 36 // what every request begins with
	keySize   = 21
	chunkSize = 40
	shardRow  = 49
	volumeRow = 28

	maxLeaves = chunkstore.MaxChunk / dataShards / erasure.Leaf
	// maxShard is the longest payload of a shard.
	maxShard   = chunkstore.MaxChunk / dataShards
	dataShards = 8
	// maxKeys is how many shards one request deletes: some 20 KiB, and about as many holes as a drive punches in a second.
	maxKeys = 1024
	// rowsPerFrame makes a page of a list fit a frame.
	rowsPerFrame = 1024
	// maxText bounds the words of an error and the name and the path of a drive.
	maxText = 1 << 10
)

// reader takes a message apart. After the first thing that does not fit, all it gives is zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || len(r.b) < n {
		r.failed = true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) copy(dst []byte) { copy(dst, r.take(len(dst))) }

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) text() string {
	n := int(r.u16())
	if n > maxText {
		r.failed = true
		return ""
	}
	return string(r.take(n))
}

// end says whether the message was exactly what was taken.
func (r *reader) end(what string) error {
	if r.failed || len(r.b) > 0 {
		return fmt.Errorf("%s is too short, too long or contradicts itself: %w", what, ErrProtocol)
	}
	return nil
}

var le = binary.LittleEndian

func appendText(b []byte, text string) []byte {
	text = strings.ToValidUTF8(text[:min(len(text), maxText)], "")
	return append(le.AppendUint16(b, uint16(len(text))), text...)
}

func appendKey(b []byte, k chunkstore.ShardKey) []byte {
	b = le.AppendUint64(b, uint64(k.Volume))
	b = le.AppendUint64(b, k.Chunk.Block)
	b = le.AppendUint32(b, k.Chunk.Seq)
	return append(b, k.Shard)
}

func (r *reader) key() chunkstore.ShardKey {
	k := chunkstore.ShardKey{Volume: chunkstore.VolumeID(r.u64())}
	k.Chunk = chunkstore.ChunkID{Block: r.u64(), Seq: r.u32()}
	k.Shard = r.u8()
	return k
}

func appendChunk(b []byte, c chunkstore.Chunk) []byte {
	b = le.AppendUint64(b, uint64(c.Volume))
	b = le.AppendUint64(b, c.ID.Block)
	b = le.AppendUint32(b, c.ID.Seq)
	b = le.AppendUint32(b, c.Size)
	return append(b, c.Digest[:]...)
}

func (r *reader) chunk() chunkstore.Chunk {
	c := chunkstore.Chunk{Volume: chunkstore.VolumeID(r.u64())}
	c.ID = chunkstore.ChunkID{Block: r.u64(), Seq: r.u32()}
	c.Size = r.u32()
	r.copy(c.Digest[:])
	return c
}

// appendHeader writes a header. Its layout is not written: it follows from the size, in both directions.
func appendHeader(b []byte, h *chunkstore.Header) []byte {
	b = slices.Grow(b, keySize+30+len(h.Roots)*sha256.Size+len(h.Leaves)*sha256.Size)
	b = appendKey(b, h.Key)
	b = le.AppendUint64(b, uint64(h.Epoch))
	b = le.AppendUint32(b, h.Size)
	b = append(b, h.Owner[:]...)
	for i := range h.Roots {
		b = append(b, h.Roots[i][:]...)
	}
	b = le.AppendUint16(b, uint16(len(h.Leaves)))
	for i := range h.Leaves {
		b = append(b, h.Leaves[i][:]...)
	}
	return b
}

// header reads a header that is consistent in itself; any other fails.
func (r *reader) header() *chunkstore.Header {
	h := &chunkstore.Header{Key: r.key(), Epoch: cluster.Epoch(r.u64()), Size: r.u32()}
	r.copy(h.Owner[:])
	for i := range h.Roots {
		r.copy(h.Roots[i][:])
	}
	leaves := int(r.u16())
	if r.failed || leaves > maxLeaves || !isSize(h.Size) {
		r.failed = true
		return h
	}
	h.Layout = erasure.Default.Layout(int64(h.Size))
	h.Leaves = make([]chunkstore.Digest, leaves)
	for i := range h.Leaves {
		r.copy(h.Leaves[i][:])
	}
	if checkHeader(h) != nil {
		r.failed = true
	}
	return h
}

func isSize(size uint32) bool { return size > 0 && size <= chunkstore.MaxChunk }

// checkHeader says whether a header is one that this protocol carries: the default layout of its size, and leaves that
// fit the root of its shard.
func checkHeader(h *chunkstore.Header) error {
	switch {
	case h.Key.Shard >= chunkstore.Shards:
		return fmt.Errorf("no such shard: %w", chunkstore.ErrDamaged)
	case !isSize(h.Size) || h.Layout != erasure.Default.Layout(int64(h.Size)):
		return fmt.Errorf("layout %+v of %d bytes: %w", h.Layout, h.Size, chunkstore.ErrDamaged)
	case len(h.Leaves) != h.Layout.Leaves():
		return fmt.Errorf("%d leaves do not fit the layout: %w", len(h.Leaves), chunkstore.ErrDamaged)
	case chunkstore.Root(h.Leaves) != h.Roots[h.Key.Shard]:
		return fmt.Errorf("leaves do not fit the root: %w", chunkstore.ErrDamaged)
	}
	return nil
}

// caller is what every request begins with.
type caller struct {
	cluster cluster.ClusterID
	drive   cluster.DriveID
	// silence is after what time without a byte the caller gives up, in steps of a millisecond.
	silence time.Duration
}

func appendCaller(b []byte, c caller) []byte {
	b = append(b, c.cluster[:]...)
	b = append(b, c.drive[:]...)
	return le.AppendUint32(b, uint32(min(c.silence.Milliseconds(), 1<<32-1)))
}

func (r *reader) caller() caller {
	var c caller
	r.copy(c.cluster[:])
	r.copy(c.drive[:])
	c.silence = time.Duration(r.u32()) * time.Millisecond
	return c
}

// span is which bytes of a shard's payload a read asks for.
type span struct {
	shard uint8
	off   int64
	n     int64
}

func appendSpan(b []byte, c chunkstore.Chunk, s span) []byte {
	b = append(appendChunk(b, c), s.shard)
	b = le.AppendUint32(b, uint32(s.off))
	return le.AppendUint32(b, uint32(s.n))
}

// span reads what a read asks for; a span that does not lie in a shard of such a chunk fails.
func (r *reader) span() (chunkstore.Chunk, span) {
	c := r.chunk()
	s := span{shard: r.u8(), off: int64(r.u32()), n: int64(r.u32())}
	if !s.fits(c) {
		r.failed = true
	}
	return c, s
}

// fits says whether the span lies in a shard of the chunk.
func (s span) fits(c chunkstore.Chunk) bool {
	return isSize(c.Size) && s.shard < chunkstore.Shards && s.off >= 0 && s.n >= 0 && s.off <= maxShard && s.n <= maxShard &&
		s.off+s.n <= erasure.Default.Layout(int64(c.Size)).ShardSize()
}

func appendShardRow(b []byte, i chunkstore.ShardInfo) []byte {
	b = appendKey(b, i.Key)
	b = le.AppendUint64(b, uint64(i.Epoch))
	b = le.AppendUint32(b, i.Size)
	return append(b, i.Digest[:]...)
}

func (r *reader) shardRow() chunkstore.ShardInfo {
	i := chunkstore.ShardInfo{Key: r.key(), Epoch: cluster.Epoch(r.u64()), Size: r.u32()}
	r.copy(i.Digest[:])
	return i
}

func appendVolumeRow(b []byte, v chunkstore.VolumeUse) []byte {
	b = le.AppendUint64(b, uint64(v.Volume))
	b = le.AppendUint32(b, uint32(v.Shards))
	b = le.AppendUint64(b, uint64(v.Bytes))
	return le.AppendUint64(b, uint64(v.Length))
}

func (r *reader) volumeRow() chunkstore.VolumeUse {
	v := chunkstore.VolumeUse{Volume: chunkstore.VolumeID(r.u64()), Shards: int(r.u32())}
	v.Bytes, v.Length = int64(r.u64()), int64(r.u64())
	return v
}

// report is a drive's status with its place in time: of two reports of one start of the peer, the higher seq knows of
// everything that had happened when the other was begun.
type report struct {
	boot, seq uint64
	status    chunkstore.DriveStatus
}

const (
	flagDown = 1 << iota
	flagFull
	flagStatus // a status follows: the drive was found
)

func appendReport(b []byte, p *report) []byte {
	if p == nil {
		return append(b, 0)
	}
	s, flags := &p.status, byte(flagStatus)
	if s.Down != nil {
		flags |= flagDown
	}
	if s.Full {
		flags |= flagFull
	}
	b = append(b, flags)
	for _, n := range []uint64{p.boot, p.seq, s.Device, uint64(s.Total), uint64(s.Free), uint64(s.Shards), uint64(s.Bytes), uint64(s.Damaged)} {
		b = le.AppendUint64(b, n)
	}
	b = appendText(appendText(b, s.Name), s.Path)
	if s.Down != nil {
		b = appendText(b, s.Down.Error())
	}
	return b
}

// report reads a report; nil where there is none.
func (r *reader) report() *report {
	flags := r.u8()
	if flags == 0 || r.failed {
		return nil
	}
	if flags&flagStatus == 0 || flags&^(flagStatus|flagDown|flagFull) != 0 {
		r.failed = true
		return nil
	}
	p := &report{boot: r.u64(), seq: r.u64()}
	s := &p.status
	s.Device, s.Full = r.u64(), flags&flagFull != 0
	for _, n := range []*int64{&s.Total, &s.Free, &s.Shards, &s.Bytes, &s.Damaged} {
		*n = int64(r.u64())
	}
	s.Name, s.Path = r.text(), r.text()
	if flags&flagDown != 0 {
		s.Down = fault(faultOf(chunkstore.ErrDriveDown), r.text())
	}
	return p
}

// answer is how a call ended. What a call gives beside stands behind it in the same frame.
type answer struct {
	fault  uint16 // bits of fault.go, zero for success
	text   string
	report *report
}

func appendAnswer(b []byte, a answer) []byte {
	return appendReport(appendText(le.AppendUint16(b, a.fault), a.text), a.report)
}

func (r *reader) answer() answer {
	return answer{fault: r.u16(), text: r.text(), report: r.report()}
}
