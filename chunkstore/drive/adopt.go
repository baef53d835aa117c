package drive

import (
	"errors"
	"os"
	"slices"
)

// adopt puts the records of a scanned file into the index.
func (d *Drive) adopt(name chunkFileName, s scanned) {
	// The number of a file that is unreadable is spent as well.
	stream := d.stream(name.key)
	stream.generation = max(stream.generation, name.generation+1)
	if s.file == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volume(name.key.volume)
	v.files = append(v.files, s.file)
	s.file.known = len(s.indexed) + len(s.tail)
	for _, e := range s.indexed {
		if e.offset+e.length > s.file.end {
			d.damaged.Add(1) // the file was cut
			continue
		}
		d.admit(v, location{s.file, e}, false)
	}
	for _, e := range s.tail {
		if !d.admit(v, location{s.file, e}, true) {
			// It must not get into the next index record, which is believed without another look.
			s.file.entries = slices.DeleteFunc(s.file.entries, func(other entry) bool { return other == e })
		}
	}
}

// admit inserts a record unless it was deleted. A record of the tail may be torn, so one that would replace an earlier
// record of the same shard is read first; false means that it was torn. Callers hold mu; Open does not share the drive yet, so I/O is harmless.
func (d *Drive) admit(v *volumeIndex, at location, tail bool) bool {
	where := slot{chunk: at.chunk, shard: at.file.header.shard}
	if _, deleted := v.deleted[where]; deleted {
		d.remains = append(d.remains, at)
		return true
	}
	if _, there := v.shards[where]; there && tail {
		if err := d.verify(at); err != nil {
			return false
		}
	}
	if old, replaced := d.insert(v, at); replaced {
		d.remains = append(d.remains, old)
	}
	return true
}

// verify reads a whole record and checks all of it.
func (d *Drive) verify(at location) error {
	r, err := d.handles.open(at.file)
	if err != nil {
		return err
	}
	defer r.release()
	h, err := d.readHeader(r, at)
	if err != nil {
		return err
	}
	return d.checkPayload(r, at, h)
}

// stream returns the stream of a key, made when missing. Only Open and the committer call it.
func (d *Drive) stream(key fileKey) *stream {
	s := d.streams[key]
	if s == nil {
		s = &stream{key: key}
		d.streams[key] = s
	}
	return s
}

// settle ends the loading: what deletions cut off by a crash left behind is punched, files without a live record go,
// and the newest file of each shard becomes the one that takes appends, if it may.
func (d *Drive) settle() {
	for _, at := range d.remains {
		d.clearRemains(at)
	}
	d.remains = nil
	for id, v := range d.volumes {
		for _, f := range slices.Clone(v.files) {
			s := d.stream(fileKey{volume: id, shard: f.header.shard})
			newest := f.header.generation+1 == s.generation
			switch {
			case f.live == 0 && f.known > 0 && (v.sealed > 0 || !newest):
				d.drop(v, f)
			case newest && f.end < d.fileSize && len(f.entries) < maxIndexEntries/2:
				s.active = f
			}
		}
		if len(v.files) == 0 && v.sealed > 0 {
			clear(v.deleted) // as drop does: the ledger still says what an earlier process need not remember any more
		}
	}
	notes := int64(len(d.notes()))
	d.ledger.needed = headerSize + (notes+notesPerPage-1)/notesPerPage*2*pageSize
}

// clearRemains punches a record that is dead if its header still stands.
func (d *Drive) clearRemains(at location) {
	r, err := d.handles.open(at.file)
	if err == nil {
		_, err = d.readHeader(r, at)
		r.release()
	}
	if err == nil {
		d.punch(at)
	}
}

// punch gives the space of a dead record back. When that fails the space is lost until the file goes; the ledger
// keeps the record dead.
func (d *Drive) punch(at location) {
	w, err := d.fs.OpenFile(at.file.name, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(w.PunchHole(at.offset, at.length), w.Close())
	}
	if err != nil && !isMissing(err) {
		d.log.Warn("space not given back", "drive", d.identity.Name, "path", at.file.name, "err", err)
	}
}

// drop removes a chunk file that has no live record. The deletions are durable, so it does not matter whether a crash
// brings the file back. When the last file of a sealed volume has gone for good, its deleted shards need not be
// remembered.
func (d *Drive) drop(v *volumeIndex, f *chunkFile) {
	err := d.fs.Remove(f.name)
	if isMissing(err) {
		err = nil
	}
	if err := errors.Join(f.retire(), err); err != nil {
		d.log.Warn("empty chunk file not removed", "drive", d.identity.Name, "path", f.name, "err", err)
		return
	}
	d.handles.forget(f)
	if s := d.stream(fileKey{volume: f.header.volume, shard: f.header.shard}); s.active == f {
		s.active = nil
	}
	d.mu.Lock()
	v.files = slices.DeleteFunc(v.files, func(other *chunkFile) bool { return other == f })
	last := len(v.files) == 0 && v.sealed > 0
	d.mu.Unlock()
	if !last {
		return
	}
	// Files that a crash brought back would have nothing that says they are deleted, once a new ledger is written.
	if err := d.fs.SyncDir(d.volumeDir(f.header.volume)); err != nil {
		d.log.Warn("deleted shards stay remembered", "drive", d.identity.Name, "path", d.volumeDir(f.header.volume), "err", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(v.deleted)
}
