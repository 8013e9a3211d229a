package copyengine

import (
	"errors"
	"fmt"
	"os"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// OpenStored opens what an engine has stored as a directory. Where that is
// missing, or is none, the error is fault.Corrupt.
func (c Content) OpenStored(store *os.Root) (*os.Root, error) {
	st, err := store.Lstat(c.File)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fault.New(fault.Corrupt, "read stored tree: %w", err)
	case err != nil:
		return nil, fmt.Errorf("read stored tree: %w", err)
	case !st.IsDir():
		return nil, fault.New(fault.Corrupt, "read stored tree %s: it is not a directory", c.File)
	}
	root, err := store.OpenRoot(c.File)
	if err != nil {
		return nil, fmt.Errorf("read stored tree: %w", err)
	}
	return root, nil
}
