package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/cluster"
)

// heldFile is a snapshot's file that a record of the log names.
type heldFile struct {
	seq  uint64 // the frame of the record
	size int64
}

// noteSnapshot notes that a record in a frame names a file.
func (c *core) noteSnapshot(number uint64, file heldFile) {
	c.snapshotsMu.Lock()
	defer c.snapshotsMu.Unlock()
	c.snapshots[number] = file
}

// snapshotNumbers are the files that records of the log name, in frames up to seq.
func (c *core) snapshotNumbers(seq uint64) (list []uint64) {
	c.snapshotsMu.Lock()
	defer c.snapshotsMu.Unlock()
	for number, file := range c.snapshots {
		if file.seq <= seq {
			list = append(list, number)
		}
	}
	slices.Sort(list)
	return list
}

// snapshotBytes is what the files take that a checkpoint of a frame does not make superfluous.
func (c *core) snapshotBytes(seq uint64) (bytes int64) {
	c.snapshotsMu.Lock()
	defer c.snapshotsMu.Unlock()
	for _, file := range c.snapshots {
		if file.seq > seq {
			bytes += file.size
		}
	}
	return bytes
}

// dropSnapshots removes the files whose records a checkpoint covers: nothing that is restored begins before them.
func (c *core) dropSnapshots(seq uint64) {
	for _, number := range c.snapshotNumbers(seq) {
		if err := c.log.removeBlocks(snapshotFile(number)); err != nil {
			c.host.config.Log.Warn("snapshot not removed", "number", number, "err", err)
			continue // it is tried again
		}
		c.snapshotsMu.Lock()
		delete(c.snapshots, number)
		c.snapshotsMu.Unlock()
	}
}

// removeBlocks removes a file of blocks, finished or not, from every mirror. That need not be durable: no record names
// it.
func (l *mirroredLog) removeBlocks(name blockFile) error {
	l.mu.Lock()
	members := l.set.members
	drives := l.byID(members)
	l.mu.Unlock()
	_, failed := l.fanOut(members, func(id cluster.DriveID) error {
		d := drives[id]
		for _, path := range []string{d.blockPath(name), d.temporaryPath(name)} {
			if err := d.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	return errors.Join(values(failed)...)
}

// sweepSnapshots removes the snapshots that no record of the log names, which crashes left before they counted, and
// notes the sizes of the others. It returns the highest number that was there.
func (l *mirroredLog) sweepSnapshots(members []cluster.DriveID, named map[uint64]heldFile) (last uint64) {
	for number := range named {
		last = max(last, number)
	}
	for _, d := range l.drivesOf(members) {
		entries, err := d.fs.ReadDir(d.dir + snapshotDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.log.Warn("snapshots cannot be listed", "drive", d.String(), "err", err)
		}
		for _, e := range entries {
			var number uint64
			digits, suffix, _ := strings.Cut(e.Name(), ".")
			if _, err := fmt.Sscanf(digits, "%x", &number); err == nil {
				last = max(last, number)
			}
			path := d.dir + snapshotDir + "/" + e.Name()
			if file, counts := named[number]; counts && "."+suffix == snapshotSuffix {
				if info, err := d.fs.Stat(path); err == nil {
					named[number] = heldFile{seq: file.seq, size: max(file.size, info.Size)}
				}
				continue
			}
			if err := d.fs.Remove(path); err != nil {
				l.log.Warn("snapshot not removed", "drive", d.String(), "name", e.Name(), "err", err)
			}
		}
	}
	return last
}
