package repair

import (
	"cmp"
	"context"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

const all uint16 = 1<<chunkstore.Shards - 1

// surveyAgain is how old the count of a volume's chunks may be while a drive is down: only deletes change it.
const surveyAgain = time.Minute

// observe reads the volume rows and marks those dirty that a drive which came back may lack shards of, and those whose
// slots moved. At the first pass that is all of them: a drive may have been exchanged while the process was down. Drives
// that came back, and those that a row does not name any more, may hold leftovers.
func (w *Worker) observe(ctx context.Context) (map[chunkstore.VolumeID]chunkstore.Volume, error) {
	w.expire()
	up := make(map[cluster.DriveID]chunkstore.Drive)
	for _, d := range w.config.Drives.All() {
		if d.Status().Down == nil {
			up[d.ID()] = d
			if w.seen[d.ID()] != d {
				w.littered[d.ID()] = struct{}{}
			}
		}
	}
	rows := make(map[chunkstore.VolumeID]chunkstore.Volume)
	err := chunkstore.EachVolume(ctx, w.config.Volumes, func(v chunkstore.Volume) error {
		rows[v.ID] = v
		k := w.volumes[v.ID]
		if k == nil {
			k = &known{row: v}
			w.volumes[v.ID] = k
			k.dirty = w.seen == nil
		}
		w.compare(k.row, v)
		// Whoever moved slots, another worker included, and whatever befell it: what lies at the new places is looked at.
		k.dirty = k.dirty || k.row.Slots != v.Slots
		k.row, k.up = v, 0
		for i, id := range v.Slots {
			d, ok := up[id]
			if ok {
				k.up |= 1 << i
			}
			if ok && w.seen != nil && w.seen[id] != d {
				k.dirty = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id := range w.volumes {
		if _, ok := rows[id]; !ok {
			delete(w.volumes, id)
		}
	}
	w.seen = up
	return rows, nil
}

// compare notes the drives that a row named before and does not name now for the same slot.
func (w *Worker) compare(before, now chunkstore.Volume) {
	if before.Epoch == now.Epoch {
		return
	}
	for i := range chunkstore.Shards {
		for _, id := range []cluster.DriveID{before.Slots[i], before.Home[i]} {
			if id != now.Slots[i] && id != now.Home[i] {
				w.littered[id] = struct{}{}
			}
		}
	}
}

func order(rows map[chunkstore.VolumeID]chunkstore.Volume) []chunkstore.VolumeID {
	ids := make([]chunkstore.VolumeID, 0, len(rows))
	for id := range rows {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// holding is a chunk of a volume and the slots that hold it.
type holding struct {
	chunk chunkstore.Chunk
	slots uint16
}

// survey is what the slots of a volume list.
type survey struct {
	held     []holding                    // least redundancy first
	answered uint16                       // the slots that did answer
	gone     uint16                       // the slots on drives that do not return
	strays   map[cluster.DriveID]struct{} // drives of the volume that hold leftovers too
}

// find returns the slots that hold a chunk.
func (s survey) find(id chunkstore.ChunkID) uint16 {
	for _, h := range s.held {
		if h.chunk.ID == id {
			return h.slots
		}
	}
	return 0
}

// remains says that too few shards of a chunk can be there to rebuild the others, the slots that did not answer and may
// yet do so included.
func (s survey) remains(h holding) bool {
	return bits.OnesCount16(h.slots|all&^s.answered&^s.gone) < placement.Data
}

// survey lists a volume on every slot that is up.
func (w *Worker) survey(ctx context.Context, v chunkstore.Volume) (survey, error) {
	s := survey{strays: make(map[cluster.DriveID]struct{})}
	chunks := make(map[chunkstore.ChunkID]*holding)
	for i, id := range v.Slots {
		if slices.Index(v.Slots[:], id) < i {
			continue // the drive was listed for an earlier slot
		}
		infos, err := w.config.Store.ShardsOn(ctx, id, v.ID)
		if ctx.Err() != nil {
			return survey{}, ctx.Err()
		}
		mask := slotsOn(v, id)
		if err != nil {
			if w.config.Removed != nil && w.config.Removed(ctx, id) {
				s.gone |= mask
			}
			continue // it is counted as not answered
		}
		s.answered |= mask
		for _, info := range infos {
			if leftover(v, info.Key.Shard, id) {
				s.strays[id] = struct{}{}
				w.littered[id] = struct{}{}
			}
			if mask>>info.Key.Shard&1 == 0 {
				continue
			}
			h := chunks[info.Key.Chunk]
			if h == nil {
				h = &holding{chunk: chunkstore.Chunk{Volume: v.ID, ID: info.Key.Chunk, Size: info.Size, Digest: info.Digest}}
				chunks[info.Key.Chunk] = h
			}
			h.slots |= 1 << info.Key.Shard
		}
	}
	for _, h := range chunks {
		s.held = append(s.held, *h)
	}
	slices.SortFunc(s.held, func(a, b holding) int {
		return cmp.Or(cmp.Compare(losses(v, a.slots), losses(v, b.slots)),
			cmp.Compare(a.chunk.ID.Block, b.chunk.ID.Block), cmp.Compare(a.chunk.ID.Seq, b.chunk.ID.Seq))
	})
	return s, nil
}

func slotsOn(v chunkstore.Volume, id cluster.DriveID) uint16 {
	var mask uint16
	for i, slot := range v.Slots {
		if slot == id {
			mask |= 1 << i
		}
	}
	return mask
}

func losses(v chunkstore.Volume, shards uint16) int {
	return placement.Tolerates(placement.Slots(v.Slots), shards)
}

// task is an intent and the row of its volume.
type task struct {
	intent chunkstore.Intent
	volume chunkstore.Volume
	losses int
}

// intents returns the intents that something can be done for, least redundancy first.
func (w *Worker) intents(ctx context.Context, rows map[chunkstore.VolumeID]chunkstore.Volume) ([]task, error) {
	full := errors.New("enough for one pass")
	var tasks []task
	err := chunkstore.EachIntent(ctx, w.config.Volumes, func(in chunkstore.Intent) error {
		v, ok := rows[in.Chunk.Volume]
		if !ok {
			return nil // its volume is newer than the list of rows: the next pass
		}
		up := w.volumes[v.ID].up
		if in.Missing&up == 0 {
			return nil // no drive to restore to
		}
		tasks = append(tasks, task{in, v, losses(v, up&^in.Missing)})
		if len(tasks) >= intentsPerPass {
			return full
		}
		return nil
	})
	if err != nil && !errors.Is(err, full) {
		return nil, err
	}
	slices.SortStableFunc(tasks, func(a, b task) int { return cmp.Compare(a.losses, b.losses) })
	return tasks, nil
}

// count computes the exact number of under-protected chunks.
func (w *Worker) count(ctx context.Context) error {
	var p Progress
	whole := make(map[chunkstore.VolumeID]bool) // volumes of which every chunk counts already
	err := chunkstore.EachVolume(ctx, w.config.Volumes, func(v chunkstore.Volume) error {
		k := w.volumes[v.ID]
		if v.Slots != v.Home {
			p.Away++
		}
		switch {
		case k == nil: // opened since; writes count their own intents
		case k.up != all || v.DoubledUp():
			if k.epoch != v.Epoch || k.listed != k.up || v.State == chunkstore.VolumeOpen || time.Since(k.surveyed) > surveyAgain {
				s, err := w.survey(ctx, v)
				if err != nil {
					return err
				}
				k.note(v, s)
			}
			whole[v.ID] = true
			p.UnderProtected += k.chunks
		default:
			p.UnderProtected += int64(len(k.short))
		}
		if k != nil {
			p.Remains += k.remains
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = chunkstore.EachIntent(ctx, w.config.Volumes, func(in chunkstore.Intent) error {
		p.Intents++
		if whole[in.Chunk.Volume] {
			return nil
		}
		if k := w.volumes[in.Chunk.Volume]; k != nil {
			if _, ok := k.short[in.Chunk.ID]; ok {
				return nil
			}
		}
		p.UnderProtected++
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.UnderProtected, w.progress.Remains = p.UnderProtected, p.Remains
	w.progress.Away, w.progress.Intents = p.Away, p.Intents
	return nil
}
