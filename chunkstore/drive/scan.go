package drive

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// scanWorkers is how many chunk files Open reads at once; a device does little more than that in parallel.
const scanWorkers = 4

// scanned is what one chunk file holds.
type scanned struct {
	file *chunkFile
	// indexed are entries from index records, tail those found by their headers behind the last index record.
	indexed, tail []entry
	err           error
}

// loadFiles reads all chunk files into the index.
func (d *Drive) loadFiles() error {
	names, err := d.chunkFileNames()
	if err != nil {
		return err
	}
	found := make([]scanned, len(names))
	next := make(chan int)
	var group sync.WaitGroup
	for range min(scanWorkers, len(names)) {
		group.Go(func() {
			for i := range next {
				found[i] = d.scanFile(names[i])
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	group.Wait()
	// In order of generation, so that a later record of a key replaces an earlier one.
	for i, s := range found {
		if s.err != nil {
			return s.err
		}
		d.adopt(names[i], s)
	}
	d.settle()
	return nil
}

// chunkFileName is a parsed file name.
type chunkFileName struct {
	path       string
	key        fileKey
	generation uint32
}

// chunkFileNames lists the chunk files in order of volume, shard and generation. Directory entries that are relied on
// are made durable: a killed process may have made them without a sync.
func (d *Drive) chunkFileNames() ([]chunkFileName, error) {
	root := d.dir + "/volumes"
	if err := d.makeDir(root); err != nil {
		return nil, err
	}
	if err := errors.Join(d.fs.SyncDir(d.dir), d.fs.SyncDir(root)); err != nil {
		return nil, err
	}
	dirs, err := d.fs.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var names []chunkFileName
	for _, dir := range dirs {
		if !dir.IsDir() {
			continue
		}
		if err := d.fs.SyncDir(root + "/" + dir.Name()); err != nil {
			return nil, err
		}
		list, err := d.fs.ReadDir(root + "/" + dir.Name())
		if err != nil {
			return nil, err
		}
		for _, item := range list {
			if name, ok := parseChunkFile(item.Name()); ok {
				name.path = root + "/" + dir.Name() + "/" + item.Name()
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func parseChunkFile(base string) (chunkFileName, bool) {
	parts := strings.Split(base, ".")
	if len(parts) != 3 || len(parts[0]) != 16 || len(parts[1]) != 2 || len(parts[2]) != 8 {
		return chunkFileName{}, false
	}
	volume, errVolume := strconv.ParseUint(parts[0], 16, 64)
	shard, errShard := strconv.ParseUint(parts[1], 16, 8)
	generation, errGeneration := strconv.ParseUint(parts[2], 16, 32)
	if errVolume != nil || errShard != nil || errGeneration != nil {
		return chunkFileName{}, false
	}
	return chunkFileName{key: fileKey{volume: chunkstore.VolumeID(volume), shard: uint8(shard)},
		generation: uint32(generation)}, true
}

// scanFile reads one chunk file. A file that is not ours or has no good header gives a scanned without a file.
func (d *Drive) scanFile(name chunkFileName) (s scanned) {
	r, err := d.fs.OpenFile(name.path, os.O_RDWR, 0)
	if err != nil {
		return scanned{err: err}
	}
	defer func() { s.err = errors.Join(s.err, r.Close()) }()
	info, err := r.Stat()
	if err != nil {
		return scanned{err: err}
	}
	header, _, err := d.readFileHeader(r, name.path)
	if err == nil && (header.kind != kindChunkFile || header.volume != name.key.volume ||
		header.shard != name.key.shard || header.generation != name.generation) {
		err = fmt.Errorf("header of another file: %w", errPage)
	}
	if errors.Is(err, errPage) {
		if info.Size <= headerSize {
			// Made and never used: the header is durable before the first record is written.
			return scanned{err: d.fs.Remove(name.path)}
		}
		d.damaged.Add(1)
		d.log.Error("chunk file is unreadable", "drive", d.identity.Name, "path", name.path, "err", err)
		return scanned{}
	}
	if err != nil {
		return scanned{err: err}
	}
	s.file = &chunkFile{name: name.path, header: header, end: (info.Size + pageSize - 1) / pageSize * pageSize,
		from: headerSize}
	s.file.length.Store(s.file.end)
	if s.err = d.scanRecords(r, &s, info.Size); s.err == nil && len(s.tail) > 0 {
		// A killed process may have written the tail without a sync, and it is relied on from here.
		if err := r.Sync(); err != nil {
			s.err = fmt.Errorf("sync %s: %w", name.path, err)
		}
	}
	return s
}

// readFileHeader reads the file header from whichever copy is good and rewrites the other. bad tells that it did.
func (d *Drive) readFileHeader(r vfs.File, name string) (h fileHeader, bad bool, err error) {
	b := make([]byte, headerSize)
	first, second := b[:pageSize], b[pageSize:]
	for at, page := range [][]byte{first, second} {
		if n, err := r.ReadAt(page, int64(at)*pageSize); n < len(page) && !isRot(err) {
			return fileHeader{}, false, fmt.Errorf("read %s: %w", name, err)
		}
	}
	h, err = d.seal.fileHeader(first)
	good, damaged, at := first, second, int64(pageSize)
	if err != nil {
		if h, err = d.seal.fileHeader(second); err != nil {
			return fileHeader{}, true, err
		}
		good, damaged, at = second, first, 0
	}
	if h.cluster != d.identity.Cluster || h.drive != d.identity.Drive {
		return fileHeader{}, false, fmt.Errorf("file of drive %v: %w", h.drive, errPage)
	}
	if slices.Equal(good, damaged) {
		return h, false, nil
	}
	if _, err := r.WriteAt(good, at); err != nil {
		return fileHeader{}, true, fmt.Errorf("rewrite header of %s: %w", name, err)
	}
	if err := r.Sync(); err != nil {
		return fileHeader{}, true, fmt.Errorf("rewrite header of %s: %w", name, err)
	}
	return h, true, nil
}

// scanRecords finds the records of a file: by the index records at the multiples of segment, by the one at the end of
// a file that was closed, and by their headers where no index record covers them.
func (d *Drive) scanRecords(r vfs.File, s *scanned, size int64) error {
	f := s.file
	for at := int64(segment); at+2*pageSize <= size; at += segment {
		x, end, err := d.readIndex(r, f, at)
		if err != nil {
			return err
		}
		if x == nil || x.from != f.from {
			// No good index record here: what it should cover is found by its headers, and by the next one's from.
			continue
		}
		s.indexed = append(s.indexed, x.entries...)
		f.from = end
	}
	if size%pageSize == 0 && size >= headerSize+2*pageSize {
		page := make([]byte, pageSize)
		if n, err := r.ReadAt(page, size-pageSize); n < len(page) && !isRot(err) {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
		if last, _, err := d.seal.indexHead(page, f.header.file); err == nil && last.from == f.from {
			x, end, err := d.readIndex(r, f, last.offset)
			if err != nil {
				return err
			}
			if x != nil && end == size {
				f.entries, f.footed = x.entries, true
				s.indexed = append(s.indexed, x.entries...)
				return nil
			}
		}
	}
	var err error
	s.tail, err = d.scanHeaders(r, f, f.from, size)
	f.entries = slices.Clone(s.tail)
	return err
}

// readIndex reads the index record at an offset and tells where it ends. A bad one gives nil.
func (d *Drive) readIndex(r vfs.File, f *chunkFile, at int64) (*index, int64, error) {
	page := make([]byte, pageSize)
	if n, err := r.ReadAt(page, at); n < len(page) {
		if isRot(err) {
			return nil, 0, nil
		}
		return nil, 0, fmt.Errorf("read %s: %w", f.name, err)
	}
	x, count, err := d.seal.indexHead(page, f.header.file)
	if err != nil || x.offset != at || x.volume != f.header.volume || x.shard != f.header.shard {
		return nil, 0, nil
	}
	payload := make([]byte, indexSize(count)-2*pageSize)
	if n, err := r.ReadAt(payload, at+pageSize); n < len(payload) {
		if isRot(err) {
			return nil, 0, nil
		}
		return nil, 0, fmt.Errorf("read %s: %w", f.name, err)
	}
	if err := x.decodeEntries(page, payload, count); err != nil {
		return nil, 0, nil
	}
	return &x, at + indexSize(count), nil
}

// scanHeaders walks [from, to) page by page, jumping over the payload of every good header.
func (d *Drive) scanHeaders(r vfs.File, f *chunkFile, from, to int64) ([]entry, error) {
	var found []entry
	page := make([]byte, pageSize)
	for at := from; at+pageSize <= to; {
		if n, err := r.ReadAt(page, at); n < len(page) {
			if !isRot(err) {
				return nil, fmt.Errorf("read %s at %d: %w", f.name, at, err)
			}
			d.damaged.Add(1)
			at += pageSize
			continue
		}
		h, err := d.seal.shardHeader(page, f.header.file, at)
		if err != nil || h.Key.Volume != f.header.volume || h.Key.Shard != f.header.shard {
			at += pageSize
			continue
		}
		length := pageSize + h.Layout.ShardSize()
		if at+length > to {
			// Cut off, so it was never acknowledged. But its header stands, and a later scan would jump over what it
			// claims: nothing may ever be written there.
			f.end = max(f.end, at+length)
			at += pageSize
			continue
		}
		digest := h.Digest()
		found = append(found, entry{chunk: h.Key.Chunk, offset: at, length: length, size: h.Size, epoch: h.Epoch,
			digest: [16]byte(digest[:16])})
		at += length
	}
	return found, nil
}
