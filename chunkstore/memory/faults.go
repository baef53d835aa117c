package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
)

// Op names a method of the drive for the switches. Any stands for all of them.
type Op string

// The methods. OpList is Shards and Volumes.
const (
	Any      Op = ""
	OpPut    Op = "put"
	OpHeader Op = "header"
	OpRead   Op = "read"
	OpDelete Op = "delete"
	OpSeal   Op = "seal"
	OpList   Op = "list"
	OpCheck  Op = "check"
)

// fault is what a switch does to calls of one Op.
type fault struct {
	err   error
	delay time.Duration
	hang  chan struct{} // closed when the hanging ends; nil for none
	once  sync.Once
}

func (f *fault) lift() {
	if f.hang != nil {
		f.once.Do(func() { close(f.hang) })
	}
}

// Fail makes calls of op give err; a nil err ends that. It replaces Hang and Slow of the same op.
func (d *Drive) Fail(op Op, err error) { d.set(op, &fault{err: err}) }

// Slow makes calls of op wait first; zero ends that. The wait ends with the context, except in Put.
func (d *Drive) Slow(op Op, delay time.Duration) { d.set(op, &fault{delay: delay}) }

// Hang makes calls of op wait until release is called or the drive is closed. As on a real device that hangs, Put does
// not return when its context ends, because its cells may still be read; the other methods do return.
func (d *Drive) Hang(op Op) (release func()) {
	f := &fault{hang: make(chan struct{})}
	d.set(op, f)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.faults[op] == f {
			delete(d.faults, op)
		}
		f.lift()
	}
}

func (d *Drive) set(op Op, f *fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.faults[op]; old != nil {
		old.lift()
	}
	d.faults[op] = f
}

// Down makes the drive go away with cause until Return: every call gives ErrDriveDown, Status tells it.
func (d *Drive) Down(cause error) {
	if cause == nil {
		cause = chunkstore.ErrDriveDown
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = cause
}

// Return ends Down; what was stored before is there.
func (d *Drive) Return() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = nil
}

// SetFull makes Put give ErrFull, or ends that.
func (d *Drive) SetFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// SetPlace sets what Status tells of the drive: its name and its device.
func (d *Drive) SetPlace(name string, device uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.name, d.device = name, device
}

// Damage flips a bit of the stored payload at off. It tells whether the shard was there.
func (d *Drive) Damage(key chunkstore.ShardKey, off int64) bool {
	return d.change(key, func(r *record) {
		r.payload = slices.Clone(r.payload)
		r.payload[off] ^= 1
	})
}

// DamageHeader breaks the seal of a stored header. It tells whether the shard was there.
func (d *Drive) DamageHeader(key chunkstore.ShardKey) bool {
	return d.change(key, func(r *record) { r.forged = true })
}

// Lose drops a shard without a trace, as a lost write does. It tells whether the shard was there.
func (d *Drive) Lose(key chunkstore.ShardKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.shards[key]
	d.drop(key)
	return ok
}

func (d *Drive) change(key chunkstore.ShardKey, edit func(*record)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.shards[key]
	if ok {
		changed := *r
		edit(&changed)
		d.shards[key] = &changed
	}
	return ok
}

// Holds tells whether a shard is there, whatever the switches say.
func (d *Drive) Holds(key chunkstore.ShardKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.shards[key]
	return ok
}

// Calls tells how many calls of op were made; Any counts all.
func (d *Drive) Calls(op Op) int { return d.count(d.calls, op) }

// Fired tells how many calls of op met a switch (Fail, Slow, Hang, Down); Any counts all.
func (d *Drive) Fired(op Op) int { return d.count(d.fired, op) }

func (d *Drive) count(counts map[Op]int, op Op) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op != Any {
		return counts[op]
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

// BytesRead tells how many payload bytes Read returned or refused since New.
func (d *Drive) BytesRead() int64 { return d.read.Load() }

// enter counts a call and lets the switches act on it.
func (d *Drive) enter(ctx context.Context, op Op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	d.calls[op]++
	f := d.faults[op]
	if f == nil {
		f = d.faults[Any]
	}
	down := d.stopped()
	if down != nil || f != nil && (f.err != nil || f.delay > 0 || f.hang != nil) {
		d.fired[op]++
	}
	d.mu.Unlock()
	if down != nil || f == nil {
		return down
	}
	ended := ctx.Done()
	if op == OpPut {
		ended = nil
	}
	if f.hang != nil {
		select {
		case <-f.hang:
		case <-ended:
			return ctx.Err()
		}
	}
	if f.delay > 0 {
		timer := time.NewTimer(f.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ended:
			return ctx.Err()
		}
	}
	if f.err != nil {
		return fmt.Errorf("injected: %w", f.err)
	}
	return nil
}
