package drive

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// ledgerAhead is the space kept reserved in the ledger so that deletes work on a full drive: 128 pairs of pages, of up
// to 125 notes each.
const ledgerAhead = 1 << 20

// ledgerLimit is how long a ledger grows before it is written anew without what is no longer needed, at least; a ledger
// with much to say is written anew when it is four times what it needs.
const ledgerLimit = 4 << 20

// ledger is the drive's log of deletions and seals. Each page is written twice, side by side, so that one damaged
// page loses nothing. It belongs to the committer.
type ledger struct {
	name       string
	generation uint32
	file       uuid
	writer     vfs.File // nil after a failed write or sync: the next append writes a new ledger
	end        int64
	allocated  int64
	needed     int64 // what the notes took when the ledger was written
}

func (d *Drive) ledgerName(generation uint32) string {
	return fmt.Sprintf("%s/ledger.%08x", d.dir, generation)
}

// appendNotes makes notes durable. The notes stand in the index already when it is called.
func (d *Drive) appendNotes(notes []note) error {
	l := &d.ledger
	if l.writer != nil && l.end < max(ledgerLimit, 4*l.needed) {
		err := d.extendLedger(notes)
		if err == nil || isNoSpace(err) && l.writer != nil {
			return err
		}
		// After a failed write or sync this file is never touched again; a new one says everything.
		d.log.Warn("ledger failed, a new one is written", "drive", d.identity.Name, "err", err)
		d.failed(err)
		if l.writer != nil {
			d.logClose(l.name, l.writer.Close())
			l.writer = nil
		}
		return d.renewLedger()
	}
	err := d.renewLedger()
	if isNoSpace(err) && l.writer != nil {
		return d.extendLedger(notes)
	}
	return err
}

// extendLedger appends to the present ledger. With ENOSPC before anything was written the ledger stays usable.
func (d *Drive) extendLedger(notes []note) error {
	l := &d.ledger
	b := d.notePages(l.file, l.end, notes)
	if need := l.end + int64(len(b)); need > l.allocated {
		room := int64(ledgerAhead)
		err := l.writer.Allocate(l.end, int64(len(b))+room)
		if isNoSpace(err) {
			room = 0
			err = l.writer.Allocate(l.end, int64(len(b)))
		}
		if err != nil {
			return err
		}
		l.allocated = need + room
	}
	if _, err := l.writer.WriteAt(b, l.end); err != nil {
		d.logClose(l.name, l.writer.Close())
		l.writer = nil
		return err
	}
	if err := l.writer.Sync(); err != nil {
		d.logClose(l.name, l.writer.Close())
		l.writer = nil
		return err
	}
	l.end += int64(len(b))
	return nil
}

// notePages lays out notes as they stand at offset of a ledger.
func (d *Drive) notePages(file uuid, offset int64, notes []note) []byte {
	var b []byte
	for part := range slices.Chunk(notes, notesPerPage) {
		for range 2 {
			page := make([]byte, pageSize)
			d.seal.putNotes(page, file, offset+int64(len(b)), part)
			b = append(b, page...)
		}
	}
	return b
}

// renewLedger writes a ledger of everything in the index and removes the older ones. A crash leaves the old ledger, or
// both; notes only ever say what stays true, so the union of ledgers is right.
func (d *Drive) renewLedger() error {
	d.mu.RLock()
	notes := d.notes()
	d.mu.RUnlock()
	old := d.ledger
	fresh := ledger{generation: old.generation + 1, needed: 0}
	fresh.name = d.ledgerName(fresh.generation)
	if _, err := rand.Read(fresh.file[:]); err != nil {
		return err
	}
	header := make([]byte, pageSize)
	d.seal.putFileHeader(header, fileHeader{kind: kindLedger, cluster: d.identity.Cluster, drive: d.identity.Drive,
		file: fresh.file, generation: fresh.generation, created: time.Now().Unix()})
	b := slices.Concat(header, header, d.notePages(fresh.file, headerSize, notes))
	fresh.end, fresh.needed = int64(len(b)), int64(len(b))
	if err := d.writeLedger(&fresh, b); err != nil {
		return fmt.Errorf("write %s: %w", fresh.name, err)
	}
	d.ledger = fresh
	if old.writer != nil {
		d.logClose(old.name, old.writer.Close())
	}
	d.removeLedgers(fresh.generation)
	return nil
}

// writeLedger makes a ledger with content b under its name, durably.
func (d *Drive) writeLedger(l *ledger, b []byte) (err error) {
	temporary := l.name + ".tmp"
	// What an earlier attempt left may be a file whose sync failed: it is not written again.
	if err := d.fs.Remove(temporary); err != nil && !isMissing(err) {
		return err
	}
	l.writer, err = d.fs.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.writer.Close())
		}
	}()
	if err := l.writer.Allocate(0, l.end+ledgerAhead); err != nil {
		return err
	}
	l.allocated = l.end + ledgerAhead
	if _, err := l.writer.WriteAt(b, 0); err != nil {
		return err
	}
	if err := l.writer.Sync(); err != nil {
		return err
	}
	if err := d.fs.Rename(temporary, l.name); err != nil {
		return err
	}
	return d.fs.SyncDir(d.dir)
}

// removeLedgers removes the ledgers below a generation. One that stays is read again at the next Open and does no harm.
func (d *Drive) removeLedgers(below uint32) {
	list, err := d.fs.ReadDir(d.dir)
	if err != nil {
		d.log.Warn("old ledgers not listed", "drive", d.identity.Name, "err", err)
		return
	}
	for _, entry := range list {
		generation, ok := parseLedger(entry.Name())
		if !ok || generation >= below {
			continue
		}
		if err := d.fs.Remove(d.ledgerName(generation)); err != nil {
			d.log.Warn("old ledger not removed", "drive", d.identity.Name, "err", err)
		}
	}
}

func parseLedger(name string) (generation uint32, ok bool) {
	digits, ok := strings.CutPrefix(name, "ledger.")
	n, err := strconv.ParseUint(digits, 16, 32)
	return uint32(n), ok && len(digits) == 8 && err == nil
}

// loadLedgers reads every ledger into the index and leaves the newest open for appends, or none.
func (d *Drive) loadLedgers() error {
	list, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return err
	}
	damaged := false
	for _, entry := range list {
		generation, ok := parseLedger(entry.Name())
		if !ok {
			continue
		}
		l, whole, err := d.loadLedger(generation)
		if err != nil {
			return err
		}
		damaged = damaged || !whole
		// The list is sorted by name, so the last one is the newest.
		if d.ledger.writer != nil {
			d.logClose(d.ledger.name, d.ledger.writer.Close())
		}
		d.ledger = l
	}
	if !damaged && d.ledger.writer != nil {
		return nil
	}
	// The first ledger of a new drive, or a damaged one that is written whole. The old ones stay until it is durable.
	if err := d.renewLedger(); err != nil {
		if d.ledger.writer == nil || !isNoSpace(err) {
			return err
		}
		d.log.Warn("damaged ledger not rewritten", "drive", d.identity.Name, "err", err)
	}
	return nil
}

// loadLedger reads one ledger. It is not whole when a page was bad whose pair was good, or both.
func (d *Drive) loadLedger(generation uint32) (l ledger, whole bool, err error) {
	l = ledger{name: d.ledgerName(generation), generation: generation}
	writer, err := d.fs.OpenFile(l.name, os.O_RDWR, 0)
	if err != nil {
		return ledger{}, false, err
	}
	defer func() {
		if err != nil || l.writer == nil {
			err = errors.Join(err, writer.Close())
		}
	}()
	// What is read here is relied on, so it must be durable: a killed process may have written it without a sync.
	if err := writer.Sync(); err != nil {
		return ledger{}, false, fmt.Errorf("sync %s: %w", l.name, err)
	}
	info, err := writer.Stat()
	if err != nil {
		return ledger{}, false, err
	}
	header, bad, err := d.readFileHeader(writer, l.name)
	if err != nil {
		if errors.Is(err, errPage) {
			d.damaged.Add(1)
			d.log.Error("ledger is unreadable", "drive", d.identity.Name, "path", l.name, "err", err)
			return l, false, nil
		}
		return ledger{}, false, err
	}
	l.file = header.file
	torn, err := d.loadNotes(writer, &l, info.Size)
	if err != nil {
		return ledger{}, false, err
	}
	l.needed = l.end
	l.writer = writer
	return l, !bad && !torn, nil
}

// loadNotes applies the pages of a ledger and sets its append point behind the last byte. torn tells that a page was
// bad; at the end that is what a crash leaves.
func (d *Drive) loadNotes(r vfs.File, l *ledger, size int64) (torn bool, err error) {
	pair := make([]byte, 2*pageSize)
	for l.end = headerSize; l.end < size; l.end += int64(len(pair)) {
		clear(pair)
		for at := int64(0); at < int64(len(pair)); at += pageSize {
			// What the medium does not give stays zeros, which are no page.
			if _, err := r.ReadAt(pair[at:at+pageSize], l.end+at); err != nil && !isRot(err) {
				return false, fmt.Errorf("read %s at %d: %w", l.name, l.end+at, err)
			}
		}
		first, errFirst := d.seal.notes(pair[:pageSize], l.file, l.end)
		second, errSecond := d.seal.notes(pair[pageSize:], l.file, l.end+pageSize)
		torn = torn || errFirst != nil || errSecond != nil
		if errFirst != nil {
			first = second
		}
		for _, n := range first {
			d.note(n)
		}
		if errFirst != nil && errSecond != nil && l.end+int64(len(pair)) < size {
			d.damaged.Add(1)
		}
	}
	return torn, nil
}

func (d *Drive) logClose(name string, err error) {
	if err != nil {
		d.log.Warn("close", "drive", d.identity.Name, "path", name, "err", err)
	}
}
