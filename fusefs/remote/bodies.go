package remote

import (
	"encoding/binary"
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

// admit waits until one more read may be in memory, and says false when its client has gone. done ends the read.
func (s *Service) admit(r *http.Request) (done func(), ok bool) {
	select {
	case s.reads <- struct{}{}:
		return func() { <-s.reads }, true
	case <-r.Context().Done():
		return nil, false
	}
}

// send reads n bytes and answers with them and their CRC32C; fewer than n mean the end.
func (s *Service) send(w http.ResponseWriter, r *http.Request, n int, read func([]byte) (int, error)) {
	leave, ok := s.admit(r)
	if !ok {
		return
	}
	defer leave()
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
	from, ok := rd.Reader.(streamer)
	if long := min(int64(n), rd.Info().Size-off); ok && q.Get(askSum) == sumLast && long > piece {
		s.stream(w, r, from, off, long)
		return
	}
	s.send(w, r, n, func(p []byte) (int, error) { return rd.ReadAt(p, off) })
}

// streamer is a tree.Reader that gives a span, which lies in its version, piece by piece.
type streamer interface {
	Stream(off, n int64) (io.ReadCloser, error)
}

// piece is how much of a long read is worked on at a time: little enough to be in the processor's own cache from the
// moment that it is read until it is sent, and summed when it comes.
const piece = 256 << 10

// pieces keeps the memory of streams, as largest does: nobody touches it any more when Write returns.
var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// stream answers with n bytes, and their CRC32C behind them. An error after the first piece cuts the connection; a client
// that asks again without sumLast hears which it is.
func (s *Service) stream(w http.ResponseWriter, r *http.Request, from streamer, off, n int64) {
	leave, ok := s.admit(r)
	if !ok {
		return
	}
	defer leave()
	body, err := from.Stream(off, n)
	if err != nil {
		refuse(w, err)
		return
	}
	defer func() { _ = body.Close() }() // all that was wanted of it was read, or its error is known
	buf := pieces.Get().(*[piece]byte)
	defer pieces.Put(buf)
	var sum uint32
	for left := n; left > 0; {
		p := buf[:min(left, piece)]
		if _, err := io.ReadFull(body, p); err != nil {
			if left == n {
				refuse(w, err)
			}
			return // with less than was announced
		}
		if left == n {
			w.Header().Set(headerCRC, sumLast)
			w.Header().Set("Content-Length", strconv.FormatInt(n+sumSize, 10))
		}
		sum = crc32.Update(sum, castagnoli, p)
		if _, err := w.Write(p); err != nil {
			return // the client that hung up asks again
		}
		left -= int64(len(p))
	}
	_, _ = w.Write(binary.LittleEndian.AppendUint32(nil, sum))
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
