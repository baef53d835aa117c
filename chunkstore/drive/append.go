package drive

import (
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// appendPuts writes the puts of one stream and syncs them. Each put ends with its place or its error.
func (d *Drive) appendPuts(s *stream, puts []*put) {
	page := vfs.Aligned(pageSize)
	for _, p := range puts {
		if err := d.appendPut(s, p, page); err != nil {
			p.err = writeError(err)
		}
	}
	d.sync(s)
}

// appendPut writes one record.
func (d *Drive) appendPut(s *stream, p *put, page []byte) error {
	f, err := d.prepare(s, p.length)
	if err != nil {
		return err
	}
	if err := d.reserveSpace(f, p.length); err != nil {
		if !isNoSpace(err) {
			d.kill(s, err)
		}
		return d.noteSpace(err)
	}
	offset := f.end
	d.seal.putShardHeader(page, f.header.file, offset, p.header)
	// Written or not, this region is never used again.
	f.end += p.length
	f.dirty = true
	buffers := append(make([][]byte, 0, len(p.cells)+1), page)
	if err := d.write(f, append(buffers, p.cells...), offset); err != nil {
		if !isNoSpace(err) {
			d.kill(s, err)
		}
		return d.noteSpace(err)
	}
	digest := p.header.Digest()
	p.at = location{file: f, entry: entry{chunk: p.header.Key.Chunk, offset: offset, length: p.length,
		size: p.header.Size, epoch: p.header.Epoch, digest: [16]byte(digest[:16])}}
	s.unsynced = append(s.unsynced, p)
	return nil
}

// noteSpace remembers that there is no space until the next look at it.
func (d *Drive) noteSpace(err error) error {
	if isNoSpace(err) {
		d.full.Store(true)
	}
	return err
}

// prepare returns the file that takes a record of length bytes, with its end where the record may stand.
func (d *Drive) prepare(s *stream, length int64) (*chunkFile, error) {
	if f := s.active; f != nil && f.end+length > d.fileSize && f.end > headerSize {
		d.sync(s)
		if s.active != nil {
			s.active = nil
			if err := d.endFile(f); err != nil {
				d.log.Warn("full chunk file not ended in order", "drive", d.name, "path", f.name, "err", err)
			}
		}
	}
	if s.active == nil {
		f, err := d.create(s)
		if err != nil {
			if !isNoSpace(err) {
				d.failed(err)
			}
			return nil, d.noteSpace(err)
		}
		d.mu.Lock()
		v := d.volume(s.key.volume)
		v.files = append(v.files, f)
		d.mu.Unlock()
		s.active = f
	}
	f := s.active
	if f.writer == nil {
		if err := d.openWriter(f, 0); err != nil {
			d.kill(s, err)
			return nil, err
		}
	}
	if at := f.boundary(length); at > 0 {
		return d.crossBoundary(s, at)
	}
	return f, nil
}

// endFile finishes a full file. Its records are durable already; without the index record it is scanned at Open.
func (d *Drive) endFile(f *chunkFile) error {
	if f.writer == nil {
		if err := d.openWriter(f, 0); err != nil {
			return err
		}
	}
	return d.finish(f)
}

// crossBoundary puts an index record at a multiple of segment. It lists what is durable, so the file is synced first.
func (d *Drive) crossBoundary(s *stream, at int64) (*chunkFile, error) {
	d.sync(s)
	f := s.active
	if f == nil {
		return nil, errFileDied
	}
	before := f.end
	f.end = at
	if err := d.writeIndex(f); err != nil {
		if isNoSpace(err) && f.end == at && !f.dirty {
			f.end = before // nothing was written
		} else {
			d.kill(s, err)
		}
		return nil, d.noteSpace(err)
	}
	f.from, f.entries = f.end, nil
	return f, nil
}

// errFileDied says that the sync of earlier records failed and took the file with it.
var errFileDied = errors.New("a sync of the chunk file failed")

// sync makes what the stream wrote durable, or fails all of it: after a failed sync nobody knows what the medium
// holds, and a second sync would lie.
func (d *Drive) sync(s *stream) {
	f := s.active
	if f == nil || !f.dirty {
		return
	}
	if err := f.writer.Sync(); err != nil {
		d.kill(s, fmt.Errorf("sync %s: %w", f.name, err))
		return
	}
	if err := d.checkName(f); err != nil {
		d.kill(s, err)
		return
	}
	f.dirty = false
	f.length.Store(f.end)
	f.footed = f.footed && len(s.unsynced) == 0
	for _, p := range s.unsynced {
		f.entries = append(f.entries, p.at.entry)
		f.known++
	}
	s.unsynced = s.unsynced[:0]
}

// kill ends a file after a failed write or sync: unsynced puts fail, the next put makes a new file.
func (d *Drive) kill(s *stream, err error) {
	d.log.Warn("chunk file takes no more writes", "drive", d.name, "path", s.active.name, "err", err)
	for _, p := range s.unsynced {
		p.err = writeError(err)
	}
	s.unsynced = s.unsynced[:0]
	d.logClose(s.active.name, s.active.retire())
	s.active = nil
	if isNoSpace(err) {
		d.full.Store(true)
	} else {
		d.failed(err)
	}
}
