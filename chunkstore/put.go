package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/placement"
)

const (
	// maxTries is how many volumes a chunk is offered to. Each failure takes at least one drive out of the next choice.
	maxTries = 8
	// patience is how long a chunk waits for drives without which it cannot be acknowledged, when all are slow alike.
	patience = 15 * time.Second
	// headerSpace is what a shard takes in a chunk file beside its payload.
	headerSpace = 4 << 10
)

// send stores a finished chunk and returns its reference and the shards that are not durable yet. Each try has an id
// of its own, and goes to another volume when the one before failed.
func (s *Store) send(ctx context.Context, out *outgoing, owner [16]byte) (Chunk, uint16, error) {
	var last error
	for try := range maxTries {
		if try > 0 {
			s.stats.retried.Add(1)
		}
		v, err := s.volumes.pick(ctx)
		if err != nil {
			if last != nil {
				err = fmt.Errorf("%w (before that: %w)", err, last)
			}
			return Chunk{}, 0, fmt.Errorf("store a chunk: %w", err)
		}
		id, err := s.ids.take(ctx)
		if err != nil {
			s.volumes.done(v, 0)
			return Chunk{}, 0, err
		}
		digest := ChunkDigest(id, uint32(out.size), &out.roots)
		chunk := Chunk{Volume: v.row.ID, ID: id, Size: uint32(out.size), Digest: [16]byte(digest[:16])}
		durable, err := s.offer(ctx, out, chunk, v.row, owner)
		s.volumes.done(v, out.layout.ShardSize()+headerSpace)
		if err == nil {
			missing := allShards &^ durable
			if missing != 0 {
				s.stats.short.Add(1)
			}
			s.stats.chunks.Add(1)
			return chunk, missing, nil
		}
		s.discard([]Chunk{chunk})
		if ctx.Err() != nil {
			return Chunk{}, 0, context.Cause(ctx)
		}
		s.volumes.retire(v)
		s.config.Log.Warn("chunk goes to another volume", "chunk", id.String(), "volume", v.row.ID, "err", err)
		last = err
	}
	return Chunk{}, 0, fmt.Errorf("store a chunk: %w: %w", last, ErrSlowDown)
}

// offer is one attempt to store a chunk: twelve puts at once and the decision when to stop waiting for them.
type offer struct {
	store *Store
	out   *outgoing
	slots placement.Slots
	// members are the drives asked, nil where one is missing.
	members [Shards]*member
	begun   time.Time
	// answers has room for all twelve, so a put never waits for the decision.
	answers chan putAnswer

	mu      sync.Mutex // guards pending and decided, which decide between "returned" and "hangs"
	pending uint16
	decided bool
}

type putAnswer struct {
	shard int
	err   error
}

// offer returns the mask of the durable shards once the ack rule holds and no drive is worth waiting for any more, or
// an error that says why the rule cannot hold.
func (s *Store) offer(ctx context.Context, out *outgoing, chunk Chunk, v Volume, owner [16]byte) (uint16, error) {
	o := &offer{
		store: s, out: out, slots: v.Slots, begun: time.Now(),
		answers: make(chan putAnswer, Shards), pending: allShards,
	}
	// admission ends with the decision, so a put that has not begun by then never begins; a put that has begun goes on
	// and may still become durable.
	admission, stop := context.WithCancel(s.life)
	defer stop()
	for i := range Shards {
		header := &Header{
			Key: ShardKey{Volume: chunk.Volume, Chunk: chunk.ID, Shard: uint8(i)}, Epoch: v.Epoch, Size: chunk.Size,
			Layout: out.layout, Owner: owner, Roots: out.roots, Leaves: out.leaves[i],
		}
		m := s.config.Drives.member(v.Slots[i])
		o.members[i] = m
		out.retain()
		if m == nil || !s.spawn(func() { o.put(admission, m, header) }) {
			out.release()
			o.members[i] = nil
			o.finish(i, fmt.Errorf("drive %v: %w", v.Slots[i], ErrDriveDown))
		}
	}
	durable, err := o.decide(ctx)
	o.close(err != nil && ctx.Err() == nil)
	return durable, err
}

// put writes one shard, and keeps the chunk's buffers until the drive is done with them.
func (o *offer) put(admission context.Context, m *member, header *Header) {
	defer o.out.release()
	shard, s := int(header.Key.Shard), o.store
	if !m.admit(admission, len(o.out.rows), s.budget.total/2) {
		o.finish(shard, fmt.Errorf("drive %v: too much under way: %w", m.drive.ID(), ErrDriveDown))
		return
	}
	defer m.leave(len(o.out.rows))
	begun := time.Now()
	err := m.drive.Put(s.life, header, o.out.cells[shard])
	switch {
	case err == nil:
		s.latency.add(time.Since(begun))
	case !isContext(err) && !errors.Is(err, ErrStaleVolume) && !errors.Is(err, ErrDeleted):
		m.failPut(s.config.Now())
	}
	o.finish(shard, err)
}

// finish records the end of a put. After the decision it only tells the drive's record that the put came back.
func (o *offer) finish(shard int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending &^= 1 << shard
	if !o.decided {
		o.answers <- putAnswer{shard, err}
	} else {
		o.members[shard].returnPut()
	}
}

// close marks the puts that are still pending as hanging on their drives. When the chunk is given up for them, their
// drives are avoided at once; else only when more of them hang.
func (o *offer) close(abandoned bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.decided = true
	now := o.store.config.Now()
	for i, m := range o.members {
		if o.pending>>i&1 == 0 {
			continue
		}
		m.hangPut(now)
		if abandoned {
			m.delayPut(now)
		}
	}
}

// decide waits for the puts: for all twelve, but once the rule holds, or cannot hold any more, only until a deadline.
func (o *offer) decide(ctx context.Context) (uint16, error) {
	var durable uint16
	var firstErr error
	var first, half, rule time.Duration // when one shard, half of them, and enough for the rule were durable
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for pending := allShards; pending != 0; {
		since := max(time.Since(o.begun), 1) // zero stands for not yet
		if first == 0 && durable != 0 {
			first = since
		}
		if half == 0 && 2*bits.OnesCount16(durable) >= Shards {
			half = since
		}
		if rule == 0 && placement.Acknowledge(o.slots, durable) {
			rule = since
		}
		hopeless := !placement.Acknowledge(o.slots, durable|pending)
		wait := o.deadline(first, half, rule, hopeless) - since
		if wait <= 0 {
			break
		}
		timer.Reset(wait)
		select {
		case a := <-o.answers:
			pending &^= 1 << a.shard
			if a.err == nil {
				durable |= 1 << a.shard
			} else if firstErr == nil {
				firstErr = fmt.Errorf("shard %d: %w", a.shard, a.err)
			}
		case <-timer.C:
		case <-ctx.Done():
			return durable, context.Cause(ctx)
		}
	}
	if placement.Acknowledge(o.slots, durable) {
		return durable, nil
	}
	if firstErr == nil {
		firstErr = fmt.Errorf("drives do not answer: %w", ErrDriveDown)
	}
	return durable, fmt.Errorf("%d of %d shards durable: %w", bits.OnesCount16(durable), Shards, firstErr)
}

// deadline returns when, counted from the beginning, the waiting ends if nothing more happens. first, half and rule
// are when one shard, half of them and enough for the rule were durable, zero for not yet. Drives that are all slow
// alike are waited for; those that are much slower than the others are not.
func (o *offer) deadline(first, half, rule time.Duration, hopeless bool) time.Duration {
	soft := o.store.config.PutDeadline
	if soft == 0 {
		soft = o.store.latency.deadline()
	}
	switch {
	case hopeless:
		return soft
	case rule > 0:
		return min(max(soft, 2*rule), rule+maxPutDeadline)
	case half > 0:
		return min(max(2*soft, 3*half), patience)
	case first > 0:
		return min(max(8*soft, 8*first), patience)
	}
	return patience
}

// discard deletes in the background, as far as it can, chunks that nothing will ever name. What stays is an orphan,
// which sweep finds.
func (s *Store) discard(chunks []Chunk) {
	var written []Chunk
	for _, c := range chunks {
		if c.Size > 0 {
			written = append(written, c)
		}
	}
	if len(written) == 0 {
		return
	}
	s.spawn(func() {
		left, err := s.Delete(s.life, written)
		if err != nil && s.life.Err() == nil {
			s.config.Log.Info("shards of a failed write stay until sweep", "chunks", len(left), "err", err)
		}
	})
}
