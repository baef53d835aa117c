package drive

import (
	"container/list"
	"errors"
	"os"
	"sync"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// maxHandles bounds the read handles that a drive keeps open: twelve drives stay far below the usual 4,096 files.
const maxHandles = 128

// handles is a cache of open files, least recently used first out.
type handles struct {
	fs vfs.FS

	mu     sync.Mutex
	byFile map[*chunkFile]*handle
	order  list.List // of *handle, most recently used first
	errs   []error   // of closing, told by closeAll
}

// handle is an open read handle; release it after use. The fields are guarded by handles.mu.
type handle struct {
	vfs.File
	owner   *handles
	file    *chunkFile
	uses    int
	dropped bool
	place   *list.Element
}

// open returns the handle of a chunk file for reading.
func (h *handles) open(f *chunkFile) (*handle, error) {
	if cached := h.find(f); cached != nil {
		return cached, nil
	}
	// A stream reads ahead itself. What lies behind a shard's window is mostly of other objects.
	file, err := h.fs.OpenFile(f.name, os.O_RDONLY|vfs.Spans, 0)
	if err != nil {
		return nil, err
	}
	return h.keep(f, file), nil
}

func (h *handles) find(f *chunkFile) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	cached := h.byFile[f]
	if cached != nil {
		cached.uses++
		h.order.MoveToFront(cached.place)
	}
	return cached
}

// keep adds a freshly opened file, or closes it when another goroutine was faster.
func (h *handles) keep(f *chunkFile, file vfs.File) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cached := h.byFile[f]; cached != nil {
		h.note(file.Close())
		cached.uses++
		return cached
	}
	fresh := &handle{File: file, owner: h, file: f, uses: 1}
	if h.byFile == nil {
		h.byFile = map[*chunkFile]*handle{}
	}
	h.byFile[f] = fresh
	fresh.place = h.order.PushFront(fresh)
	for h.order.Len() > maxHandles {
		h.drop(h.order.Back().Value.(*handle))
	}
	return fresh
}

func (x *handle) release() {
	x.owner.mu.Lock()
	defer x.owner.mu.Unlock()
	x.uses--
	if x.dropped && x.uses == 0 {
		x.owner.note(x.File.Close())
	}
}

// drop takes a handle out of the cache; the last user closes it. Callers hold mu.
func (h *handles) drop(x *handle) {
	h.order.Remove(x.place)
	delete(h.byFile, x.file)
	x.dropped = true
	if x.uses == 0 {
		h.note(x.File.Close())
	}
}

func (h *handles) note(err error) {
	if err != nil && len(h.errs) < 8 { // enough to see what is wrong
		h.errs = append(h.errs, err)
	}
}

func (h *handles) forget(f *chunkFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x := h.byFile[f]; x != nil {
		h.drop(x)
	}
}

// closeAll drops every handle; those in use are closed by their users.
func (h *handles) closeAll() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.order.Len() > 0 {
		h.drop(h.order.Back().Value.(*handle))
	}
	err := errors.Join(h.errs...)
	h.errs = nil
	return err
}

// maxHeaders bounds the verified headers kept in memory: 256 of about 3 KiB a drive.
const maxHeaders = 256

// place is where a header stands; no two records ever stand in one place, so an entry is never stale.
type place struct {
	file   *chunkFile
	offset int64
}

// headers is a cache of verified headers, oldest first out. Headers in it are never changed.
type headers struct {
	mu    sync.Mutex
	byAt  map[place]*chunkstore.Header
	order [maxHeaders]place
	next  int
}

func (c *headers) get(at place) *chunkstore.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byAt[at]
}

func (c *headers) put(at place, h *chunkstore.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byAt == nil {
		c.byAt = make(map[place]*chunkstore.Header, maxHeaders)
	}
	if _, ok := c.byAt[at]; ok {
		return
	}
	delete(c.byAt, c.order[c.next])
	c.order[c.next] = at
	c.byAt[at] = h
	c.next = (c.next + 1) % maxHeaders
}
