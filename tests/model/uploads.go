package model

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// CreateUpload starts an upload.
func (s *Store) CreateUpload(_ context.Context, c multipart.CreateUpload) (metadata.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(c.Bucket)
	if err != nil {
		return metadata.Upload{}, err
	}
	s.clock++
	u := &upload{parts: map[int]*part{}, row: metadata.Upload{
		ID: metadata.UploadID{Clock: s.clock, Random: 1}, Key: c.Key, Started: time.Now(), Owner: c.Meta.Owner,
		Template: template(c.Meta), ChecksumAlgorithm: c.ChecksumAlgorithm, Internal: c.Internal,
	}}
	u.row.Template.ChecksumType = c.ChecksumType
	b.uploads[u.row.ID] = u
	return u.row, nil
}

func (s *Store) upload(id metadata.BucketID, key string, up metadata.UploadID) (*bucket, *upload, error) {
	b, err := s.bucket(id)
	if err != nil {
		return nil, nil, err
	}
	u := b.uploads[up]
	if u == nil || u.row.Key != key {
		return nil, nil, fmt.Errorf("upload %v of %q: %w", up, key, metadata.ErrNoSuchUpload)
	}
	return b, u, nil
}

// Upload returns an upload's row.
func (s *Store) Upload(_ context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) (metadata.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, u, err := s.upload(bucket, key, id)
	if err != nil {
		return metadata.Upload{}, err
	}
	return u.row, nil
}

// PutPart stores a part.
func (s *Store) PutPart(_ context.Context, p multipart.PutPart) (metadata.Part, error) {
	data, sum, checksums, err := read(p.Body)
	if err != nil {
		return metadata.Part{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putPart(p.Bucket, p.Key, p.Upload, p.Number, data, sum, checksums)
}

func (s *Store) putPart(bucket metadata.BucketID, key string, id metadata.UploadID, number int, data []byte, sum [16]byte, checksums map[string]string) (metadata.Part, error) {
	_, u, err := s.upload(bucket, key, id)
	if err != nil {
		return metadata.Part{}, err
	}
	if number < 1 || number > multipart.MaxParts {
		return metadata.Part{}, multipart.ErrPartNumber
	}
	row := metadata.Part{Number: number, Size: int64(len(data)), ETag: hex.EncodeToString(sum[:]), Modified: time.Now(), Checksums: checksums}
	u.parts[number] = &part{row, data}
	return row, nil
}

// CopyPart makes a part of another object's bytes.
func (s *Store) CopyPart(_ context.Context, c multipart.CopyPart) (metadata.Part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, data, err := s.source(c.Source)
	if err != nil {
		return metadata.Part{}, err
	}
	return s.putPart(c.Bucket, c.Key, c.Upload, c.Number, data, md5.Sum(data), nil)
}

// Parts lists the parts of an upload by number.
func (s *Store) Parts(_ context.Context, bucket metadata.BucketID, key string, id metadata.UploadID, after, max int) ([]metadata.Part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, u, err := s.upload(bucket, key, id)
	if err != nil {
		return nil, err
	}
	var rows []metadata.Part
	for _, number := range slices.Sorted(maps.Keys(u.parts)) {
		if number > after && len(rows) < max {
			rows = append(rows, u.parts[number].row)
		}
	}
	return rows, nil
}

// Complete makes an object of an upload. Asked again, it answers the same.
func (s *Store) Complete(_ context.Context, c metadata.Complete) (metadata.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, done := s.done[c.Upload]; done && v.Key == c.Key {
		return v, nil
	}
	b, u, err := s.upload(c.Bucket, c.Key, c.Upload)
	if err != nil {
		return metadata.Version{}, err
	}
	least := c.MinPartSize
	if least == 0 {
		least = multipart.MinPart
	}
	v := &version{record: u.row.Template}
	var sums []byte
	for i, want := range c.Parts {
		if i > 0 && want.Number <= c.Parts[i-1].Number {
			return metadata.Version{}, metadata.ErrInvalidPartOrder
		}
		p := u.parts[want.Number]
		if p == nil || want.ETag != "" && want.ETag != p.row.ETag {
			return metadata.Version{}, fmt.Errorf("part %d: %w", want.Number, metadata.ErrInvalidPart)
		}
		for name, value := range want.Checksums {
			if p.row.Checksums[name] != value {
				return metadata.Version{}, fmt.Errorf("part %d: %w", want.Number, metadata.ErrInvalidPart)
			}
		}
		if i < len(c.Parts)-1 && p.row.Size < least {
			return metadata.Version{}, fmt.Errorf("part %d: %w", want.Number, metadata.ErrPartTooSmall)
		}
		sum, err := hex.DecodeString(p.row.ETag)
		if err != nil {
			return metadata.Version{}, err
		}
		sums = append(sums, sum...)
		row := p.row
		row.Number = i + 1
		v.parts, v.data = append(v.parts, row), append(v.data, p.data...)
	}
	total := md5.Sum(sums)
	v.record.ETag = fmt.Sprintf("%s-%d", hex.EncodeToString(total[:]), len(c.Parts))
	v.record.Size, v.record.Checksums = int64(len(v.data)), c.Checksums
	if c.ChecksumType != "" || len(c.Checksums) == 0 {
		v.record.ChecksumType = c.ChecksumType
	}
	if c.Attr != nil {
		v.record.Attr = c.Attr
	}
	v.record.Modified = c.Modified
	made, err := s.commit(b, c.Key, v, c.If)
	if err != nil {
		return made, err
	}
	delete(b.uploads, c.Upload)
	s.done[c.Upload] = made
	return made, nil
}

// Abort ends an upload.
func (s *Store) Abort(_ context.Context, bucket metadata.BucketID, key string, id metadata.UploadID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _, err := s.upload(bucket, key, id)
	if err != nil {
		return err
	}
	delete(b.uploads, id)
	return nil
}
