package s3

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// body is the decoded payload of an authenticated request.
type body struct {
	reader   io.Reader // io.EOF only once digest, chunks, trailer and length are verified
	size     int64     // decoded; -1 unknown
	declared declared
	chunks   *sigv4.ChunkReader // nil when the body is not chunked by the client
	signed   bool               // the signature covers the bytes
	length   bool               // the client said how long the body is
}

// openBody decodes the payload mode that the claim names. It reads nothing yet, so that an early refusal keeps a
// client with "Expect: 100-continue" from sending the body.
func openBody(w http.ResponseWriter, r *http.Request, claim *sigv4.Claim, chain *sigv4.Chain) (*body, error) {
	raw := &wireReader{body: r.Body, control: http.NewResponseController(w)}
	b := &body{reader: raw, size: r.ContentLength, length: r.ContentLength > 0 || r.Header.Get("Content-Length") != "" || len(r.TransferEncoding) > 0}
	framing := sigv4.Framing{}
	switch claim.Payload {
	case sigv4.Unsigned:
		var err error
		b.declared, err = parseDeclared(r.Header, nil)
		return b, err
	case sigv4.StreamingSigned:
		framing.Chain = chain
	case sigv4.StreamingSignedTrailer:
		framing.Chain, framing.Trailer = chain, trailerNames(r.Header)
		if len(framing.Trailer) == 0 {
			return nil, Code("InvalidRequest").because("x-amz-trailer is missing.")
		}
	case sigv4.StreamingUnsignedTrailer:
		framing.Trailer = trailerNames(r.Header)
	default:
		want, err := hex.DecodeString(claim.Payload)
		if err != nil {
			return nil, sigv4.ErrPayload
		}
		b.reader, b.signed = &digestReader{from: raw, sum: sha256.New(), want: want}, true
		b.declared, err = parseDeclared(r.Header, nil)
		return b, err
	}
	size, err := decodedLength(r.Header)
	if err != nil {
		return nil, err
	}
	framing.Size, b.size, b.length, b.signed = size, size, true, framing.Chain != nil
	b.chunks = sigv4.NewChunkReader(raw, framing)
	b.reader = b.chunks
	b.declared, err = parseDeclared(r.Header, framing.Trailer)
	return b, err
}

func decodedLength(h http.Header) (int64, error) {
	value := h.Get("X-Amz-Decoded-Content-Length")
	if value == "" {
		return 0, Code("MissingContentLength")
	}
	size, err := strconv.ParseInt(value, 10, 64)
	if err != nil || size < 0 || value[0] == '+' {
		return 0, Code("InvalidArgument").because("x-amz-decoded-content-length is not a length.")
	}
	return size, nil
}

// trailerNames reads x-amz-trailer, a list of header names.
func trailerNames(h http.Header) []string {
	var names []string
	for _, value := range h.Values("X-Amz-Trailer") {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// all reads a small body whole and verifies Content-MD5 and, with check, the declared checksum. More than limit
// bytes are refused before they are read where the length is known.
func (b *body) all(limit int64, check bool) ([]byte, error) {
	if b.size > limit {
		return nil, Code("MalformedXML").because("The request body is too large.")
	}
	reader := b.reader
	var sum *sumReader
	if check && b.declared.algorithm != nil {
		sum = b.summing(*b.declared.algorithm)
		reader = sum
	}
	data, err := io.ReadAll(io.LimitReader(reader, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, Code("MalformedXML").because("The request body is too large.")
	}
	if got := md5.Sum(data); b.declared.md5 != nil && !bytes.Equal(got[:], b.declared.md5) {
		return nil, Code("BadDigest")
	}
	return data, nil
}

// object is the body as the object path takes it. It computes the declared checksum, or the given one where nothing
// was declared (an upload's), and verifies what the client sent of it.
func (b *body) object(limit int64, fallback *algorithm) (multipart.Body, error) {
	if !b.length {
		return multipart.Body{}, Code("MissingContentLength")
	}
	if b.size > limit {
		return multipart.Body{}, Code("EntityTooLarge")
	}
	chosen := b.declared.algorithm
	if chosen == nil {
		chosen = fallback
	}
	reader := io.Reader(&limitReader{from: b.reader, left: limit})
	var sum *sumReader
	if chosen != nil {
		sum = b.summing(*chosen)
		sum.from = reader
		reader = sum
	}
	seal := func(got [16]byte) (map[string]string, error) {
		if b.declared.md5 != nil && !bytes.Equal(got[:], b.declared.md5) {
			return nil, Code("BadDigest")
		}
		if sum == nil {
			return nil, nil
		}
		return map[string]string{sum.algorithm.name: sum.got}, nil
	}
	return multipart.Body{Reader: reader, Size: b.size, Seal: seal}, nil
}

// summing computes a checksum along with reading and compares it at the end with the header or the trailer.
func (b *body) summing(a algorithm) *sumReader {
	return &sumReader{from: b.reader, sum: a.make(), algorithm: a, want: func() string {
		if b.declared.trailer != "" && b.chunks != nil {
			return b.chunks.Trailer()[b.declared.trailer]
		}
		return b.declared.value
	}}
}

// sumReader compares a checksum before it passes io.EOF on.
type sumReader struct {
	from      io.Reader
	sum       hash.Hash
	algorithm algorithm
	want      func() string // "" when the client sent none
	got       string        // base64, once io.EOF was passed on
}

func (r *sumReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.sum.Write(p[:n])
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	r.got = base64.StdEncoding.EncodeToString(r.sum.Sum(nil))
	if want := r.want(); want != "" && want != r.got {
		return 0, Code("BadDigest").because("The " + r.algorithm.name + " you specified did not match the calculated checksum.")
	}
	return n, io.EOF
}

// digestReader compares the SHA-256 that the signature covers before it passes io.EOF on.
type digestReader struct {
	from io.Reader
	sum  hash.Hash
	want []byte
}

func (r *digestReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && !bytes.Equal(r.sum.Sum(nil), r.want) {
		return 0, Code("XAmzContentSHA256Mismatch")
	}
	return n, err
}

// limitReader refuses bodies of unknown length that turn out too long.
type limitReader struct {
	from io.Reader
	left int64
}

func (r *limitReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, Code("EntityTooLarge")
	}
	return n, err
}

// wireReader reads the connection's body. Each piece must come within stallTimeout; errors of the wire become S3's
// here, so that none of them is taken for one of the store.
type wireReader struct {
	body    io.Reader
	control *http.ResponseController
	armed   time.Time // when the deadline was last moved
	err     error     // what ended the body, so that reading on gives it again
}

func (r *wireReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if now := time.Now(); now.Sub(r.armed) > stallTimeout/6 {
		r.armed = now
		r.deadline(now.Add(stallTimeout))
	}
	n, err := r.body.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		// The server watches the connection from now on for the client's leaving: no deadline may end that.
		r.deadline(time.Time{})
		r.err = io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.err = Code("RequestTimeout")
	default:
		r.err = Code("IncompleteBody")
	}
	return n, r.err
}

// deadline does nothing on connections that have none (in-process tests).
func (r *wireReader) deadline(at time.Time) {
	if err := r.control.SetReadDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) && r.err == nil {
		r.err = fmt.Errorf("body: %w", Code("IncompleteBody"))
	}
}
