//go:build !amd64

package hashkern

// Other architectures use the standard library.
const haveKernel = false

func sha256Pair(*[8]uint32, *byte, *[8]uint32, *byte, int) { panic("hashkern: no kernel") }

func md5Two(*[4]uint32, *byte, *[4]uint32, *byte, int) { panic("hashkern: no kernel") }

func stitchedTwo(*[4]uint32, *byte, *[4]uint32, *byte, *[8]uint32, *byte, *[8]uint32, *byte, int) {
	panic("hashkern: no kernel")
}

func md5Blocks(*[4]uint32, *byte, int) { panic("hashkern: no kernel") }

func stitched(*[4]uint32, *byte, *[8]uint32, *byte, *[8]uint32, *byte, int) {
	panic("hashkern: no kernel")
}
