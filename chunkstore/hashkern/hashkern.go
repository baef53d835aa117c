// Package hashkern computes many SHA-256 digests beside one MD5 faster than one after the other.
//
// A PUT needs the MD5 of its body (the ETag) and the SHA-256 of every leaf, 1.5 bytes of SHA-256 for each byte of MD5.
// MD5 is a chain of dependent scalar instructions; the SHA instructions run on other ports. On a Zen 5 core MD5 alone
// takes 1.19 ns a byte, SHA-256 0.51, two interleaved SHA-256 streams 0.34 each byte, and MD5 with two SHA-256 streams
// stitched into it 1.16 ns a byte of MD5: the digests of the leaves come free (BenchmarkKernels prints the table).
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
func Sum256(leaves [][]byte, sums []Digest) { (*MD5)(nil).WriteSum256(nil, leaves, sums) }

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

// WriteSum256 adds p to the stream and puts the SHA-256 of leaves[i] into sums[i], with the two kinds of work stitched
// together as far as both go. A nil MD5 with empty p only computes the digests.
func (m *MD5) WriteSum256(p []byte, leaves [][]byte, sums []Digest) {
	if len(leaves) != len(sums) {
		panic("hashkern: leaves and sums differ in length")
	}
	if !haveKernel {
		for i, leaf := range leaves {
			sums[i] = sha256.Sum256(leaf)
		}
		if len(p) > 0 {
			if m.plain == nil {
				m.plain = md5.New()
			}
			m.plain.Write(p) // a hash never fails
		}
		return
	}
	if m != nil {
		m.start()
		p = m.fill(p)
	}
	for len(leaves) > 0 {
		if len(leaves) == 1 || len(leaves[0]) != len(leaves[1]) || len(leaves[0]) == 0 {
			sums[0] = sha256.Sum256(leaves[0])
			leaves, sums = leaves[1:], sums[1:]
			continue
		}
		p = m.pair(p, leaves[0], leaves[1], sums)
		leaves, sums = leaves[2:], sums[2:]
	}
	if m != nil {
		m.write(p)
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

// pair digests two leaves of equal length > 0, taking as many whole blocks of p along as the leaves have. It returns
// the rest of p. The stream must not have a block waiting when p has one.
func (m *MD5) pair(p, a, b []byte, sums []Digest) []byte {
	ha, hb := initial, initial
	blocks := len(a) / sha256.BlockSize
	joint := 0
	if m != nil && m.length%md5.BlockSize == 0 {
		joint = min(blocks, len(p)/md5.BlockSize)
	}
	if joint > 0 {
		stitched(&m.state, &p[0], &ha, &a[0], &hb, &b[0], joint)
		m.length += uint64(joint * md5.BlockSize)
		p = p[joint*md5.BlockSize:]
	}
	done := joint * sha256.BlockSize
	if blocks > joint {
		sha256Pair(&ha, &a[done], &hb, &b[done], blocks-joint)
	}
	var enda, endb [2 * sha256.BlockSize]byte
	n := pad(&enda, a)
	pad(&endb, b)
	sha256Pair(&ha, &enda[0], &hb, &endb[0], n)
	for i := range ha {
		binary.BigEndian.PutUint32(sums[0][i*4:], ha[i])
		binary.BigEndian.PutUint32(sums[1][i*4:], hb[i])
	}
	return p
}

// pad writes the last incomplete block of a message with its padding and returns the number of blocks that makes.
func pad(end *[2 * sha256.BlockSize]byte, message []byte) (blocks int) {
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
