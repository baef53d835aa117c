package multipart

import (
	"bytes"
	"context"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

// Named is a chunk that a name leads to. A chunk that several names lead to is reported for each of them.
type Named struct {
	Chunk chunkstore.Chunk
	Index bool // it holds a part of a manifest
	// At is where the name stands: exactly one of its pointers Version, Part, Freed, Stage and Row is set.
	At metadata.Surveyed
	// Err, when not nil, says why the manifest at this place cannot be read; Chunk is then zero. Its chunks are not
	// reported, so a caller must not take the ones that are missing for orphans.
	Err error
}

// Survey walks all names and reports every chunk that one of them leads to: versions, parts, freed rows that wait for
// their time or for sweep, and staged files. It is what fsck compares the drives with.
func (s *Store) Survey(ctx context.Context, fn func(Named) error) error {
	return s.catalog.Survey(ctx, func(at metadata.Surveyed) error {
		for _, manifest := range manifestsAt(at) {
			if err := s.surveyManifest(ctx, manifest, at, fn); err != nil {
				return fmt.Errorf("survey %q: %w", at.Key, err)
			}
		}
		return nil
	})
}

// manifestsAt returns the manifests of a row. An adopted part owns its Rest only; the version names the others.
func manifestsAt(at metadata.Surveyed) [][]byte {
	switch {
	case at.Version != nil:
		return [][]byte{at.Version.Manifest}
	case at.Part != nil && at.Part.Adopted:
		return [][]byte{at.Part.Rest}
	case at.Part != nil:
		return [][]byte{at.Part.Manifest}
	case at.Freed != nil:
		return freedManifests(*at.Freed, true)
	case at.Stage != nil:
		return [][]byte{at.Stage.Put.Version.Manifest, at.Stage.Own}
	case at.Row != nil && bytes.HasPrefix(at.Row.Key, []byte(freedIndexPrefix)):
		return [][]byte{at.Row.Value}
	}
	return nil
}

func (s *Store) surveyManifest(ctx context.Context, manifest []byte, at metadata.Surveyed, fn func(Named) error) error {
	t, err := s.treeOf(ctx, [][]byte{manifest})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fn(Named{At: at, Err: err})
	}
	for _, c := range t.data {
		if err := fn(Named{Chunk: c, At: at}); err != nil {
			return err
		}
	}
	for _, c := range t.index {
		if err := fn(Named{Chunk: c, Index: true, At: at}); err != nil {
			return err
		}
	}
	return nil
}
