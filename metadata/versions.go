package metadata

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/metadata/record"
)

// maxKey is S3's limit of a key in bytes.
const maxKey = 1024

// inlineBody is the largest body in bytes that stands in the current record itself. Listings read those records, so a
// larger body stands apart, in family e.
const inlineBody = 512

func checkKey(key string) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("key of %d bytes: %w", len(key), ErrKeyLength)
	}
	return nil
}

// check decides the conditions against the current version, nil when there is none.
func (i If) check(current *record.Version) error {
	switch {
	case i.NoBase && current != nil:
		return fmt.Errorf("the key has a current version: %w", ErrConflict)
	case i.Base != (VersionID{}) && (current == nil || !sameID(current.Id, fromID(i.Base))):
		return fmt.Errorf("version %v is not the current one: %w", i.Base, ErrConflict)
	case i.Match != "" && current == nil:
		return fmt.Errorf("if-match on a key that does not exist: %w", ErrNoSuchKey)
	case i.Match != "" && i.Match != "*" && string(current.Etag) != i.Match:
		return fmt.Errorf("if-match: %w", ErrPrecondition)
	case i.NoneMatch == "*" && current != nil:
		return fmt.Errorf("if-none-match *: %w", ErrPrecondition)
	case i.NoneMatch != "" && i.NoneMatch != "*" && current != nil && string(current.Etag) == i.NoneMatch:
		return fmt.Errorf("if-none-match: %w", ErrPrecondition)
	}
	return nil
}

// target is a key whose versions a write changes.
type target struct {
	bucket     BucketID
	versioning Versioning
	key        string
	current    *record.Version // as it was read; nil when there is none
}

// target reads what a write on a key needs.
func (e *evaluation) target(bucket BucketID, key string) (target, error) {
	b, err := e.bucket(bucket)
	if err != nil {
		return target{}, err
	}
	current, err := e.current(bucket, key)
	return target{bucket, Versioning(b.Versioning), key, current}, err
}

func (t target) usage(e *evaluation) *record.Usage { return e.plan.Usage(uint64(t.bucket)) }

// inheritance says that the new version takes over chunks of the current one: dropped is what it does not.
type inheritance struct {
	dropped []byte
	// rows is set where the part rows are taken over as they are, too.
	rows bool
}

// install makes v with its body the current version. The previous one is retained, or replaced where both are null
// versions; its bytes are freed then, but for what keeps says. A nil body means that v says already where its body is.
func (e *evaluation) install(t target, v *record.Version, body *record.Body, keeps *inheritance) error {
	v.Null = t.versioning != VersioningEnabled
	if keeps != nil {
		v.Lineage = lineage(t.current)
	}
	if err := e.clearFor(t, v, keeps); err != nil {
		return err
	}
	row := currentRow(t.bucket, t.key)
	if body != nil {
		e.setBody(t, v, body)
	}
	e.plan.PutRecord(row, v)
	u := t.usage(e)
	u.Objects++
	u.Bytes += v.Size
	return nil
}

// setBody puts the body of v into its record, or into a row of its own when it is large.
func (e *evaluation) setBody(t target, v *record.Version, body *record.Body) {
	v.Body, v.Overflow, v.BytesOnly = nil, false, false
	switch size := proto.Size(body); {
	case size > inlineBody:
		v.Overflow, v.BytesOnly = true, !names(body)
		e.plan.PutRecord(bodyRow(t.bucket, t.key, v.Id), body)
	case size > 0:
		v.Body = body
	}
}

// names tells whether a body leads to chunks.
func names(body *record.Body) bool { return len(body.Manifest) > 0 || len(body.Parts) > 0 }

// clearFor takes the current version out of the way of v.
func (e *evaluation) clearFor(t target, v *record.Version, keeps *inheritance) error {
	if t.current != nil && keeps != nil {
		// What is inherited from a version that lent chunks may be named elsewhere.
		v.Shared = v.Shared || t.current.Shared
	}
	switch {
	case t.current == nil:
	case v.Null && t.current.Null:
		return e.replaced(t, v, keeps)
	default:
		if keeps != nil {
			v.Shared, t.current.Shared = true, true
		}
		e.retain(t)
	}
	if v.Null {
		return e.dropNull(t)
	}
	return nil
}

// replaced frees the current null version that v replaces.
func (e *evaluation) replaced(t target, v *record.Version, keeps *inheritance) error {
	u := t.usage(e)
	u.Objects--
	u.Bytes -= t.current.Size
	if keeps == nil {
		return e.free(t.bucket, t.key, t.current)
	}
	body, err := e.body(t.bucket, t.key, t.current)
	if err != nil {
		return err
	}
	if t.current.Overflow {
		e.plan.Delete(bodyRow(t.bucket, t.key, t.current.Id))
	}
	base := &record.Freed{Lineage: lineage(t.current), Version: t.current.Id}
	if len(keeps.dropped) > 0 {
		dropped := proto.Clone(base).(*record.Freed)
		dropped.Manifest = keeps.dropped
		if err := e.freeRow(t.bucket, t.key, t.current.Shared, dropped); err != nil {
			return err
		}
	}
	if len(body.Parts) > 0 && !keeps.rows {
		base.Parts, base.PartsOf, base.PartsKey, base.RowsOnly = body.Parts, body.PartsOf, body.PartsKey, true
		return e.freeRow(t.bucket, t.key, false, base)
	}
	return nil
}

// retain makes the current version a noncurrent one.
func (e *evaluation) retain(t target) {
	e.plan.PutRecord(versionRow(t.bucket, t.key, t.current.Id), t.current)
	if t.current.Null {
		e.plan.PutRecord(nullRow(t.bucket, t.key), t.current.Id)
	}
	u := t.usage(e)
	u.Objects--
	u.Bytes -= t.current.Size
	u.Versions++
	u.VersionBytes += t.current.Size
}

// dropNull removes the noncurrent null version, if there is one: a new null version takes its place.
func (e *evaluation) dropNull(t target) error {
	if t.current != nil && t.current.Null {
		return nil // there is only one null version
	}
	id, err := e.nullID(t.bucket, t.key)
	if err != nil || id == nil {
		return err
	}
	old, err := e.noncurrent(t.bucket, t.key, id)
	if err != nil || old == nil {
		return err
	}
	e.plan.Delete(nullRow(t.bucket, t.key))
	return e.removeNoncurrent(t, old)
}

// removeNoncurrent removes a noncurrent version or marker for good.
func (e *evaluation) removeNoncurrent(t target, v *record.Version) error {
	e.plan.Delete(versionRow(t.bucket, t.key, v.Id))
	u := t.usage(e)
	u.Versions--
	u.VersionBytes -= v.Size
	return e.free(t.bucket, t.key, v)
}

// removeCurrent removes the current version for good.
func (e *evaluation) removeCurrent(t target) error {
	e.plan.Delete(currentRow(t.bucket, t.key))
	u := t.usage(e)
	u.Objects--
	u.Bytes -= t.current.Size
	return e.free(t.bucket, t.key, t.current)
}

// mark puts a delete marker above all versions of a key. The current version must have been taken away by the plan.
func (e *evaluation) mark(t target) (*record.Version, error) {
	id, err := e.newID()
	if err != nil {
		return nil, err
	}
	marker := &record.Version{
		Id: id, DeleteMarker: true, Null: t.versioning != VersioningEnabled, Modified: fromTime(e.now),
	}
	if marker.Null {
		if err := e.dropNull(t); err != nil {
			return nil, err
		}
		e.plan.PutRecord(nullRow(t.bucket, t.key), id)
	}
	e.plan.PutRecord(versionRow(t.bucket, t.key, id), marker)
	t.usage(e).Versions++
	return marker, nil
}

// promote makes the newest noncurrent version the current one, if it is an object.
func (e *evaluation) promote(t target, newest *record.Version) {
	if newest == nil || newest.DeleteMarker {
		return
	}
	e.plan.Delete(versionRow(t.bucket, t.key, newest.Id))
	e.plan.PutRecord(currentRow(t.bucket, t.key), newest)
	if newest.Null {
		e.plan.Delete(nullRow(t.bucket, t.key))
	}
	u := t.usage(e)
	u.Versions--
	u.VersionBytes -= newest.Size
	u.Objects++
	u.Bytes += newest.Size
}

// free writes the freed row of a version that goes.
func (e *evaluation) free(bucket BucketID, key string, v *record.Version) error {
	if v.Overflow {
		e.plan.Delete(bodyRow(bucket, key, v.Id))
	}
	if v.BytesOnly {
		return nil
	}
	body, err := e.body(bucket, key, v)
	if err != nil {
		return err
	}
	if !names(body) {
		return nil
	}
	return e.freeRow(bucket, key, v.Shared, &record.Freed{
		Manifest: body.Manifest, Parts: body.Parts, PartsOf: body.PartsOf, PartsKey: body.PartsKey,
		Lineage: lineage(v), Version: v.Id,
	})
}

// freeManifest writes a freed row of chunks that no reader can have begun to read.
func (e *evaluation) freeManifest(bucket BucketID, key string, shared bool, manifest []byte) error {
	if len(manifest) == 0 {
		return nil
	}
	return e.freeRow(bucket, key, shared, &record.Freed{Manifest: manifest})
}

func (e *evaluation) freeRow(bucket BucketID, key string, shared bool, f *record.Freed) error {
	if e.stamp == 0 {
		stamp, err := e.tick()
		if err != nil {
			return err
		}
		e.stamp = stamp
	}
	e.freed++
	family := byte(record.FamilyFreed)
	if shared {
		family = record.FamilyWaiting
	}
	notBefore := e.now.Add(e.c.config.FreeAfter).UnixNano()
	e.plan.PutRecord(record.FreedRow(family, uint64(bucket), key, notBefore, e.stamp, e.freed), f)
	return nil
}

func lineage(v *record.Version) *record.ID {
	if v.Lineage != nil {
		return v.Lineage
	}
	return v.Id
}

// runsOf gathers part numbers in ascending order into runs of equal size.
func runsOf(numbers []int, size func(number int) int64) []*record.Run {
	var runs []*record.Run
	for _, n := range numbers {
		if last := len(runs) - 1; last >= 0 && int(runs[last].First+runs[last].Count) == n && runs[last].Size == size(n) {
			runs[last].Count++
			continue
		}
		runs = append(runs, &record.Run{First: uint32(n), Count: 1, Size: size(n)})
	}
	return runs
}

// summary is a version's record without its body, for a result row.
func summary(v *record.Version) *record.Version {
	s := proto.Clone(v).(*record.Version)
	s.Body, s.Overflow, s.BytesOnly = nil, false, false
	return s
}

// modifiedOr gives a time its default.
func modifiedOr(t, now time.Time) *record.Time {
	if t.IsZero() {
		return fromTime(now)
	}
	return fromTime(t)
}

// sameRows tells whether two versions consist of the same part rows.
func sameRows(a, b *record.Body) bool {
	return len(a.Parts) > 0 && string(a.PartsKey) == string(b.PartsKey) && proto.Equal(a.PartsOf, b.PartsOf) &&
		slices.EqualFunc(a.Parts, b.Parts, func(x, y *record.Run) bool { return proto.Equal(x, y) })
}
