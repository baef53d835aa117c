package metadata

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// state reads records of the tablet.
type state struct {
	r kv.Reader
}

// get decodes one row into m and tells whether it is there.
func (s state) get(row []byte, m proto.Message) (bool, error) {
	v, err := s.r.Get(row)
	if errors.Is(err, kv.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		err = proto.Unmarshal(v, m)
	}
	if err != nil {
		return false, fmt.Errorf("read row %x: %w", row, err)
	}
	return true, nil
}

// bucket returns what the tablet knows of a bucket, ErrNoSuchBucket when it is not there or on its way out.
func (s state) bucket(id BucketID) (*record.Bucket, error) {
	var b record.Bucket
	found, err := s.get(record.Local(record.LocalBucket, uint64(id)), &b)
	if err == nil && (!found || b.Fenced) {
		err = fmt.Errorf("bucket %d: %w", id, ErrNoSuchBucket)
	}
	return &b, err
}

// current returns the current version of a key, nil when there is none.
func (s state) current(bucket BucketID, key string) (*record.Version, error) {
	var v record.Version
	found, err := s.get(record.KeyRow(record.FamilyCurrent, uint64(bucket), key), &v)
	if !found {
		return nil, err
	}
	return &v, nil
}

// noncurrent returns a noncurrent version or marker, nil when it is not there.
func (s state) noncurrent(bucket BucketID, key string, id *record.ID) (*record.Version, error) {
	var v record.Version
	found, err := s.get(versionRow(bucket, key, id), &v)
	if !found {
		return nil, err
	}
	return &v, nil
}

// newestNoncurrent returns up to max of the newest noncurrent versions and markers of a key.
func (s state) newestNoncurrent(bucket BucketID, key string, max int) ([]*record.Version, error) {
	prefix := record.KeyRow(record.FamilyVersions, uint64(bucket), key)
	it := s.r.Iterate(kv.Span{Start: prefix, End: record.After(prefix)})
	defer it.Close()
	var out []*record.Version
	for len(out) < max && it.Next() {
		v := new(record.Version)
		if err := proto.Unmarshal(it.Value(), v); err != nil {
			return nil, fmt.Errorf("read row %x: %w", it.Key(), err)
		}
		out = append(out, v)
	}
	return out, it.Err()
}

// nullID returns the id of the null version if it is noncurrent, else nil.
func (s state) nullID(bucket BucketID, key string) (*record.ID, error) {
	var id record.ID
	found, err := s.get(record.KeyRow(record.FamilyNull, uint64(bucket), key), &id)
	if !found {
		return nil, err
	}
	return &id, nil
}

// find returns a version or marker by id, or the null version, and whether it is the current one; nil when it is not
// there. The zero id without null means the current version.
func (s state) find(bucket BucketID, key string, id *record.ID, null bool) (v *record.Version, isCurrent bool, err error) {
	current, err := s.current(bucket, key)
	if err != nil {
		return nil, false, err
	}
	if current != nil && ((null && current.Null) || (!null && sameID(current.Id, id))) {
		return current, true, nil
	}
	if null {
		if id, err = s.nullID(bucket, key); err != nil || id == nil {
			return nil, false, err
		}
	}
	v, err = s.noncurrent(bucket, key, id)
	return v, false, err
}

// body returns what the bytes of a version are.
func (s state) body(bucket BucketID, key string, v *record.Version) (*record.Body, error) {
	if !v.Overflow {
		if v.Body == nil {
			return &record.Body{}, nil
		}
		return v.Body, nil
	}
	var b record.Body
	found, err := s.get(bodyRow(bucket, key, v.Id), &b)
	if err == nil && !found {
		err = errBodyGone
	}
	return &b, err
}

// errBodyGone says that the body of a version is not there: between two reads the version was replaced.
var errBodyGone = errors.New("body row is gone")

// anyBelow tells whether a current key begins with prefix, other than the prefix itself if except is set.
func (s state) anyBelow(bucket BucketID, prefix string, except bool) (bool, error) {
	rows := record.PrefixRows(record.FamilyCurrent, uint64(bucket), prefix)
	if prefix == "" {
		rows = record.BucketPrefix(record.FamilyCurrent, uint64(bucket))
	}
	it := s.r.Iterate(kv.Span{Start: rows, End: record.After(rows)})
	defer it.Close()
	for it.Next() {
		_, key, _, err := record.SplitKeyRow(it.Key())
		if err != nil {
			return false, err
		}
		if !except || key != prefix {
			return true, nil
		}
	}
	return false, it.Err()
}

// upload returns the header of an upload under way, ErrNoSuchUpload when there is none.
func (s state) upload(bucket BucketID, key string, id UploadID) (*record.Upload, error) {
	var u record.Upload
	found, err := s.get(record.UploadRow(record.FamilyUploads, uint64(bucket), key, fromUploadID(id)), &u)
	if err == nil && !found {
		err = fmt.Errorf("upload %v of key %q: %w", id, key, ErrNoSuchUpload)
	}
	return &u, err
}

// part returns one part row, nil when there is none.
func (s state) part(bucket BucketID, key string, id UploadID, number int) (*record.Part, error) {
	var p record.Part
	found, err := s.get(record.PartRow(uint64(bucket), key, fromUploadID(id), number), &p)
	if !found {
		return nil, err
	}
	return &p, nil
}

// parts calls fn with the parts of an upload whose numbers are above after, in order, until it returns false.
func (s state) parts(bucket BucketID, key string, id UploadID, after int, fn func(number int, p *record.Part) bool) error {
	prefix := record.UploadRow(record.FamilyParts, uint64(bucket), key, fromUploadID(id))
	start := prefix
	if after > 0 {
		start = record.PartRow(uint64(bucket), key, fromUploadID(id), after+1)
	}
	it := s.r.Iterate(kv.Span{Start: start, End: record.After(prefix)})
	defer it.Close()
	for it.Next() {
		number, err := record.ParsePartNumber(it.Key()[len(prefix):])
		if err != nil {
			return fmt.Errorf("part row %x: %w", it.Key(), err)
		}
		p := new(record.Part)
		if err := proto.Unmarshal(it.Value(), p); err != nil {
			return fmt.Errorf("part row %x: %w", it.Key(), err)
		}
		if !fn(number, p) {
			return nil
		}
	}
	return it.Err()
}

func currentRow(bucket BucketID, key string) []byte {
	return record.KeyRow(record.FamilyCurrent, uint64(bucket), key)
}

func versionRow(bucket BucketID, key string, id *record.ID) []byte {
	return record.VersionRow(record.FamilyVersions, uint64(bucket), key, id.GetClock(), id.GetRandom())
}

func bodyRow(bucket BucketID, key string, id *record.ID) []byte {
	return record.VersionRow(record.FamilyBody, uint64(bucket), key, id.GetClock(), id.GetRandom())
}

func nullRow(bucket BucketID, key string) []byte {
	return record.KeyRow(record.FamilyNull, uint64(bucket), key)
}
