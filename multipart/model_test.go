package multipart_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/tests/model"
)

// face is what the S3 face needs of a store; the model has it too.
type face interface {
	CreateBucket(ctx context.Context, name, owner string) (metadata.Bucket, error)
	SetVersioning(ctx context.Context, name string, v metadata.Versioning) error
	Put(ctx context.Context, p multipart.Put) (metadata.Version, error)
	Open(ctx context.Context, bucket metadata.BucketID, key string, at multipart.At) (multipart.Object, error)
	Copy(ctx context.Context, c multipart.Copy) (metadata.Version, error)
	Delete(ctx context.Context, d metadata.Delete) (metadata.Deleted, error)
	ListVersions(ctx context.Context, l metadata.ListVersions) (metadata.VersionsPage, error)
	SetTags(ctx context.Context, bucket metadata.BucketID, key string, at multipart.At, tags map[string]string) (metadata.Version, error)
	CreateUpload(ctx context.Context, c multipart.CreateUpload) (metadata.Upload, error)
	PutPart(ctx context.Context, p multipart.PutPart) (metadata.Part, error)
	CopyPart(ctx context.Context, c multipart.CopyPart) (metadata.Part, error)
	Complete(ctx context.Context, c metadata.Complete) (metadata.Version, error)
	Abort(ctx context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) error
}

var (
	_ face = (*multipart.Store)(nil)
	_ face = (*model.Store)(nil)
)

// side is one of the two stores under the same operations. Ids differ between them, so versions and uploads are named
// by the order in which they were made.
type side struct {
	t        *testing.T
	store    face
	bucket   metadata.BucketID
	versions []metadata.VersionID
	uploads  []metadata.Upload
}

// answer is what both sides must agree on.
type answer struct {
	err    error
	size   int64
	etag   string
	null   bool
	marker bool
	found  bool
	body   string
}

// sentinels are the errors that are compared; any two others are equal.
var sentinels = []error{
	metadata.ErrNoSuchKey, metadata.ErrNoSuchVersion, metadata.ErrNoSuchUpload, metadata.ErrPrecondition,
	metadata.ErrConflict, metadata.ErrInvalidPart, metadata.ErrDeleteMarker, multipart.ErrSpan,
}

func kindOf(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s
		}
	}
	return err
}

// action is one operation with its random choices made.
type action struct {
	op        int
	key, to   string
	body      []byte
	n         int // of a version, an upload, a part
	null      bool
	condition int
	replace   bool
}

var modelKeys = []string{"a", "a/b", "b", "a//", "é"}

func draw(rng *rand.Rand, versions, uploads int) action {
	a := action{
		op: rng.IntN(13), key: modelKeys[rng.IntN(len(modelKeys))], to: modelKeys[rng.IntN(len(modelKeys))], null: rng.IntN(8) == 0,
		condition: rng.IntN(8), replace: rng.IntN(2) == 0,
	}
	size := []int{0, 100, multipart.DefaultInline, 20_000, 70_000, 600_000}[rng.IntN(6)]
	a.body = storetest.Body(rng.Uint64(), size)
	switch {
	case a.op >= 8 && uploads > 0:
		a.n = rng.IntN(uploads)
	case a.op < 8 && versions > 0:
		a.n = rng.IntN(versions)
	}
	return a
}

func (s *side) at(a action) multipart.At {
	if a.null || len(s.versions) == 0 {
		return multipart.At{Null: true}
	}
	return multipart.At{Version: &s.versions[a.n]}
}

func (s *side) condition(a action) metadata.If {
	switch a.condition {
	case 0:
		return metadata.If{NoneMatch: "*"}
	case 1:
		return metadata.If{NoBase: true}
	case 2:
		if len(s.versions) > 0 {
			return metadata.If{Base: s.versions[len(s.versions)-1]}
		}
	}
	return metadata.If{}
}

func (s *side) made(v metadata.Version, err error) answer {
	if err == nil {
		s.versions = append(s.versions, v.ID)
	}
	return answer{err: err, size: v.Size, etag: v.ETag, null: v.Null}
}

func (s *side) do(a action) answer {
	ctx := s.t.Context()
	switch a.op {
	case 0, 1:
		return s.made(s.store.Put(ctx, multipart.Put{Bucket: s.bucket, Key: a.key, Body: sized(a.body), If: s.condition(a)}))
	case 2:
		return s.made(s.store.Copy(ctx, multipart.Copy{
			Source: multipart.Source{Bucket: s.bucket, Key: a.key}, Bucket: s.bucket, Key: a.to, If: s.condition(a),
			ReplaceMeta: a.replace, Meta: multipart.Meta{User: map[string]string{"x-amz-meta-a": a.key}},
		}))
	case 3:
		at := s.at(a)
		return s.made(s.store.Copy(ctx, multipart.Copy{
			Source: multipart.Source{Bucket: s.bucket, Key: a.key, Version: at.Version, Null: at.Null}, Bucket: s.bucket, Key: a.to,
		}))
	case 4:
		return s.deleted(s.store.Delete(ctx, metadata.Delete{Bucket: s.bucket, Key: a.key}))
	case 5:
		at := s.at(a)
		return s.deleted(s.store.Delete(ctx, metadata.Delete{Bucket: s.bucket, Key: a.key, Version: at.Version, Null: at.Null}))
	case 6:
		_, err := s.store.SetTags(ctx, s.bucket, a.key, multipart.At{}, map[string]string{"t": a.to})
		return answer{err: err}
	case 7:
		return s.read(a.key, s.at(a))
	}
	return s.upload(a)
}

func (s *side) upload(a action) answer {
	ctx := s.t.Context()
	if a.op == 8 || len(s.uploads) == 0 {
		u, err := s.store.CreateUpload(ctx, multipart.CreateUpload{
			Bucket: s.bucket, Key: a.key, Internal: true, ChecksumAlgorithm: "SHA256", ChecksumType: "COMPOSITE",
		})
		if err == nil {
			s.uploads = append(s.uploads, u)
		}
		return answer{err: err}
	}
	u := s.uploads[a.n]
	number := 1 + len(a.to)%3
	switch a.op {
	case 9, 10:
		p, err := s.store.PutPart(ctx, multipart.PutPart{Bucket: s.bucket, Key: u.Key, Upload: u.ID, Number: number, Body: sized(a.body)})
		return answer{err: err, size: p.Size, etag: p.ETag}
	case 11:
		p, err := s.store.CopyPart(ctx, multipart.CopyPart{
			Bucket: s.bucket, Key: u.Key, Upload: u.ID, Number: number, Source: multipart.Source{Bucket: s.bucket, Key: a.key},
		})
		if kindOf(err) == metadata.ErrNoSuchUpload {
			err = metadata.ErrNoSuchKey // when both are missing, either may be named
		}
		return answer{err: err, size: p.Size, etag: p.ETag}
	}
	if a.condition == 7 {
		return answer{err: s.store.Abort(ctx, s.bucket, u.Key, u.ID)}
	}
	if a.condition > 3 {
		return answer{}
	}
	v, err := s.store.Complete(ctx, metadata.Complete{
		Bucket: s.bucket, Key: u.Key, Upload: u.ID, MinPartSize: -1, Parts: []metadata.CompletePart{{Number: 1}, {Number: 2}},
	})
	return s.made(v, err)
}

func (s *side) deleted(d metadata.Deleted, err error) answer {
	if err == nil && d.DeleteMarker {
		s.versions = append(s.versions, d.Version)
	}
	return answer{err: err, null: d.Null && d.Found, marker: d.DeleteMarker, found: d.Found}
}

func (s *side) read(key string, at multipart.At) answer {
	o, err := s.store.Open(s.t.Context(), s.bucket, key, at)
	if err != nil {
		return answer{err: err}
	}
	v := o.Version()
	r := o.Read(s.t.Context(), multipart.Span{Len: -1})
	body, err := io.ReadAll(r)
	err = errors.Join(err, r.Close(), o.Close())
	return answer{err: err, size: v.Size, etag: v.ETag, null: v.Null, body: string(body)}
}

func (s *side) history() []metadata.Version {
	s.t.Helper()
	page, err := s.store.ListVersions(s.t.Context(), metadata.ListVersions{Bucket: s.bucket, Max: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Versions
}

// compare tells how the two sides differ in all that they hold.
func compare(a, b *side) error {
	av, bv := a.history(), b.history()
	if len(av) != len(bv) {
		return fmt.Errorf("%d versions and %d", len(av), len(bv))
	}
	for i := range av {
		v, w := &av[i], &bv[i]
		if v.Key != w.Key || v.Null != w.Null || v.DeleteMarker != w.DeleteMarker || v.Latest != w.Latest || v.Size != w.Size ||
			v.ETag != w.ETag || !maps.Equal(v.Meta, w.Meta) || !maps.Equal(v.Tags, w.Tags) {
			return fmt.Errorf("version %d is %+v and %+v", i, v, w)
		}
		x, y := a.read(v.Key, multipart.At{Version: &v.ID}), b.read(w.Key, multipart.At{Version: &w.ID})
		if x.err, y.err = kindOf(x.err), kindOf(y.err); x != y {
			return fmt.Errorf("version %d of %q reads as %d bytes (%v) and %d (%v)", i, v.Key, len(x.body), x.err, len(y.body), y.err)
		}
	}
	return nil
}

// TestStoreEqualsItsModel does random operations on the store and on the model, in buckets of every versioning, and
// compares every answer and all that is held. Meanwhile freed chunks are deleted as fast as the rules allow.
func TestStoreEqualsItsModel(t *testing.T) {
	for seed := range uint64(15) {
		versioning := metadata.Versioning(seed % 3)
		t.Run(fmt.Sprintf("seed %d versioning %d", seed, versioning), func(t *testing.T) {
			k := newKit(t)
			sides := [2]*side{{t: t, store: k.Store}, {t: t, store: model.New()}}
			for _, s := range sides {
				b, err := s.store.CreateBucket(t.Context(), "both", "tester")
				if err != nil {
					t.Fatal(err)
				}
				s.bucket = b.ID
			}
			rng := rand.New(rand.NewPCG(seed, 9))
			for i := range 120 {
				if versioning != metadata.Unversioned && (i == 20 || i == 70) {
					// A suspended bucket had versioning on before.
					state := metadata.VersioningEnabled
					if i == 70 {
						state = versioning
					}
					for _, s := range sides {
						if err := s.store.SetVersioning(t.Context(), "both", state); err != nil {
							t.Fatal(err)
						}
					}
				}
				a := draw(rng, len(sides[0].versions), len(sides[0].uploads))
				got, want := sides[0].do(a), sides[1].do(a)
				got.err, want.err = kindOf(got.err), kindOf(want.err)
				if got != want {
					t.Fatalf("step %d, %+v:\n got %+v\nwant %+v", i, a.op, got, want)
				}
				if i%10 == 9 {
					k.Settle()
					if err := compare(sides[0], sides[1]); err != nil {
						t.Fatalf("after step %d: %v", i, err)
					}
				}
			}
			for _, u := range sides[0].uploads {
				if err := k.Store.Abort(t.Context(), sides[0].bucket, u.Key, u.ID); err != nil && !errors.Is(err, metadata.ErrNoSuchUpload) {
					t.Fatal(err)
				}
			}
			k.Settle()
			k.WantClean()
		})
	}
}
