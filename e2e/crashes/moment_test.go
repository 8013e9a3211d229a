//go:build e2e && linux

package crashes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/snaprestore/snaprestore/restore/enginetest"
)

// entry is one file, directory or link of a world.
type entry struct {
	path string
	mode fs.FileMode
	data string // content, or target of a link
}

// moment is all of a world that outlives a process.
type moment struct {
	entries []entry
	engine  enginetest.Checkpoint
}

// take reads the world. Lock files hold nothing that lasts.
func (w *world) take() (m moment, err error) {
	if m.engine, err = w.e.Checkpoint(); err != nil {
		return m, err
	}
	err = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/journal/lock/") || path == w.dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{path: path, mode: info.Mode()}
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			e.data, err = os.Readlink(path)
		case 0:
			var data []byte
			data, err = os.ReadFile(path)
			e.data = string(data)
		}
		m.entries = append(m.entries, e)
		return err
	})
	return m, err
}

// put makes the world be as it was.
func (w *world) put(m moment) error {
	w.leave()
	all, err := os.ReadDir(w.dir)
	for _, e := range all {
		err = errors.Join(err, os.RemoveAll(filepath.Join(w.dir, e.Name())))
	}
	if err != nil {
		return err
	}
	for _, e := range m.entries {
		switch e.mode.Type() {
		case fs.ModeDir:
			err = os.Mkdir(e.path, e.mode.Perm())
		case fs.ModeSymlink:
			err = os.Symlink(e.data, e.path)
		case 0:
			err = os.WriteFile(e.path, []byte(e.data), e.mode.Perm())
		default:
			err = fmt.Errorf("%s is a %s", e.path, e.mode)
		}
		if err != nil {
			return err
		}
	}
	w.e.Hook = nil
	return w.e.Rewind(m.engine)
}
