package raft

import (
	"cmp"
	"errors"
	"fmt"
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
//  4. The last frame may stand in page caches alone: its process was killed before the sync, or the sync failed on every
//     member, after which no later sync would write it. So it is written and synced again before anything follows it;
//     else a power loss could leave the next frame without it, which looks like damage (rule 2).
//
// Nothing is written until all of it is read and proved.

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
		at, err := visitFrames(v, l.cluster, visit)
		if err != nil {
			return nil, err
		}
		at -= at % pageSize
		l.tail = tail{at: place{segment: head.number, off: at}, data: v.data[at:v.end]}
		l.segments = append(l.segments, head)
		l.last, l.digest = v.last, v.digest
		l.next = place{segment: head.number, off: v.end}
		l.page = slices.Clone(v.data[v.end/pageSize*pageSize:])
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
		start := make([]byte, segmentHeader+frameHeader)
		if err := readAt(d.fs, d.segmentPath(head.number), start); err != nil ||
			!looksLikeFrame(start[segmentHeader:], l.cluster, place{head.number, segmentHeader}) {
			continue
		}
		data, err := d.readSegment(head.number)
		if err != nil {
			continue // another member may have it
		}
		if _, _, ok := l.frameAt([][]byte{data}, head.number, segmentHeader, head.first, head.prev); ok {
			return head, true
		}
	}
	return segmentHead{}, false
}

// tail is what the last append wrote: the last frame and what stands before it in its page, such as the header of its
// segment.
type tail struct {
	at   place
	data []byte
}

// visitFrames calls visit for the records of a view. It returns where the append of the last frame began.
func visitFrames(v segmentView, id cluster.ClusterID, visit func(seq uint64, r record) error) (at int64, err error) {
	for off := int64(segmentHeader); off < v.end; {
		f, err := decodeFrame(v.data[off:v.end], id, place{v.head.number, off})
		if err != nil {
			return 0, fmt.Errorf("segment %d byte %d: %w", v.head.number, off, err)
		}
		if err := f.records(func(r record) error { return visit(f.seq, r) }); err != nil {
			return 0, err
		}
		if off > segmentHeader {
			at = off
		}
		off += f.size
	}
	return at, nil
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
			if d.agrees(n, nil, l.cluster) {
				continue // it was prepared and not begun
			}
			data, err := d.readSegment(n)
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

// confirm writes the last frame again on every member, synced. A drive that does not take it is dropped.
func (l *mirroredLog) confirm(members []cluster.DriveID) (left []cluster.DriveID, err error) {
	pages := vfs.Aligned(int(roundUp(int64(len(l.tail.data)), pageSize)))
	copy(pages, l.tail.data)
	_, failed := l.writeMembers(members, l.tail.at, pages)
	left = slices.Clone(members)
	for id, err := range failed {
		l.log.Warn("log mirror dropped", "drive", l.drives[id].String(), "err", err)
		l.up[id] = false
		left = without(left, []cluster.DriveID{id})
	}
	if len(left) == 0 {
		return nil, fmt.Errorf("%w: no mirror can be written: %w", ErrLogLost, errors.Join(values(failed)...))
	}
	return left, nil
}
