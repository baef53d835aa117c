package multipart

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/hashkern"
	"github.com/holdfast/holdfast/metadata"
)

// discardTimeout bounds the best-effort delete of what a failed attempt wrote: its caller waits for an answer, and
// what is left behind is named by nothing and goes with the sweep.
const discardTimeout = 10 * time.Second

// body reads an incoming stream and holds it to its declared length.
type body struct {
	r    io.Reader
	size int64 // -1: unknown
	max  int64 // the most bytes that this kind of write may have
	n    int64
	eof  bool
	err  error // the first error, as the caller of the Store must see it
}

func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.eof:
		return 0, io.EOF
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	switch {
	case b.size >= 0 && b.n > b.size:
		b.err = fmt.Errorf("body of %d bytes: %w", b.size, ErrLongBody)
	case b.n > b.max:
		b.err = fmt.Errorf("body of more than %d bytes: %w", b.max, metadata.ErrObjectTooLarge)
	case errors.Is(err, io.EOF) && b.n < b.size:
		b.err = fmt.Errorf("body of %d bytes ended at %d: %w", b.size, b.n, ErrIncompleteBody)
	case errors.Is(err, io.EOF):
		b.eof = true
		return n, io.EOF
	case err != nil:
		b.err = err
	default:
		return n, nil
	}
	return 0, b.err
}

// finish reads up to the end of the stream: its face verifies signatures and digests there.
func (b *body) finish() error {
	var one [1]byte
	for !b.eof {
		n, err := b.Read(one[:])
		switch {
		case errors.Is(err, io.EOF) && n == 0:
		case err != nil:
			return err
		case n > 0:
			return fmt.Errorf("body goes on behind byte %d: %w", b.n-1, ErrLongBody)
		}
	}
	return nil
}

// content is bytes that are durable and not yet named.
type content struct {
	size      int64
	md5       [md5.Size]byte
	inline    []byte
	manifest  []byte
	checksums map[string]string
}

func (c *content) etag() string { return hex.EncodeToString(c.md5[:]) }

// store makes a body durable: inline when it is small, else in chunks. Seal has agreed when it returns nil; on an
// error the attempt is to be discarded.
func (s *Store) store(ctx context.Context, in Body, owner [16]byte, a *attempt) (content, error) {
	if in.Size > MaxPart {
		return content{}, fmt.Errorf("body of %d bytes: %w", in.Size, metadata.ErrObjectTooLarge)
	}
	b := &body{r: in.Reader, size: in.Size, max: MaxPart}
	if b.r == nil {
		b.r = bytes.NewReader(nil)
	}
	c, err := s.storeStream(ctx, b, owner, a)
	if b.err != nil {
		return content{}, b.err // rather than what a lower floor made of it
	}
	if err != nil {
		return content{}, err
	}
	c.size = b.n
	if in.Seal != nil {
		if c.checksums, err = in.Seal(c.md5); err != nil {
			return content{}, err
		}
	}
	return c, nil
}

func (s *Store) storeStream(ctx context.Context, b *body, owner [16]byte, a *attempt) (content, error) {
	var c content
	var head []byte
	if b.size <= s.inline {
		limit := s.inline
		if b.size >= 0 {
			limit = b.size
		}
		head = make([]byte, limit+1)
		n, err := io.ReadFull(b, head)
		head = head[:n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && b.err == nil {
			c.md5 = md5.Sum(head)
			if n > 0 {
				c.inline = head
			}
			return c, nil
		}
		if err != nil {
			return c, err
		}
	}
	var hash hashkern.MD5
	w, err := s.chunks.Write(ctx, io.MultiReader(bytes.NewReader(head), b), chunkstore.WriteOptions{
		Size: b.size, Owner: owner, MD5: &hash,
	})
	a.add(w)
	if err != nil {
		return c, fmt.Errorf("write chunks: %w", err)
	}
	if err := b.finish(); err != nil {
		return c, err
	}
	if w.Size != b.n {
		return c, fmt.Errorf("%d of %d bytes were stored: %w", w.Size, b.n, ErrIncompleteBody)
	}
	c.md5 = hash.Sum()
	var l list
	l.addChunks(w.Chunks)
	c.manifest, err = s.encode(ctx, l.extents, owner, a)
	return c, err
}

// Put stores a whole object and makes it the current version of its key. Nothing of it is visible unless it returns
// nil; after an error that leaves the outcome open (metadata.ErrUnavailable, a context error) it may be.
func (s *Store) Put(ctx context.Context, p Put) (metadata.Version, error) {
	command, a, err := s.preparePut(ctx, p)
	if err != nil {
		return metadata.Version{}, fmt.Errorf("put %q: %w", p.Key, err)
	}
	return s.commit(ctx, command, a)
}

// preparePut makes the body durable and builds the command that names it.
func (s *Store) preparePut(ctx context.Context, p Put) (metadata.Put, *attempt, error) {
	if err := errors.Join(checkKey(p.Key), s.room()); err != nil {
		return metadata.Put{}, nil, err
	}
	a := &attempt{}
	c, err := s.store(ctx, p.Body, ownerOf(p.Bucket, p.Key), a)
	if err != nil {
		s.discard(ctx, a)
		return metadata.Put{}, nil, err
	}
	v := s.version(p.Key, p.Meta)
	v.Size, v.ETag, v.Inline, v.Manifest = c.size, c.etag(), c.inline, c.manifest
	if len(c.checksums) > 0 {
		v.Checksums, v.ChecksumType = c.checksums, "FULL_OBJECT"
	}
	return metadata.Put{
		Bucket: p.Bucket, Version: v, If: p.If, Op: p.Op, Intents: a.intentRows(), Unstage: p.Unstage,
	}, a, nil
}

// commit is the commit point of every whole version.
func (s *Store) commit(ctx context.Context, command metadata.Put, a *attempt) (metadata.Version, error) {
	v, err := s.catalog.Put(ctx, command)
	if err != nil {
		s.settle(ctx, a, err)
		return metadata.Version{}, fmt.Errorf("put %q: %w", command.Version.Key, err)
	}
	if otherTry(v.Manifest, command.Version.Manifest) {
		s.discard(ctx, a)
	}
	return v, nil
}

// otherTry says that the answer to a commit is that of an earlier try of the same operation, which stored the bytes in
// chunks of its own, so that those of this one were never named. An answer without chunks does not say so: what was stored
// may have been in these, and is replaced since. Others may read it still, or name it by now, and a row frees it.
func otherTry(stored, tried []byte) bool {
	return len(stored) > 0 && !bytes.Equal(stored, tried)
}

// settle discards an attempt if err proves that it was not committed. After an unknown outcome its chunks may be named.
func (s *Store) settle(ctx context.Context, a *attempt, err error) {
	if refused(err) {
		s.discard(ctx, a)
	}
}

// discard deletes the chunks of an attempt that nothing names, as far as that goes quickly.
func (s *Store) discard(ctx context.Context, a *attempt) {
	if len(a.chunks) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if left, err := s.chunks.Delete(ctx, a.chunks); err != nil || len(left) > 0 {
		s.log.Info("chunks of a failed write wait for sweep", "chunks", len(left), "err", err)
	}
	a.chunks = nil
}

// version starts a version from what the client said of it.
func (s *Store) version(key string, m Meta) metadata.Version {
	v := metadata.Version{Key: key, Modified: m.Modified, Headers: m.Headers, Meta: m.User, Tags: m.Tags, Attr: m.Attr}
	if v.Modified.IsZero() {
		v.Modified = s.now()
	}
	return v
}

// ownerOf is the back-pointer in the headers of an object's shards: a diagnostic that leads from a drive to a key.
func ownerOf(bucket metadata.BucketID, key string) [16]byte {
	h := sha256.New()
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], uint64(bucket))
	h.Write(id[:])
	io.WriteString(h, key)
	return [16]byte(h.Sum(nil)[:16])
}

// checkKey refuses what no commit would take, before a byte is stored.
func checkKey(key string) error {
	if len(key) == 0 || len(key) > MaxKey {
		return metadata.ErrKeyLength
	}
	return nil
}
