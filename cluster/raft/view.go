package raft

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// maxSegment bounds what is read of a segment file.
const maxSegment = 1 << 30

// segmentView is a segment as all members together know it.
type segmentView struct {
	head segmentHead
	// data holds the header and all frames, whole, up to end.
	data []byte
	end  int64
	// last and digest are those of its last frame, or of the frame before the segment when it has none.
	last   uint64
	digest digest
	// hurt are the members whose copy differs before end.
	hurt []cluster.DriveID
}

// view puts a segment together from the copies of the members. One copy is read and the others compared with it; only
// those that differ are read into memory too.
func (l *mirroredLog) view(members []cluster.DriveID, head segmentHead) (segmentView, error) {
	base, data := l.baseCopy(members, head.number)
	v := l.assemble([][]byte{data}, head)
	agreed := v.end // where the copies that are only compared end
	canonical := int64(len(data)) >= v.end && bytes.Equal(data[:v.end], v.data)
	copies := [][]byte{data}
	loaded := map[cluster.DriveID][]byte{}
	if base >= 0 {
		loaded[members[base]] = data
	}
	for i, id := range members {
		d := l.drives[id]
		if i == base || canonical && d.agrees(head.number, v.data, l.cluster) {
			continue
		}
		other, err := d.readSegment(head.number)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.log.Warn("log segment cannot be read", "drive", d.String(), "segment", head.number, "err", err)
		}
		loaded[id] = other
		copies = append(copies, other)
	}
	if len(copies) > 1 {
		v = l.assemble(copies, head)
	}
	for _, id := range members {
		c, read := loaded[id]
		// A copy that was only compared ends where the first one ends: it lacks what another copy has behind that.
		if !read && v.end > agreed || read && (int64(len(c)) < v.end || !bytes.Equal(c[:v.end], v.data)) {
			v.hurt = append(v.hurt, id)
		}
	}
	return v, l.nothingAfter(copies, v)
}

// baseCopy reads the first copy that can be read; -1 when none can.
func (l *mirroredLog) baseCopy(members []cluster.DriveID, number uint64) (int, []byte) {
	for i, id := range members {
		if data, err := l.drives[id].readSegment(number); err == nil {
			return i, data
		}
	}
	return -1, nil
}

// assemble takes each frame from any copy that has it.
func (l *mirroredLog) assemble(copies [][]byte, head segmentHead) segmentView {
	v := segmentView{head: head, last: head.first - 1, digest: head.prev, end: segmentHeader}
	v.data = append(make([]byte, 0, len(copies[0])), head.encode(l.cluster)...)
	for {
		f, raw, ok := l.frameAt(copies, head.number, v.end, v.last+1, v.digest)
		if !ok {
			return v
		}
		v.data = append(v.data, raw...)
		v.data = append(v.data, make([]byte, f.size-int64(len(raw)))...)
		v.end += f.size
		v.last, v.digest = f.seq, f.digest
	}
}

// Reads of segments: in steps, and where the device refuses a step in pieces, so that one bad sector costs no more.
const (
	readStep  = 1 << 20
	readPiece = 4 << 10
)

// readSegment reads a segment. What the device cannot read comes as zeros, which are no frame.
func (d *drive) readSegment(number uint64) (data []byte, err error) {
	file, size, err := d.openSegment(number)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data = make([]byte, size)
	for off := 0; off < len(data); off += readStep {
		step := data[off:min(off+readStep, len(data))]
		if n, _ := file.ReadAt(step, int64(off)); n == len(step) {
			continue
		}
		for at := 0; at < len(step); at += readPiece {
			piece := step[at:min(at+readPiece, len(step))]
			if n, _ := file.ReadAt(piece, int64(off+at)); n < len(piece) {
				clear(piece)
			}
		}
	}
	return data, nil
}

func (d *drive) openSegment(number uint64) (vfs.File, int64, error) {
	file, err := d.fs.OpenFile(d.segmentPath(number), os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.Size > maxSegment {
		err = fmt.Errorf("%s has %d bytes", d.segmentPath(number), info.Size)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size, nil
}

// agrees tells whether a copy begins with live and has no frame of this segment after it.
func (d *drive) agrees(number uint64, live []byte, id cluster.ClusterID) bool {
	file, size, err := d.openSegment(number)
	if err != nil {
		return false
	}
	same := size >= int64(len(live))
	step := make([]byte, min(readStep, size))
	for off := int64(0); same && off < size; off += readStep {
		part := step[:min(readStep, size-off)]
		if n, _ := file.ReadAt(part, off); n < len(part) {
			same = false
			break
		}
		want := live[min(off, int64(len(live))):min(off+int64(len(part)), int64(len(live)))]
		same = bytes.Equal(part[:len(want)], want) && !mayHoldFrame(part, len(want), off, number, id)
	}
	return file.Close() == nil && same
}

// mayHoldFrame tells whether a part of a segment, from a byte on, has anything that looks like a frame of the segment.
func mayHoldFrame(part []byte, from int, off int64, number uint64, id cluster.ClusterID) bool {
	for at := int(roundUp(int64(from), sector)); at+frameHeader <= len(part); at += sector {
		if looksLikeFrame(part[at:], id, place{number, off + int64(at)}) {
			return true
		}
	}
	return false
}

// frameAt finds the wanted frame on any copy; raw is the frame without its padding.
func (l *mirroredLog) frameAt(copies [][]byte, segment uint64, off int64, seq uint64, prev digest) (f frame, raw []byte, ok bool) {
	for _, c := range copies {
		if off >= int64(len(c)) {
			continue
		}
		f, err := decodeFrame(c[off:], l.cluster, place{segment, off})
		if err == nil && f.seq == seq && f.prev == prev {
			return f, c[off : off+frameHeader+int64(len(f.body))], true
		}
	}
	return frame{}, nil, false
}

// nothingAfter looks for a frame of this log after the end of the view: its presence proves that the frame missing at
// the end was acknowledged. Frames of the file's earlier use name another segment.
func (l *mirroredLog) nothingAfter(copies [][]byte, v segmentView) error {
	for _, c := range copies {
		for off := v.end; off+frameHeader <= int64(len(c)); off += sector {
			f, err := decodeFrame(c[off:], l.cluster, place{v.head.number, off})
			if err == nil && f.seq > v.last {
				return fmt.Errorf("%w: frame %d at byte %d of segment %d is on no mirror, and frame %d follows it",
					ErrLogDamaged, v.last+1, v.end, v.head.number, f.seq)
			}
		}
	}
	return nil
}
