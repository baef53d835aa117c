package multipart

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/metadata"
)

// lendTries bounds how often a copy looks its source up again because it was replaced between look and lend.
const lendTries = 16

// borrowed is the bytes of a span of a version, by reference. Inline bodies are copied.
type borrowed struct {
	version  metadata.Version
	span     Span // inside the version, Len ≥ 0
	whole    bool // the span is all of it
	size     int64
	inline   []byte
	manifest []byte
	shared   bool // manifest names chunks of the source
}

// borrow looks up a source, lends it and returns the references of its span. Chunks that it had to write (index chunks,
// small parts) are added to a.
func (s *Store) borrow(ctx context.Context, src Source, owner [16]byte, a *attempt) (borrowed, error) {
	for try := 1; ; try++ {
		b, err := s.find(ctx, src)
		if err != nil {
			return b, err
		}
		if len(b.version.Inline) == 0 && b.size > 0 {
			err = s.lend(ctx, src.Bucket, &b.version)
			if errors.Is(err, metadata.ErrNoSuchVersion) && src.Version == nil && try < lendTries {
				continue // replaced since the look: the next look finds its successor
			}
			if err != nil {
				return b, fmt.Errorf("lend version %v: %w", b.version.ID, err)
			}
		}
		return b, s.reference(ctx, src.Bucket, &b, owner, a)
	}
}

// find looks up a source and resolves its span.
func (s *Store) find(ctx context.Context, src Source) (borrowed, error) {
	v, err := s.lookup(ctx, src.Bucket, src.Key, At{Version: src.Version, Null: src.Null})
	if err != nil {
		return borrowed{}, err
	}
	if src.Check != nil {
		if err := src.Check(v); err != nil {
			return borrowed{}, err
		}
	}
	b := borrowed{version: v, span: Span{Len: v.Size}}
	if src.Span != nil {
		b.span = *src.Span
		if b.span.Len < 0 {
			b.span.Len = v.Size - b.span.Off
		}
		if b.span.Off < 0 || b.span.Len < 0 || b.span.Off > v.Size || b.span.Len > v.Size-b.span.Off {
			return borrowed{}, fmt.Errorf("span %d+%d of %d bytes: %w", src.Span.Off, src.Span.Len, v.Size, ErrSpan)
		}
	}
	b.size = b.span.Len
	b.whole = b.size == v.Size
	return b, nil
}

// lend marks a version Shared, so that only sweep frees its chunks. That is never taken back, so once is enough.
func (s *Store) lend(ctx context.Context, bucket metadata.BucketID, v *metadata.Version) error {
	if v.Shared {
		return nil
	}
	return s.catalog.Lend(ctx, bucket, v.Key, v.ID)
}

// reference fills in the bytes of b.
func (s *Store) reference(ctx context.Context, bucket metadata.BucketID, b *borrowed, owner [16]byte, a *attempt) error {
	v := &b.version
	switch {
	case b.size == 0:
		return nil
	case len(v.Inline) > 0:
		if int64(len(v.Inline)) != v.Size {
			return fmt.Errorf("%d bytes inline where %d are named: %w", len(v.Inline), v.Size, ErrManifest)
		}
		b.inline = v.Inline[b.span.Off : b.span.Off+b.span.Len]
		return nil
	case b.whole && len(v.Manifest) > 0:
		b.manifest, b.shared = v.Manifest, true // its index chunks are shared too
		return nil
	}
	src, _, err := s.versionSource(bucket, v, b.span)
	if err != nil {
		return err
	}
	var l list
	if err := collect(ctx, src, &l); err != nil {
		return err
	}
	b.shared = true
	extents, err := s.pack(ctx, l.extents, owner, a)
	if err != nil {
		return err
	}
	b.manifest, err = s.encode(ctx, extents, owner, a)
	return err
}

// Copy makes an object from an existing version without moving a byte: the source is lent in its own commit before the
// borrower's. ETag and checksums are the source's, md5-N form included, so that a copy compares equal to its source.
// A copy of a current version onto its own key changes only what the client says of it, and lends nothing.
func (s *Store) Copy(ctx context.Context, c Copy) (metadata.Version, error) {
	v, err := s.copy(ctx, c)
	if err != nil {
		return v, fmt.Errorf("copy %q to %q: %w", c.Source.Key, c.Key, err)
	}
	return v, nil
}

func (s *Store) copy(ctx context.Context, c Copy) (metadata.Version, error) {
	if err := errors.Join(checkKey(c.Key), s.room()); err != nil {
		return metadata.Version{}, err
	}
	if c.Source.Bucket == c.Bucket && c.Source.Key == c.Key && c.Source.Span == nil {
		v, done, err := s.copyInPlace(ctx, c)
		if done || err != nil {
			return v, err
		}
	}
	a := &attempt{}
	b, err := s.borrow(ctx, c.Source, ownerOf(c.Bucket, c.Key), a)
	if err != nil {
		s.discard(ctx, a)
		return metadata.Version{}, err
	}
	return s.commit(ctx, s.copyCommand(c, &b, a), a)
}

// copyCommand builds the command that names a copy.
func (s *Store) copyCommand(c Copy, b *borrowed, a *attempt) metadata.Put {
	v := s.version(c.Key, c.Meta)
	from := &b.version
	if !c.ReplaceMeta {
		v.Headers, v.Meta, v.Attr = c.HeadersOver(from.Headers), from.Meta, from.Attr
	}
	if !c.ReplaceTags {
		v.Tags = from.Tags
	}
	v.Size, v.Inline, v.Manifest, v.Shared = b.size, b.inline, b.manifest, b.shared
	if b.whole {
		v.ETag, v.Checksums, v.ChecksumType = from.ETag, from.Checksums, from.ChecksumType
	} else {
		v.ETag = etagOf(append(b.manifest, b.inline...))
	}
	return metadata.Put{Bucket: c.Bucket, Version: v, If: c.If, Op: c.Op, Intents: a.intentRows()}
}

// copyInPlace commits a copy of the current version onto its own key as its successor that keeps all chunks. It is not
// done when the source is no current version.
func (s *Store) copyInPlace(ctx context.Context, c Copy) (v metadata.Version, done bool, err error) {
	for try := 1; ; try++ {
		b, err := s.find(ctx, c.Source)
		if err != nil {
			return v, false, err
		}
		if !b.version.Latest || !c.If.Base.IsZero() && c.If.Base != b.version.ID {
			return v, false, nil
		}
		a := &attempt{}
		owner := ownerOf(c.Bucket, c.Key)
		if err := s.reference(ctx, c.Bucket, &b, owner, a); err != nil {
			s.discard(ctx, a)
			return v, false, err
		}
		command := s.copyCommand(c, &b, a)
		command.If.Base = b.version.ID
		command.Version.Shared = b.version.Shared
		if b.shared {
			command.Keeps = true
			if command.Dropped, err = s.droppedIndex(ctx, c.Bucket, &b, owner, a); err != nil {
				s.discard(ctx, a)
				return v, false, err
			}
			command.Intents = a.intentRows() // with those of the list
		}
		v, err = s.commit(ctx, command, a)
		if errors.Is(err, metadata.ErrConflict) && c.If.Base.IsZero() && try < lendTries {
			continue // replaced since the look
		}
		return v, err == nil, err
	}
}

// droppedIndex lists the index chunks that b's new manifest has no use for: those of the parts that it is made of.
func (s *Store) droppedIndex(ctx context.Context, bucket metadata.BucketID, b *borrowed, owner [16]byte, a *attempt) ([]byte, error) {
	if len(b.version.Parts) == 0 {
		return nil, nil // the manifest stayed as it was
	}
	before, err := s.usedBy(ctx, bucket, &b.version)
	if err != nil {
		return nil, err
	}
	keep := newUsed()
	if err := keep.addManifest(ctx, b.manifest, s.readPage); err != nil {
		return nil, err
	}
	return s.chunkList(ctx, before.without(keep), owner, a)
}

// readAll reads all bytes of a source.
func (s *Store) readAll(ctx context.Context, src source, n int64) ([]byte, error) {
	r := newReader(ctx, s, src, n, nil)
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return b, err
}
