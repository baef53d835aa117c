package metadata

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// maxPartNumber is S3's limit.
const maxPartNumber = 10_000

// CreateUpload begins an upload and returns it with its id. An internal upload of an Op's session ends with the
// session.
func (c *Catalog) CreateUpload(ctx context.Context, bucket BucketID, u Upload, op Op) (Upload, error) {
	if err := checkKey(u.Key); err != nil {
		return Upload{}, err
	}
	out, err := c.write(ctx, op.or(ctx), []latchSpan{keyLatch(bucket, u.Key)}, func(e *evaluation) error {
		if _, err := e.bucket(bucket); err != nil {
			return err
		}
		clock, err := e.tick()
		if err != nil {
			return err
		}
		random, err := c.random()
		if err != nil {
			return err
		}
		u.ID = UploadID{clock, random}
		if u.Started.IsZero() {
			u.Started = e.now
		}
		var session uint64
		if u.Internal && op.Session != 0 {
			session = op.Session
			e.plan.Put(ownedUploadRow(session, bucket, u.Key, u.ID), nil)
		}
		id := fromUploadID(u.ID)
		e.plan.PutRecord(record.UploadRow(record.FamilyUploads, uint64(bucket), u.Key, id), fromUpload(u, session))
		e.plan.Usage(uint64(bucket)).Uploads++
		e.plan.Result.Upload, e.plan.Result.Modified = id, fromTime(u.Started)
		return nil
	})
	if err != nil {
		return Upload{}, fmt.Errorf("create upload of %q: %w", u.Key, err)
	}
	u.ID, u.Started = toUploadID(out.Upload), toTime(out.Modified)
	return u, nil
}

// Upload returns the header of an upload under way, ErrNoSuchUpload when there is none.
func (c *Catalog) Upload(ctx context.Context, bucket BucketID, key string, id UploadID) (Upload, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Upload{}, err
	}
	u, err := s.upload(bucket, key, id)
	if err != nil {
		return Upload{}, unavailable(err)
	}
	return toUpload(key, fromUploadID(id), u), nil
}

// PutPart stores a part and returns the stored record. It replaces the part of the same number, whose chunks are
// freed: all of them, or where a version adopted it, its Rest.
func (c *Catalog) PutPart(ctx context.Context, bucket BucketID, key string, id UploadID, p Part, intents []Row, op Op) (Part, error) {
	if p.Number < 1 || p.Number > maxPartNumber {
		return Part{}, fmt.Errorf("part %d: %w", p.Number, ErrInvalidPart)
	}
	p.Adopted, p.Rest = false, nil
	spans := append(Put{Intents: intents}.spans(), partLatch(bucket, id, p.Number))
	out, err := c.write(ctx, op.or(ctx), spans, func(e *evaluation) error {
		if _, err := e.upload(bucket, key, id); err != nil {
			return err
		}
		old, err := e.part(bucket, key, id, p.Number)
		if err != nil {
			return err
		}
		usage := e.plan.Usage(uint64(bucket))
		if old != nil {
			usage.Parts--
			usage.PartBytes -= old.Size
			if err := e.freeManifest(bucket, key, old.Shared, ownManifest(old)); err != nil {
				return err
			}
		}
		usage.Parts++
		usage.PartBytes += p.Size
		if p.Modified.IsZero() {
			p.Modified = e.now
		}
		e.plan.PutRecord(record.PartRow(uint64(bucket), key, fromUploadID(id), p.Number), fromPart(p))
		e.plan.Result.Modified = fromTime(p.Modified)
		return e.putRows(intents)
	})
	if err != nil {
		return Part{}, fmt.Errorf("put part %d of %q: %w", p.Number, key, err)
	}
	if out.repeated {
		return c.partBefore(ctx, bucket, key, id, p, out.Result)
	}
	p.Modified = toTime(out.Modified)
	return p, nil
}

// ownManifest is what a part's row is the only one to name.
func ownManifest(p *record.Part) []byte {
	if p.Adopted {
		return p.Rest
	}
	return p.Manifest
}

// partBefore is the answer to a repeated PutPart: the row as it is now, or without its bytes when it is gone.
func (c *Catalog) partBefore(ctx context.Context, bucket BucketID, key string, id UploadID, p Part, result *record.Result) (Part, error) {
	var stored *record.Part
	s, err := c.read(ctx)
	if err == nil {
		stored, err = s.part(bucket, key, id, p.Number)
	}
	if err != nil {
		return Part{}, unsure(err) // it happened, whatever keeps its record from being read
	}
	if stored == nil || toTime(stored.Modified) != toTime(result.Modified) || string(stored.Etag) != p.ETag {
		p.Modified, p.Manifest, p.Inline = toTime(result.Modified), nil, nil
		return p, nil
	}
	return toPart(p.Number, stored), nil
}

// Parts returns up to max parts with numbers above after, in order: of an upload under way, or of the version that it
// became (Version.PartsKey and PartsOf). max 0 means all.
func (c *Catalog) Parts(ctx context.Context, bucket BucketID, key string, id UploadID, after, max int) ([]Part, error) {
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	var parts []Part
	err = s.parts(bucket, key, id, after, func(number int, p *record.Part) bool {
		parts = append(parts, toPart(number, p))
		return max == 0 || len(parts) < max
	})
	return parts, unavailable(err)
}

// Uploads returns one page of the uploads under way, internal ones not included.
func (c *Catalog) Uploads(ctx context.Context, l ListUploads) (UploadsPage, error) {
	s, err := c.read(ctx)
	if err != nil {
		return UploadsPage{}, err
	}
	if _, err := s.bucket(l.Bucket); err != nil {
		return UploadsPage{}, err
	}
	page, err := s.uploads(l)
	if err != nil {
		return UploadsPage{}, fmt.Errorf("list uploads below %q: %w", l.Prefix, unavailable(err))
	}
	return page, nil
}

func (s state) uploads(l ListUploads) (UploadsPage, error) {
	var page UploadsPage
	if l.Max <= 0 {
		return page, nil
	}
	w := newWalk(s.r, record.FamilyUploads, l.Bucket, l.Prefix, l.Delimiter)
	defer w.close()
	if l.AfterUpload != (UploadID{}) && l.AfterKey >= l.Prefix {
		w.seek(append(record.UploadRow(record.FamilyUploads, uint64(l.Bucket), l.AfterKey, fromUploadID(l.AfterUpload)), 0))
	} else {
		w.start(l.AfterKey)
	}
	for w.ok() {
		var u record.Upload
		if err := proto.Unmarshal(w.it.Value(), &u); err != nil {
			return UploadsPage{}, fmt.Errorf("read row %x: %w", w.it.Key(), err)
		}
		if u.Internal {
			w.next()
			continue
		}
		if len(page.Uploads)+len(page.Prefixes) == l.Max {
			page.Truncated = true
			return page, nil
		}
		if w.common != "" {
			page.Prefixes = append(page.Prefixes, w.common)
			page.NextKey, page.NextUpload = w.common, UploadID{}
			w.skip(w.common)
			continue
		}
		id, _, err := record.ParseUploadID(w.rest)
		if err != nil {
			return UploadsPage{}, err
		}
		page.Uploads = append(page.Uploads, toUpload(w.key, id, &u))
		page.NextKey, page.NextUpload = w.key, toUploadID(id)
		w.next()
	}
	page.NextKey, page.NextUpload = "", UploadID{}
	return page, w.err
}

// Abort ends an upload and frees its parts.
func (c *Catalog) Abort(ctx context.Context, bucket BucketID, key string, id UploadID, op Op) error {
	return c.abort(ctx, bucket, key, id, op.or(ctx))
}

func (c *Catalog) abort(ctx context.Context, bucket BucketID, key string, id UploadID, op Op) error {
	_, err := c.write(ctx, op, []latchSpan{keyLatch(bucket, key), uploadLatch(bucket, id)}, func(e *evaluation) error {
		u, err := e.upload(bucket, key, id)
		if err != nil {
			return err
		}
		return e.abort(bucket, key, id, u)
	})
	if err != nil {
		return fmt.Errorf("abort upload of %q: %w", key, err)
	}
	return nil
}

func (e *evaluation) abort(bucket BucketID, key string, id UploadID, u *record.Upload) error {
	left := leftovers{sizes: make(map[int]int64)}
	if err := e.parts(bucket, key, id, 0, left.add); err != nil {
		return err
	}
	if err := e.freeParts(bucket, key, id, &left); err != nil {
		return err
	}
	e.endUpload(bucket, key, id, u)
	return nil
}

// endUpload removes the header of an upload.
func (e *evaluation) endUpload(bucket BucketID, key string, id UploadID, u *record.Upload) {
	e.plan.Delete(record.UploadRow(record.FamilyUploads, uint64(bucket), key, fromUploadID(id)))
	if u.Session != 0 {
		e.plan.Delete(ownedUploadRow(u.Session, bucket, key, id))
	}
	e.plan.Usage(uint64(bucket)).Uploads--
}

// leftovers gathers the parts of an upload that no version takes.
type leftovers struct {
	own, shared []int // the numbers whose chunks are the part's own, and those that were made by reference
	adopted     []int // whose chunks went to a version
	rests       [][]byte
	sizes       map[int]int64
	bytes       int64
}

func (l *leftovers) add(number int, p *record.Part) bool {
	l.sizes[number] = p.Size
	l.bytes += p.Size
	switch {
	case p.Adopted:
		l.adopted = append(l.adopted, number)
		if len(p.Rest) > 0 {
			l.rests = append(l.rests, p.Rest)
		}
	case p.Shared:
		l.shared = append(l.shared, number)
	default:
		l.own = append(l.own, number)
	}
	return true
}

// freeParts frees parts that no version takes. Their rows stay until the freed rows that name them are dropped, so the
// command is small; the rows of adopted parts go at once.
func (e *evaluation) freeParts(bucket BucketID, key string, id UploadID, left *leftovers) error {
	size := func(number int) int64 { return left.sizes[number] }
	for _, group := range []struct {
		numbers []int
		shared  bool
	}{{left.own, false}, {left.shared, true}} {
		if len(group.numbers) == 0 {
			continue
		}
		err := e.freeRow(bucket, key, group.shared, &record.Freed{
			Parts: runsOf(group.numbers, size), PartsOf: fromUploadID(id), PartsKey: []byte(key),
		})
		if err != nil {
			return err
		}
	}
	for _, rest := range left.rests {
		if err := e.freeManifest(bucket, key, false, rest); err != nil {
			return err
		}
	}
	for _, number := range left.adopted {
		e.plan.Delete(record.PartRow(uint64(bucket), key, fromUploadID(id), number))
	}
	usage := e.plan.Usage(uint64(bucket))
	usage.Parts -= int64(len(left.sizes))
	usage.PartBytes -= left.bytes
	return nil
}

// completedBefore returns the result row of an upload, nil when there is none.
func (s state) completedBefore(bucket BucketID, key string, id UploadID) (*record.Completed, error) {
	var r record.Completed
	found, err := s.get(record.UploadRow(record.FamilyResult, uint64(bucket), key, fromUploadID(id)), &r)
	if !found {
		return nil, err
	}
	return &r, nil
}

// pruneResults removes result rows whose time is over, at most max of them, and returns how many.
func (c *Catalog) pruneResults(ctx context.Context, max int) (int, error) {
	pruned := 0
	_, err := c.write(ctx, Op{}, []latchSpan{one("results")}, func(e *evaluation) error {
		pruned = 0
		span := kv.Span{
			Start: record.Local(record.LocalExpires),
			End:   record.Local(record.LocalExpires, uint64(e.now.UnixNano())),
		}
		it := e.r.Iterate(span)
		defer it.Close()
		for pruned < max && it.Next() {
			_, row, err := record.LocalNumbers(it.Key(), 1)
			if err != nil {
				return err
			}
			e.plan.Delete(append([]byte(nil), row...))
			e.plan.Delete(append([]byte(nil), it.Key()...))
			pruned++
		}
		return it.Err()
	})
	return pruned, err
}

var errMissingPart = errors.New("it was not uploaded")
