package metadata

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/metadata/record"
)

const (
	// minPartSize is S3's least size of a part but the last.
	minPartSize = 5 << 20
	// maxObjectSize is S3's limit.
	maxObjectSize = 5 << 40
)

// Complete makes an upload the current version of its key, in one commit that names the part rows: no row moves, so
// ten thousand parts cost one small command. Parts that are not listed are freed. For ResultsFor after, a repeated
// Complete answers with the version that the first one made.
func (c *Catalog) Complete(ctx context.Context, p Complete) (Version, error) {
	var made Version
	spans := []latchSpan{keyLatch(p.Bucket, p.Key), uploadLatch(p.Bucket, p.Upload)}
	out, err := c.write(ctx, p.Op.or(ctx), spans, func(e *evaluation) error {
		u, err := e.upload(p.Bucket, p.Key, p.Upload)
		if errors.Is(err, ErrNoSuchUpload) {
			before, readErr := e.completedBefore(p.Bucket, p.Key, p.Upload)
			if readErr != nil || before == nil || toTime(before.Expires).Before(e.now) {
				return errors.Join(err, readErr)
			}
			made = toVersion(p.Key, before.Version, nil)
			return nil
		}
		if err != nil {
			return err
		}
		v, body, err := e.complete(p, u)
		if err == nil {
			made = toVersion(p.Key, v, body)
		}
		return err
	})
	if err != nil {
		return Version{}, fmt.Errorf("complete upload of %q: %w", p.Key, err)
	}
	if out.repeated {
		return c.changedBefore(ctx, p.Bucket, p.Key, out.Result)
	}
	made.Latest = true
	return made, nil
}

func (e *evaluation) complete(p Complete, u *record.Upload) (*record.Version, *record.Body, error) {
	t, err := e.target(p.Bucket, p.Key)
	if err != nil {
		return nil, nil, err
	}
	if err := p.If.check(t.current); err != nil {
		return nil, nil, err
	}
	a := assembly{request: p, left: leftovers{sizes: make(map[int]int64)}, digest: make([]byte, 0, md5.Size*len(p.Parts))}
	if err := a.gather(e); err != nil {
		return nil, nil, err
	}
	v := proto.Clone(u.Template).(*record.Version)
	if v.Id, err = e.newID(); err != nil {
		return nil, nil, err
	}
	a.describe(v, e.now)
	body := &record.Body{Parts: a.runs, PartsOf: fromUploadID(p.Upload), PartsKey: []byte(p.Key)}
	if err := e.install(t, v, body, nil); err != nil {
		return nil, nil, err
	}
	if err := e.freeParts(p.Bucket, p.Key, p.Upload, &a.left); err != nil {
		return nil, nil, err
	}
	usage := t.usage(e)
	usage.Parts -= int64(len(p.Parts))
	usage.PartBytes -= a.size
	e.endUpload(p.Bucket, p.Key, p.Upload, u)
	e.remember(p, v)
	return v, body, nil
}

// assembly checks the parts of a Complete against the rows and puts them together.
type assembly struct {
	request Complete
	next    int // of request.Parts
	failed  error
	runs    []*record.Run
	size    int64
	digest  []byte // the MD5 of the parts, one after the other
	shared  bool
	left    leftovers
}

// gather goes over the rows and the list together: both ascend.
func (a *assembly) gather(e *evaluation) error {
	p := a.request
	if len(p.Parts) == 0 {
		return fmt.Errorf("no part is listed: %w", ErrInvalidPart)
	}
	for i := range p.Parts {
		if i > 0 && p.Parts[i].Number <= p.Parts[i-1].Number {
			return fmt.Errorf("part %d after part %d: %w", p.Parts[i].Number, p.Parts[i-1].Number, ErrInvalidPartOrder)
		}
	}
	if err := e.parts(p.Bucket, p.Key, p.Upload, 0, a.row); err != nil {
		return err
	}
	if a.failed == nil && a.next < len(p.Parts) {
		a.failed = fmt.Errorf("part %d: %w: %w", p.Parts[a.next].Number, ErrInvalidPart, errMissingPart)
	}
	if a.failed == nil && a.size > maxObjectSize {
		a.failed = fmt.Errorf("%d bytes: %w", a.size, ErrObjectTooLarge)
	}
	return a.failed
}

// row takes one part row.
func (a *assembly) row(number int, part *record.Part) bool {
	listed := a.request.Parts
	if a.next == len(listed) || number < listed[a.next].Number {
		return a.left.add(number, part)
	}
	want := listed[a.next]
	if number > want.Number {
		a.failed = fmt.Errorf("part %d: %w: %w", want.Number, ErrInvalidPart, errMissingPart)
		return false
	}
	if a.failed = a.verify(want, part, a.next == len(listed)-1); a.failed != nil {
		return false
	}
	a.next++
	if last := len(a.runs) - 1; last >= 0 && int(a.runs[last].First+a.runs[last].Count) == number && a.runs[last].Size == part.Size {
		a.runs[last].Count++
	} else {
		a.runs = append(a.runs, &record.Run{First: uint32(number), Count: 1, Size: part.Size})
	}
	a.size += part.Size
	a.shared = a.shared || part.Shared
	return true
}

// verify checks one listed part and adds its MD5.
func (a *assembly) verify(want CompletePart, part *record.Part, last bool) error {
	least := a.request.MinPartSize
	if least == 0 {
		least = minPartSize
	}
	switch {
	case part.Adopted:
		return fmt.Errorf("part %d belongs to a version: %w", want.Number, ErrInvalidPart)
	case want.ETag != "" && want.ETag != string(part.Etag):
		return fmt.Errorf("part %d: etag differs: %w", want.Number, ErrInvalidPart)
	case !last && part.Size < least:
		return fmt.Errorf("part %d of %d bytes: %w", want.Number, part.Size, ErrPartTooSmall)
	}
	if len(want.Checksums) > 0 {
		stored := toMap[string](part.Checksums)
		for algorithm, value := range want.Checksums {
			if stored[algorithm] != value {
				return fmt.Errorf("part %d: %s checksum differs: %w", want.Number, algorithm, ErrInvalidPart)
			}
		}
	}
	digest, err := hex.AppendDecode(a.digest, part.Etag)
	if err != nil || len(digest) != len(a.digest)+md5.Size {
		return fmt.Errorf("part %d: stored etag %q is no MD5: %w", want.Number, part.Etag, ErrInvalidPart)
	}
	a.digest = digest
	return nil
}

// describe fills in what the version says of itself.
func (a *assembly) describe(v *record.Version, now time.Time) {
	p := a.request
	sum := md5.Sum(a.digest)
	v.Etag = strconv.AppendInt(append(hex.AppendEncode(nil, sum[:]), '-'), int64(len(p.Parts)), 10)
	v.Size, v.Shared = a.size, a.shared
	v.Modified = modifiedOr(p.Modified, now)
	if p.Checksums != nil {
		v.Checksums = fromMap(p.Checksums)
	}
	if p.ChecksumType != "" {
		v.ChecksumType = []byte(p.ChecksumType)
	}
	if p.Attr != nil {
		v.Attr = fromAttr(p.Attr)
	}
}

// remember leaves the result row that answers a repeated Complete.
func (e *evaluation) remember(p Complete, v *record.Version) {
	expires := e.now.Add(e.c.config.ResultsFor)
	row := record.UploadRow(record.FamilyResult, uint64(p.Bucket), p.Key, fromUploadID(p.Upload))
	e.plan.PutRecord(row, &record.Completed{Version: summary(v), Expires: fromTime(expires)})
	e.plan.Put(append(record.Local(record.LocalExpires, uint64(expires.UnixNano())), row...), nil)
	e.answer(v)
	e.plan.Result.Version = summary(v)
}
