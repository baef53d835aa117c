package multipart

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

const (
	// freeRows is how many freed rows one round looks at: their chunks go to each drive as one delete.
	freeRows = 64
	// freePause is the time between two passes; freed chunks wait 15 minutes anyway.
	freePause = 15 * time.Second
	// freeRetry is the pause after a pass that had to leave rows because a drive is away.
	freeRetry = time.Minute
)

// Run does the background work until ctx ends: it deletes freed chunks and keeps the session of long readers alive.
// It returns nil when ctx ended.
func (s *Store) Run(ctx context.Context) error {
	defer s.closeSession()
	renew := time.NewTicker(sessionRenew)
	defer renew.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-renew.C:
			s.renewSession(ctx)
			s.holdOpen(ctx)
			continue
		case <-s.kick:
		case <-pause.C:
		}
		p, err := s.Free(ctx)
		next := freePause
		if err != nil || p.Left > 0 {
			next = freeRetry
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("freed chunks could not be deleted", "err", err)
		}
		if p.Rows > 0 {
			s.log.Debug("freed chunks deleted", "rows", p.Rows, "chunks", p.Chunks, "left", p.Left)
		}
		pause.Reset(next)
	}
}

// Kick lets Run look for freed chunks at once.
func (s *Store) Kick() {
	select {
	case s.kick <- struct{}{}:
	default: // it is about to look
	}
}

// Freed is what a pass of Free did.
type Freed struct {
	Rows   int // dropped, all their chunks confirmed deleted by every slot
	Chunks int // deleted
	Left   int // rows that wait for a drive
}

// Free deletes the chunks of all freed rows whose time has come, and drops the rows when every slot has confirmed. It
// may stop anywhere: a row that is still there is done again.
func (s *Store) Free(ctx context.Context) (Freed, error) {
	var total Freed
	var after []byte
	for {
		rows, err := s.catalog.Freed(ctx, after, freeRows, s.now())
		if err != nil {
			return total, fmt.Errorf("list freed chunks: %w", err)
		}
		if len(rows) == 0 {
			return total, nil
		}
		after = rows[len(rows)-1].Row
		p, err := s.freeBatch(ctx, rows)
		total.Rows += p.Rows
		total.Chunks += p.Chunks
		total.Left += p.Left
		if err != nil {
			return total, err
		}
	}
}

// freeBatch deletes level after level: chunks with bytes, then index chunks from the lowest up, so that whatever is
// left undeleted can still be found through the row.
func (s *Store) freeBatch(ctx context.Context, rows []metadata.Freed) (Freed, error) {
	var p Freed
	levels := make([][][]chunkstore.Chunk, len(rows)) // row, level, chunks
	height := 0
	for i, row := range rows {
		if row.Shared {
			continue
		}
		l, err := s.levelsOf(ctx, freedManifests(row, false), true)
		if err != nil {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			s.log.Warn("freed row waits", "bucket", row.Bucket, "err", err)
			p.Left++
			continue
		}
		levels[i] = l
		height = max(height, len(l))
	}
	for h := range height {
		n, err := s.freeLevel(ctx, levels, h, &p)
		p.Chunks += n
		if err != nil {
			return p, err
		}
	}
	var done [][]byte
	for i, row := range rows {
		if levels[i] != nil {
			done = append(done, row.Row)
		}
	}
	if len(done) == 0 {
		return p, nil
	}
	if err := s.catalog.DropFreed(ctx, done); err != nil {
		return p, fmt.Errorf("drop %d freed rows: %w", len(done), err)
	}
	p.Rows = len(done)
	return p, nil
}

// freeLevel deletes one level of all rows. Rows of which anything is left are taken out of levels.
func (s *Store) freeLevel(ctx context.Context, levels [][][]chunkstore.Chunk, h int, p *Freed) (int, error) {
	var chunks []chunkstore.Chunk
	for _, l := range levels {
		if h < len(l) {
			chunks = append(chunks, l[h]...)
		}
	}
	if len(chunks) == 0 {
		return 0, nil
	}
	left, err := s.chunks.Delete(ctx, chunks)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if len(left) == 0 {
		if err != nil {
			return 0, fmt.Errorf("delete freed chunks: %w", err)
		}
		return len(chunks), nil
	}
	s.log.Debug("freed chunks wait for a drive", "chunks", len(left), "err", err)
	waiting := make(map[chunkstore.ChunkID]bool, len(left))
	for _, c := range left {
		waiting[c.ID] = true
	}
	for i, l := range levels {
		if h >= len(l) {
			continue
		}
		for _, c := range l[h] {
			if waiting[c.ID] {
				levels[i] = nil
				p.Left++
				break
			}
		}
	}
	return len(chunks) - len(left), nil
}

// freedManifests returns the manifests that a freed row lists, those of shared parts only if asked for.
func freedManifests(row metadata.Freed, shared bool) [][]byte {
	manifests := [][]byte{row.Manifest}
	for _, part := range row.Parts {
		switch {
		case part.Shared && !shared:
		case part.Adopted:
			manifests = append(manifests, part.Rest)
		default:
			manifests = append(manifests, part.Manifest)
		}
	}
	return manifests
}

// levelsOf returns the chunks of manifests by level; level 0 holds the bytes. It is never nil. freed says that index
// chunks may be deleted already.
func (s *Store) levelsOf(ctx context.Context, manifests [][]byte, freed bool) ([][]chunkstore.Chunk, error) {
	w := &freeWalk{s: s, freed: freed, levels: make([][]chunkstore.Chunk, 1), seen: map[chunkstore.ChunkID]bool{}}
	for _, manifest := range manifests {
		if err := w.manifest(ctx, manifest); err != nil {
			return nil, err
		}
	}
	return w.levels, nil
}

// freeWalk collects the chunks of manifests, leaving out what lies below index chunks that are deleted already: an
// index chunk is deleted only after everything below it.
type freeWalk struct {
	s      *Store
	freed  bool
	levels [][]chunkstore.Chunk
	seen   map[chunkstore.ChunkID]bool
}

func (w *freeWalk) manifest(ctx context.Context, manifest []byte) error {
	if len(manifest) == 0 {
		return nil
	}
	r, err := decodeRoot(manifest)
	if err != nil {
		return err
	}
	return w.entries(ctx, r.entries, r.height)
}

func (w *freeWalk) entries(ctx context.Context, entries []placed, height int) error {
	for len(w.levels) <= height {
		w.levels = append(w.levels, nil)
	}
	for _, e := range entries {
		if e.kind == kindHole {
			continue
		}
		if !w.seen[e.ref.ID] {
			w.seen[e.ref.ID] = true
			w.levels[height] = append(w.levels[height], e.ref.Chunk)
		}
		if e.kind != kindPage {
			continue
		}
		if err := w.page(ctx, e, height-1); err != nil {
			return err
		}
	}
	return nil
}

func (w *freeWalk) page(ctx context.Context, e placed, height int) error {
	b, err := w.s.readPage(ctx, e.ref)
	if err != nil {
		if w.freed && w.s.gone(ctx, e.ref.Chunk, err) {
			return nil
		}
		return fmt.Errorf("read index chunk %v: %w", e.ref.ID, err)
	}
	below, err := decodeEntries(b, e.start, e.len, height > 0)
	if err != nil {
		return fmt.Errorf("index chunk %v: %w", e.ref.ID, err)
	}
	return w.entries(ctx, below, height)
}

// gone tells whether a chunk that could not be read is not on any of its twelve slots, all of which answered.
func (s *Store) gone(ctx context.Context, c chunkstore.Chunk, err error) bool {
	if !errors.Is(err, chunkstore.ErrLost) && !errors.Is(err, chunkstore.ErrNotFound) {
		return false
	}
	r, err := s.chunks.Check(ctx, c)
	if err != nil {
		return errors.Is(err, chunkstore.ErrNotFound) // the volume was dropped because nothing is left in it
	}
	return r.Missing == 1<<chunkstore.Shards-1
}
