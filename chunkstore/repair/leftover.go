package repair

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

const (
	// clearAgain is how often all drives are looked through for leftovers, beside those where some are expected: a worker
	// that lost its lead may have put the last one after its successor had looked.
	clearAgain = time.Hour
	// listWait is how long a drive is waited for that shall list its volumes.
	listWait = 10 * time.Second
)

// leftover says that a sealed volume's row names another drive for a shard, and does not mean to move it here.
func leftover(v chunkstore.Volume, shard uint8, id cluster.DriveID) bool {
	return v.State == chunkstore.VolumeSealed && v.Slots[shard] != id && v.Home[shard] != id
}

// clear deletes leftovers: copies that a move made and that its row, changed by another move or never changed, does not
// name. They are looked for where they may be.
func (w *Worker) clear(ctx context.Context, rows map[chunkstore.VolumeID]chunkstore.Volume) error {
	if time.Since(w.cleared) >= clearAgain {
		w.cleared = time.Now()
		for id := range w.seen {
			w.littered[id] = struct{}{}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(w.littered), func(a, b cluster.DriveID) int { return slices.Compare(a[:], b[:]) }) {
		d, up := w.seen[id]
		clean, err := true, error(nil) // a drive that is down is littered again when it returns
		if up {
			clean, err = w.clearDrive(ctx, d, rows)
		}
		if err != nil {
			return err
		}
		if clean {
			delete(w.littered, id)
		}
	}
	return nil
}

// clearDrive looks through the volumes of which a drive holds something. clean says that no leftover stayed.
func (w *Worker) clearDrive(ctx context.Context, d chunkstore.Drive, rows map[chunkstore.VolumeID]chunkstore.Volume) (clean bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, listWait)
	uses, err := d.Volumes(bounded)
	cancel()
	if err != nil {
		return false, ctx.Err()
	}
	clean = true
	for _, use := range uses {
		v, ok := rows[use.Volume]
		if !ok || v.State != chunkstore.VolumeSealed {
			continue // nothing is deleted because it seems missing, and open volumes do not move
		}
		_, strays := w.volumes[v.ID].strays[d.ID()]
		if !strays && (slices.Contains(v.Slots[:], d.ID()) || slices.Contains(v.Home[:], d.ID())) {
			continue
		}
		cleared, err := w.clearVolume(ctx, d.ID(), v.ID)
		if err != nil {
			return false, err
		}
		if cleared {
			delete(w.volumes[v.ID].strays, d.ID())
		}
		clean = clean && cleared
	}
	return clean, nil
}

// clearVolume deletes the leftovers of a volume on a drive, each after the copy that the row names was verified, or made
// from it. A chunk that was deleted there and that no other slot holds either is deleted here too.
func (w *Worker) clearVolume(ctx context.Context, id cluster.DriveID, volume chunkstore.VolumeID) (clean bool, err error) {
	v, err := w.config.Volumes.Volume(ctx, volume)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("row of volume %d: %w", volume, err)
	}
	infos, err := w.config.Store.ShardsOn(ctx, id, volume)
	if err != nil {
		return false, ctx.Err()
	}
	clean = true
	var jobs []job
	var keys, refused []chunkstore.ShardKey
	for _, info := range infos {
		if !leftover(v, info.Key.Shard, id) {
			continue
		}
		source, shard := v, int(info.Key.Shard)
		source.Slots[shard] = id
		chunk := chunkstore.Chunk{Volume: volume, ID: info.Key.Chunk, Size: info.Size, Digest: info.Digest}
		jobs = append(jobs, job{chunk, shard, source, v.Slots[shard], chunkstore.Shards, func(err error) {
			switch {
			case err == nil:
				keys = append(keys, info.Key)
			case errors.Is(err, chunkstore.ErrDeleted):
				refused = append(refused, info.Key)
			default:
				clean = false
			}
		}})
	}
	if err := w.restore(ctx, jobs); err != nil {
		return false, err
	}
	if len(refused) > 0 {
		s, err := w.survey(ctx, v)
		if err != nil {
			return false, err
		}
		for _, key := range refused {
			switch others := s.find(key.Chunk); {
			case s.answered == all && others == 0:
				keys = append(keys, key)
			case s.answered == all && bits.OnesCount16(others|1<<key.Shard) < placement.Data:
				// What is left of a chunk that nobody can read is for sweep, here too.
			default:
				clean = false
			}
		}
	}
	return w.clearKeys(ctx, id, v, keys, clean)
}

// clearKeys deletes leftovers if the row is still the one that they were found by.
func (w *Worker) clearKeys(ctx context.Context, id cluster.DriveID, v chunkstore.Volume, keys []chunkstore.ShardKey, clean bool) (bool, error) {
	if still, err := w.still(ctx, v); err != nil || !still {
		return false, err
	}
	if err := w.delete(ctx, id, keys); err != nil {
		return false, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Cleared += int64(len(keys))
	return clean, nil
}
