package sigv4

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// MinChunk is the least that a signed chunk holds, unless it is the last one with data: S3's rule.
	MinChunk = 8 << 10
	// MaxChunk is the most that one chunk holds: a whole part. Chunks are streamed, so their size costs no memory.
	MaxChunk = 5 << 30
	// maxChunkLine bounds the line before a chunk; a signed one takes about 100 bytes.
	maxChunkLine = 1 << 10
	// maxTrailer bounds everything after the last chunk; a signed trailer takes about 200 bytes.
	maxTrailer = 4 << 10

	trailerSignature = "x-amz-trailer-signature"
)

// Chain is a verified request's signature, which each signed chunk carries on.
type Chain struct {
	key      []byte
	at       time.Time
	scope    scope
	previous string
}

// next signs what follows in the chain: kind is a string to sign's first line, digests are its last ones.
func (c *Chain) next(kind string, digests ...string) string {
	text := kind + "\n" + c.at.UTC().Format(timeFormat) + "\n" + c.scope.String() + "\n" + c.previous + "\n" + strings.Join(digests, "\n")
	return hex.EncodeToString(mac(c.key, text))
}

// check compares the signature that came with the one that must come, and moves the chain on.
func (c *Chain) check(got, kind string, digests ...string) error {
	want := c.next(kind, digests...)
	if !hmac.Equal([]byte(want), []byte(got)) {
		return ErrSignature
	}
	c.previous = want
	return nil
}

// Framing says how a chunked body is framed.
type Framing struct {
	// Chain verifies chunks and trailer; nil when they are not signed.
	Chain *Chain
	// Trailer names the headers that must follow the last chunk, in lower case; empty: there is no trailer.
	Trailer []string
	// Size is the sum of the chunks that the client declared, in bytes.
	Size int64
}

// ChunkReader decodes a chunked body. The last bytes of a signed chunk are handed out only once its signature is
// verified, no byte of a chunk before the chunk in front of it is, and io.EOF comes only when the whole body was
// there: all chunks, the declared size, the declared trailer with its signature, and nothing behind it.
type ChunkReader struct {
	body    *bufio.Reader
	framing Framing
	left    int64 // of the chunk under way
	total   int64 // handed out
	short   bool  // a chunk under MinChunk was seen, so it must be the last with data
	sum     hash.Hash
	claimed string // signature of the chunk under way
	trailer map[string]string
	err     error // what every further Read returns
}

// NewChunkReader decodes body.
func NewChunkReader(body io.Reader, f Framing) *ChunkReader {
	// Large reads go past this buffer straight into the caller's.
	r := &ChunkReader{body: bufio.NewReaderSize(body, 4<<10), framing: f}
	if f.Chain != nil {
		chain := *f.Chain
		r.framing.Chain, r.sum = &chain, sha256.New()
	}
	return r
}

// Trailer returns the trailer by lower-case name, after Read returned io.EOF.
func (r *ChunkReader) Trailer() map[string]string { return r.trailer }

// Read implements io.Reader. Errors are those of this package or the body's own.
func (r *ChunkReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.err == nil && r.left == 0 {
		r.err = r.startChunk()
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	if r.sum != nil {
		r.sum.Write(p[:n])
	}
	r.left -= int64(n)
	r.total += int64(n)
	switch {
	case err != nil && r.left > 0:
		r.err = early(err)
	case n > 0 && r.left == 0:
		r.err = r.endChunk()
	}
	if r.err != nil {
		return 0, r.err
	}
	return n, nil
}

// startChunk reads the line before a chunk; behind the last one it reads the trailer and returns io.EOF.
func (r *ChunkReader) startChunk() error {
	line, err := r.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, extension, extended := strings.Cut(line, ";")
	n, err := parseSize(size)
	if err != nil {
		return err
	}
	if r.framing.Chain != nil {
		name, signature, _ := strings.Cut(extension, "=")
		if !extended || name != "chunk-signature" {
			return fmt.Errorf("chunk carries no signature: %w", ErrSignature)
		}
		r.claimed = signature
		if n > 0 && r.short {
			return fmt.Errorf("a chunk under %d bytes is not the last: %w", MinChunk, ErrChunkSize)
		}
		r.short = n < MinChunk
	}
	if n > r.framing.Size-r.total {
		return ErrLength
	}
	r.left = n
	if n > 0 {
		return nil
	}
	return r.finish()
}

// parseSize reads a chunk size: 1 to 16 hexadecimal digits, at most MaxChunk.
func parseSize(s string) (int64, error) {
	if s == "" || len(s) > 16 {
		return 0, fmt.Errorf("chunk size: %w", ErrChunk)
	}
	var n uint64
	for i := range len(s) {
		digit := unhex(s[i])
		if digit < 0 {
			return 0, fmt.Errorf("chunk size: %w", ErrChunk)
		}
		n = n<<4 | uint64(digit)
	}
	if n > MaxChunk {
		return 0, fmt.Errorf("chunk of %d bytes: %w", n, ErrChunkSize)
	}
	return int64(n), nil
}

// endChunk verifies the chunk that was just read in full.
func (r *ChunkReader) endChunk() error {
	line, err := r.line(2)
	if err != nil {
		return err
	}
	if line != "" {
		return fmt.Errorf("chunk is longer than its size: %w", ErrChunk)
	}
	return r.verifyChunk()
}

func (r *ChunkReader) verifyChunk() error {
	if r.framing.Chain == nil {
		return nil
	}
	digest := hex.EncodeToString(r.sum.Sum(nil))
	r.sum.Reset()
	return r.framing.Chain.check(r.claimed, "AWS4-HMAC-SHA256-PAYLOAD", EmptySHA256, digest)
}

// finish verifies all that follows the line of the last, empty chunk. It returns io.EOF when the body is what it
// promised to be.
func (r *ChunkReader) finish() error {
	if err := r.verifyChunk(); err != nil {
		return err
	}
	if r.total != r.framing.Size {
		return ErrLength
	}
	rest, err := io.ReadAll(io.LimitReader(r.body, maxTrailer+1))
	if err != nil {
		return early(err)
	}
	if len(rest) > maxTrailer {
		return fmt.Errorf("more than %d bytes: %w", maxTrailer, ErrTrailer)
	}
	if err := r.readTrailer(string(rest)); err != nil {
		return err
	}
	return io.EOF
}

// readTrailer reads "name:value" lines. Clients end them with a line feed alone or with both, and put empty lines in
// front of the signature or not, so empty lines mean nothing here; the body's end is known from the request.
func (r *ChunkReader) readTrailer(text string) error {
	trailer := map[string]string{}
	var signed strings.Builder
	signature, sealed := "", false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
		_, twice := trailer[name]
		switch {
		case !found || twice || sealed:
			return ErrTrailer
		case name == trailerSignature:
			signature, sealed = value, true
		case !slices.Contains(r.framing.Trailer, name):
			return fmt.Errorf("%q was not declared: %w", name, ErrTrailer)
		default:
			trailer[name] = value
			signed.WriteString(name + ":" + value + "\n")
		}
	}
	for _, name := range r.framing.Trailer {
		if _, there := trailer[name]; !there {
			return fmt.Errorf("%q was declared and is missing: %w", name, ErrTrailer)
		}
	}
	if len(r.framing.Trailer) > 0 && r.framing.Chain != nil {
		if err := r.framing.Chain.check(signature, "AWS4-HMAC-SHA256-TRAILER", hexSHA256(signed.String())); err != nil {
			return fmt.Errorf("trailer: %w", err)
		}
	} else if sealed {
		return fmt.Errorf("a signature where none belongs: %w", ErrTrailer)
	}
	r.trailer = trailer
	return nil
}

// line reads up to CR LF, which it takes off. The line with them has at most limit bytes.
func (r *ChunkReader) line(limit int) (string, error) {
	var b []byte
	for len(b) < limit {
		c, err := r.body.ReadByte()
		if err != nil {
			return "", early(err)
		}
		b = append(b, c)
		if c == '\n' {
			text, found := strings.CutSuffix(string(b), "\r\n")
			if !found {
				return "", fmt.Errorf("line ends without a carriage return: %w", ErrChunk)
			}
			return text, nil
		}
	}
	return "", fmt.Errorf("line is longer than %d bytes: %w", limit, ErrChunk)
}

// early says that the body ended where more must follow.
func early(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrIncomplete
	}
	return err
}
