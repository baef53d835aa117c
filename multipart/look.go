package multipart

import (
	"context"

	"github.com/holdfast/holdfast/metadata"
)

// Look tells what a name stands for where keys are paths. Its versions do not say where their bytes are.
func (s *Store) Look(ctx context.Context, bucket metadata.BucketID, key string) (metadata.Looked, error) {
	return s.catalog.Look(ctx, bucket, key)
}
