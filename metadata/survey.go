package metadata

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// Surveyed is one finding of Survey: exactly one of the pointers is set. Bucket and Key say where it stands.
type Surveyed struct {
	Bucket  BucketID
	Key     string
	Version *Version
	Upload  *Upload
	// Part is a part row, of the upload under way or the version that PartOf names.
	Part   *Part
	PartOf UploadID
	Freed  *Freed
	Stage  *Stage
	Row    *Row
}

// Survey calls fn with everything that the name space holds at one point in time: versions, uploads, freed rows (those
// that wait for sweep are Shared), part rows, stages and opaque rows. Freed rows come before the part rows that go with
// them, for these look like any other. An error of fn ends it.
func (c *Catalog) Survey(ctx context.Context, fn func(Surveyed) error) error {
	if _, err := c.tablet.Barrier(ctx); err != nil {
		return unavailable(err)
	}
	snapshot, err := c.tablet.Snapshot()
	if err != nil {
		return unavailable(err)
	}
	defer snapshot.Close()
	v := surveyor{ctx: ctx, state: state{snapshot}, fn: fn}
	for _, part := range []struct {
		family byte
		row    func(key, value []byte) error
	}{
		{record.FamilyCurrent, v.version}, {record.FamilyVersions, v.version}, {record.FamilyUploads, v.upload},
		{record.FamilyFreed, v.freed}, {record.FamilyWaiting, v.freed}, {record.FamilyParts, v.part},
		{record.FamilyRows, v.row},
	} {
		if err := v.walk(part.family, part.row); err != nil {
			return fmt.Errorf("survey: %w", unavailable(err))
		}
	}
	stages, err := v.stages(kv.Span{Start: record.Local(record.LocalStage), End: record.Local(record.LocalStage + 1)})
	if err != nil {
		return fmt.Errorf("survey: %w", unavailable(err))
	}
	for i := range stages {
		put := stages[i].Put
		if err := fn(Surveyed{Bucket: put.Bucket, Key: put.Version.Key, Stage: &stages[i]}); err != nil {
			return err
		}
	}
	return nil
}

// surveyor is one Survey.
type surveyor struct {
	state
	ctx context.Context
	fn  func(Surveyed) error
}

func (s surveyor) walk(family byte, row func(key, value []byte) error) error {
	it := s.r.Iterate(kv.Span{Start: []byte{family}, End: []byte{family + 1}})
	defer it.Close()
	for it.Next() {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := row(append([]byte(nil), it.Key()...), it.Value()); err != nil {
			return err
		}
	}
	return it.Err()
}

func (s surveyor) version(key, value []byte) error {
	bucket, name, _, err := record.SplitKeyRow(key)
	if err != nil {
		return err
	}
	var r record.Version
	if err := proto.Unmarshal(value, &r); err != nil {
		return err
	}
	body, err := s.body(BucketID(bucket), name, &r)
	if err != nil {
		return fmt.Errorf("version of %q: %w", name, err)
	}
	v := toVersion(name, &r, body)
	v.Latest = key[0] == record.FamilyCurrent
	return s.fn(Surveyed{Bucket: BucketID(bucket), Key: name, Version: &v})
}

func (s surveyor) upload(key, value []byte) error {
	bucket, name, rest, err := record.SplitKeyRow(key)
	if err != nil {
		return err
	}
	id, _, err := record.ParseUploadID(rest)
	if err != nil {
		return err
	}
	var r record.Upload
	if err := proto.Unmarshal(value, &r); err != nil {
		return err
	}
	u := toUpload(name, id, &r)
	return s.fn(Surveyed{Bucket: BucketID(bucket), Key: name, Upload: &u})
}

func (s surveyor) part(key, value []byte) error {
	bucket, name, rest, err := record.SplitKeyRow(key)
	if err != nil {
		return err
	}
	id, rest, err := record.ParseUploadID(rest)
	if err != nil {
		return err
	}
	number, err := record.ParsePartNumber(rest)
	if err != nil {
		return err
	}
	var r record.Part
	if err := proto.Unmarshal(value, &r); err != nil {
		return err
	}
	p := toPart(number, &r)
	return s.fn(Surveyed{Bucket: BucketID(bucket), Key: name, Part: &p, PartOf: toUploadID(id)})
}

func (s surveyor) freed(key, value []byte) error {
	f, r, err := s.freedOf(key, value)
	if err != nil {
		return err
	}
	_, name, _, err := record.SplitKeyRow(key)
	if err != nil {
		return err
	}
	pages, err := s.freedPages(nil, f, r, 0, maxPartNumber)
	if err != nil {
		return err
	}
	for _, page := range pages {
		f.Parts = append(f.Parts, page.Parts...)
	}
	return s.fn(Surveyed{Bucket: f.Bucket, Key: name, Freed: &f})
}

func (s surveyor) row(key, value []byte) error {
	var r record.Row
	if err := proto.Unmarshal(value, &r); err != nil {
		return err
	}
	return s.fn(Surveyed{Row: &Row{Key: key[1:], Value: r.Value, Revision: r.Revision}})
}
