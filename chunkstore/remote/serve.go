package remote

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
)

// put receives a shard, verifies every leaf of it, and hands it to the drive.
func (x *exchange) put(r *reader) error {
	h := r.header()
	if err := r.end("put"); err != nil {
		return x.refuse(err)
	}
	allowed, done := x.ask(h.Key.Volume, Put)
	defer done()
	x.watch.Pause()
	b, err := x.handler.memory.take(x.r.Context(), h.Layout.Cell, int(h.Layout.Rows), x.handler.options.Silence)
	x.watch.Moved()
	if err != nil {
		return x.refuse(err)
	}
	defer b.release()
	for i, cell := range b.parts {
		if err := x.receive(cell); err != nil {
			return err
		}
		if err := h.VerifyPayload(int64(i)*h.Layout.Cell, cell); err != nil {
			return x.refuse(fmt.Errorf("arrived at the peer: %w", err))
		}
	}
	if err := x.expectEnd(); err != nil {
		return x.refuse(err)
	}
	x.watch.Pause()
	if err := <-allowed; err != nil {
		return x.answer(err, nil)
	}
	return x.answer(x.drive.Put(x.r.Context(), h, b.parts), nil)
}

// ask is may while something else goes on: the answer comes by the channel. done gives up the question if it is still
// under way, and waits until nobody asks any more.
func (x *exchange) ask(volume chunkstore.VolumeID, change Change) (allowed <-chan error, done func()) {
	ctx, cancel := context.WithCancel(x.r.Context())
	answer := make(chan error, 1)
	var asking sync.WaitGroup
	asking.Go(func() { answer <- x.may(ctx, volume, change) })
	return answer, func() {
		cancel()
		asking.Wait()
	}
}

// receive fills a cell, and shows the caller that it moves.
func (x *exchange) receive(cell []byte) error {
	for n := 0; n < len(cell); {
		m, err := x.body.Read(cell[n:])
		n += m
		if err != nil && n < len(cell) {
			return cutOff(err)
		}
		if m > 0 {
			if err := x.showAlive(); err != nil {
				return err
			}
		}
	}
	return nil
}

// read sends a header and the bytes asked for, piece by piece as the drive gives them.
func (x *exchange) read(ctx context.Context, r *reader) error {
	c, s := r.span()
	if err := r.end("read"); err != nil {
		return x.answer(err, nil)
	}
	key := chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: s.shard}
	h, err := x.drive.Header(ctx, key)
	if err != nil {
		return x.answer(err, nil)
	}
	b, err := x.handler.memory.take(ctx, max(min(s.n, maxPiece), 1), 1, x.handler.options.Silence)
	if err != nil {
		return x.answer(err, nil)
	}
	defer b.release()
	for sent := int64(0); ; {
		n := min(s.n-sent, maxPiece)
		part := b.parts[0][:n]
		if err := x.drive.Read(ctx, c, s.shard, s.off+sent, part); err != nil {
			return x.answer(err, nil)
		}
		// The head goes out with the first piece, so that most errors stand alone in their answer.
		x.frame = x.frame[:0]
		if sent == 0 {
			x.frame = x.appendAnswer(x.frame, nil, appendHeader(nil, h))
		}
		from := len(x.frame)
		x.frame = endFrame(le.AppendUint32(beginFrame(x.frame), uint32(n)), from, kindPiece)
		if n == s.n {
			x.announce(len(x.frame) + len(part))
		}
		if err := x.send(x.frame); err != nil {
			return err
		}
		if sent += n; sent == s.n {
			return x.finish(part)
		}
		if err := x.send(part); err != nil {
			return err
		}
	}
}

func (x *exchange) shards(ctx context.Context, r *reader) error {
	volume := chunkstore.VolumeID(r.u64())
	if err := r.end("shards"); err != nil {
		return x.answer(err, nil)
	}
	list, err := x.drive.Shards(ctx, volume)
	if err != nil {
		return x.answer(err, nil)
	}
	return sendRows(x, list, appendShardRow)
}

func (x *exchange) volumes(ctx context.Context, r *reader) error {
	if err := r.end("volumes"); err != nil {
		return x.answer(err, nil)
	}
	list, err := x.drive.Volumes(ctx)
	if err != nil {
		return x.answer(err, nil)
	}
	return sendRows(x, list, appendVolumeRow)
}

// sendRows sends a list in frames of rowsPerFrame rows, and the answer that ends it.
func sendRows[T any](x *exchange, list []T, appendRow func([]byte, T) []byte) error {
	for len(list) > 0 {
		n := min(len(list), rowsPerFrame)
		x.frame = beginFrame(x.frame[:0])
		for _, row := range list[:n] {
			x.frame = appendRow(x.frame, row)
		}
		x.frame = endFrame(x.frame, 0, kindRows)
		if err := x.send(x.frame); err != nil {
			return err
		}
		list = list[n:]
	}
	return x.answer(nil, nil)
}
