package metadata

import (
	"context"
	"fmt"
)

// Looked is what a name stands for where keys are paths: an object, a directory, both or neither.
type Looked struct {
	// Object is the current version of the key itself, Marker that of the key with a slash; nil when there is none. As in
	// listings, neither says where its bytes are.
	Object, Marker *Version
	// Below tells that a current key begins with the key and a slash.
	Below bool
}

// Look answers a path lookup by one read: a mount asks it for every name of every path, so it costs what three gets
// would cost once, and reads no content.
func (c *Catalog) Look(ctx context.Context, bucket BucketID, key string) (Looked, error) {
	s, err := c.read(ctx)
	if err != nil {
		return Looked{}, err
	}
	looked, err := s.look(bucket, key)
	if err != nil {
		return Looked{}, fmt.Errorf("look up %q: %w", key, unavailable(err))
	}
	return looked, nil
}

func (s state) look(bucket BucketID, key string) (found Looked, err error) {
	if _, err := s.bucket(bucket); err != nil {
		return Looked{}, err
	}
	if key != "" {
		if found.Object, err = s.head(bucket, key); err != nil {
			return Looked{}, err
		}
	}
	if found.Marker, err = s.head(bucket, key+"/"); err != nil {
		return Looked{}, err
	}
	if found.Below = found.Marker != nil; !found.Below {
		found.Below, err = s.anyBelow(bucket, key+"/", false)
	}
	return found, err
}

// head is the current version of a key without its body; nil when there is none.
func (s state) head(bucket BucketID, key string) (*Version, error) {
	r, err := s.current(bucket, key)
	if r == nil {
		return nil, err
	}
	v := toVersion(key, r, nil)
	v.Latest = true
	return &v, nil
}
