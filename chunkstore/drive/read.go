package drive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Header implements chunkstore.Drive.
func (d *Drive) Header(ctx context.Context, key chunkstore.ShardKey) (*chunkstore.Header, error) {
	var copied chunkstore.Header
	err := d.at(ctx, key, func(at location) error {
		h, err := d.header(at, key)
		if err == nil {
			copied = *h
			copied.Leaves = slices.Clone(h.Leaves)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("header of %v on %s: %w", key, d.name, err)
	}
	return &copied, nil
}

// Read implements chunkstore.Drive.
func (d *Drive) Read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	key := chunkstore.ShardKey{Volume: want.Volume, Chunk: want.ID, Shard: shard}
	err := d.at(ctx, key, func(at location) error {
		h, err := d.header(at, key)
		if err != nil {
			return err
		}
		if err := h.Verify(want); err != nil {
			return err
		}
		if off < 0 || off+int64(len(dst)) > h.Layout.ShardSize() {
			return fmt.Errorf("bytes %d to %d of a shard of %d: %w", off, off+int64(len(dst)), h.Layout.ShardSize(), errSpan)
		}
		if err := d.readAt(at, dst, off); err != nil {
			return err
		}
		return h.VerifyPayload(off, dst)
	})
	if err != nil {
		return fmt.Errorf("read %v on %s: %w", key, d.name, err)
	}
	return nil
}

// errSpan says that a reader asked for bytes that the shard does not have.
var errSpan = fmt.Errorf("span is outside of the shard: %w", chunkstore.ErrDamaged)

// Check implements chunkstore.Drive. It reads with direct I/O where that works, so that it sees the medium and not the
// page cache.
func (d *Drive) Check(ctx context.Context, key chunkstore.ShardKey) error {
	err := d.at(ctx, key, func(at location) error {
		r, err := d.openMedium(at.file)
		if err != nil {
			return err
		}
		h, err := d.readHeader(r, at)
		if err == nil && h.Key != key {
			err = fmt.Errorf("record of %v: %w", h.Key, errPage)
		}
		if err == nil {
			err = d.checkPayload(r, at, h)
		}
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return fmt.Errorf("check %v on %s: %w", key, d.name, err)
	}
	return nil
}

// at runs f on the record of a key. When f finds damage it looks whether the record was moved or deleted meanwhile, and
// counts the damage when it was not.
func (d *Drive) at(ctx context.Context, key chunkstore.ShardKey, f func(location) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := d.lookup(key)
	if err != nil {
		return err
	}
	for {
		err := f(at)
		if err == nil {
			return nil
		}
		now, gone := d.lookup(key)
		if gone != nil {
			return gone
		}
		if now == at {
			return d.explain(at, err)
		}
		at = now
	}
}

// explain turns what a read met into an error of the contract.
func (d *Drive) explain(at location, err error) error {
	if errors.Is(err, errSpan) {
		return err
	}
	if isMissing(err) {
		if home := d.checkHome(); home != nil {
			d.goDown(home)
			return d.downError()
		}
		d.damaged.Add(1)
		return fmt.Errorf("chunk file %s is gone: %w", at.file.name, chunkstore.ErrNotFound)
	}
	err = readError(err)
	if errors.Is(err, chunkstore.ErrDamaged) {
		d.damaged.Add(1)
		d.log.Warn("damage found", "drive", d.name, "path", at.file.name, "offset", at.offset, "err", err)
	}
	return err
}

// header returns the verified header of a record, which callers do not change.
func (d *Drive) header(at location, key chunkstore.ShardKey) (*chunkstore.Header, error) {
	where := place{file: at.file, offset: at.offset}
	if h := d.headers.get(where); h != nil {
		return h, nil
	}
	r, err := d.handles.open(at.file)
	if err != nil {
		return nil, err
	}
	defer r.release()
	h, err := d.readHeader(r, at)
	if err != nil {
		return nil, err
	}
	if h.Key != key {
		return nil, fmt.Errorf("record of %v: %w", h.Key, errPage)
	}
	d.headers.put(where, h)
	return h, nil
}

// readHeader reads the header page of a record.
func (d *Drive) readHeader(r vfs.File, at location) (*chunkstore.Header, error) {
	page := vfs.Aligned(pageSize)
	if n, err := r.ReadAt(page, at.offset); n < len(page) {
		return nil, err
	}
	h, err := d.seal.shardHeader(page, at.file.header.file, at.offset)
	if err != nil {
		return nil, err
	}
	if h.Key.Volume != at.file.header.volume || h.Key.Shard != at.file.header.shard || h.Key.Chunk != at.chunk ||
		pageSize+h.Layout.ShardSize() != at.length {
		return nil, fmt.Errorf("record is not the one of the index: %w", errPage)
	}
	return h, nil
}

func (d *Drive) readAt(at location, dst []byte, off int64) error {
	r, err := d.handles.open(at.file)
	if err != nil {
		return err
	}
	defer r.release()
	if n, err := r.ReadAt(dst, at.offset+pageSize+off); n < len(dst) {
		return err
	}
	return nil
}

// checkWindow is how much of a record a check reads at once, a multiple of the cell of every chunk above one row.
const checkWindow = 256 << 10

// checkPayload reads a whole payload and verifies it.
func (d *Drive) checkPayload(r vfs.File, at location, h *chunkstore.Header) error {
	size := h.Layout.ShardSize()
	window := vfs.Aligned(int(min(size, checkWindow)))
	for off := int64(0); off < size; off += int64(len(window)) {
		part := window[:min(int64(len(window)), size-off)]
		if n, err := r.ReadAt(part, at.offset+pageSize+off); n < len(part) {
			return err
		}
		if err := h.VerifyPayload(off, part); err != nil {
			return err
		}
	}
	return nil
}

// openMedium opens a chunk file for reading past the page cache where that works.
func (d *Drive) openMedium(f *chunkFile) (vfs.File, error) {
	if d.direct.Load() {
		r, err := d.fs.OpenFile(f.name, os.O_RDONLY|vfs.Direct, 0)
		if !errors.Is(err, vfs.ErrNoDirect) {
			return r, err
		}
	}
	return d.fs.OpenFile(f.name, os.O_RDONLY, 0)
}

// Shards implements chunkstore.Drive.
func (d *Drive) Shards(ctx context.Context, volume chunkstore.VolumeID) ([]chunkstore.ShardInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.down != nil {
		return nil, d.down
	}
	if v := d.volumes[volume]; v != nil {
		return v.list(volume), nil
	}
	return nil, nil
}

// Volumes implements chunkstore.Drive.
func (d *Drive) Volumes(ctx context.Context) ([]chunkstore.VolumeUse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.down != nil {
		return nil, d.down
	}
	var list []chunkstore.VolumeUse
	for id, v := range d.volumes {
		if len(v.files) == 0 {
			continue
		}
		use := chunkstore.VolumeUse{Volume: id, Shards: len(v.shards), Bytes: v.bytes}
		for _, f := range v.files {
			use.Length += f.length.Load()
		}
		list = append(list, use)
	}
	slices.SortFunc(list, func(a, b chunkstore.VolumeUse) int { return cmp.Compare(a.Volume, b.Volume) })
	return list, nil
}
