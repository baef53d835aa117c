// Package model is the object path as a few maps: the reference that the real one is compared with, and the store that
// tests of the S3 face run against. It keeps S3's semantics, versioning included, and nothing else: every operation
// holds one mutex and does the obvious thing.
package model

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// Store is the model. Make it with New. All methods may be called concurrently.
type Store struct {
	mu      sync.Mutex
	clock   uint64 // of version and upload ids
	lastID  metadata.BucketID
	buckets map[string]*bucket
	done    map[metadata.UploadID]metadata.Version // uploads that were completed
}

type bucket struct {
	row     metadata.Bucket
	keys    map[string][]*version // newest first, never empty
	uploads map[metadata.UploadID]*upload
}

// version is a record with its bytes; a delete marker has none.
type version struct {
	record metadata.Version
	data   []byte
	parts  []metadata.Part // of an object that was uploaded in parts; Number is the position
}

type upload struct {
	row   metadata.Upload
	parts map[int]*part
}

type part struct {
	row  metadata.Part
	data []byte
}

// New returns an empty store.
func New() *Store {
	return &Store{buckets: map[string]*bucket{}, done: map[metadata.UploadID]metadata.Version{}}
}

// CreateBucket makes a bucket, ErrBucketExists when there is one of that name.
func (s *Store) CreateBucket(_ context.Context, name, owner string) (metadata.Bucket, error) {
	if err := metadata.CheckBucketName(name); err != nil {
		return metadata.Bucket{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets[name] != nil {
		return metadata.Bucket{}, fmt.Errorf("create bucket %s: %w", name, metadata.ErrBucketExists)
	}
	s.lastID++
	b := &bucket{
		row:  metadata.Bucket{ID: s.lastID, Name: name, Created: time.Now(), Owner: owner},
		keys: map[string][]*version{}, uploads: map[metadata.UploadID]*upload{},
	}
	s.buckets[name] = b
	return b.row, nil
}

// Bucket returns a bucket by name.
func (s *Store) Bucket(_ context.Context, name string) (metadata.Bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	if b == nil {
		return metadata.Bucket{}, fmt.Errorf("bucket %s: %w", name, metadata.ErrNoSuchBucket)
	}
	return b.row, nil
}

// Buckets returns all buckets in order of name.
func (s *Store) Buckets(context.Context) ([]metadata.Bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []metadata.Bucket
	for _, name := range slices.Sorted(maps.Keys(s.buckets)) {
		rows = append(rows, s.buckets[name].row)
	}
	return rows, nil
}

// DeleteBucket removes a bucket without versions, and its uploads with it but for internal ones, which keep it.
func (s *Store) DeleteBucket(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	switch {
	case b == nil:
		return fmt.Errorf("delete bucket %s: %w", name, metadata.ErrNoSuchBucket)
	case len(b.keys) > 0 || b.writing():
		return fmt.Errorf("delete bucket %s: %w", name, metadata.ErrBucketNotEmpty)
	}
	delete(s.buckets, name)
	return nil
}

// writing tells whether a mount is writing a file in the bucket.
func (b *bucket) writing() bool {
	for _, u := range b.uploads {
		if u.row.Internal {
			return true
		}
	}
	return false
}

// SetVersioning changes a bucket's versioning.
func (s *Store) SetVersioning(_ context.Context, name string, v metadata.Versioning) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	if b == nil {
		return fmt.Errorf("bucket %s: %w", name, metadata.ErrNoSuchBucket)
	}
	b.row.Versioning = v
	return nil
}

func (s *Store) bucket(id metadata.BucketID) (*bucket, error) {
	for _, b := range s.buckets {
		if b.row.ID == id {
			return b, nil
		}
	}
	return nil, fmt.Errorf("bucket %d: %w", id, metadata.ErrNoSuchBucket)
}

// current is the newest version, nil when there is none or it is a delete marker.
func (b *bucket) current(key string) *version {
	if list := b.keys[key]; len(list) > 0 && !list[0].record.DeleteMarker {
		return list[0]
	}
	return nil
}

// find looks a version up as Store.Open does.
func (b *bucket) find(key string, at multipart.At) (*version, error) {
	list := b.keys[key]
	if at == (multipart.At{}) {
		switch {
		case len(list) == 0:
			return nil, fmt.Errorf("key %q: %w", key, metadata.ErrNoSuchKey)
		case list[0].record.DeleteMarker:
			return nil, fmt.Errorf("key %q: %w: %w", key, metadata.ErrNoSuchKey, metadata.ErrDeleteMarker)
		}
		return list[0], nil
	}
	i := b.index(key, at)
	switch {
	case i < 0:
		return nil, fmt.Errorf("key %q: %w", key, metadata.ErrNoSuchVersion)
	case list[i].record.DeleteMarker:
		return nil, fmt.Errorf("key %q: %w", key, metadata.ErrDeleteMarker)
	}
	return list[i], nil
}

func (b *bucket) index(key string, at multipart.At) int {
	return slices.IndexFunc(b.keys[key], func(v *version) bool {
		return at.Null && v.record.Null || at.Version != nil && v.record.ID == *at.Version
	})
}

// check decides the conditions of a write. What must match and is not there is missing, and no failed condition.
func check(when metadata.If, current *version) error {
	if when.Match != "" && current == nil {
		return metadata.ErrNoSuchKey
	}
	fails := when.Match != "" && when.Match != "*" && current.record.ETag != when.Match
	switch {
	case when.NoneMatch == "*":
		fails = fails || current != nil
	case when.NoneMatch != "":
		fails = fails || current != nil && current.record.ETag == when.NoneMatch
	}
	if fails {
		return metadata.ErrPrecondition
	}
	if when.NoBase && current != nil || !when.Base.IsZero() && (current == nil || current.record.ID != when.Base) {
		return metadata.ErrConflict
	}
	return nil
}

// checkDelete is check, but for S3's answer to an If-Match of a key that is not there.
func checkDelete(when metadata.If, current *version) error {
	if when.Match != "" && current == nil {
		return metadata.ErrPrecondition
	}
	return check(when, current)
}

// commit makes v the newest version of its key, as the bucket's versioning says.
func (s *Store) commit(b *bucket, key string, v *version, when metadata.If) (metadata.Version, error) {
	if err := check(when, b.current(key)); err != nil {
		return metadata.Version{}, fmt.Errorf("put %q: %w", key, err)
	}
	s.clock++
	v.record.Key, v.record.ID = key, metadata.VersionID{Clock: s.clock, Random: 1}
	v.record.Null = b.row.Versioning != metadata.VersioningEnabled
	if v.record.Modified.IsZero() {
		v.record.Modified = time.Now()
	}
	list := b.keys[key]
	if v.record.Null {
		list = slices.DeleteFunc(list, func(old *version) bool { return old.record.Null })
	}
	b.keys[key] = slices.Insert(list, 0, v)
	return b.shown(key, v), nil
}

// shown is the record as reads give it.
func (b *bucket) shown(key string, v *version) metadata.Version {
	r := v.record
	r.Latest = b.keys[key][0] == v
	r.Headers, r.Meta, r.Tags, r.Checksums = maps.Clone(r.Headers), maps.Clone(r.Meta), maps.Clone(r.Tags), maps.Clone(r.Checksums)
	return r
}

// read takes a body in and verifies what it promises.
func read(body multipart.Body) (data []byte, sum [16]byte, checksums map[string]string, err error) {
	if data, err = io.ReadAll(body.Reader); err != nil {
		return nil, sum, nil, fmt.Errorf("read body: %w", err)
	}
	switch {
	case body.Size >= 0 && int64(len(data)) < body.Size:
		return nil, sum, nil, multipart.ErrIncompleteBody
	case body.Size >= 0 && int64(len(data)) > body.Size:
		return nil, sum, nil, multipart.ErrLongBody
	}
	sum = md5.Sum(data)
	if body.Seal != nil {
		checksums, err = body.Seal(sum)
	}
	return data, sum, checksums, err
}

// Put stores an object.
func (s *Store) Put(_ context.Context, p multipart.Put) (metadata.Version, error) {
	data, sum, checksums, err := read(p.Body)
	if err != nil {
		return metadata.Version{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(p.Bucket)
	if err != nil {
		return metadata.Version{}, err
	}
	v := &version{record: template(p.Meta), data: data}
	v.record.Size, v.record.ETag, v.record.Checksums = int64(len(data)), hex.EncodeToString(sum[:]), checksums
	if len(checksums) > 0 {
		v.record.ChecksumType = "FULL_OBJECT"
	}
	return s.commit(b, p.Key, v, p.If)
}

func template(m multipart.Meta) metadata.Version {
	return metadata.Version{Headers: maps.Clone(m.Headers), Meta: maps.Clone(m.User), Tags: maps.Clone(m.Tags), Attr: m.Attr, Modified: m.Modified}
}

// Copy makes an object of another's bytes.
func (s *Store) Copy(_ context.Context, c multipart.Copy) (metadata.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, data, err := s.source(c.Source)
	if err != nil {
		return metadata.Version{}, err
	}
	b, err := s.bucket(c.Bucket)
	if err != nil {
		return metadata.Version{}, err
	}
	v := &version{data: data, parts: from.parts}
	v.record = template(c.Meta)
	if !c.ReplaceMeta {
		v.record.Headers, v.record.Meta, v.record.Attr = maps.Clone(c.HeadersOver(from.record.Headers)), maps.Clone(from.record.Meta), from.record.Attr
	}
	if !c.ReplaceTags {
		v.record.Tags = maps.Clone(from.record.Tags)
	}
	v.record.Size, v.record.ETag = int64(len(data)), from.record.ETag
	v.record.Checksums, v.record.ChecksumType = maps.Clone(from.record.Checksums), from.record.ChecksumType
	if c.Source.Span != nil && len(data) != len(from.data) {
		sum := md5.Sum(data)
		v.record.ETag, v.record.Checksums, v.record.ChecksumType, v.parts = hex.EncodeToString(sum[:]), nil, "", nil
	}
	return s.commit(b, c.Key, v, c.If)
}

// source finds the version and the bytes that a copy names.
func (s *Store) source(src multipart.Source) (*version, []byte, error) {
	b, err := s.bucket(src.Bucket)
	if err != nil {
		return nil, nil, err
	}
	v, err := b.find(src.Key, multipart.At{Version: src.Version, Null: src.Null})
	if err != nil {
		return nil, nil, err
	}
	if src.Check != nil {
		if err := src.Check(b.shown(src.Key, v)); err != nil {
			return nil, nil, err
		}
	}
	if src.Span == nil {
		return v, v.data, nil
	}
	span := *src.Span
	if span.Len < 0 {
		span.Len = int64(len(v.data)) - span.Off
	}
	if span.Off < 0 || span.Len < 0 || span.Off+span.Len > int64(len(v.data)) {
		return nil, nil, multipart.ErrSpan
	}
	return v, v.data[span.Off : span.Off+span.Len], nil
}

// Delete removes a version, or writes a delete marker.
func (s *Store) Delete(_ context.Context, d metadata.Delete) (metadata.Deleted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(d.Bucket)
	if err != nil {
		return metadata.Deleted{}, err
	}
	if err := checkDelete(d.If, b.current(d.Key)); err != nil {
		return metadata.Deleted{}, fmt.Errorf("delete %q: %w", d.Key, err)
	}
	if d.Empty {
		for key := range b.keys {
			if key != d.Key && strings.HasPrefix(key, d.Key) && b.current(key) != nil {
				return metadata.Deleted{}, fmt.Errorf("delete %q: %w", d.Key, metadata.ErrDirNotEmpty)
			}
		}
	}
	if d.Version != nil || d.Null {
		return b.drop(d.Key, multipart.At{Version: d.Version, Null: d.Null}), nil
	}
	if b.row.Versioning == metadata.Unversioned {
		return b.drop(d.Key, multipart.At{Null: true}), nil
	}
	found := b.current(d.Key) != nil
	marker, err := s.commit(b, d.Key, &version{record: metadata.Version{DeleteMarker: true}}, metadata.If{})
	return metadata.Deleted{Version: marker.ID, Null: marker.Null, DeleteMarker: true, Found: found}, err
}

// drop removes one version for good.
func (b *bucket) drop(key string, at multipart.At) metadata.Deleted {
	i := b.index(key, at)
	if i < 0 {
		d := metadata.Deleted{Null: at.Null}
		if at.Version != nil {
			d.Version = *at.Version
		}
		return d
	}
	gone := b.keys[key][i].record
	if b.keys[key] = slices.Delete(b.keys[key], i, i+1); len(b.keys[key]) == 0 {
		delete(b.keys, key)
	}
	return metadata.Deleted{Version: gone.ID, Null: gone.Null, DeleteMarker: gone.DeleteMarker, Found: true}
}

// SetTags replaces the tags of a version and returns it.
func (s *Store) SetTags(_ context.Context, id metadata.BucketID, key string, at multipart.At, tags map[string]string) (metadata.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(id)
	if err != nil {
		return metadata.Version{}, err
	}
	v, err := b.find(key, at)
	if err != nil {
		return metadata.Version{}, err
	}
	v.record.Tags = maps.Clone(tags)
	return b.shown(key, v), nil
}

// marker is the delete marker that find met.
func (b *bucket) marker(key string, at multipart.At) metadata.Version {
	if at == (multipart.At{}) {
		return b.keys[key][0].record
	}
	return b.keys[key][b.index(key, at)].record
}

// Open opens a version for reading.
func (s *Store) Open(_ context.Context, id metadata.BucketID, key string, at multipart.At) (multipart.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(id)
	if err != nil {
		return nil, err
	}
	v, err := b.find(key, at)
	if errors.Is(err, metadata.ErrDeleteMarker) {
		return nil, &multipart.MarkerError{Marker: b.marker(key, at), Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &object{version: *v, shown: b.shown(key, v)}, nil
}

// object is an open version; its bytes never change.
type object struct {
	version
	shown metadata.Version
}

func (o *object) Version() metadata.Version { return o.shown }

func (o *object) Read(_ context.Context, span multipart.Span) io.ReadCloser {
	end := span.Off + span.Len
	if span.Len < 0 {
		end = int64(len(o.data))
	}
	return io.NopCloser(bytes.NewReader(o.data[span.Off:end]))
}

func (o *object) PartSpan(_ context.Context, n int) (multipart.Span, int, error) {
	if len(o.parts) == 0 && n == 1 {
		return multipart.Span{Len: int64(len(o.data))}, 0, nil
	}
	if n < 1 || n > len(o.parts) {
		return multipart.Span{}, 0, fmt.Errorf("part %d of %d: %w", n, len(o.parts), metadata.ErrInvalidPart)
	}
	var off int64
	for _, p := range o.parts[:n-1] {
		off += p.Size
	}
	return multipart.Span{Off: off, Len: o.parts[n-1].Size}, len(o.parts), nil
}

func (o *object) Parts(_ context.Context, after, max int) ([]metadata.Part, error) {
	if after >= len(o.parts) || max <= 0 {
		return nil, nil
	}
	return slices.Clone(o.parts[after:min(len(o.parts), after+max)]), nil
}

func (o *object) Close() error { return nil }
