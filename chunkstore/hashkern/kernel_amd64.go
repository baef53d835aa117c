package hashkern

import "golang.org/x/sys/cpu"

// haveKernel tells whether this processor has what the kernels use. x/sys/cpu does not name the SHA extensions of x86,
// so CPUID leaf 7 is asked directly (bit 29 of EBX).
var haveKernel = cpu.X86.HasSSSE3 && cpu.X86.HasSSE41 && cpu.X86.HasBMI1 && hasSHA()

func hasSHA() bool {
	const sha = 1 << 29
	if highest, _ := cpuid(0, 0); highest < 7 {
		return false
	}
	_, ebx := cpuid(7, 0)
	return ebx&sha != 0
}

//go:noescape
func cpuid(leaf, subleaf uint32) (eax, ebx uint32)

//go:noescape
func sha256Pair(h0 *[8]uint32, p0 *byte, h1 *[8]uint32, p1 *byte, blocks int)

//go:noescape
func md5Blocks(h *[4]uint32, p *byte, blocks int)

// md5Two is md5Blocks of two streams at once.
//
//go:noescape
func md5Two(ha *[4]uint32, pa *byte, hb *[4]uint32, pb *byte, blocks int)

// stitchedTwo takes blocks of two MD5 streams, and twice as many of the two SHA-256 streams.
//
//go:noescape
func stitchedTwo(ha *[4]uint32, pa *byte, hb *[4]uint32, pb *byte, h0 *[8]uint32, p0 *byte, h1 *[8]uint32, p1 *byte, blocks int)

//go:noescape
func stitched(hm *[4]uint32, pm *byte, h0 *[8]uint32, p0 *byte, h1 *[8]uint32, p1 *byte, blocks int)
