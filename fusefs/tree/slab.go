package tree

import (
	"bytes"
)

const (
	// firstPart is the size of the first parts of a long file: one chunk of the store.
	firstPart = 8 << 20
	// partsPerSize is how many parts have one size before it doubles: 1,000 parts each of 8 MiB to 4 GiB are 8 TiB, so
	// the 5 TiB of the largest object fit into S3's 10,000 parts.
	partsPerSize = 1000
	maxParts     = 10_000
	// maxFile is S3's largest object.
	maxFile = 5 << 40
	// smallFile is the largest file that is published in one request with its data.
	smallFile = 8 << 20
	// smallMerge is the largest file that is published whole although only some of it changed: below this, one request
	// with the data costs less than an upload of a piece.
	smallMerge = 64 << 10
	// firstSlab is the smallest memory of new data.
	firstSlab = 4 << 10
)

// partSize is how large part n may grow before it is uploaded. Memory bounds it: a file above about 8,000 times
// limit needs a mount with more memory.
func partSize(n int, limit int64) int64 {
	return min(int64(firstPart)<<((n-1)/partsPerSize), max(limit, firstPart))
}

type slabState int

const (
	slabOpen    slabState = iota // takes writes
	slabFrozen                   // in memory, will not change any more
	slabSending                  // on its way into the store
	slabStored                   // a part of the upload; the memory is given back
	slabFailed                   // in memory; the last attempt to store it failed
)

// slab is new data of one file in the order in which it was written. It becomes one part of the upload as it is;
// extents say where its bytes stand in the file.
type slab struct {
	// data is nil once the slab is stored. It only grows while the slab is open.
	data  []byte
	size  int64
	part  int
	state slabState
	// readers counts the reads that fetch its part without the lock; the part's number is not used again before they end.
	readers int
	// doubt is set once an attempt to store it failed: whatever of it is still on its way may come later, so the number of
	// its part is never given to other bytes.
	doubt bool
	// done is closed when the current attempt to store it ended.
	done chan struct{}
	err  error
}

// room is how much more budget the slab needs to hold n more bytes.
func (s *slab) room(n int, whole int64) (need int64, capacity int) {
	want := len(s.data) + n
	if want <= cap(s.data) {
		return 0, cap(s.data)
	}
	capacity = max(cap(s.data), firstSlab)
	for capacity < want {
		capacity *= 2
	}
	if whole > 0 {
		capacity = max(int(whole), want)
	}
	return int64(capacity - cap(s.data)), capacity
}

func (s *slab) write(p []byte, capacity int) {
	if capacity > cap(s.data) {
		data := make([]byte, len(s.data), capacity)
		copy(data, s.data)
		s.data = data
	}
	s.data = append(s.data, p...)
}

// drop forgets the memory and says how much budget that frees.
func (s *slab) drop() int64 {
	n := int64(cap(s.data))
	s.data = nil
	return n
}

func (s *slab) body() *bytes.Reader { return bytes.NewReader(s.data) }
