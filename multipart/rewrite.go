package multipart

import (
	"context"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/chunkstore"
)

// pack writes the bytes at hand among extents into chunks, many into one chunk, and returns extents without any.
func (s *Store) pack(ctx context.Context, extents []extent, owner [16]byte, a *attempt) ([]extent, error) {
	var groups []group
	for i := range extents {
		if extents[i].kind == kindBytes {
			groups = append(groups, group{i, i + 1})
		}
	}
	return s.rewrite(ctx, extents, groups, owner, a)
}

// rewrite reads the groups one after the other, writes them as one stream, and puts references to it in their place.
func (s *Store) rewrite(ctx context.Context, extents []extent, groups []group, owner [16]byte, a *attempt) ([]extent, error) {
	if len(groups) == 0 {
		return extents, nil
	}
	var total int64
	lengths := make([]int64, len(groups))
	for i, g := range groups {
		for _, e := range extents[g.from:g.to] {
			lengths[i] += e.len
		}
		total += lengths[i]
	}
	r := newReader(ctx, s, &groupSource{extents: extents, groups: groups}, total, nil)
	w, err := s.chunks.Write(ctx, r, chunkstore.WriteOptions{Size: total, Owner: owner})
	a.add(w)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("write %d runs again: %w", len(groups), err)
	}
	if w.Size != total {
		return nil, fmt.Errorf("%d of %d bytes were stored: %w", w.Size, total, ErrIncompleteBody)
	}
	return splice(extents, groups, lengths, w.Chunks), nil
}

// splice replaces each group by spans of the chunks that hold the groups' bytes one after the other.
func splice(extents []extent, groups []group, lengths []int64, chunks []chunkstore.Chunk) []extent {
	var out list
	var off uint32 // in chunks[0]
	at := 0
	for i, g := range groups {
		for _, e := range extents[at:g.from] {
			out.add(e)
		}
		at = g.to
		for left := lengths[i]; left > 0; {
			n := uint32(min(left, int64(chunks[0].Size-off)))
			out.add(extent{kind: kindData, len: int64(n), ref: chunkstore.Ref{Chunk: chunks[0], Off: off, Len: n}})
			left -= int64(n)
			if off += n; off == chunks[0].Size {
				chunks, off = chunks[1:], 0
			}
		}
	}
	for _, e := range extents[at:] {
		out.add(e)
	}
	return out.extents
}

// groupSource gives the extents of the groups.
type groupSource struct {
	extents []extent
	groups  []group
	at      int // inside groups[0]
}

func (s *groupSource) next(context.Context) (extent, error) {
	for len(s.groups) > 0 {
		g := s.groups[0]
		if i := g.from + s.at; i < g.to {
			s.at++
			return s.extents[i], nil
		}
		s.groups, s.at = s.groups[1:], 0
	}
	return extent{}, io.EOF
}
