package raft

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	blockMagic  = "HFCKPTB1"
	blockHeader = 80
	// blockTarget is the payload after which a block is closed; maxBlock bounds what a reader believes: a target
	// and one key with its value.
	blockTarget = 1 << 20
	maxBlock    = blockTarget + 16<<20
	lastBlock   = 1 // flag

	// keptCheckpoints is how many are kept; the log reaches back to the oldest of them.
	keptCheckpoints = 2
)

// groupPoint is where a group stood when a checkpoint was taken.
type groupPoint struct {
	group   GroupID
	replica uint64
	voters  []uint64
	applied applied
	hard    hardState
}

// hardState is what Raft must remember of a group beside its entries.
type hardState struct{ term, vote, commit uint64 }

// applied is how far a group's commands are in the state, with a hash over all of them.
type applied struct {
	index, term uint64
	hash        digest
}

// checkpointHead is the first block of a checkpoint.
type checkpointHead struct {
	number uint64
	// seq is the last frame whose entries are all in the checkpoint.
	seq    uint64
	groups []groupPoint
}

func (h checkpointHead) encode() []byte {
	buf := binary.LittleEndian.AppendUint64(nil, h.seq)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(h.groups)))
	for _, g := range h.groups {
		for _, n := range []uint64{uint64(g.group), g.replica, g.applied.index, g.applied.term, g.hard.term, g.hard.vote, g.hard.commit} {
			buf = binary.LittleEndian.AppendUint64(buf, n)
		}
		buf = append(buf, g.applied.hash[:]...)
		buf = appendVoters(buf, g.voters)
	}
	return buf
}

func appendVoters(buf []byte, voters []uint64) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(voters)))
	for _, v := range voters {
		buf = binary.LittleEndian.AppendUint64(buf, v)
	}
	return buf
}

// maxVoters bounds a decoded list of voters.
const maxVoters = 64

var errBlock = errors.New("checkpoint block is damaged")

func decodeVoters(data []byte) (voters []uint64, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, errBlock
	}
	count := int(binary.LittleEndian.Uint32(data))
	if data = data[4:]; count > maxVoters || len(data) < 8*count {
		return nil, nil, errBlock
	}
	for i := range count {
		voters = append(voters, binary.LittleEndian.Uint64(data[8*i:]))
	}
	return voters, data[8*count:], nil
}

func decodeHead(number uint64, data []byte) (checkpointHead, error) {
	const fixed = 7*8 + sha256.Size
	if len(data) < 12 {
		return checkpointHead{}, errBlock
	}
	h := checkpointHead{number: number, seq: binary.LittleEndian.Uint64(data)}
	count := int(binary.LittleEndian.Uint32(data[8:]))
	data = data[12:]
	for range count {
		if len(data) < fixed {
			return checkpointHead{}, errBlock
		}
		var n [7]uint64
		for i := range n {
			n[i] = binary.LittleEndian.Uint64(data[8*i:])
		}
		g := groupPoint{
			group: GroupID(n[0]), replica: n[1],
			applied: applied{index: n[2], term: n[3], hash: digest(data[56:88])},
			hard:    hardState{term: n[4], vote: n[5], commit: n[6]},
		}
		var err error
		if g.voters, data, err = decodeVoters(data[fixed:]); err != nil {
			return checkpointHead{}, err
		}
		h.groups = append(h.groups, g)
	}
	return h, nil
}

// group finds a group's point.
func (h checkpointHead) group(id GroupID) (groupPoint, bool) {
	for _, g := range h.groups {
		if g.group == id {
			return g, true
		}
	}
	return groupPoint{}, false
}

// encodeBlock seals a payload as block index of a checkpoint; the digest covers the block before too.
func encodeBlock(id cluster.ClusterID, number, index uint64, last bool, prev digest, payload []byte) ([]byte, digest) {
	buf := make([]byte, 0, blockHeader+len(payload))
	buf = append(buf, blockMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	flags := uint32(0)
	if last {
		flags = lastBlock
	}
	buf = binary.LittleEndian.AppendUint32(buf, flags)
	buf = binary.LittleEndian.AppendUint64(buf, number)
	buf = binary.LittleEndian.AppendUint64(buf, index)
	buf = append(buf, id[:]...)
	sum := blockDigest(prev, buf, payload)
	buf = append(buf, sum[:]...)
	return append(buf, payload...), sum
}

func blockDigest(prev digest, header, payload []byte) digest {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(header)
	h.Write(payload)
	var sum digest
	h.Sum(sum[:0])
	return sum
}

// block is a decoded block.
type block struct {
	raw     []byte
	payload []byte
	last    bool
	digest  digest
}

// readBlock reads block index at an offset of one copy.
func readBlock(file vfs.File, off int64, id cluster.ClusterID, number, index uint64, prev digest) (block, error) {
	head := make([]byte, blockHeader)
	if n, err := file.ReadAt(head, off); n < len(head) {
		return block{}, errors.Join(errBlock, err)
	}
	length := binary.LittleEndian.Uint32(head[8:])
	if string(head[:8]) != blockMagic || length > maxBlock || cluster.ClusterID(head[32:48]) != id ||
		binary.LittleEndian.Uint64(head[16:]) != number || binary.LittleEndian.Uint64(head[24:]) != index {
		return block{}, errBlock
	}
	raw := append(head, make([]byte, length)...)
	if n, err := file.ReadAt(raw[blockHeader:], off+blockHeader); n < int(length) {
		return block{}, errors.Join(errBlock, err)
	}
	b := block{raw: raw, payload: raw[blockHeader:], last: binary.LittleEndian.Uint32(raw[12:])&lastBlock != 0, digest: digest(raw[48:80])}
	if blockDigest(prev, raw[:48], b.payload) != b.digest {
		return block{}, errBlock
	}
	return b, nil
}

// readCheckpoint reads a checkpoint block by block, each from any member that has it whole, and tells which copies are
// hurt as far as it looked: with every it looks at all copies, else only until a whole block is found.
func (l *mirroredLog) readCheckpoint(drives []*drive, number uint64, every bool, visit func(index uint64, b block) error) (hurt []*drive, err error) {
	files := make([]vfs.File, len(drives))
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	bad := make([]bool, len(drives))
	for i, d := range drives {
		files[i], err = d.fs.OpenFile(d.checkpointPath(number), os.O_RDONLY, 0)
		if err != nil {
			files[i], bad[i] = nil, true
		}
	}
	var prev digest
	off := int64(0)
	for index := uint64(0); ; index++ {
		var found *block
		for i, f := range files {
			if f == nil || found != nil && !every {
				continue
			}
			b, err := readBlock(f, off, l.cluster, number, index, prev)
			if err != nil {
				bad[i] = true
			} else if found == nil {
				found = &b
			}
		}
		if found == nil {
			return nil, fmt.Errorf("%w: block %d of checkpoint %d is whole on none of %d mirrors", ErrLogDamaged, index, number, len(drives))
		}
		if err := visit(index, *found); err != nil {
			return nil, err
		}
		prev, off = found.digest, off+int64(len(found.raw))
		if found.last {
			break
		}
	}
	for i, d := range drives {
		if bad[i] {
			hurt = append(hurt, d)
		}
	}
	return hurt, nil
}

// errEnough ends a reading after the head.
var errEnough = errors.New("enough was read")

// checkpoints lists the checkpoints whose head is readable on any of the drives, oldest first.
func (l *mirroredLog) checkpoints(drives []*drive) ([]checkpointHead, error) {
	var numbers []uint64
	for _, d := range drives {
		list, err := d.numbers(checkpointDir, checkpointSuffix)
		if err != nil {
			l.log.Warn("checkpoint directory cannot be read", "drive", d.String(), "err", err)
		}
		numbers = append(numbers, list...)
	}
	slices.Sort(numbers)
	var heads []checkpointHead
	for _, n := range slices.Compact(numbers) {
		var head checkpointHead
		_, err := l.readCheckpoint(drives, n, false, func(_ uint64, b block) (err error) {
			if head, err = decodeHead(n, b.payload); err == nil {
				err = errEnough
			}
			return err
		})
		switch {
		case errors.Is(err, errEnough):
			heads = append(heads, head)
		default:
			l.log.Warn("checkpoint cannot be read", "number", n, "err", err)
		}
	}
	return heads, nil
}

// restore puts the keys of a checkpoint into an empty DB, and last the applied rows, which make it count.
func (l *mirroredLog) restore(drives []*drive, head checkpointHead, db *kv.DB) error {
	_, err := l.readCheckpoint(drives, head.number, false, func(index uint64, b block) error {
		if index == 0 {
			return nil
		}
		batch := db.NewBatch()
		for rest := b.payload; len(rest) > 0; {
			key, value, after, err := decodePair(rest)
			if err != nil {
				return err
			}
			batch.Put(key, value)
			rest = after
		}
		return db.Write(batch)
	})
	if err != nil {
		return err
	}
	batch := db.NewBatch()
	for _, g := range head.groups {
		putApplied(batch, g.group, g.applied)
		putVoters(batch, g.group, g.voters)
	}
	return db.Write(batch)
}

func decodePair(data []byte) (key, value, rest []byte, err error) {
	if len(data) < 8 {
		return nil, nil, nil, errBlock
	}
	k, v := int64(binary.LittleEndian.Uint32(data)), int64(binary.LittleEndian.Uint32(data[4:]))
	if 8+k+v > int64(len(data)) {
		return nil, nil, nil, errBlock
	}
	return data[8 : 8+k], data[8+k : 8+k+v], data[8+k+v:], nil
}

// pairs iterates over spans of a snapshot and calls visit with full blocks of pairs.
func pairs(r kv.Reader, spans []kv.Span, visit func(payload []byte) error) error {
	var payload []byte
	for _, span := range spans {
		it := r.Iterate(span)
		for it.Next() {
			payload = binary.LittleEndian.AppendUint32(payload, uint32(len(it.Key())))
			payload = binary.LittleEndian.AppendUint32(payload, uint32(len(it.Value())))
			payload = append(append(payload, it.Key()...), it.Value()...)
			if len(payload) < blockTarget {
				continue
			}
			if err := visit(payload); err != nil {
				it.Close()
				return err
			}
			payload = payload[:0]
		}
		err := it.Err()
		it.Close()
		if err != nil {
			return err
		}
	}
	return visit(payload) // the last block, which may be empty
}

// checkpointWriter writes the same blocks to several drives. A drive that fails is left out and reported.
type checkpointWriter struct {
	log    *mirroredLog
	number uint64
	drives []*drive
	open   map[cluster.DriveID]vfs.File
	failed map[cluster.DriveID]error
	off    int64
	index  uint64
	prev   digest
	pace   bool
	synced int64     // how far the files are on the devices
	rested time.Time // when the last pause ended
}

// paceBytes is what a paced checkpoint leaves to the page cache before it syncs: all of it at the end would hold up the
// appends for as long as the devices take to write it. Then it pauses: three quarters of the time belong to appends.
const (
	paceBytes = 4 << 20
	paceRest  = 3
)

func (d *drive) checkpointTemporary() string { return d.dir + checkpointDir + "/new" + temporarySuffix }

func (l *mirroredLog) newCheckpoint(drives []*drive, number uint64, pace bool) *checkpointWriter {
	w := &checkpointWriter{log: l, number: number, drives: drives, open: map[cluster.DriveID]vfs.File{}, failed: map[cluster.DriveID]error{},
		pace: pace, rested: time.Now()}
	// A drive that is given up may answer at any time later; it then closes its file itself.
	var mu sync.Mutex
	files, over := map[cluster.DriveID]vfs.File{}, false
	byID, ids := map[cluster.DriveID]*drive{}, []cluster.DriveID{}
	for _, d := range drives {
		byID[d.id], ids = d, append(ids, d.id)
	}
	done, failed := l.fanOut(ids, func(id cluster.DriveID) error {
		file, err := byID[id].openTemporary()
		mu.Lock()
		defer mu.Unlock()
		if err == nil && over {
			return file.Close()
		}
		files[id] = file
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	for _, id := range done {
		w.open[id] = files[id]
	}
	for id, err := range failed {
		w.failed[id] = err
		if file := files[id]; file != nil { // it answered too late
			w.failed[id] = errors.Join(err, file.Close())
		}
	}
	return w
}

func (d *drive) openTemporary() (vfs.File, error) {
	if err := d.makeDirs(); err != nil {
		return nil, err
	}
	return d.fs.OpenFile(d.checkpointTemporary(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// add writes one block on every drive that is left.
func (w *checkpointWriter) add(ctx context.Context, payload []byte, last bool) error {
	raw, sum := encodeBlock(w.log.cluster, w.number, w.index, last, w.prev, payload)
	return w.addRaw(ctx, raw, sum)
}

func (w *checkpointWriter) addRaw(ctx context.Context, raw []byte, sum digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	off := w.off
	w.each(func(file vfs.File) error { return writeAll(file, raw, off) })
	if len(w.open) == 0 {
		return fmt.Errorf("write checkpoint %d: no mirror is left", w.number)
	}
	w.off, w.index, w.prev = w.off+int64(len(raw)), w.index+1, sum
	if !w.pace || w.off-w.synced < paceBytes {
		return nil
	}
	w.each(func(file vfs.File) error { return file.Sync() })
	w.synced = w.off
	select {
	case <-time.After(min(paceRest*time.Since(w.rested), time.Second)):
		w.rested = time.Now()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// each runs an operation on every open file at once and leaves the failing ones out, late ones too.
func (w *checkpointWriter) each(operate func(vfs.File) error) {
	ids := make([]cluster.DriveID, 0, len(w.open))
	for id := range w.open {
		ids = append(ids, id)
	}
	files := w.open
	done, failed := w.log.fanOut(ids, func(id cluster.DriveID) error { return operate(files[id]) })
	left := map[cluster.DriveID]vfs.File{}
	for _, id := range done {
		left[id] = files[id]
	}
	for id, err := range failed {
		w.failed[id] = err
		if !errors.Is(err, errSlow) {
			w.failed[id] = errors.Join(err, files[id].Close())
		} // a hung file stays open: its write may still come
	}
	w.open = left
}

// finish makes the checkpoint durable and gives it its name on every drive that is left.
func (w *checkpointWriter) finish(drives map[cluster.DriveID]*drive) error {
	w.each(func(file vfs.File) error { return file.Sync() })
	ids := make([]cluster.DriveID, 0, len(w.open))
	for id, file := range w.open {
		if err := file.Close(); err != nil {
			w.failed[id] = err
			continue
		}
		ids = append(ids, id)
	}
	w.open = nil
	done, failed := w.log.fanOut(ids, func(id cluster.DriveID) error {
		d := drives[id]
		if err := d.present(); err != nil {
			return err
		}
		if err := d.fs.Rename(d.checkpointTemporary(), d.checkpointPath(w.number)); err != nil {
			return err
		}
		return d.fs.SyncDir(d.dir + checkpointDir)
	})
	for id, err := range failed {
		w.failed[id] = err
	}
	if len(done) == 0 {
		return fmt.Errorf("write checkpoint %d: no mirror took it: %w", w.number, errors.Join(values(w.failed)...))
	}
	return nil
}

// abandon closes the files of a checkpoint that is given up, and removes them: where space was too scarce to finish
// them, they would keep what is left of it. A drive that hangs keeps its own.
func (w *checkpointWriter) abandon() error {
	var errs []error
	for _, file := range w.open {
		errs = append(errs, file.Close())
	}
	w.open = nil
	for _, d := range w.drives {
		if errors.Is(w.failed[d.id], errSlow) {
			continue
		}
		if err := d.fs.Remove(d.checkpointTemporary()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
