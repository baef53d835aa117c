package raft

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// reserveName is the file that keeps space for the state DB. When the file system is full it is given up: names stay
// readable then, and deletes can be written, without which no space would ever come back.
const reserveName = "/reserve"

// reserveSize is as much as two segments of the log write into the state.
func (c *Config) reserveSize() int64 { return 2 * c.SegmentSize }

// isNoSpace tells the errors of a full file system or quota from failures.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Scarce tells that the space set aside for the state is in use: only what gives space back should be proposed.
func (h *Host) Scarce() bool { return h.scarce.Load() }

// spendReserve gives the reserve to the state DB, and tells whether there was one.
func (h *Host) spendReserve() bool {
	h.scarce.Store(true)
	h.reserved.Store(false)
	err := h.config.FS.Remove(h.config.StateDir + reserveName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.config.Log.Error("space reserved for the names cannot be given up", "dir", h.config.StateDir, "err", err)
	}
	if err == nil {
		h.config.Log.Error("no space for the names: what was reserved is used now, and new objects are refused", "dir", h.config.StateDir)
	}
	return err == nil
}

// keepReserve sets the reserve aside when there is none and twice its space is free. It need not be durable.
func (h *Host) keepReserve() {
	if h.reserved.Load() {
		return
	}
	f, name, size := h.config.FS, h.config.StateDir+reserveName, h.config.reserveSize()
	if _, err := f.Stat(name); errors.Is(err, fs.ErrNotExist) {
		usage, err := f.Usage(h.config.StateDir)
		if err != nil || usage.Free < 2*size {
			h.scarce.Store(err == nil)
			return
		}
	}
	if err := allocateReserve(f, name, size); err != nil {
		h.config.Log.Warn("no space is reserved for the names", "path", name, "err", err)
		return
	}
	h.reserved.Store(true)
	if h.scarce.Swap(false) {
		h.config.Log.Info("space is reserved for the names again", "path", name)
	}
}

func allocateReserve(f vfs.FS, name string, size int64) error {
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(file.Allocate(0, size), file.Close())
	if err != nil {
		err = errors.Join(err, f.Remove(name))
	}
	return err
}
