package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// Tables stand on disk in pages, because goleveldb's block checksum does not say which block of which file it is:
// two swapped or stale blocks would read as keys that are missing.
//
//	page: data 4,088 bytes (zero beyond used) | used uint32 | CRC32C uint32 of file number, page number, data, used
//
// Little-endian. Every page but the last is full.
const (
	pageSize    = 4096
	pageTrailer = 8
	pageData    = pageSize - pageTrailer
	// gatherPages is how many pages a table writer gathers for one write.
	gatherPages = 64
)

// errPage says that a page of a table is not the one that was written there.
var errPage = errors.New("page of a table is damaged")

// sealPage fills the trailer of a page.
func sealPage(page []byte, number, index int64, used int) {
	binary.LittleEndian.PutUint32(page[pageData:], uint32(used))
	binary.LittleEndian.PutUint32(page[pageData+4:], pageSum(page, number, index))
}

func pageSum(page []byte, number, index int64) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], uint64(number))
	binary.LittleEndian.PutUint64(place[8:], uint64(index))
	return castagnoli(place[:], page[:pageData+4])
}

// openPage checks a page and returns its data.
func openPage(page []byte, number, index int64) ([]byte, error) {
	used := binary.LittleEndian.Uint32(page[pageData:])
	if binary.LittleEndian.Uint32(page[pageData+4:]) != pageSum(page, number, index) || used > pageData {
		return nil, fmt.Errorf("table %d page %d: %w", number, index, errPage)
	}
	return page[:used], nil
}

// pageReader reads the data of a table through its pages.
type pageReader struct {
	disk   *disk
	file   vfs.File
	number int64
}

// size is the length of the data in a file of the given length.
func (r *pageReader) size(length int64) (int64, error) {
	if length == 0 {
		return 0, nil
	}
	if length%pageSize != 0 {
		return 0, fmt.Errorf("table %d: %d bytes are no whole pages: %w", r.number, length, errPage)
	}
	last := length/pageSize - 1
	page := make([]byte, pageSize)
	if _, err := r.file.ReadAt(page, last*pageSize); err != nil {
		return 0, err
	}
	data, err := openPage(page, r.number, last)
	return last*pageData + int64(len(data)), err
}

// ReadAt implements io.ReaderAt over the data.
func (r *pageReader) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	first := off / pageData
	count := (off+int64(len(p))-1)/pageData - first + 1
	raw := make([]byte, count*pageSize)
	n, err := r.file.ReadAt(raw, first*pageSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	done, skip := 0, int(off-first*pageData)
	for i := int64(0); i < count && int(i+1)*pageSize <= n; i++ {
		data, err := openPage(raw[i*pageSize:(i+1)*pageSize], r.number, first+i)
		if err != nil {
			return done, err
		}
		if skip < len(data) {
			done += copy(p[done:], data[skip:])
		}
		skip = 0
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// pageWriter writes a table in pages.
type pageWriter struct {
	writer *writer
	number int64
	// page is the first page in buffer; buffer holds whole pages from there, the last one partly filled.
	page   int64
	buffer []byte
	used   int // data bytes in the last page of buffer
}

func (w *pageWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(w.buffer) == 0 || w.used == pageData {
			if err := w.grow(); err != nil {
				return total - len(p), err
			}
		}
		tail := w.buffer[len(w.buffer)-pageSize:]
		n := copy(tail[w.used:pageData], p)
		w.used += n
		p = p[n:]
	}
	return total, nil
}

// grow begins a page, after writing what was gathered when that is much.
func (w *pageWriter) grow() error {
	if len(w.buffer) >= gatherPages*pageSize {
		if err := w.flush(); err != nil {
			return err
		}
		w.page += int64(len(w.buffer) / pageSize)
		w.buffer = w.buffer[:0]
	}
	w.buffer = append(w.buffer, make([]byte, pageSize)...)
	w.used = 0
	return nil
}

// flush writes the gathered pages at their place. A partly filled one is written again when more data came.
func (w *pageWriter) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	count := int64(len(w.buffer) / pageSize)
	for i := range count {
		used := pageData
		if i == count-1 {
			used = w.used
		}
		sealPage(w.buffer[i*pageSize:(i+1)*pageSize], w.number, w.page+i, used)
	}
	w.writer.off = w.page * pageSize
	_, err := w.writer.Write(w.buffer)
	return err
}

func (w *pageWriter) Sync() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.writer.Sync()
}

func (w *pageWriter) Close() error { return errors.Join(w.flush(), w.writer.Close()) }
