package multipart

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"

	"github.com/holdfast/holdfast/chunkstore"
)

// pageReader reads the page of entries that a reference names.
type pageReader func(ctx context.Context, ref chunkstore.Ref) ([]byte, error)

// attempt is what one write attempt put on the drives so far. Until its commit nothing names these chunks, so a
// definite refusal may delete them.
type attempt struct {
	chunks  []chunkstore.Chunk
	intents []chunkstore.Intent
}

func (a *attempt) add(w chunkstore.Written) {
	a.chunks = append(a.chunks, w.Chunks...)
	a.intents = append(a.intents, w.Intents...)
}

// encode makes the manifest of extents, writing pages of entries into index chunks where they are too many to stand in
// the metadata record. The index chunks are added to a.
func (s *Store) encode(ctx context.Context, extents []extent, owner [16]byte, a *attempt) ([]byte, error) {
	height := 0
	for ; len(extents) > maxInlineRefs; height++ {
		if height == maxHeight {
			return nil, fmt.Errorf("manifest of more than %d levels: %w", maxHeight, ErrManifest)
		}
		pages, err := s.writePages(ctx, extents, owner, a)
		if err != nil {
			return nil, fmt.Errorf("write index chunk: %w", err)
		}
		extents = pages
	}
	if len(extents) == 0 {
		return nil, nil
	}
	return appendRoot(nil, height, extents), nil
}

// writePages stores entries as pages, one after the other in as many chunks as Write makes of them, and returns the
// entries of the next level. A chunk ends at a multiple of 512 KiB or at the end, so no page lies in two chunks.
func (s *Store) writePages(ctx context.Context, extents []extent, owner [16]byte, a *attempt) ([]extent, error) {
	pages := make([]extent, 0, (len(extents)+pageEntries-1)/pageEntries)
	encoded := make([]byte, 0, len(extents)*entrySize)
	var start int64
	for left := extents; len(left) > 0; {
		part := left[:min(len(left), pageEntries)]
		left = left[len(part):]
		encoded = appendEntries(encoded, start, part)
		var n int64
		for i := range part {
			n += part[i].len
		}
		start += n
		pages = append(pages, extent{kind: kindPage, len: n, ref: chunkstore.Ref{Len: uint32(len(part) * entrySize)}})
	}
	w, err := s.chunks.Write(ctx, bytes.NewReader(encoded), chunkstore.WriteOptions{Size: int64(len(encoded)), Owner: owner})
	a.add(w)
	if err != nil {
		return nil, err
	}
	return pages, placePages(pages, w.Chunks)
}

// placePages tells each page the chunk that it landed in.
func placePages(pages []extent, chunks []chunkstore.Chunk) error {
	var off uint32
	for i := range pages {
		if len(chunks) > 0 && off == chunks[0].Size {
			chunks, off = chunks[1:], 0
		}
		n := pages[i].ref.Len
		if len(chunks) == 0 || off+n > chunks[0].Size {
			return fmt.Errorf("page %d of %d lies in no single chunk: %w", i, len(pages), ErrManifest)
		}
		pages[i].ref = chunkstore.Ref{Chunk: chunks[0], Off: off, Len: n}
		off += n
	}
	return nil
}

// source gives extents one after the other, then io.EOF.
type source interface {
	next(ctx context.Context) (extent, error)
}

// cursor walks the data and holes of a manifest inside lo..hi, reading only the pages that it needs.
type cursor struct {
	read   pageReader
	lo, hi int64
	stack  []level
	// page sees every page before it is read, for those that collect the index chunks. May be nil.
	page func(chunkstore.Ref)
}

// level is one level of a walk: the entries not yet visited.
type level struct {
	entries []placed
	height  int
}

// newCursor starts a walk over the bytes lo..hi of the manifest; an empty manifest has none.
func newCursor(manifest []byte, lo, hi int64, read pageReader) (*cursor, error) {
	c := &cursor{read: read, lo: lo, hi: hi}
	if len(manifest) == 0 {
		return c, nil
	}
	r, err := decodeRoot(manifest)
	if err != nil {
		return nil, err
	}
	c.push(r.entries, r.height)
	return c, nil
}

// push enters a level at the first entry that reaches beyond lo.
func (c *cursor) push(entries []placed, height int) {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].start+entries[i].len > c.lo })
	c.stack = append(c.stack, level{entries[i:], height})
}

func (c *cursor) next(ctx context.Context) (extent, error) {
	for len(c.stack) > 0 {
		top := &c.stack[len(c.stack)-1]
		if len(top.entries) == 0 || top.entries[0].start >= c.hi {
			c.stack = c.stack[:len(c.stack)-1]
			continue
		}
		e := top.entries[0]
		top.entries = top.entries[1:]
		if e.kind != kindPage {
			lo, hi := max(c.lo, e.start), min(c.hi, e.start+e.len)
			return e.clip(lo-e.start, hi-lo), nil
		}
		if err := c.descend(ctx, e, top.height-1); err != nil {
			return extent{}, err
		}
	}
	return extent{}, io.EOF
}

// descend reads the page e and enters it.
func (c *cursor) descend(ctx context.Context, e placed, height int) error {
	if c.page != nil {
		c.page(e.ref)
	}
	b, err := c.read(ctx, e.ref)
	if err != nil {
		return fmt.Errorf("read index chunk %v: %w", e.ref.ID, err)
	}
	entries, err := decodeEntries(b, e.start, e.len, height > 0)
	if err != nil {
		return fmt.Errorf("index chunk %v: %w", e.ref.ID, err)
	}
	c.push(entries, height)
	return nil
}

// readPage is the pageReader of the store.
func (s *Store) readPage(ctx context.Context, ref chunkstore.Ref) ([]byte, error) {
	b := make([]byte, ref.Len)
	if err := s.chunks.ReadAt(ctx, ref.Chunk, int64(ref.Off), b); err != nil {
		return nil, err
	}
	return b, nil
}

// used is the chunks that a manifest names: those with the object's bytes, and those with its index.
type used struct {
	data  map[chunkstore.ChunkID]chunkstore.Chunk
	index map[chunkstore.ChunkID]chunkstore.Chunk
	// order is the chunks in the order they were met, so that lists made of them are stable.
	order []chunkstore.Chunk
}

func newUsed() *used {
	return &used{data: map[chunkstore.ChunkID]chunkstore.Chunk{}, index: map[chunkstore.ChunkID]chunkstore.Chunk{}}
}

func (u *used) has(c chunkstore.ChunkID) bool {
	_, data := u.data[c]
	_, index := u.index[c]
	return data || index
}

func (u *used) addData(c chunkstore.Chunk) {
	if _, ok := u.data[c.ID]; !ok {
		u.data[c.ID] = c
		u.order = append(u.order, c)
	}
}

func (u *used) addIndex(c chunkstore.Chunk) {
	if _, ok := u.index[c.ID]; !ok {
		u.index[c.ID] = c
		u.order = append(u.order, c)
	}
}

// addManifest adds all chunks of a manifest.
func (u *used) addManifest(ctx context.Context, manifest []byte, read pageReader) error {
	c, err := newCursor(manifest, 0, maxSize, read)
	if err != nil {
		return err
	}
	c.page = func(r chunkstore.Ref) { u.addIndex(r.Chunk) }
	for {
		e, err := c.next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if e.kind == kindData {
			u.addData(e.ref.Chunk)
		}
	}
}
