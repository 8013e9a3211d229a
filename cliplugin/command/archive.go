package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// archive is a file on the client's machine that gets its name only when it
// is complete: written beside the name, synced, then renamed. A crash leaves
// a hidden file that ends in .partial.
//
// A name that stands for a device or a pipe is written to as it is.
type archive struct {
	*os.File
	target string // "" where nothing is renamed
	open   bool
}

// createArchive begins the file of that name, readable by its owner only,
// since it holds the data of volumes.
func createArchive(name string) (*archive, error) {
	target := name
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("write %s: it is a directory", name)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		return &archive{File: f, open: true}, nil
	case err == nil:
		// The file behind a link is replaced, not the link.
		if target, err = filepath.EvalSymlinks(name); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*.partial") // mode 0600
	if err != nil {
		return nil, err
	}
	return &archive{File: f, target: target, open: true}, nil
}

// keep makes the file durable and gives it its name.
func (a *archive) keep() error {
	if a.target == "" {
		a.open = false
		return a.Close()
	}
	if err := a.Sync(); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	if err := os.Rename(a.Name(), a.target); err != nil {
		return err
	}
	a.open = false
	return nil
}

// discard removes a file that was not kept.
func (a *archive) discard() {
	if !a.open {
		return
	}
	a.open = false
	_ = a.Close() // what it held is thrown away
	if a.target != "" {
		_ = os.Remove(a.Name()) // a hidden leftover harms nothing
	}
}
