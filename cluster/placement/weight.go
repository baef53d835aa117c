package placement

import "math/bits"

// maxWeight bounds relative weights: larger ones are all halved until they fit. A drive of a millionth of the largest one's
// size still counts, and a share, slots·2³²/weight, tells parts of a thousandth of a slot.
const maxWeight = 1 << 20

// relative returns the weights of the drives in proportion, 1..maxWeight.
func relative(drives []Drive) []uint64 {
	weights := make([]uint64, len(drives))
	var most, sum, known uint64
	for _, d := range drives {
		most = max(most, d.Weight)
	}
	shift := max(0, bits.Len64(most)-bits.Len64(maxWeight-1))
	for i, d := range drives {
		if d.Weight == 0 {
			continue
		}
		weights[i] = max(1, d.Weight>>shift)
		sum += weights[i]
		known++
	}
	mean := uint64(maxWeight)
	if known > 0 {
		mean = max(1, sum/known)
	}
	for i := range weights {
		if weights[i] == 0 {
			weights[i] = mean
		}
	}
	return weights
}

// race turns a random number into one such that of several drives each has the least with a probability of its weight's
// part of the sum: -log₂(random/2⁶⁴)/weight, in integers, which are the same on every machine.
func race(random, weight uint64) uint64 {
	return (64<<fraction - log2(random|1)) << (64 - fraction - 7) / weight
}

// fraction is the number of binary places of log2.
const fraction = 24

// log2 returns the binary logarithm of n > 0 with so many binary places, one bit of the result for each squaring.
func log2(n uint64) uint64 {
	whole := uint64(bits.Len64(n) - 1)
	result := whole << fraction
	x := n << (63 - whole) // 1.63 bits: 1 <= x < 2
	for place := uint64(1) << (fraction - 1); place > 0; place >>= 1 {
		high, low := bits.Mul64(x, x) // 2.126 bits
		if high>>63 != 0 {
			result |= place
			x = high
		} else {
			x = high<<1 | low>>63
		}
	}
	return result
}
