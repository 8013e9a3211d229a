package restore

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// isGone reports an error of a file of a process that ended meanwhile.
func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) }

// isMissing reports that a path does not exist.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
