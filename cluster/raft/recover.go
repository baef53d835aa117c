package raft

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Recovery reads the log from the members of the newest mirror set that are here (judge has proved that it is the
// newest). The rule and why it keeps everything acknowledged:
//
//  1. Every member of the set has every acknowledged frame: an append is acknowledged when all have it, and a drive
//     becomes a member after the whole log was copied to it. So one member is enough, and a frame that is damaged on
//     one is taken from another, as all stand at the same places.
//  2. The log ends where no member has the next frame. That is right when the next frame was never acknowledged, and
//     wrong when it was and all copies here are damaged. Frame n+1 is written only after frame n is on all members.
//     So if any copy holds a frame after the missing one, the missing one was acknowledged: ErrLogDamaged. If none
//     does, the missing frame can only be the last; settle puts an empty frame after the last one as soon as the log is
//     idle, so a missing last frame with content is one whose append was cut off by the crash.
//  3. A frame that is whole on one member only was perhaps never acknowledged; it is kept and written to the others.
//     That is allowed, since its proposer does not know the outcome.
//
// Nothing is written until all of it is read and proved.

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

// heads finds the header of each segment on any member, ascending.
func (l *mirroredLog) heads(members []cluster.DriveID) ([]segmentHead, error) {
	found := map[uint64]segmentHead{}
	for _, id := range members {
		d := l.drives[id]
		numbers, err := d.numbers(logDir, segmentSuffix)
		if err != nil {
			l.log.Warn("log directory cannot be read", "drive", d.String(), "err", err)
			continue
		}
		for _, n := range numbers {
			if _, have := found[n]; have {
				continue
			}
			head := make([]byte, segmentHeader)
			if err := readAt(d.fs, d.segmentPath(n), head); err != nil {
				continue // another member may have it
			}
			if h, err := decodeSegmentHead(head, l.cluster, n); err == nil {
				found[n] = h
			}
		}
	}
	list := make([]segmentHead, 0, len(found))
	for _, h := range found {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b segmentHead) int { return cmp.Compare(a.number, b.number) })
	return list, nil
}

// readAt fills buf from the beginning of a file.
func readAt(f vfs.FS, name string, buf []byte) (err error) {
	file, err := f.OpenFile(name, 0, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	n, err := file.ReadAt(buf, 0)
	if n == len(buf) {
		return nil
	}
	return err
}

// contiguous drops the segments before a gap: a retired segment that came back is not part of the log.
func contiguous(heads []segmentHead) []segmentHead {
	for i := len(heads) - 1; i > 0; i-- {
		if heads[i-1].number+1 != heads[i].number {
			return heads[i:]
		}
	}
	return heads
}

// view puts a segment together from the copies of the members.
func (l *mirroredLog) view(members []cluster.DriveID, head segmentHead) (segmentView, error) {
	v := segmentView{head: head, last: head.first - 1, digest: head.prev}
	copies := make([][]byte, len(members))
	for i, id := range members {
		d := l.drives[id]
		data, err := vfs.ReadFile(d.fs, d.segmentPath(head.number), maxSegment)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.log.Warn("log segment cannot be read", "drive", d.String(), "segment", head.number, "err", err)
		}
		if err == nil {
			copies[i] = data
		}
	}
	v.data = append(v.data, head.encode(l.cluster)...)
	v.end = segmentHeader
	for {
		f, raw, ok := l.frameAt(copies, head.number, v.end, v.last+1, v.digest)
		if !ok {
			break
		}
		v.data = append(v.data, raw...)
		v.data = append(v.data, make([]byte, f.size-int64(len(raw)))...)
		v.end += f.size
		v.last, v.digest = f.seq, f.digest
	}
	for i, id := range members {
		if int64(len(copies[i])) < v.end || !bytes.Equal(copies[i][:v.end], v.data) {
			v.hurt = append(v.hurt, id)
		}
	}
	return v, l.nothingAfter(copies, v)
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

// walk reads the whole log in order. visit gets each record with the number of its frame. The log's position and
// segments are set when it returns nil; damaged lists the views whose copies need rewriting.
func (l *mirroredLog) walk(members []cluster.DriveID, visit func(seq uint64, r record) error) (damaged []segmentHead, err error) {
	heads, err := l.heads(members)
	if err != nil {
		return nil, err
	}
	if len(heads) == 0 {
		return nil, fmt.Errorf("%w: no segment on any of %d mirrors", ErrLogDamaged, len(members))
	}
	heads = contiguous(heads)
	l.segments = l.segments[:0]
	for i := 0; i < len(heads); i++ {
		head := heads[i]
		if i > 0 && (head.first != l.last+1 || head.prev != l.digest) {
			return nil, fmt.Errorf("%w: segment %d ends with frame %d, segment %d begins with %d",
				ErrLogDamaged, head.number-1, l.last, head.number, head.first)
		}
		v, err := l.view(members, head)
		if err != nil {
			return nil, err
		}
		if len(v.hurt) > 0 {
			damaged = append(damaged, head)
		}
		if err := visitFrames(v, l.cluster, visit); err != nil {
			return nil, err
		}
		l.segments = append(l.segments, head)
		l.last, l.digest = v.last, v.digest
		l.next = place{segment: head.number, off: v.end}
		if i == len(heads)-1 {
			if next, ok := l.headless(members); ok {
				heads = append(heads, next)
			}
		}
	}
	return damaged, l.noLaterSegment(members)
}

// headless finds out whether the next frame begins a segment whose header no member has: a write of header and frame
// may be torn between them. The header follows from the frame before.
func (l *mirroredLog) headless(members []cluster.DriveID) (segmentHead, bool) {
	head := segmentHead{number: l.next.segment + 1, first: l.last + 1, prev: l.digest}
	for _, id := range members {
		d := l.drives[id]
		data, err := vfs.ReadFile(d.fs, d.segmentPath(head.number), maxSegment)
		if err != nil {
			continue // most members have none
		}
		if _, _, ok := l.frameAt([][]byte{data}, head.number, segmentHeader, head.first, head.prev); ok {
			return head, true
		}
	}
	return segmentHead{}, false
}

// visitFrames calls visit for the records of a view.
func visitFrames(v segmentView, id cluster.ClusterID, visit func(seq uint64, r record) error) error {
	for off := int64(segmentHeader); off < v.end; {
		f, err := decodeFrame(v.data[off:v.end], id, place{v.head.number, off})
		if err != nil {
			return fmt.Errorf("segment %d byte %d: %w", v.head.number, off, err)
		}
		if err := f.records(func(r record) error { return visit(f.seq, r) }); err != nil {
			return err
		}
		off += f.size
	}
	return nil
}

// noLaterSegment looks for frames in segments after the last one whose header is damaged on every member.
func (l *mirroredLog) noLaterSegment(members []cluster.DriveID) error {
	for _, id := range members {
		d := l.drives[id]
		numbers, err := d.numbers(logDir, segmentSuffix)
		if err != nil {
			continue // it was reported by heads
		}
		for _, n := range numbers {
			if n <= l.next.segment {
				continue
			}
			data, err := vfs.ReadFile(d.fs, d.segmentPath(n), maxSegment)
			if err != nil {
				continue
			}
			v := segmentView{head: segmentHead{number: n}, last: l.last, end: segmentHeader}
			if err := l.nothingAfter([][]byte{data}, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// heal rewrites every hurt copy of the damaged segments whole. A drive that cannot be rewritten is dropped.
func (l *mirroredLog) heal(members []cluster.DriveID, damaged []segmentHead) (left []cluster.DriveID, err error) {
	left = slices.Clone(members)
	for _, head := range damaged {
		v, err := l.view(members, head)
		if err != nil {
			return nil, err
		}
		for _, id := range v.hurt {
			d := l.drives[id]
			l.log.Warn("log segment rewritten from its mirrors", "drive", d.String(), "segment", head.number)
			if err := d.replaceSegment(head.number, v.data, l.segmentSize); err != nil {
				l.log.Warn("log mirror dropped", "drive", d.String(), "err", err)
				l.up[id] = false
				left = without(left, []cluster.DriveID{id})
			}
		}
	}
	if len(left) == 0 {
		return nil, fmt.Errorf("%w: no mirror can be written", ErrLogLost)
	}
	return left, nil
}
