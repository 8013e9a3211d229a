package restore

import (
	"errors"
	"io/fs"
)

// isMissing reports that a path does not exist.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
