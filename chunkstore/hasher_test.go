package chunkstore

import (
	"crypto/md5"
	"crypto/sha256"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/chunkstore/hashkern"
)

// Streams that share cores get their own digests, whichever rows are taken together.
func TestStreamsThatShareCoresGetTheirOwnDigests(t *testing.T) {
	for _, cores := range []int{1, 3} {
		h := &hasher{cores: cores}
		var wait sync.WaitGroup
		for n := range 8 {
			wait.Go(func() {
				random := rand.New(rand.NewPCG(uint64(n), 5))
				var stream hashkern.MD5
				var body []byte
				for range 30 {
					row := make([]byte, random.IntN(40_000))
					for i := range row {
						row[i] = byte(random.Uint32())
					}
					leaves := [][]byte{row[:len(row)/2], row[len(row)/2:]}
					sums := make([]hashkern.Digest, 2)
					h.run(hashkern.Work{MD5: &stream, Body: row, Leaves: leaves, Sums: sums})
					body = append(body, row...)
					for i, leaf := range leaves {
						if sums[i] != sha256.Sum256(leaf) {
							t.Errorf("stream %d: a leaf of %d bytes differs", n, len(leaf))
						}
					}
				}
				if stream.Sum() != md5.Sum(body) {
					t.Errorf("stream %d differs", n)
				}
			})
		}
		wait.Wait()
		if h.running != 0 || len(h.waiting) != 0 {
			t.Errorf("%d running and %d waiting at the end", h.running, len(h.waiting))
		}
	}
}
