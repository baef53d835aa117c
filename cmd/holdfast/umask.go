package main

import (
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// umask is the process' file mode mask. Linux tells it only by setting it, so that is done once.
var umask = sync.OnceValue(func() fs.FileMode {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return fs.FileMode(mask)
})
