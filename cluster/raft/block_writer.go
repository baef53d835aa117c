package raft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// blockWriter writes the same file of blocks to several drives. A drive that fails is left out and reported.
type blockWriter struct {
	log    *mirroredLog
	name   blockFile
	drives []*drive
	open   map[cluster.DriveID]vfs.File
	failed map[cluster.DriveID]error
	off    int64
	index  uint64
	prev   digest
	pace   bool
	synced int64     // how far the files are on the devices
	rested time.Time // when the last pause ended
}

// paceBytes is what a paced checkpoint leaves to the page cache before it syncs: all of it at the end would hold up the
// appends for as long as the devices take to write it. Then it pauses: three quarters of the time belong to appends.
const (
	paceBytes = 4 << 20
	paceRest  = 3
)

func (l *mirroredLog) newBlocks(drives []*drive, name blockFile, pace bool) *blockWriter {
	w := &blockWriter{log: l, name: name, drives: drives, open: map[cluster.DriveID]vfs.File{}, failed: map[cluster.DriveID]error{},
		pace: pace, rested: time.Now()}
	// A drive that is given up may answer at any time later; it then closes its file itself.
	var mu sync.Mutex
	files, over := map[cluster.DriveID]vfs.File{}, false
	byID, ids := map[cluster.DriveID]*drive{}, []cluster.DriveID{}
	for _, d := range drives {
		byID[d.id], ids = d, append(ids, d.id)
	}
	done, failed := l.fanOut(ids, func(id cluster.DriveID) error {
		file, err := byID[id].openTemporary(name)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && over {
			return file.Close()
		}
		files[id] = file
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	for _, id := range done {
		w.open[id] = files[id]
	}
	for id, err := range failed {
		w.failed[id] = err
		if file := files[id]; file != nil { // it answered too late
			w.failed[id] = errors.Join(err, file.Close())
		}
	}
	return w
}

func (d *drive) openTemporary(name blockFile) (vfs.File, error) {
	if err := d.makeDirs(); err != nil {
		return nil, err
	}
	return d.fs.OpenFile(d.temporaryPath(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// add writes one block on every drive that is left.
func (w *blockWriter) add(ctx context.Context, magic string, payload []byte, last bool) error {
	raw, sum := encodeBlock(blockAt{w.log.cluster, w.name.number, w.index}, magic, last, w.prev, payload)
	return w.addRaw(ctx, raw, sum)
}

func (w *blockWriter) addRaw(ctx context.Context, raw []byte, sum digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	off := w.off
	w.each(func(file vfs.File) error { return writeAll(file, raw, off) })
	if len(w.open) == 0 {
		return fmt.Errorf("write %s/%d: no mirror is left", w.name.dir, w.name.number)
	}
	w.off, w.index, w.prev = w.off+int64(len(raw)), w.index+1, sum
	if !w.pace || w.off-w.synced < paceBytes {
		return nil
	}
	w.each(func(file vfs.File) error { return file.Sync() })
	w.synced = w.off
	select {
	case <-time.After(min(paceRest*time.Since(w.rested), time.Second)):
		w.rested = time.Now()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// each runs an operation on every open file at once and leaves the failing ones out, late ones too.
func (w *blockWriter) each(operate func(vfs.File) error) {
	ids := make([]cluster.DriveID, 0, len(w.open))
	for id := range w.open {
		ids = append(ids, id)
	}
	files := w.open
	done, failed := w.log.fanOut(ids, func(id cluster.DriveID) error { return operate(files[id]) })
	left := map[cluster.DriveID]vfs.File{}
	for _, id := range done {
		left[id] = files[id]
	}
	for id, err := range failed {
		w.failed[id] = err
		if !errors.Is(err, errSlow) {
			w.failed[id] = errors.Join(err, files[id].Close())
		} // a hung file stays open: its write may still come
	}
	w.open = left
}

// finish makes the file durable and gives it its name on every drive that is left.
func (w *blockWriter) finish(drives map[cluster.DriveID]*drive) error {
	w.each(func(file vfs.File) error { return file.Sync() })
	ids := make([]cluster.DriveID, 0, len(w.open))
	for id, file := range w.open {
		if err := file.Close(); err != nil {
			w.failed[id] = err
			continue
		}
		ids = append(ids, id)
	}
	w.open = nil
	done, failed := w.log.fanOut(ids, func(id cluster.DriveID) error {
		d := drives[id]
		if err := d.present(); err != nil {
			return err
		}
		if err := d.fs.Rename(d.temporaryPath(w.name), d.blockPath(w.name)); err != nil {
			return err
		}
		return d.fs.SyncDir(d.dir + w.name.dir)
	})
	for id, err := range failed {
		w.failed[id] = err
	}
	if len(done) == 0 {
		return fmt.Errorf("write %s/%d: no mirror took it: %w", w.name.dir, w.name.number, errors.Join(values(w.failed)...))
	}
	return nil
}

// abandon closes the files that are given up, and removes them: where space was too scarce to finish
// them, they would keep what is left of it. A drive that hangs keeps its own.
func (w *blockWriter) abandon() error {
	errs := []error{w.close()}
	for _, d := range w.drives {
		if errors.Is(w.failed[d.id], errSlow) {
			continue
		}
		if err := d.fs.Remove(d.temporaryPath(w.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close closes the files that are open.
func (w *blockWriter) close() error {
	var errs []error
	for _, file := range w.open {
		errs = append(errs, file.Close())
	}
	w.open = nil
	return errors.Join(errs...)
}
