package drive

import (
	"cmp"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// location is where a shard's record stands.
type location struct {
	file *chunkFile
	entry
}

// volumeIndex is what the drive knows of one volume. Guarded by Drive.mu.
type volumeIndex struct {
	shards  map[slot]location
	deleted map[slot]struct{}
	sealed  cluster.Epoch
	files   []*chunkFile
	bytes   int64 // of live records
}

func newVolumeIndex() *volumeIndex {
	return &volumeIndex{shards: map[slot]location{}, deleted: map[slot]struct{}{}}
}

// volume returns the index of a volume, made when missing. Callers hold mu.
func (d *Drive) volume(id chunkstore.VolumeID) *volumeIndex {
	v := d.volumes[id]
	if v == nil {
		v = newVolumeIndex()
		d.volumes[id] = v
	}
	return v
}

// insert makes a record the one of its slot and returns the record that it replaced. Callers hold mu.
func (d *Drive) insert(v *volumeIndex, at location) (old location, replaced bool) {
	where := slot{chunk: at.chunk, shard: at.file.header.shard}
	old, replaced = d.forget(v, where)
	v.shards[where] = at
	v.bytes += at.length
	at.file.live++
	d.shards++
	d.bytes += at.length
	return old, replaced
}

// forget takes a slot out of the index. Callers hold mu.
func (d *Drive) forget(v *volumeIndex, where slot) (old location, found bool) {
	old, found = v.shards[where]
	if !found {
		return location{}, false
	}
	delete(v.shards, where)
	v.bytes -= old.length
	old.file.live--
	d.shards--
	d.bytes -= old.length
	return old, true
}

// note applies a ledger note. It returns the record that a deletion took out of the index. Callers hold mu.
func (d *Drive) note(n note) (old location, found bool) {
	v := d.volume(n.volume)
	if n.kind == noteSealed {
		v.sealed = max(v.sealed, n.epoch)
		return location{}, false
	}
	v.deleted[n.slot] = struct{}{}
	return d.forget(v, n.slot)
}

// notes lists everything that a new ledger must say. Callers hold mu.
func (d *Drive) notes() []note {
	var list []note
	for id, v := range d.volumes {
		if v.sealed > 0 {
			list = append(list, note{kind: noteSealed, volume: id, epoch: v.sealed})
		}
		for where := range v.deleted {
			list = append(list, note{kind: noteDeleted, volume: id, slot: where})
		}
	}
	return list
}

// lookup finds a shard.
func (d *Drive) lookup(key chunkstore.ShardKey) (location, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.down != nil {
		return location{}, d.down
	}
	if v := d.volumes[key.Volume]; v != nil {
		if at, ok := v.shards[slot{chunk: key.Chunk, shard: key.Shard}]; ok {
			return at, nil
		}
	}
	return location{}, chunkstore.ErrNotFound
}

func compareSlots(a, b slot) int {
	return cmp.Or(cmp.Compare(a.chunk.Block, b.chunk.Block), cmp.Compare(a.chunk.Seq, b.chunk.Seq),
		cmp.Compare(a.shard, b.shard))
}

// list returns the shards of a volume in order. Callers hold mu.
func (v *volumeIndex) list(id chunkstore.VolumeID) []chunkstore.ShardInfo {
	rows := make([]chunkstore.ShardInfo, 0, len(v.shards))
	for where, at := range v.shards {
		rows = append(rows, chunkstore.ShardInfo{
			Key:    chunkstore.ShardKey{Volume: id, Chunk: where.chunk, Shard: where.shard},
			Epoch:  at.epoch,
			Size:   at.size,
			Digest: at.digest,
		})
	}
	slices.SortFunc(rows, func(a, b chunkstore.ShardInfo) int {
		return compareSlots(slot{a.Key.Chunk, a.Key.Shard}, slot{b.Key.Chunk, b.Key.Shard})
	})
	return rows
}
