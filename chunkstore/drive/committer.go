package drive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	// maxBatch and maxBatchBytes bound what one batch takes: more would make the first wait for the last.
	maxBatch      = 256
	maxBatchBytes = 32 << 20
	// maxWriters is how many chunk files of a drive are written and synced at once.
	maxWriters = 4
	// usageBytes and usageAge say how old the knowledge of free space may be when a Put is let in.
	usageBytes = 64 << 20
	usageAge   = time.Second
	// footerFrom is how many records make it worth to end a file with an index at Close: fewer are scanned as fast.
	footerFrom = 64
)

// request is one thing that the committer shall do: a put, or notes for the ledger.
type request struct {
	put   *put
	notes []note
	state atomic.Int32
	done  chan error // takes one answer
}

// put is a shard on its way to a file.
type put struct {
	header *chunkstore.Header
	cells  [][]byte
	length int64 // of the record
	at     location
	err    error
}

// States of a request. The committer takes it or the caller withdraws it, never both.
const (
	waiting = iota
	taken
	withdrawn
)

// Put implements chunkstore.Drive.
func (d *Drive) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	if err := validate(h); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	var size int64
	for _, cell := range cells {
		if !vfs.IsAligned(cell) {
			return fmt.Errorf("put %v: a cell is not aligned to %d bytes: %w", h.Key, vfs.Align, errHeader)
		}
		size += int64(len(cell))
	}
	if size != h.Layout.ShardSize() {
		return fmt.Errorf("put %v: %d bytes for a shard of %d: %w", h.Key, size, h.Layout.ShardSize(), errHeader)
	}
	err := d.submit(ctx, &request{put: &put{header: h, cells: cells, length: pageSize + size}})
	if err != nil {
		return fmt.Errorf("put %v on %s: %w", h.Key, d.name, err)
	}
	return nil
}

// Delete implements chunkstore.Drive.
func (d *Drive) Delete(ctx context.Context, keys []chunkstore.ShardKey) error {
	notes := make([]note, len(keys))
	for i, key := range keys {
		if key.Shard >= chunkstore.Shards {
			return fmt.Errorf("delete %v: %w", key, errHeader)
		}
		notes[i] = note{kind: noteDeleted, volume: key.Volume, slot: slot{chunk: key.Chunk, shard: key.Shard}}
	}
	if len(notes) == 0 {
		return d.downError()
	}
	if err := d.submit(ctx, &request{notes: notes}); err != nil {
		return fmt.Errorf("delete %d shards on %s: %w", len(keys), d.name, err)
	}
	return nil
}

// Seal implements chunkstore.Drive.
func (d *Drive) Seal(ctx context.Context, volume chunkstore.VolumeID, epoch cluster.Epoch) error {
	if err := d.submit(ctx, &request{notes: []note{{kind: noteSealed, volume: volume, epoch: epoch}}}); err != nil {
		return fmt.Errorf("seal volume %d on %s: %w", volume, d.name, err)
	}
	return nil
}

// submit hands a request to the committer and waits for its end.
func (d *Drive) submit(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.done = make(chan error, 1)
	select {
	case d.queue <- r:
	case <-d.stopping:
		return d.downError()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-d.stopping:
		if r.state.CompareAndSwap(waiting, withdrawn) {
			return d.downError()
		}
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, withdrawn) {
			return ctx.Err()
		}
	}
	return <-r.done
}

// run is the committer.
func (d *Drive) run() {
	for {
		select {
		case <-d.stopping:
			d.conclude()
			return
		case first := <-d.queue:
			d.commit(d.gather(first))
		}
	}
}

// gather takes what waits in the queue, within the bounds of a batch.
func (d *Drive) gather(first *request) []*request {
	var batch []*request
	var bytes int64
	for r := first; ; {
		if r.state.CompareAndSwap(waiting, taken) {
			batch = append(batch, r)
			if r.put != nil {
				bytes += r.put.length
			}
		}
		if len(batch) >= maxBatch || bytes >= maxBatchBytes {
			return batch
		}
		select {
		case r = <-d.queue:
		default:
			return batch
		}
	}
}

// conclude ends the files in good order after a Close; after a failure it leaves them alone.
func (d *Drive) conclude() {
	if !errors.Is(d.downError(), errClosed) || d.checkHome() != nil {
		return
	}
	for _, s := range d.streams {
		f := s.active
		if f == nil {
			continue
		}
		s.active = nil
		if err := d.concludeFile(f); err != nil {
			d.log.Warn("chunk file not ended in order", "drive", d.name, "path", f.name, "err", err)
		}
	}
}

func (d *Drive) concludeFile(f *chunkFile) error {
	if len(f.entries) >= footerFrom && !f.footed {
		return d.endFile(f)
	}
	if f.writer == nil {
		return nil
	}
	return errors.Join(f.writer.Truncate(f.end), f.retire())
}

// batchPlan is what a batch comes to.
type batchPlan struct {
	accepted []*request
	notes    []note
	puts     map[*stream][]*put
	bytes    int64
}

// commit does a batch: decide, write and sync, look whether the drive is still there, update the index, answer.
func (d *Drive) commit(batch []*request) {
	p := d.plan(batch)
	ledgerErr := d.writePlan(p)
	d.written += p.bytes
	if err := d.checkHome(); err != nil {
		d.goDown(err)
		for _, r := range p.accepted {
			r.done <- d.downError()
		}
		return
	}
	dead := d.apply(p, ledgerErr)
	for _, at := range dead {
		d.punch(at)
	}
	d.dropEmpty(p, dead)
	for _, r := range p.accepted {
		switch {
		case r.put != nil:
			r.done <- r.put.err
		case ledgerErr != nil:
			r.done <- writeError(ledgerErr)
		default:
			r.done <- nil
		}
	}
}

// plan decides about each request in order. Those refused are answered here.
func (d *Drive) plan(batch []*request) *batchPlan {
	if d.written > usageBytes || time.Since(d.checked) > usageAge {
		if err := d.refreshUsage(); err != nil {
			d.log.Warn("free space not known", "drive", d.name, "err", err)
		}
		d.written, d.checked = 0, time.Now()
	}
	p := &batchPlan{puts: map[*stream][]*put{}}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range batch {
		if r.put == nil {
			for _, n := range r.notes {
				d.mark(n)
			}
			p.notes = append(p.notes, r.notes...)
		} else if err := d.refuse(r.put.header); err != nil {
			r.done <- err
			continue
		} else {
			key := r.put.header.Key
			s := d.stream(fileKey{volume: key.Volume, shard: key.Shard})
			p.puts[s] = append(p.puts[s], r.put)
			p.bytes += r.put.length
		}
		p.accepted = append(p.accepted, r)
	}
	return p
}

// refuse tells why a shard may not be written, nil when it may. Callers hold mu.
func (d *Drive) refuse(h *chunkstore.Header) error {
	if v := d.volumes[h.Key.Volume]; v != nil {
		if _, ok := v.deleted[slot{chunk: h.Key.Chunk, shard: h.Key.Shard}]; ok {
			return chunkstore.ErrDeleted
		}
		if h.Epoch < v.sealed {
			return fmt.Errorf("epoch %d, sealed at %d: %w", h.Epoch, v.sealed, chunkstore.ErrStaleVolume)
		}
	}
	if d.full.Load() {
		return chunkstore.ErrFull
	}
	return nil
}

// mark notes a deletion or a seal, so that later puts are refused and a new ledger says it. The shard itself leaves
// the index only when the note is durable. The mark stays when the ledger fails: nobody knows then whether the note
// comes back at the next Open, so a put acknowledged after it could be lost. Callers hold mu.
func (d *Drive) mark(n note) {
	v := d.volume(n.volume)
	if n.kind == noteSealed {
		v.sealed = max(v.sealed, n.epoch)
	} else {
		v.deleted[n.slot] = struct{}{}
	}
}

// writePlan writes and syncs the ledger and all files of a plan.
func (d *Drive) writePlan(p *batchPlan) (ledgerErr error) {
	var group sync.WaitGroup
	if len(p.notes) > 0 {
		group.Go(func() { ledgerErr = d.appendNotes(p.notes) })
	}
	free := make(chan struct{}, maxWriters)
	for s, puts := range p.puts {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			d.appendPuts(s, puts)
		})
	}
	group.Wait()
	return ledgerErr
}

// apply updates the index in the order of the requests. It returns the records that are dead now.
func (d *Drive) apply(p *batchPlan, ledgerErr error) (dead []location) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range p.accepted {
		if r.put != nil && r.put.err == nil {
			v := d.volume(r.put.header.Key.Volume)
			if old, replaced := d.insert(v, r.put.at); replaced {
				dead = append(dead, old)
			}
		}
		if ledgerErr != nil {
			continue
		}
		for _, n := range r.notes {
			if old, found := d.note(n); found {
				dead = append(dead, old)
			}
		}
	}
	return dead
}

// dropEmpty removes the files that lost their last record in this batch and take no more.
func (d *Drive) dropEmpty(p *batchPlan, dead []location) {
	touched := map[*chunkFile]struct{}{}
	for _, at := range dead {
		touched[at.file] = struct{}{}
	}
	d.mu.RLock()
	for _, n := range p.notes {
		if n.kind == noteSealed {
			for _, f := range d.volumes[n.volume].files {
				touched[f] = struct{}{}
			}
		}
	}
	var empty []*chunkFile
	for f := range touched {
		v := d.volumes[f.header.volume]
		active := d.streams[fileKey{volume: f.header.volume, shard: f.header.shard}].active == f
		if f.live == 0 && f.known > 0 && (v.sealed > 0 || !active) {
			empty = append(empty, f)
		}
	}
	d.mu.RUnlock()
	for _, f := range empty {
		d.drop(d.volumes[f.header.volume], f)
	}
}
