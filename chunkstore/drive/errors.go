package drive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/holdfast/holdfast/chunkstore"
)

// isNoSpace tells the errors of a full file system or quota from failures.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isRot tells errors of the medium at one place from errors of the whole drive.
func isRot(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENODATA) ||
		errors.Is(err, syscall.EILSEQ) || errors.Is(err, syscall.EUCLEAN)
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// readError turns an error of reading a record into one of the contract.
func readError(err error) error {
	switch {
	case errors.Is(err, chunkstore.ErrDamaged) || errors.Is(err, chunkstore.ErrDriveDown):
		return err
	case isRot(err) || errors.Is(err, errPage) || errors.Is(err, errFormat):
		return fmt.Errorf("%w: %w", chunkstore.ErrDamaged, err)
	}
	return fmt.Errorf("%w: %w", chunkstore.ErrDriveDown, err)
}

// writeError turns an error of writing into one of the contract.
func writeError(err error) error {
	switch {
	case errors.Is(err, chunkstore.ErrFull) || errors.Is(err, chunkstore.ErrDriveDown):
		return err
	case isNoSpace(err):
		return fmt.Errorf("%w: %w", chunkstore.ErrFull, err)
	}
	return fmt.Errorf("%w: %w", chunkstore.ErrDriveDown, err)
}
