package chunkstore

import (
	"context"
	"errors"
	"io"
	"time"
)

var errEarly = errors.New("chunkstore: this slice holds the signatures only")

type volumeSet struct{ s *Store }

func newVolumeSet(s *Store) *volumeSet { return &volumeSet{s} }
func (v *volumeSet) run()              {}

type chunkIDs struct {
	lease func(context.Context) (uint64, error)
}
type latency struct{}
type counters struct{}
type damageLog struct{}

func newDamageLog(s *Store) *damageLog { return &damageLog{} }
func (d *damageLog) run()              {}

// Write reads r to its end and stores it as chunks of at most MaxChunk bytes. When it returns nil every chunk is
// durable on enough drives to survive the loss of any two; an empty body has no chunks. The caller commits the Intents
// together with whatever names the chunks. On an error nothing is stored: what was written is deleted again as far as
// it can be. ErrSlowDown: the drives or the memory could not take it.
func (s *Store) Write(ctx context.Context, r io.Reader, o WriteOptions) (Written, error) {
	return Written{}, errEarly
}

// Read streams n bytes from off of the concatenation of refs. Every byte was verified before it is given out. The
// reader's errors wrap ErrLost, naming the chunk, when too few shards are readable. Close ends the reading ahead and
// must be called; the reader also implements io.WriterTo, which saves a copy.
func (s *Store) Read(ctx context.Context, refs []Ref, off, n int64) io.ReadCloser { panic(errEarly) }

// ReadAt fills dst with the bytes of the chunk from off.
func (s *Store) ReadAt(ctx context.Context, c Chunk, off int64, dst []byte) error { return errEarly }

// Delete deletes chunks for ever on all their drives. left are the chunks that not every slot has confirmed; the
// caller keeps them and tries again later. err, when not nil, is why the first of them was left.
func (s *Store) Delete(ctx context.Context, chunks []Chunk) (left []Chunk, err error) {
	return chunks, errEarly
}

// Check reads every shard of a chunk whole and tells how each one is.
func (s *Store) Check(ctx context.Context, c Chunk) (CheckResult, error) {
	return CheckResult{}, errEarly
}

// Health tells how well everything that is stored is protected at this moment.
func (s *Store) Health(ctx context.Context) (Health, error) { return Health{}, errEarly }

// Stats returns the counters since the Store was made.
func (s *Store) Stats() Stats { return Stats{} }

var _ = time.Now
