package storetest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/cluster"
)

// Link is a drive as one peer sees it: the path to it can be cut, while other peers still reach the drive. A call that
// is under way when the path is cut does its work on the drive, and its answer is lost.
type Link struct {
	Drive *memory.Drive
	cut   atomic.Bool
	lost  atomic.Int64
}

var _ chunkstore.Drive = (*Link)(nil)

// Cut cuts the path, or ends that.
func (l *Link) Cut(cut bool) { l.cut.Store(cut) }

// Lost tells how many calls met a path that was cut, before or after they reached the drive.
func (l *Link) Lost() int64 { return l.lost.Load() }

func (l *Link) down() error {
	if !l.cut.Load() {
		return nil
	}
	return fmt.Errorf("the path to it is cut: %w", chunkstore.ErrDriveDown)
}

// over makes a call over the path.
func over[T any](l *Link, f func() (T, error)) (T, error) {
	var none T
	if err := l.down(); err != nil {
		l.lost.Add(1)
		return none, err
	}
	value, err := f()
	if e := l.down(); e != nil {
		l.lost.Add(1)
		return none, e
	}
	return value, err
}

func (l *Link) do(f func() error) error {
	_, err := over(l, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// ID implements chunkstore.Drive.
func (l *Link) ID() cluster.DriveID { return l.Drive.ID() }

// Put implements chunkstore.Drive.
func (l *Link) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	return l.do(func() error { return l.Drive.Put(ctx, h, cells) })
}

// Header implements chunkstore.Drive.
func (l *Link) Header(ctx context.Context, key chunkstore.ShardKey) (*chunkstore.Header, error) {
	return over(l, func() (*chunkstore.Header, error) { return l.Drive.Header(ctx, key) })
}

// Read implements chunkstore.Drive.
func (l *Link) Read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	return l.do(func() error { return l.Drive.Read(ctx, want, shard, off, dst) })
}

// Delete implements chunkstore.Drive.
func (l *Link) Delete(ctx context.Context, keys []chunkstore.ShardKey) error {
	return l.do(func() error { return l.Drive.Delete(ctx, keys) })
}

// Seal implements chunkstore.Drive.
func (l *Link) Seal(ctx context.Context, volume chunkstore.VolumeID, epoch cluster.Epoch) error {
	return l.do(func() error { return l.Drive.Seal(ctx, volume, epoch) })
}

// Shards implements chunkstore.Drive.
func (l *Link) Shards(ctx context.Context, volume chunkstore.VolumeID) ([]chunkstore.ShardInfo, error) {
	return over(l, func() ([]chunkstore.ShardInfo, error) { return l.Drive.Shards(ctx, volume) })
}

// Volumes implements chunkstore.Drive.
func (l *Link) Volumes(ctx context.Context) ([]chunkstore.VolumeUse, error) {
	return over(l, func() ([]chunkstore.VolumeUse, error) { return l.Drive.Volumes(ctx) })
}

// Check implements chunkstore.Drive.
func (l *Link) Check(ctx context.Context, key chunkstore.ShardKey) error {
	return l.do(func() error { return l.Drive.Check(ctx, key) })
}

// Status implements chunkstore.Drive.
func (l *Link) Status() chunkstore.DriveStatus {
	status := l.Drive.Status()
	if err := l.down(); err != nil {
		status.Down = err
	}
	return status
}

// Close implements chunkstore.Drive. The drive is not the link's to close.
func (l *Link) Close() error { return nil }
