package remote

import (
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// refuse answers a request for bytes with an error.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set(headerError, nameOf(err))
	http.Error(w, err.Error(), http.StatusConflict)
}

// onePass makes a request body the ReadSeeker that Part wants: it can be read from the start once, and its end is only
// an end when the CRC32C is right.
type onePass struct {
	r    io.Reader
	sum  hash.Hash32
	want string
	size int64
	read int64
}

func (b *onePass) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.read += int64(n)
	_, _ = b.sum.Write(p[:n]) // a hash never fails
	switch {
	case b.read == b.size && crcText(b.sum.Sum32()) != b.want:
		return n, errDamaged
	case b.read == b.size:
		return n, io.EOF // at once: a reader that counts the bytes must not miss a wrong sum
	case b.read > b.size || errors.Is(err, io.EOF):
		return n, fmt.Errorf("body has %d of %d bytes: %w", b.read, b.size, io.ErrUnexpectedEOF)
	}
	return n, err
}

// Seek can only stay where it is, or tell the size.
func (b *onePass) Seek(off int64, whence int) (int64, error) {
	switch {
	case whence == io.SeekStart && off == b.read, whence == io.SeekCurrent && off == 0:
		return b.read, nil
	case whence == io.SeekEnd && off == 0 && b.read == b.size:
		return b.read, nil
	}
	return 0, errors.New("a request body cannot be read again")
}

// putPart stores the body as a part.
func (s *Service) putPart(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	sess, err := s.session(r.Context(), q.Get("session"))
	if err != nil {
		refuse(w, err)
		return
	}
	n, err := strconv.Atoi(q.Get("n"))
	size := r.ContentLength
	if err != nil || size < 0 || n < 1 {
		refuse(w, tree.ErrInvalid)
		return
	}
	body := &onePass{r: r.Body, sum: crc32.New(castagnoli), want: r.Header.Get(headerCRC), size: size}
	ctx := r.Context()
	if seq, err := strconv.ParseUint(q.Get("seq"), 10, 64); err == nil {
		ctx = tree.WithOp(ctx, tree.Op{Seq: seq}) // not by once: the body of a repeated request must be read too
	}
	if err := sess.objects.Part(ctx, q.Get("key"), tree.Upload(q.Get("upload")), n, body, size); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// span is which bytes a request wants.
func span(r *http.Request) (off int64, n int, err error) {
	q := r.URL.Query()
	off, err1 := strconv.ParseInt(q.Get("off"), 10, 64)
	n, err2 := strconv.Atoi(q.Get("len"))
	if err1 != nil || err2 != nil || off < 0 || n < 0 || n > maxRead {
		return 0, 0, tree.ErrInvalid
	}
	return off, n, nil
}

// send reads n bytes and answers with them and their CRC32C; fewer than n mean the end.
func (s *Service) send(w http.ResponseWriter, r *http.Request, n int, read func([]byte) (int, error)) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-r.Context().Done():
		return
	}
	buf, done := memory(n)
	defer done()
	n, err := read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		refuse(w, err)
		return
	}
	w.Header().Set(headerCRC, crcText(crc32.Checksum(buf[:n], castagnoli)))
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(buf[:n]) // the client that hung up asks again
}

// largest keeps the memory of the largest reads, which a long read asks for one after another. Over HTTP/1.1, which is all
// that gateways speak, nobody touches what was given to Write any more when that returns.
var largest = sync.Pool{New: func() any { return new([maxRead]byte) }}

// memory is room for n bytes until done is called.
func memory(n int) (p []byte, done func()) {
	if n < maxRead {
		return make([]byte, n), func() {}
	}
	buf := largest.Get().(*[maxRead]byte)
	return buf[:n], func() { largest.Put(buf) }
}

// getRead answers with bytes of an open reader.
func (s *Service) getRead(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	sess, err := s.session(r.Context(), q.Get("session"))
	if err != nil {
		refuse(w, err)
		return
	}
	id, perr := strconv.ParseUint(q.Get("reader"), 10, 64)
	off, n, err := span(r)
	if err = errors.Join(err, perr); err != nil {
		refuse(w, errors.Join(tree.ErrInvalid, err))
		return
	}
	rd, err := sess.reader(id)
	if err != nil {
		refuse(w, err)
		return
	}
	defer rd.uses.Done()
	s.send(w, r, n, func(p []byte) (int, error) { return rd.ReadAt(p, off) })
}

// getPart answers with bytes of a part that is not published.
func (s *Service) getPart(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	sess, err := s.session(r.Context(), q.Get("session"))
	if err != nil {
		refuse(w, err)
		return
	}
	part, perr := strconv.Atoi(q.Get("n"))
	off, n, err := span(r)
	if err = errors.Join(err, perr); err != nil {
		refuse(w, errors.Join(tree.ErrInvalid, err))
		return
	}
	s.send(w, r, n, func(p []byte) (int, error) {
		return sess.objects.ReadPart(r.Context(), q.Get("key"), tree.Upload(q.Get("upload")), part, p, off)
	})
}
