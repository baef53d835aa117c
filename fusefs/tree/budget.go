package tree

import (
	"context"
	"sync"
)

// budget is a bound of bytes that many writers share. It never hands out more than it has: who asks for more than is
// free waits until others gave back.
type budget struct {
	mu   sync.Mutex
	size int64
	free int64
	// changed is closed and replaced whenever a waiter should look again.
	changed chan struct{}
}

func newBudget(size int64) *budget {
	return &budget{size: size, free: size, changed: make(chan struct{})}
}

// try takes n bytes if they are free.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free < n {
		return false
	}
	b.free -= n
	return true
}

// take waits for n bytes. Before each wait it calls pressure, which starts what will give bytes back or returns why
// nothing will.
func (b *budget) take(ctx context.Context, n int64, pressure func() error) error {
	for {
		b.mu.Lock()
		if b.free >= n {
			b.free -= n
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		if err := pressure(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give returns n bytes and wakes the waiters.
func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	b.free += n
	if b.free > b.size {
		b.mu.Unlock()
		panic("tree: more bytes given back to a budget than were taken")
	}
	b.mu.Unlock()
	b.wake()
}

// wake makes every waiter look again, for example because an upload failed.
func (b *budget) wake() {
	b.mu.Lock()
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
}

func (b *budget) used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size - b.free
}
