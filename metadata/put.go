package metadata

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/metadata/record"
)

// Put commits p.Version as the current version of its key and returns the stored record. A retry with the same Op
// returns what the first try stored, if it is still there, so that the caller can tell whether its own bytes are named.
func (c *Catalog) Put(ctx context.Context, p Put) (Version, error) {
	if err := p.validate(); err != nil {
		return Version{}, err
	}
	spans := append(p.spans(), keyLatch(p.Bucket, p.Version.Key))
	if p.Unstage.Inode != 0 {
		spans = append(spans, stageLatch(p.Unstage))
	}
	var stored Version
	out, err := c.write(ctx, p.Op.or(ctx), spans, func(e *evaluation) error {
		v, body, err := e.put(p)
		if err != nil {
			return err
		}
		if p.Unstage.Inode != 0 {
			if err := e.dropStage(p.Unstage, nil); err != nil {
				return err
			}
		}
		stored = toVersion(p.Version.Key, v, body)
		return nil
	})
	if err != nil {
		return Version{}, fmt.Errorf("put %q: %w", p.Version.Key, err)
	}
	if out.repeated {
		return c.storedBefore(ctx, p, out.Result)
	}
	stored.Latest = true
	return stored, nil
}

// errPartsOfAnother says that a Put names part rows that are not its base's: they belong to another version.
var errPartsOfAnother = errors.New("put: the part rows belong to another version")

func (p Put) validate() error {
	if err := checkKey(p.Version.Key); err != nil {
		return err
	}
	switch {
	case p.Keeps && p.If.Base == (VersionID{}):
		return errors.New("put: Keeps needs If.Base")
	case p.Version.DeleteMarker:
		return errors.New("put: a delete marker is made by Delete")
	case p.Version.Size < 0:
		return errors.New("put: negative size")
	}
	return nil
}

// spans are what a Put touches beside its own key.
func (p Put) spans() []latchSpan {
	var spans []latchSpan
	if len(p.Adopts) > 0 {
		spans = append(spans, uploadLatch(p.Bucket, p.AdoptsOf))
	}
	for _, row := range p.Intents {
		spans = append(spans, rowLatch(row.Key))
	}
	return spans
}

// put evaluates a Put and returns what it stores.
func (e *evaluation) put(p Put) (*record.Version, *record.Body, error) {
	t, err := e.target(p.Bucket, p.Version.Key)
	if err != nil {
		return nil, nil, err
	}
	if err := p.If.check(t.current); err != nil {
		return nil, nil, err
	}
	v, body := fromVersion(p.Version)
	if v.Id, err = e.newID(); err != nil {
		return nil, nil, err
	}
	v.Modified = modifiedOr(p.Version.Modified, e.now)
	keeps, err := e.inherits(p, t, body)
	if err != nil {
		return nil, nil, err
	}
	if len(body.Parts) > 0 && (keeps == nil || !keeps.rows) {
		return nil, nil, errPartsOfAnother
	}
	if err := e.adopts(p); err != nil {
		return nil, nil, err
	}
	if err := e.install(t, v, body, keeps); err != nil {
		return nil, nil, err
	}
	if err := e.putRows(p.Intents); err != nil {
		return nil, nil, err
	}
	e.answer(v)
	return v, body, nil
}

// answer is the result of a write that made or removed a version.
func (e *evaluation) answer(v *record.Version) {
	e.plan.Result.Id, e.plan.Result.Null, e.plan.Result.Modified = v.Id, v.Null, v.Modified
	e.plan.Result.DeleteMarker, e.plan.Result.Found = v.DeleteMarker, true
}

func (e *evaluation) inherits(p Put, t target, body *record.Body) (*inheritance, error) {
	if !p.Keeps {
		return nil, nil
	}
	old, err := e.body(t.bucket, t.key, t.current)
	if err != nil {
		return nil, err
	}
	return &inheritance{dropped: p.Dropped, rows: sameRows(old, body)}, nil
}

// adopts marks the parts that a version takes over.
func (e *evaluation) adopts(p Put) error {
	key := p.AdoptsKey
	if key == "" {
		key = p.Version.Key
	}
	seen := make(map[int]bool, len(p.Adopts))
	for _, a := range p.Adopts {
		part, err := e.part(p.Bucket, key, p.AdoptsOf, a.Number)
		if err != nil {
			return err
		}
		if part == nil || seen[a.Number] {
			return fmt.Errorf("part %d to adopt: %w", a.Number, ErrInvalidPart)
		}
		seen[a.Number] = true
		e.plan.Adopt(record.PartRow(uint64(p.Bucket), key, fromUploadID(p.AdoptsOf), a.Number), a.Rest)
	}
	return nil
}

// storedBefore is the answer to a repeated Put.
func (c *Catalog) storedBefore(ctx context.Context, p Put, result *record.Result) (Version, error) {
	v, err := c.Version(ctx, p.Bucket, p.Version.Key, toID(result.Id), false)
	if err == nil {
		return v, nil
	}
	if !errors.Is(err, ErrNoSuchVersion) && !errors.Is(err, ErrNoSuchBucket) {
		return Version{}, unsure(err) // it happened, whatever keeps its record from being read
	}
	// It was stored and is gone again. Its bytes are not this try's to name.
	v = p.Version
	v.ID, v.Null, v.Modified = toID(result.Id), result.Null, toTime(result.Modified)
	v.Inline, v.Manifest, v.Parts, v.PartsOf, v.PartsKey = nil, nil, nil, UploadID{}, ""
	return v, nil
}
