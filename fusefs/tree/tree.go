// Package tree turns names into keys: a mounted bucket as a tree of files with handles, attributes and dirty data.
// It knows neither the kernel (package fusefs does) nor the network (Objects does), so it is model-checked alone.
package tree

import "errors"

// Errors of this floor; fusefs maps each to an errno in one table.
var (
	ErrNotExist    = errors.New("no such file")
	ErrExists      = errors.New("file exists")
	ErrConflict    = errors.New("file was changed elsewhere")
	ErrDirNotEmpty = errors.New("directory is not empty")
	ErrNoSpace     = errors.New("no space is left")
	ErrAccess      = errors.New("access is denied")
	ErrTooLarge    = errors.New("file is too large")
	ErrNameTooLong = errors.New("name is too long")
	ErrReadOnly    = errors.New("mount is read-only")
	ErrIO          = errors.New("input/output error")
	ErrQuota       = errors.New("quota is exhausted")
	ErrIsDir       = errors.New("is a directory")
	ErrNotDir      = errors.New("is not a directory")
	ErrInvalid     = errors.New("invalid argument")
	ErrPermission  = errors.New("operation is not permitted")
	ErrUnsupported = errors.New("operation is not supported")
	ErrBadHandle   = errors.New("bad file handle")
	ErrStale       = errors.New("file is no longer there")
	ErrNoAttr      = errors.New("no such attribute")
	ErrNoData      = errors.New("no data at or after this offset")
	ErrTooMuch     = errors.New("attributes are too large")
)
