package vfs

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// memoryFile is an open file of a Memory.
type memoryFile struct {
	m        *Memory
	n        *node
	name     string // as opened; rules match it
	direct   bool
	writable bool
	closed   atomic.Bool
}

// do runs one operation on the file: rules, then the deed under mu.
func (f *memoryFile) do(op Op, word string, deed func() error) error {
	if f.closed.Load() {
		return pathError(word, f.name, fs.ErrClosed)
	}
	return f.m.change(op, word, f.name, deed)
}

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	n, end := 0, false
	err := f.do(OpRead, "read", func() error {
		if f.direct && (!IsAligned(p) || off%Align != 0) || off < 0 {
			return syscall.EINVAL
		}
		if off < f.n.size {
			n = int(min(int64(len(p)), f.n.size-off))
			f.n.read(p[:n], off)
		}
		end = n < len(p)
		return nil
	})
	if err == nil && end {
		err = io.EOF
	}
	return n, err
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVAt([][]byte{p}, off)
	return int(n), err
}

func (f *memoryFile) WriteVAt(buffers [][]byte, off int64) (int64, error) {
	var total, done int64
	for _, b := range buffers {
		total += int64(len(b))
		if f.direct && (!IsAligned(b) || off%Align != 0) {
			return 0, pathError("write", f.name, syscall.EINVAL)
		}
	}
	// limit is less than total when a rule asks for a short write; the rule's error comes after the bytes.
	limit, fault := total, error(nil)
	if short := f.m.shortWrite(f.name); short != nil {
		limit, fault = total/2/sector*sector, short
	}
	err := f.do(OpWrite, "write", func() error {
		if !f.writable {
			return syscall.EBADF
		}
		if off < 0 {
			return syscall.EINVAL
		}
		for _, b := range buffers {
			b = b[:min(int64(len(b)), limit-done)]
			n, err := f.m.write(f.n, b, off+done)
			done += n
			if err != nil {
				return err
			}
		}
		return fault
	})
	return done, err
}

// WriteSync is the two operations, so a rule for either meets it.
func (f *memoryFile) WriteSync(p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err != nil {
		return err
	}
	return f.Sync()
}

// Sync makes the dirty pages and the size durable. After an injected error the pages are lost as in a kernel: still
// readable, clean in the eyes of the next Sync, and anything on the medium.
func (f *memoryFile) Sync() error {
	err := f.do(OpSync, "sync", func() error {
		n := f.n
		for page := range n.dirty {
			if content, ok := n.pages[page]; ok {
				n.synced[page] = content
			} else {
				delete(n.synced, page)
			}
			delete(n.lost, page)
		}
		clear(n.dirty)
		n.syncedSize = n.size
		return nil
	})
	if err != nil {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		if f.m.dead {
			return err
		}
		for page := range f.n.dirty {
			f.n.lost[page] = true
		}
		clear(f.n.dirty)
	}
	return err
}

func (f *memoryFile) Truncate(size int64) error {
	return f.do(OpTruncate, "truncate", func() error {
		if !f.writable || size < 0 {
			return syscall.EINVAL
		}
		f.m.resize(f.n, size)
		return nil
	})
}

func (f *memoryFile) Allocate(off, length int64) error {
	return f.do(OpAllocate, "allocate", func() error {
		if !f.writable || off < 0 || length <= 0 {
			return syscall.EINVAL
		}
		for page := off / Align; page <= (off+length-1)/Align; page++ {
			if _, ok := f.n.pages[page]; ok || f.n.reserved.has(page) {
				continue
			}
			if err := f.m.take(); err != nil {
				return err
			}
			f.n.reserved.add(page)
		}
		return nil
	})
}

func (f *memoryFile) PunchHole(off, length int64) error {
	return f.do(OpPunch, "punch", func() error {
		if !f.writable || off < 0 || length <= 0 {
			return syscall.EINVAL
		}
		f.m.clear(f.n, off, off+length)
		return nil
	})
}

func (f *memoryFile) Stat() (Info, error) {
	var info Info
	err := f.do(OpStat, "stat", func() error {
		info = f.n.info()
		return nil
	})
	return info, err
}

func (f *memoryFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.m.dead { // the node may belong to the file system that Kill returned
		f.n.opens--
		f.m.free(f.n)
	}
	return nil
}

// read fills p from off; p ends within the file. Callers hold mu.
func (n *node) read(p []byte, off int64) {
	for len(p) > 0 {
		at := off % Align
		part := p[:min(int64(len(p)), Align-at)]
		if page := n.pages[off/Align]; page != nil {
			copy(part, page[at:])
		} else {
			clear(part)
		}
		p, off = p[len(part):], off+int64(len(part))
	}
}

// write puts p at off as far as there is space. Callers hold mu.
func (m *Memory) write(n *node, p []byte, off int64) (done int64, err error) {
	for len(p) > 0 {
		at := off % Align
		part := p[:min(int64(len(p)), Align-at)]
		page, err := m.own(n, off/Align)
		if err != nil {
			return done, err
		}
		copy(page[at:], part)
		p, off, done = p[len(part):], off+int64(len(part)), done+int64(len(part))
		n.size = max(n.size, off)
	}
	return done, nil
}

// own returns a page of a file that may be changed in place, and marks it dirty.
func (m *Memory) own(n *node, index int64) ([]byte, error) {
	page, ok := n.pages[index]
	if !ok && n.reserved.remove(index, index+1) == 0 {
		if err := m.take(); err != nil {
			return nil, err
		}
	}
	if page == nil || !n.dirty[index] {
		fresh := make([]byte, Align)
		copy(fresh, page)
		page = fresh
		n.pages[index] = page
		n.dirty[index] = true
	}
	return page, nil
}

// take charges one page to the capacity.
func (m *Memory) take() error {
	if m.capacity > 0 && m.used+Align > m.capacity {
		return syscall.ENOSPC
	}
	m.used += Align
	return nil
}

// clear makes [off, end) read as zeros and frees the whole pages in it. Callers hold mu.
func (m *Memory) clear(n *node, off, end int64) {
	m.used -= n.reserved.remove((off+Align-1)/Align, end/Align) * Align
	touched := make([]int64, 0, 8)
	if last := (end - 1) / Align; last-off/Align < int64(len(n.pages)) {
		for index := off / Align; index <= last; index++ {
			touched = append(touched, index)
		}
	} else {
		touched = slices.AppendSeq(touched, maps.Keys(n.pages))
	}
	for _, index := range touched {
		page, ok := n.pages[index]
		first, last := max(off, index*Align), min(end, (index+1)*Align)
		if !ok || first >= last {
			continue
		}
		if last-first == Align {
			delete(n.pages, index)
			n.dirty[index] = true
			m.used -= Align
			continue
		}
		if page == nil {
			continue
		}
		fresh := make([]byte, Align)
		copy(fresh, page)
		clear(fresh[first-index*Align : last-index*Align])
		n.pages[index] = fresh
		n.dirty[index] = true
	}
}

// resize sets the size; what is cut off reads as zeros when the file grows again. Callers hold mu.
func (m *Memory) resize(n *node, size int64) {
	if size < n.size {
		m.clear(n, size, (n.size+Align-1)/Align*Align)
	}
	n.size = size
}

// fileInfo is an fs.FileInfo of a Memory entry.
type fileInfo struct {
	name string
	info Info
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.info.Size }
func (i fileInfo) Mode() fs.FileMode  { return i.info.Mode }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.info.Mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }
