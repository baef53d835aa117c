package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// table maps what the object path says to what a mount says. The first match counts.
var table = [...]struct{ from, to error }{
	{metadata.ErrNoSuchKey, tree.ErrNotExist},
	{metadata.ErrNoSuchVersion, tree.ErrNotExist},
	{metadata.ErrNoSuchUpload, tree.ErrNotExist},
	{metadata.ErrNoSuchBucket, tree.ErrNotExist},
	{metadata.ErrDeleteMarker, tree.ErrNotExist},
	{metadata.ErrInvalidPart, tree.ErrNotExist},
	{metadata.ErrConflict, tree.ErrConflict},
	{metadata.ErrPrecondition, tree.ErrConflict},
	{metadata.ErrExists, tree.ErrExists},
	{metadata.ErrDirNotEmpty, tree.ErrDirNotEmpty},
	{metadata.ErrKeyLength, tree.ErrNameTooLong},
	{metadata.ErrObjectTooLarge, tree.ErrTooLarge},
	{metadata.ErrTooLarge, tree.ErrTooMuch},
	{metadata.ErrBadRename, tree.ErrInvalid},
	{multipart.ErrSpan, tree.ErrInvalid},
	{multipart.ErrPartNumber, tree.ErrInvalid},
	{multipart.ErrIncompleteBody, tree.ErrInvalid},
	{multipart.ErrLongBody, tree.ErrInvalid},
	{chunkstore.ErrFull, tree.ErrNoSpace},
	{metadata.ErrUnavailable, tree.ErrUnavailable},
	{chunkstore.ErrSlowDown, tree.ErrUnavailable},
}

// translate wraps an error of the object path with the sentinel of the tree that fits it, ErrIO for all others. Errors
// of contexts pass, and so do those that the tree knows already.
func translate(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for _, row := range table {
		if errors.Is(err, row.from) {
			return fmt.Errorf("%w: %w", row.to, err)
		}
	}
	return fmt.Errorf("%w: %w", tree.ErrIO, err)
}

// published is translate for a write with a condition: of a key that had to be absent, a conflict says that it exists.
func published(err error, c tree.Cond) error {
	if c.Absent && errors.Is(err, metadata.ErrConflict) {
		return fmt.Errorf("%w: %w", tree.ErrExists, err)
	}
	return translate(err)
}
