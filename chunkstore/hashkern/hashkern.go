// Package hashkern computes many SHA-256 digests beside one MD5 faster than one after the other.
//
// A PUT needs the MD5 of its body (the ETag) and the SHA-256 of every leaf, 1.5 bytes of SHA-256 for each byte of MD5.
// MD5 is a chain of dependent scalar instructions; the SHA instructions run on other ports. On a Zen 5 core MD5 alone
// takes 1.19 ns a byte, SHA-256 0.51, two interleaved SHA-256 streams 0.34 each byte, and MD5 with two SHA-256 streams
// stitched into it 1.16 ns a byte of MD5: the digests of the leaves come free (BenchmarkKernels prints the table). Two
// MD5 streams together, with all of their leaves, take two thirds of the time of one after the other.
//
// On processors without the SHA extensions, and on other architectures, crypto/md5 and crypto/sha256 do the same work.
package hashkern

//go:generate go run gen.go

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Digest is a SHA-256.
type Digest = [sha256.Size]byte

// Sum256 puts the SHA-256 of leaves[i] into sums[i]. Neighbours of equal length are computed two at a time.
// It panics when the slices differ in length.
func Sum256(leaves [][]byte, sums []Digest) { Run(Work{Leaves: leaves, Sums: sums}) }

// SumPair returns the SHA-256 of two leaves, computed at once when they are of equal length. It allocates nothing.
func SumPair(a, b []byte) (Digest, Digest) {
	if !haveKernel || len(a) != len(b) || len(a) == 0 {
		return sha256.Sum256(a), sha256.Sum256(b)
	}
	ha, hb := initial, initial
	return finishPair(&ha, a, &hb, b, 0)
}

// finishPair digests what is left of two leaves of equal length, of which blocks are done.
func finishPair(ha *[8]uint32, a []byte, hb *[8]uint32, b []byte, done int) (sumA, sumB Digest) {
	var endA, endB [2 * sha256.BlockSize]byte
	if blocks := len(a) / sha256.BlockSize; blocks > done {
		sha256Pair(ha, &a[done*sha256.BlockSize], hb, &b[done*sha256.BlockSize], blocks-done)
	}
	n := pad(&endA, a)
	pad(&endB, b)
	sha256Pair(ha, &endA[0], hb, &endB[0], n)
	for i := range ha {
		binary.BigEndian.PutUint32(sumA[i*4:], ha[i])
		binary.BigEndian.PutUint32(sumB[i*4:], hb[i])
	}
	return sumA, sumB
}

// MD5 is a running MD5 of a stream that Sum256 work can be stitched into. The zero MD5 is ready for use. It must not be
// used concurrently.
type MD5 struct {
	state  [4]uint32
	length uint64
	tail   [md5.BlockSize]byte // the length%64 bytes that wait for a whole block
	plain  hash.Hash           // used where there is no kernel
}

// Write adds bytes to the stream. It never fails.
func (m *MD5) Write(p []byte) (int, error) {
	m.WriteSum256(p, nil, nil)
	return len(p), nil
}

// Sum returns the MD5 of what was written so far; more may follow.
func (m *MD5) Sum() [md5.Size]byte {
	var out [md5.Size]byte
	if !haveKernel {
		if m.plain == nil {
			return md5.Sum(nil)
		}
		m.plain.Sum(out[:0])
		return out
	}
	end := *m
	end.start()
	pad := make([]byte, 1, 2*md5.BlockSize)
	pad[0] = 0x80
	for (end.length+uint64(len(pad)))%md5.BlockSize != md5.BlockSize-8 {
		pad = append(pad, 0)
	}
	pad = binary.LittleEndian.AppendUint64(pad, end.length*8)
	end.write(pad)
	for i, word := range end.state {
		binary.LittleEndian.PutUint32(out[i*4:], word)
	}
	return out
}

// WriteSum256 adds p to the stream and puts the SHA-256 of leaves[i] into sums[i]. A nil MD5 with empty p only computes
// the digests.
func (m *MD5) WriteSum256(p []byte, leaves [][]byte, sums []Digest) {
	Run(Work{MD5: m, Body: p, Leaves: leaves, Sums: sums})
}

// Work is Body to add to an MD5 stream and Leaves to digest: the SHA-256 of Leaves[i] goes into Sums[i]. A nil MD5 with
// an empty Body leaves the digests.
type Work struct {
	MD5    *MD5
	Body   []byte
	Leaves [][]byte
	Sums   []Digest
}

// Run does a work, with its two kinds stitched together as far as both go. It panics when Leaves and Sums differ in
// length.
func Run(w Work) {
	if !haveKernel {
		w.runPlain()
		return
	}
	w.start()
	digest(w.Leaves, w.Sums, w.stitch)
	w.finish()
}

// RunTwo does two works, of different streams, at once: one MD5 leaves so much of a core idle that a second one takes
// little longer.
func RunTwo(v, w Work) {
	if v.MD5 == nil || w.MD5 == nil || v.MD5 == w.MD5 || !haveKernel {
		Run(v)
		Run(w)
		return
	}
	v.start()
	w.start()
	stitch := func(ha *[8]uint32, a *byte, hb *[8]uint32, b *byte, blocks int) int {
		n := min(blocks/2, v.ready(), w.ready())
		if n == 0 { // one of the two has no more
			if n = v.stitch(ha, a, hb, b, blocks); n == 0 {
				n = w.stitch(ha, a, hb, b, blocks)
			}
			return n
		}
		stitchedTwo(&v.MD5.state, &v.Body[0], &w.MD5.state, &w.Body[0], ha, a, hb, b, n)
		v.advance(n)
		w.advance(n)
		return 2 * n
	}
	digest(v.Leaves, v.Sums, stitch)
	digest(w.Leaves, w.Sums, stitch)
	if n := min(v.ready(), w.ready()); n > 0 {
		md5Two(&v.MD5.state, &v.Body[0], &w.MD5.state, &w.Body[0], n)
		v.advance(n)
		w.advance(n)
	}
	v.finish()
	w.finish()
}

// runPlain does the work where there is no kernel.
func (w *Work) runPlain() {
	w.check()
	for i, leaf := range w.Leaves {
		w.Sums[i] = sha256.Sum256(leaf)
	}
	if len(w.Body) == 0 {
		return
	}
	if w.MD5.plain == nil {
		w.MD5.plain = md5.New()
	}
	w.MD5.plain.Write(w.Body) // a hash never fails
}

func (w *Work) check() {
	if len(w.Leaves) != len(w.Sums) {
		panic("hashkern: leaves and sums differ in length")
	}
}

// start completes the block of the stream that waits.
func (w *Work) start() {
	w.check()
	if w.MD5 != nil {
		w.MD5.start()
		w.Body = w.MD5.fill(w.Body)
	}
}

// finish adds what is left of the body.
func (w *Work) finish() {
	if w.MD5 != nil {
		w.MD5.write(w.Body)
	}
}

// ready is how many whole blocks of the body can be added now.
func (w *Work) ready() int {
	if w.MD5 == nil || w.MD5.length%md5.BlockSize != 0 {
		return 0
	}
	return len(w.Body) / md5.BlockSize
}

// advance notes that blocks were added.
func (w *Work) advance(blocks int) {
	w.MD5.length += uint64(blocks * md5.BlockSize)
	w.Body = w.Body[blocks*md5.BlockSize:]
}

// stitch adds blocks of the body beside as many of two SHA-256 streams, and tells how many.
func (w *Work) stitch(ha *[8]uint32, a *byte, hb *[8]uint32, b *byte, blocks int) int {
	n := min(blocks, w.ready())
	if n > 0 {
		stitched(&w.MD5.state, &w.Body[0], ha, a, hb, b, n)
		w.advance(n)
	}
	return n
}

// digest computes the digests of leaves, neighbours of equal length two at a time. stitch does the first blocks of a
// pair beside other work and tells how many.
func digest(leaves [][]byte, sums []Digest, stitch func(ha *[8]uint32, a *byte, hb *[8]uint32, b *byte, blocks int) int) {
	var ha, hb [8]uint32
	for len(leaves) > 0 {
		if len(leaves) == 1 || len(leaves[0]) != len(leaves[1]) || len(leaves[0]) == 0 {
			sums[0] = sha256.Sum256(leaves[0])
			leaves, sums = leaves[1:], sums[1:]
			continue
		}
		a, b := leaves[0], leaves[1]
		ha, hb = initial, initial
		blocks, done := len(a)/sha256.BlockSize, 0
		for done < blocks {
			n := stitch(&ha, &a[done*sha256.BlockSize], &hb, &b[done*sha256.BlockSize], blocks-done)
			if n == 0 {
				break
			}
			done += n
		}
		sums[0], sums[1] = finishPair(&ha, a, &hb, b, done)
		leaves, sums = leaves[2:], sums[2:]
	}
}

// start sets the initial state of RFC 1321.
func (m *MD5) start() {
	if m.length == 0 {
		m.state = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	}
}

// fill completes the block that waits and returns what is left of p; it leaves p alone when no block waits.
func (m *MD5) fill(p []byte) []byte {
	have := int(m.length % md5.BlockSize)
	if have == 0 || len(p) == 0 {
		return p
	}
	n := copy(m.tail[have:], p)
	m.length += uint64(n)
	if have+n == md5.BlockSize {
		md5Blocks(&m.state, &m.tail[0], 1)
	}
	return p[n:]
}

// write adds p without stitching.
func (m *MD5) write(p []byte) {
	p = m.fill(p)
	if blocks := len(p) / md5.BlockSize; blocks > 0 {
		md5Blocks(&m.state, &p[0], blocks)
		m.length += uint64(blocks * md5.BlockSize)
		p = p[blocks*md5.BlockSize:]
	}
	if len(p) > 0 {
		m.length += uint64(copy(m.tail[:], p))
	}
}

// pad writes the last incomplete block of a message with its padding and returns the number of blocks that makes.
func pad(end *[2 * sha256.BlockSize]byte, message []byte) (blocks int) {
	clear(end[:])
	rest := copy(end[:], message[len(message)/sha256.BlockSize*sha256.BlockSize:])
	end[rest] = 0x80
	blocks = 1
	if rest+9 > sha256.BlockSize {
		blocks = 2
	}
	binary.BigEndian.PutUint64(end[blocks*sha256.BlockSize-8:], uint64(len(message))*8)
	return blocks
}

// initial is the initial state of FIPS 180-4.
var initial = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}
