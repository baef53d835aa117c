package chunkstore_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
)

// TestVerifyPayloadFindsEveryLeaf: from every leaf to every other one, one byte wrong in any of them is found, and what does
// not stand on leaves is refused.
func TestVerifyPayloadFindsEveryLeaf(t *testing.T) {
	for _, size := range []uint32{1, 100_000, 3 << 19, 3<<19 + 70_000} {
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, size)
		h, leaf, length := s.Header, s.Header.Layout.Leaf, int64(len(s.Payload))
		for lo := int64(0); lo < length; lo += leaf {
			for hi := min(lo+leaf, length); ; hi = min(hi+leaf, length) {
				if err := h.VerifyPayload(lo, s.Payload[lo:hi]); err != nil {
					t.Fatalf("%d to %d of %d bytes: %v", lo, hi, size, err)
				}
				for at := lo; at < hi; at += leaf {
					p := slices.Clone(s.Payload[lo:hi])
					p[at-lo] ^= 1
					if err := h.VerifyPayload(lo, p); !errors.Is(err, chunkstore.ErrDamaged) {
						t.Fatalf("%d to %d, wrong at %d: %v", lo, hi, at, err)
					}
				}
				if hi == length {
					break
				}
			}
		}
		beyond := append(slices.Clone(s.Payload), s.Payload[:leaf]...)
		for _, bad := range []struct{ off, n int64 }{{0, leaf - 1}, {1, leaf}, {length, leaf}, {0, length + leaf}} {
			if err := h.VerifyPayload(bad.off, beyond[bad.off:][:bad.n]); !errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("%d bytes from %d of %d: %v", bad.n, bad.off, length, err)
			}
		}
	}
}
