package s3

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"hash/crc32"
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/multipart"
)

// checksumPrefix begins the headers and trailers that hold checksums.
const checksumPrefix = "x-amz-checksum-"

// Types of checksums of objects that were uploaded in parts.
const (
	fullObject = "FULL_OBJECT"
	composite  = "COMPOSITE"
)

// algorithm is one of S3's checksums.
type algorithm struct {
	name string // as in x-amz-checksum-algorithm
	size int    // bytes
	poly uint64 // reflected polynomial of a CRC, 0 of a digest
}

func (a algorithm) make() hash.Hash { return multipart.NewChecksum(a.name) }

// header is the lower-case name of the header that holds a value.
func (a algorithm) header() string { return checksumPrefix + strings.ToLower(a.name) }

// defaultType is the type of an upload that declares the algorithm alone.
func (a algorithm) defaultType() string {
	if a.name == "CRC64NVME" {
		return fullObject
	}
	return composite
}

// allows tells whether S3 offers the type: digests cannot be combined, CRC64NVME always is.
func (a algorithm) allows(kind string) bool {
	switch kind {
	case fullObject:
		return a.poly != 0
	case composite:
		return a.name != "CRC64NVME"
	}
	return false
}

// algorithms are all that are served.
var algorithms = [...]algorithm{
	{"CRC32", 4, crc32.IEEE},
	{"CRC32C", 4, crc32.Castagnoli},
	{"CRC64NVME", 8, 0x9a6c9329ac4bc9b5},
	{"SHA1", sha1.Size, 0},
	{"SHA256", sha256.Size, 0},
}

// findAlgorithm finds an algorithm by name in any case.
func findAlgorithm(name string) (algorithm, bool) {
	for _, a := range algorithms {
		if strings.EqualFold(a.name, name) {
			return a, true
		}
	}
	return algorithm{}, false
}

// declared is what a client says of the checksum of what it sends.
type declared struct {
	algorithm *algorithm // nil: it says nothing
	value     string     // base64; "" when it comes in the trailer, or not at all
	trailer   string     // name of the trailer that holds the value
	md5       []byte     // of Content-MD5; nil: not sent
}

// parseDeclared reads the checksum headers of a request, Content-MD5 and the names that its trailer will have.
// Parts' values of composite checksums ("-N" behind the value) are kept as they are.
func parseDeclared(h http.Header, trailer []string) (declared, error) {
	var d declared
	for name, values := range h {
		suffix, is := strings.CutPrefix(strings.ToLower(name), checksumPrefix)
		if !is || suffix == "mode" || suffix == "algorithm" || suffix == "type" {
			continue
		}
		a, known := findAlgorithm(suffix)
		if !known {
			return d, Code("InvalidRequest").because("The checksum algorithm is not supported.")
		}
		if d.algorithm != nil || len(values) != 1 {
			return d, Code("InvalidRequest").because("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
		}
		d.algorithm, d.value = &a, values[0]
		raw, _, _ := strings.Cut(d.value, "-")
		if sum, err := base64.StdEncoding.DecodeString(raw); err != nil || len(sum) != a.size {
			return d, Code("InvalidRequest").because("Value for " + a.header() + " header is invalid.")
		}
	}
	for _, name := range trailer {
		suffix, _ := strings.CutPrefix(name, checksumPrefix)
		a, known := findAlgorithm(suffix)
		if !known || a.header() != name {
			return d, Code("InvalidRequest").because("The value specified in the x-amz-trailer header is not supported.")
		}
		if d.algorithm != nil {
			return d, Code("InvalidRequest").because("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
		}
		d.algorithm, d.trailer = &a, name
	}
	if d.algorithm == nil {
		for _, header := range []string{"X-Amz-Sdk-Checksum-Algorithm", "X-Amz-Checksum-Algorithm"} {
			if a, known := findAlgorithm(h.Get(header)); known {
				d.algorithm = &a
			} else if h.Get(header) != "" {
				return d, Code("InvalidRequest").because("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
			}
		}
	}
	if values := h.Values("Content-Md5"); len(values) > 0 {
		sum, err := base64.StdEncoding.DecodeString(values[0])
		if err != nil || len(sum) != md5.Size || len(values) > 1 {
			return d, Code("InvalidDigest")
		}
		d.md5 = sum
	}
	return d, nil
}

// sent tells whether the client sends a value that proves the body.
func (d declared) sent() bool { return d.md5 != nil || d.value != "" || d.trailer != "" }

// combiner computes the CRC of a concatenation from the CRCs of its pieces.
type combiner struct {
	// powers[k] is the operator that appends 2^k zero bytes to a CRC, as the images of its bits.
	powers [43][64]uint64
	sum    uint64
	size   int64
}

// newCombiner starts with the CRC of no bytes. 2^43 bytes are more than the largest object. All CRCs of S3 are
// reflected, and begin and end with all ones, which cancels out: crc(ab) = shift(crc(a), |b|) xor crc(b).
func newCombiner(a algorithm) *combiner {
	c := &combiner{}
	bit := [64]uint64{0: a.poly}
	for i := 1; i < 64; i++ {
		bit[i] = 1 << (i - 1)
	}
	operator := bit
	for range 3 { // one bit, squared three times, is one byte
		operator = compose(&operator)
	}
	for k := range c.powers {
		c.powers[k] = operator
		operator = compose(&operator)
	}
	return c
}

// compose applies an operator twice.
func compose(op *[64]uint64) (twice [64]uint64) {
	for i := range op {
		twice[i] = shift(op, op[i])
	}
	return twice
}

func shift(op *[64]uint64, v uint64) (out uint64) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 != 0 {
			out ^= op[i]
		}
	}
	return out
}

// add appends a piece of size bytes.
func (c *combiner) add(sum []byte, size int64) {
	var piece uint64
	for _, b := range sum {
		piece = piece<<8 | uint64(b)
	}
	for k, n := 0, size; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			c.sum = shift(&c.powers[k], c.sum)
		}
	}
	c.sum ^= piece
	c.size += size
}

// value gives the sum as size bytes in base64.
func (c *combiner) value(size int) string {
	sum := make([]byte, size)
	for i := range sum {
		sum[size-1-i] = byte(c.sum >> (8 * i))
	}
	return base64.StdEncoding.EncodeToString(sum)
}

// sizedSum is the checksum of one part in base64 and its size in bytes.
type sizedSum struct {
	value string
	size  int64
}

// objectChecksum computes the checksum of an object from its parts': the digest of digests with their number, or the
// CRC of the whole.
func objectChecksum(a algorithm, kind string, parts []sizedSum) (string, error) {
	digest := a.make()
	var crc *combiner
	if kind == fullObject {
		crc = newCombiner(a)
	}
	for i, p := range parts {
		sum, err := base64.StdEncoding.DecodeString(p.value)
		if err != nil || len(sum) != a.size {
			return "", fmt.Errorf("checksum of part %d of %d is not a %s: %w", i+1, len(parts), a.name, Code("InvalidPart"))
		}
		if crc != nil {
			crc.add(sum, p.size)
			continue
		}
		if _, err := digest.Write(sum); err != nil {
			return "", err
		}
	}
	if crc != nil {
		return crc.value(a.size), nil
	}
	return fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(digest.Sum(nil)), len(parts)), nil
}
