package fusefs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// errnos is the whole translation from errors to what programs see. The first match counts.
var errnos = [...]struct {
	err   error
	errno syscall.Errno
}{
	{tree.ErrNotExist, syscall.ENOENT},
	{tree.ErrExists, syscall.EEXIST},
	{tree.ErrConflict, syscall.ESTALE},
	{tree.ErrDirNotEmpty, syscall.ENOTEMPTY},
	{tree.ErrNoSpace, syscall.ENOSPC},
	{tree.ErrQuota, syscall.EDQUOT},
	{tree.ErrAccess, syscall.EACCES},
	{tree.ErrTooLarge, syscall.EFBIG},
	{tree.ErrNameTooLong, syscall.ENAMETOOLONG},
	{tree.ErrReadOnly, syscall.EROFS},
	{tree.ErrIsDir, syscall.EISDIR},
	{tree.ErrNotDir, syscall.ENOTDIR},
	{tree.ErrInvalid, syscall.EINVAL},
	{tree.ErrPermission, syscall.EPERM},
	{tree.ErrUnsupported, syscall.EOPNOTSUPP},
	{tree.ErrBadHandle, syscall.EBADF},
	{tree.ErrStale, syscall.ESTALE},
	{tree.ErrNoAttr, syscall.ENODATA},
	{tree.ErrNoData, syscall.ENXIO},
	{tree.ErrTooMuch, syscall.E2BIG},
	{tree.ErrIO, syscall.EIO},
	{tree.ErrUnavailable, syscall.EIO},
	{context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
}

// status is the errno of an error; EIO for those that nobody named.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return fuse.Status(e.errno)
		}
	}
	return fuse.EIO
}
