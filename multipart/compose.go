package multipart

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

// draft is a composed file on its way to its commit.
type draft struct {
	bucket  metadata.BucketID
	base    *metadata.Version     // nil: none
	parts   map[int]metadata.Part // the rows of the parts that pieces name
	numbers []int                 // their numbers in the order of the pieces
	list    list
	etag    string
}

// Compose publishes a file: the pieces in order become the current version of the key. The chunks that it takes from
// its base and from parts stay where they are; references beyond 64 + size/1 MiB are avoided by writing the smallest
// neighbours again. Ownership moves in the same commit: the base loses what is not kept, the upload what was taken.
func (s *Store) Compose(ctx context.Context, c Compose) (metadata.Version, error) {
	for try := 1; ; try++ {
		command, a, err := s.prepareCompose(ctx, c)
		if err != nil {
			return metadata.Version{}, fmt.Errorf("compose %q: %w", c.Key, err)
		}
		v, err := s.commit(ctx, command, a)
		if errors.Is(err, metadata.ErrConflict) && command.If != c.If && try < lendTries {
			continue // the version that was current at the look, which the caller did not ask for, was replaced
		}
		return v, err
	}
}

// Stage makes what Compose would publish durable without publishing it. It replaces the stage of the same inode.
func (s *Store) Stage(ctx context.Context, key metadata.StageKey, c Compose) error {
	command, a, err := s.prepareCompose(ctx, c)
	if err != nil {
		return fmt.Errorf("stage %q: %w", c.Key, err)
	}
	return s.stage(ctx, key, command, a)
}

// StagePut is Stage for a body at hand.
func (s *Store) StagePut(ctx context.Context, key metadata.StageKey, p Put) error {
	command, a, err := s.preparePut(ctx, p)
	if err != nil {
		return fmt.Errorf("stage %q: %w", p.Key, err)
	}
	return s.stage(ctx, key, command, a)
}

func (s *Store) stage(ctx context.Context, key metadata.StageKey, command metadata.Put, a *attempt) error {
	own, err := s.chunkList(ctx, a.chunks, ownerOf(command.Bucket, command.Version.Key), a)
	if err == nil {
		command.Intents = a.intentRows() // with those of the list
		// Its number is for this write alone. Chunks of a repetition that was answered from memory wait for sweep.
		err = s.catalog.Stage(metadata.WithOp(ctx, command.Op), metadata.Stage{StageKey: key, Put: command, Own: own})
	} else {
		s.discard(ctx, a)
	}
	if err != nil {
		s.settle(ctx, a, err)
		return fmt.Errorf("stage %q: %w", command.Version.Key, err)
	}
	return nil
}

// Discard forgets a stage and frees what only it named.
func (s *Store) Discard(ctx context.Context, key metadata.StageKey) error {
	return s.catalog.Discard(ctx, key)
}

// prepareCompose makes everything durable that the new version names and builds the command that names it. After an
// error nothing is left behind.
func (s *Store) prepareCompose(ctx context.Context, c Compose) (metadata.Put, *attempt, error) {
	if err := errors.Join(checkKey(c.Key), s.room()); err != nil {
		return metadata.Put{}, nil, err
	}
	d, err := s.draft(ctx, c)
	if err != nil {
		return metadata.Put{}, nil, err
	}
	v := s.version(c.Key, c.Meta)
	v.Size, v.ETag = d.list.size, d.etag
	command := metadata.Put{Bucket: c.Bucket, Version: v, If: c.If, Op: c.Op, Unstage: c.Unstage}
	if v.Size <= s.inline {
		return s.composeInline(ctx, command, d)
	}
	a := &attempt{}
	if err := s.composeChunks(ctx, c, &command, d, a); err != nil {
		s.discard(ctx, a)
		return metadata.Put{}, nil, err
	}
	command.Intents = a.intentRows()
	return command, a, nil
}

// composeInline makes the command of a small file: all its bytes are read, so it keeps nothing of anyone.
func (s *Store) composeInline(ctx context.Context, command metadata.Put, d *draft) (metadata.Put, *attempt, error) {
	b, err := s.readAll(ctx, &slice{d.list.extents}, d.list.size)
	if err != nil {
		return metadata.Put{}, nil, err
	}
	if len(b) > 0 {
		command.Version.Inline = b
	}
	command.Version.ETag = etagOf(b)
	return command, &attempt{}, nil
}

// composeChunks writes what must be written, makes the manifest, and settles who owns which chunk.
func (s *Store) composeChunks(ctx context.Context, c Compose, command *metadata.Put, d *draft, a *attempt) error {
	owner := ownerOf(c.Bucket, c.Key)
	extents, err := s.rewrite(ctx, d.list.extents, planRewrite(d.list.extents, d.list.size), owner, a)
	if err != nil {
		return err
	}
	command.Version.Manifest, err = s.encode(ctx, extents, owner, a)
	if err != nil {
		return err
	}
	keep := newUsed()
	for _, e := range extents {
		if e.kind == kindData {
			keep.addData(e.ref.Chunk)
		}
	}
	base := newUsed()
	if d.base != nil {
		if base, err = s.usedBy(ctx, c.Bucket, d.base); err != nil {
			return fmt.Errorf("base version %v: %w", d.base.ID, err)
		}
	}
	if base.overlaps(keep) {
		command.Keeps, command.If.Base = true, d.base.ID
		command.Version.Shared = d.base.Shared
		if command.Dropped, err = s.chunkList(ctx, base.without(keep), owner, a); err != nil {
			return err
		}
	}
	return s.adopt(ctx, c, command, d, keep, base)
}

// adopt says what each part that the version takes chunks of still owns afterwards.
func (s *Store) adopt(ctx context.Context, c Compose, command *metadata.Put, d *draft, keep, base *used) error {
	for _, number := range d.numbers {
		part := d.parts[number]
		all, owned := newUsed(), newUsed()
		if err := all.addManifest(ctx, part.Manifest, s.readPage); err != nil {
			return fmt.Errorf("part %d: %w", number, err)
		}
		taken := 0
		rest := part.Manifest
		if part.Adopted {
			rest = part.Rest
		}
		if err := owned.addManifest(ctx, rest, s.readPage); err != nil {
			return fmt.Errorf("rest of part %d: %w", number, err)
		}
		for id := range all.data {
			switch {
			case !keep.has(id):
			case owned.has(id):
				taken++
			case !base.has(id) && !part.Shared:
				// An earlier publish took this chunk over, and that version is no longer the one replaced here.
				return fmt.Errorf("bytes of part %d belong to a version that was replaced: %w", number, metadata.ErrConflict)
			}
		}
		switch {
		case part.Shared:
			command.Version.Shared = command.Version.Shared || taken > 0
		case taken > 0:
			left, err := encodeChunkList(owned.without(keep))
			if err != nil {
				return fmt.Errorf("rest of part %d: %w", number, err)
			}
			command.AdoptsOf, command.AdoptsKey = c.Upload, c.UploadKey
			command.Adopts = append(command.Adopts, metadata.Adopt{Number: number, Rest: left})
		}
	}
	return nil
}

// draft looks up everything that the pieces name and lays their extents one after the other.
func (s *Store) draft(ctx context.Context, c Compose) (*draft, error) {
	d := &draft{bucket: c.Bucket, parts: map[int]metadata.Part{}}
	if err := s.draftBase(ctx, c, d); err != nil {
		return nil, err
	}
	if err := s.draftParts(ctx, c, d); err != nil {
		return nil, err
	}
	tag := newTagger()
	for i, p := range c.Pieces {
		if err := s.draftPiece(ctx, p, d, tag); err != nil {
			return nil, fmt.Errorf("piece %d: %w", i, err)
		}
		if d.list.size > MaxObject {
			return nil, metadata.ErrObjectTooLarge
		}
	}
	d.etag = tag.sum(c.Pieces, d)
	return d, nil
}

// draftBase finds the version that the new one replaces. It is asked for by If.Base; without, the current version
// counts, because chunks of parts may belong to it since an earlier publish of the same open file.
func (s *Store) draftBase(ctx context.Context, c Compose, d *draft) error {
	needs := false
	for _, p := range c.Pieces {
		needs = needs || p.Base
	}
	switch {
	case !c.If.Base.IsZero():
		v, err := s.catalog.Version(ctx, c.Bucket, c.Key, c.If.Base, false)
		if errors.Is(err, metadata.ErrNoSuchVersion) || errors.Is(err, metadata.ErrNoSuchKey) || err == nil && v.DeleteMarker {
			return fmt.Errorf("base version %v: %w", c.If.Base, metadata.ErrConflict)
		}
		if err != nil {
			return err
		}
		d.base = &v
	case needs:
		return fmt.Errorf("a piece of a base that If does not name: %w", ErrSpan)
	case !c.If.NoBase && c.Upload != (metadata.UploadID{}):
		v, err := s.catalog.Current(ctx, c.Bucket, c.Key)
		if errors.Is(err, metadata.ErrNoSuchKey) {
			return nil
		}
		if err != nil {
			return err
		}
		d.base = &v
	}
	return nil
}

// draftParts reads the rows of the parts that the pieces name.
func (s *Store) draftParts(ctx context.Context, c Compose, d *draft) error {
	low, high := MaxParts+1, 0
	for _, p := range c.Pieces {
		if p.Part < 0 || p.Part > MaxParts {
			return ErrPartNumber
		}
		if p.Part > 0 {
			low, high = min(low, p.Part), max(high, p.Part)
		}
	}
	key := c.UploadKey
	if key == "" {
		key = c.Key
	}
	rows := map[int]metadata.Part{}
	for after := low - 1; after < high; {
		page, err := s.catalog.Parts(ctx, c.Bucket, key, c.Upload, after, min(partRows, high-after))
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, row := range page {
			rows[row.Number] = row
		}
		after = page[len(page)-1].Number
	}
	for _, p := range c.Pieces {
		if p.Part == 0 {
			continue
		}
		row, ok := rows[p.Part]
		if !ok {
			return fmt.Errorf("part %d: %w", p.Part, metadata.ErrInvalidPart)
		}
		if _, seen := d.parts[p.Part]; !seen {
			d.parts[p.Part] = row
			d.numbers = append(d.numbers, p.Part)
		}
	}
	return nil
}

// draftPiece adds the extents of one piece.
func (s *Store) draftPiece(ctx context.Context, p Piece, d *draft, tag *tagger) error {
	if p.Len <= 0 || p.Off < 0 {
		return fmt.Errorf("span %d+%d: %w", p.Off, p.Len, ErrSpan)
	}
	var src source
	var err error
	switch {
	case p.Hole && !p.Base && p.Part == 0:
		tag.add("", 0, p.Len)
		d.list.add(extent{kind: kindHole, len: p.Len})
		return nil
	case p.Base && !p.Hole && p.Part == 0:
		tag.add(d.base.ETag, p.Off, p.Len)
		src, _, err = s.versionSource(d.bucket, d.base, Span{Off: p.Off, Len: p.Len})
	case p.Part > 0 && !p.Hole && !p.Base:
		part := d.parts[p.Part]
		if p.Off > part.Size || p.Len > part.Size-p.Off {
			return fmt.Errorf("span %d+%d of part %d of %d bytes: %w", p.Off, p.Len, p.Part, part.Size, ErrSpan)
		}
		tag.add(part.ETag, p.Off, p.Len)
		src, err = s.bytesSource(part.Inline, part.Manifest, part.Size, p.Off, p.Off+p.Len)
	default:
		return fmt.Errorf("neither one of part, base and hole: %w", ErrSpan)
	}
	if err != nil {
		return err
	}
	return collect(ctx, src, &d.list)
}

// tagger computes the ETag of a composed file.
type tagger struct{ h hash.Hash }

func newTagger() *tagger { return &tagger{md5.New()} }

func (t *tagger) add(etag string, off, n int64) {
	var span [16]byte
	binary.LittleEndian.PutUint64(span[:8], uint64(off))
	binary.LittleEndian.PutUint64(span[8:], uint64(n))
	io.WriteString(t.h, etag)
	t.h.Write(span[:])
}

// sum returns the ETag. A file that is one whole part, or its base untouched, keeps that one's; whole parts give what
// CompleteMultipartUpload would, md5(md5s)-N; else it is an MD5 over the spans of the pieces, with -N too.
func (t *tagger) sum(pieces []Piece, d *draft) string {
	whole := md5.New()
	parts := len(pieces) > 0
	for _, p := range pieces {
		if p.Part == 0 || p.Off != 0 || p.Len != d.parts[p.Part].Size {
			parts = false
			break
		}
		b, err := hex.DecodeString(d.parts[p.Part].ETag)
		if err != nil {
			parts = false
			break
		}
		whole.Write(b)
	}
	switch {
	case parts && len(pieces) == 1:
		return d.parts[pieces[0].Part].ETag
	case parts:
		return fmt.Sprintf("%x-%d", whole.Sum(nil), len(pieces))
	case len(pieces) == 1 && pieces[0].Base && pieces[0].Off == 0 && pieces[0].Len == d.base.Size:
		return d.base.ETag
	}
	return fmt.Sprintf("%x-%d", t.h.Sum(nil), len(pieces))
}

// usedBy collects all chunks of a version.
func (s *Store) usedBy(ctx context.Context, bucket metadata.BucketID, v *metadata.Version) (*used, error) {
	u := newUsed()
	if len(v.Parts) == 0 {
		return u, u.addManifest(ctx, v.Manifest, s.readPage)
	}
	for _, run := range v.Parts {
		rows := partsSource{s: s, bucket: bucket, v: v, hi: v.Size, rows: partRows}
		for i := range run.Count {
			row, err := rows.row(ctx, run, i)
			if err != nil {
				return nil, err
			}
			if err := u.addManifest(ctx, row.Manifest, s.readPage); err != nil {
				return nil, fmt.Errorf("part %d: %w", row.Number, err)
			}
		}
	}
	return u, nil
}

// overlaps tells whether u and o name a common chunk.
func (u *used) overlaps(o *used) bool {
	for _, c := range o.order {
		if u.has(c.ID) {
			return true
		}
	}
	return false
}

// without returns the chunks of u that o does not name, in order.
func (u *used) without(o *used) []chunkstore.Chunk {
	var left []chunkstore.Chunk
	for _, c := range u.order {
		if !o.has(c.ID) {
			left = append(left, c)
		}
	}
	return left
}

// chunkList encodes whole chunks as a manifest. Long lists move into index chunks, which are added to a and go with
// the list.
func (s *Store) chunkList(ctx context.Context, chunks []chunkstore.Chunk, owner [16]byte, a *attempt) ([]byte, error) {
	if len(chunks) <= maxListEntries {
		return encodeChunkList(chunks)
	}
	var l list
	l.addChunks(chunks)
	return s.encode(ctx, l.extents, owner, a)
}
