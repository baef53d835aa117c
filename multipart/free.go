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
			break
		}
		after = rows[len(rows)-1].Row
		p, err := s.freeBatch(ctx, rows)
		total.add(p)
		if err != nil {
			return total, err
		}
	}
	p, err := s.freeIndexes(ctx)
	total.add(p)
	return total, err
}

func (f *Freed) add(p Freed) {
	f.Rows += p.Rows
	f.Chunks += p.Chunks
	f.Left += p.Left
}

// freeBatch deletes the chunks with bytes, and then those with the index of what was deleted. Between the two the row
// goes and a row with the list of the index chunks takes its place: an index is not needed to find itself.
func (s *Store) freeBatch(ctx context.Context, rows []metadata.Freed) (Freed, error) {
	var p Freed
	trees := make([]*chunkTree, 0, len(rows))
	var chunks []chunkstore.Chunk
	for _, row := range rows {
		if row.Shared {
			continue
		}
		tree, err := s.treeOf(ctx, freedManifests(row, false))
		if err != nil {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			s.log.Warn("freed row waits", "bucket", row.Bucket, "err", err)
			p.Left++
			continue
		}
		tree.row = row.Row
		trees = append(trees, tree)
		chunks = append(chunks, tree.data...)
	}
	waiting, err := s.deleteChunks(ctx, chunks)
	if err != nil {
		return p, err
	}
	p.Chunks = len(chunks) - len(waiting)
	var done [][]byte
	for _, tree := range trees {
		if tree.anyOf(waiting) {
			p.Left++
			continue
		}
		if err := s.journalIndex(ctx, tree); err != nil {
			return p, err
		}
		done = append(done, tree.row)
	}
	if err := s.catalog.DropFreed(ctx, done); err != nil {
		return p, fmt.Errorf("drop %d freed rows: %w", len(done), err)
	}
	p.Rows = len(done)
	return p, nil
}

// deleteChunks deletes chunks and returns those that not every slot has confirmed.
func (s *Store) deleteChunks(ctx context.Context, chunks []chunkstore.Chunk) (map[chunkstore.ChunkID]bool, error) {
	if len(chunks) == 0 {
		return nil, nil
	}
	left, err := s.chunks.Delete(ctx, chunks)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && len(left) == 0 {
		return nil, fmt.Errorf("delete freed chunks: %w", err)
	}
	if len(left) > 0 {
		s.log.Debug("freed chunks wait for a drive", "chunks", len(left), "err", err)
	}
	waiting := make(map[chunkstore.ChunkID]bool, len(left))
	for _, c := range left {
		waiting[c.ID] = true
	}
	return waiting, nil
}

// freedIndexPrefix begins the keys of the rows that list index chunks of freed rows that are gone. The freed row's key
// follows; the value is a manifest.
const freedIndexPrefix = "freed-index/"

// journalIndex makes the list of a tree's index chunks durable.
func (s *Store) journalIndex(ctx context.Context, t *chunkTree) error {
	if len(t.index) == 0 {
		return nil
	}
	list, err := encodeChunkList(t.index)
	if err != nil {
		return fmt.Errorf("list index chunks of a freed row: %w", err)
	}
	_, err = s.catalog.PutRow(ctx, metadata.Row{Key: append([]byte(freedIndexPrefix), t.row...), Value: list})
	if err != nil && !errors.Is(err, metadata.ErrConflict) { // an earlier pass wrote the same list
		return fmt.Errorf("list index chunks of a freed row: %w", err)
	}
	return nil
}

// freeIndexes deletes the index chunks of freed rows that are gone.
func (s *Store) freeIndexes(ctx context.Context) (Freed, error) {
	var p Freed
	var after []byte
	for {
		rows, err := s.catalog.Rows(ctx, []byte(freedIndexPrefix), after, freeRows)
		if err != nil {
			return p, fmt.Errorf("list freed index chunks: %w", err)
		}
		if len(rows) == 0 {
			return p, nil
		}
		after = rows[len(rows)-1].Key
		for _, row := range rows {
			tree, err := s.treeOf(ctx, [][]byte{row.Value})
			if err != nil {
				return p, fmt.Errorf("freed index chunks: %w", err)
			}
			waiting, err := s.deleteChunks(ctx, tree.data)
			if err != nil {
				return p, err
			}
			p.Chunks += len(tree.data) - len(waiting)
			if len(waiting) > 0 {
				p.Left++
				continue
			}
			if err := s.catalog.DeleteRow(ctx, row.Key); err != nil {
				return p, fmt.Errorf("drop list of freed index chunks: %w", err)
			}
		}
	}
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

// chunkTree is the chunks that manifests lead to.
type chunkTree struct {
	row   []byte // of the freed row
	data  []chunkstore.Chunk
	index []chunkstore.Chunk
}

func (t *chunkTree) anyOf(waiting map[chunkstore.ChunkID]bool) bool {
	for _, c := range t.data {
		if waiting[c.ID] {
			return true
		}
	}
	return false
}

// treeOf collects the chunks of manifests.
func (s *Store) treeOf(ctx context.Context, manifests [][]byte) (*chunkTree, error) {
	u := newUsed()
	for _, manifest := range manifests {
		if err := u.addManifest(ctx, manifest, s.readPage); err != nil {
			return nil, err
		}
	}
	t := &chunkTree{}
	for _, c := range u.order {
		if _, index := u.index[c.ID]; index {
			t.index = append(t.index, c)
		} else {
			t.data = append(t.data, c)
		}
	}
	return t, nil
}
