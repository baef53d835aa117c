package multipart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

const (
	// holdAfter is when a reader asks for a hold: the chunks of a replaced version live 15 minutes from the commit that
	// replaced it, so one that was opened less than five minutes ago needs none.
	holdAfter = 5 * time.Minute
	// firstRefs and moreRefs are how many references one read of the chunk store gets: enough to stream across chunks,
	// few enough that a seek into a huge object reads one page of its index.
	firstRefs = 16
	moreRefs  = 128
	// partRows is how many part rows are read at once, and firstPartRows the first time.
	partRows      = 256
	firstPartRows = 16
)

// errClosedObject says that an object was read after its Close.
var errClosedObject = errors.New("object is closed")

// object is an opened version.
type object struct {
	s       *Store
	bucket  metadata.BucketID
	version metadata.Version
	opened  time.Time

	mu     sync.Mutex
	held   uint64 // the session that holds the version, 0: none
	closed bool
}

var _ Object = (*object)(nil)

// Open opens a version for reading; the rules are those of Object.
func (s *Store) Open(ctx context.Context, bucket metadata.BucketID, key string, at At) (Object, error) {
	v, err := s.lookup(ctx, bucket, key, at)
	if errors.Is(err, metadata.ErrDeleteMarker) {
		return nil, &MarkerError{Marker: v, Err: err}
	}
	if err != nil {
		return nil, err
	}
	o := &object{s: s, bucket: bucket, version: v, opened: s.now()}
	if o.needsHold() {
		s.open.add(o)
	}
	return o, nil
}

// lookup reads the record of a version that has bytes.
func (s *Store) lookup(ctx context.Context, bucket metadata.BucketID, key string, at At) (metadata.Version, error) {
	if at.Version == nil && !at.Null {
		return s.catalog.Current(ctx, bucket, key)
	}
	var id metadata.VersionID
	if at.Version != nil {
		id = *at.Version
	}
	v, err := s.catalog.Version(ctx, bucket, key, id, at.Null)
	if err == nil && v.DeleteMarker {
		err = fmt.Errorf("version %v of %q: %w", v.ID, key, metadata.ErrDeleteMarker)
	}
	return v, err
}

func (o *object) Version() metadata.Version { return o.version }

func (o *object) Read(ctx context.Context, span Span) io.ReadCloser {
	src, n, err := o.s.versionSource(o.bucket, &o.version, span)
	if err != nil {
		return &reader{err: fmt.Errorf("read %q: %w", o.version.Key, err)}
	}
	return newReader(ctx, o.s, src, n, o.hold)
}

func (o *object) PartSpan(_ context.Context, n int) (Span, int, error) {
	if len(o.version.Parts) == 0 {
		if n != 1 {
			return Span{}, 0, fmt.Errorf("part %d of %q: %w", n, o.version.Key, metadata.ErrInvalidPart)
		}
		return Span{Len: o.version.Size}, 0, nil
	}
	count, off := 0, int64(0)
	span := Span{Off: -1}
	for _, run := range o.version.Parts {
		if n > count && n <= count+run.Count {
			span = Span{Off: off + int64(n-count-1)*run.Size, Len: run.Size}
		}
		count += run.Count
		off += int64(run.Count) * run.Size
	}
	if span.Off < 0 {
		return Span{}, count, fmt.Errorf("part %d of %q: %w", n, o.version.Key, metadata.ErrInvalidPart)
	}
	return span, count, nil
}

func (o *object) Parts(ctx context.Context, after, max int) ([]metadata.Part, error) {
	var parts []metadata.Part
	position := 0
	for _, run := range o.version.Parts {
		for i := max0(after - position); i < run.Count && len(parts) < max; {
			rows, err := o.s.catalog.Parts(ctx, o.bucket, o.version.PartsKey, o.version.PartsOf, run.First+i-1, min(max-len(parts), run.Count-i, partRows))
			if err != nil {
				return nil, err
			}
			if len(rows) == 0 {
				return nil, missingPart(&o.version, run.First+i)
			}
			for _, row := range rows {
				if row.Number != run.First+i {
					return nil, missingPart(&o.version, run.First+i)
				}
				row.Number = position + i + 1
				row.Manifest, row.Inline, row.Rest = nil, nil, nil
				parts = append(parts, row)
				i++
			}
		}
		position += run.Count
	}
	return parts, nil
}

func max0(n int) int { return max(n, 0) }

// needsHold tells whether there are chunks that a replaced version would lose.
func (o *object) needsHold() bool { return len(o.version.Inline) == 0 && o.version.Size > 0 }

// hold keeps the chunks of the version alive once a reader needs them for long.
func (o *object) hold(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return fmt.Errorf("read %q: %w", o.version.Key, errClosedObject)
	}
	if !o.needsHold() || o.s.now().Sub(o.opened) < holdAfter {
		return nil
	}
	if o.held != 0 && o.held == o.s.currentSession() {
		return nil
	}
	// The lock is kept over the commit so that Close cannot run in between and leave a hold behind.
	session, err := o.s.holdVersion(ctx, o.bucket, &o.version)
	if err != nil {
		return fmt.Errorf("hold %q: %w", o.version.Key, err)
	}
	o.held = session
	return nil
}

func (o *object) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	o.s.open.remove(o)
	if o.held == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), discardTimeout)
	defer cancel()
	return o.s.releaseVersion(ctx, o.held, o.bucket, &o.version)
}

// versionSource returns the extents of a span of a version and its length.
func (s *Store) versionSource(bucket metadata.BucketID, v *metadata.Version, span Span) (source, int64, error) {
	n := span.Len
	if n < 0 {
		n = v.Size - span.Off
	}
	if span.Off < 0 || n < 0 || span.Off > v.Size || n > v.Size-span.Off {
		return nil, 0, fmt.Errorf("span %d+%d of %d bytes: %w", span.Off, span.Len, v.Size, ErrSpan)
	}
	if len(v.Parts) > 0 {
		return &partsSource{s: s, bucket: bucket, v: v, lo: span.Off, hi: span.Off + n, rows: firstPartRows}, n, nil
	}
	src, err := s.bytesSource(v.Inline, v.Manifest, v.Size, span.Off, span.Off+n)
	return src, n, err
}

// bytesSource returns the extents lo..hi of what an inline body or a manifest holds.
func (s *Store) bytesSource(inline, manifest []byte, size, lo, hi int64) (source, error) {
	if len(inline) > 0 {
		if int64(len(inline)) != size {
			return nil, fmt.Errorf("%d bytes inline where %d are named: %w", len(inline), size, ErrManifest)
		}
		return &oneSource{extent{kind: kindBytes, len: hi - lo, bytes: inline[lo:hi]}}, nil
	}
	if len(manifest) > 0 {
		r, err := decodeRoot(manifest)
		if err != nil {
			return nil, err
		}
		if r.size != size {
			return nil, fmt.Errorf("manifest of %d bytes where %d are named: %w", r.size, size, ErrManifest)
		}
	} else if size != 0 {
		return nil, fmt.Errorf("%d bytes without a manifest: %w", size, ErrManifest)
	}
	return newCursor(manifest, lo, hi, s.readPage)
}

// oneSource is a single extent.
type oneSource struct{ e extent }

func (o *oneSource) next(context.Context) (extent, error) {
	if o.e.len == 0 {
		return extent{}, io.EOF
	}
	e := o.e
	o.e = extent{}
	return e, nil
}

// partsSource walks the bytes lo..hi of a version that is the part rows of an upload, reading rows as it goes.
type partsSource struct {
	s      *Store
	bucket metadata.BucketID
	v      *metadata.Version
	lo, hi int64 // what is left
	rows   int   // how many rows to read next
	page   []metadata.Part
	inner  source // the rest of the current part
	// part sees every part row before it is entered, for those that collect chunks. May be nil.
	part func(metadata.Part)
}

func (p *partsSource) next(ctx context.Context) (extent, error) {
	for {
		if p.inner != nil {
			e, err := p.inner.next(ctx)
			if err == nil {
				p.lo += e.len
				return e, nil
			}
			if err != io.EOF {
				return extent{}, err
			}
			p.inner = nil
		}
		if p.lo >= p.hi {
			return extent{}, io.EOF
		}
		if err := p.enter(ctx); err != nil {
			return extent{}, err
		}
	}
}

// enter opens the part that holds byte lo.
func (p *partsSource) enter(ctx context.Context) error {
	var start int64
	for _, run := range p.v.Parts {
		total := int64(run.Count) * run.Size
		if p.lo >= start+total {
			start += total
			continue
		}
		i := (p.lo - start) / run.Size
		row, err := p.row(ctx, run, int(i))
		if err != nil {
			return err
		}
		if p.part != nil {
			p.part(row)
		}
		start += i * run.Size
		p.inner, err = p.s.bytesSource(row.Inline, row.Manifest, row.Size, p.lo-start, min(p.hi-start, row.Size))
		if err != nil {
			return fmt.Errorf("part %d: %w", row.Number, err)
		}
		return nil
	}
	return fmt.Errorf("parts of %q end before byte %d: %w", p.v.Key, p.lo, ErrManifest)
}

// row returns the row of the part at position i of a run.
func (p *partsSource) row(ctx context.Context, run metadata.PartRun, i int) (metadata.Part, error) {
	number := run.First + i
	for len(p.page) > 0 && p.page[0].Number < number {
		p.page = p.page[1:]
	}
	if len(p.page) == 0 {
		// As many as the span still needs of parts of this size, and one more because it may begin inside of one.
		need := min((p.hi-p.lo+run.Size-1)/run.Size+1, int64(p.rows))
		page, err := p.s.catalog.Parts(ctx, p.bucket, p.v.PartsKey, p.v.PartsOf, number-1, int(need))
		if err != nil {
			return metadata.Part{}, fmt.Errorf("read part rows: %w", err)
		}
		p.page, p.rows = page, partRows
	}
	if len(p.page) == 0 || p.page[0].Number != number || p.page[0].Size != run.Size {
		return metadata.Part{}, missingPart(p.v, number)
	}
	row := p.page[0]
	p.page = p.page[1:]
	return row, nil
}

func missingPart(v *metadata.Version, number int) error {
	return fmt.Errorf("row of part %d of version %v of %q is missing or differs: %w", number, v.ID, v.Key, ErrManifest)
}

// collect reads a source to its end.
func collect(ctx context.Context, src source, l *list) error {
	for {
		e, err := src.next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		l.add(e)
	}
}

// slice is extents at hand as a source.
type slice struct{ extents []extent }

func (s *slice) next(context.Context) (extent, error) {
	if len(s.extents) == 0 {
		return extent{}, io.EOF
	}
	e := s.extents[0]
	s.extents = s.extents[1:]
	return e, nil
}

// refsOf returns the chunk references of extents, which are all data.
func refsOf(extents []extent) ([]chunkstore.Ref, int64) {
	refs := make([]chunkstore.Ref, len(extents))
	var n int64
	for i := range extents {
		refs[i] = extents[i].ref
		n += extents[i].len
	}
	return refs, n
}
