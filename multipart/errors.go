package multipart

import (
	"errors"

	"github.com/holdfast/holdfast/metadata"
)

// Errors of this floor, beside those of metadata and chunkstore, which pass through.
var (
	// ErrIncompleteBody says that a body ended before its declared length. Nothing of it is visible.
	ErrIncompleteBody = errors.New("body is shorter than its declared length")
	// ErrLongBody says that a body went on after its declared length. Nothing of it is visible.
	ErrLongBody = errors.New("body is longer than its declared length")
	// ErrSpan says that a span does not lie inside the object or part.
	ErrSpan = errors.New("span lies outside of the object")
	// ErrPartNumber says that a part number is not in 1..MaxParts.
	ErrPartNumber = errors.New("part number is not in 1..10,000")
)

// refusals are the answers of the catalog that prove that a commit did not happen and never will. ErrUnavailable and
// ErrSessionFenced are none: the command may have been applied before the answer was lost.
var refusals = [...]error{
	metadata.ErrNoSuchBucket, metadata.ErrNoSuchKey, metadata.ErrNoSuchVersion, metadata.ErrNoSuchUpload,
	metadata.ErrPrecondition, metadata.ErrConflict, metadata.ErrExists, metadata.ErrInvalidPart,
	metadata.ErrObjectTooLarge, metadata.ErrKeyLength, metadata.ErrTooLarge,
}

// refused tells whether err proves that nothing was committed, nor will be.
func refused(err error) bool {
	var doubt metadata.MayFollow
	if errors.As(err, &doubt) {
		return false
	}
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}
